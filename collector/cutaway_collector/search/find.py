"""Search over spans: pages of rows, counts over time, and facets, each one bounded SELECT.

Not the language (see `language`) and not the limits on time and memory of a query: those are the store's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cutaway_collector.contracts import Store
from cutaway_collector.errors import QueryError
from cutaway_collector.search import cursor as cursors
from cutaway_collector.search import english, fields, language, rows, scores, sql, window
from cutaway_collector.search.cursor import Cursor
from cutaway_collector.search.scores import Score
from cutaway_collector.search.sql import Key, Parameters
from cutaway_collector.search.window import Window

BUCKETS_MAX: Final = 1000
FACETS_MAX: Final = 20
FACET_VALUES_MAX: Final = 20
REPETITION: Final = 2
"""Rows read for each row of a page: an exporter that tries again sends its whole batch once more."""


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """What to search. Times in nanoseconds since 1970, the end excluded, None for open (see `window`).

    sort: a field name, `-field` for descending, "" for newest first. after: the `next` of the page before, if any.
    """

    q: str = ""
    start_ns: int | None = None
    end_ns: int | None = None
    limit: int = 50
    after: str | None = ""
    sort: str = ""


@dataclass(frozen=True, slots=True)
class _Order:
    """Sort key (None: by time alone), whether it descends, whether ties run from the newest, and the score it is, if it is one."""

    expression: str | None
    type: str
    descending: bool
    newest_first: bool
    score: str = ""

    def source(self, parameters: Parameters) -> str:
        """What is joined to the spans, "" for nothing."""
        return scores.join(self.score, parameters, largest=self.descending) if self.score else ""


def _order(sort: str) -> _Order:
    name = sort.removeprefix("-")
    if not name or name in fields.TIME_SORTS:
        newest = sort not in fields.TIME_SORTS
        return _Order(None, "", newest, newest)
    scope, key = language.split_scope(name)
    if scope == scores.SCOPE and key:
        return _Order(scores.VALUE, "Float64", sort.startswith("-"), True, key)
    field = fields.lookup(name)
    if field is None:
        near = fields.nearest(name)
        raise QueryError(f"rows cannot be sorted by {name[:40]!r}: it is not a field",
                         hint=f"did you mean {near}?" if near else "try -perplexity")
    if field.kind == "list":
        raise QueryError(f"rows cannot be sorted by {field.name}: it is a list")
    placeholder = "String" if field.kind == "text" else "UInt64" if field.unit in fields.WHOLE_UNITS else "Float64"
    return _Order(field.sort_expression, placeholder, sort.startswith("-"), True)


_KEYS: Final = rows.IDENTITY + rows.SUMMARY


def find(store: Store, request: SearchRequest, *, rows_max: int) -> dict[str, Any]:
    """One page of spans: {"rows", "next": cursor or None, "stats"}. Rows without the sort field come last.

    Sorted by a score, a row has its value as `score`, None where the span has none.

    Pages by key, never by offset: rows that arrive meanwhile neither shift nor repeat others. A span sent more than once is
    one row; a page that lost many repetitions may be shorter than its limit and still have a next. Raises QueryError, StoreError.
    """
    if rows_max < 1 or request.limit < 1:
        raise QueryError(f"a page has at least one row, limit is {request.limit}", hint="try limit=50")
    limit = min(request.limit, rows_max)
    tree = language.parse(request.q)
    order = _order(request.sort)
    position = cursors.decode(request.after, request.q, request.sort) if request.after else None
    span = Window(position.start_ns, position.end_ns) if position else window.choose(store, request.start_ns, request.end_ns)
    wanted = REPETITION * limit + 1
    text, parameters = _query(store, tree, span, order, position, wanted)
    result = rows.run(store, text, parameters, tree)
    found = _once(result.rows)
    named = list(dict.fromkeys([*scores.named(tree), *filter(None, [order.score])]))
    keys = [key for key, _ in _KEYS]
    page = [rows.as_dict(keys, row[:-1]) for row in found[:limit]]
    if order.score:
        page = [{**row, "score": rows.json_safe(values[-1])} for row, values in zip(page, found[:limit], strict=True)]
    last = _position(page[-1], found[len(page) - 1][-1], span) if page else None
    more = len(found) > limit
    if last and not more and len(result.rows) == wanted:  # nothing but repetitions behind the page, as far as was read
        more = bool(rows.run(store, *_query(store, tree, span, order, last, 1), tree).rows)
    return {
        "rows": page,
        "next": cursors.encode(last, request.q, request.sort) if last and more else None,
        "stats": {
            "elapsed_ms": round(result.elapsed_s * 1000, 3), "rows_read": result.rows_read, "returned": len(page),
            "start_ns": span.start_ns, "end_ns": span.end_ns, "sql": text, "parameters": parameters,
            "explanation": english.explain(request.q),
            "warnings": english.warnings(tree) + scores.warnings(store, named, span.start_ns),
        },
    }


def _query(
    store: Store, tree: language.Node, span: Window, order: _Order, position: Cursor | None, limit: int,
) -> tuple[str, dict[str, Any]]:
    """SELECT and values of the first `limit` rows behind the position."""
    parameters = Parameters(database=store.database)
    where = f"{span.condition(parameters)} AND {sql.condition(tree, parameters)}"
    if position:
        where += f" AND {_after(order, position, parameters)}"
    columns = (*_KEYS, ("sort_key", order.expression or "NULL"))
    text = (
        f"SELECT {rows.select(columns)} FROM {rows.table(store)}{order.source(parameters)} WHERE {where} "
        f"ORDER BY {_order_by(order)} LIMIT {parameters.bind(limit, 'UInt64')}"
    )
    return text, parameters.values


_IDENTITY: Final = tuple([key for key, _ in _KEYS].index(name) for name in ("start_ns", "span_id", "trace_id"))


def _once(found: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
    """The rows without repetitions of a span that its sender sent twice.

    They are neighbours in the order of the pages, so a comparison with the row before finds them, and a cursor behind one is behind
    all: the next page begins with another span. Done here because LIMIT BY would cost the engine its reading of the top rows alone.
    """
    out: list[Sequence[Any]] = []
    before: tuple[Any, ...] | None = None
    for row in found:
        identity = tuple(row[index] for index in _IDENTITY)
        if identity != before:
            out.append(row)
        before = identity
    return out


def _order_by(order: _Order) -> str:
    ties = "DESC" if order.newest_first else "ASC"
    tail = f"Timestamp {ties}, SpanId {ties}, TraceId {ties}"
    if order.expression is None:
        return tail
    return f"isNull(sort_key) ASC, sort_key {'DESC' if order.descending else 'ASC'}, {tail}"


def _position(row: dict[str, Any], key: Any, span: Window) -> Cursor:
    return Cursor(key, row["start_ns"], row["span_id"], row["trace_id"], span.start_ns, span.end_ns)


def _after(order: _Order, position: Cursor, parameters: Parameters) -> str:
    """SQL condition: rows strictly after the position, in the order of `_order_by`."""
    timestamp = f"fromUnixTimestamp64Nano({parameters.bind(position.timestamp_ns, 'Int64')})"
    ties = (
        f"(Timestamp, SpanId, TraceId) {'<' if order.newest_first else '>'} "
        f"({timestamp}, {parameters.text(position.span_id)}, {parameters.text(position.trace_id)})"
    )
    if order.expression is None:
        return ties
    if position.key is None:
        return f"(isNull({order.expression}) AND {ties})"
    if isinstance(position.key, str) != (order.type == "String"):
        raise QueryError("the page position (`after`) is not one this search gave out", hint="start again from the first page")
    key = parameters.bind(float(position.key) if order.type == "Float64" else position.key, order.type)
    beyond = "<" if order.descending else ">"
    return f"(isNull({order.expression}) OR {order.expression} {beyond} {key} OR ({order.expression} = {key} AND {ties}))"


def histogram(store: Store, request: SearchRequest, buckets: int) -> dict[str, Any]:
    """Matching spans over time: {"start_ns", "end_ns", "bucket_ns", "counts", "errors"}, one count a bucket.

    When the request leaves an end of its time range open, the histogram runs from the first to the last match instead, so that a
    minute of data in a day does not become a single bar. Raises QueryError, StoreError.
    """
    if not 1 <= buckets <= BUCKETS_MAX:
        raise QueryError(f"a histogram has 1 to {BUCKETS_MAX} buckets, {buckets} were asked for")
    tree = language.parse(request.q)
    span = _shrink(store, tree, window.choose(store, request.start_ns, request.end_ns))
    width = max(-(-(span.end_ns - span.start_ns) // buckets), 1)
    parameters = Parameters(database=store.database)
    where = f"{span.condition(parameters)} AND {sql.condition(tree, parameters)}"
    start, step = parameters.bind(span.start_ns, "Int64"), parameters.bind(width, "Int64")
    text = (
        f"SELECT intDiv(toUnixTimestamp64Nano(Timestamp) - {start}, {step}) AS bucket, count(), countIf(StatusCode = 'Error') "
        f"FROM {rows.table(store)} WHERE {where} GROUP BY bucket ORDER BY bucket"
    )
    counts, errors = [0] * buckets, [0] * buckets
    for bucket, count, failed in rows.run(store, text, parameters.values, tree).rows:
        counts[int(bucket)], errors[int(bucket)] = int(count), int(failed)
    return {"start_ns": span.start_ns, "end_ns": span.end_ns, "bucket_ns": width, "counts": counts, "errors": errors}


def _shrink(store: Store, tree: language.Node, span: Window) -> Window:
    if not (span.open_start or span.open_end):
        return span
    parameters = Parameters(database=store.database)
    where = f"{span.condition(parameters)} AND {sql.condition(tree, parameters)}"
    text = (
        "SELECT count(), toUnixTimestamp64Nano(min(Timestamp)), toUnixTimestamp64Nano(max(Timestamp)) "
        f"FROM {rows.table(store)} WHERE {where}"
    )
    count, first, last = rows.run(store, text, parameters.values, tree).rows[0]
    if not count:
        return span
    return Window(int(first) if span.open_start else span.start_ns, int(last) + 1 if span.open_end else span.end_ns)


def facets(
    store: Store, request: SearchRequest, names: Sequence[str] = ("model", "service", "status", "name"),
) -> dict[str, list[dict[str, Any]]]:
    """The most frequent values of each name among the matching spans: {name: [{"value", "count"}]}, at most 20, largest first.

    A name is a field of the registry with text values, or an attribute. Raises QueryError, StoreError.
    """
    if len(names) > FACETS_MAX:
        raise QueryError(f"at most {FACETS_MAX} facets at once, {len(names)} were asked for")
    tree = language.parse(request.q)
    span = window.choose(store, request.start_ns, request.end_ns)
    return {name: _facet(store, tree, span, name) for name in names}


def _facet(store: Store, tree: language.Node, span: Window, name: str) -> list[dict[str, Any]]:
    parameters = Parameters(database=store.database)
    scope, key = language.split_scope(name)
    target = sql.resolve(key, scope)
    if isinstance(target, Score):
        raise QueryError(f"{target.name} is a score, a facet lists text values")
    if isinstance(target, Key):
        expression, present = target.expression(parameters), target.present(parameters)
    elif target.kind == "number":
        raise QueryError(f"{target.name} is a number, a facet lists text values")
    else:
        expression, present = target.expression, target.present
        expression = f"arrayJoin({expression})" if target.kind == "list" else expression
    text = (
        f"SELECT toString({expression}) AS value, count() AS spans FROM {rows.table(store)} "
        f"WHERE {span.condition(parameters)} AND {present} AND {sql.condition(tree, parameters)} "
        f"GROUP BY value ORDER BY spans DESC, value ASC LIMIT {parameters.bind(FACET_VALUES_MAX, 'UInt64')}"
    )
    return [{"value": value, "count": int(count)} for value, count in rows.run(store, text, parameters.values, tree).rows]
