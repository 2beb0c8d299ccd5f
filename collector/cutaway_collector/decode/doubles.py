"""Long arrays of doubles among the attributes of spans: kept as numbers in SpanNumbers, for to spell them costs more than all else.

Not token series, which have a table of their own, and not short arrays, which become text like any other value.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cutaway_collector.blocks import Lists, NumberMaps
from cutaway_collector.decode import tables as t
from cutaway_collector.decode.strings import check_column, gather
from cutaway_collector.decode.wire import entry


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


def number_maps(data: Any, table: Any, rows: Any, ends: Any, values: Any) -> NumberMaps:
    """The arrays at those rows of the span-attribute table, as `split` gives them. values: see tables.Tables."""
    counts = table[rows, t.A_FLAT]
    value_ends = np.zeros(rows.size + 1, np.int64)
    np.cumsum(counts, out=value_ends[1:])
    check_column(int(value_ends[-1]) * 8)
    if value_ends[-1] < values.size:  # some are of spans that were turned away
        values = values[np.repeat(table[rows, t.A_NUMBER] - value_ends[:-1], counts) + np.arange(value_ends[-1])]
    keys = gather(data, table[rows, t.A_KEY], table[rows, t.A_KEY_N])
    return NumberMaps(ends, keys, Lists(value_ends, values.view(np.float64)))
