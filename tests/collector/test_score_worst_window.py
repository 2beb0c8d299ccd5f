"""Worst window: the CPU kernel and the readable reference against sums in exact fractions."""

from __future__ import annotations

import numpy as np
import pytest

from cutaway_collector.score import worst_window
from score_helpers import INF, NAN, ragged, surprisal_rows, worst_window_oracle

TOLERANCE = 1e-12


@pytest.mark.parametrize("kernel", [worst_window.reference, worst_window.on_cpu])
@pytest.mark.parametrize("seed", [1, 2])
def test_largest_window_mean_is_exact_within_tolerance(kernel, seed):
    """Every awkward row, holes included, gets the mean of its worst 16 measured tokens within 1e-12 relative."""
    rows = surprisal_rows(seed)
    got = kernel(*ragged(rows, np.float32))
    np.testing.assert_allclose(got, [worst_window_oracle(row) for row in rows], rtol=TOLERANCE, atol=0)


@pytest.mark.parametrize("kernel", [worst_window.reference, worst_window.on_cpu])
def test_unmeasured_tokens_are_left_out_not_counted_as_zero(kernel):
    """NaN and infinite surprisals neither enter the mean nor break a window in two."""
    spread = [4.0 if i % 2 else NAN for i in range(32)] + [INF]
    np.testing.assert_array_equal(kernel(*ragged([spread, [NAN, INF], []], np.float32)), [4.0, NAN, NAN])


def test_a_peak_shorter_than_the_window_is_diluted_and_a_shorter_sequence_is_one_window():
    """The window is 16 tokens wide, or the sequence when that is shorter."""
    peak = [0.0] * 40
    peak[20] = 16.0
    np.testing.assert_array_equal(worst_window.on_cpu(*ragged([peak, [16.0, 0.0], [9.0]], np.float32)), [1.0, 8.0, 9.0])


def test_a_million_tokens_do_not_drift():
    """The running sum over a row of a million tokens ends where fresh sums end."""
    values = np.random.default_rng(3).exponential(2.0, 1_000_000).astype(np.float32)
    values[777_000:777_016] += 30
    offsets = np.array([0, values.size], np.int64)
    got = worst_window.on_cpu(values, offsets)
    np.testing.assert_allclose(got, worst_window.reference(values, offsets), rtol=TOLERANCE)
    assert got[0] > 30


def test_offsets_need_not_start_at_zero():
    """A row is what the offsets say, also when the values hold more than the rows."""
    values = np.array([100, 1, 2, 3, 100], np.float32)
    np.testing.assert_array_equal(worst_window.on_cpu(values, np.array([1, 2, 4], np.int64)), [1.0, 2.5])
