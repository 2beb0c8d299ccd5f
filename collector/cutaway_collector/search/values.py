"""Values of the search language made typed: numbers with units, globs as LIKE patterns.

Not SQL and not parsing of queries: a value comes in as the text the parser cut out, a Python value goes out to be bound.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from fractions import Fraction
from typing import Final

from cutaway_collector.errors import QueryError
from cutaway_collector.search.fields import Field, nearest
from cutaway_collector.search.language import Literal

_NUMBER: Final = re.compile(
    r"([+-]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,3}(?![0-9]))?)"
    r"\s*([^\s0-9.+-]\S*)?"
)
_SECONDS: Final[dict[str, Fraction]] = {
    "ns": Fraction(1, 10**9), "us": Fraction(1, 10**6), "µs": Fraction(1, 10**6), "μs": Fraction(1, 10**6), "ms": Fraction(1, 1000),
    "s": Fraction(1), "m": Fraction(60), "min": Fraction(60), "h": Fraction(3600), "d": Fraction(86400),
}
_COUNTS: Final[dict[str, Fraction]] = {"k": Fraction(1000), "K": Fraction(1000), "M": Fraction(10**6)}
_UNITS: Final[dict[str, dict[str, Fraction]]] = {
    "s": _SECONDS,
    "ns": {unit: scale * 10**9 for unit, scale in _SECONDS.items()},
    "nats": {"nats": Fraction(1), "nat": Fraction(1), "bits": Fraction(math.log(2)), "bit": Fraction(math.log(2))},
    "bits/byte": {},
    "bytes": {"B": Fraction(1), "kB": Fraction(10**3), "MB": Fraction(10**6), "GB": Fraction(10**9), "KiB": Fraction(2**10),
              "MiB": Fraction(2**20), "GiB": Fraction(2**30)},
    "J": {"J": Fraction(1), "kJ": Fraction(1000), "Wh": Fraction(3600), "kWh": Fraction(3_600_000)},
    "steps": _COUNTS,
    "tokens": _COUNTS,
    "tokens/s": _COUNTS,
    "": {**_COUNTS, "%": Fraction(1, 100)},
}
_BARE_UNIT: Final = {"ns": "s"}
"""What a number without a unit means where it is not the stored unit: nobody types nanoseconds."""
_SAID: Final = ("s", "nats", "bytes", "J")
"""Units that the name of a field does not say already."""
_INT64: Final = 2**63


def units(unit: str) -> tuple[str, ...]:
    """What may stand behind a number of a field in that unit; () where nothing may."""
    return tuple(_UNITS[unit])


def bare_unit(unit: str) -> str:
    """What a number without a unit is."""
    return _BARE_UNIT.get(unit, unit)


def number(value: Literal, unit: str, name: str) -> int | float:
    """A number in the stored `unit`, exact where whole ("1.5s" of a field in ns -> 1500000000). `name` is the field, for messages.

    A bare number of a time field is seconds, of an information field nats. Raises QueryError.
    """
    text = value.text.strip()
    match = _NUMBER.fullmatch(text)
    low, dots, high = text.partition("..")
    if dots:
        raise QueryError(f"{name} is compared with a number, `{text[:40]}` is none", column=value.at,
                         hint=f"a range is written {name}:[{low[:20] or '*'} TO {high[:20] or '*'}]")
    if match is None:
        raise QueryError(f"{name} is compared with a number, `{text[:40]}` is none", column=value.at,
                         hint=f"try {name}:>{example(unit)}")
    written = match.group(2) or _BARE_UNIT.get(unit, "")
    scales = _UNITS[unit]
    if written and written not in scales:
        near = nearest(written, tuple(scales))
        raise QueryError(f"{name} has no unit `{written[:20]}`: it takes {', '.join(scales) or 'plain numbers'}", column=value.at,
                         hint=f"did you mean {near}?" if near else f"try {example(unit)}, or leave the unit out")
    exact = Fraction(Decimal(match.group(1))) * (scales[written] if written else 1)
    if exact.denominator == 1 and -_INT64 <= exact < _INT64:
        return int(exact)
    try:
        return float(exact)
    except OverflowError:
        raise QueryError(f"{name} is compared with a number of at most 1.8e308", column=value.at) from None


def said(value: Literal, unit: str) -> str:
    """A number as written, with the unit that is meant where none stands behind it: 2 of a field in ns is "2 s"."""
    meant = bare_unit(unit)
    return f"{value.text} {meant}" if meant in _SAID and looks_numeric(value) else value.text


def looks_numeric(value: Literal) -> bool:
    """Whether the text is a plain number, without a unit."""
    match = _NUMBER.fullmatch(value.text.strip())
    return match is not None and match.group(2) is None


def example(unit: str) -> str:
    """A value to show in a hint."""
    return {"ns": "500ms", "s": "500ms", "nats": "8bits", "tokens": "2k", "bytes": "2GiB", "J": "500J"}.get(unit, "20")


def is_glob(value: Literal) -> bool:
    """Whether an unquoted word holds a `*` or `?` that is not escaped by a backslash."""
    return not value.quoted and re.search(r"(?<!\\)(?:\\\\)*[*?]", value.text) is not None


def like_literal(text: str) -> str:
    """A text as a LIKE pattern of itself alone."""
    return re.sub(r"[%_\\]", r"\\\g<0>", text)


def like(text: str) -> str:
    """A glob as a LIKE pattern: `*` any text, `?` one character, everything else itself."""
    out: list[str] = []
    for escaped, char in re.findall(r"(\\?)(.)", text, re.DOTALL):
        if not escaped and char in "*?":
            out.append("%" if char == "*" else "_")
        else:
            out.append(like_literal(char))
    return "".join(out)


def runs(glob: str) -> list[str]:
    """What a glob says between its wildcards, each piece as itself."""
    marked = re.sub(r"\\(.)|[*?]", lambda found: found[1] or "\0", glob, flags=re.DOTALL)
    return [run for run in marked.split("\0") if run]


def plain(value: Literal) -> str:
    """The text meant by a word without wildcards: `\\*` is a star."""
    return value.text if value.quoted else re.sub(r"\\([*?\\])", r"\1", value.text)


def spelling(field: Field, text: str) -> str:
    """The stored spelling of a value of a closed set (`error` -> `Error`); other text as it is."""
    return next((known for known in field.values if known.lower() == text.lower()), text)
