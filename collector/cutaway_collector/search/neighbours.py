"""The traces around one in a search: which comes before and which after it, when traces stand in the order of their first match.

Not a page of results: two or three small queries, made when somebody steps on, that read a few rows behind the trace's own.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from cutaway_collector.contracts import Store
from cutaway_collector.errors import QueryError
from cutaway_collector.search import order, rows, sql, window
from cutaway_collector.search.cursor import Cursor
from cutaway_collector.search.language import Node
from cutaway_collector.search.order import Order
from cutaway_collector.search.parameters import Parameters
from cutaway_collector.search.request import SearchRequest
from cutaway_collector.search.window import Window

ROWS_FIRST: Final = 100
"""Rows of the first look. The next one reads four times as many: a trace of many matches may have to be stepped over."""
LOOKS_MAX: Final = 6
_COLUMNS: Final = "SpanId AS span_id, TraceId AS trace_id, toUnixTimestamp64Nano(Timestamp) AS start_ns"


class Neighbour(NamedTuple):
    """A trace, and the span of it that the search finds first."""

    trace_id: str
    span_id: str


class _Search(NamedTuple):
    store: Store
    tree: Node
    span: Window
    by: Order

    def rows(self, where: str, parameters: Parameters, tail: str, *, backwards: bool = False) -> list[tuple[Any, ...]]:
        """span_id, trace_id, start_ns and sort_key of matches, in the order of the search."""
        within = self.span.condition(parameters)  # first: what else is written looks within it too
        source = f"{rows.table(self.store)}{self.by.source(parameters)}"
        text = (
            f"SELECT {_COLUMNS}, {self.by.expression or 'NULL'} AS sort_key FROM {source} "
            f"WHERE {within} AND {sql.condition(self.tree, parameters)} AND {where} "
            f"ORDER BY {self.by.by(backwards=backwards)} {tail}"
        )
        return [tuple(row) for row in rows.run(self.store, text, parameters.values, self.tree).rows]

    def firsts(self, trace_ids: list[str]) -> dict[str, tuple[Any, ...]]:
        """Trace id -> its first match."""
        parameters = Parameters(database=self.store.database)
        where = f"TraceId IN {parameters.bind(trace_ids, 'Array(String)')}"
        return {str(row[1]): row for row in self.rows(where, parameters, "LIMIT 1 BY TraceId")}

    def beyond(self, row: tuple[Any, ...], trace_id: str, limit: int, *, backwards: bool) -> list[tuple[Any, ...]]:
        """Matches of other traces behind this one, or before it, the nearest first."""
        parameters = Parameters(database=self.store.database)
        position = Cursor(row[3], int(row[2]), str(row[0]), str(row[1]), self.span.start_ns, self.span.end_ns)
        where = (
            f"{self.by.beyond(position, parameters, backwards=backwards)} AND TraceId != '' "
            f"AND TraceId != {parameters.text(trace_id)}"
        )
        return self.rows(where, parameters, f"LIMIT {parameters.bind(limit, 'UInt64')}", backwards=backwards)


def neighbour(store: Store, request: SearchRequest, trace_id: str, *, forward: bool) -> Neighbour | None:
    """The trace after this one (forward) or before it; None at the end. A trace stands where its first match does.

    Raises QueryError when the search does not find the trace, StoreError.
    """
    span = window.choose(store, request.start_ns, request.end_ns)
    search = _Search(store, request.tree(), span, order.of(request.sort))
    own = search.firsts([trace_id]).get(trace_id)
    if own is None:
        raise QueryError("the search does not find this trace, so none is before or after it",
                         hint="go back to the search, or widen its time range")
    at, limit = own, ROWS_FIRST
    for _ in range(LOOKS_MAX):
        found = search.beyond(at, trace_id, limit, backwards=not forward)
        firsts = search.firsts(list(dict.fromkeys(str(row[1]) for row in found))) if found else {}
        for row in found:
            if firsts.get(str(row[1]), row)[0] == row[0]:  # a later match of a trace is not where it stands
                return Neighbour(str(row[1]), str(row[0]))
        if len(found) < limit:
            return None
        at, limit = found[-1], limit * 4
    return None
