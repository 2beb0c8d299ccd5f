"""Two samples of vectors: MMD^2 with a permutation p-value, and the classifier that tries to tell them apart.

Not for one attribute alone, where KS says more for less. What belongs to several at once (a correlation that broke, a cluster that
is gone) only these see.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from cutaway_collector.errors import SettingsError

Floats = npt.NDArray[np.float64]
PERMUTATIONS: Final = 199
"""The smallest p-value is then 0.005, and 0.05 is one of its steps."""
STRIPE: Final = 128
"""Rows of a kernel matrix that are multiplied at once."""
Kernel = Callable[[Floats, float], Floats]


def rbf(points: Floats, bandwidth: float) -> Floats:
    """exp(-|a - b|^2 / (2 bandwidth^2)) of every pair of points [n, d] -> [n, n]."""
    squares = np.sum(points**2, axis=1)
    distances = np.maximum(0.0, squares[:, None] + squares[None, :] - 2 * points @ points.T)
    kernel: Floats = np.exp(-distances / (2 * bandwidth**2))
    return kernel


def median_bandwidth(points: Floats) -> float:
    """Median distance of different points [n, d]; 1 where all are equal."""
    squares = np.sum(points**2, axis=1)
    pairs = (squares[:, None] + squares[None, :] - 2 * (points @ points.T))[~np.tri(len(points), dtype=bool)]
    half = (pairs.size - 1) // 2
    middle = float(np.mean(np.sqrt(np.maximum(0.0, np.partition(pairs, (half, pairs.size // 2))[[half, pairs.size // 2]]))))
    return middle or 1.0


def mmd2(reference: Floats, now: Floats, *, permutations: int = PERMUTATIONS, seed: int = 0,
         kernel: Kernel = rbf) -> tuple[float, float]:
    """(unbiased MMD^2, permutation p-value) of samples [n, d] and [m, d]. Gretton et al. 2012, eq. 3.

    The bandwidth is the median distance of the pooled points, which no permutation changes, so the p-value is exact: without a
    change it is below alpha with at most that probability. Memory is (n + m)^2 doubles.
    """
    n, m = len(reference), len(now)
    points = np.concatenate([reference, now])
    gram = kernel(points, median_bandwidth(points))
    np.fill_diagonal(gram, 0.0)
    first = np.zeros((n + m, permutations + 1))
    first[:n, 0] = 1.0
    rng = np.random.default_rng(seed)
    for column in range(1, permutations + 1):
        first[rng.permutation(n + m)[:n], column] = 1.0
    sums = gram.sum(axis=0)
    inside = _within(gram, first)
    across = sums @ first - inside
    outside = sums.sum() - inside - 2 * across
    found = inside / (n * (n - 1)) + outside / (m * (m - 1)) - 2 * across / (n * m)
    # Equal splits give sums that differ in their last digits: they count as ties, on the side of no alarm.
    reached = np.count_nonzero(found[1:] >= found[0] - 1e-12)
    return float(found[0]), float((1 + reached) / (1 + permutations))


def _within(gram: Floats, chosen: Floats) -> Floats:
    """Of each column c of `chosen` [n, k], c' gram c: the upper half of a symmetric matrix says it all, at half of the cost."""
    total: Floats = np.zeros(chosen.shape[1])
    for first in range(0, len(gram), STRIPE):
        rows, rest = slice(first, first + STRIPE), slice(first + STRIPE, None)
        products = 2.0 * (gram[rows, rest] @ chosen[rest]) + gram[rows, rows] @ chosen[rows]
        total += np.einsum("ij,ij->j", chosen[rows], products)
    return total


def domain_classifier(reference: Floats, now: Floats, *, seed: int = 0) -> tuple[float, float, Floats]:
    """(AUC, p-value, how foreign each row of `now` is) of samples [n, d] and [m, d]; NaN means missing.

    Half of each sample trains a forest, the AUC is that of the other half and its p-value the Mann-Whitney test's, which
    holds because no row judges itself; then the halves change places, so that each row of `now` gets a probability
    from 0 to 1 by trees that never saw it. Raises SettingsError where scikit-learn is missing.
    """
    try:
        from sklearn.ensemble import RandomForestClassifier
    except ImportError:
        raise SettingsError("the domain classifier needs scikit-learn: pip install 'cutaway[drift]'") from None
    from scipy.stats import mannwhitneyu

    rng = np.random.default_rng(seed)
    points = np.concatenate([reference, now])
    is_now = np.concatenate([np.zeros(len(reference), bool), np.ones(len(now), bool)])
    half = np.zeros(len(points), bool)
    for side in (False, True):
        rows = np.flatnonzero(is_now == side)
        half[rng.permutation(rows)[: len(rows) // 2]] = True
    foreign = np.empty(len(points))
    for trained in (half, ~half):
        trees = RandomForestClassifier(40, min_samples_leaf=5, class_weight="balanced", random_state=seed, n_jobs=1)
        trees.fit(points[trained], is_now[trained])
        foreign[~trained] = trees.predict_proba(points[~trained])[:, 1]
    judged = ~half
    test = mannwhitneyu(foreign[judged & is_now], foreign[judged & ~is_now], alternative="greater")
    pairs = np.count_nonzero(judged & is_now) * np.count_nonzero(judged & ~is_now)
    return float(test.statistic / pairs), float(test.pvalue), foreign[is_now]
