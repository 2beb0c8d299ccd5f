"""By how much two samples differ, with an interval: quantiles by the bootstrap; and the tests that belong to such a table.

Not how far whole distributions are apart, which is `distances`. Shares have Newcombe's interval, see `rates`. SciPy is imported at
the first call, as in `significance`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
RESAMPLES: Final = 2000
CONFIDENCE: Final = 0.95


class Difference(NamedTuple):
    """b less a, and the interval that holds the true difference with the asked confidence; in the values' unit."""

    value: float
    low: float
    high: float


def quantile(ordered: Floats, share: float) -> float:
    """The order statistic at `share` of ascending values [n]: the smallest value with at least that share at or below it."""
    return float(ordered[_rank(ordered.size, share) - 1])


def _rank(n: int, share: float) -> int:
    return min(n, max(1, int(np.ceil(share * n))))


def resampled_quantiles(ordered: Floats, share: float, resamples: int, rng: np.random.Generator) -> Floats:
    """The quantile of `resamples` bootstrap samples of ascending values [n], without drawing them.

    A resample takes n places at random; the k-th smallest place of n uniform ones has the law Beta(k, n - k + 1), so one draw a
    resample says which value is the quantile. Exactly the bootstrap's law (Efron 1979), at none of its cost.
    """
    n = ordered.size
    k = _rank(n, share)
    places = np.minimum(n - 1, np.floor(n * rng.beta(k, n - k + 1, resamples)).astype(np.int64))
    found: Floats = ordered[places]
    return found


def quantile_difference(a: Floats, b: Floats, share: float, *, resamples: int = RESAMPLES, confidence: float = CONFIDENCE,
                        seed: int = 0) -> Difference:
    """Quantile of b less that of a, with the percentile interval of the bootstrap. a [n], b [m]: finite, not empty.

    The same samples give the same interval: the seed is fixed.
    """
    rng = np.random.default_rng(seed)
    sides = [np.sort(side) for side in (a, b)]
    drawn = [resampled_quantiles(side, share, resamples, rng) for side in sides]
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(drawn[1] - drawn[0], (tail, 100 - tail))
    return Difference(quantile(sides[1], share) - quantile(sides[0], share), float(low), float(high))


def mann_whitney_p(a: Floats, b: Floats) -> float:
    """Two-sided p-value of the Mann-Whitney test, with ties and by its normal law: whether one side tends to be larger."""
    from scipy.stats import mannwhitneyu

    if np.ptp(np.concatenate([a, b])) == 0:
        return 1.0
    return float(mannwhitneyu(a, b, alternative="two-sided", method="asymptotic").pvalue)


def fisher_p(a: tuple[int, int], b: tuple[int, int]) -> float:
    """Two-sided p-value of Fisher's exact test; each side is (how many have it, of how many)."""
    from scipy.stats import fisher_exact

    table = [[having, total - having] for having, total in (a, b)]
    return float(fisher_exact(table)[1])


def normal_p(z: Floats) -> Floats:
    """Two-sided p-values [k] of standard normal values [k]; NaN gives 1."""
    from scipy.stats import norm

    found: Floats = np.nan_to_num(2 * norm.sf(np.abs(z)), nan=1.0)
    return found
