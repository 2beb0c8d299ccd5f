"""Geometry of the drift page: an attribute's histogram before and now, windows and streams over time, in plain numbers.

Not markup and not the statistics; the template turns these into rects and paths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from cutaway_collector.drift import sketch
from cutaway_collector.web import figures

WIDTH: Final = 168
HEIGHT: Final = 36
BARS: Final = 24
LABELS_SHOWN_MAX: Final = 6
VERSION_CHARACTERS: Final = 16
STREAM_WIDTH: Final = 1000
STREAM_HEIGHT: Final = 96
_MARGIN: Final = 4
_LOG_RATIO: Final = 50.0
"""Ends further apart than this get a logarithmic axis."""
_TAIL: Final = 0.005


@dataclass(frozen=True, slots=True)
class Rect:
    """One bar, its foot at HEIGHT."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Shape:
    """Both windows of one attribute: bars are now, path outlines the reference. low, high: ends of the axis as printed."""

    bars: tuple[Rect, ...]
    path: str
    low: str
    high: str
    label: str


def numbers(cells: Mapping[int, tuple[float, float]], unit: str) -> Shape | None:
    """Bin -> (reference, now); None where a side is empty. The half per cent at each end is counted in the last bar."""
    order: list[int] = sorted(cells)
    bins = np.array(order, np.int64)
    values = sketch.representative(bins)
    sides = np.array([cells[each] for each in order], np.float64).T
    totals = sides.sum(axis=1)
    if not bins.size or not totals.all():
        return None
    shares = sides / totals[:, None]
    reach = np.cumsum(shares.mean(axis=0))
    low, high = (float(values[min(int(np.searchsorted(reach, part)), values.size - 1)]) for part in (_TAIL, 1 - _TAIL))
    if low == high:
        low, high = low - 0.5, high + 0.5
    log = low > 0 and high / low > _LOG_RATIO
    edges = np.geomspace(low, high, BARS + 1) if log else np.linspace(low, high, BARS + 1)
    # Bins and bars do not meet: a bin's values count as spread evenly over it, or the bars would look like a comb.
    ends = np.concatenate([[sketch.lower_edge(order[0])], *([sketch.lower_edge(each + 1)] for each in order)])
    heights = []
    for side in shares:
        below = np.interp(edges, ends, np.concatenate([[0.0], np.cumsum(side)]))
        below[0], below[-1] = 0.0, 1.0
        heights.append(np.diff(below))
    first, last = figures.measured(low, unit), figures.measured(high, unit)
    return _shape(heights[0], heights[1], first, last, f"from {first} to {last}")


def labels(cells: Mapping[str, tuple[float, float]]) -> Shape | None:
    """Label -> (reference, now), the most frequent ones; None where a side is empty."""
    totals = [sum(pair[side] for pair in cells.values()) for side in (0, 1)]
    if not all(totals):
        return None
    ordered = sorted(cells, key=lambda label: (-sum(cells[label]), label))[:LABELS_SHOWN_MAX]
    shares = [np.array([cells[label][side] / totals[side] for label in ordered]) for side in (0, 1)]
    said = ", ".join(f"{label} {percent(shares[0][index])} → {percent(shares[1][index])}" for index, label in enumerate(ordered))
    return _shape(shares[0], shares[1], ordered[0], ordered[-1] if len(ordered) > 1 else "", said)


def percent(share: float) -> str:
    """0.123 -> "12.3 %"."""
    return f"{100 * share:.3g}\u202f%"


def _shape(before: npt.NDArray[np.float64], now: npt.NDArray[np.float64], low: str, high: str, label: str) -> Shape:
    top = float(max(before.max(), now.max()))
    wide = WIDTH / len(now)
    gap = min(2.0, wide / 6)
    tall = [side / top * (HEIGHT - 2) for side in (before, now)]
    bars = tuple(Rect(index * wide + gap / 2, HEIGHT - max(1.0, height), wide - gap, max(1.0, height))
                 for index, height in enumerate(tall[1].tolist()) if height > 0)
    path = f"M0 {HEIGHT}" + "".join(
        f"L{index * wide:.1f} {HEIGHT - height:.1f}L{(index + 1) * wide:.1f} {HEIGHT - height:.1f}"
        for index, height in enumerate(tall[0].tolist())) + f"L{WIDTH} {HEIGHT}"
    return Shape(bars, path, low, high, label)


@dataclass(frozen=True, slots=True)
class Cell:
    """One attribute in one window, in percent of the strip's width. css: steady, shifted or few."""

    x: float
    width: float
    css: str
    end_ns: int
    label: str
    current: bool


@dataclass(frozen=True, slots=True)
class Mark:
    """A deployment: where, and the version that came."""

    x: float
    version: str
    label: str
    left: bool


def cells(windows: Sequence[tuple[int, int, str, str]], start_ns: int, end_ns: int, at_ns: int) -> tuple[Cell, ...]:
    """(start, end, label, words) of one attribute's windows -> cells on an axis from start_ns to end_ns."""
    span = end_ns - start_ns
    return tuple(Cell(100 * (first - start_ns) / span, 100 * (last - first) / span, label, last, words, last == at_ns)
                 for first, last, label, words in windows)


def marks(deployments: Sequence[tuple[int, str, str]], start_ns: int, end_ns: int) -> tuple[Mark, ...]:
    """(when, version, version before) -> marks on the axis; the words stand left of those near its end."""
    out = []
    for ns, version, previous in deployments:
        x = 100 * (ns - start_ns) / (end_ns - start_ns)
        words = f"{figures.day(ns)} {figures.clock(ns)[:5]} UTC: {version} takes over from {previous}"
        shown = version if len(version) <= VERSION_CHARACTERS else version[: VERSION_CHARACTERS - 1] + "…"
        out.append(Mark(x, shown, words, x > 50))
    return tuple(out)


def stream_path(places_ns: Sequence[int], values: npt.NDArray[np.float64], axis: tuple[int, int], low: float, high: float) -> str:
    """Values [n] at moments [n] -> a line through them; one alone is a short dash."""
    points = [f"{STREAM_WIDTH * (ns - axis[0]) / (axis[1] - axis[0]):.1f} {stream_height(value, low, high):.1f}"
              for ns, value in zip(places_ns, values.tolist(), strict=True)]
    return "M" + "L".join(points) + ("" if len(points) > 1 else "m-4 0h8")


def stream_height(value: float, low: float, high: float) -> float:
    """Where a value lies, low at the foot of the picture."""
    share = (value - low) / (high - low) if high > low else 0.5
    return STREAM_HEIGHT - _MARGIN - share * (STREAM_HEIGHT - 2 * _MARGIN)


def stream_band(start_ns: int, end_ns: int, axis: tuple[int, int]) -> tuple[float, float]:
    """(x, width) of a time within the axis."""
    wide = STREAM_WIDTH / (axis[1] - axis[0])
    return (start_ns - axis[0]) * wide, (end_ns - start_ns) * wide
