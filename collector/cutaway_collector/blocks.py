"""The columnar shapes that travel between the stages: NumPy arrays with offsets, no Python object per span.

A `Block` is what one insert sends: an ordered mapping of column name to column, every column `rows` long. The store encodes it,
the scorers read it, the decoder fills it. Nothing here knows OTLP or ClickHouse.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Offsets: TypeAlias = npt.NDArray[np.int64]
_ZERO: Offsets = np.zeros(1, np.int64)


@dataclass(slots=True)
class Strings:
    """`n` byte strings (UTF-8 where text): string i is `data[offsets[i]:offsets[i + 1]]`.

    data: uint8 [bytes]; offsets: int64 [n + 1], starting at 0, not decreasing, ending at data.size.
    """

    data: npt.NDArray[np.uint8]
    offsets: Offsets

    def __len__(self) -> int:
        return int(self.offsets.size) - 1

    def __getitem__(self, index: int) -> bytes:
        return bytes(self.data[self.offsets[index] : self.offsets[index + 1]])

    def __iter__(self) -> Iterator[bytes]:
        return (self[index] for index in range(len(self)))

    @classmethod
    def of(cls, values: Iterable[bytes | str]) -> Strings:
        """Packs Python strings (tests, small blocks, the JSON road)."""
        parts = [value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value for value in values]
        offsets = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([len(part) for part in parts], out=offsets[1:])
        return cls(np.frombuffer(b"".join(parts), np.uint8), offsets)

    @classmethod
    def repeat(cls, value: bytes | str, count: int) -> Strings:
        """`count` times the same string."""
        raw = value.encode() if isinstance(value, str) else value
        return cls(np.frombuffer(raw * count, np.uint8), np.arange(count + 1, dtype=np.int64) * len(raw))


class Cut(Strings):
    """Strings that still lie where they came from: string i begins at `starts[i]` of `source`, or where that is negative at
    `-1 - starts[i]` of `own`; its length is that of the offsets.

    `data` is put together when somebody asks for it. Most never do: what is only sent on is copied once, to where it goes.
    """

    __slots__ = ("own", "source", "starts")

    def __init__(self, source: npt.NDArray[np.uint8], own: npt.NDArray[np.uint8], starts: Offsets, offsets: Offsets) -> None:
        self.source = source
        self.own = own
        self.starts = starts
        self.offsets = offsets

    @classmethod
    def all_of(cls, strings: Strings) -> Cut:
        """The same strings, where they are."""
        if isinstance(strings, cls):
            return strings
        source = strings.data.view()
        source.flags.writeable = False
        return cls(source, source[:0], strings.offsets[:-1], strings.offsets)

    def __getattr__(self, name: str) -> npt.NDArray[np.uint8]:
        if name != "data":  # asked only for what is not there, which of the slots is this one, and once
            raise AttributeError(name)
        source, own = self.source.data, self.own.data
        lengths = np.diff(self.offsets).tolist()
        self.data = np.frombuffer(b"".join([
            source[start : start + length] if start >= 0 else own[-1 - start : length - 1 - start]
            for start, length in zip(self.starts.tolist(), lengths, strict=True)]), np.uint8)
        return self.data


@dataclass(slots=True)
class Nullable:
    """Values with holes. values: [n] of any plain dtype; missing: bool [n], true where there is no value."""

    values: Array
    missing: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return int(self.values.size)


@dataclass(slots=True)
class Lists:
    """`n` lists of one column: list i is `values[offsets[i]:offsets[i + 1]]`."""

    offsets: Offsets
    values: Column

    def __len__(self) -> int:
        return int(self.offsets.size) - 1


@dataclass(slots=True)
class Maps:
    """`n` string-to-string maps, in the sender's order: map i is entries `offsets[i]:offsets[i + 1]`."""

    offsets: Offsets
    keys: Strings
    values: Strings

    def __len__(self) -> int:
        return int(self.offsets.size) - 1


@dataclass(slots=True)
class MapLists:
    """`n` lists of maps (the attributes of a span's events): list i is maps `offsets[i]:offsets[i + 1]`."""

    offsets: Offsets
    values: Maps

    def __len__(self) -> int:
        return int(self.offsets.size) - 1


@dataclass(slots=True)
class NumberMaps:
    """`n` maps from a string to an array of numbers: map i is entries `offsets[i]:offsets[i + 1]` of keys and of values."""

    offsets: Offsets
    keys: Strings
    values: Lists

    def __len__(self) -> int:
        return int(self.offsets.size) - 1


Column: TypeAlias = Array | Strings | Nullable | Lists | Maps | MapLists | NumberMaps


@dataclass(slots=True)
class Block:
    """Rows of one table. `columns` maps column name to a column of `rows` entries, in the table's order."""

    table: str
    rows: int
    columns: dict[str, Column] = field(default_factory=dict)

    def check(self) -> None:
        """Raises ValueError when a column is not `rows` long: a programming error, caught before it reaches the store."""
        for name, column in self.columns.items():
            if len(column) != self.rows:
                raise ValueError(f"a block is equally long everywhere: {self.table}.{name} has {len(column)} rows, not {self.rows}")

    def nbytes(self) -> int:
        """Bytes held by the arrays, for the memory limits."""
        return sum(_nbytes(column) for column in self.columns.values())


def _nbytes(column: Column) -> int:
    if isinstance(column, np.ndarray):
        return int(column.nbytes)
    if isinstance(column, Strings):
        return int(column.data.nbytes + column.offsets.nbytes)
    if isinstance(column, Nullable):
        return int(column.values.nbytes + column.missing.nbytes)
    if isinstance(column, Maps | NumberMaps):
        return int(column.offsets.nbytes) + _nbytes(column.keys) + _nbytes(column.values)
    return int(column.offsets.nbytes) + _nbytes(column.values)


def _concat_offsets(parts: Sequence[Offsets]) -> Offsets:
    out = np.concatenate([_ZERO, *(part[1:] for part in parts)])
    # Each part's offsets move up by what all parts before it hold; one addition for all, for a batch has hundreds of small parts.
    held = np.array([0, *(int(part[-1]) - int(part[0]) for part in parts[:-1])], np.int64)
    moves = np.cumsum(held) - np.array([int(part[0]) for part in parts], np.int64)
    out[1:] += np.repeat(moves, [part.size - 1 for part in parts])
    return out


def concat_columns(parts: Sequence[Column]) -> Column:
    """Joins columns of one kind, one after another. Raises TypeError when the kinds differ."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, np.ndarray):
        return np.concatenate([p for p in parts if isinstance(p, np.ndarray)])
    if isinstance(first, Strings):
        strings = [p for p in parts if isinstance(p, Strings)]
        data = np.concatenate([p.data[p.offsets[0] : p.offsets[-1]] for p in strings])
        return Strings(data, _concat_offsets([p.offsets for p in strings]))
    if isinstance(first, Nullable):
        holes = [p for p in parts if isinstance(p, Nullable)]
        return Nullable(np.concatenate([p.values for p in holes]), np.concatenate([p.missing for p in holes]))
    if isinstance(first, Maps):
        maps = [p for p in parts if isinstance(p, Maps)]
        keys, values = concat_columns([p.keys for p in maps]), concat_columns([p.values for p in maps])
        assert isinstance(keys, Strings)
        assert isinstance(values, Strings)
        return Maps(_concat_offsets([p.offsets for p in maps]), keys, values)
    if isinstance(first, NumberMaps):
        arrays = [p for p in parts if isinstance(p, NumberMaps)]
        keys, numbers = concat_columns([p.keys for p in arrays]), concat_columns([p.values for p in arrays])
        assert isinstance(keys, Strings)
        assert isinstance(numbers, Lists)
        return NumberMaps(_concat_offsets([p.offsets for p in arrays]), keys, numbers)
    if isinstance(first, MapLists):
        lists = [p for p in parts if isinstance(p, MapLists)]
        inner = concat_columns([p.values for p in lists])
        assert isinstance(inner, Maps)
        return MapLists(_concat_offsets([p.offsets for p in lists]), inner)
    if isinstance(first, Lists):
        nested = [p for p in parts if isinstance(p, Lists)]
        return Lists(_concat_offsets([p.offsets for p in nested]), concat_columns([p.values for p in nested]))
    raise TypeError(f"not a column: {type(first).__name__}")


def concat_blocks(blocks: Sequence[Block]) -> Block:
    """Joins blocks of one table with the same columns."""
    first = blocks[0]
    columns: Mapping[str, Column] = {
        name: concat_columns([block.columns[name] for block in blocks]) for name in first.columns
    }
    return Block(first.table, sum(block.rows for block in blocks), dict(columns))
