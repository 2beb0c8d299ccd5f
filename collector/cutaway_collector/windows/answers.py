"""What window scores judge, as they need it: answers with ids, text and surprisals, and their n-grams as numbers.

Not a tokenizer: where the sender captured token ids these are the units, elsewhere the words of the text are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import xxhash

Ids: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

UNITS_MAX: Final = 1024
"""Units of an answer that are compared: what comes later changes no verdict on whether answers are alike."""
_SIGNED_WORDS: Final = "぀-ヿ㐀-䶿一-鿿가-힯"
WORD: Final = re.compile(f"[{_SIGNED_WORDS}]|[^\\W{_SIGNED_WORDS}]+")
"""A word: letters and digits in a row. Scripts that put no blanks between words count a sign a word."""
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Answer:
    """One generated sequence. ids: token ids [t]; surprisals: nats [t]; either may be empty. text: "" when it was not captured."""

    trace_id: str
    span_id: str = ""
    sequence: int = 0
    ids: Ids = field(default_factory=lambda: np.zeros(0, np.int64))
    text: str = ""
    surprisals: Floats = field(default_factory=lambda: np.zeros(0, np.float64))


def words(text: str) -> list[str]:
    """Words of a text, case folded, without punctuation."""
    return WORD.findall(text.casefold())


def units(answers: Sequence[Answer]) -> list[Ids]:
    """One row of non-negative numbers an answer: its token ids if every answer has some, else its words, numbered over all answers.

    At most UNITS_MAX an answer. An answer without ids and text is an empty row.
    """
    if answers and all(answer.ids.size or not answer.text for answer in answers):
        return [answer.ids[:UNITS_MAX] for answer in answers]
    known: dict[str, int] = {}
    return [np.array([known.setdefault(word, len(known)) for word in words(answer.text)[:UNITS_MAX]], np.int64)
            for answer in answers]


@dataclass(frozen=True, slots=True)
class Grams:
    """All n-grams of some rows. rows: which row [g]; grams: numbers from 0, equal for equal grams [g]; distinct: how many."""

    rows: Ids
    grams: Ids
    distinct: int


def grams(rows: Sequence[Ids], n_max: int) -> list[Grams]:
    """Grams of 1, 2, ... n_max units, exact: each is numbered by the shorter one it extends and its last unit."""
    lengths = np.array([row.size for row in rows], np.int64)
    flat = np.concatenate([*rows, np.zeros(0, np.int64)])
    left = _left(lengths) if flat.size else flat
    owner = np.repeat(np.arange(lengths.size), lengths)
    found, units = np.unique(flat, return_inverse=True)
    current, count = units.astype(np.int64), int(found.size)
    starts = np.arange(flat.size)
    out = [Grams(owner, current, count)]
    for n in range(2, n_max + 1):
        keep = left[starts] >= n
        starts, current = starts[keep], current[keep]
        keys = current * max(int(found.size), 1) + units[starts + n - 1]
        kept, inverse = np.unique(keys, return_inverse=True)
        current, count = inverse.astype(np.int64), int(kept.size)
        out.append(Grams(owner[starts], current, count))
    return out


def _left(lengths: Ids) -> Ids:
    """Units from each place to the end of its row, itself included."""
    ends = np.cumsum(lengths)
    return np.repeat(ends, lengths) - np.arange(int(ends[-1]))


def word_hashes(text: str) -> npt.NDArray[np.uint64]:
    """A 64-bit number a word, the same in every process."""
    return np.array([xxhash.xxh64_intdigest(word.encode("utf-8", "surrogatepass")) for word in words(text)], np.uint64)


def mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Scrambles 64-bit numbers so that all bits depend on all (the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def shingles(values: npt.NDArray[np.uint64], n: int) -> npt.NDArray[np.uint64]:
    """Numbers [w] -> a 64-bit hash of each n in a row [w - n + 1], empty where there are fewer."""
    count = max(values.size - n + 1, 0)
    state = np.zeros(count, np.uint64)
    for place in range(n):
        state = mixed(state * _GOLDEN + values[place : place + count] + np.uint64(place + 1))
    return state
