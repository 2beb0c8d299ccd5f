"""How fast pages answer over a large store: `python -m tests.bench search [--spans 10000000] [--token-rows 200000] [--keep]`.

Not a comparison with another tool (`python -m tests.bench search-peers`) and not a load test: one visitor, one question at a time,
asked by HTTP of a `cutaway serve` of its own over a store that search_filler.py writes, at a tenth, at three tenths and at the
whole of its size. --keep leaves the store in build/bench/search, and measures one that lies there as it is.

Warm: the process has answered questions of that kind; each request asks for something else (another user, threshold or trace), so
that no answer is one that was kept. Cold: a fresh process whose first question it is, the pages of the store's files given back to
the kernel before (posix_fadvise), and all that the system keeps of files where it may be told to (drop_caches, as root). CPU
seconds are the server's, user and system: on a machine that others use, wall time is mostly waiting for a turn. Rows and bytes are
what the engine says that the queries of one request took from the tables, decompressed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from playwright.sync_api import sync_playwright
from tests.bench import search_filler as filler
from tests.bench.search_filler import Plan
from tests.bench.trace_page import cpu_s

from cutaway_collector.contracts import Result
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, open_store
from cutaway_collector.web import create_app
from serving import Serving

FOLDER: Final = filler.ROOT / "build" / "bench" / "search"
OUT: Final = filler.ROOT / "build" / "bench" / "search.json"
STEPS: Final = (0.1, 0.3, 1.0)
LIMIT_S: Final = 1.0
LIMIT_BY_ID_S: Final = 0.15
PAGE_KB_MAX: Final = 200


@dataclass(frozen=True)
class Question:
    """One kind of question. paths: of requests that ask it, each for something else. limit_s: what its p95 should stay under."""

    name: str
    paths: tuple[str, ...]
    limit_s: float


@dataclass(frozen=True)
class Answer:
    """Seconds of wall time and of the server's CPU, and bytes of the body."""

    wall_s: float
    cpu_s: float
    size: int


def questions(store: ClickHouseStore, rounds: int) -> list[Question]:
    """What is asked, each as page and as JSON twin; ids are of what is stored."""
    found = store.query("SELECT TraceId, SpanId FROM {table:Identifier}.gen_ai_tokens WHERE length(Surprisals) > 60 "
                        "ORDER BY cityHash64(SpanId) LIMIT {count:UInt32}", {"table": store.database, "count": rounds}).rows
    several = range(rounds)
    with_k = sorted({word for word in filler.words() if "k" in word.lower() and len(word) > 5})
    searches: dict[str, list[str]] = {
        "attribute, one in 50,000": [f"user.id:user-{number * 97}" for number in several],
        "attribute, one in five": [f'user.plan:{("pro", "team", "free")[number % 3]} http.route:"{filler.ROUTES[number % 16][5:]}"'
                                   for number in several],
        "threshold, one in 2,000": [f"perplexity:>{14 + number * 0.25}" for number in several],
        "threshold on duration": [f"duration:>{9 + number * 0.1:.1f}s" for number in several],
        "threshold on a score": [f"score.relevance:<{0.01 + number * 0.001:.3f}" for number in several],
        "free text, common word": [filler.words()[number * 151] + "s tokens" if number % 2 else "attention" for number in several],
        "free text, a word few have": [filler.NEEDLE[: len(filler.NEEDLE) - number % 6] for number in several],
        "free text, two letters": [f"{'qzxvjw'[number % 6]}{'xqzjwv'[number // 6 % 6]}" for number in several],
        "free text, a word with a k": [with_k[number * 7 % len(with_k)] for number in several],
        "free text, an id": [f"ORD-{10_000_000 + number * 3_456_789}" for number in several],
        "structure, any{} of a trace": [f"any{{status:Error perplexity:>{6 + number / 10}}} is:root" for number in several],
        "structure, parent{}": [f"parent{{name:{filler.OTHERS[number % 12].split()[0]}*}} perplexity:>{3 + number / 10}"
                                for number in several],
        "structure, ancestor{}": [f"ancestor{{name:{filler.OTHERS[number % 12].split()[0]}*}} perplexity:>{3 + number / 10}"
                                  for number in several],
        "structure, descendant{}": [f"descendant{{perplexity:>{12 + number / 10}}}" for number in several],
        "figures, | stats": [f"perplexity:>{1 + number / 100} | stats count(), p95(duration) by model" for number in several],
        "the newest": [f"-name:none-{number}" for number in several],
    }
    asked = []
    for name, queries in searches.items():
        for suffix in (".json", ""):
            paths = tuple(f"/search{suffix}?q={urllib.parse.quote(query)}" for query in queries)
            asked.append(Question(f"{name} ({'JSON' if suffix else 'page'})", paths, LIMIT_S))
    for name, path in (("trace by id", "/trace/{0}"), ("generation by id", "/gen/{1}")):
        for suffix in (".json", ""):
            paths = tuple(path.format(*ids) + suffix for ids in found)
            asked.append(Question(f"{name} ({'JSON' if suffix else 'page'})", paths, LIMIT_BY_ID_S))
    asked.append(Question("overview (page)", ("/",) * rounds, LIMIT_S))
    return asked


def ask(address: str, process: int, path: str) -> Answer:
    """One request. Raises RuntimeError when it is not answered with 200."""
    used, began = cpu_s(process), time.perf_counter()
    try:
        with urllib.request.urlopen(address + path, timeout=120) as answer:
            body = answer.read()
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{path} is answered with {error.code}: {error.read()[:300]!r}") from None
    return Answer(time.perf_counter() - began, cpu_s(process) - used, len(body))


def evict(folder: Path) -> None:
    """Gives the pages of all files below the folder back to the kernel, and as root whatever it keeps of any files."""
    if os.geteuid() == 0 and os.access("/proc/sys/vm/drop_caches", os.W_OK):
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
        return
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            opened = os.open(path, os.O_RDONLY)
            os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(opened)


class _Counting:
    """The store, counting what its queries read."""

    def __init__(self, store: ClickHouseStore) -> None:
        self.database = store.database
        self._store = store
        self.queries = self.rows = self.bytes = 0

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None, *, seconds_max: float | None = None) -> Result:
        found = self._store.query(sql, parameters, seconds_max=seconds_max)
        self.queries += 1
        self.rows += max(0, found.rows_read)
        self.bytes += max(0, found.bytes_read)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def read(store: ClickHouseStore, asked: Sequence[Question]) -> dict[str, dict[str, int]]:
    """Question -> queries, rows and bytes of one request of it, in this process."""
    counting = _Counting(store)
    client = create_app(counting, Settings(data="unused")).test_client()
    figures = {}
    for question in asked:
        counting.queries = counting.rows = counting.bytes = 0
        answer = client.get(question.paths[0])
        if answer.status_code != 200:
            raise RuntimeError(f"{question.paths[0]} is answered with {answer.status_code}: {answer.text[:300]}")
        figures[question.name] = {"queries": counting.queries, "rows": counting.rows, "bytes": counting.bytes}
    return figures


def percentile(values: Sequence[float], share: float) -> float:
    """Between the two nearest values."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def measure(data: Path, asked: Sequence[Question], cold: int) -> dict[str, dict[str, Any]]:
    """Question -> warm and cold figures in seconds."""
    figures: dict[str, dict[str, Any]] = {}
    with Serving(data) as serving:
        address = f"http://{serving.addresses['ui']}"
        for question in asked:
            ask(address, serving.process.pid, question.paths[-1])
            taken = [ask(address, serving.process.pid, path) for path in question.paths[:-1]]
            walls, used = [one.wall_s for one in taken], [one.cpu_s for one in taken]
            figures[question.name] = {
                "n": len(taken), "limit_s": question.limit_s, "p50_s": statistics.median(walls), "p95_s": percentile(walls, 0.95),
                "cpu_p50_s": statistics.median(used), "cpu_p95_s": percentile(used, 0.95),
                "bytes_sent": statistics.median(one.size for one in taken)}
            line(question.name, figures[question.name])
    for question in asked:
        runs = []
        for number in range(cold):
            evict(data)
            with Serving(data) as serving:
                runs.append(ask(f"http://{serving.addresses['ui']}", serving.process.pid, question.paths[number]))
        if runs:
            figures[question.name] |= {"cold_s": statistics.median(one.wall_s for one in runs),
                                       "cold_max_s": max(one.wall_s for one in runs),
                                       "cold_cpu_s": statistics.median(one.cpu_s for one in runs)}
    return figures


def line(name: str, figure: Mapping[str, Any]) -> None:
    """One question's figures, for people."""
    cold = f"  cold {figure['cold_s']:.2f} s, CPU {figure['cold_cpu_s']:.2f} s" if "cold_s" in figure else ""
    rows = f"  {figure['rows']:,} rows, {figure['bytes'] / 1e6:,.1f} MB in {figure['queries']} queries" if "rows" in figure else ""
    verdict = "" if figure["p95_s"] < figure["limit_s"] else "  OVER"
    print(f"  {name:38} wall p50 {figure['p50_s']:.3f} p95 {figure['p95_s']:.3f} s  CPU p50 {figure['cpu_p50_s']:.3f} "
          f"p95 {figure['cpu_p95_s']:.3f} s{cold}{rows}{verdict}", flush=True)


READY: Final = {"search": "search-box[data-ready], .query-box, input[name=q]", "trace": "trace-rows[data-ready]",
                "generation": "main"}
"""What has to be there before a page answers to keys."""


def weigh(data: Path, paths: Mapping[str, str], rounds: int) -> dict[str, dict[str, float]]:
    """Page -> kB over the wire with an empty cache, seconds until it answers to a key, in Chromium; medians."""
    out: dict[str, dict[str, float]] = {}
    with Serving(data) as serving, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        for name, path in paths.items():
            taken = []
            for _ in range(rounds + 1):
                context = browser.new_context(viewport={"width": 1440, "height": 900})
                page = context.new_page()
                wire = context.new_cdp_session(page)
                wire.send("Network.enable")
                sizes: list[float] = []
                wire.on("Network.loadingFinished", lambda event, sizes=sizes: sizes.append(event["encodedDataLength"]))
                began = time.perf_counter()
                page.goto(f"http://{serving.addresses['ui']}{path}", wait_until="load")
                page.wait_for_selector(READY[name], state="attached")
                page.keyboard.press("Tab")
                page.wait_for_function("document.activeElement !== document.body")
                taken.append((time.perf_counter() - began, sum(sizes) / 1000))
                timing = page.evaluate("performance.getEntriesByType('navigation')[0].toJSON()")
                out[name] = {"response_s": timing["responseEnd"] / 1000}
                context.close()
            out[name] |= {"interactive_s": statistics.median(one[0] for one in taken[1:]),
                          "kB": statistics.median(one[1] for one in taken[1:])}
            print(f"  {name:38} {out[name]['kB']:.0f} kB over the wire, interactive after {out[name]['interactive_s']:.2f} s, "
                  f"of which {out[name]['response_s']:.2f} s are the server's (last visit)", flush=True)
        browser.close()
    return out


def grow(folder: Path, spans: int, token_rows: int) -> Iterator[int]:
    """Fills the store step by step; gives the spans it holds each time, closed."""
    held = filler.note(folder)
    if held.get("spans", 0) >= spans:
        yield held["spans"]
        return
    end_s = held.get("end_s", int(time.time()))
    for share in STEPS:
        plan = Plan(round(spans * share), round(token_rows * share), end_s)
        if plan.spans <= held.get("spans", 0):
            continue
        store = open_store(Settings(data=str(folder / "data")))
        try:
            filler.fill(store, plan, held.get("traces", 0), filler.log)
            filler.wait_for_merges(store)
        finally:
            store.close()
        held = filler.note(folder, spans=plan.spans, token_rows=plan.token_rows, traces=plan.traces, end_s=end_s)
        yield plan.spans


def main(arguments: Sequence[str]) -> int:
    """Prints the figures and writes them to build/bench/search.json."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench search", description=__doc__)
    parser.add_argument("--spans", type=int, default=10_000_000)
    parser.add_argument("--token-rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=24, help="requests a question, all but the first counted")
    parser.add_argument("--cold", type=int, default=3, help="fresh processes a question")
    parser.add_argument("--only", default="", help="a regular expression: questions whose name it finds")
    parser.add_argument("--keep", action="store_true", help="leave the store for another run, and begin with one that was left")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if not given.keep and given.folder.exists():
        shutil.rmtree(given.folder)
    given.folder.mkdir(parents=True, exist_ok=True)
    data, report = given.folder / "data", []
    for spans in grow(given.folder, given.spans, given.token_rows):
        store = open_store(Settings(data=str(data)))
        asked = [one for one in questions(store, given.rounds) if re.search(given.only, one.name)]
        figures = read(store, asked)
        version = store.query("SELECT version()").rows[0][0]
        parts = {row[0]: {"rows": int(row[1]), "parts": int(row[2]), "bytes": int(row[3])} for row in store.query(
            "SELECT table, sum(rows), count(), sum(bytes_on_disk) FROM system.parts WHERE active GROUP BY table").rows}
        ids = {name: next(one.paths[0] for one in questions(store, 2) if one.name == f"{name} by id (page)")
               for name in ("trace", "generation")}
        store.close()
        size = sum(one["bytes"] for one in parts.values()) / 1e9
        print(f"{spans:,} spans, {parts['gen_ai_tokens']['rows']:,} token rows, {size:.2f} GB;",
              f"engine {version}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
        measured = measure(data, asked, given.cold if spans >= given.spans else 0)
        for name, figure in measured.items():
            figure |= figures[name]
            line(name, figure)
        pages = weigh(data, {"search": "/search", **ids}, 5)
        report.append({"spans": spans, "tables": parts, "load": os.getloadavg(), "questions": measured, "pages": pages})
    OUT.write_text(json.dumps(report, indent=2) + "\n")
    if not given.keep:
        shutil.rmtree(given.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
