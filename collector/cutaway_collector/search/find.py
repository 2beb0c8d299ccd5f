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
from cutaway_collector.search.tree import SpanSet, walk
from cutaway_collector.search.window import Window

REPETITION: Final = 2
"""Rows read for each row of a page: an exporter that tries again sends its whole batch once more."""

FIRST_STRETCH_NS: Final = 3600 * 10**9
STRETCH: Final = 4

_KEYS: Final = rows.IDENTITY + rows.SUMMARY
_IDENTITY: Final = tuple([key for key, _ in _KEYS].index(name) for name in ("start_ns", "span_id", "trace_id"))


def find(store: Store, request: SearchRequest, *, rows_max: int, seconds_max: float | None = None) -> dict[str, Any]:
    """One page: {"rows", "next": cursor or None, "previous": cursor or None, "stats"}. Rows without the sort field come last.

    Rows are spans, or with the view `traces` what `traces.find` gives. Sorted by a score, a row has its value as `score`, None
    where the span has none, and sorted by an aggregate of a series as `measured`; with `columns` it has their values as `columns`.

    By time, rows are looked for near the first of them before the whole range is read; `sql` is the search of the whole range.
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
    result = _first(store, tree, span, by, position, wanted, backwards, seconds_max)
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


def _first(
    store: Store, tree: language.Node, span: Window, by: Order, position: Cursor | None, wanted: int, backwards: bool,
    seconds_max: float | None,
) -> Result:
    """The first `wanted` rows behind the position, or the last before it. By time, stretch after stretch until there are enough.

    The tables are not sorted by time alone: the newest rows of a range cost as much as all of it, those of a stretch do not.
    """
    pieces: Sequence[Window] = (span,)
    asks_of_traces = any(isinstance(node, SpanSet) for node in walk(tree))
    if by.expression is None:
        pieces = _stretches(span, position.timestamp_ns if position else None, newest_first=by.newest_first != backwards)
        if asks_of_traces and len(pieces) > 3:
            pieces = [*pieces[:2], _joined(pieces[2:])]
    found: list[Sequence[Any]] = []
    results: list[Result] = []
    for piece in pieces:
        # The last stretch is most of the range: looking up which traces it has would cost more than it saves.
        reach = span if piece == pieces[-1] else window.of_traces(store, piece, span) if asks_of_traces else piece
        text, parameters = _query(store, tree, span, by, position, wanted - len(found), backwards, piece, reach)
        left = rows.seconds_left(seconds_max, sum(one.elapsed_s for one in results))
        results.append(rows.run(store, text, parameters, tree, seconds_max=left))
        found += results[-1].rows
        if len(found) >= wanted or results[-1].cut:
            break

    def together(figure: str) -> int:
        each = [int(getattr(one, figure)) for one in results]
        return sum(each) if min(each) >= 0 else -1

    return Result(results[0].columns, found, sum(one.elapsed_s for one in results), together("rows_read"), together("bytes_read"),
                  any(one.cut for one in results))


def _joined(pieces: Sequence[Window]) -> Window:
    return Window(min(one.start_ns for one in pieces), max(one.end_ns for one in pieces))


def _stretches(span: Window, at_ns: int | None, *, newest_first: bool) -> list[Window]:
    """The range, or what lies behind a moment in it, in disjoint pieces, the one to look in first being the first.

    Each is STRETCH times as long as the one before it.
    """
    start, end = span.start_ns, span.end_ns
    if at_ns is not None:
        start, end = (start, min(end, at_ns + 1)) if newest_first else (max(start, at_ns), end)
    pieces: list[Window] = []
    length = max(FIRST_STRETCH_NS, (span.end_ns - span.start_ns) // STRETCH**3)
    while end - start > 2 * length:
        pieces.append(Window(end - length, end) if newest_first else Window(start, start + length))
        start, end = (start, end - length) if newest_first else (start + length, end)
        length *= STRETCH
    return [*pieces, Window(start, end)] if end > start else pieces or [span]


def _query(
    store: Store, tree: language.Node, span: Window, by: Order, position: Cursor | None, limit: int, backwards: bool,
    piece: Window | None = None, reach: Window | None = None,
) -> tuple[str, dict[str, Any]]:
    """SELECT and values of the first `limit` rows behind the position, or of the last ones before it, nearest first.

    piece: the part of the range that rows are of. reach: the part that their sub-queries look at, the whole range when None.
    """
    parameters = Parameters(database=store.database)
    within = (piece or span).condition(parameters)
    parameters.start_ns, parameters.end_ns = (reach or span).start_ns, (reach or span).end_ns
    where = f"{within} AND {sql.condition(tree, parameters)}"
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
