"""Charts that watch one stream of values: CUSUM and EWMA with the run length asked for, ADWIN where river is installed.

A run length is the mean number of values until a chart gives a false alarm while nothing is wrong. Limits are solved for it from
the charts' integral equations (Page 1954, Crowder 1987), not looked up. Values are z: minus the mean, by the standard deviation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cutaway_collector.errors import SettingsError

RUN_LENGTH: Final = 1000.0
STEP_MIN: Final = 4
"""Values on either side of a step."""
NODES: Final = 60
"""Of the Gauss-Legendre quadrature: run lengths are then right to six digits."""


class Cusum:
    """Two-sided CUSUM for a mean that moves by `shift` standard deviations: the fastest chart for that (Moustakides 1986).

    run_length: values between false alarms. `high` and `low` are the sums, which alarm above `limit`.
    """

    def __init__(self, *, run_length: float = RUN_LENGTH, shift: float = 1.0) -> None:
        self.allowance = shift / 2
        self.limit = cusum_limit(run_length, self.allowance)
        self.high = self.low = 0.0

    def update(self, z: float) -> bool:
        """Takes the next value; true while a sum is above its limit."""
        self.high, self.low = max(0.0, self.high + z - self.allowance), max(0.0, self.low - z - self.allowance)
        return max(self.high, self.low) > self.limit


class Ewma:
    """Exponentially weighted moving average between fixed limits. weight: of the newest value; a small one sees small shifts.

    `level` is the average, `limit` where it alarms on either side, both in standard deviations of one value.
    """

    def __init__(self, *, run_length: float = RUN_LENGTH, weight: float = 0.1) -> None:
        self.weight = weight
        self.limit = ewma_limit(run_length, weight)
        self.level = 0.0

    def update(self, z: float) -> bool:
        """Takes the next value; true while the average is outside."""
        self.level += self.weight * (z - self.level)
        return abs(self.level) > self.limit


def change_point(z: Sequence[float], *, run_length: float = RUN_LENGTH) -> int:
    """Index of the first value behind a change of the mean that holds to the end, -1 where a CUSUM does not alarm there.

    The place is the likeliest one for a step of unknown size (Hinkley 1970): a CUSUM knows sooner that than where.
    """
    chart = Cusum(run_length=run_length)
    alarm = [chart.update(value) for value in z]
    if not alarm or not alarm[-1]:
        return -1
    behind = np.cumsum(np.asarray(z, np.float64)[::-1])[::-1]
    return int(np.argmax(behind**2 / np.arange(len(z), 0, -1)))


def step(values: Sequence[float], *, permutations: int = 1999, seed: int = 0) -> tuple[int, float]:
    """(index of the first value behind the likeliest step of the mean, its permutation p-value), for a series without a reference.

    The largest difference of the means before and behind, in standard errors, each side of at least STEP_MIN values; under no
    change every order of the values is as likely, so p is exact: (0, 1.0) where there are too few values, or all are equal.
    """
    series = np.asarray(values, np.float64)
    n = series.size
    if n < 2 * STEP_MIN or not np.ptp(series) > 0:
        return 0, 1.0
    rng = np.random.default_rng(seed)
    rows = np.vstack([series, *(rng.permutation(series) for _ in range(permutations))]) - series.mean()
    before = np.arange(STEP_MIN, n - STEP_MIN + 1)
    # With the mean taken off, both sides' sums are opposite: the difference of their means in standard errors is this, but for sd.
    found = np.abs(np.cumsum(rows, axis=1)[:, before - 1]) * np.sqrt(n / (before * (n - before)))
    largest = found.max(axis=1)
    reached = np.count_nonzero(largest[1:] >= largest[0] - 1e-12 * largest[0])
    return int(before[found[0].argmax()]), float((1 + reached) / (1 + permutations))


def adwin(values: Iterable[float], *, delta: float = 0.002, looks_every: int = 32) -> list[int]:
    """Indexes at which ADWIN (Bifet, Gavalda 2007) cuts its window, for a stream without a reference. delta: false cuts a look.

    looks_every: values between two looks. Raises SettingsError where river is missing.
    """
    detector = _adwin(delta, looks_every=looks_every)
    cuts = []
    for index, value in enumerate(values):
        detector.update(value)
        if detector.drift_detected:
            cuts.append(index)
    return cuts


def adwin_width(values: Sequence[float], *, delta: float) -> int:
    """How many of the newest values ADWIN keeps when it looks at each one and the last makes it cut; all of them when it does not.

    Cuts before the last value are left aside: whoever asks at each value has heard of them. Raises SettingsError where river is
    missing.
    """
    detector = _adwin(delta, looks_every=1)
    for value in values:
        detector.update(value)
    return min(len(values), max(1, int(detector.width))) if values and detector.drift_detected else len(values)


def _adwin(delta: float, *, looks_every: int) -> Any:
    try:
        from river.drift import ADWIN
    except ImportError:
        raise SettingsError("ADWIN needs river: pip install 'cutaway[drift]'") from None
    return ADWIN(delta=delta, clock=looks_every)  # type: ignore[no-untyped-call]  # river is not typed


def cusum_run_length(limit: float, allowance: float, shift: float = 0.0) -> float:
    """Mean values to an alarm of a two-sided CUSUM whose values have mean `shift` and sd 1 (Kemp 1961 joins the sides)."""
    sides = [_cusum_side(limit, allowance, mean) for mean in (shift, -shift)]
    return 1 / sum(1 / side for side in sides)


def _cusum_side(limit: float, allowance: float, shift: float) -> float:
    points, weights = _quadrature(0.0, limit)
    step = points[None, :] - points[:, None] + allowance - shift
    start = _distribution(allowance - shift - np.append(points, 0.0))
    density = np.vstack([weights * _density(step), weights * _density(points + allowance - shift)])
    matrix = np.hstack([density, start[:, None]])
    lengths = np.linalg.solve(np.eye(len(matrix)) - matrix, np.ones(len(matrix)))
    return float(lengths[-1])


def ewma_run_length(limit: float, weight: float, shift: float = 0.0) -> float:
    """Mean values to an alarm of an EWMA between -limit and limit that starts at 0; the values have mean `shift` and sd 1."""
    points, weights = _quadrature(-limit, limit)
    starts = np.append(points, 0.0)
    step = (points[None, :] - (1 - weight) * starts[:, None]) / weight - shift
    density = weights * _density(step) / weight
    lengths = np.linalg.solve(np.eye(len(points)) - density[:-1], np.ones(len(points)))
    return float(1 + density[-1] @ lengths)


@lru_cache(maxsize=64)
def cusum_limit(run_length: float, allowance: float) -> float:
    """The limit at which a two-sided CUSUM has this run length."""
    return _solve(lambda limit: cusum_run_length(limit, allowance) - run_length)


@lru_cache(maxsize=64)
def ewma_limit(run_length: float, weight: float) -> float:
    """The limit at which an EWMA has this run length, in standard deviations of one value."""
    spread = math.sqrt(weight / (2 - weight))
    return spread * _solve(lambda width: ewma_run_length(width * spread, weight) - run_length)


def _solve(lacking: Callable[[float], float]) -> float:
    """Where an increasing function crosses zero. Looked for from below: far above, the equations lose their digits."""
    from scipy.optimize import brentq

    above = 1.0
    while lacking(above) < 0:
        above += 0.5
    return float(brentq(lacking, above - 0.9, above, xtol=1e-9))


def _quadrature(low: float, high: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    points, weights = np.polynomial.legendre.leggauss(NODES)
    return low + (points + 1) * (high - low) / 2, weights * (high - low) / 2


def _density(z: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return found


def _distribution(z: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.array([math.erfc(-one / math.sqrt(2)) / 2 for one in z])
