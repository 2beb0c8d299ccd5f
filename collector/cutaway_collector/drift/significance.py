"""Whether chance goes as far: p-values of the two-sample tests, and what is left of them when many are made at once.

SciPy does the numerics and is imported at the first call, for a collector without baselines never needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

EXPECTED_MIN: Final = 5.0
"""Categories that are expected less often than this in either window are counted as one: Cochran's rule for chi-square."""


def ks_p(distance: float, reference_n: int, n: int) -> float:
    """Two-sided p-value of a KS distance of samples of these sizes: the one-sample law at n m / (n + m), as SciPy's `asymp`.

    On cells or tied values it errs towards 1, never towards an alarm.
    """
    from scipy.stats import kstwo

    return float(np.clip(kstwo.sf(distance, max(1, round(reference_n * n / (reference_n + n)))), 0.0, 1.0))


def chi_square(reference: npt.NDArray[np.float64], now: npt.NDArray[np.float64]) -> tuple[float, int]:
    """(Pearson's statistic, degrees of freedom) of a 2 x k table of counts [k], rare categories taken together."""
    total, n = reference + now, np.array([reference.sum(), now.sum()])
    expected = total * n.min() / n.sum()
    rare = expected < EXPECTED_MIN
    table = np.vstack([np.append(side[~rare], side[rare].sum()) for side in (reference, now)])
    table = table[:, table.sum(axis=0) > 0]
    wanted = np.outer(n, table.sum(axis=0)) / n.sum()
    return float(np.sum((table - wanted) ** 2 / wanted)), table.shape[1] - 1


def chi_square_p(statistic: float, freedom: int) -> float:
    """Probability of a larger statistic; 1 where there is one category only."""
    from scipy.stats import chi2

    return float(chi2.sf(statistic, freedom)) if freedom else 1.0


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """p-values -> q-values in the same order: of those below alpha at most that share is false (Benjamini, Hochberg 1995)."""
    from scipy.stats import false_discovery_control

    return [float(q) for q in false_discovery_control(list(p), method="bh")] if p else []
