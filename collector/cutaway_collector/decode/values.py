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
)
from cutaway_collector.decode.wire import BYTES, FIXED64, IRREGULAR, VARINT, fault, fixed64, kernel, size, skip, tag, varint, word

EXPONENT: Final = np.uint64(0x7FF0_0000_0000_0000)
"""Of a double: all ones for NaN and the infinities."""


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
    """(key, key length, kind, value, length) of the layout nearly every attribute has: key, then text, an integer or a double,
    one-byte lengths, nothing else.

    EMPTY instead of a kind when it is anything else, and `pair` has to look. This shortcut halves the time of the whole walk.
    """
    if end - at < 6 or data[at] != 0x0A or data[at + 1] > 127:
        return 0, 0, EMPTY, 0, 0
    key_length = np.int64(data[at + 1])
    value = at + 6 + key_length
    if value > end or data[value - 4] != 0x12 or data[value - 3] > 127 or value - 2 + data[value - 3] != end:
        return 0, 0, EMPTY, 0, 0
    member = data[value - 2]
    if member == 0x0A:
        length = np.int64(data[value - 1])
        if length <= 125 and value + length == end:
            return at + 2, key_length, TEXT, value, length
    elif member == 0x18:
        bits, after = varint(data, value - 1, end)
        if after == end:
            return at + 2, key_length, INT, np.int64(bits), 0
    elif member == 0x21 and value + 7 == end:
        return at + 2, key_length, DOUBLE, np.int64(word(data, value - 1)), 0
    return 0, 0, EMPTY, 0, 0


@kernel
def _doubles(data: Any, at: int, end: int) -> Any:
    """Whether an array is nothing but doubles as every encoder writes them: eleven bytes each, of which three are the same."""
    if (end - at) % 11 != 0:
        return False
    while at < end and data[at] == 0x0A and data[at + 1] == 9 and data[at + 2] == 0x21:
        at += 11
    return at == end


DOUBLES_MIN: Final = 16
"""From so many on an array of doubles stays numbers: a vector to compute with. Shorter ones are read as text, by people."""


@kernel
def _finite(data: Any, at: int, end: int) -> Any:
    """Whether every double of such an array is a finite number."""
    infinite = np.uint64(0)
    for here in range(at + 3, end, 11):
        infinite |= np.uint64((word(data, here) & EXPONENT) == EXPONENT)
    return infinite == np.uint64(0)


@kernel
def _only_doubles(data: Any, at: int, end: int) -> Any:
    """How many doubles are in an array of any layout that has nothing else in it and all of them finite, else 0."""
    count = np.int64(0)
    while at < end:
        field, wire, at = tag(data, at, end)
        if field != 1 or wire != BYTES:
            at = skip(data, at, end, wire)
            continue
        length, at = size(data, at, end)
        kind, value, _, _ = any_value(data, at, at + length)
        if kind != DOUBLE or (np.uint64(value) & EXPONENT) == EXPONENT:
            return np.int64(0)
        count += 1
        at += length
    return count


@kernel
def _keep_doubles(data: Any, at: int, end: int, work: Any) -> Any:
    """Keeps the doubles of such an array; how many they are, or 0 when one is not finite (or there are none)."""
    count = (end - at) // 11
    finite = True
    for here in range(at, end, 11):
        bits = word(data, here + 3)
        work[claim(work, NUMBERS, 1)] = np.int64(bits)
        finite = finite and (bits & EXPONENT) != EXPONENT
    return count if finite else 0


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
    if slot == SPAN_ATTRIBUTES and name >= SERIES_FROM:
        work[SERIES_SEEN] = 1
    if kind == DOUBLE:
        work[claim(work, NUMBERS, 1)] = value
    elif kind == ARRAY and _doubles(data, value, value + length):
        if slot == SPAN_ATTRIBUTES and name < SERIES_FROM and length >= 11 * DOUBLES_MIN and _finite(data, value, value + length):
            work[row + A_KIND], work[row + A_FLAT] = DOUBLES, length // 11
        elif slot != SPAN_ATTRIBUTES or name < SERIES_FROM:
            work[row + A_FLAT] = _keep_doubles(data, value, value + length, work)
    elif kind in (ARRAY, MAP):
        inside = nested(data, value, value + length, kind, work, slot != SPAN_ATTRIBUTES or name < SERIES_FROM)
        if inside < 0:
            return inside
        if kind == ARRAY and slot == SPAN_ATTRIBUTES and work[NUMBERS] - work[row + A_NUMBER] >= DOUBLES_MIN:
            work[row + A_FLAT] = -_only_doubles(data, value, value + length)
            work[row + A_KIND] = DOUBLES if work[row + A_FLAT] != 0 else ARRAY
    return after
