"""How long a trace of many spans takes to be usable in Chromium: until its first rows are there, and until a key moves in them.

    python -m tests.bench.trace_page [--spans 20000] [--rounds 5]

Served by the collector's own server over an embedded store, in a process of its own. Not part of `make bench`: its figure is a time
in a browser, with no other to stand beside. Prints a line a figure: median, smallest and largest, and what was transferred. The CPU
seconds of the server and of the page's main thread are what the wait comes to on a machine with nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, sync_playwright

sys.path.insert(0, str(Path(__file__).parent.parent))

import search_helpers as spans_of
import web_helpers as world
from cutaway_collector.settings import Settings
from cutaway_collector.store import open_store
from search_helpers import START_NS, Event, Span
from serving import Serving

TRACE = 4711
MS = 1_000_000


def spans(count: int) -> list[Span]:
    """An agent's long run: turns, each with a generation, tool calls in batches and what they call, a few failures."""
    rng = np.random.default_rng(3)
    out = [Span(1, "agent run", TRACE, duration_ns=count * MS, kind="Server", attributes={"user.plan": "pro"})]
    turn = step = 1
    for number in range(2, count + 1):
        at = number * MS
        if number % 40 == 2:
            turn = number
            out.append(Span(number, f"turn {number // 40}", TRACE, 1, "planner", start_ns=START_NS + at, duration_ns=40 * MS))
        elif number % 40 == 3:
            attributes = world.generation_attributes(rng, 120)
            out.append(Span(number, "chat SmolLM2-135M", TRACE, turn, "model", start_ns=START_NS + at, duration_ns=9 * MS,
                            attributes=attributes))
        elif number % 40 < 30:
            step = number
            failed = rng.random() < 0.01
            out.append(Span(number, "tool.call", TRACE, turn, "tools", start_ns=START_NS + at, kind="Client",
                            duration_ns=int(rng.gamma(2, 6 * MS)), status="Error" if failed else "Ok",
                            attributes={"tool.name": "lookup", "tool.arguments": "x" * 200},
                            events=[Event("exception", {"exception.message": "no"})] if failed else []))
        else:
            out.append(Span(number, f"SELECT table_{number % 7}", TRACE, step, "postgres", start_ns=START_NS + at,
                            duration_ns=int(rng.gamma(2, MS)), attributes={"db.statement": "SELECT 1" * 40}))
    return out


def cpu_s(process: int) -> float:
    """CPU seconds that a process has used, its threads included."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(browser: Browser, address: str, server: int) -> dict[str, float]:
    """One visit with an empty cache: seconds until rows, until a key moved, CPU seconds until then, kilobytes of each kind."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    counters = context.new_cdp_session(page)
    counters.send("Performance.enable", {"timeDomain": "threadTicks"})
    sizes: dict[str, int] = {}
    page.on("response", lambda answer: sizes.__setitem__(answer.url.split("?")[0].rsplit("/", 1)[-1], len(answer.body())))
    used = cpu_s(server)
    begun = time.perf_counter()
    page.goto(address, wait_until="commit")
    page.wait_for_selector("[role=treegrid] .row")
    rows_s = time.perf_counter() - begun
    page.wait_for_selector("trace-rows[data-ready]")
    page.keyboard.press("j")
    page.wait_for_selector(".row:focus")
    moved_s = time.perf_counter() - begun
    server_s = cpu_s(server) - used
    metrics = {one["name"]: one["value"] for one in counters.send("Performance.getMetrics")["metrics"]}
    page.keyboard.press("End")
    page.wait_for_selector(f".row:focus[aria-rowindex='{page.locator('[role=treegrid]').get_attribute('aria-rowcount')}']")
    end_s = time.perf_counter() - begun - moved_s
    context.close()
    document = sizes.pop(f"{TRACE:032x}", 0)
    return {"first_rows_s": rows_s, "key_moves_s": moved_s, "to_the_last_row_s": end_s, "server_cpu_s": server_s,
            "main_thread_cpu_s": metrics["TaskDuration"], "document_kB": document / 1000, "others_kB": sum(sizes.values()) / 1000}


def main() -> int:
    """Prints the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.trace_page", description=__doc__)
    parser.add_argument("--spans", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        store = open_store(Settings(data=str(data)))
        made = spans(arguments.spans)
        for first in range(0, len(made), 5000):
            store.insert(spans_of.spans_block(made[first : first + 5000]), f"spans-{first}")
        store.close()
        with Serving(data) as serving, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
            address = f"http://{serving.addresses['ui']}/trace/{TRACE:032x}"
            measure(browser, address, serving.process.pid)
            taken = [measure(browser, address, serving.process.pid) for _ in range(arguments.rounds)]
            browser.close()
    for name in taken[0]:
        values = sorted(one[name] for one in taken)
        print(f"{name:20} {statistics.median(values):9.3f}   {values[0]:.3f} to {values[-1]:.3f}   {arguments.spans} spans")
    print(json.dumps({"spans": arguments.spans, "rounds": taken}), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
