"""Signals of whole sequences, against brute force, exact fractions, closed forms, real models and the collector's scorers."""

from __future__ import annotations

import json
import math
import tracemalloc
import zlib
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from cutaway import conventions as c
from cutaway import sequences
from cutaway.errors import CutawayError

NAN, INF = math.nan, math.inf
surprisals = st.floats(0, 60, width=32)
holed = st.one_of(surprisals, surprisals, surprisals, st.sampled_from([NAN, INF]))
weights = st.floats(0, 1, width=32)


def f32(values: Any) -> Any:
    return np.array(values, np.float32)


def u32(values: Any) -> Any:
    return np.array(values, np.uint32)


def attributes(lengths: list[int], surprisal: Any = None, ids: Any = None, last_key: Any = None, texts: Any = None,
               alpha: float = 0.2, **more: Any) -> dict[str, Any]:
    return sequences.attributes(lengths, surprisal, ids, last_key, texts, alpha, **more)


# --- Likelihood -----------------------------------------------------------------------------------------------------------
@given(st.lists(surprisals, max_size=60))
def test_the_negative_log_likelihood_is_the_sum(values: list[float]) -> None:
    """In nats, exactly rounded; 0 for no token."""
    assert sequences.negative_log_likelihood(f32(values)) == pytest.approx(math.fsum(values), rel=1e-14)


@given(st.lists(surprisals, min_size=1, max_size=60))
def test_perplexity_is_the_inverse_geometric_mean_of_the_probabilities(values: list[float]) -> None:
    """The product of the probabilities to the power -1/n: the definition before anybody took logarithms."""
    product = Fraction(1)
    for value in values:
        product *= Fraction(math.exp(-value))
    expected = (math.log(product.denominator) - math.log(product.numerator)) / len(values)

    assert math.log(sequences.perplexity(f32(values))) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("values", "expected"), [
    ([], NAN), ([1.0, NAN], NAN), ([1.0, INF], INF), ([1e30], INF), ([709.0], math.exp(709.0)),
])
def test_perplexity_at_its_edges(values: list[float], expected: float) -> None:
    """No token and an unmeasured one: NaN. A forbidden token and an overflow: infinity, no exception."""
    np.testing.assert_equal(sequences.perplexity(f32(values)), expected)


def test_bits_per_byte_is_the_cross_entropy_of_a_model_of_bytes() -> None:
    """A model whose tokens are bytes: its cross-entropy in bits, teacher-forced by torch, is the bits per byte of the text."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=257, n_positions=64, n_embd=16, n_layer=2, n_head=2)).eval()
    texts = ["na\u00efve \u65e5\u672c", "plain", ""]
    parts, bits = [], []
    for text in texts:
        ids = torch.tensor([256, *text.encode()])
        with torch.no_grad():
            logits = model(ids[None]).logits[0, :-1].double()
        parts.append(torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none").numpy())
        bits.append(float(-torch.log2(torch.softmax(logits, -1)[range(len(ids) - 1), ids[1:]]).sum()))
    lengths = [len(text.encode()) for text in texts]
    found = attributes(lengths, f32(np.concatenate(parts)), texts=texts)

    assert found[c.SEQUENCE_BITS_PER_BYTE] == pytest.approx([bits[0] / 13, bits[1] / 5, NAN], rel=1e-5, nan_ok=True)
    assert found[c.OUTPUT_BITS_PER_BYTE] == pytest.approx(sum(bits) / 18, rel=1e-5)


# --- Worst window and quarters --------------------------------------------------------------------------------------------
@given(st.lists(holed, max_size=50))
def test_the_worst_window_is_the_largest_of_all_windows(values: list[float]) -> None:
    """Every window of 16 measured tokens in a row, summed exactly; a shorter sequence is one window."""
    kept = [Fraction(value) for value in values if math.isfinite(value)]
    width = min(16, len(kept))
    expected = float(max(sum(kept[i:i + width]) for i in range(len(kept) - width + 1)) / width) if kept else NAN

    np.testing.assert_allclose(sequences.worst_window(f32(values)), expected, rtol=1e-13)


def test_the_worst_window_finds_a_bad_clause_in_a_long_answer() -> None:
    """16 tokens of 5 nats among 100 000 of 0.1: the window says 5, wherever they are."""
    for place in (0, 31_337, 99_984):
        values = np.full(100_000, 0.1, np.float32)
        values[place:place + 16] = 5.0
        assert sequences.worst_window(values) == 5.0


@given(st.lists(holed, max_size=40))
def test_quarters_are_means_by_position(values: list[float]) -> None:
    """Token i of n is in quarter floor(4 i / n); what was not measured keeps its place and enters no mean; NaN below 8 tokens."""
    expected = []
    for quarter in range(4):
        mine = [Fraction(v) for i, v in enumerate(values) if 4 * i // len(values) == quarter and math.isfinite(v)]
        expected.append(float(sum(mine) / len(mine)) if mine and len(values) >= 8 else NAN)

    np.testing.assert_allclose(sequences.quarters(f32(values)), expected, rtol=1e-13)


def test_the_slope_is_the_last_quarter_minus_the_first() -> None:
    """Errors that feed on themselves: 1, 2, 4, 8 nats make a slope of 7; the call's is the largest of its sequences."""
    rising, flat = np.repeat(f32([1, 2, 4, 8]), 3), np.full(8, 3, np.float32)
    found = attributes([12, 8, 2], np.concatenate([rising, flat, f32([9, 9])]))

    np.testing.assert_equal(found[c.SEQUENCE_SURPRISAL_QUARTERS], [1, 2, 4, 8, 3, 3, 3, 3, NAN, NAN, NAN, NAN])
    assert found[c.OUTPUT_SURPRISAL_SLOPE] == 7.0


def test_the_sdk_and_the_collector_give_one_figure() -> None:
    """The collector scores the series it received: what both name alike is one figure, the same on the span and in the store."""
    from cutaway_collector.score import repetition, surprisal

    random = np.random.default_rng(5)
    lengths = [0, 1, 8, 15, 16, 17, 130]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values, ids = random.exponential(2.0, sum(lengths)).astype(np.float32), random.integers(0, 3, sum(lengths)).astype(np.uint32)
    values[[3, 90]] = NAN, INF
    found = attributes(lengths, values, ids)

    theirs = surprisal.reference(values, offsets)
    counts = repetition.reference(ids, offsets)
    np.testing.assert_allclose(found[c.SEQUENCE_WORST_WINDOW], theirs[surprisal.WORST], rtol=1e-12)
    np.testing.assert_allclose(found[c.SEQUENCE_REPETITION], counts[repetition.SEQ_REP], rtol=1e-12)
    np.testing.assert_allclose(np.where(lengths, found[c.SEQUENCE_LOOP_PERIOD], NAN), counts[repetition.LOOP_PERIOD])
    ours = np.reshape(found[c.SEQUENCE_SURPRISAL_QUARTERS], (-1, 4))
    np.testing.assert_allclose(ours.T, theirs[surprisal.FIRST_QUARTER : surprisal.SLOPE], rtol=1e-12)
    assert found[c.OUTPUT_SURPRISAL_SLOPE] == pytest.approx(np.nanmax(theirs[surprisal.SLOPE]), rel=1e-12)
    storable = np.where(np.isfinite(found[c.SEQUENCE_PERPLEXITY]), found[c.SEQUENCE_PERPLEXITY], NAN)  # no infinite score is stored
    np.testing.assert_allclose(storable, theirs[surprisal.PERPLEXITY], rtol=1e-12)


# --- RAUQ -----------------------------------------------------------------------------------------------------------------
def slow_rauq(surprisal: list[float], last_key: Any, alpha: float) -> float:
    """The paper's formula, one token, layer and head at a time, in probabilities."""
    layers = []
    for layer in range(last_key.shape[1]):
        means = [sum(float(a) for a in last_key[1:, layer, head]) / max(1, len(surprisal) - 1) for head in range(last_key.shape[2])]
        head = means.index(max(means))
        confidence = [math.exp(-surprisal[0])]
        for token in range(1, len(surprisal)):
            own, attention = math.exp(-surprisal[token]), float(last_key[token, layer, head])
            confidence.append(alpha * own + (1 - alpha) * attention * confidence[-1])
        layers.append(-sum(math.log(value) for value in confidence) / len(confidence))
    return max(layers)


@settings(max_examples=60)
@given(st.integers(1, 70), st.integers(1, 4), st.integers(1, 3), st.floats(0.01, 1), st.integers(0, 2**32 - 1))
def test_rauq_is_the_papers_recurrence(tokens: int, layers: int, heads: int, alpha: float, seed: int) -> None:
    """Against a loop over tokens, layers and heads in plain probabilities, where none underflows."""
    random = np.random.default_rng(seed)
    surprisal = random.exponential(2.0, tokens).astype(np.float32)
    last_key = random.random((tokens, layers, heads)).astype(np.float32)

    expected = slow_rauq(surprisal.tolist(), last_key, alpha)
    assert sequences.rauq(surprisal, last_key, alpha) == pytest.approx(expected, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("scale", [1.0, 400.0, 30_000.0])
def test_rauq_does_not_underflow(scale: float) -> None:
    """Probabilities far below the smallest float: against the closed form, a sum over the token each confidence came from."""
    random = np.random.default_rng(2)
    surprisal = random.exponential(scale, 50).astype(np.float32)
    attention = np.exp(-random.exponential(8.0, 50)).astype(np.float32)
    fresh = math.log(0.2) - surprisal.astype(np.float64)
    fresh[0] = -float(surprisal[0])
    decay = np.log(attention.astype(np.float64)) + math.log(0.8)
    logs = [logsumexp([fresh[k] + decay[k + 1:t + 1].sum() for k in range(t + 1)]) for t in range(50)]

    assert sequences.rauq(surprisal, attention[:, None, None], 0.2) == pytest.approx(-np.mean(logs), rel=1e-12)


def test_rauq_worked_by_hand() -> None:
    """Probabilities 1/2 and 1/4, attention 1/2, alpha 1/2: c = 1/2 and 1/8 + 1/8, so u = -(log 1/2 + log 1/4) / 2 = 1.5 log 2."""
    surprisal = f32([math.log(2), math.log(4)])
    last_key = f32([[[0.9]], [[0.5]]])

    assert sequences.rauq(surprisal, last_key, 0.5) == pytest.approx(1.5 * math.log(2), rel=1e-7)


def test_rauq_takes_the_head_that_looks_back_most_and_the_layer_that_doubts_most() -> None:
    """Other heads and surer layers change nothing; what the first token's row saw is not read."""
    surprisal = f32([0.5, 1.0, 2.0])
    attention = f32([[[0, 1], [1, 1]], [[0.9, 0.1], [0.2, 0.1]], [[0.8, 0.2], [0.4, 0.3]]])
    alone = sequences.rauq(surprisal, attention[:, 1:, :1], 0.2)

    assert sequences.rauq(surprisal, attention, 0.2) == alone
    assert sequences.rauq(surprisal, attention[:, :1, :1], 0.2) < alone
    attention[0] = 0.123
    assert sequences.rauq(surprisal, attention, 0.2) == alone


def test_rauq_of_what_was_not_measured() -> None:
    """A head with a hole takes no part; NaN when every head has one, a surprisal is missing, or there is no layer or token."""
    surprisal, attention = f32([1.0, 2.0, 3.0]), f32(np.full((3, 2, 2), 0.5))
    attention[1, 0, 0] = attention[2, 1] = NAN
    whole = sequences.rauq(surprisal, attention[:, :1, 1:], 0.2)

    assert sequences.rauq(surprisal, attention, 0.2) == whole
    assert math.isnan(sequences.rauq(surprisal, attention[:, 1:], 0.2))
    assert math.isnan(sequences.rauq(f32([1.0, NAN, 3.0]), attention, 0.2))
    assert math.isnan(sequences.rauq(surprisal, attention[:, :0], 0.2))
    assert math.isnan(sequences.rauq(surprisal[:0], attention[:0], 0.2))
    assert sequences.rauq(f32([0.75]), f32([[[NAN]]]), 0.2) == 0.75


def test_rauq_of_a_forbidden_token() -> None:
    """Probability 0 at first: infinite doubt. Later, and confidence is carried over by attention: finite."""
    attention = f32(np.full((3, 1, 1), 0.5))

    assert sequences.rauq(f32([INF, INF, INF]), attention, 0.2) == INF
    assert sequences.rauq(f32([1.0, INF, 1.0]), attention, 0.2) == pytest.approx(
        -(-1 + math.log(0.4) - 1 + math.log(0.2 * math.exp(-1) + 0.16 * math.exp(-1))) / 3, rel=1e-7)


@pytest.mark.parametrize(("layers", "expected"), [
    (32, (10, 22)), (30, (10, 20)), (12, (4, 8)), (3, (1, 2)), (2, (0, 1)), (1, (0, 0)),
])
def test_the_middle_third(layers: int, expected: tuple[int, int]) -> None:
    """L // 3 to ceil(2 L / 3), both included, and never beyond the last layer: 10 to 22 of the paper's 32."""
    found = sequences.middle_third(layers)

    assert (found[0], found[-1]) == expected


def test_rauq_of_a_generation_reads_the_attention_lm_polygraph_reads() -> None:
    """From a real `generate`: lm-polygraph maps the last j keys of each row j and takes the diagonal below the main one."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        attn_implementation="eager", eos_token_id=None)).eval()
    out = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=9, do_sample=False, output_attentions=True, output_logits=True,
                         return_dict_in_generate=True, pad_token_id=0)
    answer = out.sequences[0, 3:]
    logs = torch.stack(out.logits)[:, 0].double().log_softmax(-1)[range(9), answer].numpy()
    last_key = np.stack([[layer[0, :, -1, -1].numpy() for layer in step] for step in out.attentions])

    maps = np.zeros((4, 4, 9, 9))
    for row in range(1, 9):
        for layer in range(4):
            maps[layer, :, row, :row] = out.attentions[row][layer][0, :, -1, -row:].numpy()
    below = np.diagonal(maps, -1, axis1=2, axis2=3)
    doubts = []
    for layer in range(4 // 3, math.ceil(4 / 3 * 2) + 1):
        head = below[layer].mean(-1).argmax()
        confidence = [math.exp(logs[0])]
        for token in range(1, 9):
            confidence.append(0.2 * math.exp(logs[token]) + 0.8 * below[layer, head, token - 1] * confidence[-1])
        doubts.append(1 - np.log(confidence).mean())
    found = attributes([9], f32(-logs), last_key=f32(last_key))

    assert found[c.SEQUENCE_RAUQ] == pytest.approx([max(doubts) - 1], rel=1e-6)
    assert found[c.OUTPUT_RAUQ] == found[c.SEQUENCE_RAUQ][0]


def test_rauq_columns_name_the_layers_to_judge() -> None:
    """Where only the middle third was recorded, every column is judged; by default the middle third of the columns is."""
    random = np.random.default_rng(1)
    surprisal, last_key = random.exponential(2, 20).astype(np.float32), random.random((20, 6, 2)).astype(np.float32)
    whole = attributes([20], surprisal, last_key=last_key)
    recorded = attributes([20], surprisal, last_key=last_key[:, 2:5], rauq_columns=range(3))

    assert whole[c.SEQUENCE_RAUQ] == recorded[c.SEQUENCE_RAUQ] == [slow_rauq_of(surprisal, last_key[:, 2:5])]


def slow_rauq_of(surprisal: Any, last_key: Any) -> Any:
    return pytest.approx(slow_rauq(surprisal.tolist(), last_key, 0.2), rel=1e-10)


# --- Repetition -----------------------------------------------------------------------------------------------------------
@given(st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 2), max_size=60))
def test_repetition_counts_distinct_4_grams(ids: list[int]) -> None:
    """Sets of tuples, over all of uint32: no two grams are taken for one."""
    grams = [tuple(ids[i:i + 4]) for i in range(len(ids) - 3)]
    expected = float(1 - Fraction(len(set(grams)), len(grams))) if grams else NAN

    np.testing.assert_allclose(sequences.repetition(u32(ids)), expected, rtol=1e-13)


@pytest.mark.parametrize(("text", "expected"), [("abcdefgh", 0.0), ("aaaaaaa", 3 / 4), ("abcdabcd", 1 / 5), ("abc", NAN)])
def test_repetition_of_strings_counted_by_hand(text: str, expected: float) -> None:
    """Letters as tokens."""
    np.testing.assert_allclose(sequences.repetition(u32([ord(letter) for letter in text])), expected)


def slow_loop(ids: list[int]) -> int:
    """The definition: the last block, three times."""
    return next((r for r in range(1, len(ids) // 3 + 1) if ids[-r:] == ids[-2 * r:-r] == ids[-3 * r:-2 * r]), 0)


@given(st.lists(st.integers(0, 2), max_size=60))
def test_the_loop_period_is_the_shortest_block_said_three_times(ids: list[int]) -> None:
    """Few distinct ids, so that loops and near-loops abound."""
    assert sequences.loop_period(u32(ids)) == slow_loop(ids)


@given(st.lists(st.integers(0, 2**32 - 1), max_size=30), st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(3, 6),
       st.integers(0, 11))
def test_a_loop_is_found_after_any_beginning(start: list[int], block: list[int], times: int, more: int) -> None:
    """A block said three times or more, perhaps broken off in the middle of the next."""
    ids = [*start, *block * times, *block[:more % len(block)]]
    found = sequences.loop_period(u32(ids))

    assert found == slow_loop(ids)
    assert 0 < found <= len(block)


@pytest.mark.parametrize(("text", "expected"), [
    ("", 0), ("a", 0), ("aa", 0), ("aaa", 1), ("baaa", 1), ("abab", 0), ("ababab", 2), ("xababab", 2), ("abababx", 0),
    ("abcabcab", 0), ("abcabcabc", 3), ("aabaabaab", 3), ("mississississi", 3),
])
def test_loops_of_strings_seen_by_eye(text: str, expected: int) -> None:
    """Twice is no loop; a loop that was left is none."""
    assert sequences.loop_period(u32([ord(letter) for letter in text])) == expected


def test_a_loop_of_every_period_is_found() -> None:
    """Random blocks of r tokens said three times, r from 1 to 300, after a different beginning."""
    random = np.random.default_rng(0)
    for period in range(1, 301):
        block = random.permutation(100_000)[:period]
        assert sequences.loop_period(u32([7, *np.tile(block, 3)])) == period


def test_hashes_that_collide_are_no_loop() -> None:
    """Thue-Morse words hold no cube, yet any polynomial hash modulo 2^64 of them collides from 2^11 tokens on: the ids decide."""
    word = u32([0])
    while word.size < 2**15:
        word = np.concatenate([word, 1 - word])

    assert sequences.loop_period(word) == 0
    assert sequences.loop_period(word[: 3 * 2**13]) == 0


def test_the_longest_period_is_bounded() -> None:
    """16 384 tokens said three times are found; one token more is not looked for."""
    limit = 16_384

    assert sequences.loop_period(np.tile(np.arange(limit, dtype=np.uint32), 3)) == limit
    assert sequences.loop_period(np.tile(np.arange(limit + 1, dtype=np.uint32), 3)) == 0


@given(st.text(max_size=200))
def test_the_compression_ratio_is_zlibs(text: str) -> None:
    """Bytes in UTF-8 over zlib's, by a second road through the library; NaN for no text."""
    data = text.encode()
    packer = zlib.compressobj()
    expected = len(data) / len(packer.compress(data) + packer.flush()) if data else NAN
    found = attributes([1], ids=u32([0]), texts=[text])[c.SEQUENCE_COMPRESSION_RATIO]

    np.testing.assert_equal(found, [expected])


def test_a_looping_text_compresses_far_better_than_prose() -> None:
    """Whisper gives up a transcript above 2.4: prose lies below, a loop far above."""
    prose = "It was a bright cold day in April, and the clocks were striking thirteen. Nobody in the square looked up any more."
    found = attributes([1, 1], ids=u32([0, 0]), texts=[prose, "I do not know. " * 50])

    plain, loop = found[c.SEQUENCE_COMPRESSION_RATIO]
    assert plain < 2.4 < 10 < loop == found[c.OUTPUT_COMPRESSION_RATIO]


# --- Everything at once ---------------------------------------------------------------------------------------------------
def test_every_sequence_is_judged_alone() -> None:
    """Cut by their lengths, in order: each entry is what the sequence gets in a call of its own."""
    random = np.random.default_rng(4)
    lengths = [5, 0, 40, 1, 9]
    surprisal, ids = random.exponential(2, 55).astype(np.float32), random.integers(0, 3, 55).astype(np.uint32)
    last_key, texts = random.random((55, 3, 2)).astype(np.float32), ["one", "", "two " * 9, "x", "five"]
    found = attributes(lengths, surprisal, ids, last_key, texts)

    for index, end in enumerate(np.cumsum(lengths)):
        if lengths[index]:
            cut = slice(end - lengths[index], end)
            alone = attributes([lengths[index]], surprisal[cut], ids[cut], last_key[cut], [texts[index]])
            for name, values in alone.items():
                if name.startswith("cutaway.sequence."):
                    size = len(values)
                    np.testing.assert_equal(found[name][index * size:(index + 1) * size], values)


def test_whole_call_values() -> None:
    """Perplexity over all tokens, not a mean of perplexities; sums are sums, the rest is the worst sequence, NaN ignored."""
    surprisal, ids = f32([1, 2, 3, 4, 5, 9, 9]), u32([1, 1, 1, 1, 1, 6, 7])
    found = attributes([5, 0, 2], surprisal, ids, texts=["abcde", "", "fg"])

    assert found[c.OUTPUT_SURPRISAL_MEAN] == 33 / 7
    assert found[c.OUTPUT_PERPLEXITY] == pytest.approx(math.exp(33 / 7))
    assert found[c.OUTPUT_SURPRISAL_MAX] == 9
    assert found[c.OUTPUT_NLL] == 33
    assert found[c.OUTPUT_BITS_PER_BYTE] == pytest.approx(33 / math.log(2) / 7)
    assert found[c.OUTPUT_WORST_WINDOW] == 9
    assert found[c.OUTPUT_REPETITION] == 0.5
    assert found[c.OUTPUT_LOOP_PERIOD] == 1
    np.testing.assert_equal(found[c.SEQUENCE_PERPLEXITY], [math.exp(3), NAN, math.exp(9)])
    assert found[c.SEQUENCE_NLL] == [15, 0, 18]
    assert c.OUTPUT_SURPRISAL_SLOPE not in found


def test_the_call_reports_its_shortest_loop() -> None:
    """Periods 3, none and 2: the call's is 2, and without any loop it has none."""
    ids = [*[7, 8, 9] * 3, 1, 2, 3, *[5, 6] * 3]
    found = attributes([9, 3, 6], ids=u32(ids))

    assert found[c.SEQUENCE_LOOP_PERIOD] == [3, 0, 2]
    assert found[c.OUTPUT_LOOP_PERIOD] == 2
    assert c.OUTPUT_LOOP_PERIOD not in attributes([3], ids=u32([1, 2, 3]))


def test_what_cannot_be_known_is_left_out() -> None:
    """No surprisal, no likelihood; no ids, no repetition; no text, no bytes; no attention, no RAUQ; no token, nothing."""
    surprisal, ids, last_key = f32([1, 2, 3, 4]), u32([1, 2, 3, 4]), f32(np.full((4, 1, 1), 0.5))
    likelihood, circles = set(attributes([4], surprisal)), set(attributes([4], ids=ids))

    assert {c.SEQUENCE_PERPLEXITY, c.OUTPUT_PERPLEXITY, c.SEQUENCE_NLL, c.SEQUENCE_WORST_WINDOW} <= likelihood
    assert circles == {c.SEQUENCE_REPETITION, c.SEQUENCE_LOOP_PERIOD, c.OUTPUT_REPETITION}
    assert set(attributes([4], surprisal, last_key=last_key)) - likelihood == {c.SEQUENCE_RAUQ, c.OUTPUT_RAUQ}
    assert set(attributes([4], surprisal, texts=["abcd"])) - likelihood == {
        c.SEQUENCE_BITS_PER_BYTE, c.OUTPUT_BITS_PER_BYTE, c.SEQUENCE_COMPRESSION_RATIO, c.OUTPUT_COMPRESSION_RATIO}
    assert attributes([4], last_key=last_key) == {}
    assert attributes([0, 0], surprisal[:0], ids[:0], last_key[:0], ["", ""]) == {}
    assert attributes([]) == {}


def test_nothing_finite_is_no_value_of_the_call() -> None:
    """Tokens that were not measured: lists say NaN, the call's largest is absent, and NaN stays NaN in the mean."""
    found = attributes([9], np.full(9, NAN, np.float32), last_key=f32(np.full((9, 1, 1), 0.5)))

    assert math.isnan(found[c.OUTPUT_PERPLEXITY])
    assert math.isnan(found[c.OUTPUT_SURPRISAL_MEAN])
    assert not {c.OUTPUT_NLL, c.OUTPUT_WORST_WINDOW, c.OUTPUT_SURPRISAL_SLOPE, c.OUTPUT_RAUQ} & set(found)
    np.testing.assert_equal(found[c.SEQUENCE_RAUQ], [NAN])


@given(st.lists(st.integers(0, 40), max_size=4), st.booleans(), st.integers(0, 2**32 - 1))
def test_values_have_the_types_of_the_conventions(lengths: list[int], texts: bool, seed: int) -> None:
    """Plain Python floats, ints and lists of them, one or four a sequence: what a span attribute takes; and every name is known."""
    random = np.random.default_rng(seed)
    total = sum(lengths)
    found = attributes(lengths, random.exponential(2, total).astype(np.float32), random.integers(0, 2, total).astype(np.uint32),
                       random.random((total, 4, 2)).astype(np.float32), ["ab" * length for length in lengths] if texts else None)
    types = {attribute.name: attribute.type for attribute in c.ATTRIBUTES}

    for name, value in found.items():
        kind = int if types[name].startswith("int") else float
        values = value if types[name].endswith("[]") else [value]
        assert type(values) is list
        assert {type(item) for item in values} == {kind}
        if isinstance(value, list):
            assert len(value) == len(lengths) * (4 if name == c.SEQUENCE_SURPRISAL_QUARTERS else 1)
    json.dumps(found)


def test_inputs_are_read_only_to_it() -> None:
    """The arrays go on to the packed series: not one value of them is changed, and read-only ones are taken."""
    random = np.random.default_rng(0)
    arrays: list[Any] = [random.exponential(2, 40).astype(np.float32), random.integers(0, 9, 40).astype(np.uint32),
                         random.random((40, 3, 2)).astype(np.float32)]
    for array in arrays:
        array.flags.writeable = False

    copies = [array.copy() for array in arrays]

    assert c.OUTPUT_RAUQ in attributes([30, 10], arrays[0], arrays[1], arrays[2], ["a", "b"])
    assert all(np.array_equal(array, copy) for array, copy in zip(arrays, copies, strict=True))


def test_a_million_tokens_take_bounded_memory() -> None:
    """One sequence of a million tokens: exact where it can be told by hand, in less than 150 bytes a token."""
    surprisal, ids = np.full(1_000_000, 0.5, np.float32), np.arange(1_000_000, dtype=np.uint32)
    tracemalloc.start()
    found = attributes([1_000_000], surprisal, ids, np.full((1_000_000, 1, 1), 0.5, np.float32))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    steady = 0.2 * math.exp(-0.5) / (1 - 0.8 * 0.5)  # where c = alpha p + (1 - alpha) a c
    assert found[c.OUTPUT_NLL] == 500_000
    assert found[c.OUTPUT_WORST_WINDOW] == 0.5
    assert found[c.SEQUENCE_REPETITION] == [0.0]
    assert found[c.SEQUENCE_LOOP_PERIOD] == [0]
    assert found[c.OUTPUT_RAUQ] == pytest.approx(-math.log(steady), rel=1e-5)
    assert peak < 150e6


def test_text_no_tokenizer_should_make_is_judged_all_the_same() -> None:
    """A lone surrogate has no UTF-8: three bytes, as Python's own `surrogatepass` writes it."""
    found = attributes([1], f32([math.log(2) * 3]), texts=["\ud800"])

    assert found[c.SEQUENCE_BITS_PER_BYTE] == pytest.approx([1.0])


@pytest.mark.parametrize(("arguments", "said"), [
    ({"surprisal": f32([1, 2])}, "surprisal has 1 axes"), ({"ids": u32([[1], [2], [3]])}, "ids has 1 axes"),
    ({"last_key": f32(np.ones((3, 2)))}, "last_key has 3 axes"), ({"texts": ["a"]}, "1 texts were given for 2 sequences"),
    ({"alpha": 1.5}, "weight from 0 to 1, it is 1.5"), ({"alpha": NAN}, "weight from 0 to 1"), ({"lengths": [4, -1]}, "one has -1"),
])
def test_arrays_that_do_not_fit_are_refused(arguments: dict[str, Any], said: str) -> None:
    """A shifted cut would give every sequence its neighbour's figures: the message names rule and value instead."""
    with pytest.raises(CutawayError, match=said):
        attributes(**{"lengths": [2, 1], **arguments})
