"""The attribute names the decoder looks for, packed so that compiled code recognises one by its length and a few words.

Names come from the column table and the conventions; this module adds none of its own.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from cutaway import conventions
from cutaway_collector import columns
from cutaway_collector.decode import tables as t
from cutaway_collector.decode.wire import kernel, word

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


def _words(name: bytes) -> Any:
    """The last eight bytes, where names differ most, then all whole eights from the start; of a shorter name, what there is."""
    eights = [name[-8:].ljust(8, b"\0"), *(name[at : at + 8] for at in range(0, len(name) - 7, 8))]
    return np.frombuffer(b"".join(eights), "<i8")


def _pack() -> tuple[Any, Any, Any]:
    raw = [name.encode() for name in NAMES]
    longest = max(len(name) for name in raw)
    by_length = np.full((longest + 1, max(sum(len(a) == len(b) for b in raw) for a in raw) + 1), -1, np.int64)
    for position, name in enumerate(raw):
        row = by_length[len(name)]
        row[int(np.argmax(row < 0))] = position
    words = [_words(name) for name in raw]
    firsts = np.cumsum([0, *(part.size for part in words[:-1])]).astype(np.int64)
    return np.concatenate(words), firsts, by_length


PACKED: Final = _pack()
"""(the words of all names int64, first word of each int64 [names], names of each length int64 [length, slot] closed by -1)."""


@kernel
def _last(data: Any, at: int, length: int) -> Any:
    """The first of `_words`."""
    if length >= 8:
        return np.int64(word(data, at + length - 8))
    bits = np.uint64(0)
    for step in range(length):
        bits |= np.uint64(data[at + step]) << np.uint64(8 * step)
    return np.int64(bits)


@kernel
def lookup(data: Any, at: int, length: int, work: Any) -> Any:
    """Index of the name spelled at `data[at:at + length]`, or -1."""
    if length >= work[t.NAME_LENGTHS]:
        return -1
    each = work[t.NAME_SLOTS_EACH]
    slots = work[t.NAME_SLOTS] + length * each
    if work[slots] < 0:
        return -1
    last = _last(data, at, length)
    for slot in range(slots, slots + each):
        candidate = work[slot]
        if candidate < 0:
            return -1
        first = work[t.NAMES] + work[work[t.NAME_FIRSTS] + candidate]
        if work[first] != last:
            continue
        step = 0
        while step < length >> 3 and np.int64(word(data, at + 8 * step)) == work[first + 1 + step]:
            step += 1
        if step == length >> 3:
            return candidate
    return -1
