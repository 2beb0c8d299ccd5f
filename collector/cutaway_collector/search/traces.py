"""Traces that hold matching spans: one row a trace, with what all of its spans say together.

Not one trace in full, which is `trace`'s. The order is that of the newest match of each trace, forwards or backwards in time.
"""

from __future__ import annotations

from typing import Any, Final

from cutaway_collector.contracts import Store
from cutaway_collector.errors import QueryError
from cutaway_collector.search import cursor as cursors
from cutaway_collector.search import english, fields, language, rows, scores, sql, window
from cutaway_collector.search.cursor import Cursor
from cutaway_collector.search.parameters import Parameters
from cutaway_collector.search.request import SearchRequest
from cutaway_collector.search.window import Window

SPANS_MAX: Final = 200_000
"""Spans of the traces of a page that are looked at; of more, the summaries say what those give."""
REACH_NS: Final = 6 * 3600 * 10**9
"""How far from its match the other spans of a trace are looked for."""

_SUMMARY: Final[tuple[tuple[str, str], ...]] = (
    ("name", "argMin(SpanName, (ParentSpanId != '', Timestamp))"),
    ("service", "argMin(ServiceName, (ParentSpanId != '', Timestamp))"),
    ("root_span_id", "argMin(SpanId, (ParentSpanId != '', Timestamp))"),
    ("has_root", "countIf(ParentSpanId = '') > 0"),
    ("start_ns", "toUnixTimestamp64Nano(min(Timestamp))"),
    ("duration_ns", "toUInt64(max(toUnixTimestamp64Nano(Timestamp) + toInt64(Duration)) - min(toUnixTimestamp64Nano(Timestamp)))"),
    ("spans", "count()"),
    ("errors", "countIf(StatusCode = 'Error')"),
    ("input_tokens", "sum(InputTokens)"),
    ("output_tokens", "sum(OutputTokens)"),
    ("surprisal_mean", "max(if(isFinite(SurprisalMean), SurprisalMean, NULL))"),
    ("surprisal_max", "max(if(isFinite(SurprisalMax), SurprisalMax, NULL))"),
    ("models", "arraySort(groupUniqArrayIf(8)(toString(GenAiModel), GenAiModel != ''))"),
)
"""Key in the answer, aggregate over the spans of one trace. surprisal_mean is that of its worst generation."""
_READ: Final = ("Timestamp, TraceId, SpanId, ParentSpanId, SpanName, ServiceName, Duration, StatusCode, InputTokens, OutputTokens, "
                "SurprisalMean, SurprisalMax, GenAiModel")


def find(
    store: Store, request: SearchRequest, tree: language.Node, *, limit: int, seconds_max: float | None = None,
) -> dict[str, Any]:
    """What `find.find` answers, but its rows are traces: `_SUMMARY`'s keys, trace_id, matched and last_ns.

    matched: its matching spans. last_ns: start of the newest of them. Raises QueryError, StoreError.
    """
    if request.sort.removeprefix("-") not in ("", *fields.TIME_SORTS):
        raise QueryError(f"traces are sorted by time, not by {request.sort[:40]!r}", hint="sort spans instead: view=spans")
    if request.columns:
        raise QueryError("columns are of spans, traces have none to choose", hint="show spans instead: view=spans")
    oldest_first, backwards = request.sort in fields.TIME_SORTS, bool(request.before)
    given = request.before or request.after
    position = cursors.decode(given, request.identity, request.sort) if given else None
    span = Window(position.start_ns, position.end_ns) if position else window.choose(store, request.start_ns, request.end_ns)
    falling = oldest_first == backwards
    parameters = Parameters(database=store.database)
    where = f"{span.condition(parameters)} AND {sql.condition(tree, parameters)} AND TraceId != ''"
    having = ""
    if position:
        at = parameters.bind(position.timestamp_ns, "Int64")
        having = f" HAVING (last_ns, TraceId) {'<' if falling else '>'} ({at}, {parameters.text(position.trace_id)})"
    way = "DESC" if falling else "ASC"
    text = (
        "SELECT TraceId, toUnixTimestamp64Nano(max(Timestamp)) AS last_ns, uniqExact(SpanId) AS matched "
        f"FROM {rows.table(store)} WHERE {where} GROUP BY TraceId{having} ORDER BY last_ns {way}, TraceId {way} "
        f"LIMIT {parameters.bind(limit + 1, 'UInt64')}"
    )
    result = rows.run(store, text, parameters.values, tree, seconds_max=seconds_max)
    more = len(result.rows) > limit
    chosen = list(result.rows[:limit])
    chosen = chosen[::-1] if backwards else chosen
    summaries = _summaries(store, [(str(row[0]), int(row[1])) for row in chosen], seconds_max)

    def cursor(row: Any, there: bool) -> str | None:
        place = Cursor(None, int(row[1]), "", str(row[0]), span.start_ns, span.end_ns)
        return cursors.encode(place, request.identity, request.sort) if there and not request.only else None

    page = [{"trace_id": row[0], "last_ns": int(row[1]), "matched": int(row[2]), **summaries[row[0]]}
            for row in chosen if row[0] in summaries]
    return {
        "rows": page,
        "next": cursor(chosen[-1], more or backwards) if chosen else None,
        "previous": cursor(chosen[0], more if backwards else position is not None) if chosen else None,
        "stats": {
            "elapsed_ms": round(result.elapsed_s * 1000, 3), "rows_read": result.rows_read, "returned": len(page),
            "cut": result.cut, "start_ns": span.start_ns, "end_ns": span.end_ns, "sql": text, "parameters": parameters.values,
            "explanation": english.explain(request.q),
            "warnings": english.warnings(tree) + scores.warnings(store, scores.named(tree), span.start_ns),
        },
    }


def _summaries(store: Store, chosen: list[tuple[str, int]], seconds_max: float | None) -> dict[str, dict[str, Any]]:
    if not chosen:
        return {}
    parameters = Parameters()
    near = Window(max(0, min(at for _, at in chosen) - REACH_NS), max(at for _, at in chosen) + REACH_NS)
    where = f"{near.condition(parameters)} AND TraceId IN {parameters.bind([trace for trace, _ in chosen], 'Array(String)')}"
    # A span that was sent twice is one: the ids of a page are few enough to tell.
    once = f"SELECT {_READ} FROM {rows.table(store)} WHERE {where} LIMIT 1 BY TraceId, SpanId LIMIT {SPANS_MAX}"
    text = f"SELECT TraceId AS trace_id, {rows.select(_SUMMARY)} FROM ({once}) GROUP BY TraceId"
    keys = [key for key, _ in _SUMMARY]
    found = rows.run(store, text, parameters.values, seconds_max=seconds_max)
    return {str(row[0]): rows.as_dict(keys, row[1:]) for row in found.rows}
