"""The attribute names the decoder looks for, packed so that compiled code recognises one by its length and a few bytes.

Names come from the column table and the conventions; this module adds none of its own.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from cutaway import conventions
from cutaway_collector import columns
from cutaway_collector.decode import tables as t
from cutaway_collector.decode.wire import kernel

_LIFTED: Final = tuple(dict.fromkeys(source.name for column in columns.LIFTED for source in column.sources))
_HELPERS: Final = tuple(
    name for name in (
        conventions.SEQUENCE_INPUT_TOKENS, conventions.SEQUENCE_OUTPUT_TOKENS, conventions.USAGE_INPUT_TOKENS,
        conventions.USAGE_OUTPUT_TOKENS, conventions.PROMPT_TOKENS, conventions.ATTENTION_LAYERS, "service.name",
    ) if name not in _LIFTED
)
_SERIES: Final = tuple(column.series for column in columns.SERIES)

NAMES: Final[tuple[str, ...]] = _LIFTED + _HELPERS + _SERIES
"""Every name looked for. Their order is theirs alone: use `index`."""

LIFTED_TO: Final = len(_LIFTED)
"""Names before here fill columns of otel_traces."""

SERIES_FROM: Final = len(_LIFTED) + len(_HELPERS)
"""Names from here on are token series, lifted out of SpanAttributes."""


def index(name: str) -> int:
    """Position of a name in NAMES. Raises ValueError."""
    return NAMES.index(name)


def _pack() -> tuple[Any, Any, Any]:
    raw = [name.encode() for name in NAMES]
    longest = max(len(name) for name in raw)
    by_length = np.full((longest + 1, max(sum(len(a) == len(b) for b in raw) for a in raw) + 1), -1, np.int64)
    for position, name in enumerate(raw):
        row = by_length[len(name)]
        row[int(np.argmax(row < 0))] = position
    ends = np.cumsum([len(name) for name in raw]).astype(np.int64)
    return np.frombuffer(b"".join(raw), np.uint8), ends, by_length


PACKED: Final = _pack()
"""(names one after another uint8, end of each int64 [names], names of each length int64 [length, slot] closed by -1)."""


@kernel
def lookup(data: Any, at: int, length: int, work: Any) -> Any:
    """Index of the name spelled at `data[at:at + length]`, or -1. Compares from the end, where names differ most."""
    if length >= work[t.NAME_LENGTHS]:
        return -1
    each = work[t.NAME_SLOTS_EACH]
    slots = work[t.NAME_SLOTS] + length * each
    for slot in range(slots, slots + each):
        candidate = work[slot]
        if candidate < 0:
            return -1
        start = work[t.NAMES] + work[work[t.NAME_ENDS] + candidate] - length
        back = length - 1
        while back >= 0 and data[at + back] == work[start + back]:
            back -= 1
        if back < 0:
            return candidate
    return -1
