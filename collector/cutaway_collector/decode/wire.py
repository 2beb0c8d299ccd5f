"""The protobuf wire format, one primitive a function, compiled: varints, tags, lengths, fixed words, unknown fields.

It knows no message. Every reader takes the bytes, a position and the end of the enclosing message, never reads past that end, and
returns the next position; a negative position is a fault that says why and where (`fault`), so no exception crosses compiled code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

import numba as nb
import numpy as np
from numba.core import cgutils, config

from cutaway import conventions
from cutaway_collector import columns

VARINT: Final = 0
FIXED64: Final = 1
BYTES: Final = 2
GROUP: Final = 3
FIXED32: Final = 5

IRREGULAR: Final = 0
CUT: Final = 1
LONG_VARINT: Final = 2
TAG: Final = 3
LENGTH: Final = 4

REASONS: Final[dict[int, str]] = {
    CUT: "a value is cut off by the end of its message",
    LONG_VARINT: "a varint is longer than ten bytes",
    TAG: "a field has number 0, a wire type that does not exist, or ends a group that never began",
    LENGTH: "a length is larger than what remains of its message",
}
"""Why bytes are not protobuf. IRREGULAR has no entry: such bytes are legal, only laid out as no encoder does (see otlp.py)."""


_OPTIONS: Final = {"nogil": True, "error_model": "numpy"}
_njit: Final[Any] = nb.njit
"""Untyped: the stubs do not know every option."""


def _sources() -> str:
    """Digest of everything compiled code is made of: this folder and the nouns whose names and numbers are frozen into it."""
    files = [*sorted(Path(__file__).parent.glob("*.py")), Path(columns.__file__), Path(conventions.__file__)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files) + nb.__version__.encode()).hexdigest()


_STAMP: Final = _sources()


def entry(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles what Python calls: machine code is kept on disk, and other threads run meanwhile."""
    compiled: Any = _njit(cache=True, **_OPTIONS)(function)
    # numba recompiles when the file of this function changes, but not when a function it calls changes in another file.
    compiled._cache._cache_file._source_stamp = _STAMP
    return cast("Callable[..., Any]", compiled)


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles what only compiled code calls: it becomes part of its callers, and is spared the bridges to Python."""
    compiled: Any = _njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **_OPTIONS)(function)
    return cast("Callable[..., Any]", compiled)


def _raw(typing: Any, array: Any) -> Any:
    """The code of `raw`: a pointer to the first element."""
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0]).data

    return nb.types.CPointer(array.dtype)(array), codegen


def _copy(typing: Any, out: Any, to: Any, data: Any, at: Any, length: Any) -> Any:
    """The code of `copy`: one memcpy, between pointers or arrays of bytes."""
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        places = []
        for which in (0, 2):
            kind, place = signature.args[which], arguments[which]
            if isinstance(kind, nb.types.Array):
                place = cgutils.create_struct_proxy(kind)(context, builder, place).data
            places.append(builder.gep(place, [arguments[which + 1]]))
        target, source = places
        cgutils.raw_memcpy(builder, target, source, arguments[4], 1)
        return context.get_dummy_value()

    return nb.types.void(out, nb.types.int64, data, nb.types.int64, nb.types.int64), codegen


if config.BOUNDSCHECK:  # type: ignore[attr-defined]  # numba sets the names of its configuration when it is imported
    @kernel
    def raw(array: Any) -> Any:
        """The array itself: its bounds are to be checked."""
        return array

    @kernel
    def copy(out: Any, to: int, data: Any, at: int, length: int) -> Any:
        """out[to:to + length] = data[at:at + length], byte by byte."""
        for step in range(length):
            out[to + step] = data[at + step]
else:
    # A contiguous array as a pointer, for kernels that call kernels: each call that hands on an array counts its references,
    # atomically, which costs more than reading an attribute. The caller keeps the array alive; nobody checks bounds.
    raw = nb.extending.intrinsic(_raw)
    copy = nb.extending.intrinsic(_copy)


@kernel
def put(out: Any, to: int, room: int, data: Any, at: int, end: int, length: int) -> Any:
    """`copy` of a text into its place among others, written one after another into out[:room] from data[:end].

    Most are short, and moved as one block of a fixed size; what that writes too much, the next text writes over.
    """
    if length <= 32 and to + 32 <= room and at + 32 <= end:
        copy(out, to, data, at, 32)
    else:
        copy(out, to, data, at, length)


@kernel
def fault(reason: int, at: int) -> Any:
    """A negative position that carries a reason and a byte offset; `explain` reads it back."""
    return -(at * 8 + reason) - 1


def explain(position: int) -> tuple[int, int]:
    """(reason, byte offset) of a negative position."""
    code = -position - 1
    return code & 7, code >> 3


@kernel
def varint(data: Any, at: int, end: int) -> tuple[Any, Any]:
    """Up to ten bytes, seven bits each, least significant first -> (uint64, next position)."""
    value = np.uint64(0)
    shift = np.uint64(0)
    start = at
    while at < end:
        byte = data[at]
        at += 1
        value |= np.uint64(byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        if at - start == 10:
            return value, fault(LONG_VARINT, start)
        shift += np.uint64(7)
    return value, fault(CUT, start)


@kernel
def tag(data: Any, at: int, end: int) -> tuple[Any, Any, Any]:
    """(field number, wire type, next position). At most five bytes, as every protobuf implementation has it."""
    if at < end and data[at] < 0x80:
        low = np.int64(data[at])
        if low < 8:
            return 0, 0, fault(TAG, at)
        return low >> 3, low & 7, at + 1
    value, after = varint(data, at, end)
    if after < 0:
        return 0, 0, after
    if after - at > 5 or value > np.uint64(0xFFFFFFFF) or value < np.uint64(8):
        return 0, 0, fault(TAG, at)
    whole = np.int64(value)
    return whole >> 3, whole & 7, after


@kernel
def size(data: Any, at: int, end: int) -> tuple[Any, Any]:
    """(length of what follows, next position); the length is compared with what remains before it is ever added."""
    if at < end and data[at] < 0x80:
        short = np.int64(data[at])
        if short > end - at - 1:
            return 0, fault(LENGTH, at)
        return short, at + 1
    value, after = varint(data, at, end)
    if after < 0:
        return 0, after
    if after - at > 5 or value > np.uint64(end - after):
        return 0, fault(LENGTH, at)
    return np.int64(value), after


@kernel
def word(data: Any, at: int) -> Any:
    """Eight little-endian bytes as uint64. The caller has checked that they are there."""
    value = np.uint64(0)
    for index in range(8):
        value |= np.uint64(data[at + index]) << np.uint64(8 * index)
    return value


@kernel
def fixed64(data: Any, at: int, end: int) -> tuple[Any, Any]:
    """(uint64, next position)."""
    if end - at < 8:
        return np.uint64(0), fault(CUT, at)
    return word(data, at), at + 8


@kernel
def skip(data: Any, at: int, end: int, wire: int) -> Any:
    """Next position after a field nobody asked for. Groups, long out of use, are left to the regularising road."""
    if wire == VARINT:
        _, at = varint(data, at, end)
        return at
    if wire == BYTES:
        length, at = size(data, at, end)
        return at if at < 0 else at + length
    if wire in (FIXED64, FIXED32):
        width = 8 if wire == FIXED64 else 4
        return at + width if end - at >= width else fault(CUT, at)
    return fault(IRREGULAR, at) if wire == GROUP else fault(TAG, at)
