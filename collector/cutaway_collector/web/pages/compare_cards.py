"""The ranked cards of the comparison page: one attribute each, its values as bars of both sides, and what to do with them.

Not the ranking, which is the comparison flow's. The bars are drawn here as numbers; the template makes them SVG.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cutaway_collector.comparison import Comparison
from cutaway_collector.comparison.attributes import Card
from cutaway_collector.drift.rule import VALUES_MIN as VALUES_MIN
from cutaway_collector.search import fields
from cutaway_collector.search.compare import VALUE_CHARACTERS, Key, Value
from cutaway_collector.web import drift_charts, figures, query_edit, urls
from cutaway_collector.web.drift_charts import Shape
from cutaway_collector.web.pages.compare_words import measured, missing_term, percent, q_text, term

CARDS_SHOWN: Final = 12
FEW_SCORE_MIN: Final = 0.1
"""With few spans there is no q to say what matters: what is nearer than that has no card."""
VALUES_SHOWN: Final = 5
ROWS_SHOWN: Final = 60
NAMES_SHOWN: Final = 40


@dataclass(frozen=True, slots=True)
class Bar:
    """One value of both sides: shares in percent and as printed; the links narrow both sides, or show a span of one; "" for none.

    kind: "value", "empty", "other" or "missing"; text is "" but for values.
    """

    kind: str
    text: str
    a: float
    b: float
    a_said: str
    b_said: str
    only_url: str = ""
    not_url: str = ""
    a_url: str = ""
    b_url: str = ""


@dataclass(frozen=True, slots=True)
class CardView:
    """One attribute. shape: of numbers, A as bars and B as the outline. quantiles: (name, A, B). same: split alike."""

    title: str
    scope: str
    score: str
    measure: str
    q: str
    few: bool
    same: tuple[str, ...]
    bars: tuple[Bar, ...]
    shape: Shape | None
    quantiles: tuple[tuple[str, str, str], ...]
    n: str
    a_url: str
    b_url: str


@dataclass(frozen=True, slots=True)
class Row:
    """An attribute that does not differ, or has no room above."""

    title: str
    scope: str
    score: str
    q: str
    n: str
    differs: bool


@dataclass(frozen=True, slots=True)
class Cards:
    """shown: the cards; rows: the rest in short. left: (why it was not scored, how many, names)."""

    shown: tuple[CardView, ...]
    differing: int
    compared: int
    rows: tuple[Row, ...]
    left: tuple[tuple[str, int, str], ...]


def view(found: Comparison, kept: Mapping[str, str]) -> Cards:
    """The cards of a comparison. kept: the page's parameters, which the links change."""
    differing = [card for card in found.cards if card.differs]
    few = [card for card in found.cards if card.q is None and card.score >= FEW_SCORE_MIN]
    shown = (differing or few)[:CARDS_SHOWN]
    chosen = {id(card) for card in shown}
    rest = [card for card in found.cards if id(card) not in chosen]
    left = found.left
    return Cards(
        tuple(_card(card, found, kept) for card in shown), len(differing), len(found.cards), tuple(map(_row, rest[:ROWS_SHOWN])),
        tuple((why, len(keys), _names(keys)) for why, keys in (
            ("Another value on nearly every span, or an id", left.identifiers),
            ("The same on every span of both sides", left.constant),
            ("Lists of measured numbers, which are others on nearly every span", left.series),
            ("Named by the queries, so they differ because they were asked to", left.named)) if keys))


def _names(keys: Sequence[Key]) -> str:
    names = ", ".join(key.name for key in keys[:NAMES_SHOWN])
    return names + (f" and {len(keys) - NAMES_SHOWN} more" if len(keys) > NAMES_SHOWN else "")


def title_of(key: Key) -> str:
    """A key as people call it."""
    field = fields.lookup(key.name) if not key.scope else None
    return field.phrase if field else key.name


def _row(card: Card) -> Row:
    return Row(title_of(card.key), card.key.scope, f"{card.score:.3f}", q_text(card.q), _n(card), card.differs)


def _n(card: Card) -> str:
    return f"{figures.count(card.a_n)} and {figures.count(card.b_n)}"


def _card(card: Card, found: Comparison, kept: Mapping[str, str]) -> CardView:
    number = card.kind == "number"
    field = fields.lookup(card.key.name) if not card.key.scope else None
    unit = field.unit if field else ""
    return CardView(
        title_of(card.key), card.key.scope, f"{card.score:.2f}", "KS" if number else "JS", q_text(card.q), card.q is None,
        tuple(key.name for key in card.same), () if number else _bars(card, found, kept),
        _shape(card, "s" if unit == "ns" else unit) if number else None,
        tuple((name, measured(a, unit), measured(b, unit)) for name, a, b in
              zip(("p5", "p50", "p95"), card.a_quantiles, card.b_quantiles, strict=False)),
        _n(card), _trace(card.a_example), _trace(card.b_example))


def _shape(card: Card, unit: str) -> Shape | None:
    """A as bars, B as the outline: the chart calls the outline the reference."""
    return drift_charts.numbers({each: (b, a) for each, (a, b) in card.bins.items()}, unit)


def _trace(example: tuple[str, str]) -> str:
    return urls.trace(example[0], span=example[1]) if example[0] else ""


def _bars(card: Card, found: Comparison, kept: Mapping[str, str]) -> tuple[Bar, ...]:
    """The values whose shares differ most, then what is left: other values, and spans without any."""
    a_n, b_n = found.a_sampled or 1, found.b_sampled or 1
    ordered = sorted(card.values, key=lambda one: (-abs(one.a / a_n - one.b / b_n), one.text))
    shown, folded = ordered[:VALUES_SHOWN], ordered[VALUES_SHOWN:]
    bars = [_value(card, one, a_n, b_n, kept) for one in shown]
    other = (card.other[0] + sum(one.a for one in folded), card.other[1] + sum(one.b for one in folded))
    if any(other):
        bars.append(_share("other", "", other, a_n, b_n))
    if any(card.missing):
        without = missing_term(card.key)
        having = without.removeprefix("-")
        bars.append(_share("missing", "", card.missing, a_n, b_n, *_narrowed(kept, without, having)))
    return tuple(bars)


def _value(card: Card, one: Value, a_n: int, b_n: int, kept: Mapping[str, str]) -> Bar:
    # A value that was cut is not a value; one of a list of several is no term of its own.
    listed = ", " in one.text and fields.lookup(card.key.name) is not None and not card.key.scope
    whole = bool(one.text) and len(one.text) < VALUE_CHARACTERS and not listed
    wanted = term(card.key, one.text)
    links = _narrowed(kept, wanted, f"-{wanted}") if whole else ("", "")
    return _share("value" if one.text else "empty", one.text, (one.a, one.b), a_n, b_n, *links, _trace(one.a_example),
                  _trace(one.b_example))


def _narrowed(kept: Mapping[str, str], only: str, without: str) -> tuple[str, str]:
    query = kept.get("q", "")
    first, second = (urls.compare(kept, q=query_edit.toggled(query, one)) for one in (only, without))
    return first, second


def _share(kind: str, text: str, counts: tuple[int, int], a_n: int, b_n: int, *links: str) -> Bar:
    shares = (counts[0] / a_n, counts[1] / b_n)
    return Bar(kind, text, 100 * shares[0], 100 * shares[1], percent(shares[0]), percent(shares[1]), *links)
