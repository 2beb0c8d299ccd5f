"""Tokens as a reader sees them: characters that several tokens spell, and words, sentences and lines with a value of their own.

Not a language model: a word ends at a blank or a sign, a sentence at its mark (or after an abbreviation's dot), a line at its end.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

UNITS: Final = ("token", "word", "sentence", "line")
_BYTE: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_CHARACTER_TOKENS_MAX: Final = 8
_ENDERS: Final = ".!?…"
_WIDE_ENDERS: Final = "。！？｡"
_CLOSERS: Final = "\"'”’»)]}"
_WITHIN: Final = "_'’"


class Shown(NamedTuple):
    """A token as displayed: the text of the character it helps to spell, and which of how many tokens of it this one is."""

    text: str
    place: int
    size: int


def joined(texts: Sequence[str]) -> list[Shown]:
    """One entry a token. Pieces "" before one that begins with a character beyond ASCII, and runs of <0xHH>, spell together."""
    out: list[Shown] = []
    alone: dict[str, Shown] = {}
    at = 0
    while at < len(texts):
        text = texts[at]
        if text and not text.startswith("<0x"):  # nearly all
            out.append(alone.get(text) or alone.setdefault(text, Shown(text, 0, 1)))
            at += 1
            continue
        if _BYTE.fullmatch(text):
            stop = at
            while stop < len(texts) and _BYTE.fullmatch(texts[stop]):
                stop += 1
            out += _spelled(texts[at:stop])
            at = stop
            continue
        last = at
        while last < len(texts) and texts[last] == "" and last - at < _CHARACTER_TOKENS_MAX:
            last += 1
        if last > at and last < len(texts) and texts[last] and ord(texts[last].lstrip(" ")[:1] or "a") > 127:
            size = last - at + 1
            out += [Shown(texts[last], place, size) for place in range(size)]
            at = last + 1
        else:
            out.append(Shown(text, 0, 1))
            at += 1
    return out


def _spelled(run: Sequence[str]) -> list[Shown]:
    """A run of byte tokens: each character takes its own; bytes that spell none stay what they are."""
    found = bytes(int(piece[3:5], 16) for piece in run)
    out: list[Shown] = []
    while len(out) < len(found):
        rest = found[len(out) :]
        for size in (1, 2, 3, 4):
            try:
                text = rest[:size].decode()
            except UnicodeDecodeError:
                continue
            if text:
                out += [Shown(text, place, size) for place in range(size)]
                break
        else:
            out.append(Shown(run[len(out)], 0, 1))
    return out


def numbers(shown: Sequence[Shown], unit: str) -> npt.NDArray[np.int64]:
    """The number of the unit each token belongs to, from 0, never falling. shown: as `joined` gives. unit: one of UNITS."""
    if unit == "token" or not shown:
        return np.arange(len(shown))
    begins = {"word": _words, "sentence": _sentences, "line": _lines}[unit](shown)
    for at, one in enumerate(shown):
        if one.place:  # a character is never cut
            begins[at] = False
    begins[0] = False
    return np.cumsum(np.asarray(begins, np.int64))


def _words(shown: Sequence[Shown]) -> list[bool]:
    begins, before = [], ""
    for one in shown:
        first = one.text[:1]
        new = not first or not before or first.isspace() or before.isspace() or _kind(first) != _kind(before) or _wide(first)
        begins.append(new)
        before = one.text[-1:]
    return begins


def _kind(char: str) -> bool:
    """Whether the character is one of a word's."""
    return char.isalnum() or char in _WITHIN or unicodedata.category(char).startswith("M")


def _wide(char: str) -> bool:
    """Scripts that write words without blanks between them."""
    return unicodedata.east_asian_width(char) == "W"


def _sentences(shown: Sequence[Shown]) -> list[bool]:
    begins, ended, done = [], False, False
    for one in shown:
        starts = one.text[:1].isspace() or done
        begins.append((ended and starts) or done)
        text = one.text.rstrip()
        done = "\n" in one.text or text.rstrip(_CLOSERS)[-1:] in tuple(_WIDE_ENDERS)
        if text:
            ended = text.rstrip(_CLOSERS)[-1:] in tuple(_ENDERS) or (ended and not text.strip(_CLOSERS))
        if begins[-1] and not one.text.strip():  # blank lines go with what stood before them
            begins[-1], done = False, True
    return begins


def _lines(shown: Sequence[Shown]) -> list[bool]:
    return [at > 0 and "\n" in shown[at - 1].text and "\n" not in one.text for at, one in enumerate(shown)]


_REDUCE: Final[dict[str, Callable[[npt.NDArray[np.float64], npt.NDArray[np.int64]], npt.NDArray[np.float64]]]] = {
    "sum": np.add.reduceat, "max": np.maximum.reduceat, "min": np.minimum.reduceat, "mean": np.add.reduceat,
}
AGGREGATES: Final = ("mean", "sum", "max")


def firsts(units: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The first token of each unit."""
    return np.flatnonzero(np.diff(units, prepend=-1))


def aggregate(values: npt.NDArray[np.float64], starts: npt.NDArray[np.int64], how: str) -> npt.NDArray[np.float64]:
    """Values [token] -> [unit]: sum, mean, max or min of those that are there; NaN for a unit that has none."""
    if not values.size or not starts.size:
        return np.empty(0)
    there = np.isfinite(values)
    neutral = {"max": -np.inf, "min": np.inf}.get(how, 0.0)
    counts = np.add.reduceat(there.astype(np.float64), starts)
    found = _REDUCE[how](np.where(there, values, neutral), starts)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(counts > 0, found / counts if how == "mean" else found, np.nan)
