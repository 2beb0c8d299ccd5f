"""Searching by aggregates of token series, against numpy over the same rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from cutaway_collector.blocks import Strings
from cutaway_collector.columns import TOKENS
from cutaway_collector.contracts import Store
from cutaway_collector.errors import QueryError
from cutaway_collector.search import SearchRequest, explain, find
from cutaway_collector.search.aggregates import AGGREGATES, SERIES
from cutaway_collector.search.tenants import TenantStore
from search_helpers import START_NS, Span, spans_block, stored
from token_series_helpers import Row, tokens

LAYERS = "cutaway.attention.layers"
Floats = npt.NDArray[np.float64]


def _rows() -> list[Row]:
    """Lengths from 0 up, several sequences, no numbers among them; layers all, sampled and none; heads with and without means."""
    dice = np.random.default_rng(4)
    rows = [Row(1), Row(2, (math.nan,)), Row(3, (1.0, math.inf, 2.0, math.nan)), Row(4, (-0.5,), (0,))]
    for number in range(5, 25):
        for sequence in range(int(dice.integers(1, 4))):
            length = int(dice.integers(1, 30))
            surprisal = tuple(float(value) for value in dice.gamma(1, 3, length).astype(np.float32))
            rows.append(Row(number, surprisal, tuple(int(value) for value in dice.integers(0, 9, length)), sequence=sequence))
    for number in range(30, 50):
        layers, heads, length = 4, 3, int(dice.integers(1, 6))
        cube = dice.gamma(2, 1, (length, layers, heads)).astype(np.float32)
        named = None if number % 2 else tuple(sorted(int(value) for value in dice.choice(12, layers, replace=False)))
        form = number % 5
        rows.append(Row(number, tuple(float(value) for value in dice.random(length)), mean=None if form == 0 else cube.mean(2),
                        every=None if form == 1 else cube, named=named))
    # What a sender says of its layers does not fit what it sent.
    rows.append(Row(50, (1.0, 2.0), mean=np.ones((2, 4), np.float32), named=(0, 3)))
    return rows


ROWS = _rows()
TENANTS = [Row(60, (50.0, 60.0), tenant="acme"), Row(60, (90.0,), sequence=1, tenant="zoo")]
MODEL = {"gen_ai.request.model": "m"}
NAMED = {row.span: {LAYERS: str(list(row.named))} for row in ROWS if row.named is not None}
SPANS = [Span(number, attributes=MODEL | NAMED.get(number, {})) for number in range(1, 51)]
BARE = [Span(70, "plain")]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    acme = spans_block([Span(60)])
    acme.columns["TenantId"] = Strings.of(["acme"])
    # Sent twice: once as it is, once with half of the rows.
    blocks = [tokens(ROWS), tokens(ROWS[::2]), acme, tokens(TENANTS)]
    with stored(Path(tmp_path_factory.mktemp("search-aggregates")), SPANS + BARE, *blocks) as opened:
        yield opened


def attention(row: Row, layer: int | None, head: int | None) -> Floats:
    """The attention values of a row that a question is about."""
    if head is not None:
        values = None if row.every is None or head >= row.every.shape[2] else row.every[:, :, head]
    else:
        values = row.mean if row.mean is not None else None if row.every is None else row.every.mean(2)
    if values is None:
        return np.empty(0)
    if layer is not None:
        if row.named is not None and len(row.named) != values.shape[1]:
            return np.empty(0)
        places = list(range(values.shape[1])) if row.named is None else list(row.named)
        if layer not in places:
            return np.empty(0)
        values = values[:, places.index(layer)]
    return np.asarray(values, np.float64).ravel()


def of_spans(read: Callable[[Row], Floats]) -> dict[int, Floats]:
    """Finite values by span, of those that have any."""
    found: dict[int, list[Floats]] = {}
    for row in ROWS:
        values = read(row)
        found.setdefault(row.span, []).append(values[np.isfinite(values)])
    joined = {span: np.concatenate(parts) for span, parts in found.items()}
    return {span: values for span, values in joined.items() if values.size}


SURPRISAL = of_spans(lambda row: np.asarray(row.surprisal, np.float32).astype(np.float64))
RANK = of_spans(lambda row: np.asarray(row.ranks, np.float64))
ORACLE: dict[str, Callable[[Floats], float]] = {
    "max": np.max, "min": np.min, "mean": np.mean, "p50": lambda v: float(np.percentile(v, 50)),
    "p95": lambda v: float(np.percentile(v, 95)), "p99": lambda v: float(np.percentile(v, 99)), "std": np.std, "count": len,
}


def found(store: Store, query: str) -> set[int]:
    rows = find(store, SearchRequest(q=query, start_ns=START_NS, end_ns=START_NS + 10**9, limit=500), rows_max=500)["rows"]
    return {int(row["span_id"], 16) for row in rows} - {60}


def between(values: dict[int, float]) -> float:
    """A number that half of them exceed, and none is near."""
    ordered = sorted(set(values.values()))
    gaps = [(high - low, (low + high) / 2) for low, high in itertools.pairwise(ordered)]
    return max(gaps[len(gaps) // 4 : -len(gaps) // 4 or None])[1]


@pytest.mark.parametrize("aggregate", [name for name in AGGREGATES if name not in ("max", "mean")])
@pytest.mark.parametrize(("name", "series"), [("surprisal", SURPRISAL), ("rank", RANK)])
def test_each_aggregate_is_over_all_finite_values_of_a_span(
    store: Store, name: str, series: dict[int, Floats], aggregate: str,
) -> None:
    """Of all of its sequences, each once; percentiles lie between two values; a span without values matches nothing."""
    figures = {span: float(ORACLE[aggregate](values)) for span, values in series.items()}
    limit = between(figures)
    above = {span for span, value in figures.items() if value > limit}
    assert 0 < len(above) < len(figures)
    query = f"{name}.{aggregate}:>{limit!r}"
    assert found(store, query) == above
    assert found(store, f"-{query}") == {span.number for span in SPANS + BARE} - above
    assert found(store, f"{name}.{aggregate}:<={limit!r}") == set(figures) - above
    assert found(store, f"has:{name}.{aggregate}") == found(store, f"{name}.{aggregate}:*") == set(figures)


@pytest.mark.parametrize("aggregate", ["max", "mean"])
def test_rank_has_the_aggregates_that_surprisal_has_as_columns(store: Store, aggregate: str) -> None:
    """`surprisal.max` is a column of otel_traces, and the tokens are not read for it; `rank.max` is not."""
    figures = {span: float(ORACLE[aggregate](values)) for span, values in RANK.items()}
    assert found(store, f"rank.{aggregate}:>=4") == {span for span, value in figures.items() if value >= 4}
    sql = find(store, SearchRequest(q=f"surprisal.{aggregate}:>1"), rows_max=5)["stats"]["sql"]
    assert TOKENS.name not in sql
    assert "Surprisal" in sql


@pytest.mark.parametrize("name", ["attn.norm", "attn.sink", "attn.last", "attn.lookback", "attn.cross", "attn.entropy", "entropy"])
def test_a_mean_that_is_a_column_is_read_from_it(store: Store, name: str) -> None:
    """Whatever it is called."""
    assert TOKENS.name not in find(store, SearchRequest(q=f"{name}.mean:>1"), rows_max=5)["stats"]["sql"]
    assert TOKENS.name in find(store, SearchRequest(q=f"{name}.p95:>1"), rows_max=5)["stats"]["sql"]


@pytest.mark.parametrize(("bound", "test"), [
    (">4", lambda v: v > 4), (">= 4", lambda v: v >= 4), ("<1", lambda v: v < 1), ("!=1", lambda v: v != 1),
    ("=1", lambda v: v == 1), (">6bits", lambda v: v > 6 * math.log(2)),
])
def test_count_counts_what_its_bound_says(store: Store, bound: str, test: Callable[[Floats], npt.NDArray[np.bool_]]) -> None:
    """With units; a span with values of which none counts has 0, one without values has no number."""
    figures = {span: int(test(values).sum()) for span, values in SURPRISAL.items()}
    assert found(store, f"surprisal.count({bound}):>=3") == {span for span, value in figures.items() if value >= 3}
    assert found(store, f"surprisal.count({bound}):0") == {span for span, value in figures.items() if value == 0}


@pytest.mark.parametrize("head", [None, 0, 2, 3])
@pytest.mark.parametrize("layer", [None, 0, 2, 3, 5, 11, 12])
def test_a_layer_or_head_that_was_not_recorded_matches_nothing(store: Store, layer: int | None, head: int | None) -> None:
    """All layers, sampled ones by their names in the model, heads with and without means, a sender that contradicts itself."""
    if layer is None and head is None:
        axes = ""
    else:
        axes = "[" + ",".join(f"{name}={place}" for name, place in (("layer", layer), ("head", head)) if place is not None) + "]"
    series = of_spans(lambda row: attention(row, layer, head))
    for aggregate in ("p50", "max"):
        figures = {span: float(ORACLE[aggregate](values)) for span, values in series.items()}
        limit = between(figures) if len(figures) > 3 else 1.0
        above = {span for span, value in figures.items() if value > limit}
        assert found(store, f"attn.entropy{axes}.{aggregate}:>{limit!r}") == above
        assert found(store, f"has:attn.entropy{axes}.{aggregate}") == set(figures)
    if axes:
        means = {span: float(np.mean(values)) for span, values in series.items()}
        assert found(store, f"attn{axes}:<2") == found(store, f"attn.entropy{axes}.mean:<2") == {
            span for span, value in means.items() if value < 2}


def test_the_cases_tell_good_from_bad() -> None:
    """Some spans recorded a layer and some did not; some recorded heads."""
    everything = of_spans(lambda row: attention(row, None, None))
    for layer in (2, 11):
        assert 0 < len(of_spans(lambda row, layer=layer: attention(row, layer, None))) < len(everything)  # type: ignore[misc]  # a default binds the loop's layer
    assert 0 < len(of_spans(lambda row: attention(row, None, 0))) < len(everything)


@pytest.mark.parametrize(("query", "test"), [
    ("surprisal.p50:[1 TO 2]", lambda v: 1 <= v <= 2), ("surprisal.p50:[* TO 2]", lambda v: v <= 2),
    ("surprisal.p50:!=1.5", lambda v: v != 1.5), ("surprisal.p50:(1.5, -0.5)", lambda v: v in (1.5, -0.5)),
    ("surprisal.p50:-0.5", lambda v: v == -0.5), ("surprisal.p50>1", lambda v: v > 1),
    ("surprisal.p50:>1bits", lambda v: v > math.log(2)),
])
def test_values_are_compared_like_those_of_fields(store: Store, query: str, test: Callable[[float], bool]) -> None:
    """Ranges, lists, inequality and units."""
    assert found(store, query) == {span for span, values in SURPRISAL.items() if test(float(np.percentile(values, 50)))}


def test_rows_are_sorted_by_an_aggregate(store: Store) -> None:
    """Page by page; spans without the figure come last."""
    seen: list[int] = []
    after: str | None = ""
    while after is not None:
        request = SearchRequest(q="-span_id:000000000000003c", sort="-surprisal.p95", limit=7, after=after)
        page = find(store, request, rows_max=500)
        seen += [int(row["span_id"], 16) for row in page["rows"]]
        after = page["next"]
    figures = [float(np.percentile(SURPRISAL[span], 95)) for span in seen if span in SURPRISAL]
    assert figures == sorted(figures, reverse=True)
    assert set(seen[: len(figures)]) == set(SURPRISAL)
    assert len(seen) == len(SPANS + BARE)


@pytest.mark.parametrize("sort", ["", "-surprisal.p50", "-rank.min"])
def test_aggregates_are_columns_of_rows(store: Store, sort: str) -> None:
    """Whatever the rows are sorted by, each has the figures that were asked for, beside a field and an attribute; else none."""
    names = ("surprisal.p95", "rank.p50", "attn.entropy[layer=2,head=1].mean", "surprisal.count(>8bits)", "duration", LAYERS)
    rows = find(store, SearchRequest(q="-span_id:000000000000003c", sort=sort, limit=500, columns=names), rows_max=500)["rows"]
    shown = {int(row["span_id"], 16): row["columns"] for row in rows}
    cell = of_spans(lambda row: attention(row, 2, 1))
    expected: dict[str, dict[int, float]] = {
        "surprisal.p95": {span: float(np.percentile(one, 95)) for span, one in SURPRISAL.items()},
        "rank.p50": {span: float(np.median(one)) for span, one in RANK.items()},
        "attn.entropy[layer=2,head=1].mean": {span: float(one.mean()) for span, one in cell.items()},
        "surprisal.count(>8bits)": {span: int((one > 8 * math.log(2)).sum()) for span, one in SURPRISAL.items()},
    }

    assert set(shown) == {*range(1, 51), 70}
    assert cell
    for name, figures in expected.items():
        assert {span: row[name] for span, row in shown.items() if row[name] is not None} == pytest.approx(figures, rel=1e-5), name
    assert all(row["duration"] > 0 for row in shown.values())
    assert {span: row[LAYERS] for span, row in shown.items() if row[LAYERS]} == {span: one[LAYERS] for span, one in NAMED.items()}


def test_a_tenant_is_found_by_its_own_tokens(store: Store) -> None:
    """Another tenant's row under the same ids says nothing."""
    acme = TenantStore(store, lambda: "acme")
    assert len(find(acme, SearchRequest(q="surprisal.p99:>40"), rows_max=5)["rows"]) == 1
    assert find(acme, SearchRequest(q="surprisal.p99:>61"), rows_max=5)["rows"] == []


@pytest.mark.parametrize("series", SERIES, ids=lambda series: series.name)
def test_every_series_runs_on_the_real_schema(store: Store, series: object) -> None:
    """With every aggregate, and with a layer and a head where it has them."""
    assert series in SERIES
    name = series.name  # type: ignore[attr-defined]  # pytest hands parameters over untyped
    for aggregate in AGGREGATES:
        find(store, SearchRequest(q=f"{name}.{aggregate}:>1"), rows_max=5)
    if series.layers:  # type: ignore[attr-defined]  # pytest hands parameters over untyped
        find(store, SearchRequest(q=f"{name}[head=1].p95:>1"), rows_max=5)
    if series.layers and name != "attn.cross":  # type: ignore[attr-defined]  # pytest hands parameters over untyped
        find(store, SearchRequest(q=f"{name}[layer=1, head=1].p95:>1"), rows_max=5)


@pytest.mark.parametrize(("query", "column", "hint"), [
    ("attn.entropy[lyer=3].mean:<1", 13, "did you mean layer=?"), ("is:ok attn.entropy[layer=x].mean:<1", 19, "[layer=3].mean"),
    ("surprisal[layer=3].max:>1", 10, "surprisal.max"), ("attn[layer=3].p59:>1", 14, "did you mean .p99?"),
    ("surprisal.max(>3):>1", 14, "surprisal.count(>8)"), ("surprisal.count(>x):>1", 17, "surprisal:>8bits"),
    ("surprisal.count(>8furlongs):>1", 17, "leave the unit out"), ("attn[layer=1,layer=2]:>1", 13, "[layer=3]"),
    ("attn[layer=70000]:>1", 5, "[layer=3]"), ("attn[layer=-1]:>1", 5, "[layer=3]"),
    ("attn.cross[layer=1]:>1", 11, "attn.cross.max"),
    ("surprisal.p95:/a/", 14, "surprisal.p95:>8bits"), ("surprisal.p95:high", 14, "surprisal.p95:>8bits"),
    ("surprisal.p95:>6furlongs", 15, "leave the unit out"), ("surprisal.p95:>[1 TO 2]", 16, "try surprisal.p95:>20"),
])
def test_what_cannot_be_asked_is_told_with_its_place(store: Store, query: str, column: int, hint: str) -> None:
    """Where, why, and what to write instead."""
    with pytest.raises(QueryError) as caught:
        find(store, SearchRequest(q=query), rows_max=5)
    assert (caught.value.column, hint in caught.value.hint) == (column, True), (caught.value, caught.value.hint)


def test_a_name_that_is_no_aggregate_is_an_attribute_with_a_warning(store: Store) -> None:
    """As with any name that is not known; a scope keeps the warning away."""
    warnings = find(store, SearchRequest(q="surprisal.p59:>1"), rows_max=5)["stats"]["warnings"]
    assert warnings == ["`surprisal.p59` is no field: it is searched as an attribute. Did you mean `surprisal.p99`?"]
    assert find(store, SearchRequest(q="span.surprisal.p59:>1"), rows_max=5)["stats"]["warnings"] == []


@pytest.mark.parametrize(("query", "sentence"), [
    ("surprisal.p95:>6bits", "Spans whose 95th percentile of surprisal is above 6bits."),
    ("-surprisal.count(>8bits):>=3", "Spans whose number of tokens with surprisal above 8bits is missing or not at least 3."),
    ("attn.entropy[layer=3,head=2].mean:<0.1",
     "Spans whose mean attention entropy of layer 3, head 2 (where it was recorded) is below 0.1 nats."),
    ("has:margin.min", "Spans that have smallest margin."), ("sink.mean:>1", "Spans whose mean sink mass is above 1."),
])
def test_aggregates_are_said_in_english(query: str, sentence: str) -> None:
    """What was not recorded is said to be left out."""
    assert explain(query) == sentence
