"""Lifted columns: numbers and names of a generation taken straight from its attributes, without a detour through text.

The rules are those of the columns' DEFAULT expressions, so a row another collector writes gets the same values: the first listed
attribute that converts wins, of repeated keys the first counts, a number may come as an int, a double or a numeric string. What the
attributes of other tools mean is said in dialects.py; here it becomes tables that compiled code reads.
"""

from __future__ import annotations

import re
from typing import Any, Final

import numpy as np

from cutaway_collector import columns
from cutaway_collector.blocks import Column, Cut, Nullable, Strings
from cutaway_collector.decode import names
from cutaway_collector.decode import tables as t
from cutaway_collector.decode.strings import check_column, gather
from cutaway_collector.decode.wire import entry, kernel, put, raw

_NUMERIC: Final = tuple(column for column in columns.LIFTED if column.type.startswith("Nullable("))
_TEXTUAL: Final = tuple(column for column in columns.LIFTED if not column.type.startswith("Nullable("))
_WHOLE: Final = np.array([column.type == "Nullable(UInt64)" for column in _NUMERIC])
_CHOICES: Final = max(len(column.sources) for column in columns.LIFTED)
_DECIMAL: Final = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\Z")
_SPECIAL: Final = {
    b"nan": float("nan"), b"inf": float("inf"), b"infinity": float("inf"), b"-inf": float("-inf"), b"-infinity": float("-inf"),
}
_DIGITS: Final = re.compile(rb"\+?\d{1,20}\Z")


def _wanted(chosen: tuple[columns.Column, ...]) -> Any:
    table = np.full((len(chosen), _CHOICES), -1, np.int64)
    for row, column in enumerate(chosen):
        table[row, : len(column.sources)] = [names.index(source.name) for source in column.sources]
    return table


_NUMERIC_NAMES: Final = _wanted(_NUMERIC)
_TEXTUAL_NAMES: Final = _wanted(_TEXTUAL)
_DIVISORS: Final = np.array([
    [source.divisor for source in column.sources] + [1.0] * (_CHOICES - len(column.sources)) for column in _NUMERIC
])


def _chosen(wanted: Any, present: Any) -> Any:
    """Which of a column's sources any span has, int64."""
    return np.flatnonzero((wanted >= 0) & present[wanted])


_NOTHING: Final = -2
_ITSELF: Final = -1


def _vocabulary() -> tuple[Any, Any, Strings, Strings]:
    """(int64 [columns, choices, 3]: first word, last word and what any other text means; int64 [words]: what each word means;
    the words; the meanings). A meaning is an index among the meanings, or _ITSELF, or _NOTHING.
    """
    rules = np.zeros((len(_TEXTUAL), _CHOICES, 3), np.int64)
    rules[:, :, 2] = _ITSELF
    words: list[str] = []
    meant: list[int] = []
    meanings: list[str] = []
    for row, column in enumerate(_TEXTUAL):
        for choice, source in enumerate(column.sources):
            first = len(words)
            for word, meaning in source.words:
                words.append(word)
                meant.append(len(meanings))
                meanings.append(meaning)
            rest = _ITSELF if source.rest is None else len(meanings) if source.rest else _NOTHING
            if source.rest:
                meanings.append(source.rest)
            rules[row, choice] = first, len(words), rest
    return rules, np.array(meant, np.int64), Strings.of(words), Strings.of(meanings)


_RULES, _MEANT, _WORDS, _MEANINGS = _vocabulary()


HAS_LIFTED: Final = 1
HAS_SERIES: Final = 2


@entry
def _find(table: Any, first: Any, count: Any, known: int, lifted_to: int, series_from: int) -> tuple[Any, Any, Any]:
    found = np.full((first.size, known), -1, np.int32)
    marks = np.zeros(first.size, np.uint8)
    present = np.zeros(known, np.bool_)
    for owner in range(first.size):
        for step in range(count[owner]):
            row = first[owner] + step
            name = table[row, t.A_NAME]
            if name >= 0 and found[owner, name] < 0:
                found[owner, name] = row
                present[name] = True
                if name < lifted_to:
                    marks[owner] |= HAS_LIFTED
                elif name >= series_from:
                    marks[owner] |= HAS_SERIES
    return found, marks, present


def find(table: Any, first: Any, count: Any) -> tuple[Any, Any, Any]:
    """(int32 [owners, names]: the first row of each known name among each owner's attributes, -1 where there is none;
    uint8 [owners]: HAS_LIFTED and HAS_SERIES, so that most owners need no look at their row of the first;
    bool [names]: which names any owner has).
    """
    first, count = np.ascontiguousarray(first), np.ascontiguousarray(count)
    found, marks, present = _find(table, first, count, len(names.NAMES), names.LIFTED_TO, names.SERIES_FROM)
    return found, marks, present


@kernel
def _number(kind: int, bits: int, as_double: Any, whole: bool) -> tuple[Any, Any, Any]:
    """(is a number of the wanted type, as uint64, as float64). `as_double`: one-word scratch, int64 viewed as float64."""
    if kind == t.INT:
        return not whole or bits >= 0, np.uint64(bits), float(bits)
    if kind != t.DOUBLE:
        return False, np.uint64(0), 0.0
    value = as_double[0]
    if not whole:
        return True, np.uint64(0), value
    fits = value >= 0.0 and value < 1e15 and value == np.floor(value)
    return fits, np.uint64(value) if fits else np.uint64(0), value


@entry
def _numbers(
    table: Any, found: Any, marks: Any, wanted: Any, divisors: Any, whole: bool, scratch: Any, as_double: Any
) -> tuple[Any, Any, Any]:
    """One column: (its values' 64 bits [spans], missing bool [spans], how many strings there are that may hold numbers)."""
    spans = found.shape[0]
    bits = np.zeros(spans, np.uint64)
    doubles = bits.view(np.float64)
    missing = np.ones(spans, np.bool_)
    strings = 0
    for span in range(spans):
        if marks[span] & HAS_LIFTED == 0:
            continue
        for choice in range(wanted.size):
            row = found[span, wanted[choice]]
            if row < 0:
                continue
            kind = table[row, t.A_KIND]
            if kind == t.TEXT:
                strings += 1
                break
            scratch[0] = table[row, t.A_VALUE]
            good, integer, double = _number(kind, scratch[0], raw(as_double), whole)
            if good:
                missing[span] = False
                if whole:
                    bits[span] = integer
                else:
                    doubles[span] = double / divisors[choice]
                break
    return bits, missing, strings


def _parse(text: bytes, whole: bool) -> int | float | None:
    """A number spelled out, as ClickHouse's toUInt64OrNull and toFloat64OrNull take it; None where it is none."""
    if whole:
        value = int(text) if _DIGITS.match(text) else -1
        return value if 0 <= value < 2**64 else None
    if _DECIMAL.match(text):
        return float(text)
    return _SPECIAL.get(text.lower())


def _from_strings(data: Any, table: Any, found: Any, column: int, bits: Any, missing: Any) -> None:
    """The rare sender that spells numbers as text: fills what the compiled pass left for it, one value at a time."""
    wanted = [name for name in _NUMERIC_NAMES[column] if name >= 0]
    doubles = bits.view(np.float64)
    for span in np.flatnonzero(missing):
        for row, divisor in zip(found[span, wanted], _DIVISORS[column], strict=False):
            if row < 0:
                continue
            value = _read(data, table[row], bool(_WHOLE[column]))
            if value is not None:
                missing[span] = False
                if _WHOLE[column]:
                    bits[span] = value
                else:
                    doubles[span] = float(value) / divisor
                break


def _read(data: Any, row: Any, whole: bool) -> int | float | None:
    kind, value, length = int(row[t.A_KIND]), int(row[t.A_VALUE]), int(row[t.A_VALUE_N])
    if kind == t.TEXT:
        return _parse(data[value : value + length].tobytes(), whole) if length <= 64 else None
    if kind == t.INT:
        return value if not whole or value >= 0 else None
    if kind == t.DOUBLE:
        double = float(np.int64(value).view(np.float64))
        if not whole:
            return double
        return int(double) if 0 <= double < 1e15 and double.is_integer() else None
    return None


def lifted(data: Any, table: Any, found: Any, marks: Any, present: Any, positions: Any, values: Strings) -> dict[str, Column]:
    """Every column of columns.LIFTED, one value a span; those that no span fills share the memory of their nothing.

    found, marks, present: see `find`, over the span attributes in `table`. positions: int64 [rows of table], where a row's text is
    in `values`.
    """
    scratch = np.zeros(1, np.int64)
    as_double = scratch.view(np.float64)
    nothing, nowhere = np.zeros(len(found), np.uint64), np.ones(len(found), np.bool_)
    made: dict[str, Column] = {}
    for index, column in enumerate(_NUMERIC):
        choices, whole, bits, missing = _chosen(_NUMERIC_NAMES[index], present), bool(_WHOLE[index]), nothing, nowhere
        if choices.size:
            bits, missing, strings = _numbers(table, found, marks, _NUMERIC_NAMES[index, choices], _DIVISORS[index, choices], whole,
                                              scratch, as_double)
            if strings:
                _from_strings(data, table, found, index, bits, missing)
        made[column.name] = Nullable(bits if whole else bits.view(np.float64), missing)
    for index, column in enumerate(_TEXTUAL):
        made[column.name] = _spoken(found, marks, index, _chosen(_TEXTUAL_NAMES[index], present), positions, Cut.all_of(values))
    return made


@kernel
def _meaning(data: Any, start: int, length: int, rules: Any, rule: int, meant: Any, words: Any, word_ends: Any) -> Any:
    """What a text means to one source: an index among the meanings, _ITSELF or _NOTHING. Letter case of ASCII does not count."""
    for word in range(rules[rule], rules[rule + 1]):
        if word_ends[word + 1] - word_ends[word] != length:
            continue
        same = 0
        while same < length:
            byte = data[start + same]
            if (byte + 32 if 65 <= byte <= 90 else byte) != words[word_ends[word] + same]:
                break
            same += 1
        if same == length:
            return meant[word]
    return rules[rule + 2]


@entry
def _choose(
    found: Any, marks: Any, wanted: Any, rules: Any, meant: Any, words: Any, word_ends: Any, meaning_ends: Any, positions: Any,
    source: Any, own: Any, begins: Any, ends: Any,
) -> tuple[Any, Any, Any]:
    """(starts, ends of the result, whether each start lies among the meanings and is not one of a Cut), one a span."""
    flat = rules.reshape(rules.size)
    starts = np.zeros(found.shape[0], np.int64)
    result = np.zeros(found.shape[0] + 1, np.int64)
    translated = np.zeros(found.shape[0], np.bool_)
    for span in range(found.shape[0]):
        result[span + 1] = result[span]
        if marks[span] & HAS_LIFTED == 0:
            continue
        for choice in range(wanted.size):
            row = found[span, wanted[choice]]
            if row < 0 or positions[row] < 0:
                continue
            start, length = begins[positions[row]], ends[positions[row] + 1] - ends[positions[row]]
            if length == 0:
                continue
            data, at = (raw(source), start) if start >= 0 else (raw(own), -1 - start)
            meaning = _meaning(data, at, length, raw(flat), 3 * choice, raw(meant), raw(words), raw(word_ends))
            if meaning == _NOTHING:
                continue
            if meaning != _ITSELF:
                start, length = meaning_ends[meaning], meaning_ends[meaning + 1] - meaning_ends[meaning]
                translated[span] = True
            starts[span] = start
            result[span + 1] = result[span] + length
            break
    return starts, result, translated


@entry
def _collect(source: Any, own: Any, meanings: Any, starts: Any, ends: Any, translated: Any) -> Any:
    out = np.empty(ends[-1], np.uint8)
    for span in range(starts.size):
        at, length = ends[span], ends[span + 1] - ends[span]
        if translated[span]:
            put(raw(out), at, out.size, raw(meanings), starts[span], meanings.size, length)
        elif starts[span] >= 0:
            put(raw(out), at, out.size, raw(source), starts[span], source.size, length)
        else:
            put(raw(out), at, out.size, raw(own), -1 - starts[span], own.size, length)
    return out


def _spoken(found: Any, marks: Any, index: int, choices: Any, positions: Any, values: Cut) -> Strings:
    """A textual column: what the first of its sources that means anything means, one a span; "" where none does."""
    if not choices.size:
        return Strings(np.zeros(0, np.uint8), np.zeros(len(found) + 1, np.int64))
    starts, ends, translated = _choose(
        found, marks, _TEXTUAL_NAMES[index, choices], _RULES[index, choices], _MEANT, _WORDS.data, _WORDS.offsets,
        _MEANINGS.offsets, positions, values.source, values.own, values.starts, values.offsets,
    )
    check_column(int(ends[-1]))
    return Strings(_collect(values.source, values.own, _MEANINGS.data, starts, ends, translated), ends)


@entry
def _first_text(found: Any, wanted: Any, positions: Any, ends: Any) -> tuple[Any, Any]:
    starts = np.zeros(found.shape[0], np.int64)
    lengths = np.zeros(found.shape[0], np.int64)
    for owner in range(found.shape[0]):
        for choice in range(wanted.size):
            row = found[owner, wanted[choice]] if wanted[choice] >= 0 else -1
            if row >= 0 and positions[row] >= 0:
                starts[owner] = ends[positions[row]]
                lengths[owner] = ends[positions[row] + 1] - starts[owner]
                if lengths[owner] > 0:
                    break
    return starts, lengths


def texts(found: Any, wanted: Any, positions: Any, values: Strings) -> Strings:
    """The first of the wanted names that is not empty, as text, one an owner; "" where there is none."""
    return gather(values.data, *_first_text(found, wanted, positions, values.offsets))
