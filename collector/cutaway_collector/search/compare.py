"""Two sides of spans to compare: what each holds, counted, and a stable sample of their numbers and attributes.

Not the comparing: statistics are the drift verb's, and what they say together the comparison flow's. A side is a query in a time
range; its sample is the spans whose id hashes lowest, so the same spans are drawn again however often the page is opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from cutaway_collector.columns import TRACES
from cutaway_collector.contracts import Store
from cutaway_collector.errors import QueryError
from cutaway_collector.search import fields, language, rows, sql, window
from cutaway_collector.search.fields import FIELDS, Field
from cutaway_collector.search.language import And, Node
from cutaway_collector.search.parameters import Parameters
from cutaway_collector.search.window import Window

SPANS_SAMPLED: Final = 5000
"""Spans of a side that are read. KS then sees differences of 4 %, and a page takes a second."""
KEYS_MAX: Final = 400
VALUES_KEPT: Final = 24
"""Values of an attribute that are told apart, the most frequent of both sides; the others count as one."""
VALUE_CHARACTERS: Final = 200
"""Longer values are compared by their start."""
EVERYTHING_HASHED: Final = 2**64 - 1
GENERATES: Final = "OutputTokens IS NOT NULL"

Mode = Literal["queries", "rest", "times"]
"""What B is: a query of its own; what A leaves over in the time range; the query of A at another time."""


@dataclass(frozen=True, slots=True)
class CompareRequest:
    """a, b: queries of the sides; q: one that both have to match. Times in nanoseconds since 1970, None for open.

    A side without times of its own has those of the request. Without a query, B is the query of A in B's own times, or, without
    such times, everything in the time range that is not in A.
    """

    a: str = ""
    b: str = ""
    q: str = ""
    start_ns: int | None = None
    end_ns: int | None = None
    a_start_ns: int | None = None
    a_end_ns: int | None = None
    b_start_ns: int | None = None
    b_end_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Sides:
    """Both sides, parsed and with their times. a_keep, b_keep: spans whose hash is at most that are in the sample."""

    mode: Mode
    a: Node
    b: Node
    q: Node
    a_window: Window
    b_window: Window
    a_keep: int = EVERYTHING_HASHED
    b_keep: int = EVERYTHING_HASHED

    def relation(self, store: Store, columns: str, parameters: Parameters, *, where: str = "1") -> str:
        """SELECT of the columns and `side` (0 for A, 1 for B) of the sampled spans, each once; of both sides, once for each."""
        bound, a, b = self._conditions(parameters)
        keep = [f"cityHash64(SpanId) <= {parameters.bind(most, 'UInt64')}" for most in (self.a_keep, self.b_keep)]
        on = f"arrayFilter(one -> one < 2, [if({a} AND {keep[0]}, 0, 2), if({b} AND {keep[1]}, 1, 2)])"
        return (
            f"SELECT {columns}, side FROM (SELECT *, arrayJoin({on}) AS side FROM {rows.table(store)} "
            f"WHERE {bound} AND ({keep[0]} OR {keep[1]}) AND {where}) LIMIT 1 BY side, TraceId, SpanId"
        )

    def counting(self, store: Store, parameters: Parameters) -> str:
        """SELECT of a, b (0 or 1: on which sides it is) and every column, of all spans of either side."""
        bound, a, b = self._conditions(parameters)
        return f"SELECT *, {a} AS a, {b} AS b FROM {rows.table(store)} WHERE {bound} AND (a OR b)"

    def _conditions(self, parameters: Parameters) -> tuple[str, str, str]:
        """SQL: what holds for both, for A, for B; neither of the latter is NULL."""
        both = Window(min(self.a_window.start_ns, self.b_window.start_ns), max(self.a_window.end_ns, self.b_window.end_ns))
        bound = f"{both.condition(parameters)} AND {sql.condition(self.q, parameters)}"
        a = f"ifNull({self.a_window.condition(parameters)} AND {sql.condition(self.a, parameters)}, 0)"
        if self.mode == "rest":
            return bound, a, f"(NOT {a})"
        return bound, a, f"ifNull({self.b_window.condition(parameters)} AND {sql.condition(self.b, parameters)}, 0)"

    def run(self, store: Store, text: str, parameters: Parameters) -> Any:
        """The answer of the store; what only the engine finds wrong in a query is a QueryError."""
        return rows.run(store, text, parameters.values, And((self.a, self.b, self.q)))


class SideError(QueryError):
    """A query cannot be read; `side` is "a", "b" or "q"."""

    def __init__(self, side: str, error: QueryError) -> None:
        super().__init__(str(error), column=error.column, hint=error.hint)
        self.side = side


def sides(store: Store, request: CompareRequest) -> Sides:
    """The request with its queries parsed and its times known. Raises SideError, QueryError, StoreError."""
    trees = {name: _parsed(name, getattr(request, name)) for name in ("a", "b", "q")}
    own_b = request.b_start_ns is not None or request.b_end_ns is not None
    mode: Mode = "queries" if request.b.strip() else "times" if own_b else "rest"
    whole = window.choose(store, request.start_ns, request.end_ns)
    a_window = _own(store, request.a_start_ns, request.a_end_ns, whole)
    return Sides(mode, trees["a"], trees["a"] if mode == "times" else trees["b"], trees["q"], a_window,
                 whole if mode == "rest" else _own(store, request.b_start_ns, request.b_end_ns, whole))


def _parsed(name: str, query: str) -> Node:
    try:
        tree = language.parse(query)
        sql.condition(tree, Parameters(database="none"))
    except QueryError as error:
        raise SideError(name, error) from None
    return tree


def _own(store: Store, start_ns: int | None, end_ns: int | None, whole: Window) -> Window:
    if start_ns is None and end_ns is None:
        return whole
    return window.choose(store, whole.start_ns if start_ns is None else start_ns, whole.end_ns if end_ns is None else end_ns)


class Count(NamedTuple):
    """What a side holds, all of it. trace_id, span_id: of its one trace, its one span; "" where there are several or none."""

    spans: int
    errors: int
    generations: int
    tokens: int
    trace_id: str
    span_id: str


def counts(store: Store, asked: Sides) -> tuple[Count, Count, int]:
    """(A, B, spans that are on both sides). Raises QueryError, StoreError."""
    parameters = Parameters(database=store.database)
    per_side = ", ".join(
        f"countIf({side}), countIf({side} AND StatusCode = 'Error'), countIf({side} AND {GENERATES}), "
        f"sumIf(ifNull(OutputTokens, 0), {side}), minIf(TraceId, {side}), maxIf(TraceId, {side}), minIf(SpanId, {side}), "
        f"maxIf(SpanId, {side})"
        for side in ("a", "b"))
    found = asked.run(store, f"SELECT countIf(a AND b), {per_side} FROM ({asked.counting(store, parameters)})", parameters)
    both, *values = found.rows[0]
    a, b = (_count(values[start : start + 8]) for start in (0, 8))
    return a, b, int(both)


def _count(values: Sequence[Any]) -> Count:
    spans, errors, generations, tokens, first_trace, last_trace, first_span, last_span = values
    one_trace = first_trace == last_trace
    return Count(int(spans), int(errors), int(generations), int(tokens), str(first_trace) if spans and one_trace else "",
                 str(first_span) if spans and one_trace and first_span == last_span else "")


def sampled(asked: Sides, a: float, b: float) -> Sides:
    """The same sides of which these shares are kept, 1 and above for all."""
    keep = [EVERYTHING_HASHED if share >= 1 else int(share * 2**64) for share in (a, b)]
    return replace(asked, a_keep=keep[0], b_keep=keep[1])


class Key(NamedTuple):
    """A field of the registry (scope "") or an attribute of the span or the resource."""

    scope: str
    name: str


class Value(NamedTuple):
    """A value with how many spans of each side have it, and one of each as (trace id, span id), two "" for none."""

    text: str
    a: int
    b: int
    a_example: tuple[str, str]
    b_example: tuple[str, str]


class Values(NamedTuple):
    """The values of one key: spans of each side that have any, how many differ, spans whose value is a number, the top values."""

    key: Key
    a: int
    b: int
    distinct: int
    numeric: int
    top: tuple[Value, ...]


_WORDS: Final = tuple(field for field in FIELDS if field.kind != "number" and field.name not in ("trace", "span", "parent"))
NUMBERS: Final = tuple(field for field in FIELDS if field.kind == "number" and "SpanAttributes[" not in field.expression)
"""Fields with a column of their own: the others would have every attribute read once more, and few spans have them."""
WITHOUT_COLUMN: Final = {alias: field for field in FIELDS if field.kind == "number" and field not in NUMBERS
                         for alias in field.aliases if f"'{alias}'" in field.expression}
"""Attribute -> the number field that reads it: found among the attributes, and read then."""
_FILLING: Final = {name for column in TRACES.columns for name in column.attributes} | {"service.name"} | {
    alias for field in FIELDS for alias in field.aliases if f"'{alias}'" in field.expression}
_COVERED: Final = ", ".join(f"'{name}'" for name in sorted(_FILLING - WITHOUT_COLUMN.keys()))
"""Attributes that a field stands for are not compared twice."""


def _spelled(field: Field) -> str:
    return f"arrayStringConcat(arraySort(arrayDistinct({field.expression})), ', ')" if field.kind == "list" else field.expression


def values(store: Store, asked: Sides) -> list[Values]:
    """Every text field of the registry and every attribute key of the sample, by key. Raises QueryError, StoreError."""
    parameters = Parameters(database=store.database)
    words = ", ".join(f"('', '{field.name}', substringUTF8(toString({_spelled(field)}), 1, {VALUE_CHARACTERS}))"
                      for field in _WORDS)
    maps = ", ".join(
        f"arrayMap((key, value) -> ('{scope}', toString(key), substringUTF8(value, 1, {VALUE_CHARACTERS})), mapKeys({column}), "
        f"mapValues({column}))" for scope, column in (("span", "SpanAttributes"), ("resource", "ResourceAttributes")))
    entries = (f"arrayConcat(arrayFilter(one -> one.3 != '', [{words}]), arrayFilter(one -> one.2 NOT IN ({_COVERED}), "
               f"arrayConcat({maps}))) AS entries, TraceId, SpanId")
    example = "anyIf((TraceId, SpanId), side = {side})"
    text = (
        "SELECT scope, name, sum(a), sum(b), count(), sumIf(a + b, isNotNull(toFloat64OrNull(value))), "
        f"groupArraySorted({VALUES_KEPT})((-toInt64(a + b), value, a, b, a_example, b_example)) FROM ("
        "SELECT entry.1 AS scope, entry.2 AS name, entry.3 AS value, countIf(side = 0) AS a, countIf(side = 1) AS b, "
        f"{example.format(side=0)} AS a_example, {example.format(side=1)} AS b_example "
        f"FROM ({asked.relation(store, entries, parameters)}) ARRAY JOIN entries AS entry GROUP BY scope, name, value) "
        f"GROUP BY scope, name ORDER BY sum(a) + sum(b) DESC, scope, name LIMIT {KEYS_MAX}"
    )
    return [
        Values(Key(scope, name), int(a), int(b), int(distinct), int(numeric),
               tuple(Value(str(text), int(in_a), int(in_b), tuple(ea), tuple(eb)) for _, text, in_a, in_b, ea, eb in top))
        for scope, name, a, b, distinct, numeric, top in asked.run(store, text, parameters).rows
    ]


@dataclass(frozen=True, slots=True)
class Numbers:
    """One side of a sample. ids: (trace id, span id) of n spans; values: float64 [n] by key, NaN where a span has none."""

    ids: tuple[tuple[str, str], ...]
    values: dict[Key, npt.NDArray[np.float64]]


def numbers(store: Store, asked: Sides, more: Sequence[Key] = ()) -> tuple[Numbers, Numbers]:
    """NUMBERS, and `more` fields or attributes as numbers, of each side. Raises QueryError, StoreError."""
    parameters = Parameters(database=store.database)
    keys = [*(Key("", field.name) for field in NUMBERS), *more]
    expressions = [field.expression for field in NUMBERS]
    for key in more:
        field = term(key)
        expressions.append(field.expression if field else
                           f"toFloat64OrNull({sql.Key(key.name, key.scope).expression(parameters)})")
    columns = ", ".join(f"ifNull(toFloat64({expression}), nan) AS n{index}" for index, expression in enumerate(expressions))
    gathered = ", ".join(f"groupArray(n{index})" for index in range(len(keys)))
    text = (f"SELECT side, groupArray(TraceId), groupArray(SpanId), {gathered} FROM "
            f"({asked.relation(store, f'TraceId, SpanId, {columns}', parameters)}) GROUP BY side ORDER BY side")
    found: list[Numbers] = [Numbers((), {key: np.empty(0) for key in keys})] * 2
    for side, traces, spans, *arrays in asked.run(store, text, parameters).rows:
        columns_of = dict(zip(keys, (np.asarray(array, np.float64) for array in arrays), strict=True))
        found[int(side)] = Numbers(tuple(zip(traces, spans, strict=True)),
                                   {key: np.where(np.isfinite(array), array, np.nan) for key, array in columns_of.items()})
    return found[0], found[1]


class Outlined(NamedTuple):
    """A span of a trace, as little as an outline needs."""

    span_id: str
    parent_id: str
    name: str
    service: str
    start_ns: int
    duration_ns: int
    failed: bool


def outline(store: Store, asked: Sides, limit: int) -> tuple[list[Outlined], list[Outlined]]:
    """The spans of each side by their start, at most `limit` of each, the earliest. Raises QueryError, StoreError."""
    parameters = Parameters(database=store.database)
    columns = ("TraceId, SpanId, ParentSpanId, SpanName, ServiceName, Timestamp, toUnixTimestamp64Nano(Timestamp) AS start_ns, "
               "Duration, StatusCode = 'Error' AS failed")
    text = (f"SELECT side, SpanId, ParentSpanId, SpanName, ServiceName, start_ns, Duration, failed FROM "
            f"({asked.relation(store, columns, parameters)}) ORDER BY side, Timestamp, SpanId LIMIT {int(limit)} BY side")
    found: tuple[list[Outlined], list[Outlined]] = ([], [])
    for side, span, parent, name, service, start_ns, duration_ns, failed in asked.run(store, text, parameters).rows:
        found[int(side)].append(Outlined(span, parent, name, service, int(start_ns), int(duration_ns), bool(failed)))
    return found


def term(key: Key) -> fields.Field | None:
    """The field of a key of the registry, None for an attribute."""
    return None if key.scope else fields.lookup(key.name)
