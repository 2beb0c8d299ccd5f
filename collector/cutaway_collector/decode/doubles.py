"""Long arrays of doubles among the attributes of spans: kept as numbers in SpanNumbers, for to spell them costs more than all else.

Not token series, which have a table of their own, and not short arrays, which become text like any other value.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from cutaway_collector.blocks import Lists, NumberMaps
from cutaway_collector.decode import tables as t
from cutaway_collector.decode.strings import check_column, gather
from cutaway_collector.decode.wire import entry, raw, word

_BYTES_A_DOUBLE: Final = 11
"""On the wire: a tag and a length of the element, a tag and eight bytes of the value."""


@entry
def split(first: Any, count: Any, table: Any, hidden_from: int) -> tuple[Any, Any, Any, Any]:
    """(rows, ends, rows of arrays, their ends): attributes `first[i] .. first[i] + count[i]` of every span i that become text, and
    those that stay numbers; those whose name is `hidden_from` or more are in neither.
    """
    ends = np.empty(first.size + 1, np.int64)
    array_ends = np.empty(first.size + 1, np.int64)
    ends[0] = array_ends[0] = 0
    rows = np.empty(count.sum(), np.int64)
    arrays = np.empty(rows.size, np.int64)
    at = 0
    array_at = 0
    for index in range(first.size):
        for row in range(first[index], first[index] + count[index]):
            if table[row, t.A_NAME] >= hidden_from:
                continue
            if table[row, t.A_KIND] == t.DOUBLES:
                arrays[array_at] = row
                array_at += 1
            else:
                rows[at] = row
                at += 1
        ends[index + 1] = at
        array_ends[index + 1] = array_at
    return rows[:at], ends, arrays[:array_at], array_ends


@entry
def _values(data: Any, table: Any, rows: Any, ends: Any, numbers: Any) -> Any:
    out = np.empty(ends[-1], np.uint64)
    text = raw(data)
    for index in range(rows.size):
        row = rows[index]
        if table[row, t.A_FLAT] < 0:
            first = table[row, t.A_NUMBER]
            for step in range(ends[index + 1] - ends[index]):
                out[ends[index] + step] = np.uint64(numbers[first + step])
            continue
        at = table[row, t.A_VALUE] + 3
        for to in range(ends[index], ends[index + 1]):
            out[to] = word(text, at)
            at += _BYTES_A_DOUBLE
    return out


def number_maps(data: Any, table: Any, rows: Any, ends: Any, numbers: Any) -> NumberMaps:
    """The arrays at those rows of the span-attribute table, as `split` gives them. numbers: see tables.Tables."""
    value_ends = np.zeros(rows.size + 1, np.int64)
    np.cumsum(np.abs(table[rows, t.A_FLAT]), out=value_ends[1:])
    check_column(int(value_ends[-1]) * 8)
    values = _values(data, table, rows, value_ends, numbers).view(np.float64)
    return NumberMaps(ends, gather(data, table[rows, t.A_KEY], table[rows, t.A_KEY_N]), Lists(value_ends, values))
