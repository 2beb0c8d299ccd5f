"""Every attribute of two samples scored, tested and ranked: which ones tell the sides apart.

Words are compared by the Jensen-Shannon distance of their Dirichlet-smoothed shares and tested by chi-square, numbers by the
two-sample Kolmogorov-Smirnov distance and its test; all p-values together go through Benjamini-Hochberg. Attributes that cannot
tell anything (the same everywhere, or another value on nearly every span) are left out before, by looks at both sides together
alone: which side a span is on has no part in it, so the tests stay honest. Not the samples, and not the page.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from cutaway_collector.drift import differences, distances, significance, sketch
from cutaway_collector.drift.rule import ALPHA, VALUES_MIN
from cutaway_collector.search.compare import WITHOUT_COLUMN, Key, Numbers, Value, Values, term

Floats = npt.NDArray[np.float64]
Kind = Literal["category", "number"]

SMOOTHING: Final = 0.5
"""Spans added to every value of either side: Jeffreys' prior. Without it, a value seen once counts as one that cannot occur."""
UNIQUE_SHARE: Final = 0.9
UNIQUE_SPANS_MIN: Final = 20
"""An attribute with more different values than that share of its spans names each of them, and tells nothing of a side."""
NUMBERS_MIN: Final = 20
"""Numbers with more different values than this are compared as numbers, with fewer as words: ports, sizes, switches."""
_IDENTIFIER: Final = re.compile(r"(?:^|[._/-])(?:id|uuid|guid|traceparent|nonce|hash)$|(?<=[a-z0-9])I[dD]$", re.ASCII)
_SERIES: Final = re.compile(r"\[(?:[-+0-9.eE,\s]|null|NaN)*\]")


@dataclass(frozen=True, slots=True)
class Card:
    """One attribute. score: 0 where the sides agree, 1 where they have nothing in common: Jensen-Shannon or KS distance.

    a_n, b_n: spans of the samples that have it. q: None with fewer than VALUES_MIN spans on a side, where nothing is claimed.
    values: of words, the most frequent first, `other` and `missing` behind them. a_quantiles, b_quantiles: p5, p50, p95 of numbers,
    and bins: bin of drift.sketch -> spans of A and B, nanoseconds as seconds. same: attributes that split the spans alike.
    """

    key: Key
    kind: Kind
    score: float
    p: float
    q: float | None
    a_n: int
    b_n: int
    values: tuple[Value, ...] = ()
    other: tuple[int, int] = (0, 0)
    missing: tuple[int, int] = (0, 0)
    a_quantiles: tuple[float, ...] = ()
    b_quantiles: tuple[float, ...] = ()
    bins: dict[int, tuple[float, float]] = field(default_factory=dict)
    a_example: tuple[str, str] = ("", "")
    b_example: tuple[str, str] = ("", "")
    same: tuple[Key, ...] = ()

    @property
    def differs(self) -> bool:
        """Whether chance would hardly do that."""
        return self.q is not None and self.q <= ALPHA


@dataclass(frozen=True, slots=True)
class Left:
    """What was not scored, and why: identifiers, the same on every span, named by the queries themselves, lists of numbers."""

    identifiers: tuple[Key, ...]
    constant: tuple[Key, ...]
    named: tuple[Key, ...]
    series: tuple[Key, ...] = ()


def sort(found: Sequence[Values], named: Collection[str], spans: int) -> tuple[list[Values], list[Values], Left]:
    """(to compare as words, to compare as numbers, what is left out). spans: of both samples; named: keys that the queries name."""
    words: list[Values] = []
    as_numbers: list[Values] = []
    identifiers, constant, in_query, series = [], [], [], []
    for one in found:
        having = one.a + one.b
        identified = one.distinct > UNIQUE_SPANS_MIN and bool(_IDENTIFIER.search(one.key.name))
        numeric = one.numeric == having and one.distinct > NUMBERS_MIN
        field = WITHOUT_COLUMN.get(one.key.name) if one.key.scope == "span" else None
        if one.key.name in named:
            in_query.append(one.key)
        elif field is not None:
            as_numbers.append(one._replace(key=Key("", field.name)))
        elif one.distinct == 1 and having == spans:
            constant.append(one.key)
        elif _is_series(one):
            series.append(one.key)
        elif identified or (not numeric and having > UNIQUE_SPANS_MIN and one.distinct > UNIQUE_SHARE * having):
            identifiers.append(one.key)
        else:
            (as_numbers if numeric else words).append(one)
    return words, as_numbers, Left(tuple(identifiers), tuple(constant), tuple(in_query), tuple(series))


def _is_series(one: Values) -> bool:
    """Whether the values are lists of measured numbers, one a sequence or step: each is almost a name of its span."""
    texts = [value.text for value in one.top]
    return bool(texts) and any("." in text for text in texts) and all(_SERIES.fullmatch(text) for text in texts)


def rank(words: Sequence[Values], a: Numbers, b: Numbers, named: Collection[str] = ()) -> list[Card]:
    """Every attribute as a card: those that differ first, each part by score. a, b: the samples' numbers."""
    cards = [_words(one, len(a.ids), len(b.ids)) for one in words]
    for key in a.values:
        sides = [side.values[key][np.isfinite(side.values[key])] for side in (a, b)]
        if key.name not in named and sides[0].size and sides[1].size and np.ptp(np.concatenate(sides)) > 0:
            cards.append(_numbers(key, a, b, sides[0], sides[1]))
    claimed = iter(significance.benjamini_hochberg([card.p for card in cards if not _few(card)]))
    judged = [card if _few(card) else replace(card, q=next(claimed)) for card in cards]
    return sorted(_merged(judged), key=lambda card: (not card.differs, -card.score, card.key))


def _few(card: Card) -> bool:
    """Words are missing as well as present, so all spans of a side speak; of numbers only those that have one."""
    missing = card.missing if card.kind == "category" else (0, 0)
    return min(card.a_n + missing[0], card.b_n + missing[1]) < VALUES_MIN


def _words(one: Values, a_spans: int, b_spans: int) -> Card:
    """Spans of a sample that came between two queries must not make a count negative."""
    kept = (sum(value.a for value in one.top), sum(value.b for value in one.top))
    other = (max(0, one.a - kept[0]), max(0, one.b - kept[1]))
    missing = (max(0, a_spans - one.a), max(0, b_spans - one.b))
    table = np.array([*((value.a, value.b) for value in one.top), other, missing], np.float64).T
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2 or not table.sum(axis=1).all():
        p, score = 1.0, 0.0
    else:
        p = significance.chi_square_p(*significance.chi_square(table[0], table[1]))
        score = distances.jensen_shannon(table[0] + SMOOTHING, table[1] + SMOOTHING)
    return Card(one.key, "category", score, p, None, one.a, one.b, one.top, other, missing)


def _numbers(key: Key, a: Numbers, b: Numbers, a_values: Floats, b_values: Floats) -> Card:
    cells, place = np.unique(np.concatenate([a_values, b_values]), return_inverse=True)
    counts = [np.bincount(part, minlength=cells.size).astype(np.float64) for part in np.split(place, [a_values.size])]
    score = distances.kolmogorov_smirnov(counts[0], counts[1])
    ordered = [np.sort(side) for side in (a_values, b_values)]
    quantiles = [tuple(differences.quantile(side, share) for share in (0.05, 0.5, 0.95)) for side in ordered]
    bins: dict[int, tuple[float, float]] = {}
    field = term(key)
    shown = cells * 1e-9 if field is not None and field.unit == "ns" else cells
    for bin_, first, second in zip(sketch.bins(shown).tolist(), *counts, strict=True):
        before = bins.get(bin_, (0.0, 0.0))
        bins[bin_] = (before[0] + float(first), before[1] + float(second))
    return Card(
        key, "number", score, significance.ks_p(score, a_values.size, b_values.size), None, a_values.size, b_values.size,
        a_quantiles=quantiles[0], b_quantiles=quantiles[1], bins=bins, a_example=_typical(a, key, quantiles[0][1]),
        b_example=_typical(b, key, quantiles[1][1]))


def _typical(side: Numbers, key: Key, median: float) -> tuple[str, str]:
    """The span at the median."""
    return side.ids[int(np.nanargmin(np.abs(side.values[key] - median)))]


def _merged(cards: Sequence[Card]) -> list[Card]:
    """Words that split the spans alike (a model's name in three attributes) become one card; fields of the registry speak first."""
    kept: dict[tuple[object, ...], Card] = {}
    for card in sorted(cards, key=lambda one: (term(one.key) is None, one.key)):
        split = (tuple(sorted((value.a, value.b) for value in card.values)), card.missing, card.other)
        identity = split if card.kind == "category" and not _few(card) else (card.key,)
        first = kept.get(identity)
        kept[identity] = replace(first, same=(*first.same, card.key)) if first else card
    return list(kept.values())
