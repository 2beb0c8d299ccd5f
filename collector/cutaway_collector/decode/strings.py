"""Columns of strings cut out of bytes without a Python object each: gathers, hex ids, runs of rows.

It does not know what the strings mean. Positions are int64, every result is a `blocks.Strings` or plain arrays.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from cutaway_collector.blocks import Strings
from cutaway_collector.decode.wire import copy, entry, raw
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
        copy(raw(out), ends[index], raw(data), starts[index], ends[index + 1] - ends[index])
    return out


def check_column(column_bytes: int) -> None:
    """Raises TooLarge when a column would outgrow COLUMN_BYTES_MAX."""
    if column_bytes > COLUMN_BYTES_MAX:
        raise TooLarge(
            f"a column of one request may take {COLUMN_BYTES_MAX} bytes, this one needs {column_bytes}: send fewer spans at "
            "once, or smaller resource attributes"
        )


def _read_only(data: Any) -> Any:
    """Request bytes are read-only; a view of the same kind for our own spares compiling everything twice."""
    view = data.view()
    view.flags.writeable = False
    return view


def gather(data: Any, starts: Any, lengths: Any) -> Strings:
    """String i is `data[starts[i]:starts[i] + lengths[i]]`. The caller vouches for the positions."""
    starts, lengths = np.ascontiguousarray(starts), np.ascontiguousarray(lengths)
    ends = _ends(lengths)
    check_column(int(ends[-1]))
    return Strings(_copy(_read_only(data), starts, ends), ends)


def pick(strings: Strings, rows: Any) -> Strings:
    """The strings of those rows, in that order, repeats allowed."""
    return gather(strings.data, strings.offsets[rows], strings.offsets[rows + 1] - strings.offsets[rows])


@entry
def _hex(data: Any, starts: Any, lengths: Any, width: int) -> tuple[Any, Any]:
    ends = np.zeros(starts.size + 1, np.int64)
    out = np.empty(starts.size * width * 2, np.uint8)
    at = 0
    for index in range(starts.size):
        bits = 0
        if lengths[index] == width:
            for step in range(width):
                bits |= data[starts[index] + step]
        if bits != 0:
            for step in range(width):
                byte = data[starts[index] + step]
                high, low = byte >> 4, byte & 15
                out[at] = high + 48 if high < 10 else high + 87
                out[at + 1] = low + 48 if low < 10 else low + 87
                at += 2
        ends[index + 1] = at
    return out[:at], ends


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


def runs(first: Any, count: Any) -> tuple[Any, Any]:
    """(rows, ends): the rows `first[i] .. first[i] + count[i]` of every i one after another, and where each run ends, from 0."""
    ends = _ends(np.ascontiguousarray(count))
    check_column(int(ends[-1]) * 8)
    return _runs(np.ascontiguousarray(first), ends), ends
