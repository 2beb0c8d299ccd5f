"""Everything a search finds, page by page: what an export is written from, and how many rows there are, said beforehand.

Not a file format, and not a query of its own: the rows are those of `find`, in its order, so that a file and the pages agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from cutaway_collector.columns import TOKENS, TRACES
from cutaway_collector.contracts import Store
from cutaway_collector.errors import QueryError
from cutaway_collector.search import language, rows, series, sql, window
from cutaway_collector.search.find import SearchRequest, find
from cutaway_collector.search.scores import Score
from cutaway_collector.search.sql import Key, Parameters

PAGE_ROWS: Final = 5000
"""Rows asked for at a time: a sorted search is read anew for each page, and a page of these takes some 20 MB."""
ARRAY_TOKENS: Final = 200_000
"""Tokens whose arrays are read at a time; of a span with more, all at once."""

Base = Literal["text", "whole", "integer", "number", "single"]


class Kind(NamedTuple):
    """What a column of the file holds. whole: from 0 on; single: a number of 32 bits, in arrays of numpy.

    depth: 0 one value, 1 a value a sequence, 2 a list a sequence.
    """

    base: Base
    depth: int = 0


def _base(type: str) -> Base:
    held: dict[str, Base] = {"String": "text", "Float32": "single", "Float64": "number", "UInt": "whole"}
    return next((base for part, base in held.items() if part in type), "integer")


def _kind(expression: str) -> Kind:
    names = {column.name for column in TRACES.columns}
    return Kind(_base(TRACES.column(expression).type if expression in names else "Int64"))


COLUMNS: Final[dict[str, Kind]] = {key: _kind(expression) for key, expression in rows.IDENTITY + rows.SUMMARY}
"""Key of a row -> what it holds. A search sorted by a score has `score` besides."""
_ARRAYS: Final[tuple[tuple[str, str], ...]] = (("token_ids", "TokenIds"), ("tokens", "TokenTexts"), *series.SIGNALS)
ARRAYS: Final[dict[str, Kind]] = {
    "sequence_index": Kind("whole", 1), **{key: Kind(_base(TOKENS.column(name).type), 2) for key, name in _ARRAYS},
}
"""Key of a row with arrays -> what its lists hold; `sequence_index` says of which sequence each list is."""

LIMIT_MAX: Final = 10_000
"""The most that `| limit` of an exported query may ask for."""


def more_columns(names: Sequence[str]) -> dict[str, Kind]:
    """Columns that the search was asked for besides its own, those that every row has left out."""
    return {name: _asked(name) for name in names if name not in COLUMNS}


def _asked(name: str) -> Kind:
    scope, key = language.split_scope(name)
    target = sql.resolve(key, scope)
    if isinstance(target, Key):
        return Kind("text")
    if isinstance(target, Score) or target.kind == "number":
        return Kind("number")
    return Kind("text", 1 if target.kind == "list" else 0)


def matching(store: Store, request: SearchRequest, most: int) -> int:
    """Rows that the search finds, each span once; `most` + 1 when there are more than `most`. Raises QueryError, StoreError."""
    tree, staged = request.tree(), request.staged()
    most = min(most, staged.limit - 1) if staged.only else most
    parameters = Parameters(database=store.database)
    span = window.choose(store, request.start_ns, request.end_ns)
    where = f"{span.condition(parameters)} AND {sql.condition(tree, parameters)}"
    text = (
        f"SELECT count() FROM (SELECT DISTINCT Timestamp, SpanId, TraceId FROM {rows.table(store)} WHERE {where} "
        f"LIMIT {parameters.bind(most + 1, 'UInt64')})"
    )
    return int(rows.run(store, text, parameters.values, tree).rows[0][0])


def pages(store: Store, request: SearchRequest, most: int, *, arrays: bool = False) -> Iterator[tuple[list[dict[str, Any]], bool]]:
    """(rows, whether there are more behind them) until there are none or `most` have been given; at least one page.

    arrays: whether each row has ARRAYS. A request for `only` its own page has no others. What arrives meanwhile is not among them:
    `find` fixes the window. Raises as `find`.
    """
    if request.view == "traces":
        raise QueryError("an export has a row a span, and this search shows traces", hint="show spans: view=spans")
    left, after, staged = most, request.after, request.staged()
    while True:
        limit = left if staged.only else min(PAGE_ROWS, left)
        # What `| limit` asks for comes in one page, however many rows that are.
        found = find(store, replace(request, limit=limit, after=after), rows_max=max(limit, LIMIT_MAX) if staged.only else limit)
        page, after = [row | row.get("columns", {}) for row in found["rows"]], found["next"]
        left -= len(page)
        more = after is not None
        if not arrays or not page:
            yield page, more
        for start, stop in _groups(page) if arrays else ():
            yield _with_arrays(store, page[start:stop]), more or stop < len(page)
        if not more or left <= 0:
            return


def _groups(page: Sequence[dict[str, Any]]) -> Iterator[tuple[int, int]]:
    """Runs of rows whose tokens are few enough to be held together, at least one row each."""
    start = tokens = 0
    for index, row in enumerate(page):
        tokens += row["output_tokens"] or 0
        if tokens > ARRAY_TOKENS and index > start:
            yield start, index
            start, tokens = index, row["output_tokens"] or 0
    if page:
        yield start, len(page)


def _with_arrays(store: Store, page: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the lists of their sequences, in the order of the sequences; empty where a span has none."""
    lists: dict[tuple[str, str], list[Sequence[Any]]] = {(row["trace_id"], row["span_id"]): [] for row in page}
    wanted = [span_id for _, span_id in lists if span_id]
    if wanted:
        parameters = Parameters()
        times = [row["start_ns"] for row in page]
        low, high = parameters.bind(min(times), "Int64"), parameters.bind(max(times), "Int64")
        columns = ", ".join(column for _, column in _ARRAYS)
        text = (
            f"SELECT TraceId, SpanId, SeqIndex, {columns} FROM {rows.table(store, TOKENS.name)} "
            f"WHERE Timestamp >= fromUnixTimestamp64Nano({low}) AND Timestamp <= fromUnixTimestamp64Nano({high}) "
            "AND SpanId IN {spans:Array(String)} ORDER BY TraceId, SpanId, SeqIndex LIMIT 1 BY TraceId, SpanId, SeqIndex"
        )
        for trace_id, span_id, *values in store.query(text, parameters.values | {"spans": wanted}).rows:
            if (trace_id, span_id) in lists:
                lists[trace_id, span_id].append(values)
    out = []
    for row in page:
        sequences = lists[row["trace_id"], row["span_id"]]
        columns_of = list(zip(*sequences, strict=True)) or [()] * (len(_ARRAYS) + 1)
        out.append(row | {key: _lists(values, ARRAYS[key]) for key, values in zip(ARRAYS, columns_of, strict=True)})
    return out


def _lists(values: Sequence[Any], kind: Kind) -> list[Any]:
    # As 32 bits they are written with as many digits as they have, half of what a float of Python takes.
    return [np.asarray(one, np.float32) for one in values] if kind == Kind("single", 2) else list(values)
