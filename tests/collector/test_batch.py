"""Batches: when one is due, what goes in, and that joining and cutting blocks loses nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutaway_collector.batch import Batcher, Pending, merge, rows_of
from cutaway_collector.blocks import Block, Column, Lists, MapLists, Maps, Nullable, Strings
from cutaway_collector.contracts import Checked
from store_helpers import maps, nullable, offsets


def pending(sequence: int, rows: int, row_bytes: int = 10, arrived_s: float = 0.0) -> Pending:
    return Pending(sequence, Checked(b"", (), rows, 0, "", row_bytes, 0, ""), arrived_s)


def batcher(**limits: Any) -> Batcher:
    return Batcher(**{"rows_max": 100, "bytes_max": 1000, "age_s_max": 0.2, **limits})


def test_nothing_is_due_when_nothing_waits() -> None:
    """An empty line has no time at which it is due."""
    assert batcher().due_in_s(5.0) is None


def test_the_oldest_request_sets_the_time() -> None:
    """Due when the first in line is old enough, whatever came after it."""
    line = batcher()
    line.add(pending(1, 1, arrived_s=10.0))
    line.add(pending(2, 1, arrived_s=10.15))
    assert line.due_in_s(10.05) == pytest.approx(0.15)
    assert line.due_in_s(11.0) == 0.0


@pytest.mark.parametrize("item", [pending(1, 100), pending(1, 1, 1000)], ids=["rows", "bytes"])
def test_a_full_batch_is_due_at_once(item: Pending) -> None:
    """Enough rows or enough bytes make age irrelevant."""
    line = batcher()
    line.add(item)
    assert line.due_in_s(0.0) == 0.0


def test_a_request_larger_than_a_batch_goes_alone() -> None:
    """It is neither refused nor joined by others."""
    line = batcher()
    for item in (pending(1, 500), pending(2, 1)):
        line.add(item)
    assert [item.sequence for item in line.take()] == [1]
    assert [item.sequence for item in line.take()] == [2]


@given(st.lists(st.tuples(st.integers(0, 150), st.integers(0, 1500)), max_size=30))
def test_every_request_leaves_once_in_order_within_the_limits(sizes: list[tuple[int, int]]) -> None:
    """Taking until empty gives the line back; no batch of several exceeds a limit; the sums stay right."""
    line = batcher()
    for number, (rows, row_bytes) in enumerate(sizes):
        line.add(pending(number, rows, row_bytes))
    taken: list[int] = []
    while len(line):
        items = line.take()
        assert len(items) == 1 or (sum(item.rows for item in items) <= 100 and sum(item.row_bytes for item in items) <= 1000)
        taken += [item.sequence for item in items]
    assert taken == list(range(len(sizes)))
    assert (line.rows, line.row_bytes) == (0, 0)


texts = st.text(max_size=5)
rows = st.tuples(texts, st.one_of(st.none(), st.integers(0, 9)), st.lists(st.integers(0, 9), max_size=3),
                 st.dictionaries(texts, texts, max_size=3), st.lists(st.dictionaries(texts, texts, max_size=2), max_size=2))


def block(values: list[Any]) -> Block:
    return Block("t", len(values), {
        "text": Strings.of([value[0] for value in values]),
        "number": nullable([value[1] for value in values], np.uint64),
        "list": Lists(offsets([value[2] for value in values]), np.array([x for value in values for x in value[2]], np.uint32)),
        "map": maps([value[3] for value in values]),
        "maps": MapLists(offsets([value[4] for value in values]), maps([m for value in values for m in value[4]])),
    })


def plain(column: Column) -> list[Any]:
    """A column as Python values, row by row."""
    if isinstance(column, np.ndarray):
        return list(column.tolist())
    if isinstance(column, Strings):
        return [raw.decode() for raw in column]
    if isinstance(column, Nullable):
        return [None if gone else value for value, gone in zip(column.values.tolist(), column.missing.tolist(), strict=True)]
    borders = list(zip(column.offsets[:-1].tolist(), column.offsets[1:].tolist(), strict=True))
    if isinstance(column, Maps):
        pairs = list(zip(plain(column.keys), plain(column.values), strict=True))
        return [dict(pairs[low:high]) for low, high in borders]
    inner = plain(column.values)
    return [inner[low:high] for low, high in borders]


def values_of(one: Block) -> list[Any]:
    one.check()
    return list(zip(*(plain(column) for column in one.columns.values()), strict=True))


@given(st.lists(rows, min_size=1, max_size=8), st.data())
def test_rows_cut_out_are_those_rows(values: list[Any], data: st.DataObject) -> None:
    """Any cut of any block holds the rows between the borders, as Python's slicing has them."""
    start = data.draw(st.integers(0, len(values)))
    stop = data.draw(st.integers(start, len(values)))
    assert values_of(rows_of(block(values), start, stop)) == values[start:stop]


@given(st.lists(st.lists(rows, max_size=4), max_size=4))
def test_joined_blocks_hold_all_rows_in_order(parts: list[list[Any]]) -> None:
    """Joining is concatenation; no rows at all make no block."""
    joined = merge([block(part) for part in parts])
    expected = [row for part in parts for row in part]
    assert (joined is None) == (expected == [])
    if joined is not None:
        assert values_of(joined) == expected
