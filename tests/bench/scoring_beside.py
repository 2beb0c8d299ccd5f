"""What scoring costs beside ingest: whole collectors with scorers and without, in turn, in spans a CPU second of their processes.

Not the kernels by themselves (scoring.py). Nothing asks the collectors anything while they work: a scrape of /metrics, which has a
histogram for every score, costs more than a request of spans, and an impatient measurement of it is what it would measure.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
from tests.bench import collector_peers as peers

FIGURES = 18
"""Scores of a sequence with surprisals, entropies and ids."""
PAYLOADS = {"P5": (64, 100), "P3": (512, 24)}
"""(tokens of a span, requests)."""
_WITHOUT = "from cutaway_collector import score; score.scorers = lambda *_, **__: (); " \
           "import sys; from cutaway_collector.__main__ import main; sys.argv[0] = 'cutaway'; sys.exit(main())"
_LOOK_S = 0.5
_PATIENCE_S = 300.0


def figures(rounds: int) -> Iterator[tuple[str, str, str, list[tuple[float, float]]]]:
    """Of 64 and 512 tokens a span, to a server that discards and until queryable."""
    for payload, (tokens, requests) in PAYLOADS.items():
        for embedded in (False, True):
            pairs = []
            for number in range(rounds):
                rates = {scored: _rate(payload, requests, scored=scored, embedded=embedded)
                         for scored in ((True, False) if number % 2 else (False, True))}
                pairs.append((rates[True], rates[False]))
            where = "until queryable, chDB" if embedded else "to a server that discards"
            yield f"{where}, with scores ({tokens} tokens)", "spans/CPU s", "the same without scores", pairs


def _rate(payload: str, requests: int, *, scored: bool, embedded: bool) -> float:
    """Spans a CPU second, after half as many requests to warm the collector up."""
    program = ["-m", "cutaway_collector"] if scored else ["-c", _WITHOUT]
    with tempfile.TemporaryDirectory(prefix="cutaway-bench-") as made:
        folder = Path(made)
        with (peers.sink(folder) as url, peers.cutaway(
                folder, *(("--data", str(folder / "data")) if embedded else ("--clickhouse", url)), "--judge", "off",
                "--windows-minutes", "0", program=program) as (ready, process)):
            target = f"http://{ready['otlp_http']}/v1/traces"
            accepted = peers.load(target, payload, requests // 2)()["accepted"]
            _wait(ready["ui"], accepted, scored)
            go, collector = peers.load(target, payload, requests), psutil.Process(process.pid)
            before = peers.cpu_s(collector)
            more = go()["accepted"]
            _wait(ready["ui"], accepted + more, scored)
            return float(more / (peers.cpu_s(collector) - before))


def _wait(ui: str, spans: int, scored: bool) -> None:
    name, wanted = ("cutaway_scores_stored_total", spans * FIGURES) if scored else ("cutaway_spans_stored_total", spans)
    peers.wait(lambda: peers.count(ui, name) >= wanted, f"{name} reaches {wanted}", _PATIENCE_S, _LOOK_S)


if __name__ == "__main__":
    for name, unit, _, pairs in figures(int(sys.argv[1])):
        print(name, [(round(a), round(b), round(b / a, 2)) for a, b in pairs], unit, flush=True)
