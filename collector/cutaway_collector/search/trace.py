"""One trace: all its spans with attributes, events and links, ordered by start; and the look-up of pasted ids.

Not a waterfall: layout is the page's. The time of a trace is read from the small table of trace times first, so that a look-up
by id reads the minutes of the trace, not every day that is kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from cutaway import conventions as c
from cutaway_collector.columns import TOKENS, TRACE_TIMES
from cutaway_collector.contracts import Store
from cutaway_collector.errors import QueryError
from cutaway_collector.search import rows, scores, series
from cutaway_collector.search.sql import Parameters
from cutaway_collector.search.together import both

SCORES_MAX: Final = 20_000
"""Scores of one trace in one answer."""

TRACE_ID: Final = re.compile(r"[0-9a-f]{32}")
_SPAN_ID: Final = re.compile(r"[0-9a-f]{16}")
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-([0-9a-f]{16})-[0-9a-f]{2}")

_DETAIL: Final[tuple[tuple[str, str], ...]] = (
    ("trace_state", "TraceState"),
    *rows.ATTRIBUTES,
    ("resource", "ResourceAttributes"),
    ("scope_name", "ScopeName"),
    ("scope_version", "ScopeVersion"),
    ("event_times", "arrayMap(time -> toUnixTimestamp64Nano(time), `Events.Timestamp`)"),
    ("event_names", "`Events.Name`"),
    ("event_attributes", "`Events.Attributes`"),
    ("link_traces", "`Links.TraceId`"),
    ("link_spans", "`Links.SpanId`"),
    ("link_states", "`Links.TraceState`"),
    ("link_attributes", "`Links.Attributes`"),
)
_KEYS: Final = rows.IDENTITY + rows.SUMMARY + _DETAIL


def trace(store: Store, trace_id: str, *, spans_max: int) -> dict[str, Any] | None:
    """{"trace_id", "spans", "truncated", "scores"}: at most `spans_max` spans, the earliest; None when there is no such trace.

    A span of a diffusion pipeline has its step curves as `diffusion`. A span that was sent twice appears once. Raises StoreError;
    QueryError when spans_max is not positive.
    """
    if spans_max < 1:
        raise QueryError(f"a trace page has at least one span, spans_max is {spans_max}")
    wanted = trace_id.strip().lower()
    if not TRACE_ID.fullmatch(wanted):
        return None
    parameters = Parameters()
    where = within(store, wanted, parameters)
    text = (
        f"SELECT {rows.select(_KEYS)} FROM {rows.table(store)} WHERE {where} "
        f"ORDER BY Timestamp ASC, SpanId ASC LIMIT 1 BY SpanId LIMIT {parameters.bind(spans_max + 1, 'UInt64')}"
    )
    found, judged = both(lambda: store.query(text, parameters.values).rows,
                         lambda: scores.scores(store, wanted, start_ns=parameters.start_ns, limit=SCORES_MAX))
    if not found:
        return None
    spans = [_span(row) for row in found[:spans_max]]
    if any(_diffuses(span) for span in spans):
        curves = _steps(store, wanted, min(span["start_ns"] for span in spans), max(span["start_ns"] for span in spans))
        spans = [span | ({"diffusion": curves.get(span["span_id"])} if _diffuses(span) else {}) for span in spans]
    return {"trace_id": wanted, "spans": spans, "truncated": len(found) > spans_max, "scores": judged}


def span(store: Store, trace_id: str, span_id: str, *, start_ns: int | None = None) -> dict[str, Any] | None:
    """One span as `trace` has it, with its scores and, at the root, those of the whole trace as `scores`; None when there is none.

    start_ns: when it starts, where that is known: it need not be looked up. Raises StoreError.
    """
    wanted, own = trace_id.strip().lower(), span_id.strip().lower()
    if not TRACE_ID.fullmatch(wanted) or not _SPAN_ID.fullmatch(own):
        return None
    parameters = Parameters()
    where = within(store, wanted, parameters) if start_ns is None else between(wanted, start_ns, start_ns, parameters)
    text = (
        f"SELECT {rows.select(_KEYS)} FROM {rows.table(store)} WHERE {where} "
        f"AND SpanId = {parameters.text(own)} ORDER BY Timestamp ASC LIMIT 1"
    )
    found, judged = both(lambda: store.query(text, parameters.values).rows,
                         lambda: scores.scores(store, wanted, span_ids=(own, ""), start_ns=parameters.start_ns, limit=SCORES_MAX))
    if not found:
        return None
    row = _span(found[0])
    if _diffuses(row):
        row["diffusion"] = _steps(store, wanted, row["start_ns"], row["start_ns"]).get(own)
    # A trace is judged at its root; what judges the span itself comes first.
    of_trace = [] if row["parent_span_id"] else [score for score in judged if not score["span_id"]]
    return {**row, "scores": [*(score for score in judged if score["span_id"]), *of_trace]}


def within(store: Store, trace_id: str, parameters: Parameters) -> str:
    """SQL condition: rows of this trace, bound to the seconds in which it happened where they are known. Raises StoreError."""
    times = _times(store, trace_id)
    if times is None:
        return f"TraceId = {parameters.text(trace_id)}"
    return between(trace_id, times[0], times[1] - 1, parameters)


def between(trace_id: str, first_ns: int, last_ns: int, parameters: Parameters) -> str:
    """SQL condition: rows of this trace whose spans start from the first to the last of these moments, both included."""
    parameters.start_ns, parameters.end_ns = first_ns, last_ns + 1
    first, last = parameters.bind(first_ns, "Int64"), parameters.bind(last_ns, "Int64")
    return (f"TraceId = {parameters.text(trace_id)} AND Timestamp >= fromUnixTimestamp64Nano({first}) "
            f"AND Timestamp <= fromUnixTimestamp64Nano({last})")


def _diffuses(span: Mapping[str, Any]) -> bool:
    return c.DIFFUSION_PIPELINE in span["attributes"] or c.DIFFUSION_STEPS in span["attributes"]


def _steps(store: Store, trace_id: str, first_ns: int, last_ns: int) -> dict[str, Any]:
    """Span id -> step curves of the trace's diffusion spans, which start between these moments."""
    parameters = Parameters()
    text = (
        f"SELECT SpanId AS span_id, {rows.select(series.STEPS)} FROM {rows.table(store, TOKENS.name)} "
        f"WHERE {between(trace_id, first_ns, last_ns, parameters)} AND SeqIndex = 0 LIMIT 1 BY SpanId"
    )
    keys = ["span_id", *(key for key, _ in series.STEPS)]
    found = [dict(zip(keys, row, strict=True)) for row in store.query(text, parameters.values).rows]
    return {str(row["span_id"]): series.steps(row) for row in found}


def _times(store: Store, trace_id: str) -> tuple[int, int] | None:
    """First and last second of the trace in nanoseconds, the end excluded; None when the table of times does not know it."""
    parameters = Parameters()
    text = (
        f"SELECT count(), toUnixTimestamp(min(Start)), toUnixTimestamp(max(End)) FROM {rows.table(store, TRACE_TIMES.name)} "
        f"WHERE TraceId = {parameters.text(trace_id)}"
    )
    count, first, last = store.query(text, parameters.values).rows[0]
    return (int(first) * 10**9, (int(last) + 1) * 10**9) if count else None


def _span(values: Sequence[Any]) -> dict[str, Any]:
    row = rows.whole(rows.as_dict([key for key, _ in _KEYS], values))
    events = zip(row.pop("event_times"), row.pop("event_names"), row.pop("event_attributes"), strict=True)
    links = zip(row.pop("link_traces"), row.pop("link_spans"), row.pop("link_states"), row.pop("link_attributes"), strict=True)
    row["scope"] = {"name": row.pop("scope_name"), "version": row.pop("scope_version")}
    row["events"] = [{"time_ns": time_ns, "name": name, "attributes": attributes} for time_ns, name, attributes in events]
    row["links"] = [
        {"trace_id": trace_id, "span_id": span_id, "trace_state": state, "attributes": attributes}
        for trace_id, span_id, state, attributes in links
    ]
    return row


def locate(store: Store, text: str) -> tuple[Literal["trace", "gen"], str] | tuple[Literal["span"], str, str] | None:
    """Where a pasted id leads: ("trace", trace_id), ("gen", span_id) for a span with token series, ("span", trace_id, span_id).

    Takes 32 or 16 hex digits of either case, or a W3C traceparent; None for other text and unknown ids. Raises StoreError.
    """
    wanted = text.strip().lower()
    if parent := _TRACEPARENT.fullmatch(wanted):
        wanted = parent.group(1)
    parameters = Parameters()
    if TRACE_ID.fullmatch(wanted):
        condition = f"TraceId = {parameters.text(wanted)} LIMIT 1"
        known = any(store.query(f"SELECT 1 FROM {rows.table(store, name)} WHERE {condition}", parameters.values).rows
                    for name in (TRACE_TIMES.name, "otel_traces"))
        return ("trace", wanted) if known else None
    if not _SPAN_ID.fullmatch(wanted):
        return None
    condition = f"SpanId = {parameters.text(wanted)} LIMIT 1"
    spans = store.query(f"SELECT TraceId FROM {rows.table(store)} WHERE {condition}", parameters.values).rows
    if not spans:
        return None
    tokens = store.query(f"SELECT 1 FROM {rows.table(store, TOKENS.name)} WHERE {condition}", parameters.values).rows
    return ("gen", wanted) if tokens else ("span", str(spans[0][0]), wanted)
