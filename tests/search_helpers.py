"""Shared by the tests of search: spans as plain Python objects, stored through the real store."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cutaway_collector.blocks import Block, Lists, MapLists, Maps, Strings
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, open_store

START_NS = (time.time_ns() // 10**9 - 3600) * 10**9 + 123_456_789
"""An hour ago, so that retention keeps it, with nanoseconds that a float would lose."""
MODEL = "gen_ai.request.model"
INPUT, OUTPUT = "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"
TTFT, TPOT = "cutaway.time_to_first_token", "cutaway.time_per_output_token"
PERPLEXITY = "cutaway.output.perplexity"


@dataclass(frozen=True)
class Event:
    """One event of a span."""

    name: str
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Span:
    """One span; what is not given is absent."""

    number: int
    name: str = "generate"
    trace: int = 1
    parent: int = 0
    service: str = "tests"
    kind: str = "Internal"
    start_ns: int = START_NS
    duration_ns: int = 1_000_000
    status: str = "Unset"
    message: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    resource: Mapping[str, str] = field(default_factory=dict)
    events: Sequence[Event] = ()
    links: Sequence[int] = ()

    @property
    def span_id(self) -> str:
        """16 hex digits."""
        return f"{self.number:016x}"

    @property
    def trace_id(self) -> str:
        """32 hex digits."""
        return f"{self.trace:032x}"


def _maps(maps: Sequence[Mapping[str, str]]) -> Maps:
    offsets = np.cumsum([0, *(len(m) for m in maps)], dtype=np.int64)
    return Maps(offsets, Strings.of([key for m in maps for key in m]), Strings.of([value for m in maps for value in m.values()]))


def _lists(lists: Sequence[Sequence[str]]) -> Lists:
    offsets = np.cumsum([0, *(len(part) for part in lists)], dtype=np.int64)
    return Lists(offsets, Strings.of([text for part in lists for text in part]))


def spans_block(spans: Sequence[Span]) -> Block:
    """otel_traces rows; the columns derived from attributes are left to their defaults."""
    event_offsets = np.cumsum([0, *(len(s.events) for s in spans)], dtype=np.int64)
    link_offsets = np.cumsum([0, *(len(s.links) for s in spans)], dtype=np.int64)
    return Block("otel_traces", len(spans), {
        "Timestamp": np.array([s.start_ns for s in spans], np.int64),
        "TraceId": Strings.of([s.trace_id for s in spans]),
        "SpanId": Strings.of([s.span_id for s in spans]),
        "ParentSpanId": Strings.of([f"{s.parent:016x}" if s.parent else "" for s in spans]),
        "SpanName": Strings.of([s.name for s in spans]),
        "SpanKind": Strings.of([s.kind for s in spans]),
        "ServiceName": Strings.of([s.service for s in spans]),
        "ResourceAttributes": _maps([s.resource for s in spans]),
        "ScopeName": Strings.of(["cutaway"] * len(spans)),
        "SpanAttributes": _maps([s.attributes for s in spans]),
        "Duration": np.array([s.duration_ns for s in spans], np.uint64),
        "StatusCode": Strings.of([s.status for s in spans]),
        "StatusMessage": Strings.of([s.message for s in spans]),
        "Events.Timestamp": Lists(event_offsets, np.array([s.start_ns + 7 for s in spans for _ in s.events], np.int64)),
        "Events.Name": _lists([[event.name for event in s.events] for s in spans]),
        "Events.Attributes": MapLists(event_offsets, _maps([event.attributes for s in spans for event in s.events])),
        "Links.TraceId": _lists([[f"{link:032x}" for link in s.links] for s in spans]),
        "Links.SpanId": _lists([[f"{link:016x}" for link in s.links] for s in spans]),
        "Links.TraceState": _lists([[""] * len(s.links) for s in spans]),
        "Links.Attributes": MapLists(link_offsets, _maps([{"why": "test"} for s in spans for _ in s.links])),
    })


@contextmanager
def stored(directory: Path, spans: Sequence[Span], *more: Block) -> Iterator[ClickHouseStore]:
    """A store that holds these spans and blocks, closed at the end."""
    store = open_store(Settings(data=str(directory), query_seconds_max=60))
    try:
        if spans:
            store.insert(spans_block(spans), "spans")
        for index, block in enumerate(more):
            store.insert(block, f"more-{index}")
        yield store
    finally:
        store.close()
