"""Every kernel: the readable reference and the CPU against an oracle, on rows that could go wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutaway_collector.score import histogram, repetition, surprisal
from score_cases import cases
from score_helpers import INF, NAN, fixed, ragged, repetition_oracle, surprisal_oracle

CASES = cases()


@pytest.mark.parametrize("name", CASES)
def test_the_reference_says_what_the_oracle_says(name):
    """Empty, single, holed, long, extreme: the readable form is right within the stated tolerance."""
    case = CASES[name]
    np.testing.assert_allclose(case.kernels[0](*case.arguments), case.expected(), rtol=case.rtol, atol=case.atol)


@pytest.mark.parametrize("name", CASES)
def test_the_cpu_says_what_the_oracle_says(name):
    """The same of the compiled form, which runs on all cores."""
    case = CASES[name]
    np.testing.assert_allclose(case.kernels[1](*case.arguments), case.expected(), rtol=case.rtol, atol=case.atol)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from([0.0, 0.5, 2.0, 5.0, 6.0, 7.5, NAN, INF]), max_size=45), max_size=5))
def test_surprisals_that_are_often_equal(rows):
    """Quantiles, windows and runs of few different values, holes among them, agree with sorted fractions."""
    expected = np.reshape([surprisal_oracle(row) for row in rows], (-1, len(surprisal.NAMES))).T
    np.testing.assert_allclose(surprisal.on_cpu(*ragged(rows, np.float32)), expected, rtol=1e-12, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), max_size=60), max_size=6))
def test_ids_that_are_often_equal(rows):
    """Rows made of four ids, where almost every gram comes back, agree with sets of tuples and with every period tried."""
    expected = np.reshape([repetition_oracle(row) for row in rows], (-1, len(repetition.NAMES))).T
    np.testing.assert_allclose(repetition.on_cpu(*ragged(rows, np.uint32)), expected, rtol=0, atol=2**-53)


def test_offsets_need_not_start_at_zero():
    """A row is what the offsets say, also when the values hold more than the rows."""
    values, offsets = fixed(np.array([100, 1, 2, 3, 100], np.float32)), fixed(np.array([1, 2, 4], np.int64))
    np.testing.assert_array_equal(surprisal.on_cpu(values, offsets)[surprisal.WORST], [1.0, 2.5])


def test_a_peak_shorter_than_the_window_is_diluted_and_a_shorter_sequence_is_one_window():
    """The window is 16 tokens wide, or the sequence when that is shorter."""
    peak = [0.0] * 40
    peak[20] = 16.0
    got = surprisal.on_cpu(*ragged([peak, [16.0, 0.0], [9.0]], np.float32))
    np.testing.assert_array_equal(got[surprisal.WORST], [1.0, 8.0, 9.0])


def test_a_figure_too_large_for_a_float_does_not_apply():
    """A mean surprisal of 1000 nats has no perplexity; its other figures are there."""
    got = surprisal.on_cpu(*ragged([[1000.0] * 8], np.float32))[:, 0]
    assert np.isnan(got[surprisal.PERPLEXITY])
    assert got[surprisal.WORST] == 1000.0


def test_a_million_surprisals():
    """A row of a million: running sums do not drift, and selecting finds what NumPy's sort finds."""
    values = np.random.default_rng(3).exponential(2.0, 1_000_000).astype(np.float32)
    values[777_000:777_016] += 30
    arguments = fixed(values), fixed(np.array([0, values.size]))
    np.testing.assert_allclose(surprisal.on_cpu(*arguments), surprisal.reference(*arguments), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["sorted", "reversed", "equal", "sawtooth"])
def test_no_order_of_a_million_surprisals_makes_selecting_slow(name):
    """Orders that are bad for a simple quickselect are answered like any other, not in quadratic time (which is hours)."""
    up = np.arange(1_000_000, dtype=np.float32)
    values = {"sorted": up, "reversed": up[::-1].copy(), "equal": np.ones_like(up), "sawtooth": up % 1000}[name]
    got = surprisal.on_cpu(fixed(values), fixed(np.array([0, values.size])))[:, 0]
    expected = np.quantile(values.astype(np.float64), [0.5, 0.9, 0.99])
    np.testing.assert_allclose(got[surprisal.FIRST_QUANTILE : surprisal.WORST], expected)


def test_a_million_ids():
    """A million random ids of a small vocabulary: the counts agree with sorts of packed grams; a loop of 16 384 ids is found."""
    random = np.random.default_rng(5)
    ids = random.integers(0, 30, 1_000_000).astype(np.uint32)
    ids[-3 * 16_384 :] = np.tile(random.integers(0, 30, 16_384), 3)
    got = repetition.on_cpu(fixed(ids), fixed(np.array([0, ids.size])))[:, 0]
    for index, n in enumerate((1, 2, 4)):
        packed = np.zeros(ids.size - n + 1, np.uint64)
        for shift in range(n):
            packed = packed * np.uint64(30) + ids[shift : ids.size - n + 1 + shift]
        unique = np.unique(packed).size / packed.size
        assert got[index] == pytest.approx(1 - unique if n == 4 else unique, abs=2**-53)
    assert got[repetition.LOOP_PERIOD] == 16_384


@pytest.mark.parametrize("edges", [
    np.concatenate([[0.0], 10.0 ** np.arange(-300, 300, 7)]), np.concatenate([1 + 1e-15 * np.arange(1, 40), [1e6]]),
    np.array([5e-324, 1e-323]), np.array([-1.7e308, 0.0, 1.7e308]), np.array([-INF, 0.0, INF])], ids=repr)
def test_edges_that_crowd_together_or_lie_far_apart(edges):
    """Whatever the distances of the edges: every value is counted between those that sorting says."""
    random = np.random.default_rng(1)
    values = np.concatenate([edges, random.choice(edges, 500) * random.uniform(0.5, 1.0, 500), [0.0, 1.0, INF, -INF]])
    values = values[~np.isnan(values)]
    bins = np.searchsorted(edges, values, side="right") - (values == edges[-1])
    expected = np.bincount(bins, minlength=edges.size + 1)
    np.testing.assert_array_equal(histogram.on_cpu(*ragged([values], np.float64), fixed(edges))[0], expected)
