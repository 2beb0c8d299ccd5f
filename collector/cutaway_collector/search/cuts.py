"""Which tokens of a sequence a query reads: all, or a stretch that the store cuts out, so that a long generation stays light.

Not the look-up of the sequence, which is generation.py's and outline.py's. Every column is one of the registry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cutaway_collector.columns import TOKENS
from cutaway_collector.search.parameters import Parameters

_AXES: Final = {column.name: column.axes for column in TOKENS.columns if column.axes and column.axes.length == "token"}


@dataclass(frozen=True, slots=True)
class Cut:
    """Tokens `start` to `start + count` (exclusive, fewer where the sequence ends); the default reads all of them."""

    start: int = 0
    count: int = -1

    @property
    def whole(self) -> bool:
        """Whether it leaves nothing out."""
        return self.start == 0 and self.count < 0

    def size(self, tokens: int) -> int:
        """Tokens it has of a sequence of that many."""
        return max(0, tokens - self.start) if self.count < 0 else max(0, min(self.count, tokens - self.start))

    def sql(self, column: str, parameters: Parameters) -> str:
        """The column's values of these tokens, flat as stored; a column that is not one of tokens stays as it is."""
        axes = _AXES.get(column)
        if self.whole or axes is None:
            return column
        width = " * ".join(name for name in (axes.layers, axes.heads) if name) or "1"
        start, count = parameters.bind(self.start, "Int64"), parameters.bind(self.count, "Int64")
        return f"arraySlice({column}, 1 + {start} * {width}, {count} * {width})"

    def columns(self, columns: Sequence[tuple[str, str]], parameters: Parameters) -> tuple[tuple[str, str], ...]:
        """(key, column) pairs, cut."""
        return tuple((key, self.sql(column, parameters)) for key, column in columns)


WHOLE: Final = Cut()
