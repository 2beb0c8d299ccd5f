"""Shared by the tests of the store and the pipeline: a ClickHouse server process, and blocks of rows made by hand."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cutaway_collector.blocks import Block, Lists, Maps, Nullable, Strings

NOW_NS = time.time_ns()


class Server:
    """A ClickHouse-speaking process that can be stopped and started again on the same port and data."""

    def __init__(self, directory: Path, port: int = 0) -> None:
        self.directory = directory
        self.port = port
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> Server:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("clickhouse_http.py")), str(self.port), str(self.directory)],
            stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline().split()
        assert line[:1] == ["listening"], "the test server did not start"
        self.port = int(line[1])
        return self

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()
            self.process = None

    @property
    def url(self) -> str:
        return f"http://default:@127.0.0.1:{self.port}"


@contextmanager
def server(directory: Path) -> Iterator[Server]:
    """A running server, stopped at the end."""
    running = Server(directory).start()
    try:
        yield running
    finally:
        running.stop()


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Polls until `condition` holds; fails the test when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


def offsets(parts: Sequence[Sized]) -> npt.NDArray[np.int64]:
    """Offsets of parts of these lengths."""
    return np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)


def maps(values: Sequence[Mapping[str, str]]) -> Maps:
    """Python mappings as a column."""
    return Maps(offsets(values), Strings.of([key for value in values for key in value]),
                Strings.of([text for value in values for text in value.values()]))


def nullable(values: Sequence[float | None], dtype: type) -> Nullable:
    """Python numbers and None as a column."""
    return Nullable(np.array([0 if value is None else value for value in values], dtype),
                    np.array([value is None for value in values], bool))


def spans_block(count: int, *, first: int = 0, start_ns: int = NOW_NS, step_ns: int = 1_000_000) -> Block:
    """`count` spans; span i has SpanId f"{first + i:016x}" and two attributes."""
    names = [f"{first + index:016x}" for index in range(count)]
    offsets = np.arange(count + 1, dtype=np.int64) * 2
    keys, values = ["gen_ai.request.model", "i"] * count, [text for name in names for text in ("m", name)]
    attributes = Maps(offsets, Strings.of(keys), Strings.of(values))
    empty = np.zeros(count + 1, np.int64)
    return Block("otel_traces", count, {
        "Timestamp": start_ns + np.arange(count, dtype=np.int64) * step_ns,
        "TraceId": Strings.of([name * 2 for name in names]),
        "SpanId": Strings.of(names),
        "SpanName": Strings.of(["generate"] * count),
        "ServiceName": Strings.of(["tests"] * count),
        "SpanAttributes": attributes,
        "Duration": np.full(count, 5, np.uint64),
        "StatusCode": Strings.of(["Ok"] * count),
        "Events.Name": Lists(empty, Strings.of([])),
        "Perplexity": Nullable(np.arange(count, dtype=np.float64), np.arange(count) % 2 == 1),
    })


def tokens_block(count: int, *, first: int = 0, length: int = 4, start_ns: int = NOW_NS) -> Block:
    """`count` sequences of `length` tokens, of the spans that spans_block makes."""
    names = [f"{first + index:016x}" for index in range(count)]
    offsets = np.arange(count + 1, dtype=np.int64) * length
    return Block("gen_ai_tokens", count, {
        "Timestamp": start_ns + np.arange(count, dtype=np.int64) * 1_000_000,
        "ServiceName": Strings.of(["tests"] * count),
        "TraceId": Strings.of([name * 2 for name in names]),
        "SpanId": Strings.of(names),
        "SeqIndex": np.zeros(count, np.uint16),
        "OutputTokens": np.full(count, length, np.uint32),
        "TokenIds": Lists(offsets, np.arange(count * length, dtype=np.uint32)),
        "Surprisals": Lists(offsets, np.linspace(0, 3, count * length, dtype=np.float32)),
    })
