"""How the models do in a span of time: one row each, and a row a bucket for the curves; bounded SELECTs over spans.

Not the comparing with yesterday, which is the comparison flow's, and not alerts. What watches found (windows, drift) is read from
where they keep it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from cutaway_collector.columns import DRIFT, WINDOW_SCORES
from cutaway_collector.contracts import Store
from cutaway_collector.search import fields, rows
from cutaway_collector.search.parameters import Parameters
from cutaway_collector.search.window import Window

MODELS_MAX: Final = 12
BUCKETS: Final = 48
_TPS: Final = next(field.expression for field in fields.FIELDS if field.name == "tps")


class Model(NamedTuple):
    """One model's spans in a window. Medians of numbers, None where no span has one; times in seconds, information in nats."""

    name: str
    spans: int
    errors: int
    output_tokens: int
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    tokens_per_s: float | None
    perplexity: float | None
    surprisal: float | None
    attention_entropy: float | None


class Curves(NamedTuple):
    """One model by bucket: spans, errors among them, and the median time to first token in seconds (None without one)."""

    spans: tuple[int, ...]
    errors: tuple[int, ...]
    ttft_s: tuple[float | None, ...]


class Shifted(NamedTuple):
    """The newest window of a baseline: attributes that shifted, of how many, and when the window ended."""

    service: str
    model: str
    baseline: str
    end_ns: int
    shifted: int
    attributes: int


def newest_ns(store: Store) -> int:
    """Start of the newest span that is stored, nanoseconds since 1970; 0 where nothing is. Raises StoreError."""
    found = store.query(f"SELECT toUnixTimestamp64Nano(max(Timestamp)) FROM {rows.table(store)}").rows
    return int(found[0][0]) if found else 0


def models(store: Store, span: Window) -> tuple[list[Model], int]:
    """(at most MODELS_MAX models, those with most spans first; how many models there are). Raises StoreError."""
    parameters = Parameters(database=store.database)
    middle = ", ".join(f"quantileTDigestIf(0.5)({column}, isFinite({column}))" for column in
                       (_TPS, "Perplexity", "SurprisalMean", "AttentionEntropyMean"))
    text = (
        "SELECT GenAiModel, count() AS spans, countIf(StatusCode = 'Error'), sum(ifNull(OutputTokens, 0)), "
        "quantilesTDigestIf(0.5, 0.95)(TimeToFirstTokenS, isFinite(TimeToFirstTokenS)), "
        f"{middle}, count() OVER () {_most_used(store, span, parameters)}"
    )
    found = store.query(text, parameters.values).rows
    listed = [Model(str(name), int(spans), int(errors), int(tokens), *(_known(value) for value in (*first, *others)))
              for name, spans, errors, tokens, first, *others, _ in found]
    return listed, int(found[0][-1]) if found else 0


def names(store: Store, span: Window) -> list[str]:
    """Those that `models` lists, in its order, without their figures. Raises StoreError."""
    parameters = Parameters()
    text = f"SELECT GenAiModel, count() AS spans {_most_used(store, span, parameters)}"
    return [str(name) for name, _ in store.query(text, parameters.values).rows]


def _most_used(store: Store, span: Window, parameters: Parameters) -> str:
    return (f"FROM {rows.table(store)} WHERE {span.condition(parameters)} AND GenAiModel != '' "
            f"GROUP BY GenAiModel ORDER BY spans DESC, GenAiModel LIMIT {MODELS_MAX}")


def _known(value: Any) -> float | None:
    """None for NaN, which a quantile of nothing is."""
    return None if value is None or value != value else float(value)


def curves(store: Store, span: Window, names: Sequence[str]) -> dict[str, Curves]:
    """Model -> its BUCKETS buckets, all of one width. Raises StoreError."""
    parameters = Parameters(database=store.database)
    where = span.condition(parameters)
    start, width = (parameters.bind(value, "Int64") for value in (span.start_ns, bucket_ns(span)))
    chosen = ", ".join(parameters.text(name) for name in names) or "''"
    text = (
        f"SELECT GenAiModel, intDiv(toUnixTimestamp64Nano(Timestamp) - {start}, {width}) AS bucket, count(), "
        "countIf(StatusCode = 'Error'), quantileTDigestIf(0.5)(TimeToFirstTokenS, isFinite(TimeToFirstTokenS)) "
        f"FROM {rows.table(store)} WHERE {where} AND GenAiModel IN ({chosen}) GROUP BY GenAiModel, bucket"
    )
    spans = {name: [0] * BUCKETS for name in names}
    errors = {name: [0] * BUCKETS for name in names}
    first: dict[str, list[float | None]] = {name: [None] * BUCKETS for name in names}
    for name, bucket, count, failed, ttft in store.query(text, parameters.values).rows:
        place = min(BUCKETS - 1, int(bucket))
        spans[name][place], errors[name][place], first[name][place] = int(count), int(failed), _known(ttft)
    return {name: Curves(tuple(spans[name]), tuple(errors[name]), tuple(first[name])) for name in names}


def bucket_ns(span: Window) -> int:
    """Width of a bucket."""
    return max(1, -(-(span.end_ns - span.start_ns) // BUCKETS))


def labelled(store: Store, span: Window) -> dict[str, dict[str, int]]:
    """Model -> label of a window score (collapsed, duplicates, ...) -> windows that have it. Raises StoreError."""
    parameters = Parameters(database=store.database)
    start, end = (parameters.bind(ns // 10**9, "Int64") for ns in (span.start_ns, span.end_ns))
    text = (f"SELECT ResponseModel, Label, uniqExact(WindowStart) FROM {rows.table(store, WINDOW_SCORES.name)} FINAL "
            f"WHERE Label != '' AND toUnixTimestamp(WindowStart) >= {start} AND toUnixTimestamp(WindowStart) < {end} "
            "GROUP BY ResponseModel, Label ORDER BY ResponseModel, Label LIMIT 1000")
    found: dict[str, dict[str, int]] = {}
    for model, label, windows in store.query(text, parameters.values).rows:
        found.setdefault(str(model), {})[str(label)] = int(windows)
    return found


def drifted(store: Store, span: Window) -> list[Shifted]:
    """The newest compared window of every baseline that ends within the span, most shifted first. Raises StoreError."""
    parameters = Parameters(database=store.database)
    start, end = (parameters.bind(ns, "Int64") for ns in (span.start_ns, span.end_ns))
    text = ("SELECT ServiceName, GenAiModel, BaselineId, toUnixTimestamp64Nano(WindowEnd) AS end, countIf(Label = 'shifted'), "
            f"count() FROM {rows.table(store, DRIFT.name)} FINAL WHERE WindowEnd > fromUnixTimestamp64Nano({start}) "
            f"AND WindowEnd <= fromUnixTimestamp64Nano({end}) GROUP BY ServiceName, GenAiModel, BaselineId, WindowEnd "
            "ORDER BY end DESC LIMIT 1 BY BaselineId LIMIT 200")
    found = [Shifted(str(service), str(model), str(baseline), int(at), int(moved), int(attributes))
             for service, model, baseline, at, moved, attributes in store.query(text, parameters.values).rows]
    return sorted(found, key=lambda one: (-one.shifted, one.model, one.service))
