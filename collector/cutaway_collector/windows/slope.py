"""Exposure bias, by the one sign of it that can be watched: does surprisal rise along the answers of a window?

A proxy and only that: the bias itself is the excess error of a model that reads its own words over one that reads a person's (Arora
et al. 2022, arXiv 2204.01171), and needs reference text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from cutaway_collector.windows.answers import Floats

TOKENS_MIN: Final = 32
"""Tokens that an answer needs to have a slope worth counting."""
ANSWERS_MIN: Final = 8
"""Answers that a verdict needs."""
ERRORS: Final = 3.5
"""Standard errors from which a rise counts. Of windows without one 0.5 % lie above at eight answers (Student's t), fewer with more;
surprisals are skewed, so call it 1 %."""

_STEEPEST_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class Slope:
    """value: nats that surprisal rises from an answer's beginning to its end; error: its standard error; answers: so many.

    steepest: which rows rise most, the first most.
    """

    value: float
    error: float
    answers: int
    steepest: tuple[int, ...] = ()

    @property
    def rising(self) -> bool:
        """Whether the rise is more than chance: enough answers, and more than ERRORS standard errors above zero."""
        return self.answers >= ANSWERS_MIN and self.value > ERRORS * self.error


def slope(series: Iterable[Floats]) -> Slope:
    """Surprisals in nats, a row an answer -> the mean over answers of (least squares slope x tokens); NaN when none is long enough.

    Every answer counts the same: weighed by its certainty one long answer would outvote a hundred. An intercept an answer, so that
    long answers being duller than short ones is no slope; the error is the spread between answers, so that neighbouring tokens
    need not be independent. Tokens whose surprisal is not finite are left out.
    """
    rises: list[float] = []
    places: list[int] = []
    for place, row in enumerate(series):
        values = np.asarray(row, np.float64)
        finite = np.isfinite(values)
        if int(finite.sum()) < TOKENS_MIN:
            continue
        position = np.flatnonzero(finite).astype(np.float64)
        centred = position - position.mean()
        places.append(place)
        rises.append(float(centred @ values[finite]) / float(centred @ centred) * values.size)
    if not rises:
        return Slope(math.nan, math.nan, 0)
    error = float(np.std(rises, ddof=1)) / math.sqrt(len(rises)) if len(rises) > 1 else math.inf
    steepest = [places[at] for at in np.argsort(rises)[::-1][:_STEEPEST_MAX]]
    return Slope(float(np.mean(rises)), error, len(rises), tuple(steepest))
