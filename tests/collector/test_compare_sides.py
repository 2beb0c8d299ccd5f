"""Comparing two sides over a real store: what is counted, drawn, ranked and looked into, against NumPy over the same spans."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

import search_helpers as spans_of
import web_helpers as world
from cutaway_collector.blocks import Block, Lists, Strings
from cutaway_collector.comparison import Comparison, compare, sides
from cutaway_collector.contracts import Store
from cutaway_collector.search import compare as samples
from cutaway_collector.search.compare import CompareRequest, Key, SideError
from cutaway_collector.search.tenants import TenantStore
from search_helpers import Span

SPANS = 1200
LAYERS, HEADS = 4, 3
LATE_NS = spans_of.START_NS + 300 * 10**9
RNG = np.random.default_rng(12)
ON_NEW = RNG.random(SPANS) < 0.35
"""Spans on the machine `gpu-9`: slower, with another region; everything else of them is alike."""
DURATIONS = (RNG.gamma(4, 2.5e8, SPANS) * np.where(ON_NEW, 1.5, 1.0)).astype(np.int64)
REGIONS = np.where(ON_NEW & (RNG.random(SPANS) < 0.5), "eu-2", RNG.choice(["eu-1", "us-1", ""], SPANS))
LENGTHS = RNG.integers(5, 40, SPANS)
FAILED = RNG.random(SPANS) < 0.1
WORDS = ["the", " cat", " sat", " ⚡zap"]


def _span(place: int) -> Span:
    attributes = {
        spans_of.MODEL: "model-a" if place % 3 else "model-b", "gen_ai.operation.name": "chat",
        spans_of.OUTPUT: str(LENGTHS[place]),
        "request.id": f"r{place}", "note": "x" * 300 + str(place), "latency": str(place % 40), "top": str(place % 5),
        "cutaway.machine.gpu.energy": json.dumps([1.0 + place, 2.0])} | ({"region": str(REGIONS[place])} if REGIONS[place] else {})
    return Span(
        5000 + place, "chat", 7000 + place, 0, "tests", start_ns=spans_of.START_NS + place * 500_000_000,
        duration_ns=int(DURATIONS[place]), status="Error" if FAILED[place] else "Ok", attributes=attributes,
        resource={"host.name": "gpu-9" if ON_NEW[place] else f"gpu-{place % 4}", "service.name": "tests"})


ALL = [_span(place) for place in range(SPANS)]
TOKENED = 200
"""The first so many have token series."""
SERIES = [RNG.gamma(1.2, 0.8, LENGTHS[place]) * (1.3 if ON_NEW[place] else 1) for place in range(TOKENED)]
PIECES = [RNG.choice(WORDS, LENGTHS[place], p=[0.4, 0.3, 0.28, 0.02]) for place in range(TOKENED)]
for _place in range(TOKENED):
    # On gpu-9 one token strikes whenever it comes.
    SERIES[_place][(PIECES[_place] == " ⚡zap") & ON_NEW[_place]] = 9.0
CUBES = [RNG.gamma(3, 0.5, (LENGTHS[place], LAYERS, HEADS)) + (np.arange(LAYERS)[:, None] == 2) * ON_NEW[place]
         for place in range(TOKENED)]


def _flat(parts: list[np.ndarray], dtype: type) -> Lists:
    offsets = np.cumsum([0, *(part.size for part in parts)], dtype=np.int64)
    return Lists(offsets, np.concatenate([part.ravel() for part in parts]).astype(dtype))


def _tokens() -> Block:
    spans = ALL[:TOKENED]
    lengths = LENGTHS[:TOKENED]
    return Block("gen_ai_tokens", TOKENED, {
        "Timestamp": np.array([span.start_ns for span in spans], np.int64),
        "ServiceName": Strings.of([span.service for span in spans]),
        "GenAiModel": Strings.of([span.attributes[spans_of.MODEL] for span in spans]),
        "TraceId": Strings.of([span.trace_id for span in spans]), "SpanId": Strings.of([span.span_id for span in spans]),
        "SeqIndex": np.zeros(TOKENED, np.uint16), "InputTokens": np.full(TOKENED, 3, np.uint32),
        "OutputTokens": lengths.astype(np.uint32),
        "TokenIds": _flat([np.array([WORDS.index(piece) for piece in part]) for part in PIECES], np.uint32),
        "TokenTexts": Lists(np.cumsum([0, *lengths], dtype=np.int64),
                            Strings.of([str(piece) for part in PIECES for piece in part])),
        "Surprisals": _flat(SERIES, np.float32), "AttentionLayers": np.full(TOKENED, LAYERS, np.uint16),
        "AttentionHeads": np.full(TOKENED, HEADS, np.uint16), "AttentionEntropyHeads": _flat(CUBES, np.float32)})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with world.stored(tmp_path_factory.mktemp("compare") / "data", ALL, [_tokens()]) as opened:
        yield opened


@pytest.fixture(scope="module")
def found(store: Store) -> Comparison:
    """gpu-9 against the rest."""
    return compare(store, CompareRequest(a="host.name:gpu-9"))


def test_the_rest_is_what_the_query_leaves_over(found: Comparison) -> None:
    """Spans and errors of both sides, which have none in common."""
    assert (found.a.spans, found.b.spans, found.both) == (ON_NEW.sum(), SPANS - ON_NEW.sum(), 0)
    assert (found.a.errors, found.b.errors) == (FAILED[ON_NEW].sum(), FAILED[~ON_NEW].sum())


def test_what_was_planted_comes_first_and_nothing_else_is_claimed(found: Comparison) -> None:
    """The region and the durations differ; a shuffle of everything else is called chance."""
    differing = {card.key.name for card in found.cards if card.differs}

    assert found.cards[0].key == Key("span", "region")
    assert differing == {"region", "duration", "tps"}


def test_spans_without_an_attribute_are_a_value_of_their_own(found: Comparison) -> None:
    """Counted as missing, so that the shares of a side make one."""
    card = found.cards[0]

    assert card.missing == tuple(np.count_nonzero(REGIONS[side] == "") for side in (ON_NEW, ~ON_NEW))
    assert {value.text: (value.a, value.b) for value in card.values} == {
        name: tuple(np.count_nonzero(REGIONS[side] == name) for side in (ON_NEW, ~ON_NEW)) for name in ("eu-1", "eu-2", "us-1")}


def test_ids_and_long_texts_are_dropped_and_what_the_query_names_is_not_ranked(found: Comparison) -> None:
    """They are listed with the reason; an attribute that has the name of an alias is still an attribute."""
    ranked = {(card.key.scope, card.key.name) for card in found.cards}

    assert {key.name for key in found.left.identifiers} == {"request.id"}
    assert {key.name for key in found.left.named} == {"host.name"}
    assert {("span", "latency"), ("span", "top"), ("", "model"), ("", "energy"), ("", "duration")} <= ranked


def test_long_texts_that_begin_alike_are_one_value(found: Comparison) -> None:
    """Compared by their start: these are the same on every span."""
    assert "note" in {key.name for key in found.left.constant}


def test_the_metrics_are_medians_with_intervals_around_their_difference(found: Comparison) -> None:
    """As NumPy has them; the planted slowness is found, the rate of errors is not."""
    metrics = {one.name: one for one in found.metrics}
    duration, errors = metrics["duration"], metrics["errors"]
    wanted = [np.sort(DURATIONS[side])[int(np.ceil(side.sum() / 2)) - 1] for side in (ON_NEW, ~ON_NEW)]

    assert (duration.a, duration.b) == tuple(wanted)
    assert duration.interval is not None
    assert duration.interval.low < wanted[1] - wanted[0] < duration.interval.high < 0
    assert (duration.differs, errors.differs) == (True, False)
    assert (errors.a, errors.b) == pytest.approx((FAILED[ON_NEW].mean(), FAILED[~ON_NEW].mean()))


def test_examples_lead_to_spans_of_their_side_with_that_value(found: Comparison) -> None:
    """Each value has a span of each side that has it."""
    by_id = {span.span_id: span for span in ALL}
    for value in found.cards[0].values:
        for example, on_new in ((value.a_example, True), (value.b_example, False)):
            if example[1]:
                span = by_id[example[1]]
                assert span.attributes["region"] == value.text
                assert (span.resource["host.name"] == "gpu-9") == on_new
                assert span.trace_id == example[0]


def test_a_sample_is_stable_and_both_counts_are_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """About as many as asked for, the same ones again, and the number of all of them beside it."""
    monkeypatch.setattr(sides, "SPANS_SAMPLED", 200)
    one, again = (compare(store, CompareRequest(a="host.name:gpu-9"), look_inside=False) for _ in range(2))

    assert one.b.spans == SPANS - ON_NEW.sum()
    assert 140 <= one.b_sampled <= 260
    assert (one.cards, one.metrics) == (again.cards, again.metrics)


def test_two_queries_may_overlap_and_it_is_said(store: Store) -> None:
    """A span that is on both sides counts on both."""
    one = compare(store, CompareRequest(a="model:model-a", b="is:error"), look_inside=False)
    in_both = sum(span.status == "Error" and span.attributes[spans_of.MODEL] == "model-a" for span in ALL)

    assert (one.mode, one.both, one.b.spans) == ("queries", in_both, FAILED.sum())


def test_a_side_may_have_times_of_its_own(store: Store) -> None:
    """The query of A at B's times, where B has no query; the rest of the time range, where only A has times."""
    early = sum(span.start_ns < LATE_NS for span in ALL)
    times = compare(store, CompareRequest(a="name:chat", a_end_ns=LATE_NS, b_start_ns=LATE_NS), look_inside=False)
    rest = compare(store, CompareRequest(a_end_ns=LATE_NS), look_inside=False)

    assert (times.mode, times.a.spans, times.b.spans, times.both) == ("times", early, SPANS - early, 0)
    assert (rest.mode, rest.a.spans, rest.b.spans, rest.both) == ("rest", early, SPANS - early, 0)


def test_what_both_sides_match_narrows_both(store: Store) -> None:
    """The rest is then the rest of that."""
    one = compare(store, CompareRequest(a="is:error", q="model:model-b"), look_inside=False)
    models = [span for span in ALL if span.attributes[spans_of.MODEL] == "model-b"]

    assert one.a.spans + one.b.spans == len(models)


def test_a_side_that_cannot_be_read_is_named(store: Store) -> None:
    """The error says which of the three queries it is."""
    with pytest.raises(SideError) as caught:
        compare(store, CompareRequest(a="is:error", b='name:"half'))

    assert caught.value.side == "b"


def test_an_empty_side_is_no_error(store: Store) -> None:
    """There is nothing to compare, and both counts say so."""
    one = compare(store, CompareRequest(a="model:nobody"))

    assert (one.a.spans, one.b.spans, one.cards, one.metrics) == (0, SPANS, (), ())


def test_surprisal_along_the_answer_is_the_mean_of_the_generations(found: Comparison) -> None:
    """Each generation counts once in every twentieth that it has tokens in."""
    assert found.white is not None
    assert found.white.positions is not None
    means: dict[tuple[bool, int], list[float]] = {}
    for place in range(TOKENED):
        parts = np.arange(LENGTHS[place]) * 20 // LENGTHS[place]
        for part in set(parts.tolist()):
            mean = float(SERIES[place].astype(np.float32)[parts == part].mean())
            means.setdefault((bool(ON_NEW[place]), part), []).append(mean)

    for part, (a, b) in enumerate(found.white.positions):
        for band, on_new in ((a, True), (b, False)):
            values = means[on_new, part]
            assert band is not None
            assert (band.n, band.mean) == (len(values), pytest.approx(np.mean(values), rel=1e-5))
            assert band.high - band.mean == pytest.approx(1.959964 * np.std(values, ddof=1) / np.sqrt(len(values)), rel=1e-5)


def test_the_layer_that_was_planted_differs_and_no_other(found: Comparison) -> None:
    """Means over generations as NumPy has them, and all heads of layer 2 wider on A by one nat."""
    assert found.white is not None
    assert found.white.heads is not None
    heads = found.white.heads
    means = np.array([cube.astype(np.float32).mean(axis=0) for cube in CUBES])
    wanted = means[~ON_NEW[:TOKENED]].mean(axis=0) - means[ON_NEW[:TOKENED]].mean(axis=0)

    assert np.array(heads.difference) == pytest.approx(wanted, abs=1e-5)
    assert {(layer, head) for layer in range(LAYERS) for head in range(HEADS) if (heads.q[layer][head] or 0) <= 0.001} == {
        (2, head) for head in range(HEADS)}


def test_the_token_that_was_planted_strikes_most(found: Comparison) -> None:
    """It leads on its side, with the counts that NumPy has, and with a generation where it strikes."""
    assert found.white is not None
    assert found.white.words is not None
    words = found.white.words
    values = np.concatenate(SERIES).astype(np.float32)
    pieces, on_new = np.concatenate(PIECES), np.repeat(ON_NEW[:TOKENED], LENGTHS[:TOKENED])
    striking = values >= words.limit
    first = words.a[0]

    assert words.limit == pytest.approx(np.quantile(values, 0.95), rel=0.05)
    assert (first.text, first.a, first.b) == (" ⚡zap", (striking & on_new & (pieces == " ⚡zap")).sum(),
                                              (striking & ~on_new & (pieces == " ⚡zap")).sum())
    assert first.example in {span.span_id for place, span in enumerate(ALL[:TOKENED]) if ON_NEW[place]}


def test_single_spans_are_laid_side_by_side_token_by_token(store: Store) -> None:
    """Every token of both stands once, in order, with the surprisal it had."""
    one = compare(store, CompareRequest(a=f"span:{ALL[0].span_id}", b=f"span:{ALL[1].span_id}"))
    assert one.tokens is not None
    sides_of = [[(step.text, value) for step, value in ((step, getattr(step, side)) for step in one.tokens.steps)
                 if step.kind in ("same", side)] for side in ("a", "b")]

    for place, side in enumerate(sides_of):
        assert [text for text, _ in side] == PIECES[place].tolist()
        assert [value for _, value in side] == pytest.approx(SERIES[place].astype(np.float32).tolist())
    assert one.white is None


def test_a_tenant_sees_its_own_spans_alone(store: Store) -> None:
    """Neither side, nor its samples, nor its series hold another tenant's spans."""
    one = compare(TenantStore(store, lambda: "somebody"), CompareRequest(a="host.name:gpu-9"))

    assert (one.a.spans, one.b.spans) == (0, 0)


def test_a_request_is_found_by_the_plain_relation(store: Store) -> None:
    """Spans of both sides stand twice in the relation, once for each."""
    asked = samples.sides(store, CompareRequest(a="model:model-a", b="name:chat"))
    first, second = samples.numbers(store, asked)

    assert (len(first.ids), len(second.ids)) == (sum(span.attributes[spans_of.MODEL] == "model-a" for span in ALL), SPANS)
