"""Token series on the wire: packed bytes with a header, or plain OTLP arrays from other senders. Compiled readers of one series.

What a series must agree with, and where its values go, is series.py's.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from cutaway import conventions
from cutaway_collector.decode import tables as t
from cutaway_collector.decode.values import any_value
from cutaway_collector.decode.wire import kernel, size, skip, tag, word

WANT_UINT32: Final = 0
WANT_FLOAT32: Final = 1
WANT_TEXT: Final = 2

HEADER_BYTES: Final = conventions.SERIES_HEADER.size
_VERSION: Final = conventions.SERIES_VERSION
_CODES: Final = {dtype: code for code, dtype in conventions.SERIES_DTYPES.items()}
F4: Final = _CODES["<f4"]
U4: Final = _CODES["<u4"]
F2: Final = _CODES["<f2"]
PLAIN: Final = 255
"""Stands where a packed series has its dtype code: the values are an OTLP array."""


@kernel
def _u32(data: Any, at: int) -> Any:
    return np.int64(data[at]) | np.int64(data[at + 1]) << 8 | np.int64(data[at + 2]) << 16 | np.int64(data[at + 3]) << 24


@kernel
def header(data: Any, at: int, length: int, want: int) -> tuple[Any, Any, Any, Any]:
    """(dtype code, tokens, layers, heads) of a packed series, or code 0 when it is not one of the wanted type and exact length."""
    if length < HEADER_BYTES or data[at] != _VERSION or data[at + 2] != 0 or data[at + 3] != 0:
        return 0, 0, 0, 0
    code = np.int64(data[at + 1])
    if not (code == U4 if want == WANT_UINT32 else want == WANT_FLOAT32 and code in (F4, F2)):
        return 0, 0, 0, 0
    tokens, layers, heads = _u32(data, at + 4), _u32(data, at + 8), _u32(data, at + 12)
    body = length - HEADER_BYTES
    width = 2 if code == F2 else 4
    if layers < 1 or heads < 1 or layers > 65535 or heads > 65535:
        return 0, 0, 0, 0
    # Divided, not multiplied: three 32-bit factors overflow 64 bits.
    if body % width != 0 or tokens * layers > body // width or tokens * layers * heads != body // width:
        return 0, 0, 0, 0
    return code, tokens, layers, heads


@kernel
def element(data: Any, at: int, end: int) -> tuple[Any, Any, Any, Any]:
    """Next value of an ArrayValue that was walked before: (kind or -1 at the end, value, length, next position)."""
    while at < end:
        field, wire, at = tag(data, at, end)
        if field != 1 or wire != 2:
            at = skip(data, at, end, wire)
            continue
        length, at = size(data, at, end)
        kind, value, inner, _ = any_value(data, at, at + length)
        return kind, value, inner, at + length
    return -1, 0, 0, at


@kernel
def plain_length(data: Any, at: int, length: int, want: int) -> Any:
    """How many values a plain array holds, or -1 when one of them is not of the wanted type."""
    end = at + length
    count = 0
    while True:
        kind, value, _, at = element(data, at, end)
        if kind < 0:
            return count
        if want == WANT_TEXT:
            good = kind == t.TEXT
        elif want == WANT_FLOAT32:
            good = kind == t.DOUBLE or kind == t.INT
        else:
            good = kind == t.INT and 0 <= value < 2**32
        if not good:
            return -1
        count += 1


@kernel
def _half(bits: int) -> Any:
    """The bits of the float32 equal to a float16."""
    sign = (bits & 0x8000) << 16
    exponent = (bits >> 10) & 31
    fraction = bits & 1023
    if exponent == 31:
        return sign | 0x7F800000 | fraction << 13
    if exponent > 0:
        return sign | (exponent + 112) << 23 | fraction << 13
    if fraction == 0:
        return sign
    exponent = 113
    while fraction < 1024:
        fraction <<= 1
        exponent -= 1
    return sign | exponent << 23 | (fraction & 1023) << 13


@kernel
def copy(data: Any, at: int, length: int, code: int, want: int, out: Any, to: int, scratch: Any, as_double: Any) -> Any:
    """Copies one series as 32-bit words into `out`, uint32; returns the position after. as_double: view of scratch, int64 [1]."""
    as_float = out.view(np.float32)
    end = at + length
    if code == PLAIN:
        while True:
            kind, value, _, at = element(data, at, end)
            if kind < 0:
                return to
            if want == WANT_UINT32:
                out[to] = np.uint32(value)
            elif kind == t.INT:
                as_float[to] = np.float32(value)
            else:
                scratch[0] = value
                as_float[to] = np.float32(as_double[0])
            to += 1
    at += HEADER_BYTES
    if code == F2:
        while at < end:
            out[to] = np.uint32(_half(np.int64(data[at]) | np.int64(data[at + 1]) << 8))
            at += 2
            to += 1
        return to
    while at + 8 <= end:
        two = word(data, at)
        out[to] = np.uint32(two & np.uint64(0xFFFFFFFF))
        out[to + 1] = np.uint32(two >> np.uint64(32))
        at += 8
        to += 2
    if at < end:
        out[to] = np.uint32(_u32(data, at))
        to += 1
    return to
