"""Doubles as text, spelled as the OpenTelemetry ClickHouse exporter spells them: 1 not 1.0, 0.000001, 1e-7, 1e+21, NaN.

The shortest digits that read back as the same double come from orjson, all doubles in one call; only their layout is ours. The
layout is that of Go's encoding/json (and of JavaScript): plain from 1e-6 up to below 1e21, an exponent outside. NaN and the
infinities, which that layout lacks, are `NaN`, `Infinity` and `-Infinity` as in OTLP/JSON.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import orjson

from cutaway_collector.blocks import Strings
from cutaway_collector.decode.wire import entry, kernel

_LONGEST: Final = 27
"""Bytes of a number, comma included."""
_MINUS: Final = 45
_PLUS: Final = 43
_DOT: Final = 46
_ZERO: Final = 48
_E: Final = 101
_COMMA: Final = 44
_NAN: Final = np.frombuffer(b"NaN", np.uint8)
_INFINITY: Final = np.frombuffer(b"Infinity", np.uint8)


@kernel
def _read(text: Any, at: int, digits: Any) -> tuple[Any, Any, Any]:
    """Digits of one positive JSON number -> (digits, decimal exponent of 0.DIGITS, next position). 0 digits is zero."""
    count = 0
    point = 0
    exponent: Any = 0
    whole = True
    while at < text.size and text[at] != _COMMA and text[at] != 93:
        byte = text[at]
        at += 1
        if byte == _DOT:
            whole = False
        elif byte == _E or byte == 69:
            negative = text[at] == _MINUS
            if negative or text[at] == _PLUS:
                at += 1
            while at < text.size and 48 <= text[at] <= 57:
                exponent = exponent * 10 + (np.int64(text[at]) - 48)
                at += 1
            if negative:
                exponent = -exponent
        elif byte == _ZERO and count == 0:
            if not whole:
                point -= 1
        else:
            digits[count] = byte
            count += 1
            if whole:
                point += 1
    while count > 0 and digits[count - 1] == _ZERO:
        count -= 1
    return count, point + exponent, at


@kernel
def _put(out: Any, at: int, digits: Any, start: int, stop: int) -> Any:
    for index in range(start, stop):
        out[at] = digits[index]
        at += 1
    return at


@kernel
def _zeros(out: Any, at: int, count: int) -> Any:
    for _ in range(count):
        out[at] = _ZERO
        at += 1
    return at


@kernel
def _lay_out(out: Any, at: int, digits: Any, count: int, point: int) -> Any:
    """0.DIGITS times ten to the power of `point`, in the layout the module describes. Returns the position after it."""
    if count == 0:
        return _zeros(out, at, 1)
    if -5 <= point <= 0:
        out[at], out[at + 1] = _ZERO, _DOT
        return _put(out, _zeros(out, at + 2, -point), digits, 0, count)
    if 0 < point <= 21:
        at = _put(out, at, digits, 0, min(point, count))
        if point >= count:
            return _zeros(out, at, point - count)
        out[at] = _DOT
        return _put(out, at + 1, digits, point, count)
    at = _put(out, at, digits, 0, 1)
    if count > 1:
        out[at] = _DOT
        at = _put(out, at + 1, digits, 1, count)
    exponent = point - 1
    out[at] = _E
    out[at + 1] = _MINUS if exponent < 0 else _PLUS
    at += 2
    exponent = abs(exponent)
    for power in (100, 10, 1):
        if exponent >= power:
            out[at] = _ZERO + (exponent // power) % 10
            at += 1
    return at


@entry
def _spell_all(text: Any, values: Any, nan: Any, infinity: Any) -> tuple[Any, Any]:
    out = np.empty(values.size * _LONGEST, np.uint8)
    ends = np.empty(values.size + 1, np.int64)
    digits = np.empty(text.size + 1, np.uint8)
    ends[0] = 0
    source = 1  # after the opening bracket
    at = 0
    for index in range(values.size):
        start, to = at, source
        byte = text[to]
        while 45 <= byte <= 57:
            out[start] = byte
            start += 1
            to += 1
            byte = text[to]
        if byte == _COMMA or byte == 93:
            # Plain on both sides, as nearly every number is: only a fraction of zero is left out.
            at = start - 2 if text[to - 1] == _ZERO and text[to - 2] == _DOT else start
            source = to
        elif not np.isfinite(values[index]):
            source += 4  # null
            if values[index] < 0:
                out[at] = _MINUS
                at += 1
            word = nan if np.isnan(values[index]) else infinity
            at = _put(out, at, word, 0, word.size)
        else:
            if text[source] == _MINUS:
                out[at] = _MINUS
                at += 1
                source += 1
            count, point, source = _read(text, source, digits)
            at = _lay_out(out, at, digits, count, point)
        source += 1  # the comma
        out[at] = _COMMA
        at += 1
        ends[index + 1] = at
    return out[:at], ends


def spell(values: Any) -> Strings:
    """float64 [n] -> n strings, each with a comma behind it: numbers in a row then read as the inside of a JSON array."""
    text = orjson.dumps(np.ascontiguousarray(values, np.float64), option=orjson.OPT_SERIALIZE_NUMPY)
    return Strings(*_spell_all(np.frombuffer(text, np.uint8), values, _NAN, _INFINITY))
