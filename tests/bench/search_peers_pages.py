"""Pages of cutaway and of Arize Phoenix over the same spans in Chromium: from the address until what was asked for can be seen.

Not their APIs, which search_peers.py asks, and not typing: Phoenix keeps its filter out of the address, so only the list of the
newest spans and a trace have an address in both. Each visit is a new browser context, whose cache is empty, then the same address
again in it. A list is seen when ROWS_SEEN rows of a table are drawn, a trace when the names of all its spans are.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Sequence
from typing import Any, Final

import psutil
from playwright.sync_api import Page, sync_playwright
from tests.bench import collector_peers as peers

ROWS_SEEN: Final = 10
SECONDS_MAX: Final = 60
_DRAWN: Final = "const drawn = one => { const box = one.getBoundingClientRect(); return box.height > 0 && box.width > 0 }; "
_ROWS: Final = (f"rows => {{ {_DRAWN} return [...document.querySelectorAll('table tbody tr')]"
                ".filter(row => row.innerText.trim() && drawn(row)).length >= rows }")
_NAMES: Final = (f"names => {{ {_DRAWN} const seen = {{}}; for (const one of document.querySelectorAll('*')) "
                 "if (!one.children.length && drawn(one)) seen[one.textContent.trim()] = (seen[one.textContent.trim()] || 0) + 1; "
                 "const wanted = {}; for (const name of names) wanted[name] = (wanted[name] || 0) + 1; "
                 "return Object.entries(wanted).every(([name, count]) => (seen[name] || 0) >= count) }")


def visit(
    own: str, theirs: str, project: str, trace_id: str, names: Sequence[str], processes: tuple[psutil.Process, psutil.Process],
    visits: int,
) -> list[dict[str, Any]]:
    """Figures of each page, own against theirs in turns. names: those of the trace's spans that have no model in them."""
    pages: dict[str, tuple[str, str, str, Any]] = {
        "the newest spans": (f"{own}/search", f"{theirs}/projects/{project}/spans", _ROWS, ROWS_SEEN),
        "a trace": (f"{own}/trace/{trace_id}", f"{theirs}/projects/{project}/traces/{trace_id}", _NAMES, list(names)),
    }
    out = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        for name, (mine, others, test, wanted) in pages.items():
            taken: list[list[tuple[float, float, float, float]]] = [[], []]
            for _ in range(visits + 1):
                for side, address in enumerate((mine, others)):
                    context = browser.new_context(viewport={"width": 1440, "height": 900})
                    page = context.new_page()
                    sizes: list[float] = []
                    wire = context.new_cdp_session(page)
                    wire.send("Network.enable")
                    wire.on("Network.loadingFinished", lambda event, sizes=sizes: sizes.append(event["encodedDataLength"]))
                    used = peers.cpu_s(processes[side])
                    cold_s = _seen(page, address, test, wanted)
                    cpu_s, size = peers.cpu_s(processes[side]) - used, sum(sizes)
                    taken[side].append((cold_s, _seen(page, address, test, wanted), cpu_s, size))
                    context.close()
            out.append(_figure(name, [side[1:] for side in taken]))
        browser.close()
    return out


def _seen(page: Page, address: str, test: str, wanted: Any) -> float:
    """Seconds until the test holds of the page."""
    page.goto("about:blank")
    began = time.perf_counter()
    page.goto(address, wait_until="commit")
    page.wait_for_function(test, arg=wanted, polling="raf", timeout=SECONDS_MAX * 1000)
    return time.perf_counter() - began


def _figure(name: str, taken: list[list[tuple[float, float, float, float]]]) -> dict[str, Any]:
    """Medians of both sides and of the ratios of neighbouring visits; prints the line."""
    figure: dict[str, Any] = {"name": name, "visits": len(taken[0])}
    said = []
    for place, what in enumerate(("empty_cache_s", "warm_cache_s", "server_cpu_s", "bytes")):
        sides = [statistics.median(one[place] for one in side) for side in taken]
        ratio = statistics.median(other[place] / max(own[place], 1e-9) for own, other in zip(*taken, strict=True))
        figure |= {what: sides, f"{what}_ratio": ratio}
        said.append(f"{what} {sides[0]:,.2f} against {sides[1]:,.2f}, {ratio:.1f} x")
    print(f"page: {name:20} {'; '.join(said)}; {len(taken[0])} visits", flush=True)
    return figure
