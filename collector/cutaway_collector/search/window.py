"""The time range of a search: every query has one, so partitions outside it are not read.

Not a clock: relative ranges ("last hour") are made absolute by the caller, who also chooses a default. An end that is left open is
the oldest or the newest stored span, so "no range" means all that is kept, retention and the store's query limits being the bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cutaway_collector.columns import TRACE_TIMES
from cutaway_collector.contracts import Store
from cutaway_collector.errors import QueryError
from cutaway_collector.search import rows
from cutaway_collector.search.sql import Parameters

_LAST_NS: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Window:
    """Nanoseconds since 1970 UTC, the end excluded. `open_start` and `open_end` tell which ends were chosen here."""

    start_ns: int
    end_ns: int
    open_start: bool = False
    open_end: bool = False

    def condition(self, parameters: Parameters) -> str:
        """SQL condition on Timestamp; sub-queries written with these parameters later look within it too."""
        parameters.start_ns, parameters.end_ns = self.start_ns, self.end_ns
        start, end = parameters.bind(self.start_ns, "Int64"), parameters.bind(self.end_ns, "Int64")
        return f"Timestamp >= fromUnixTimestamp64Nano({start}) AND Timestamp < fromUnixTimestamp64Nano({end})"


def choose(store: Store, start_ns: int | None, end_ns: int | None) -> Window:
    """The window of a request. Raises QueryError when it does not start before it ends."""
    if start_ns is not None and end_ns is not None and start_ns >= end_ns:
        raise QueryError(f"a time range starts before it ends: it starts at {start_ns} ns and ends at {end_ns} ns",
                         hint="exchange the two, or leave one out")
    oldest, newest = _stored(store) if start_ns is None or end_ns is None else (0, 0)
    end = min(max(newest + 1 if end_ns is None else end_ns, 1), _LAST_NS)
    start = min(max(oldest if start_ns is None else start_ns, 0), _LAST_NS - 1)
    # One given end may lie outside of all that is stored: the range is then empty, not wrong.
    if start >= end:
        start, end = (end - 1, end) if start_ns is None else (start, start + 1)
    return Window(start, end, start_ns is None, end_ns is None)


def of_traces(store: Store, piece: Window, span: Window) -> Window:
    """What of `span` holds all spans of the traces that have some in `piece`, a part of it. Raises StoreError.

    A trace may have several rows in the table of times, each of some of its spans: those that touch the piece name it, all of them
    say how far it reaches. Where the table says nothing, as it does to a tenant, it is all of `span`.
    """
    table = rows.table(store, TRACE_TIMES.name)
    parameters = Parameters()
    first, last = (parameters.bind(ns // 10**9, "Int64") for ns in (piece.start_ns, piece.end_ns))
    touching = f"SELECT TraceId FROM {table} WHERE toUnixTimestamp(End) >= {first} AND toUnixTimestamp(Start) <= {last}"
    text = f"SELECT count(), toUnixTimestamp(min(Start)), toUnixTimestamp(max(End)) FROM {table} WHERE TraceId IN ({touching})"
    count, start_s, end_s = map(int, store.query(text, parameters.values).rows[0])
    if not count:
        parameters = Parameters()
        some = store.query(f"SELECT 1 FROM {rows.table(store)} WHERE {piece.condition(parameters)} LIMIT 1", parameters.values).rows
        return span if some else piece
    start, end = min(piece.start_ns, start_s * 10**9), max(piece.end_ns, (end_s + 1) * 10**9)
    return Window(max(span.start_ns, start), min(span.end_ns, end))


def _stored(store: Store) -> tuple[int, int]:
    """Start of the oldest and of the newest span in nanoseconds since 1970; zeros when nothing is stored."""
    found = store.query(
        f"SELECT toUnixTimestamp64Nano(min(Timestamp)), toUnixTimestamp64Nano(max(Timestamp)) FROM {rows.table(store)}"
    )
    oldest, newest = found.rows[0] if found.rows else (0, 0)
    return int(oldest), int(newest)
