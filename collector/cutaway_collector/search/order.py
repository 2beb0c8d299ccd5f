"""The order of rows: by which expression, what comes first, and what lies beyond a row, forwards and backwards.

Not the query around it, which is `find`'s, and not the page position as text, which is `cursor`'s.
"""

from __future__ import annotations

from dataclasses import dataclass

from cutaway_collector.errors import QueryError
from cutaway_collector.search import aggregates, fields, language, scores, sql
from cutaway_collector.search.aggregates import Measure
from cutaway_collector.search.cursor import Cursor
from cutaway_collector.search.fields import Field
from cutaway_collector.search.parameters import Parameters

_MEASURED = "measured_value"


@dataclass(frozen=True, slots=True)
class Order:
    """Sort key (None: by time alone), whether it descends, whether ties run from the newest, and the score or aggregate of a series
    it is, if it is one."""

    expression: str | None
    type: str
    descending: bool
    newest_first: bool
    score: str = ""
    measure: Measure | None = None

    def source(self, parameters: Parameters) -> str:
        """What is joined to the spans, "" for nothing."""
        if self.measure is not None:
            return self.measure.join(parameters, _MEASURED)
        return scores.join(self.score, parameters, largest=self.descending) if self.score else ""

    def by(self, *, backwards: bool = False) -> str:
        """ORDER BY list over a SELECT that has the expression as `sort_key`. Rows without a key stand last, or backwards first."""
        ties = "DESC" if self.newest_first != backwards else "ASC"
        tail = f"Timestamp {ties}, SpanId {ties}, TraceId {ties}"
        if self.expression is None:
            return tail
        key, missing = "DESC" if self.descending != backwards else "ASC", "DESC" if backwards else "ASC"
        return f"isNull(sort_key) {missing}, sort_key {key}, {tail}"

    def beyond(self, position: Cursor, parameters: Parameters, *, backwards: bool = False) -> str:
        """SQL condition: rows strictly after the position, or backwards before it, in the order of `by`. Raises QueryError."""
        timestamp = f"fromUnixTimestamp64Nano({parameters.bind(position.timestamp_ns, 'Int64')})"
        ties = (
            f"(Timestamp, SpanId, TraceId) {'<' if self.newest_first != backwards else '>'} "
            f"({timestamp}, {parameters.text(position.span_id)}, {parameters.text(position.trace_id)})"
        )
        if self.expression is None:
            return ties
        missing = f"isNull({self.expression})"
        if position.key is None:
            return f"(NOT {missing} OR {ties})" if backwards else f"({missing} AND {ties})"
        if isinstance(position.key, str) != (self.type == "String"):
            raise QueryError("the page position is not one this search gave out", hint="start again from the first page")
        key = parameters.bind(float(position.key) if self.type == "Float64" else position.key, self.type)
        way = "<" if self.descending != backwards else ">"
        further = f"{self.expression} {way} {key} OR ({self.expression} = {key} AND {ties})"
        return f"(NOT {missing} AND ({further}))" if backwards else f"({missing} OR {further})"


def of(sort: str) -> Order:
    """The order that a sort names: a field, an aggregate, a score, "" for newest first; with `-` descending. Raises QueryError."""
    name = sort.removeprefix("-")
    if not name or name in fields.TIME_SORTS:
        newest = sort not in fields.TIME_SORTS
        return Order(None, "", newest, newest)
    scope, key = language.split_scope(name)
    if scope == scores.SCOPE and key:
        return Order(scores.VALUE, "Float64", sort.startswith("-"), True, key)
    field = sql.resolve(key, scope)
    if isinstance(field, Measure):
        return Order(_MEASURED, "Float64", sort.startswith("-"), True, measure=field)
    if not isinstance(field, Field):
        near = aggregates.nearest(name)
        raise QueryError(f"rows cannot be sorted by {name[:40]!r}: it is not a field",
                         hint=f"did you mean {near}?" if near else "try -perplexity")
    if field.kind == "list":
        raise QueryError(f"rows cannot be sorted by {field.name}: it is a list")
    placeholder = "String" if field.kind == "text" else "UInt64" if field.unit in fields.WHOLE_UNITS else "Float64"
    return Order(field.sort_expression, placeholder, sort.startswith("-"), True)
