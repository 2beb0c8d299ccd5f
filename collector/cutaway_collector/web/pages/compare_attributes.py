"""What two single spans say of themselves, side by side: what each was asked, and the attributes in which they differ.

Not the ranking of attributes of many spans, which are the cards' (compare_cards). Lists stand entry beside entry, not as JSON.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cutaway.conventions import ATTRIBUTES, SEQUENCE_SURPRISAL_QUARTERS
from cutaway_collector import messages
from cutaway_collector.web import figures
from cutaway_collector.web.pages.compare_words import measured

ATTRIBUTES_SHOWN: Final = 60
ENTRIES_SHOWN: Final = 24
"""Longer lists stand in one line each."""
TEXT_SHOWN: Final = 300
ASKED_SHOWN: Final = 4000
QUARTERS: Final = 4
_KNOWN: Final = {one.name: one for one in ATTRIBUTES}
_UNITS: Final = {"By": "bytes", "bit/By": "bits/byte", "nats^2": "nats²"}
_OF_SEQUENCE: Final = "cutaway.sequence."
_OF_OUTPUT: Final = "cutaway.output."
_IS_MESSAGE: Final = re.compile(messages.ATTRIBUTES)


@dataclass(frozen=True, slots=True)
class Line:
    """One value, or one entry of a list, of both. entry: which, "" for a single value; a, b: as printed; same: they agree."""

    entry: str
    a: str
    b: str
    same: bool


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute that differs. resource: it is of what sent the span."""

    name: str
    resource: bool
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """What one of the two, or "both", was asked: (role, text)."""

    whose: str
    messages: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Own:
    """Everything the template may use. more: attributes that differ and have no room."""

    asked: tuple[Asked, ...]
    attributes: tuple[Attribute, ...]
    more: int


def view(a: Mapping[str, Any], b: Mapping[str, Any]) -> Own:
    """Two spans as `search.trace.span` gives them."""
    rows = [Attribute(name, scope == "resource", _lines(name, a[scope].get(name), b[scope].get(name)))
            for scope in ("attributes", "resource") for name in sorted({*a[scope], *b[scope]})
            if a[scope].get(name) != b[scope].get(name) and not _IS_MESSAGE.match(name)]
    # Where both have one sequence, what is said of it is what is said of the output.
    known = {row.name: row.lines for row in rows}
    rows = [row for row in rows if known.get(row.name.replace(_OF_SEQUENCE, _OF_OUTPUT, 1)) != row.lines
            or not row.name.startswith(_OF_SEQUENCE)]
    return Own(_asked(a, b), tuple(rows[:ATTRIBUTES_SHOWN]), max(0, len(rows) - ATTRIBUTES_SHOWN))


def _asked(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[Asked, ...]:
    said = [tuple((one.role, _cut(one.text, ASKED_SHOWN)) for one in messages.asked(span["attributes"], span["events"]))
            for span in (a, b)]
    if said[0] == said[1]:
        return (Asked("both", said[0]),) if said[0] else ()
    return Asked("A", said[0]), Asked("B", said[1])


def _lines(name: str, a: str | None, b: str | None) -> tuple[Line, ...]:
    """An entry of a list beside that of the other; anything else as one line."""
    sides = [_listed(text) for text in (a, b)]
    length = max((len(side) for side in sides if side is not None), default=1)
    if all(text is None or side is not None for text, side in zip((a, b), sides, strict=True)) and length <= ENTRIES_SHOWN:
        columns = [[_said(name, value) for value in side or ()] + [figures.ABSENT] * (length - len(side or ())) for side in sides]
        return tuple(Line(_entry(name, place, length), one, other, one == other)
                     for place, (one, other) in enumerate(zip(*columns, strict=True)))
    one, other = (figures.ABSENT if text is None else _said(name, text) if side is None
                  else _cut(", ".join(_said(name, value) for value in side), TEXT_SHOWN)
                  for text, side in zip((a, b), sides, strict=True))
    return (Line("", one, other, False),)


def _listed(text: str | None) -> list[Any] | None:
    """The entries of a JSON list of plain values; None for any other text."""
    if text is None or not text.startswith("["):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    plain = isinstance(found, list) and all(value is None or isinstance(value, str | int | float) for value in found)
    return found if plain and found else None


def _entry(name: str, place: int, length: int) -> str:
    """What an entry of a list is about."""
    if length == 1:
        return ""
    if name == SEQUENCE_SURPRISAL_QUARTERS:
        quarter = f"quarter {place % QUARTERS + 1}"
        return quarter if length == QUARTERS else f"sequence {place // QUARTERS}, {quarter}"
    return f"sequence {place}" if name.startswith(_OF_SEQUENCE) else f"{place}"


def _said(name: str, value: Any) -> str:
    """A value as printed: a number of ours with its unit, anything else as it was sent."""
    if value is None:
        return figures.ABSENT
    known = _KNOWN.get(name)
    if known is not None and known.type.startswith(("int", "double")):
        try:
            number = float(value)
        except ValueError:
            return _cut(str(value), TEXT_SHOWN)
        if not math.isfinite(number):
            return figures.ABSENT
        unit = _UNITS.get(known.unit, known.unit)
        return measured(int(number) if number.is_integer() else number, "" if unit.startswith("{") else unit)
    return _cut(str(value), TEXT_SHOWN)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]} …"
