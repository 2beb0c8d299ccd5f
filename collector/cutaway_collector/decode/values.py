"""AnyValue on the wire: what kind of value an attribute holds, where it lies, and every double inside it.

Compiled and without recursion: nested arrays and maps are walked with a stack as deep as the limit allows. Spelling is text.py's.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from cutaway_collector.decode.names import SERIES_FROM, lookup
from cutaway_collector.decode.tables import (
    A_FLAT,
    A_KEY,
    A_KEY_N,
    A_KIND,
    A_NAME,
    A_NUMBER,
    A_VALUE,
    A_VALUE_N,
    A_WIDTH,
    ARRAY,
    BASE,
    BOOL,
    DEEP,
    DEPTH_MAX,
    DOUBLE,
    DOUBLES,
    EMPTY,
    INDEXED,
    INT,
    LAST,
    MAP,
    NUMBERS,
    RAW,
    SERIES_SEEN,
    SPAN_ATTRIBUTES,
    STACK,
    TEXT,
    VALUES,
)
from cutaway_collector.decode.wire import BYTES, FIXED64, IRREGULAR, VARINT, fault, fixed64, kernel, size, skip, tag, varint, word

EXPONENT: Final = np.uint64(0x7FF0_0000_0000_0000)
"""Of a double: all ones for NaN and the infinities."""
EXPONENT_LEAST: Final = np.uint64(0x0010_0000_0000_0000)
"""Added to such an exponent, and to no other, it carries into the sign."""


@kernel
def any_value(data: Any, at: int, end: int) -> tuple[Any, Any, Any, Any]:
    """One AnyValue -> (kind, value, length, next position). Two members of its oneof are legal but irregular: see otlp.py."""
    kind = EMPTY
    value: Any = np.int64(0)
    length = np.int64(0)
    seen = False
    while at < end:
        start = at
        field, wire, at = tag(data, at, end)
        if at < 0:
            return EMPTY, 0, 0, at
        member = False
        if wire == BYTES and field in (TEXT, RAW, ARRAY, MAP):
            length, at = size(data, at, end)
            member = True
            kind = field
            value = at
            if at >= 0:
                at += length
        elif wire == VARINT and field in (BOOL, INT, INDEXED):
            bits, at = varint(data, at, end)
            member = True
            kind = EMPTY if field == INDEXED else field
            value = np.int64(bits != np.uint64(0)) if field == BOOL else np.int64(bits)
        elif wire == FIXED64 and field == DOUBLE:
            bits, at = fixed64(data, at, end)
            member = True
            kind = field
            value = np.int64(bits)
        else:
            at = skip(data, at, end, wire)
        if at < 0:
            return EMPTY, 0, 0, at
        if member and seen:
            return EMPTY, 0, 0, fault(IRREGULAR, start)
        seen = seen or member
    return kind, value, length, at


@kernel
def pair(data: Any, at: int, end: int) -> tuple[Any, Any, Any, Any, Any, Any]:
    """One KeyValue -> (key, key length, kind, value, length, next position). A value before its key or twice is irregular."""
    key: Any = np.int64(0)
    key_length = np.int64(0)
    kind = EMPTY
    value: Any = np.int64(0)
    length = np.int64(0)
    seen = False
    while at < end:
        start = at
        field, wire, at = tag(data, at, end)
        if at < 0:
            return 0, 0, EMPTY, 0, 0, at
        if wire == BYTES and (field == 1 or field == 2):
            inner, at = size(data, at, end)
            if at < 0:
                return 0, 0, EMPTY, 0, 0, at
            if seen:
                return 0, 0, EMPTY, 0, 0, fault(IRREGULAR, start)
            if field == 1:
                key, key_length = at, inner
                at += inner
            else:
                seen = True
                kind, value, length, at = any_value(data, at, at + inner)
        else:
            at = skip(data, at, end, wire)
        if at < 0:
            return 0, 0, EMPTY, 0, 0, at
    return key, key_length, kind, value, length, at


@kernel
def claim(work: Any, slot: int, width: int) -> Any:
    """Address of the next row of a table, or of its spare row when it is full; counts it either way."""
    row = work[slot]
    work[slot] = row + 1
    return work[BASE + slot] + min(row, work[LAST + slot]) * width


@kernel
def nested(data: Any, at: int, end: int, kind: int, work: Any, keep: bool) -> Any:
    """Walks an array or map and all within it; keeps its doubles in order when asked; marks DEEP instead of going too deep."""
    bottom = work[STACK]
    frame = bottom
    top = bottom + 4 * (work[DEPTH_MAX] - 1)
    while True:
        if at >= end:
            if frame == bottom:
                return at
            frame -= 4
            kind, at, end = work[frame], work[frame + 1], work[frame + 2]
            continue
        field, wire, at = tag(data, at, end)
        if at < 0:
            return at
        if field != 1 or wire != BYTES:
            at = skip(data, at, end, wire)
            if at < 0:
                return at
            continue
        length, at = size(data, at, end)
        if at < 0:
            return at
        if kind == ARRAY:
            inner, value, value_length, after = any_value(data, at, at + length)
        else:
            _, _, inner, value, value_length, after = pair(data, at, at + length)
        if after < 0:
            return after
        at += length
        if inner == DOUBLE and keep:
            work[claim(work, NUMBERS, 1)] = value
        elif inner in (ARRAY, MAP):
            if frame >= top:
                work[DEEP] = 1
                continue
            work[frame], work[frame + 1], work[frame + 2] = kind, at, end
            frame += 4
            kind, at, end = inner, value, value + value_length


@kernel
def _usual(data: Any, at: int, end: int) -> tuple[Any, Any, Any, Any, Any]:
    """(key, key length, kind, value, length) of the layout nearly every attribute has: key, then text, an array, an integer or a
    double, lengths of one byte (of what holds the value, and of a text or an array, two), nothing else.

    EMPTY instead of a kind when it is anything else, and `pair` has to look. This shortcut halves the time of the whole walk.
    """
    if end - at < 6 or data[at] != 0x0A or data[at + 1] > 127:
        return 0, 0, EMPTY, 0, 0
    key_length = np.int64(data[at + 1])
    here = at + 4 + key_length
    if here + 2 > end or data[here - 2] != 0x12:
        return 0, 0, EMPTY, 0, 0
    inner = np.int64(data[here - 1])
    if inner > 127:
        inner = (inner & 0x7F) | np.int64(data[here]) << 7
        here += 1
    if inner < 2 or inner > 0x3FFF or here + inner != end:  # above, there is a third byte
        return 0, 0, EMPTY, 0, 0
    member = data[here]
    if member == 0x0A or member == 0x2A:
        length, value = np.int64(data[here + 1]), here + 2
        if length > 127 and value < end:
            length = (length & 0x7F) | np.int64(data[value]) << 7
            value += 1
        if length <= 0x3FFF and value + length == end:
            return at + 2, key_length, TEXT if member == 0x0A else ARRAY, value, length
    elif member == 0x18:
        bits, after = varint(data, here + 1, end)
        if after == end:
            return at + 2, key_length, INT, np.int64(bits), 0
    elif member == 0x21 and inner == 9:
        return at + 2, key_length, DOUBLE, np.int64(word(data, here + 1)), 0
    return 0, 0, EMPTY, 0, 0


DOUBLES_MIN: Final = 16
"""From so many on an array of doubles stays numbers: a vector to compute with. Shorter ones are read as text, by people."""
_ELEMENT: Final = 11
"""Bytes of a double in an array: a tag and a length of the element, a tag and eight bytes of the value."""
_ELEMENT_HEAD: Final = np.uint64(0x21090A)
_ELEMENT_HEAD_BITS: Final = np.uint64(0xFFFFFF)
_NO_RUN: Final = 0
_ODD_RUN: Final = 1
_FINITE_RUN: Final = 2


@kernel
def _run(data: Any, at: int, end: int, work: Any) -> Any:
    """Whether an array is nothing but doubles as every encoder writes them, eleven bytes each of which three are the same, and all
    of them finite (_FINITE_RUN) or not (_ODD_RUN). Leaves them where the next of VALUES go, for whoever claims that place.
    """
    count = (end - at) // _ELEMENT
    if count == 0 or count * _ELEMENT != end - at or word(data, at) & _ELEMENT_HEAD_BITS != _ELEMENT_HEAD:
        return _NO_RUN
    to = work[BASE + VALUES] + work[VALUES]
    keep = work[VALUES] + count <= work[LAST + VALUES]
    # Without a branch for each: nearly every array that begins so goes on so. And once over the bytes, which wait for memory.
    wrong = np.uint64(0)
    infinite = np.uint64(0)
    for here in range(at, end, _ELEMENT):
        bits = word(data, here + 3)
        wrong |= word(data, here) ^ _ELEMENT_HEAD
        infinite |= (bits & EXPONENT) + EXPONENT_LEAST
        if keep:
            work[to] = np.int64(bits)
            to += 1
    if wrong & _ELEMENT_HEAD_BITS != np.uint64(0):
        return _NO_RUN
    return _ODD_RUN if infinite >> np.uint64(63) != np.uint64(0) else _FINITE_RUN


@kernel
def _claim_only_doubles(data: Any, at: int, end: int, work: Any) -> Any:
    """Claims the VALUES of an array of any layout that has doubles and nothing else in it, all of them finite: how many, else 0."""
    first = work[VALUES]
    while at < end:
        field, wire, at = tag(data, at, end)
        if field != 1 or wire != BYTES:
            at = skip(data, at, end, wire)
            continue
        length, at = size(data, at, end)
        kind, value, _, _ = any_value(data, at, at + length)
        if kind != DOUBLE or (np.uint64(value) & EXPONENT) == EXPONENT:
            work[VALUES] = first
            return np.int64(0)
        work[claim(work, VALUES, 1)] = value
        at += length
    return work[VALUES] - first


@kernel
def _claim_numbers(data: Any, at: int, end: int, work: Any) -> Any:
    """Claims the NUMBERS of a run; how many."""
    for here in range(at, end, _ELEMENT):
        work[claim(work, NUMBERS, 1)] = np.int64(word(data, here + 3))
    return (end - at) // _ELEMENT


@kernel
def _array(data: Any, value: int, length: int, work: Any, row: int, own: bool, series: bool) -> Any:
    """Walks the array of the attribute in that row and claims the doubles in it; the row says of an array that is nothing else how
    many. own: of a span itself. A fault, or 0.
    """
    run = _run(data, value, value + length, work)
    count: Any = np.int64(0)
    if run == _NO_RUN:
        first = work[NUMBERS]
        inside = nested(data, value, value + length, ARRAY, work, not series)
        if inside < 0:
            return inside
        if own and work[NUMBERS] - first >= DOUBLES_MIN:
            count = _claim_only_doubles(data, value, value + length, work)
        if count == 0:
            return 0
        work[NUMBERS] = first
    elif series:
        return 0
    elif own and run == _FINITE_RUN and length >= _ELEMENT * DOUBLES_MIN:
        count = length // _ELEMENT
        work[VALUES] += count
    else:
        count = _claim_numbers(data, value, value + length, work)
        work[row + A_FLAT] = count if run == _FINITE_RUN else 0
        return 0
    work[row + A_KIND], work[row + A_NUMBER], work[row + A_FLAT] = DOUBLES, work[VALUES] - count, count
    return 0


@kernel
def attribute(data: Any, at: int, end: int, work: Any, slot: int) -> Any:
    """One KeyValue into the next row of that table; doubles of token series are not kept, for they never become text."""
    key, key_length, kind, value, length = _usual(data, at, end)
    after = np.int64(end)
    if kind == EMPTY:
        key, key_length, kind, value, length, after = pair(data, at, end)
        if after < 0:
            return after
    row = claim(work, slot, A_WIDTH)
    name = lookup(data, key, key_length, work)
    work[row + A_KEY] = key
    work[row + A_KEY_N] = key_length
    work[row + A_KIND] = kind
    work[row + A_VALUE] = value
    work[row + A_VALUE_N] = length
    work[row + A_NUMBER] = work[NUMBERS]
    work[row + A_NAME] = name
    work[row + A_FLAT] = 0
    own = slot == SPAN_ATTRIBUTES
    series = own and name >= SERIES_FROM
    if series:
        work[SERIES_SEEN] = 1
    if kind == DOUBLE:
        work[claim(work, NUMBERS, 1)] = value
    elif kind in (ARRAY, MAP):
        inside = (_array(data, value, length, work, row, own, series) if kind == ARRAY
                  else nested(data, value, value + length, kind, work, not series))
        if inside < 0:
            return inside
    return after
