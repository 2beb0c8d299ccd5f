"""When enough requests have gathered for one insert, and how their rows become one block. Pure: the clock is an argument.

Stores nothing and holds no lock; the pipeline does both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cutaway_collector.blocks import (
    Array,
    Block,
    Column,
    Lists,
    MapLists,
    Maps,
    Nullable,
    NumberMaps,
    Offsets,
    Strings,
    concat_blocks,
)
from cutaway_collector.contracts import Checked


@dataclass(frozen=True, slots=True)
class Pending:
    """A request that is safe in the spool and waits to be stored. arrived_s: by any clock."""

    sequence: int
    request: Checked
    arrived_s: float

    @property
    def rows(self) -> int:
        """Spans of the request."""
        return self.request.spans

    @property
    def held_bytes(self) -> int:
        """Memory it takes while it waits."""
        return self.request.held_bytes

    @property
    def row_bytes(self) -> int:
        """Memory its rows will take."""
        return self.request.row_bytes


class Batcher:
    """A line of pending requests that says when the next insert is due: enough rows, enough bytes, or old enough."""

    def __init__(self, *, rows_max: int, bytes_max: int, age_s_max: float) -> None:
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self._age_s_max = age_s_max
        self._line: deque[Pending] = deque()
        self.rows = 0
        self.row_bytes = 0

    def __len__(self) -> int:
        return len(self._line)

    def add(self, item: Pending) -> None:
        """Joins the end of the line."""
        self._line.append(item)
        self.rows += item.rows
        self.row_bytes += item.row_bytes

    def is_full(self) -> bool:
        """Whether there is a whole batch, however young."""
        return self.rows >= self._rows_max or self.row_bytes >= self._bytes_max

    def due_in_s(self, now_s: float) -> float | None:
        """Seconds until a batch is due: 0 when it is, None when nothing waits."""
        if not self._line:
            return None
        return 0.0 if self.is_full() else max(0.0, self._line[0].arrived_s + self._age_s_max - now_s)

    def take(self) -> list[Pending]:
        """The oldest requests that fit one insert; at least one, even when it alone is larger."""
        taken: list[Pending] = []
        rows = row_bytes = 0
        while self._line:
            item = self._line[0]
            if taken and (rows + item.rows > self._rows_max or row_bytes + item.row_bytes > self._bytes_max):
                break
            taken.append(self._line.popleft())
            rows, row_bytes = rows + item.rows, row_bytes + item.row_bytes
        self.rows -= rows
        self.row_bytes -= row_bytes
        return taken


def merge(blocks: Sequence[Block]) -> Block | None:
    """Blocks of one table, one after another; None when they hold no rows."""
    filled = [block for block in blocks if block.rows]
    return concat_blocks(filled) if filled else None


def rows_of(block: Block, start: int, stop: int) -> Block:
    """Rows [start, stop) as a block of their own."""
    return Block(block.table, stop - start, {name: _slice(column, start, stop) for name, column in block.columns.items()})


def _slice(column: Column, start: int, stop: int) -> Column:
    if isinstance(column, np.ndarray):
        part: Array = column[start:stop]
        return part
    if isinstance(column, Nullable):
        return Nullable(column.values[start:stop], column.missing[start:stop])
    low, high = int(column.offsets[start]), int(column.offsets[stop])
    offsets: Offsets = column.offsets[start : stop + 1] - low
    if isinstance(column, Strings):
        return Strings(column.data[low:high], offsets)
    if isinstance(column, Maps):
        return Maps(offsets, _strings(column.keys, low, high), _strings(column.values, low, high))
    if isinstance(column, NumberMaps):
        numbers = _slice(column.values, low, high)
        assert isinstance(numbers, Lists)
        return NumberMaps(offsets, _strings(column.keys, low, high), numbers)
    if isinstance(column, MapLists):
        inner = _slice(column.values, low, high)
        assert isinstance(inner, Maps)
        return MapLists(offsets, inner)
    return Lists(offsets, _slice(column.values, low, high))


def _strings(strings: Strings, low: int, high: int) -> Strings:
    part = _slice(strings, low, high)
    assert isinstance(part, Strings)
    return part
