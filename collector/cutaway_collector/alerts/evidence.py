"""Evidence that may be looked at all the time: a betting e-process for the mean of bounded values, rates being a special case.

For values x in [0, 1] and the hypothesis "the mean is at most m" (given what came before), each of K gamblers starts with 1/K and
stakes a fixed fraction l of what one may lose: wealth_l = product of 1 + l (x_i - m), with 0 < l < 1/m. Under the hypothesis each
wealth, and so their sum, is a non-negative supermartingale that starts at 1: by Ville's inequality the probability that it EVER
reaches 1/alpha is at most alpha, at whatever moments one looks. (Waudby-Smith & Ramdas 2023, "Estimating means of bounded random
variables by betting", the grid of section B.3; "the mean is at least m" is the same of 1 - x and 1 - m.)

Fixed stakes, and not ones that learn from the past: the product is then the same in whatever order spans arrive, and the store can
sum its logarithm for all groups in one statement.

Not a state of alerts: see `judge`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

GAMBLERS: Final = 12
_BOLDEST: Final = 0.95
"""Of 1/m: at 1 a single span without a hit would end the gambler for ever."""


def stakes(mean: float) -> npt.NDArray[np.float64]:
    """[GAMBLERS] fractions l for the hypothesis "the mean is at most `mean`", 0 < mean < 1: from 0.0005/m to 0.95/m, by halves."""
    return _BOLDEST * 2.0 ** -np.arange(GAMBLERS - 1, -1, -1, dtype=np.float64) / mean


@functools.lru_cache(maxsize=4096)
def _of_one(mean: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Logarithms [GAMBLERS] by which each wealth grows at a 1, and at a 0."""
    bets = stakes(mean)
    return np.log1p(bets * (1 - mean)), np.log1p(-bets * mean)


def of_rate(count: float, hits: float, mean: float) -> npt.NDArray[np.float64]:
    """Logarithms [GAMBLERS] by which each wealth grows when `hits` of `count` values are 1 and the others 0."""
    one, zero = _of_one(mean)
    return hits * one + (count - hits) * zero


def of_values(values: npt.NDArray[np.float64], mean: float) -> npt.NDArray[np.float64]:
    """The same of any values [..., n] in [0, 1]: [..., GAMBLERS]."""
    return np.asarray(np.log1p(stakes(mean)[:, None] * (values[..., None, :] - mean)).sum(axis=-1))


def log_wealth(logs: Sequence[float] | npt.NDArray[np.float64]) -> float:
    """Logarithm of the wealth of all gamblers together, 0 at the start; the hypothesis is rejected at log(1/alpha)."""
    array = np.asarray(logs, np.float64)
    largest = float(array.max())
    return largest + math.log(float(np.exp(array - largest).sum()) / GAMBLERS)


def rejects(logs: Sequence[float] | npt.NDArray[np.float64], alpha: float) -> bool:
    """Whether the evidence against the hypothesis is enough at this level."""
    return log_wealth(logs) >= -math.log(alpha)


def sql_sums(value: str, mean: float) -> str:
    """SQL Array(Float64) of log(1 + l (x - m)) of one value in [0, 1]: `sumForEach` of it is `of_values`. value: SQL, a Float64."""
    bets = ", ".join(repr(float(bet)) for bet in stakes(mean))
    return f"arrayMap(bet -> log1p(bet * ({value} - {mean!r})), [{bets}])"
