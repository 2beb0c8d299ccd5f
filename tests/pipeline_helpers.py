"""Shared by the tests of the pipeline: OTLP requests of numbered spans, and a pipeline with all its parts.

Run as a program it is the victim of the crash test: python tests/pipeline_helpers.py DIR FIRST [AGAIN] sends the requests AGAIN
once more, then new ones, and prints the number of each once it is acknowledged, until it is killed; with FIRST = "drain" it stores
what is left and prints every span number it finds.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from cutaway import conventions
from cutaway_collector.blocks import Block
from cutaway_collector.contracts import Result, Scorer, Store
from cutaway_collector.errors import StoreError
from cutaway_collector.pipeline import Pipeline
from cutaway_collector.settings import Settings
from cutaway_collector.spool import Spool
from cutaway_collector.store import open_store

SPANS_A_REQUEST = 10
START_NS = 1_790_000_000_000_000_000
LANES = 3
LANE = 100_000


def request(
    first: int, count: int = SPANS_A_REQUEST, *, tokens: int = 0, step_ns: int = 1000, broken: int = 0, start_ns: int = 0
) -> bytes:
    """An ExportTraceServiceRequest of `count` spans numbered from `first`; the first `broken` have an all-zero span id.

    start_ns: of the first span, 0 for now; the same numbers from the same start are the same bytes.
    """
    message = ExportTraceServiceRequest()
    spans = message.resource_spans.add().scope_spans.add()
    start_ns = start_ns or time.time_ns()
    for index in range(count):
        span = spans.spans.add()
        span.trace_id = (first + index + 1).to_bytes(16, "big")
        span.span_id = bytes(8) if index < broken else (first + index + 1).to_bytes(8, "big")
        span.name = "generate"
        span.start_time_unix_nano = start_ns + index * step_ns
        span.end_time_unix_nano = span.start_time_unix_nano + 5
        if tokens:
            header = conventions.SERIES_HEADER.pack(conventions.SERIES_VERSION, 1, 0, tokens, 1, 1)
            series = header + np.arange(tokens, dtype="<f4").tobytes()
            span.attributes.add(key=conventions.TOKEN_SURPRISAL).value.bytes_value = series
            for name in (conventions.SEQUENCE_INPUT_TOKENS, conventions.SEQUENCE_OUTPUT_TOKENS):
                span.attributes.add(key=name).value.array_value.values.add().int_value = tokens
    return message.SerializeToString()


def stored(store: Store) -> list[int]:
    """Numbers of every stored span, sorted, repeated as often as stored."""
    rows = store.query("SELECT reinterpretAsUInt64(reverse(unhex(SpanId))) - 1 AS n FROM otel.otel_traces ORDER BY n").rows
    return [int(row[0]) for row in rows]


class MeanSurprisal:
    """A scorer as a user would write one."""

    name = "mean_surprisal"
    version = "1"

    def score(self, tokens: Block) -> Mapping[str, npt.NDArray[np.float64]]:
        return {"mean_surprisal": np.full(tokens.rows, 2.5)}


class BrokenScorer:
    """A scorer that always raises."""

    name = "broken"
    version = "1"

    def score(self, tokens: Block) -> Mapping[str, npt.NDArray[np.float64]]:
        raise RuntimeError("no GPU today")


class Tampered:
    """The real store behind a gate. hold: while set, inserts fail as if the server were away. lose_answers: so many inserts are
    done and then reported as failed. poison: span numbers whose block the store refuses for good."""

    def __init__(self, store: Store, *, hold: bool = False, lose_answers: int = 0, poison: Iterable[int] = ()) -> None:
        self._store = store
        self.database = store.database
        self.hold = threading.Event()
        if hold:
            self.hold.set()
        self.gate = threading.Event()
        self.gate.set()
        self.lose_answers = lose_answers
        self._poison = [f"{number + 1:016x}".encode() for number in poison]
        self.tokens: list[str] = []

    def prepare(self) -> None:
        self._store.prepare()

    def insert(self, block: Block, deduplication_token: str) -> None:
        self.tokens.append(deduplication_token)
        self.gate.wait()
        if self.hold.is_set():
            raise StoreError("the store is away", retryable=True)
        ids: Any = block.columns.get("SpanId", ())
        if any(bad in set(ids) for bad in self._poison):
            raise StoreError("the store refuses this value", retryable=False)
        self._store.insert(block, deduplication_token)
        if self.lose_answers:
            self.lose_answers -= 1
            raise StoreError("the answer was lost", retryable=True)

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Result:
        return self._store.query(sql, parameters)

    def command(self, sql: str) -> None:
        self._store.command(sql)

    def close(self) -> None:
        self._store.close()


@contextmanager
def running(store: Store, settings: Settings, *, scorers: Iterable[Scorer] = (), close_s: float = 20.0) -> Iterator[Pipeline]:
    """A pipeline over its own spool, both closed at the end."""
    spool = Spool.of(settings)
    pipeline = Pipeline(store, spool, settings, scorers=scorers)
    try:
        yield pipeline
    finally:
        pipeline.close(close_s)
        spool.close()


def sample(pipeline: Pipeline, name: str, **labels: str) -> float:
    """A metric's value, 0 when it was never touched."""
    return pipeline.registry.get_sample_value(name, labels) or 0.0


def _victim(folder: Path, first: str, again: str = "") -> None:
    settings = Settings(data=str(folder), batch_age_ms_max=30)
    store = open_store(settings)
    pipeline = Pipeline(store, Spool.of(settings), settings)
    if first == "drain":
        print("drained", pipeline.close(60), flush=True)
        print(*stored(store), flush=True)
        store.close()
        return

    def acknowledged(number: int) -> None:
        pipeline.submit(request(number, start_ns=START_NS), "protobuf")
        print(f"{number}\n", end="", flush=True)

    def send(lane: int) -> None:
        number = int(first) + lane * LANE
        try:
            for word in again.split():
                acknowledged(int(word))
            while True:
                acknowledged(number)
                number += SPANS_A_REQUEST
        finally:
            # A refused request ends the whole program, so that whoever reads its output is not left waiting.
            os._exit(1)

    for lane in range(LANES):
        threading.Thread(target=send, args=(lane,), daemon=True).start()
    threading.Event().wait()


if __name__ == "__main__":
    _victim(Path(sys.argv[1]), *sys.argv[2:])
