"""Columns of strings cut out of bytes without a Python object each: gathers, hex ids, runs of rows.

It does not know what the strings mean. Positions are int64, every result is a `blocks.Strings` or plain arrays.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from cutaway_collector.blocks import Strings
from cutaway_collector.decode.wire import entry, kernel, put, raw, word
from cutaway_collector.errors import TooLarge

COLUMN_BYTES_MAX: Final = 512 * 1024 * 1024
"""Largest column one request may fill: a resource repeats in the row of each of its spans, so small requests can mean huge rows."""


@entry
def _ends(lengths: Any) -> Any:
    ends = np.empty(lengths.size + 1, np.int64)
    total = np.int64(0)
    ends[0] = 0
    for index in range(lengths.size):
        total += lengths[index]
        ends[index + 1] = total
    return ends


@entry
def _copy(data: Any, starts: Any, ends: Any) -> Any:
    out = np.empty(ends[-1], np.uint8)
    for index in range(starts.size):
        put(raw(out), ends[index], out.size, raw(data), starts[index], data.size, ends[index + 1] - ends[index])
    return out


def check_column(column_bytes: int) -> None:
    """Raises TooLarge when a column would outgrow COLUMN_BYTES_MAX."""
    if column_bytes > COLUMN_BYTES_MAX:
        raise TooLarge(
            f"a column of one request may take {COLUMN_BYTES_MAX} bytes, this one needs {column_bytes}: send fewer spans at "
            "once, or smaller resource attributes"
        )


def read_only(data: Any) -> Any:
    """Request bytes are read-only; a view of the same kind for our own spares compiling everything twice."""
    view = data.view()
    view.flags.writeable = False
    return view


def gather(data: Any, starts: Any, lengths: Any) -> Strings:
    """String i is `data[starts[i]:starts[i] + lengths[i]]`. The caller vouches for the positions."""
    starts, lengths = np.ascontiguousarray(starts), np.ascontiguousarray(lengths)
    ends = _ends(lengths)
    check_column(int(ends[-1]))
    return Strings(_copy(read_only(data), starts, ends), ends)


@entry
def _picked_ends(offsets: Any, rows: Any) -> Any:
    ends = np.empty(rows.size + 1, np.int64)
    total = np.int64(0)
    ends[0] = 0
    for index in range(rows.size):
        total += offsets[rows[index] + 1] - offsets[rows[index]]
        ends[index + 1] = total
    return ends


@entry
def _picked(data: Any, offsets: Any, rows: Any, ends: Any) -> Any:
    out = np.empty(ends[-1], np.uint8)
    for index in range(rows.size):
        put(raw(out), ends[index], out.size, raw(data), offsets[rows[index]], data.size, ends[index + 1] - ends[index])
    return out


def pick(strings: Strings, rows: Any) -> Strings:
    """The strings of those rows, in that order, repeats allowed."""
    rows = np.ascontiguousarray(rows, np.int64)
    ends = _picked_ends(strings.offsets, rows)
    check_column(int(ends[-1]))
    return Strings(_picked(read_only(strings.data), strings.offsets, rows, ends), ends)


@entry
def _repeated_ends(offsets: Any, first: Any, count: Any, owners: Any, strings: int) -> Any:
    ends = np.empty(strings + 1, np.int64)
    ends[0] = 0
    to = 0
    total = np.int64(0)
    for index in range(owners.size):
        row = first[owners[index]]
        for _ in range(count[owners[index]]):
            total += offsets[row + 1] - offsets[row]
            row += 1
            to += 1
            ends[to] = total
    return ends


@entry
def _repeated(data: Any, offsets: Any, first: Any, count: Any, owners: Any, ends: Any) -> Any:
    out = np.empty(ends[-1], np.uint8)
    to = np.int64(0)
    for index in range(owners.size):
        row = first[owners[index]]
        start = offsets[row]
        length = offsets[row + count[owners[index]]] - start
        put(raw(out), to, out.size, raw(data), start, data.size, length)
        to += length
    return out


def repeat(strings: Strings, first: Any, count: Any, owners: Any, total: int) -> Strings:
    """Of each owner, in that order and repeats allowed, the strings `first[owner] .. first[owner] + count[owner]`; `total` strings,
    as `run_ends` gives them.
    """
    first, count, owners = np.ascontiguousarray(first), np.ascontiguousarray(count), np.ascontiguousarray(owners)
    ends = _repeated_ends(strings.offsets, first, count, owners, total)
    check_column(int(ends[-1]))
    return Strings(_repeated(read_only(strings.data), strings.offsets, first, count, owners, ends), ends)


@kernel
def _digits(four: int) -> Any:
    """Four bytes as eight hex digits, all at once: each byte into a lane of its own, its halves apart, then to letters."""
    lanes = (four | four << np.uint64(16)) & np.uint64(0x0000FFFF0000FFFF)
    lanes = (lanes | lanes << np.uint64(8)) & np.uint64(0x00FF00FF00FF00FF)
    halves = (lanes >> np.uint64(4) | lanes << np.uint64(8)) & np.uint64(0x0F0F0F0F0F0F0F0F)
    letters = (halves + np.uint64(0x0606060606060606)) >> np.uint64(4) & np.uint64(0x0101010101010101)
    return halves + np.uint64(0x3030303030303030) + letters * np.uint64(ord("a") - ord("0") - 10)


@entry
def _hex(data: Any, starts: Any, lengths: Any, width: int) -> tuple[Any, Any]:
    """width: a multiple of eight."""
    ends = np.zeros(starts.size + 1, np.int64)
    out = np.empty(starts.size * width // 4, np.uint64)
    at = 0
    for index in range(starts.size):
        if lengths[index] == width:
            bits = np.uint64(0)
            for step in range(0, width, 8):
                eight = word(raw(data), starts[index] + step)
                bits |= eight
                out[at + step // 4] = _digits(eight & np.uint64(0xFFFFFFFF))
                out[at + step // 4 + 1] = _digits(eight >> np.uint64(32))
            if bits != 0:
                at += width // 4
        ends[index + 1] = 8 * at
    return out[:at].view(np.uint8), ends


def hex_ids(data: Any, starts: Any, lengths: Any, width: int) -> Strings:
    """Ids of `width` bytes as lower-case hex; "" for an id of another length or all zero, which names nothing."""
    return Strings(*_hex(data, np.ascontiguousarray(starts), np.ascontiguousarray(lengths), width))


@entry
def _runs(first: Any, ends: Any) -> Any:
    rows = np.empty(ends[-1], np.int64)
    for index in range(first.size):
        for step in range(ends[index + 1] - ends[index]):
            rows[ends[index] + step] = first[index] + step
    return rows


def run_ends(count: Any) -> Any:
    """Where each of so many runs of `count[i]` rows ends, from 0."""
    ends = _ends(np.ascontiguousarray(count))
    check_column(int(ends[-1]) * 8)
    return ends


def runs(first: Any, count: Any) -> tuple[Any, Any]:
    """(rows, ends): the rows `first[i] .. first[i] + count[i]` of every i one after another, and where each run ends, from 0."""
    ends = run_ends(count)
    return _runs(np.ascontiguousarray(first), ends), ends
