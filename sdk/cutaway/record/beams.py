"""Follows beams: through which candidate of every step a returned sequence went, and where its answer ended.

Not the search itself: candidates and their end flags are what the loop showed; nothing is scored or chosen here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from cutaway.steps import Prepared

_BEAM_BYTES_MAX: Final = 64 * 1024 * 1024
"""Candidate ids kept while beams run; they grow with the square of the length."""

_FILL: Final = -1
"""What transformers fills beams with when nothing ends a sequence."""


@dataclass(frozen=True, slots=True)
class Paths:
    """The way of each returned sequence: rows are int [sequence, step], meaningful for the first `lengths[i]` steps."""

    lengths: list[int]
    candidates: NDArray[np.int64]
    running: NDArray[np.int64]


class Beams:
    """Which candidate of every beam step a returned sequence went through.

    A signal depends on a prefix and a token alone, so a returned sequence finds its values at any candidate with the same ids.
    """

    def __init__(self, asked: Prepared) -> None:
        self._rows, self._width, self._prompt = asked.rows, asked.beams, asked.prompt_length
        self._steps: list[tuple[Any, Any]] = []
        self._bytes = 0

    def choose(self, running: Any, candidates: Any) -> Any:
        """running: ids [row * beam, position]; candidates: ids [row * candidate, position + 1].

        Returns the running row each candidate continues, int [row * candidate]. Raises MemoryError over the limit.
        """
        kept = candidates[:, self._prompt:].to(torch.int32)
        self._bytes += kept.numel() * 4
        if self._bytes > _BEAM_BYTES_MAX:
            raise MemoryError
        count, steps = kept.shape
        before = kept[:, :-1].reshape(self._rows, count // self._rows, 1, steps - 1)
        running = running[:, self._prompt:].to(torch.int32).reshape(self._rows, 1, self._width, steps - 1)
        first = torch.arange(self._rows, device=kept.device)[:, None] * self._width
        source = ((before == running).all(-1).int().argmax(-1) + first).reshape(-1)
        self._steps.append((kept, source))
        return source

    def paths(self, generated: NDArray[np.int64], done: Sequence[Any]) -> Paths | None:
        """The way of every returned sequence; None when one cannot be traced.

        generated: returned ids without the prompt [sequence, step], filled after the answer; done: bool [row * candidate] a step,
        true where a criterion ended the candidate. An answer ends at the first step where a candidate with its ids was ended and
        nothing but filling follows.
        """
        sequences, steps = generated.shape
        candidates, running = np.zeros(generated.shape, dtype=np.int64), np.zeros(generated.shape, dtype=np.int64)
        lengths = [0] * sequences
        if not steps:
            return Paths(lengths, candidates, running)
        fills = [tail_of(row) for row in generated]
        going = set(range(sequences))
        for step, (kept, source) in enumerate(self._steps[:min(steps, len(done))]):
            ids, rows, ended = kept.cpu().numpy(), source.cpu().numpy(), done[step].cpu().numpy()
            each = len(ids) // self._rows
            for i in sorted(going):
                first = i // (sequences // self._rows) * each
                hits = first + np.flatnonzero((ids[first:first + each] == generated[i, : step + 1]).all(-1))
                if not hits.size:
                    return None
                candidates[i, step], running[i, step] = hits[0], rows[hits[0]]
                if ended[hits].any() and step + 1 >= fills[i]:
                    lengths[i] = step + 1
                    going.remove(i)
            if not going:
                break
        return None if going else Paths(lengths, candidates, running)


def tail_of(row: NDArray[np.int64]) -> int:
    """Length of a row [step] without the run of equal values at its end, at least 1 of which might be the answer's last."""
    different = np.flatnonzero(row != row[-1])
    return int(different[-1]) + 1 if different.size else 0


def filled(generated: NDArray[np.int64], asked: Prepared) -> list[int]:
    """Lengths without the filling at the end of each sequence, for beams that were not traced and hold no end id.

    Where the model itself chose the padding id last, that cannot be told from filling.
    """
    padding = [_FILL]
    if asked.pad_id is not None:
        padding += asked.pad_id.detach().cpu().reshape(-1).tolist()
    return [
        tail_of(row) if row.size and int(row[-1]) in padding else len(row) for row in generated
    ]
