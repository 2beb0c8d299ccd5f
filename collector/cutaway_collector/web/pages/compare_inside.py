"""What the comparison page shows of the inside of models: surprisal along the answer, a map of heads, striking tokens; in numbers.

Not the reading and not the statistics, which are the comparison flow's; the template makes SVG of the geometry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from cutaway_collector.comparison import Comparison
from cutaway_collector.comparison.inside import Band, Enriched, HeadMap, Striking
from cutaway_collector.drift.rule import ALPHA, VALUES_MIN
from cutaway_collector.web import figures, tokens, urls
from cutaway_collector.web.pages.compare_words import q_text, signed

WIDTH: Final = 400
HEIGHT: Final = 140
STEPS: Final = 4
"""Colours on either side of none."""
CELL_ROWS_SHOWN: Final = 40


@dataclass(frozen=True, slots=True)
class Line:
    """One side's curve and band, as SVG paths."""

    line: str
    band: str


@dataclass(frozen=True, slots=True)
class Positions:
    """Mean surprisal along the answer. rows: (part, A, its interval, B, its interval) as printed. top: value at the ceiling."""

    a: Line
    b: Line
    top: str
    rows: tuple[tuple[str, str, str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Heads:
    """The map, layers across and heads down. areas: (colour class, SVG path of its cells); marks: path of those that differ.

    values, q: for the script, "" where unknown. rows: the cells that differ most. limit: at the ends of the colours.
    differing: how many cells, None where either side has too few generations for a claim, as elsewhere on the page.
    """

    layers: int
    heads: int
    by_head: bool
    areas: tuple[tuple[str, str], ...]
    marks: str
    limit: str
    values: str
    q: str
    differing: int | None
    n: str
    rows: tuple[tuple[str, str, str, str, str], ...]


@dataclass(frozen=True, slots=True)
class WordRow:
    """A token as printed; share: of the largest z, in percent. url: a generation where it strikes."""

    text: str
    z: str
    odds: str
    a: int
    b: int
    share: float
    url: str


@dataclass(frozen=True, slots=True)
class Words:
    """Tokens most enriched among those that strike, by side."""

    limit: str
    by_text: bool
    a: tuple[WordRow, ...]
    b: tuple[WordRow, ...]


@dataclass(frozen=True, slots=True)
class InsideView:
    """All of it; parts that are not there are None, and `missing` says why."""

    n: str
    positions: Positions | None
    heads: Heads | None
    words: Words | None
    missing: tuple[str, ...]


def view(found: Comparison) -> InsideView | None:
    """The part of the page; None where nothing was looked at."""
    white = found.white
    if white is None:
        return None
    return InsideView(
        f"{figures.count(white.a_n)} and {figures.count(white.b_n)}",
        _positions(white.positions) if white.positions else None, _heads(white.heads) if white.heads else None,
        _words(white.words) if white.words else None, white.missing)


def _positions(found: Sequence[tuple[Band | None, Band | None]]) -> Positions:
    top = max((one.high for pair in found for one in pair if one), default=0.0) or 1.0
    rows = []
    for index, (a, b) in enumerate(found):
        part = f"{100 * index // len(found)} to {100 * (index + 1) // len(found)}\u202f%"
        rows.append((part, *_printed(a), *_printed(b)))
    return Positions(_line([a for a, _ in found], top), _line([b for _, b in found], top), figures.number(top), tuple(rows))


def _printed(one: Band | None) -> tuple[str, str]:
    return (figures.number(one.mean), f"{figures.number(one.low)} to {figures.number(one.high)}") if one else (figures.ABSENT, "")


def _line(bands: Sequence[Band | None], top: float) -> Line:
    step = WIDTH / len(bands)

    def point(index: int, value: float) -> str:
        return f"{(index + 0.5) * step:.1f} {HEIGHT - max(0.0, value) / top * (HEIGHT - 8):.1f}"

    known = [(index, one) for index, one in enumerate(bands) if one is not None]
    if not known:
        return Line("", "")
    line = "M" + "L".join(point(index, one.mean) for index, one in known)
    around = [point(index, one.high) for index, one in known] + [point(index, one.low) for index, one in reversed(known)]
    return Line(line, "M" + "L".join(around) + "Z")


def steps(difference: float | None, limit: float) -> str:
    """Colour class of a difference: da4 .. da1 where A is larger, d0, db1 .. db4 where B is; "dx" for none."""
    if difference is None:
        return "dx"
    if limit <= 0:
        return "d0"
    place = min(STEPS, round(abs(difference) / limit * STEPS))
    return f"d{'b' if difference > 0 else 'a'}{place}" if place else "d0"


def limit_of(differences: Sequence[float | None]) -> float:
    """Where the colours end: the 98th percentile of the sizes, so that one outlier does not grey out the rest."""
    sizes = [abs(one) for one in differences if one is not None]
    return float(np.percentile(sizes, 98)) if sizes else 0.0


def _heads(found: HeadMap) -> Heads:
    flat = [(layer, head, value, q) for layer, (row, qs) in enumerate(zip(found.difference, found.q, strict=True))
            for head, (value, q) in enumerate(zip(row, qs, strict=True))]
    limit = limit_of([value for _, _, value, _ in flat])
    few = min(found.a_n, found.b_n) < VALUES_MIN
    areas: dict[str, str] = {}
    marks = ""
    for layer, head, value, q in flat:
        css = steps(value, limit)
        areas[css] = areas.get(css, "") + f"M{layer} {head}h1v1h-1z"
        marks += f"M{layer}.3 {head}.5h.4" if q is not None and q <= ALPHA and not few else ""
    strongest = sorted((one for one in flat if one[2] is not None and one[3] is not None),
                       key=lambda one: (one[3] or 0.0, -abs(one[2] or 0.0)))
    rows = tuple((_place(found, layer, head), figures.number(found.a[layer][head]), figures.number(found.b[layer][head]),
                  _nats(value), "–" if few else q_text(q)) for layer, head, value, q in strongest[:CELL_ROWS_SHOWN])
    return Heads(
        found.layers, found.heads, found.by_head, tuple(sorted(areas.items())), marks, figures.number(limit),
        ",".join("" if value is None else f"{value:.3g}" for _, _, value, _ in flat),
        ",".join("" if q is None or few else f"{q:.2g}" for _, _, _, q in flat), None if few else found.differing,
        f"{figures.count(found.a_n)} and {figures.count(found.b_n)}", rows)


def _place(found: HeadMap, layer: int, head: int) -> str:
    return f"layer {layer}, head {head}" if found.by_head else f"layer {layer}"


def _nats(value: float | None) -> str:
    return figures.ABSENT if value is None else f"{signed(value, figures.number)}\u202fnats"


def _words(found: Striking) -> Words:
    most = max((abs(one.z) for one in (*found.a, *found.b)), default=1.0)

    def row(one: Enriched) -> WordRow:
        text = tokens.printed(one.text) if found.by_text else f"token {one.text}"
        return WordRow(text, figures.number(one.z), figures.number(one.log_odds), one.a, one.b, 100 * abs(one.z) / most,
                       urls.generation(one.example) if one.example else "")

    return Words(figures.number(found.limit), found.by_text, tuple(map(row, found.a)), tuple(map(row, found.b)))
