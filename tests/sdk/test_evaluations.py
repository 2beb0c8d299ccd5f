"""Evaluation events: every finite score once, said as the conventions say it, and never too many."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cutaway import conventions as c
from cutaway import evaluations, sequences

NAN, INF = math.nan, math.inf
LISTS = {
    "cutaway.perplexity": c.SEQUENCE_PERPLEXITY, "cutaway.nll": c.SEQUENCE_NLL, "cutaway.bits_per_byte": c.SEQUENCE_BITS_PER_BYTE,
    "cutaway.worst_window": c.SEQUENCE_WORST_WINDOW, "cutaway.rauq": c.SEQUENCE_RAUQ, "cutaway.repetition": c.SEQUENCE_REPETITION,
    "cutaway.loop_period": c.SEQUENCE_LOOP_PERIOD, "cutaway.compression_ratio": c.SEQUENCE_COMPRESSION_RATIO,
}


def call(count: int, tokens: int = 20) -> dict[str, Any]:
    """What the SDK puts on the span of a call of that many sequences, all scores known."""
    random = np.random.default_rng(count)
    total = count * tokens
    scores = sequences.attributes(
        [tokens] * count, random.exponential(2, total).astype(np.float32), random.integers(0, 3, total).astype(np.uint32),
        random.random((total, 3, 2)).astype(np.float32), ["word " * tokens] * count, 0.2)
    return {c.SEQUENCE_OUTPUT_TOKENS: [tokens] * count, **scores}


def by_name(events: list[dict[str, Any]], sequence: int = 0) -> dict[str, dict[str, Any]]:
    return {event[c.EVALUATION_NAME]: event for event in events if event[c.EVALUATION_SEQUENCE] == sequence}


def test_every_score_of_every_sequence_is_one_event() -> None:
    """Nine scores, two sequences: the values are those of the span's lists, in the sequences' order."""
    attributes = call(2)
    events = evaluations.events(attributes)

    assert [event[c.EVALUATION_SEQUENCE] for event in events] == [0] * 9 + [1] * 9
    for sequence in range(2):
        found = by_name(events, sequence)
        assert set(found) == {*LISTS, "cutaway.surprisal_slope"}
        for name, attribute in LISTS.items():
            assert found[name][c.EVALUATION_SCORE_VALUE] == attributes[attribute][sequence]
        quarters = attributes[c.SEQUENCE_SURPRISAL_QUARTERS][4 * sequence:4 * sequence + 4]
        assert found["cutaway.surprisal_slope"][c.EVALUATION_SCORE_VALUE] == quarters[3] - quarters[0]


def test_an_event_has_the_attributes_of_the_conventions_and_no_label() -> None:
    """v1.41: the name is required, the value a double; a label would say what is good, which we cannot know."""
    for event in evaluations.events(call(3)):
        assert set(event) <= {"gen_ai.evaluation.name", "gen_ai.evaluation.score.value", "gen_ai.evaluation.explanation",
                              "cutaway.sequence.index"}
        assert type(event["gen_ai.evaluation.score.value"]) is float
        assert type(event["cutaway.sequence.index"]) is int
        assert event["gen_ai.evaluation.name"].startswith("cutaway.")


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=9), st.lists(st.floats(0, 1) | st.just(NAN), max_size=9))
def test_only_finite_scores_become_events(perplexities: list[float], repetitions: list[float]) -> None:
    """NaN (does not apply) and infinity make no event; lists of different lengths are taken as far as they go."""
    events = evaluations.events({c.SEQUENCE_PERPLEXITY: perplexities, c.SEQUENCE_REPETITION: repetitions})
    said = {(event[c.EVALUATION_NAME], event[c.EVALUATION_SEQUENCE]): event[c.EVALUATION_SCORE_VALUE] for event in events}

    assert len(said) == len(events)
    assert said == {
        **{("cutaway.perplexity", i): value for i, value in enumerate(perplexities) if math.isfinite(value)},
        **{("cutaway.repetition", i): value for i, value in enumerate(repetitions) if math.isfinite(value)},
    }


def test_a_call_without_scores_has_no_event() -> None:
    """Numbers that are no scores make none."""
    assert evaluations.events({}) == []
    assert evaluations.events({c.SEQUENCE_OUTPUT_TOKENS: [5], c.OUTPUT_PERPLEXITY: 3.0}) == []
    assert evaluations.events({c.SEQUENCE_PERPLEXITY: [NAN], c.SEQUENCE_SURPRISAL_QUARTERS: [NAN, 1.0, 1.0, 2.0]}) == []


def test_explanations_say_what_the_value_does_not() -> None:
    """The length under a likelihood, the two quarters under a slope, the loop under a period; nothing where nothing is to say."""
    attributes = {
        c.SEQUENCE_OUTPUT_TOKENS: [20], c.SEQUENCE_PERPLEXITY: [2.0], c.SEQUENCE_NLL: [13.9], c.SEQUENCE_WORST_WINDOW: [3.0],
        c.SEQUENCE_REPETITION: [0.5], c.SEQUENCE_LOOP_PERIOD: [2], c.SEQUENCE_SURPRISAL_QUARTERS: [1.0, 2.0, 3.0, 4.5],
    }
    said = {name: event.get(c.EVALUATION_EXPLANATION) for name, event in by_name(evaluations.events(attributes)).items()}

    assert said == {
        "cutaway.perplexity": "over 20 tokens", "cutaway.nll": "over 20 tokens", "cutaway.worst_window": None,
        "cutaway.repetition": None, "cutaway.loop_period": "the sequence ends in the same 2 tokens at least three times over",
        "cutaway.surprisal_slope": "mean surprisal of 4.5 nats in the last quarter, 1 in the first",
    }


@pytest.mark.parametrize(("tokens", "explained"), [(15, True), (16, False)])
def test_a_window_that_is_not_whole_is_said(tokens: int, explained: bool) -> None:
    """Below the window of the measure itself, the worst window is the mean of all tokens."""
    event = by_name(evaluations.events(call(1, tokens)))["cutaway.worst_window"]

    assert tokens < sequences.WINDOW_TOKENS or not explained
    assert (event.get(c.EVALUATION_EXPLANATION) == "mean of all 15 tokens: fewer than the 16 of a window") is explained


def test_no_loop_is_a_result_too() -> None:
    """A period of 0 is told apart from a period that was not looked for."""
    event = by_name(evaluations.events({c.SEQUENCE_LOOP_PERIOD: [0]}))["cutaway.loop_period"]

    assert event[c.EVALUATION_SCORE_VALUE] == 0.0
    assert event[c.EVALUATION_EXPLANATION] == "no loop at the end"


@pytest.mark.parametrize("count", [10, 11, 64, 500])
def test_events_are_bounded_and_what_is_missing_is_said(count: int) -> None:
    """At most EVENTS_MAX, whole sequences only; the last one counts those that are missing."""
    events = evaluations.events(call(count, 8))
    kept = min(count, evaluations.EVENTS_MAX // 9)

    assert len(events) == 9 * kept <= evaluations.EVENTS_MAX
    assert {event[c.EVALUATION_SEQUENCE] for event in events} == set(range(kept))
    assert events[-1].get(c.EVALUATION_LEFT_OUT, 0) == 9 * (count - kept)
    assert all(c.EVALUATION_LEFT_OUT not in event for event in events[:-1])


def test_the_last_place_is_used() -> None:
    """One score a sequence: 96 sequences make 96 events, and of 97 exactly one is left out."""
    full, over = (evaluations.events({c.SEQUENCE_NLL: [1.0] * count}) for count in (96, 97))

    assert len(full) == len(over) == 96
    assert c.EVALUATION_LEFT_OUT not in full[-1]
    assert over[-1][c.EVALUATION_LEFT_OUT] == 1


def test_a_span_keeps_every_event() -> None:
    """The most events one call makes fit a span of the OpenTelemetry SDK beside 32 of the host's own, attributes unchanged."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    events = evaluations.events({c.SEQUENCE_NLL: [1.0] * 500})
    with provider.get_tracer("test").start_as_current_span("generate") as span:
        for event in events:
            span.add_event(c.EVALUATION_EVENT, event)
        for number in range(32):
            span.add_event("the host's own", {"number": number})
    finished = exporter.get_finished_spans()[0]

    assert finished.dropped_events == 0
    assert [dict(event.attributes or {}) for event in finished.events if event.name == "gen_ai.evaluation.result"] == events


def test_attributes_read_back_from_a_span_give_the_same_events() -> None:
    """OpenTelemetry hands lists back as tuples."""
    attributes = call(3)

    assert evaluations.events({name: tuple(value) if isinstance(value, list) else value for name, value in attributes.items()}) == (
        evaluations.events(attributes))
