"""The intermediate tables between wire bytes and columns: one int64 row a span, attribute, event, link, resource and scope.

A row holds positions in the request, not copies. Nothing here reads bytes: otlp.py fills the tables, rows.py empties them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from cutaway_collector.errors import TooLarge

# One span. *_N is the length in bytes, or the number of rows, of what the field before it begins.
S_TRACE: Final = 0
S_TRACE_N: Final = 1
S_ID: Final = 2
S_ID_N: Final = 3
S_PARENT: Final = 4
S_PARENT_N: Final = 5
S_STATE: Final = 6
S_STATE_N: Final = 7
S_NAME: Final = 8
S_NAME_N: Final = 9
S_MESSAGE: Final = 10
S_MESSAGE_N: Final = 11
S_ATTRIBUTE: Final = 12
S_ATTRIBUTE_N: Final = 13
S_EVENT: Final = 14
S_EVENT_N: Final = 15
S_LINK: Final = 16
S_LINK_N: Final = 17
S_KIND: Final = 18
S_CODE: Final = 19
S_START: Final = 20
S_STOP: Final = 21
S_SCOPE: Final = 22
S_RESOURCE: Final = 23
S_FAULT: Final = 24
S_WIDTH: Final = 25

# One attribute. A_VALUE: position for text, bytes, arrays and maps; the 64 bits themselves for bool, int and double.
A_KEY: Final = 0
A_KEY_N: Final = 1
A_KIND: Final = 2
A_VALUE: Final = 3
A_VALUE_N: Final = 4
A_NUMBER: Final = 5
"""Index of the first double in the value: in `values` of DOUBLES, else in `numbers`."""
A_NAME: Final = 6
"""Index in names.NAMES, or -1."""
A_FLAT: Final = 7
"""How many doubles an ARRAY or DOUBLES holds that has nothing else in it and all of them finite, else 0."""
A_WIDTH: Final = 8

# Kinds of value, which are the field numbers of AnyValue's oneof.
EMPTY: Final = 0
TEXT: Final = 1
BOOL: Final = 2
INT: Final = 3
DOUBLE: Final = 4
ARRAY: Final = 5
MAP: Final = 6
RAW: Final = 7
DOUBLES: Final = 9
"""Not of the oneof: a long ARRAY that is nothing but finite doubles, which stays numbers (see doubles.py)."""
INDEXED: Final = 8
"""`string_value_strindex`: points into a dictionary that traces do not carry, so it reads as empty."""

# One event.
E_TIME: Final = 0
E_NAME: Final = 1
E_NAME_N: Final = 2
E_ATTRIBUTE: Final = 3
E_ATTRIBUTE_N: Final = 4
E_WIDTH: Final = 5

# One link.
L_TRACE: Final = 0
L_TRACE_N: Final = 1
L_ID: Final = 2
L_ID_N: Final = 3
L_STATE: Final = 4
L_STATE_N: Final = 5
L_ATTRIBUTE: Final = 6
L_ATTRIBUTE_N: Final = 7
L_WIDTH: Final = 8

# One resource (or its absence), one scope (or its absence).
R_ATTRIBUTE: Final = 0
R_ATTRIBUTE_N: Final = 1
R_FAULT: Final = 2
R_WIDTH: Final = 3
C_NAME: Final = 0
C_NAME_N: Final = 1
C_VERSION: Final = 2
C_VERSION_N: Final = 3
C_WIDTH: Final = 4

# Slots of `counts`.
SPANS: Final = 0
SPAN_ATTRIBUTES: Final = 1
EVENTS: Final = 2
EVENT_ATTRIBUTES: Final = 3
LINKS: Final = 4
LINK_ATTRIBUTES: Final = 5
RESOURCES: Final = 6
RESOURCE_ATTRIBUTES: Final = 7
SCOPES: Final = 8
NUMBERS: Final = 9
VALUES: Final = 10
TABLES: Final = 11
"""How many tables are counted."""
DEEP: Final = 11
"""Not a count: set when a value nests deeper than the limit, cleared by whoever asks."""
COUNTS: Final = 12

# Why a span is turned away alone.
NO_FAULT: Final = 0
BAD_TRACE_ID: Final = 1
BAD_SPAN_ID: Final = 2
BAD_START: Final = 3
TOO_MANY_ATTRIBUTES: Final = 4
TOO_DEEP: Final = 5


# The work arena, int64: counts, then where each table begins and its last row, then the tables themselves. One array, because every
# array that compiled code hands on costs two atomic reference counts, and an attribute is smaller than that.
BASE: Final = 16
LAST: Final = 32
STACK: Final = 48
"""Where the stack for nested values begins: four words a level."""
DEPTH_MAX: Final = 49
NAMES: Final = 50
"""Where the packed names begin (see names.py): words, firsts, slots by length; then how many lengths and slots there are."""
NAME_FIRSTS: Final = 51
NAME_SLOTS: Final = 52
NAME_LENGTHS: Final = 53
NAME_SLOTS_EACH: Final = 54
REJECTED: Final = 56
"""Where the spans are counted, by what is wrong with them; NO_FAULT counts those that are kept."""
SERIES_SEEN: Final = 62
"""Not 0: a span has an attribute that is a token series."""
ROW_BYTES: Final = 63
"""What the rows of all spans will take in memory, about."""
SHARED: Final = 64
"""Bytes of the resource, and of the scope in the next word, that the row of every span under them repeats."""
HEAD: Final = 66

ROW_BYTES_LEAST: Final = 600
"""What the row of a span takes beside the text in it: its numbers, and the offsets of its texts."""


class Tables(NamedTuple):
    """Every table as a view of the arena `work`.

    Each holds one spare row at its end, which takes what overflows: writing needs no branch and never leaves the table.
    numbers: int64 [n], the bits of every double that will be spelled as text; values: the same, of those that stay numbers.
    counts: rows wanted, which may exceed what the tables hold: a walk over tables of no rows counts. stack: int64 [levels * 4].
    """

    spans: Any
    span_attributes: Any
    events: Any
    event_attributes: Any
    links: Any
    link_attributes: Any
    resources: Any
    resource_attributes: Any
    scopes: Any
    numbers: Any
    values: Any
    counts: Any
    stack: Any
    work: Any


_WIDTHS: Final = (S_WIDTH, A_WIDTH, E_WIDTH, A_WIDTH, L_WIDTH, A_WIDTH, R_WIDTH, A_WIDTH, C_WIDTH, 1, 1)


def nbytes(capacities: Sequence[int]) -> int:
    """Memory of tables of that many rows."""
    return sum(rows * width * 8 for rows, width in zip(capacities, _WIDTHS, strict=True))


def check_affordable(capacities: Sequence[int], bytes_max: int) -> None:
    """Raises TooLarge when tables of that many rows would take more than `bytes_max`."""
    wanted = nbytes(capacities)
    if wanted > bytes_max:
        raise TooLarge(
            f"decoding a request may take {bytes_max} bytes, this one needs {wanted} for {capacities[SPANS]} spans: "
            "send fewer at once"
        )


def allocate(capacities: Sequence[int], depth_max: int, names: tuple[Any, Any, Any]) -> Tables:
    """Tables of `capacities[i]` rows each plus the spare one. names: names.PACKED."""
    sizes = [(rows + 1) * width for rows, width in zip(capacities, _WIDTHS, strict=True)]
    extras = [4 * (depth_max + 2), *(part.size for part in names)]
    ends: list[int] = np.cumsum([HEAD, *sizes, *extras]).tolist()
    work = np.empty(ends[-1], np.int64)
    work[:HEAD] = 0
    work[BASE : BASE + len(sizes)] = ends[: len(sizes)]
    work[LAST : LAST + len(sizes)] = capacities
    work[STACK], work[NAMES], work[NAME_FIRSTS], work[NAME_SLOTS] = ends[len(sizes) : -1]
    work[DEPTH_MAX], work[NAME_LENGTHS], work[NAME_SLOTS_EACH] = depth_max, len(names[2]), names[2].shape[1]
    for start, part in zip(ends[len(sizes) + 1 : -1], names, strict=True):
        work[start : start + part.size] = part.ravel()
    views: list[Any] = [
        work[start : start + size].reshape(-1, width) for start, size, width in zip(ends, sizes, _WIDTHS, strict=False)
    ]
    views[NUMBERS:] = [view.ravel() for view in views[NUMBERS:]]
    stack = work[ends[len(sizes)] : ends[len(sizes) + 1]]
    return Tables._make([*views, work[:COUNTS], stack, work])
