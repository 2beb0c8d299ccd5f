"""What only a look into the model sees: surprisal along the answer, attention entropy of layers and heads, striking tokens.

Statistics of the series that the search verb averages; no page and no SQL. Intervals and tests count generations, not tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from cutaway_collector.contracts import Store
from cutaway_collector.drift import differences, enrichment, significance
from cutaway_collector.drift.rule import ALPHA
from cutaway_collector.search import compare_tokens as series
from cutaway_collector.search.compare import Count, Sides
from cutaway_collector.search.compare_tokens import BINS, Cell, Inside, Shape, Word

Z: Final = 1.959964
"""Of a 95 % interval."""
WORDS_SHOWN: Final = 10
CELLS_N_MIN: Final = 2


@dataclass(frozen=True, slots=True)
class Band:
    """Mean surprisal of a part of the answer in nats, with its 95 % interval over generations; n: of these."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class HeadMap:
    """Attention entropy, nats: mean of B less that of A, and q, [layer][head]; None where a side has fewer than two generations.

    by_head: False where only the mean over heads was kept; heads is then 1.
    """

    layers: int
    heads: int
    by_head: bool
    a_n: int
    b_n: int
    difference: tuple[tuple[float | None, ...], ...]
    q: tuple[tuple[float | None, ...], ...]
    a: tuple[tuple[float | None, ...], ...]
    b: tuple[tuple[float | None, ...], ...]

    @property
    def differing(self) -> int:
        """Cells that differ with q of at most 0.05."""
        return sum(one is not None and one <= ALPHA for row in self.q for one in row)


@dataclass(frozen=True, slots=True)
class Enriched:
    """A token that strikes more often on one side. log_odds: of that side against the other; z: of the same sign."""

    text: str
    log_odds: float
    z: float
    a: int
    b: int
    example: str


@dataclass(frozen=True, slots=True)
class Striking:
    """Tokens at or above `limit` nats. a, b: the most enriched of A and of B, q of at most 0.05. by_text: else by token id."""

    limit: float
    by_text: bool
    a_tokens: int
    b_tokens: int
    a: tuple[Enriched, ...]
    b: tuple[Enriched, ...]


@dataclass(frozen=True, slots=True)
class White:
    """All of it; a part is None, with the reason in `missing`, where a side has no such series."""

    a_n: int
    b_n: int
    positions: tuple[tuple[Band | None, Band | None], ...] | None
    heads: HeadMap | None
    words: Striking | None
    missing: tuple[str, ...]


def look(store: Store, asked: Sides, a: Count, b: Count) -> White:
    """Reads the series of both sides. Raises QueryError, StoreError."""
    drawn = series.drawn(asked, a, b)
    first, second = series.inside(store, drawn)
    if not first.generations or not second.generations:
        lacking = "A and B have" if first.generations == second.generations else "B has" if first.generations else "A has"
        why = f"{lacking} no generations with token series: there is nothing to look into."
        return White(first.generations, second.generations, None, None, None, (why,))
    missing: list[str] = []
    shape, why = _common(first.shapes, second.shapes)
    if shape is None:
        missing.append(why)
    heads = None if shape is None else _heads(store, drawn, shape, first, second)
    if heads is not None and min(heads.a_n, heads.b_n) < CELLS_N_MIN:
        heads = None
        missing.append("A side has a single generation with attention entropies: a map would show that one alone.")
    words = _words(store, drawn, first, second)
    if words is None:
        missing.append("The sides have neither token texts nor token ids in common.")
    return White(first.generations, second.generations, _positions(series.positions(store, drawn)),
                 heads, words, tuple(missing))


def _common(a: Sequence[Shape], b: Sequence[Shape]) -> tuple[Shape | None, str]:
    """The shape that most generations have on both sides, single heads before means; or why there is none."""
    if not a or not b:
        return None, f"{'A' if not a else 'B'} has no attention entropies."
    pairs = [(one, other) for one in a for other in b if one[:3] == other[:3]]
    if not pairs:
        shapes = [f"{side[0].layers} layers" + (f" of {side[0].heads} heads" if side[0].by_head else "") for side in (a, b)]
        return None, f"The attention of the sides has no common shape: A has {shapes[0]}, B has {shapes[1]}."
    return max(pairs, key=lambda pair: (min(pair[0].generations, pair[1].generations) >= CELLS_N_MIN, pair[0].by_head,
                                        min(pair[0].generations, pair[1].generations)))[0], ""


def _band(cell: Cell | None) -> Band | None:
    if cell is None:
        return None
    half = Z * cell.sd / np.sqrt(cell.n) if cell.n > 1 else 0.0
    return Band(cell.mean, cell.mean - half, cell.mean + half, cell.n)


def _positions(cells: Mapping[tuple[int, int], Cell]) -> tuple[tuple[Band | None, Band | None], ...]:
    return tuple((_band(cells.get((0, part))), _band(cells.get((1, part)))) for part in range(BINS))


def _heads(store: Store, drawn: Sides, shape: Shape, a: Inside, b: Inside) -> HeadMap:
    sizes = [sum(one.attention_values for one in side.shapes if one[:3] == shape[:3]) for side in (a, b)]
    cells = series.heads(store, drawn, shape, sizes[0], sizes[1])
    size = shape.layers * shape.heads
    n, mean, sd = (np.full((2, size), np.nan) for _ in range(3))
    for (side, place), cell in cells.items():
        n[side, place], mean[side, place], sd[side, place] = cell
    difference = mean[1] - mean[0]
    with np.errstate(invalid="ignore", divide="ignore"):
        z = difference / np.sqrt((sd**2 / n).sum(axis=0))
    known = np.isfinite(difference) & (n >= CELLS_N_MIN).all(axis=0)
    q = np.full(size, np.nan)
    # Both sides alike to the last bit have no spread and no difference: that is no finding.
    q[known] = significance.benjamini_hochberg(differences.normal_p(z[known]).tolist())
    difference[~known] = np.nan

    def table(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[tuple[float | None, ...], ...]:
        listed = [float(value) if np.isfinite(value) else None for value in values]
        return tuple(tuple(listed[row * shape.heads : (row + 1) * shape.heads]) for row in range(shape.layers))

    counted = [int(np.nanmax(side)) if np.isfinite(side).any() else 0 for side in n]
    return HeadMap(shape.layers, shape.heads, shape.by_head, counted[0], counted[1], table(difference), table(q), table(mean[0]),
                   table(mean[1]))


def _words(store: Store, drawn: Sides, a: Inside, b: Inside) -> Striking | None:
    by_text = a.with_text * 2 >= a.generations and b.with_text * 2 >= b.generations
    if not by_text and not (a.with_ids and b.with_ids):
        return None
    limit, found = series.words(store, drawn, by_text=by_text)
    counts = np.array([(word.a, word.b, word.total) for word in found], np.float64).reshape(-1, 3)
    ratio, z = enrichment.log_odds(counts[:, 0], counts[:, 1], counts[:, 2])
    # Hundreds of tokens are looked at: some z are large by chance, so the rate of false ones is held, as everywhere on the page.
    beyond = np.array(significance.benjamini_hochberg(differences.normal_p(z).tolist())) <= ALPHA
    order = np.argsort(-z, kind="stable")
    first = tuple(_enriched(found[place], ratio[place], z[place], found[place].a_example)
                  for place in order[:WORDS_SHOWN] if z[place] > 0 and beyond[place])
    second = tuple(_enriched(found[place], -ratio[place], -z[place], found[place].b_example)
                   for place in order[::-1][:WORDS_SHOWN] if z[place] < 0 and beyond[place])
    return Striking(limit, by_text, int(counts[:, 0].sum()), int(counts[:, 1].sum()), first, second)


def _enriched(word: Word, ratio: float, z: float, example: str) -> Enriched:
    return Enriched(word.text, float(ratio), float(z), word.a, word.b, example)
