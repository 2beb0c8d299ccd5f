"""ClickHouse's Native format: one Block as the bytes of one insert, column after column, no Python object per row.

Not a general writer: it knows the column types that columns.py uses, and sends LowCardinality as plain strings, because the engine
casts them as cheaply as we could build dictionaries. Layout: https://clickhouse.com/docs/interfaces/formats/Native
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any, Final, TypeAlias

import numba
import numpy as np
import numpy.typing as npt
from numba.core import cgutils

from cutaway_collector.blocks import Block, Column, Cut, Lists, MapLists, Maps, Nullable, NumberMaps, Offsets, Strings
from cutaway_collector.columns import TABLES

Part: TypeAlias = bytes | memoryview | Strings
_DTYPES: Final[dict[str, str]] = {
    "UInt8": "<u1", "UInt16": "<u2", "UInt32": "<u4", "UInt64": "<u8", "Int64": "<i8",
    "Float32": "<f4", "Float64": "<f8", "DateTime": "<u4",
}
_LOW_CARDINALITY: Final = re.compile(r"LowCardinality\((\w+)\)")
_TYPES: Final[dict[str, dict[str, str]]] = {
    table.name: {column.name: column.type for column in table.columns} for table in TABLES
}


_BLOCK: Final = 32
"""Bytes a short text is moved as."""
KEPT_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of an encoder's memory, between two blocks: more than a batch takes. A rare larger block gets memory of its own."""


class Encoder:
    """Makes blocks into bytes, in memory that is used again: new pages cost more than the copying. One caller at a time."""

    def __init__(self) -> None:
        self._out = np.empty(0, np.uint8)

    def encode(self, block: Block, statement: bytes = b"") -> memoryview:
        """One Native block with every column of `block`, types from columns.py; good until the next call.

        statement: what is to stand before it, for a server that reads an INSERT and its rows from one body.

        Raises ValueError when a column has the wrong kind, dtype or length, KeyError when the table or column is not ours:
        programming errors, never the sender's fault.
        """
        block.check()
        columns = {name: self._parts(block, name, column) for name, column in block.columns.items()}
        head: list[Part] = [statement, _varint(len(block.columns)), _varint(block.rows)]
        most = sum(map(_most_bytes, chain(head, *columns.values()))) + _BLOCK
        out = self._room(most)
        at = _write(head, out, 0)
        for name, parts in columns.items():
            try:
                at = _write(parts, out, at)
            except ValueError as error:
                raise _named(block, name, error) from None
        return out[:at].data

    @staticmethod
    def _parts(block: Block, name: str, column: Column) -> list[Part]:
        parts: list[Part] = [_label(block.table, name)]
        try:
            _append(parts, _sent_type(block.table, name), column)
        except ValueError as error:
            raise _named(block, name, error) from None
        return parts

    def _room(self, nbytes: int) -> npt.NDArray[np.uint8]:
        if nbytes > KEPT_BYTES_MAX:
            return np.empty(nbytes, np.uint8)
        if nbytes > self._out.size:
            # By doubling: what grew is written for the first time again. What is never written takes no memory.
            self._out = np.empty(max(nbytes, min(2 * self._out.size, KEPT_BYTES_MAX)), np.uint8)
        return self._out


def encode(block: Block) -> bytes:
    """One Native block in bytes of its own; raises as `Encoder.encode` does."""
    return bytes(Encoder().encode(block))


@cache
def _sent_type(table: str, name: str) -> str:
    return plain_type(_TYPES[table][name])


@cache
def _label(table: str, name: str) -> bytes:
    """What a column begins with: its name and type."""
    return _text(name) + _text(_sent_type(table, name))


def _named(block: Block, name: str, error: ValueError) -> ValueError:
    return ValueError(f"{block.table}.{name} is sent as {_sent_type(block.table, name)}: {error}")


def _most_bytes(part: Part) -> int:
    """The most that a part can take: of strings, each has its length before it, in five bytes at most."""
    return int(part.offsets[-1] - part.offsets[0]) + 5 * len(part) if isinstance(part, Strings) else len(part)


def _write(parts: Sequence[Part], out: npt.NDArray[np.uint8], at: int) -> int:
    for part in parts:
        if isinstance(part, Strings):
            at = (_write_cut(part.source, part.own, part.starts, part.offsets, out, at) if isinstance(part, Cut)
                  else _write_strings(part.data, part.offsets, out, at))
            if at < 0:
                raise ValueError("offsets must not decrease, nor reach past the data, nor span 4 GiB in one string")
        else:
            out[at : at + len(part)] = np.frombuffer(part, np.uint8)
            at += len(part)
    return at


def warm_up() -> None:
    """Compiles the encoder (seconds the first time, then read from numba's cache), so that no insert waits for it."""
    text = Strings.of(["warm"])
    out = np.empty(9 + _BLOCK, np.uint8)
    _write_strings(text.data, text.offsets, out, 0)
    _write_cut(text.data, text.data, text.offsets[:1], text.offsets, out, 0)


def plain_type(type: str) -> str:
    """The type as we send it: without LowCardinality and SimpleAggregateFunction, which the engine adds by a cast."""
    plain = _LOW_CARDINALITY.sub(r"\1", type)
    if plain.startswith("SimpleAggregateFunction("):
        return plain.removesuffix(")").split(", ", 1)[1]
    return plain


def _append(parts: list[Part], type: str, column: Column) -> None:
    if type == "String":
        parts.append(_kind(column, Strings))
    elif type.startswith("Nullable("):
        holes = _kind(column, Nullable)
        parts.append(_bytes(np.ascontiguousarray(holes.missing, np.bool_)))
        _append(parts, type.removeprefix("Nullable(").removesuffix(")"), holes.values)
    elif type.startswith("Map(String, Array("):
        arrays = _kind(column, NumberMaps)
        parts.append(_ends(arrays.offsets))
        parts.append(arrays.keys)
        _append(parts, type.removeprefix("Map(String, ").removesuffix(")"), arrays.values)
    elif type.startswith("Map("):
        _append_maps(parts, _kind(column, Maps))
    elif type.startswith("Array(Map("):
        lists = _kind(column, MapLists)
        parts.append(_ends(lists.offsets))
        _append_maps(parts, lists.values)
    elif type.startswith("Array("):
        nested = _kind(column, Lists)
        parts.append(_ends(nested.offsets))
        _append(parts, type.removeprefix("Array(").removesuffix(")"), nested.values)
    else:
        parts.append(_numbers(type, _kind(column, np.ndarray)))


def _append_maps(parts: list[Part], maps: Maps) -> None:
    parts.append(_ends(maps.offsets))
    parts += [maps.keys, maps.values]


def _memcpy(typing: Any, out: Any, to: Any, data: Any, at: Any, length: Any) -> Any:
    """The code of `_copy`."""
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, source = (
            builder.gep(cgutils.create_struct_proxy(signature.args[which])(context, builder, arguments[which]).data,
                        [arguments[which + 1]]) for which in (0, 2))
        cgutils.raw_memcpy(builder, target, source, arguments[4], 1)
        return context.get_dummy_value()

    return numba.types.void(out, numba.types.int64, data, numba.types.int64, numba.types.int64), codegen


_copy: Final[Any] = numba.extending.intrinsic(_memcpy)
"""out[to:to + length] = data[at:at + length] of bytes, unchecked: a length that is a constant takes a few instructions."""


@numba.njit(nogil=True)
def _write_text(data: npt.NDArray[np.uint8], start: int, length: int, out: npt.NDArray[np.uint8], at: int) -> int:
    """One text with its length before it; the position after it, or -1 where the text or the room for it is not there."""
    if length < 0 or start < 0 or start + length > data.size or length >= 1 << 32 or at + length + 5 + _BLOCK > out.size:
        return -1
    rest = length
    while rest >= 0x80:
        out[at] = np.uint8((rest & 0x7F) | 0x80)
        at += 1
        rest >>= 7
    out[at] = np.uint8(rest)
    at += 1
    # Most texts are short, and moved as one block of a fixed size; what that writes too much, the next one writes over.
    if length <= _BLOCK and start + _BLOCK <= data.size:
        _copy(out, at, data, start, _BLOCK)
    else:
        _copy(out, at, data, start, length)
    return at + length


@numba.njit(cache=True, nogil=True)
def _write_strings(data: npt.NDArray[np.uint8], offsets: Offsets, out: npt.NDArray[np.uint8], at: int) -> int:
    for row in range(offsets.size - 1):
        at = _write_text(data, offsets[row], offsets[row + 1] - offsets[row], out, at)
        if at < 0:
            return -1
    return at


@numba.njit(cache=True, nogil=True)
def _write_cut(
    source: npt.NDArray[np.uint8], own: npt.NDArray[np.uint8], starts: Offsets, offsets: Offsets, out: npt.NDArray[np.uint8],
    at: int,
) -> int:
    for row in range(offsets.size - 1):
        start, length = starts[row], offsets[row + 1] - offsets[row]
        at = _write_text(source, start, length, out, at) if start >= 0 else _write_text(own, -1 - start, length, out, at)
        if at < 0:
            return -1
    return at


def _ends(offsets: Offsets) -> Part:
    if offsets.size and offsets[0] != 0:
        raise ValueError(f"offsets start at 0, not at {int(offsets[0])}")
    return _bytes(np.ascontiguousarray(offsets[1:], "<i8"))


def _numbers(type: str, values: npt.NDArray[Any]) -> Part:
    wanted = np.dtype("<i8" if type.startswith("DateTime64(") else _DTYPES[type])
    if values.dtype != wanted:
        # Widening is harmless; anything else would change values in silence. datetime64 counts like DateTime64 does.
        if values.dtype.kind == "M" and wanted == np.dtype("<i8"):
            values = values.view("<i8")
        elif not np.can_cast(values.dtype, wanted, "safe"):
            raise ValueError(f"the array is {values.dtype}, which does not fit {wanted}")
    return _bytes(np.ascontiguousarray(values, wanted))


def _bytes(values: npt.NDArray[Any]) -> Part:
    """The array's own memory, which is copied once, where it is written."""
    return values.view(np.uint8).data


def _kind(column: Column, kind: type[Any]) -> Any:
    if not isinstance(column, kind):
        raise ValueError(f"the column is {type(column).__name__}, not {kind.__name__}")
    return column


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _text(value: str) -> bytes:
    raw = value.encode()
    return _varint(len(raw)) + raw
