"""Every series of the conventions, cut into sequences: against numpy's own slicing, packed and plain, good and contradictory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cutaway import conventions as c
from cutaway_collector import columns, decode
from cutaway_collector.contracts import Decoded
from cutaway_collector.decode import Limits
from decode_helpers import RECEIVED_NS, a_span, key_value, request, rows
from every_signal_helpers import ALL_SERIES, COLUMNS, Shape, by_hand, cuts, expected, packed, plain, values_of


@pytest.fixture(autouse=True, scope="module")
def _compiled() -> None:
    decode.warm_up()


def decoded(attributes: Any, **options: Any) -> Decoded:
    payload = request(a_span(attributes=list(attributes))).SerializeToString()
    return decode.decode_protobuf(payload, received_ns=RECEIVED_NS, **options)


def check(found: Decoded, wanted: list[dict[str, Any]]) -> None:
    """Every wanted column bit for bit, every other series column empty."""
    assert found.message == ""
    got = rows(found.tokens)
    assert len(got) == len(wanted)
    for row, want in zip(got, wanted, strict=True):
        for column in columns.SERIES:
            if column.name not in want:
                assert row[column.name] == [], column.name
        for name, value in want.items():
            if isinstance(value, np.ndarray):
                assert np.asarray(row[name], value.dtype).tobytes() == value.tobytes(), name
            else:
                assert row[name] == value, name


def test_every_series_of_the_conventions_has_its_column() -> None:
    """A series that someone adds to the conventions and forgets here would vanish from SpanAttributes or travel as base64."""
    assert {column.series for column in columns.SERIES} == {*ALL_SERIES, c.TOKEN_TEXT}
    assert {column.series: column.name for column in columns.SERIES if column.series != c.TOKEN_TEXT} == COLUMNS


def test_all_of_them_at_once() -> None:
    """Four sequences of two prompts: each gets its tokens, the first of each prompt the prompt, the first of all the steps."""
    shape = Shape(lengths=(3, 0, 2, 4), prompts=(5, 2))
    values = values_of(shape)
    found = decoded([*cuts(shape), *packed(values)])
    check(found, expected(shape, values))
    for row in rows(found.tokens):
        axes = ("AlternativeCount", "AttentionLayers", "AttentionHeads", "CrossAttentionLayers", "CrossAttentionHeads",
                "SourceLayers", "SourceCount")
        assert [row[name] for name in axes] == [2, 3, 2, 2, 3, 2, 4]
    assert [row["PromptSequence"] for row in rows(found.tokens)] == [0, 0, 2, 2]
    assert [row["InputTokens"] for row in rows(found.tokens)] == [5, 5, 2, 2]


def test_series_that_are_not_there_count_nothing() -> None:
    """Without alternatives, sources and cross-attention their axes are 0, and each sequence holds its own prompt's place."""
    shape = Shape(lengths=(2, 1), prompts=(1, 1))
    values = values_of(shape, (c.TOKEN_ENTROPY,))
    found = rows(decoded([*cuts(shape), *packed(values)]).tokens)
    for row in found:
        assert [row[name] for name in ("AlternativeCount", "SourceLayers", "SourceCount", "CrossAttentionLayers")] == [0, 0, 0, 0]
    assert [row["PromptSequence"] for row in found] == [0, 1]


FLAT = [name for name in ALL_SERIES if len(Shape().of(name)) < 3]


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    prompts = draw(st.lists(st.integers(0, 5), min_size=1, max_size=3))
    per = draw(st.integers(1, 3))
    lengths = draw(st.lists(st.integers(0, 4), min_size=per * len(prompts), max_size=per * len(prompts)))
    small = st.integers(1, 3)
    return Shape(tuple(lengths), tuple(prompts), draw(small), draw(small), draw(small), draw(small), draw(small), draw(small),
                 draw(small), draw(st.integers(0, 5)))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(shapes(), st.sets(st.sampled_from(ALL_SERIES), min_size=1), st.integers(0, 99), st.randoms())
def test_any_choice_of_series_in_any_order(shape: Shape, names: set[str], seed: int, chance: Any) -> None:
    """Whatever is sent beside whatever, in whatever order: each value lands where numpy's slicing says, and only there."""
    values = values_of(shape, tuple(sorted(names)), seed)
    attributes = [*cuts(shape), *(by_hand(name, array) if chance.random() < 0.5 else packed({name: array})[0]
                                  for name, array in values.items())]
    chance.shuffle(attributes)
    check(decoded(attributes), expected(shape, values))


@settings(max_examples=60, deadline=None)
@given(shapes(), st.sets(st.sampled_from(FLAT), min_size=1), st.integers(0, 9))
def test_plain_arrays_say_the_same_as_packed_ones(shape: Shape, names: set[str], seed: int) -> None:
    """Series of one axis and of two, whose inner axis the token count gives."""
    lengths = tuple(max(length, 1) for length in shape.lengths)
    shape = Shape(lengths, shape.prompts, shape.choices, shape.layers, shape.heads, shape.cross_layers)
    values = values_of(shape, tuple(sorted(names)), seed)
    check(decoded([*cuts(shape), *plain(values)]), expected(shape, values))


def test_one_sequence_needs_no_cuts() -> None:
    """A sender with one sequence and one prompt sends series alone."""
    shape = Shape(lengths=(3,), prompts=(4,))
    values = values_of(shape)
    check(decoded(packed(values)), expected(shape, values))


def test_the_steps_of_a_pipeline_make_a_row_without_tokens() -> None:
    """A diffusion span has no token series; its steps stand in one row all the same, also where it says it has no sequence."""
    shape = Shape(lengths=(0,), prompts=(0,))
    values = values_of(shape, c.DIFFUSION_SERIES)
    check(decoded(packed(values)), expected(shape, values))
    none = [key_value(c.SEQUENCE_OUTPUT_TOKENS, []), key_value(c.SEQUENCE_INPUT_TOKENS, [])]
    check(decoded([*none, *packed(values)]), expected(shape, values))


def _reshaped(name: str, axes: tuple[int, ...], shape: Shape) -> list[Any]:
    """All series, one of them of another shape."""
    values = values_of(shape)
    values[name] = np.zeros(axes, values[name].dtype)
    return [*cuts(shape), *packed(values)]


@pytest.mark.parametrize(("name", "axes"), [
    (c.ALTERNATIVE_SURPRISAL, (9, 3)), (c.ALTERNATIVE_ID, (8, 2)), (c.ALTERNATIVE_ID, (9, 2, 2)), (c.PROMPT_SURPRISAL, (8,)),
    (c.PROMPT_TOKEN_ID, (7, 2)), (c.ATTENTION_SINK, (9, 2)), (c.ATTENTION_SINK, (9, 3, 2)), (c.ATTENTION_SINK_HEADS, (9, 3, 3)),
    (c.ATTENTION_LOOKBACK_HEADS, (9, 2, 2)), (c.CROSS_ATTENTION_ENTROPY, (9, 3)), (c.CROSS_ATTENTION_ENTROPY_HEADS, (9, 3, 3)),
    (c.SOURCE_MASS, (9, 2, 3)), (c.SOURCE_MASS, (9, 3, 4)), (c.SOURCE_POSITION, (8, 2, 4)), (c.DIFFUSION_LATENT_NORM, (5,)),
    (c.TOKEN_VARENTROPY, (10,)), (c.TOKEN_MIN_P_MASS, (9, 2)),
])
def test_a_series_of_another_shape_leaves_the_series_out(name: str, axes: tuple[int, ...]) -> None:
    """Wrong k, layers, heads, steps or tokens: the span stays, its series go, the sender reads why."""
    found = decoded(_reshaped(name, axes, Shape(lengths=(3, 0, 2, 4), prompts=(5, 2))))
    assert (found.spans.rows, found.tokens.rows, found.rejected) == (1, 0, 0)
    assert "lengths" in found.message


@pytest.mark.parametrize(("cut", "word"), [
    (None, "prompts"), ([5, 2, 0], "prompts"), ([], "prompts"), ([5, 1], "lengths"), ([5, -1], "prompts"),
    ("7", "prompts"), ([2**40, 2], "more tokens"),
])
def test_prompts_are_cut_by_counts_that_fit(cut: Any, word: str) -> None:
    """Missing counts for several sequences, counts that do not divide them, or do not add up: no guess is made."""
    shape = Shape(lengths=(1, 2), prompts=(5, 2))
    values = values_of(shape, (c.TOKEN_ENTROPY, c.PROMPT_SURPRISAL))
    attributes = [key_value(c.SEQUENCE_OUTPUT_TOKENS, [1, 2]), *packed(values)]
    found = decoded(attributes if cut is None else [*attributes, key_value(c.PROMPT_TOKENS, cut)])
    assert (found.spans.rows, found.tokens.rows) == (1, 0)
    assert word in found.message


def test_prompt_counts_without_prompt_series_are_only_an_attribute() -> None:
    """They cut nothing, so they cannot contradict anything."""
    found = decoded([key_value(c.PROMPT_TOKENS, "odd"), *packed(values_of(Shape(), (c.TOKEN_ENTROPY,)))])
    assert (found.tokens.rows, found.message) == (1, "")


def test_prompts_and_steps_keep_the_limits() -> None:
    """A prompt or a pipeline longer than a sequence may be is left out."""
    shape = Shape(lengths=(2,), prompts=(4,), steps=3)
    prompt, steps = values_of(shape, (c.PROMPT_SURPRISAL,)), values_of(shape, (c.DIFFUSION_STEP_TIME,))
    assert decoded(packed(prompt), limits=Limits(sequence_tokens_max=4)).tokens.rows == 1
    assert "more tokens" in decoded(packed(prompt), limits=Limits(sequence_tokens_max=3)).message
    counted = [key_value(c.PROMPT_TOKENS, [4]), *packed(prompt)]
    assert "more tokens" in decoded(counted, limits=Limits(sequence_tokens_max=3)).message
    assert "more tokens" in decoded(packed(steps), limits=Limits(sequence_tokens_max=2)).message


def test_new_scalars_are_lifted_beside_their_attributes() -> None:
    """Numbers of the whole call have columns, as ints or doubles; what is not sent is NULL."""
    sent = {
        c.OUTPUT_NLL: 12.5, c.OUTPUT_BITS_PER_BYTE: 0.75, c.OUTPUT_LOOP_PERIOD: 3, c.MACHINE_MEMORY_RSS: 2**40,
        c.MACHINE_CPU_TIME: 1.25, c.DIFFUSION_STEPS: 20, c.DIFFUSION_NONFINITE_STEP: 0, c.ATTENTION_SINK_MEAN: 0.5,
    }
    (row,) = rows(decoded([key_value(name, value) for name, value in sent.items()]).spans)
    whole = ("Nll", "BitsPerByte", "LoopPeriod", "MemoryRssBytes", "CpuTimeS", "DiffusionSteps", "NonfiniteStep",
             "AttentionSinkMean")
    assert [row[name] for name in whole] == [12.5, 0.75, 3, 2**40, 1.25, 20, 0, 0.5]
    assert [row[name] for name in ("WorstWindow", "Rauq", "PromptPerplexity", "AcceptanceRate")] == [None] * 4
    assert {key.decode() for key, _ in row["SpanAttributes"]} == set(sent)
