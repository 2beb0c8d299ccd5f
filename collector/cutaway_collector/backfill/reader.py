"""Reads stored sequences back in bounded pieces, as the blocks that scorers take. Scores nothing and writes nothing.

Keyset, not OFFSET: a piece begins behind the key of the one before it. A day is first cut into slices of whole minutes, so that the
sort of a piece reads no more than its slice. Numbers travel as packed bytes: ten times cheaper than a Python object a token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cutaway_collector.blocks import Block, Column, Lists, Offsets, Strings
from cutaway_collector.columns import SCORES, TOKENS
from cutaway_collector.columns import Column as Definition
from cutaway_collector.contracts import Store
from cutaway_collector.errors import StoreError

ROWS_MAX: Final = 2_000
"""Sequences a piece."""
BYTES_MAX: Final = 32 * 1024 * 1024
"""Bytes of series a piece, as far as whole sequences allow: a longer one is a piece of its own."""
SLICE_ROWS: Final = 20_000
"""Sequences a slice is meant to hold; a single minute may hold more."""
_DAY_NS: Final = 86_400_000_000_000
_MINUTE_NS: Final = 60_000_000_000
_LAST_NS: Final = 2**63 - 1
_DTYPES: Final = {"UInt8": np.uint8, "UInt16": np.uint16, "UInt32": np.uint32, "UInt64": np.uint64, "Float32": np.float32}
_SMALL: Final = " SETTINGS max_threads = 1, priority = 10"
"""A back-fill leaves the other threads of the engine, and the turn, to searches."""
_KEY: Final = "(Timestamp, TenantId, ServiceName, TraceId, SpanId, SeqIndex)"
_IDENTITY: Final = tuple(column.name for column in TOKENS.columns if column.name in {other.name for other in SCORES.columns})


class Key(NamedTuple):
    """What names a sequence, in the order in which they are read. The texts are hex of the stored bytes."""

    timestamp_ns: int
    tenant: str
    service: str
    trace_id: str
    span_id: str
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """start_ns <= Timestamp < end_ns, nanoseconds since 1970. service, model: only these, "" for all."""

    start_ns: int
    end_ns: int
    service: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """Keys of some sequences, rising, and `read`, which gives them as a gen_ai_tokens block of as many rows in the same order."""

    keys: Sequence[Key]
    read: Callable[[], Block]


class Reader:
    """Stored sequences of one range, with these columns of their series. Raises StoreError from every call."""

    def __init__(self, store: Store, wanted: Range, columns: Sequence[str], *, rows_max: int = ROWS_MAX,
                 bytes_max: int = BYTES_MAX) -> None:
        self._store = store
        self._table = f"`{store.database.replace(chr(96), chr(92) + chr(96))}`.{TOKENS.name}"
        self._wanted = wanted
        self._columns = [column for column in TOKENS.columns if column.name in {*_IDENTITY, *columns}]
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self._packs: bool | None = None
        self._filter = "".join(f" AND {column} = {{{name}:String}}" for name, column, value in (
            ("service", "ServiceName", wanted.service), ("model", "GenAiModel", wanted.model)) if value)

    def count(self) -> int:
        """Sequences in the range, those stored twice included."""
        return sum(rows for _, rows in self._counts(_DAY_NS, self._wanted.start_ns, self._wanted.end_ns))

    def pieces(self, after: Key | None = None) -> Iterator[Piece]:
        """Every sequence behind `after` once, oldest first."""
        start_ns = self._wanted.start_ns if after is None else max(self._wanted.start_ns, after.timestamp_ns)
        for first_ns, stop_ns in slices(self._counts, start_ns, self._wanted.end_ns):
            while keys := self._keys(first_ns, stop_ns, after):
                yield Piece(keys, self._reader(keys))
                after = keys[-1]

    def empty(self) -> Block:
        """A block of no rows, for asking scorers what they call their scores."""
        return self._block([])

    def _counts(self, unit_ns: int, start_ns: int, end_ns: int) -> list[tuple[int, int]]:
        rows = self._store.query(
            f"SELECT intDiv(toUnixTimestamp64Nano(Timestamp), {unit_ns}) AS unit, count() FROM {self._table} WHERE {self._where()} "
            f"GROUP BY unit ORDER BY unit{_SMALL}", self._bound(start_ns, end_ns)).rows
        return [(int(unit), int(count)) for unit, count in rows]

    def _keys(self, start_ns: int, end_ns: int, after: Key | None) -> list[Key]:
        """The next keys of a slice: as many as fit into a piece, at least one when there is one."""
        behind, bound = _bound_key("after", after)
        size = " + ".join(f"{8 if column.type == 'Array(String)' else 4} * length({column.name})"
                          for column in self._columns if column.type.startswith("Array(")) or "0"
        rows = self._store.query(
            "SELECT toUnixTimestamp64Nano(Timestamp), hex(TenantId), hex(ServiceName), hex(TraceId), hex(SpanId), SeqIndex, "
            f"toUInt64({size}) FROM {self._table} WHERE {self._where()}" + (f" AND {_KEY} > {behind}" if after else "")
            + f" ORDER BY {_KEY[1:-1]} LIMIT 1 BY {_KEY[1:-1]} LIMIT {self._rows_max}{_SMALL}",
            {**self._bound(start_ns, end_ns), **bound}).rows
        keys: list[Key] = []
        held = 0
        for *key, nbytes in rows:
            held += int(nbytes)
            if keys and held > self._bytes_max:
                break
            keys.append(Key(*key))
        return keys

    def _reader(self, keys: Sequence[Key]) -> Callable[[], Block]:
        def read() -> Block:
            first, last = keys[0], keys[-1]
            from_words, from_bound = _bound_key("first", first)
            to_words, to_bound = _bound_key("last", last)
            rows = self._store.query(
                f"SELECT {', '.join(self._expression(column) for column in self._columns)} FROM {self._table} "
                f"WHERE {self._where()} AND {_KEY} >= {from_words} AND {_KEY} <= {to_words} "
                f"ORDER BY {_KEY[1:-1]} LIMIT 1 BY {_KEY[1:-1]}{_SMALL}",
                {**self._bound(first.timestamp_ns, min(last.timestamp_ns, _LAST_NS - 1) + 1), **from_bound, **to_bound}).rows
            return self._block(rows)

        return read

    def _where(self) -> str:
        return ("Timestamp >= fromUnixTimestamp64Nano({start:Int64}) AND Timestamp < fromUnixTimestamp64Nano({end:Int64})"
                + self._filter)

    def _bound(self, start_ns: int, end_ns: int) -> dict[str, Any]:
        bound = {"start": start_ns, "end": min(end_ns, _LAST_NS), "service": self._wanted.service, "model": self._wanted.model}
        return {name: value for name, value in bound.items() if value != ""}

    def _expression(self, column: Definition) -> str:
        if column.type == "DateTime64(9)":
            return f"toUnixTimestamp64Nano({column.name})"
        if column.type == "DateTime64(3)":
            return f"toUnixTimestamp64Milli({column.name})"
        if column.type == "Array(String)":
            return f"arrayMap(text -> hex(text), {column.name})"
        if column.type.startswith("Array("):
            return f"hex(reinterpretAsString({column.name}))" if self._can_pack() else column.name
        return f"hex({column.name})" if "String" in column.type else column.name

    def _can_pack(self) -> bool:
        """Whether the engine gives the bytes of an array as they are; older servers do not."""
        if self._packs is None:
            try:
                answer = self._store.query("SELECT hex(reinterpretAsString([toFloat32(1), toFloat32(0)]))").rows[0][0]
                self._packs = answer == "0000803F00000000"
            except StoreError as error:
                if error.retryable:
                    raise
                self._packs = False
        return self._packs

    def _block(self, rows: Sequence[Sequence[Any]]) -> Block:
        turned = list(zip(*rows, strict=True)) if rows else [()] * len(self._columns)
        made = {column.name: self._column(column.type, list(values)) for column, values in zip(self._columns, turned, strict=True)}
        block = Block(TOKENS.name, len(rows), made)
        block.check()
        return block

    def _column(self, type: str, values: list[Any]) -> Column:
        if type.startswith("DateTime64("):
            return np.array(values, np.int64)
        if type == "Array(String)":
            return Lists(_offsets([len(texts) for texts in values]), Strings.of([bytes.fromhex(text) for text in chain(*values)]))
        if type.startswith("Array("):
            dtype = _DTYPES[type.removeprefix("Array(").removesuffix(")")]
            return _lists(values, dtype)
        if "String" in type:
            return Strings.of([bytes.fromhex(text) for text in values])
        return np.array(values, _DTYPES[type])


def slices(counts: Callable[[int, int, int], Sequence[tuple[int, int]]], start_ns: int, end_ns: int) -> Iterator[tuple[int, int]]:
    """Times that hold SLICE_ROWS at most, or are a minute. counts(unit_ns, start_ns, end_ns): (unit since 1970, rows), rising."""
    for day, _ in counts(_DAY_NS, start_ns, end_ns):
        first_ns, stop_ns = max(start_ns, day * _DAY_NS), min(end_ns, (day + 1) * _DAY_NS)
        at_ns, held = first_ns, 0
        for minute, rows in counts(_MINUTE_NS, first_ns, stop_ns):
            if held and held + rows > SLICE_ROWS:
                yield at_ns, minute * _MINUTE_NS
                at_ns, held = minute * _MINUTE_NS, 0
            held += rows
        if held:
            yield at_ns, stop_ns


def _lists(values: list[Any], dtype: npt.DTypeLike) -> Lists:
    if values and isinstance(values[0], str):
        width = 2 * np.dtype(dtype).itemsize
        flat = np.frombuffer(bytes.fromhex("".join(values)), dtype)
        return Lists(_offsets([len(text) // width for text in values]), flat)
    lengths = [len(numbers) for numbers in values]
    return Lists(_offsets(lengths), np.fromiter(chain(*values), dtype, sum(lengths)))


def _offsets(lengths: Sequence[int]) -> Offsets:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _bound_key(name: str, key: Key | None) -> tuple[str, dict[str, Any]]:
    """A key as a tuple of bound parameters, and their values."""
    if key is None:
        return "", {}
    words = [f"fromUnixTimestamp64Nano({{{name}_0:Int64}})", *(f"unhex({{{name}_{place}:String}})" for place in range(1, 5)),
             f"{{{name}_5:UInt16}}"]
    return f"({', '.join(words)})", {f"{name}_{place}": value for place, value in enumerate(key)}
