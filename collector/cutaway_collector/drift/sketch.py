"""The bins that every sketch shares, as NumPy and as SQL: one per cent wide, so that histograms of any two windows add up.

Not a quantile sketch of its own kind: it is DDSketch's mapping (Masson, Rim, Lee 2019) with both signs, kept as plain counts. Bin 0
holds zero and everything smaller than SMALLEST; bin b > 0 holds SMALLEST * GAMMA^(b - 1) < x <= SMALLEST * GAMMA^b; -b its mirror.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

SMALLEST: Final = 1e-9
GAMMA: Final = 1.02
"""Neighbouring edges' ratio: a bin's representative is within 1 % of everything in it."""
BIN_MAX: Final = 3000
"""Of about 1e17: what is larger is counted there."""
_CENTRE: Final = 2 / (1 + GAMMA)


def bins(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Values [n], finite -> bins [n]; larger values never have smaller bins."""
    size = np.maximum(np.abs(values), SMALLEST)
    place = np.minimum(BIN_MAX, np.ceil(np.log(size / SMALLEST) / math.log(GAMMA)))
    return (np.sign(values) * place).astype(np.int64)


def representative(bins: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Bins [n] -> the value each stands for [n]."""
    found: npt.NDArray[np.float64] = np.sign(bins) * SMALLEST * np.exp(np.abs(bins) * math.log(GAMMA)) * _CENTRE
    return found


def lower_edge(bin: int) -> float:
    """Where a bin begins: the upper end of the one before it."""
    place = bin - 1 if bin > 0 else bin
    return math.copysign(SMALLEST * GAMMA ** abs(place), bin - 0.5)


def bins_sql(value: str) -> str:
    """SQL of a finite number -> SQL of its bin, Int64."""
    size = f"greatest(abs({value}), {SMALLEST!r}) / {SMALLEST!r}"
    return f"toInt64(sign({value}) * least({BIN_MAX}., ceil(log({size}) / {math.log(GAMMA)!r})))"


def representative_sql(bin: str) -> str:
    """SQL of a bin -> SQL of the value it stands for."""
    return f"(sign({bin}) * {SMALLEST!r} * exp(abs({bin}) * {math.log(GAMMA)!r}) * {_CENTRE!r})"
