"""Attribute values as text: every kind of OTLP value in the spelling of the OpenTelemetry ClickHouse exporter.

bool true/false, integers decimal, doubles as numbers.py says, bytes base64, an empty value "". Arrays and maps are JSON, in the
sender's order, doubles spelled the same way (NaN and the infinities quoted), bytes as base64 strings, nothing escaped that JSON
does not require. Text that is not valid UTF-8 is stored as it came. Compiled, without recursion.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from cutaway_collector.blocks import Cut, Strings
from cutaway_collector.decode import tables as t
from cutaway_collector.decode.strings import check_column, read_only
from cutaway_collector.decode.values import any_value, pair
from cutaway_collector.decode.wire import copy, entry, kernel, put, raw, size, skip, tag

_ALPHABET: Final = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", np.uint8)
_HEX: Final = np.frombuffer(b"0123456789abcdef", np.uint8)
_TRUE: Final = np.frombuffer(b"true", np.uint8)
_FALSE: Final = np.frombuffer(b"false", np.uint8)
_NULL: Final = np.frombuffer(b"null", np.uint8)
_UNICODE: Final = np.frombuffer(b"u00", np.uint8)
_SHORT: Final = np.frombuffer(b"\0\0\0\0\0\0\0\0btn\0fr", np.uint8)
"""The letter of the short escape of a control character, where JSON has one."""
_QUOTE: Final = 34


@kernel
def _byte(out: Any, room: int, at: int, byte: int) -> Any:
    """Writes one byte where there is room, out[:room]: with none the same code measures instead of writing."""
    if at < room:
        out[at] = byte
    return at + 1


@kernel
def _bytes(out: Any, room: int, at: int, data: Any, start: int, length: int) -> Any:
    if at + length <= room:
        copy(out, at, data, start, length)
    return at + length


@kernel
def _integer(out: Any, room: int, at: int, value: int) -> Any:
    rest = np.uint64(value)
    if value < 0:
        at = _byte(out, room, at, 45)
        rest = np.uint64(0) - rest
    digits = 1
    bound = rest
    while bound >= np.uint64(10):
        bound //= np.uint64(10)
        digits += 1
    if at + digits <= room:
        for step in range(digits):
            out[at + digits - 1 - step] = np.uint8(rest % np.uint64(10)) + 48
            rest //= np.uint64(10)
    return at + digits


@kernel
def _base64(out: Any, room: int, at: int, data: Any, start: int, length: int) -> Any:
    total = (length + 2) // 3 * 4
    if at + total > room:
        return at + total
    for step in range(0, length, 3):
        left = length - step
        bits = np.int64(data[start + step]) << 16
        if left > 1:
            bits |= np.int64(data[start + step + 1]) << 8
        if left > 2:
            bits |= np.int64(data[start + step + 2])
        out[at] = _ALPHABET[bits >> 18]
        out[at + 1] = _ALPHABET[(bits >> 12) & 63]
        out[at + 2] = _ALPHABET[(bits >> 6) & 63] if left > 1 else 61
        out[at + 3] = _ALPHABET[bits & 63] if left > 2 else 61
        at += 4
    return at


@kernel
def _quoted(out: Any, room: int, at: int, data: Any, start: int, length: int) -> Any:
    """A JSON string. Control characters, quote and backslash are escaped; other bytes stay as they are."""
    at = _byte(out, room, at, _QUOTE)
    for step in range(length):
        byte = data[start + step]
        if byte >= 32 and byte != 34 and byte != 92:
            at = _byte(out, room, at, byte)
            continue
        at = _byte(out, room, at, 92)
        if byte == 34 or byte == 92:
            at = _byte(out, room, at, byte)
        elif byte < _SHORT.size and _SHORT[byte] != 0:
            at = _byte(out, room, at, _SHORT[byte])
        else:
            at = _bytes(out, room, at, _UNICODE, 0, 3)
            at = _byte(out, room, at, _HEX[byte >> 4])
            at = _byte(out, room, at, _HEX[byte & 15])
    return _byte(out, room, at, _QUOTE)


@kernel
def _number(out: Any, room: int, at: int, spelled: Any, ends: Any, number: int) -> Any:
    """A double inside JSON, where NaN and the infinities need quotes."""
    start = ends[number]
    length = ends[number + 1] - start - 1
    last = spelled[start + length - 1]
    if 48 <= last <= 57:
        return _bytes(out, room, at, spelled, start, length)
    at = _byte(out, room, at, _QUOTE)
    return _byte(out, room, _bytes(out, room, at, spelled, start, length), _QUOTE)


@kernel
def _leaf(out: Any, room: int, at: int, data: Any, kind: int, value: int, length: int, spelled: Any, ends: Any, number: int) -> Any:
    """A value inside JSON that holds no other."""
    if kind == t.TEXT:
        return _quoted(out, room, at, data, value, length)
    if kind == t.BOOL:
        return _bytes(out, room, at, _TRUE, 0, 4) if value != 0 else _bytes(out, room, at, _FALSE, 0, 5)
    if kind == t.INT:
        return _integer(out, room, at, value)
    if kind == t.DOUBLE:
        return _number(out, room, at, spelled, ends, number)
    if kind == t.RAW:
        at = _byte(out, room, at, _QUOTE)
        return _byte(out, room, _base64(out, room, at, data, value, length), _QUOTE)
    return _bytes(out, room, at, _NULL, 0, 4)


@kernel
def _nested(
    out: Any, room: int, at: int, data: Any, kind: int, value: int, length: int, spelled: Any, ends: Any, number: int, stack: Any
) -> Any:
    """An array or map as JSON. The walk has been made once (values.nested), so nothing here can fail or be too deep."""
    frame = 0
    here, end = value, value + length
    first = True
    at = _byte(out, room, at, 91 if kind == t.ARRAY else 123)
    while True:
        if here >= end:
            at = _byte(out, room, at, 93 if kind == t.ARRAY else 125)
            if frame == 0:
                return at
            frame -= 4
            kind, here, end = stack[frame], stack[frame + 1], stack[frame + 2]
            first = False
            continue
        field, wire, here = tag(data, here, end)
        if field != 1 or wire != 2:
            here = skip(data, here, end, wire)
            continue
        inner_length, here = size(data, here, end)
        if not first:
            at = _byte(out, room, at, 44)
        first = False
        if kind == t.ARRAY:
            inner, value, length, _ = any_value(data, here, here + inner_length)
        else:
            key, key_length, inner, value, length, _ = pair(data, here, here + inner_length)
            at = _byte(out, room, _quoted(out, room, at, data, key, key_length), 58)
        here += inner_length
        if inner == t.ARRAY or inner == t.MAP:
            stack[frame], stack[frame + 1], stack[frame + 2] = kind, here, end
            frame += 4
            kind, here, end = inner, value, value + length
            first = True
            at = _byte(out, room, at, 91 if kind == t.ARRAY else 123)
        else:
            at = _leaf(out, room, at, data, inner, value, length, spelled, ends, number)
            if inner == t.DOUBLE:
                number += 1


@kernel
def _value(out: Any, room: int, at: int, data: Any, cells: Any, row: int, spelled: Any, ends: Any, stack: Any) -> Any:
    """The text of one attribute's value that is not text. Returns the position after it, whether or not there was room."""
    cell = row * t.A_WIDTH
    kind, value, length = cells[cell + t.A_KIND], cells[cell + t.A_VALUE], cells[cell + t.A_VALUE_N]
    number = cells[cell + t.A_NUMBER]
    if kind == t.RAW:
        return _base64(out, room, at, data, value, length)
    if kind == t.DOUBLE:
        return _bytes(out, room, at, spelled, ends[number], ends[number + 1] - ends[number] - 1)
    flat = cells[cell + t.A_FLAT]
    if flat > 0:
        # The doubles of the request stand one after another with a comma behind each: this array is a piece of that.
        at = _byte(out, room, at, 91)
        at = _bytes(out, room, at, spelled, ends[number], ends[number + flat] - ends[number] - 1)
        return _byte(out, room, at, 93)
    if kind in (t.ARRAY, t.MAP):
        return _nested(out, room, at, data, kind, value, length, spelled, ends, number, stack)
    if kind == t.EMPTY:
        return at
    return _leaf(out, room, at, data, kind, value, length, spelled, ends, number)


@entry
def _measure(data: Any, table: Any, rows: Any, spelled: Any, ends: Any, stack: Any) -> tuple[Any, Any]:
    nothing = np.empty(1, np.uint8)
    cells = table.reshape(table.size)
    key_ends = np.empty(rows.size + 1, np.int64)
    value_ends = np.empty(rows.size + 1, np.int64)
    key_end = np.int64(0)
    value_end = np.int64(0)
    key_ends[0] = value_ends[0] = 0
    for index in range(rows.size):
        row = rows[index]
        key_end += table[row, t.A_KEY_N]
        if table[row, t.A_KIND] == t.TEXT:
            value_end += table[row, t.A_VALUE_N]
        else:
            value_end = _value(raw(nothing), 0, value_end, raw(data), raw(cells), row, raw(spelled), raw(ends), raw(stack))
        key_ends[index + 1] = key_end
        value_ends[index + 1] = value_end
    return key_ends, value_ends


@entry
def _write(
    data: Any, table: Any, rows: Any, spelled: Any, ends: Any, stack: Any, key_ends: Any, value_ends: Any
) -> tuple[Any, Any]:
    keys = np.empty(key_ends[-1], np.uint8)
    values = np.empty(value_ends[-1], np.uint8)
    cells = table.reshape(table.size)
    for index in range(rows.size):
        row = rows[index]
        to = key_ends[index]
        put(raw(keys), to, keys.size, raw(data), table[row, t.A_KEY], data.size, key_ends[index + 1] - to)
        to = value_ends[index]
        if table[row, t.A_KIND] == t.TEXT:
            put(raw(values), to, values.size, raw(data), table[row, t.A_VALUE], data.size, value_ends[index + 1] - to)
        else:
            _value(raw(values), values.size, to, raw(data), raw(cells), row, raw(spelled), raw(ends), raw(stack))
    return keys, values


@entry
def _place(data: Any, table: Any, rows: Any, spelled: Any, ends: Any, stack: Any) -> tuple[Any, Any, Any, Any, Any]:
    """(starts and ends of the keys, starts and ends of the values, bytes of the values that are no text in the request)."""
    nothing = np.empty(1, np.uint8)
    cells = table.reshape(table.size)
    key_starts, value_starts = np.empty(rows.size, np.int64), np.empty(rows.size, np.int64)
    key_ends, value_ends = np.empty(rows.size + 1, np.int64), np.empty(rows.size + 1, np.int64)
    own = np.int64(0)
    key_ends[0] = value_ends[0] = 0
    for index in range(rows.size):
        cell = rows[index] * t.A_WIDTH
        key_starts[index] = cells[cell + t.A_KEY]
        key_ends[index + 1] = key_ends[index] + cells[cell + t.A_KEY_N]
        if cells[cell + t.A_KIND] == t.TEXT:
            value_starts[index] = cells[cell + t.A_VALUE]
            length = cells[cell + t.A_VALUE_N]
        else:
            value_starts[index] = -1 - own
            length = _value(raw(nothing), 0, 0, raw(data), raw(cells), rows[index], raw(spelled), raw(ends), raw(stack))
            own += length
        value_ends[index + 1] = value_ends[index] + length
    return key_starts, key_ends, value_starts, value_ends, own


@entry
def _write_own(data: Any, table: Any, rows: Any, spelled: Any, ends: Any, stack: Any, starts: Any, nbytes: int) -> Any:
    """The values that `_place` gave a negative start, one after another."""
    own = np.empty(nbytes, np.uint8)
    cells = table.reshape(table.size)
    for index in range(rows.size):
        if starts[index] < 0:
            _value(raw(own), own.size, -1 - starts[index], raw(data), raw(cells), rows[index], raw(spelled), raw(ends), raw(stack))
    return own


def attributes(data: Any, table: Any, rows: Any, numbers: Strings, stack: Any) -> tuple[Strings, Strings]:
    """Keys and values of those rows of an attribute table. `numbers`: every double of the request as text (numbers.spell)."""
    key_ends, value_ends = _measure(data, table, rows, numbers.data, numbers.offsets, stack)
    check_column(int(value_ends[-1]))
    keys, values = _write(data, table, rows, numbers.data, numbers.offsets, stack, key_ends, value_ends)
    return Strings(keys, key_ends), Strings(values, value_ends)


LONG_BYTES: Final = 512
"""Of a request, for each attribute. Long texts are best left where they lie; short ones are read again faster from copies that lie
together."""


def cut(data: Any, table: Any, rows: Any, numbers: Strings, stack: Any) -> tuple[Strings, Strings]:
    """What `attributes` gives, with long texts left where they lie in the request."""
    if data.size < LONG_BYTES * rows.size:
        return attributes(data, table, rows, numbers, stack)
    key_starts, key_ends, value_starts, value_ends, nbytes = _place(data, table, rows, numbers.data, numbers.offsets, stack)
    check_column(int(value_ends[-1]))
    own = _write_own(data, table, rows, numbers.data, numbers.offsets, stack, value_starts, nbytes)
    return Cut(data, data[:0], key_starts, key_ends), Cut(data, read_only(own), value_starts, value_ends)
