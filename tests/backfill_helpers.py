"""Shared by the tests of back-fills: sequences of every kind in a store, scorers to plant, and jobs run to their end.

Run as a program it is the victim of the kill test: python tests/backfill_helpers.py DIR scores what is stored in DIR, slowly, and
prints how many sequences are done after each piece.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cutaway_collector import score
from cutaway_collector.backfill import Job, Request, Run, begin, parts
from cutaway_collector.backfill.sequences import offer
from cutaway_collector.blocks import Block, Lists, Strings
from cutaway_collector.contracts import Scorer, Store, TextScorer
from cutaway_collector.judging.again import offer_of
from cutaway_collector.settings import Settings
from cutaway_collector.store import open_store
from score_helpers import ragged, unrecorded

DAY_NS = 86_400_000_000_000
START_NS = (time.time_ns() // DAY_NS - 5) * DAY_NS
"""A midnight some days ago: recent enough for every retention."""
FOREVER = {"start_ns": 0, "end_ns": 2**32 * 1_000_000_000}
KEY = "Timestamp, TenantId, ServiceName, TraceId, SpanId, SeqIndex"
READ = f"SELECT {KEY}, GenAiModel, IngestedAt, ScoreName, ScorerVersion, Source, Value FROM otel.gen_ai_scores FINAL ORDER BY ALL"


def sequences(count: int, *, first: int = 0, seed: int = 0, step_ns: int = 7_000_000_000, start_ns: int = START_NS) -> Block:
    """`count` gen_ai_tokens rows over several services, models, tenants, minutes and lengths, some without ids or surprisals."""
    chance = np.random.default_rng(seed + first)
    lengths = chance.integers(0, 60, count)
    surprisals, offsets = ragged([chance.exponential(2.0, size).astype(np.float32).tolist() for size in lengths], np.float32)
    ids, id_offsets = ragged([chance.integers(0, 5, size * (row % 3 > 0)).tolist() for row, size in enumerate(lengths)], np.uint32)
    number = np.arange(first, first + count)
    return Block("gen_ai_tokens", count, {
        # Four sequences share each time, so that the order hangs on the rest of the key as well.
        "Timestamp": start_ns + (number // 4).astype(np.int64) * step_ns,
        "TenantId": Strings.of([("", "team-a")[n % 2] for n in number]),
        "ServiceName": Strings.of([b"caf\xe9" if n % 5 == 0 else f"service-{n % 5}".encode() for n in number]),
        "GenAiModel": Strings.of([f"model-{n % 2}" for n in number]),
        "TraceId": Strings.of([f"{n // 8:032x}" for n in number]),
        "SpanId": Strings.of([f"{n // 2:016x}" for n in number]),
        "SeqIndex": (number % 2).astype(np.uint16),
        "IngestedAt": (start_ns // 1_000_000 + number).astype(np.int64),
        "InputTokens": np.full(count, 7, np.uint32),
        "OutputTokens": lengths.astype(np.uint32),
        "TokenIds": Lists(id_offsets, ids),
        "Surprisals": Lists(offsets, surprisals),
        "TokenTexts": Lists(offsets, Strings.of(["ö"] * int(lengths.sum()))),
        **unrecorded(count),
    })


class Constant:
    """A scorer whose every score is its version, which reads one small column."""

    columns = ("OutputTokens",)

    def __init__(self, name: str = "constant", version: str = "1") -> None:
        self.name, self.version = name, version
        self.judged = 0

    def score(self, tokens: Block) -> Mapping[str, npt.NDArray[np.float64]]:
        self.judged += tokens.rows
        return {self.name: np.full(tokens.rows, float(self.version))}


def backfill(store: Store, scorers: Sequence[Scorer], /, *, stop_after: int = 0, give_way: Any = lambda: False, rows_max: int = 50,
             resume: bool = False, texts: Sequence[TextScorer] = (), **asked: Any) -> Job:
    """Runs a job to its end, or until that many pieces are done."""
    stop, done = threading.Event(), []

    def progress(job: Job) -> None:
        done.append(job.rows)
        if len(done) == stop_after:
            stop.set()

    offers = [offer(store, scorers, rows_max=rows_max), offer_of(store, texts, batch_rows_max=rows_max)]
    job, chosen = begin(store, None if resume else Request.of({**FOREVER, **asked}), [*scorers, *texts])
    return Run(store, job, parts(offers, job, chosen), rows_s_max=1e9, stop=stop, give_way=give_way, on_progress=progress).run()


def _victim(folder: str) -> None:
    store = open_store(Settings(data=folder))
    job, chosen = begin(store, Request.of(FOREVER), score.scorers("cpu"))
    run = Run(store, job, parts([offer(store, chosen, rows_max=20)], job, chosen), rows_s_max=200, stop=threading.Event(),
              on_progress=lambda job: print(job.state, job.rows, job.scores, flush=True))
    print("begun at", job.rows, flush=True)
    run.run()
    store.close()


if __name__ == "__main__":
    _victim(sys.argv[1])
