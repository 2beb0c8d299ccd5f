"""The skeleton of a trace: what drawing all of its spans takes, as columns, and what else a drawing of the whole trace asks for.

Not the spans themselves: attributes, events, links and arrays are read a span at a time, by `trace.span`. A trace of 20 000 spans
whose attributes are read takes seconds; its skeleton a tenth of one.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cutaway import conventions as c
from cutaway_collector.columns import TOKENS
from cutaway_collector.contracts import Store
from cutaway_collector.errors import QueryError
from cutaway_collector.search import english, fields, language, rows, sql
from cutaway_collector.search.sql import Parameters
from cutaway_collector.search.trace import TRACE_ID, between, within

EVENTS_DRAWN_MAX: Final = 32
"""Events a span in a drawing; the opened span has all."""
STRIPES_MAX: Final = 1000
"""Generations of one trace with a stripe of surprisal, the earliest."""
STRIPE_BINS: Final = 32

_COLUMNS: Final[tuple[tuple[str, str], ...]] = (
    ("span_ids", "SpanId"),
    ("parent_ids", "ParentSpanId"),
    ("names", "SpanName"),
    ("kinds", "SpanKind"),
    ("services", "ServiceName"),
    ("starts_ns", "toUnixTimestamp64Nano(Timestamp)"),
    ("durations_ns", "Duration"),
    ("failed", "StatusCode = 'Error'"),
    ("models", "GenAiModel"),
    ("operations", "GenAiOperation"),
    ("input_tokens", "ifNull(toInt64(InputTokens), -1)"),
    ("output_tokens", "ifNull(toInt64(OutputTokens), -1)"),
    ("ttfts_s", "ifNull(TimeToFirstTokenS, nan)"),
    ("perplexities", "ifNull(Perplexity, nan)"),
    ("surprisal_means", "ifNull(SurprisalMean, nan)"),
    ("surprisal_maxima", "ifNull(SurprisalMax, nan)"),
)
_EVENTS: Final[tuple[tuple[str, str], ...]] = (
    ("event_offsets_ns", "arrayMap(moment -> toUnixTimestamp64Nano(moment) - toUnixTimestamp64Nano(Timestamp), "
                         f"arraySlice(`Events.Timestamp`, 1, {EVENTS_DRAWN_MAX}))"),
    ("event_failures", f"arrayMap(event -> event = 'exception', arraySlice(`Events.Name`, 1, {EVENTS_DRAWN_MAX}))"),
)
_NUMBERS: Final = ("input_tokens", "output_tokens", "ttfts_s", "perplexities", "surprisal_means", "surprisal_maxima")
"""Columns in which NaN or a negative number stands for "unknown"; none of them can be negative."""


@dataclass(frozen=True, slots=True)
class Skeleton:
    """Spans as columns of equal length, ordered by start; times in nanoseconds since 1970, numbers None where unknown.

    events: of the spans that have some, by their place: nanoseconds from the start of the span, and whether it is an exception.
    truncated: the trace has later spans that were not read.
    """

    trace_id: str
    span_ids: Sequence[str]
    parent_ids: Sequence[str]
    names: Sequence[str]
    kinds: Sequence[str]
    services: Sequence[str]
    starts_ns: Sequence[int]
    durations_ns: Sequence[int]
    failed: Sequence[int]
    models: Sequence[str]
    operations: Sequence[str]
    input_tokens: Sequence[int | None]
    output_tokens: Sequence[int | None]
    ttfts_s: Sequence[float | None]
    perplexities: Sequence[float | None]
    surprisal_means: Sequence[float | None]
    surprisal_maxima: Sequence[float | None]
    events: Mapping[int, tuple[Sequence[int], Sequence[int]]]
    truncated: bool

    def __len__(self) -> int:
        return len(self.span_ids)


@dataclass(frozen=True, slots=True)
class Stripe:
    """Surprisal along the decoding of one generation. bins: nats, the largest in each of STRIPE_BINS equal times, None for none.

    first_s, last_s: when its first and its last token came, in seconds from the start of the span.
    """

    first_s: float
    last_s: float
    bins: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Matches:
    """Spans of a trace that a query finds. explanation: the query in a sentence; warnings: sentences about its names."""

    span_ids: frozenset[str]
    explanation: str
    warnings: tuple[str, ...]


def skeleton(store: Store, trace_id: str, *, spans_max: int) -> Skeleton | None:
    """The earliest `spans_max` spans, each once; None when there is no such trace. Raises QueryError, StoreError."""
    if spans_max < 1:
        raise QueryError(f"a trace page has at least one span, spans_max is {spans_max}")
    wanted = trace_id.strip().lower()
    if not TRACE_ID.fullmatch(wanted):
        return None
    parameters = Parameters()
    spans = (
        f"SELECT {rows.select(_COLUMNS + _EVENTS)} FROM {rows.table(store)} WHERE {within(store, wanted, parameters)} "
        f"ORDER BY Timestamp ASC, SpanId ASC LIMIT 1 BY SpanId LIMIT {parameters.bind(spans_max + 1, 'UInt64')}"
    )
    # One row of flat arrays: the client takes three times as long to hand out a row a span. NULLs would be left out.
    flat = [f"groupArray({name})" for name, _ in _COLUMNS]
    flat += ["groupArray(length(event_offsets_ns))", *(f"arrayFlatten(groupArray({name}))" for name, _ in _EVENTS)]
    text = f"SELECT {', '.join(flat)} FROM ({spans})"
    found = store.query(text, parameters.values).rows
    if not found or not len(found[0][0]):
        return None
    *values, counts, offsets, failures = found[0]
    columns: dict[str, Any] = {name: column[:spans_max] for (name, _), column in zip(_COLUMNS, values, strict=True)}
    for name in _NUMBERS:
        columns[name] = [None if value != value or value < 0 else value for value in columns[name]]
    ends = itertools.accumulate(counts)
    events = {span: (offsets[end - count : end], failures[end - count : end])
              for span, (count, end) in enumerate(zip(counts, ends, strict=True)) if count and span < spans_max}
    return Skeleton(trace_id=wanted, events=events, truncated=len(values[0]) > spans_max, **columns)


def _of(spans: Skeleton, parameters: Parameters) -> str:
    """SQL condition: rows of the trace from its first span to the last that was read."""
    return between(spans.trace_id, spans.starts_ns[0], spans.starts_ns[-1], parameters)


def stripes(store: Store, spans: Skeleton) -> dict[str, Stripe]:
    """Span id -> stripe of the first sequence, for the generations whose surprisal and pace are stored. Raises StoreError.

    A token fills the time since the one before it. The first token is left out: its time is the wait for it.
    """
    parameters = Parameters()
    where = _of(spans, parameters)
    reach = f"(last - first) / {STRIPE_BINS}"
    text = (
        "WITH arrayCumSum(arrayMap(gap -> if(isFinite(gap), toFloat64(gap), 0.), InterTokenS)) AS times, "
        "times[1] AS first, times[-1] AS last, arrayPopBack(times) AS begins, arrayPopFront(times) AS ends, "
        "arrayPopFront(Surprisals) AS values "
        "SELECT SpanId, first, last, arrayMap(bin -> arrayMax(arrayMap((nats, begin, end) -> "
        f"if(isFinite(nats) AND begin < first + (bin + 1) * {reach} AND end > first + bin * {reach}, toFloat64(nats), -1.), "
        f"values, begins, ends)), range({STRIPE_BINS})) "
        f"FROM {rows.table(store, TOKENS.name)} WHERE {where} AND SeqIndex = 0 AND length(Surprisals) > 1 "
        f"AND length(Surprisals) = length(InterTokenS) ORDER BY Timestamp ASC, SpanId ASC LIMIT 1 BY SpanId "
        f"LIMIT {parameters.bind(STRIPES_MAX, 'UInt64')}"
    )
    return {
        str(span_id): Stripe(float(first), float(last), tuple(None if value < 0 else float(value) for value in bins))
        for span_id, first, last, bins in store.query(text, parameters.values).rows
    }


def energy_j(store: Store, spans: Skeleton) -> float | None:
    """Joules that GPUs took during those of the spans that say so, summed; None when none does. Raises StoreError.

    GPUs are measured whole: calls that run at once count what they share more than once.
    """
    field = fields.lookup("energy")
    assert field is not None  # the registry has it: a test of the registry would fail
    parameters = Parameters()
    where = _of(spans, parameters)
    key = parameters.text(c.MACHINE_GPU_ENERGY)
    text = f"SELECT count(), sum({field.expression}) FROM {rows.table(store)} WHERE {where} AND mapContains(SpanAttributes, {key})"
    count, joules = store.query(text, parameters.values).rows[0]
    return float(joules) if count and joules is not None else None


def matches(store: Store, trace_id: str, query: str, *, spans_max: int) -> Matches:
    """What a query in the search language finds among the spans of one trace. Raises QueryError, StoreError."""
    tree = language.parse(query)
    parameters = Parameters(database=store.database)
    where = within(store, trace_id, parameters)
    text = (
        f"SELECT DISTINCT SpanId FROM {rows.table(store)} WHERE {where} AND {sql.condition(tree, parameters)} "
        f"LIMIT {parameters.bind(spans_max, 'UInt64')}"
    )
    found = rows.run(store, text, parameters.values, tree).rows
    return Matches(frozenset(str(row[0]) for row in found), english.explain(query), tuple(english.warnings(tree)))
