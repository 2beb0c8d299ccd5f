"""Two sequences laid side by side: what they share in the same order, and what only one of them has.

Not a difference of texts by similarity: items are equal or not. The longest common subsequence, so nothing that could be paired in
order is left out.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final, Literal, NamedTuple

import numpy as np

ITEMS_MAX: Final = 4000
"""Of each side: the table of lengths has the product of both, two bytes a cell."""

Kind = Literal["same", "a", "b"]


class Run(NamedTuple):
    """Items a_start to a_end of the first and b_start to b_end of the second sequence, ends excluded.

    kind "same": equal one by one; "a": only the first has them, "b": only the second.
    """

    kind: Kind
    a_start: int
    a_end: int
    b_start: int
    b_end: int


def aligned(a: Sequence[Hashable], b: Sequence[Hashable]) -> list[Run]:
    """Runs that cover both sequences in order; where both differ, what only `a` has comes first.

    Raises ValueError for more than ITEMS_MAX items: cut them, and say so.
    """
    if max(len(a), len(b)) > ITEMS_MAX:
        raise ValueError(f"at most {ITEMS_MAX} items are aligned, these are {len(a)} and {len(b)}")
    known: dict[Hashable, int] = {}
    first, second = (np.array([known.setdefault(item, len(known)) for item in side], np.int32) for side in (a, b))
    lengths = np.zeros((first.size + 1, second.size + 1), np.int16)
    for row, item in enumerate(first):
        step = np.maximum(lengths[row, 1:], lengths[row, :-1] + (second == item))
        lengths[row + 1, 1:] = np.maximum.accumulate(step)
    pairs: list[tuple[int, int]] = []
    i, j = first.size, second.size
    while i and j:
        if first[i - 1] == second[j - 1]:
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif lengths[i, j - 1] == lengths[i, j]:
            j -= 1
        else:
            i -= 1
    return _runs(pairs[::-1], first.size, second.size)


def _runs(pairs: Sequence[tuple[int, int]], a_size: int, b_size: int) -> list[Run]:
    runs: list[Run] = []
    at = (0, 0)
    for i, j in (*pairs, (a_size, b_size)):
        if i > at[0]:
            runs.append(Run("a", at[0], i, at[1], at[1]))
        if j > at[1]:
            runs.append(Run("b", i, i, at[1], j))
        if i < a_size and j < b_size:
            joined = runs and runs[-1].kind == "same" and (runs[-1].a_end, runs[-1].b_end) == (i, j)
            if joined:
                runs[-1] = runs[-1]._replace(a_end=i + 1, b_end=j + 1)
            else:
                runs.append(Run("same", i, i + 1, j, j + 1))
        at = (i + 1, j + 1)
    return runs
