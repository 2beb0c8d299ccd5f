"""Search over spans: pages of rows, forwards and backwards, each one bounded SELECT.

Not the language, not how many there are in all (see `counts`) and not the limits of a query, which are the store's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from cutaway_collector.contracts import Result, Store
from cutaway_collector.errors import QueryError
from cutaway_collector.search import cursor as cursors
from cutaway_collector.search import details, english, language, order, rows, scores, sql, traces, window
from cutaway_collector.search.cursor import Cursor
from cutaway_collector.search.order import Order
from cutaway_collector.search.parameters import Parameters
from cutaway_collector.search.request import COLUMNS_MAX
from cutaway_collector.search.request import SearchRequest as SearchRequest
from cutaway_collector.search.window import Window

REPETITION: Final = 2
"""Rows read for each row of a page: an exporter that tries again sends its whole batch once more."""

_KEYS: Final = rows.IDENTITY + rows.SUMMARY
_IDENTITY: Final = tuple([key for key, _ in _KEYS].index(name) for name in ("start_ns", "span_id", "trace_id"))


def find(store: Store, request: SearchRequest, *, rows_max: int, seconds_max: float | None = None) -> dict[str, Any]:
    """One page: {"rows", "next": cursor or None, "previous": cursor or None, "stats"}. Rows without the sort field come last.

    Rows are spans, or with the view `traces` what `traces.find` gives. Sorted by a score, a row has its value as `score`, None
    where the span has none, and sorted by an aggregate of a series as `measured`; with `columns` it has their values as `columns`.

    Pages by key, never by offset: rows that arrive meanwhile neither shift nor repeat others. A span sent more than once is
    one row; a page that lost many repetitions may be shorter than its limit and still have a next. seconds_max: what was found by
    then, `cut` in the stats saying so, instead of an error. Raises QueryError, StoreError.
    """
    request = request.staged()
    if request.only and request.limit > rows_max:
        raise QueryError(f"a page has at most {rows_max} rows, `| limit` asks for {request.limit}",
                         hint="leave it out, and page through all")
    if rows_max < 1 or request.limit < 1:
        raise QueryError(f"a page has at least one row, limit is {request.limit}", hint="try limit=50")
    if request.after and request.before:
        raise QueryError("a page is after one position or before one, not both", hint="leave out `after` or `before`")
    if len(request.columns) > COLUMNS_MAX:
        raise QueryError(f"a row has at most {COLUMNS_MAX} more columns, {len(request.columns)} were asked for")
    limit, tree, backwards = min(request.limit, rows_max), request.tree(), bool(request.before)
    if request.view == "traces":
        return traces.find(store, request, tree, limit=limit, seconds_max=seconds_max)
    by = order.of(request.sort)
    given = request.before or request.after
    position = cursors.decode(given, request.identity, request.sort) if given else None
    span = Window(position.start_ns, position.end_ns) if position else window.choose(store, request.start_ns, request.end_ns)
    wanted = REPETITION * limit + 1
    text, parameters = _query(store, tree, span, by, position, wanted, backwards)
    result: Result = rows.run(store, text, parameters, tree, seconds_max=seconds_max)
    found = _once(result.rows)
    more = len(found) > limit
    chosen = found[:limit][::-1] if backwards else found[:limit]
    named = list(dict.fromkeys([*scores.named(tree), *filter(None, [by.score])]))
    page = _page(store, request, by, chosen)
    if chosen and not more and len(result.rows) == wanted:  # nothing but repetitions behind the page, as far as was read
        edge = _position(chosen[0 if backwards else -1], span)
        more = bool(rows.run(store, *_query(store, tree, span, by, edge, 1, backwards), tree).rows)

    def cursor(row: Sequence[Any], there: bool) -> str | None:
        return cursors.encode(_position(row, span), request.identity, request.sort) if there and not request.only else None

    return {
        "rows": page,
        "next": cursor(chosen[-1], more or backwards) if chosen else None,
        "previous": cursor(chosen[0], more if backwards else position is not None) if chosen else None,
        "stats": {
            "elapsed_ms": round(result.elapsed_s * 1000, 3), "rows_read": result.rows_read, "returned": len(page),
            "cut": result.cut, "start_ns": span.start_ns, "end_ns": span.end_ns, "sql": text, "parameters": parameters,
            "explanation": english.explain(request.q),
            "warnings": english.warnings(tree) + scores.warnings(store, named, span.start_ns),
        },
    }


def _page(store: Store, request: SearchRequest, by: Order, chosen: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    keys = [key for key, _ in _KEYS]
    page = [rows.as_dict(keys, row[:-1]) for row in chosen]
    if by.score or by.measure:
        name = "score" if by.score else "measured"
        page = [{**row, name: rows.json_safe(values[-1])} for row, values in zip(page, chosen, strict=True)]
    if request.columns:
        columns = details.columns(store, page, request.columns)
        page = [{**row, "columns": more} for row, more in zip(page, columns, strict=True)]
    return page


def _query(
    store: Store, tree: language.Node, span: Window, by: Order, position: Cursor | None, limit: int, backwards: bool,
) -> tuple[str, dict[str, Any]]:
    """SELECT and values of the first `limit` rows behind the position, or of the last ones before it, nearest first."""
    parameters = Parameters(database=store.database)
    where = f"{span.condition(parameters)} AND {sql.condition(tree, parameters)}"
    if position:
        where += f" AND {by.beyond(position, parameters, backwards=backwards)}"
    columns = (*_KEYS, ("sort_key", by.expression or "NULL"))
    text = (
        f"SELECT {rows.select(columns)} FROM {rows.table(store)}{by.source(parameters)} WHERE {where} "
        f"ORDER BY {by.by(backwards=backwards)} LIMIT {parameters.bind(limit, 'UInt64')}"
    )
    return text, parameters.values


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


def _position(row: Sequence[Any], span: Window) -> Cursor:
    start_ns, span_id, trace_id = (row[index] for index in _IDENTITY)
    return Cursor(row[-1], start_ns, span_id, trace_id, span.start_ns, span.end_ns)
