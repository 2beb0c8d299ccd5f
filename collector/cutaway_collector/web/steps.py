"""The curves of a diffusion pipeline's steps as SVG paths, and the same numbers as table rows.

Not a drawing of the image and not a judgement: what the sender measured after each step, one curve a measure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from cutaway_collector.web import figures, tokens

ROWS_SHOWN_MAX: Final = 1000
"""Rows of the table; the JSON twin has all of them."""
WIDTH: Final = 1000
HEIGHT: Final = 100
_MARGIN: Final = 4
_MEASURES: Final = (
    ("latent_norm", "Latent norm", "", "root mean square of the latents after the step"),
    ("latent_change", "Latent change", "", "root mean square of what the step changed; the first step has none"),
    ("time_s", "Time", "", "how long the step took; the first holds all that came before it"),
    ("timestep", "Timestep", "", "the scheduler's time, from noise down to the image"),
)


@dataclass(frozen=True, slots=True)
class Curve:
    """One measure over the steps. path: SVG on WIDTH x HEIGHT, "" where nothing is finite; low, high: its ends as printed."""

    label: str
    unit: str
    help: str
    path: str
    low: str
    high: str


@dataclass(frozen=True, slots=True)
class Steps:
    """All curves of a span on one axis of `count` steps, and the table's rows."""

    count: int
    width: int
    curves: tuple[Curve, ...]
    rows: tuple[tuple[str, ...], ...]


def steps(curves: Mapping[str, Sequence[float | None]]) -> Steps:
    """The curves of /gen/<id>.json, in the order of the page; measures that were not recorded are left out."""
    count = max(len(values) for values in curves.values())
    shown = [measure for measure in _MEASURES if len(curves.get(measure[0], ()))]
    series = [tokens.as_array(curves[key], count) for key, *_ in shown]
    spell = [figures.seconds if key == "time_s" else figures.number for key, *_ in shown]
    drawn = []
    for (_, label, unit, meaning), values, said in zip(shown, series, spell, strict=True):
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        ends = (said(low), said(high)) if finite.size else (figures.ABSENT, figures.ABSENT)
        drawn.append(Curve(label, unit, meaning, path(values, low, high), *ends))
    printed = [
        [said(value) if np.isfinite(value) else figures.ABSENT for value in values[:ROWS_SHOWN_MAX].tolist()]
        for values, said in zip(series, spell, strict=True)
    ]
    rows = tuple(zip(*printed, strict=True))
    return Steps(count, WIDTH, tuple(drawn), rows)


def path(values: npt.NDArray[np.float64], low: float, high: float) -> str:
    """Values [n] -> a line through the finite ones, broken where one is missing; a value alone is a short dash."""
    finite = np.isfinite(values)
    x = np.linspace(0, WIDTH, values.size) if values.size > 1 else np.array([WIDTH / 2])
    share = (values - low) / (high - low) if high > low else np.where(finite, 0.5, np.nan)
    y = HEIGHT - _MARGIN - share * (HEIGHT - 2 * _MARGIN)
    parts = []
    for index in np.flatnonzero(finite):
        begins = index == 0 or not finite[index - 1]
        parts.append(f"{'M' if begins else 'L'}{x[index]:.1f} {y[index]:.1f}")
        if begins and (index + 1 == values.size or not finite[index + 1]):
            parts.append("m-3 0h6")
    return "".join(parts)
