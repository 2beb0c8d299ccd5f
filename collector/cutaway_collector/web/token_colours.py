"""From a signal's values to sixteen colour classes: a robust range, a linear, logarithmic or percentile scale, and a gamma.

Not statistics: the scale serves reading. The true numbers are printed beside the colours and travel in the JSON twin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from cutaway_collector.web.tokens import CLASSES, Signal

SCALES: Final = ("linear", "log", "percentile")
GAMMA_MIN, GAMMA_MAX = 0.2, 5.0
STRIKING: Final = 0.95
"""Share of tokens below the threshold that a page opens with."""
Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Colouring:
    """How values become colours. gamma bends the positions between the ends: below 1 it shows differences of calm tokens."""

    scale: str = "linear"
    gamma: float = 1.0


@dataclass(frozen=True, slots=True)
class Scale:
    """Where colours begin and end. `below` and `above` count values outside [low, high], which get the end colours.

    flat: the values hardly differ, so the range was widened to one that matters. ordered: all finite values, sorted.
    """

    low: float
    high: float
    below: int
    above: int
    absent: int
    flat: bool
    ordered: Values


def scale(values: Values, signal: Signal) -> Scale:
    """Values [n], NaN for absent. The range is the 2nd to the 98th percentile, so that one outlier does not grey out the rest.

    A range smaller than the signal's least telling one is widened to that, away from the striking end.
    """
    finite = np.sort(values[np.isfinite(values)])
    absent = int(values.size - finite.size)
    if not finite.size:
        return Scale(0.0, 0.0, 0, 0, absent, False, finite)
    low, high = (float(bound) for bound in np.percentile(finite, (2, 98)))
    below, above = int((finite < low).sum()), int((finite > high).sum())
    least = signal.least * (abs(float(np.median(finite))) if signal.relative else 1.0)
    flat = high - low < least
    if flat and signal.reverse:
        low = high - least
    elif flat:
        high = low + least
    if flat:  # an outlier of a flat series is still an outlier, and still counted against the range that is drawn
        below, above = int((finite < low).sum()), int((finite > high).sum())
    return Scale(low, high, below, above, absent, flat, finite)


def positions(values: Values, ends: Scale, signal: Signal, colouring: Colouring) -> Values:
    """Values [n] -> places between the calm end 0 and the striking end 1; NaN where absent."""
    count = ends.ordered.size
    if ends.high <= ends.low:
        return np.where(np.isfinite(values), 0.0, np.nan)
    if colouring.scale == "percentile" and count > 1 and not ends.flat:
        # The middle of the places that equal values share.
        places = np.searchsorted(ends.ordered, values, "left") + np.searchsorted(ends.ordered, values, "right") - 1
        place = np.clip(places / 2 / (count - 1), 0, 1)
    else:
        low, high = _bend(np.array([ends.low, ends.high]), signal, colouring)
        with np.errstate(invalid="ignore"):
            place = np.clip((_bend(values, signal, colouring) - low) / (high - low), 0, 1)
    place = np.where(np.isfinite(values), 1 - place if signal.reverse else place, np.nan)
    bent_place: Values = place**colouring.gamma
    return bent_place


def _bend(values: Values, signal: Signal, colouring: Colouring) -> Values:
    if colouring.scale != "log":
        return values
    with np.errstate(invalid="ignore"):
        bent: Values = np.log1p(np.maximum(values, 0) / signal.knee)
    return bent


def classify(values: Values, ends: Scale, signal: Signal, colouring: Colouring) -> npt.NDArray[np.int64]:
    """Values [n] -> class 0..15 each, -1 where absent. Equal values everywhere give class 0."""
    place = positions(values, ends, signal, colouring)
    classes = np.minimum(np.nan_to_num(place) * CLASSES, CLASSES - 1).astype(np.int64)
    return np.where(np.isfinite(place), classes, -1)


def threshold(values: Values, signal: Signal) -> float:
    """The value that the most striking twentieth of the tokens reach; NaN without values."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return float("nan")
    return float(np.percentile(finite, 100 * (1 - STRIKING if signal.reverse else STRIKING)))


def reaching(values: Values, bound: float, signal: Signal) -> npt.NDArray[np.bool_]:
    """Which values are as striking as the bound; never those that are absent."""
    with np.errstate(invalid="ignore"):
        return values <= bound if signal.reverse else values >= bound
