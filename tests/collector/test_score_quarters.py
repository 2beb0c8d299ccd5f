"""Quarters and slope: the CPU kernel and the readable reference against exact fractions and SciPy's regression."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cutaway_collector.score import quarters
from score_helpers import NAN, quarters_oracle, ragged, surprisal_rows

TOLERANCE = 1e-9


@pytest.mark.parametrize("kernel", [quarters.reference, quarters.on_cpu])
@pytest.mark.parametrize("seed", [1, 2])
def test_means_and_slope_are_exact_within_tolerance(kernel, seed):
    """Every awkward row, holes included, gets its four means and its slope within 1e-9."""
    rows = surprisal_rows(seed)
    got = kernel(*ragged(rows, np.float32))
    np.testing.assert_allclose(got.T, [quarters_oracle(row) for row in rows], rtol=TOLERANCE, atol=1e-12)


def test_slope_is_that_of_scipys_regression():
    """The slope is the ordinary least-squares slope over position."""
    row = np.random.default_rng(4).exponential(2.0, 333).astype(np.float32)
    got = quarters.on_cpu(row, np.array([0, row.size], np.int64))
    assert got[quarters.SLOPE, 0] == pytest.approx(stats.linregress(np.arange(row.size), row).slope, rel=1e-9)


def test_a_planted_slope_is_found_and_the_quarters_rise():
    """A surprisal of 1 + i/1000 has the slope 0.001, and each quarter lies above the one before."""
    row = [1 + i / 1000 for i in range(2000)]
    got = quarters.on_cpu(*ragged([row], np.float32))[:, 0]
    assert got[quarters.SLOPE] == pytest.approx(0.001, rel=1e-6)
    np.testing.assert_allclose(got[:4], [1.2495, 1.7495, 2.2495, 2.7495], rtol=1e-6)


def test_short_sequences_have_no_quarters():
    """Below four tokens the quarters do not apply; the slope does from two measured tokens."""
    got = quarters.on_cpu(*ragged([[], [1.0], [1.0, 3.0], [NAN, 1.0, 2.0, 4.0]], np.float32))
    np.testing.assert_array_equal(got.T[:3], [[NAN] * 5, [NAN] * 5, [NAN] * 4 + [2.0]])
    np.testing.assert_array_equal(got.T[3][:4], [NAN, 1.0, 2.0, 4.0])


def test_a_row_of_a_million_tokens():
    """A million tokens: the means of NumPy slices and SciPy's slope."""
    row = np.random.default_rng(6).exponential(2.0, 1_000_000).astype(np.float32)
    got = quarters.on_cpu(row, np.array([0, row.size], np.int64))[:, 0]
    np.testing.assert_allclose(got[:4], [part.mean(dtype=np.float64) for part in np.split(row, 4)], rtol=TOLERANCE)
    slope = stats.linregress(np.arange(row.size), row.astype(np.float64)).slope
    assert got[quarters.SLOPE] == pytest.approx(slope, abs=TOLERANCE * float(row.max()) / row.size)
