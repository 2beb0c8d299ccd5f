"""Charts of streams against published run lengths and against simulation, and what is measured of two samples of vectors."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics.pairwise import rbf_kernel

from cutaway_collector.drift import multivariate, streams
from cutaway_collector.drift.streams import Cusum, Ewma


@pytest.mark.parametrize(("limit", "shift", "published"),
                         [(4, 0, 168), (5, 0, 465), (4, 1, 8.38), (5, 1, 10.4), (4, 2, 3.34), (5, 2, 4.01)])
def test_run_lengths_of_the_cusum_are_the_published_ones(limit: float, shift: float, published: float) -> None:
    """Montgomery, Introduction to Statistical Quality Control, two-sided with allowance 1/2; printed to three digits."""
    assert streams.cusum_run_length(limit, 0.5, shift) == pytest.approx(published, rel=0.005)


@pytest.mark.parametrize(("weight", "width", "published"),
                         [(0.05, 2.615, 500), (0.1, 2.814, 500), (0.2, 2.962, 500), (0.4, 3.054, 500)])
def test_run_lengths_of_the_ewma_are_the_published_ones(weight: float, width: float, published: float) -> None:
    """Lucas and Saccucci 1990."""
    assert streams.ewma_run_length(width * math.sqrt(weight / (2 - weight)), weight) == pytest.approx(published, rel=0.005)


@pytest.mark.parametrize("chart", [Cusum(run_length=200), Ewma(run_length=200)], ids=["cusum", "ewma"])
def test_the_simulated_run_length_is_the_stated_one(chart: Cusum | Ewma) -> None:
    """Over 1,500 streams in control the mean time to an alarm is what was asked for, within three standard errors."""
    rng = np.random.default_rng(11)
    lengths = []
    for _ in range(1500):
        chart = type(chart)(run_length=200)
        values = iter(rng.normal(size=4000).tolist())
        lengths.append(next(count for count, z in enumerate(values, 1) if chart.update(z)))
    assert np.mean(lengths) == pytest.approx(200, abs=3 * np.std(lengths) / math.sqrt(len(lengths)))


@pytest.mark.parametrize("shift", [1.0, -1.5])
def test_a_change_is_placed_where_it_began(shift: float) -> None:
    """Within a few values of the change, on either side of the mean; a stream without one has no place."""
    rng = np.random.default_rng(3)
    calm = rng.normal(size=150)
    assert abs(streams.change_point([*calm, *rng.normal(shift, 1, 60)]) - 150) <= 5
    assert streams.change_point(calm.tolist()) == -1
    assert streams.change_point([]) == -1


def test_adwin_finds_a_step_and_nothing_else() -> None:
    """A shift of one standard deviation at 1,000 is found within 200 values; before it nothing is."""
    rng = np.random.default_rng(4)
    cuts = streams.adwin([*rng.normal(size=1000), *rng.normal(1, 1, 500)])
    assert cuts
    assert 1000 < cuts[0] < 1200


def test_mmd_is_the_textbook_sum() -> None:
    """The unbiased estimate with the median bandwidth, against scikit-learn's kernel and the double sums written out."""
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(40, 3)), rng.normal(0.4, 1.2, size=(55, 3))
    both = np.concatenate([x, y])
    bandwidth = np.median([np.linalg.norm(a - b) for i, a in enumerate(both) for b in both[:i]])
    gram = rbf_kernel(both, gamma=1 / (2 * bandwidth**2))
    inside = [(gram[:40, :40].sum() - 40) / (40 * 39), (gram[40:, 40:].sum() - 55) / (55 * 54)]
    assert multivariate.mmd2(x, y)[0] == pytest.approx(sum(inside) - 2 * gram[:40, 40:].mean(), rel=1e-9)


def test_mmd_finds_what_no_single_attribute_shows() -> None:
    """A correlation that changes its sign: every margin stays, MMD's p-value is the smallest it can be."""
    rng = np.random.default_rng(6)
    x = rng.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], 150)
    y = rng.multivariate_normal([0, 0], [[1, -0.8], [-0.8, 1]], 150)
    assert multivariate.mmd2(x, y)[1] == 1 / (1 + multivariate.PERMUTATIONS)


def test_mmd_repeats_itself() -> None:
    """The same seed, the same p-value."""
    x = np.random.default_rng(7).normal(size=(60, 2))
    assert multivariate.mmd2(x[:30], x[30:], seed=3) == multivariate.mmd2(x[:30], x[30:], seed=3)


def test_mmd_takes_another_kernel() -> None:
    """A kernel that is handed in is the one that is used: with a constant one nothing is apart."""
    x = np.random.default_rng(8).normal(size=(40, 2))
    assert multivariate.mmd2(x[:20], x[20:] + 9, kernel=lambda points, _: np.ones((len(points), len(points)))) == (0.0, 1.0)


def test_the_classifier_tells_apart_and_says_which() -> None:
    """Half of the new rows are of another kind: the AUC says so, and those rows are the foreign ones. Holes are no obstacle."""
    rng = np.random.default_rng(9)
    x, y = rng.normal(size=(300, 4)), rng.normal(size=(200, 4))
    y[:100, 0] += 4
    x[::7, 2] = np.nan
    auc, p, foreign = multivariate.domain_classifier(x, y)
    assert auc > 0.7
    assert p < 1e-6
    assert np.quantile(foreign[:100], 0.1) > np.quantile(foreign[100:], 0.9)
