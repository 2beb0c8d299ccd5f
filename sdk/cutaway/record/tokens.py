"""Keeps copies of rows of scores until there are enough of them, reads them once, and copies the values once at the end.

Not the formulas (measure/) and not the choice: what is heard here was chosen by the loop.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cutaway import conventions as c
from cutaway.record.memory import writable
from cutaway.steps import TOKEN_SIGNALS, Measures

ROWS_MAX: Final = 16
"""Rows of scores that share a measurement: the model has emptied the caches between two tokens, so an operation costs more to start
than to run on one row. More rows win little."""

_ENOUGH: Final = 8
"""Rows of one step that are measured where they are: putting those of several steps together would cost more than it wins."""

_BYTES_MAX: Final = {"cpu": 4 * 1024 * 1024}
_BYTES_MAX_ELSEWHERE: Final = 64 * 1024 * 1024
"""Logits that wait. On a CPU they should still be in its cache when they are read."""


class _Line:
    """Rows in one piece of memory that is used again and again.

    Holding on to the rows the model made would be no copy, but then it finds fresh memory for its next ones at every step.
    """

    def __init__(self) -> None:
        self._rows: Tensor | None = None
        self.used = 0

    def place(self, row: Tensor) -> Tensor | None:
        """A copy of `row` [n, vocabulary], there until the next `place` unless `used` is moved behind it; None when it is full."""
        count, width = row.shape
        if self._rows is not None and not writable(self._rows):
            if self.used:
                return None
            self._rows = None
        if self._rows is None or self._rows.shape[1] != width or self._rows.dtype != row.dtype or self._rows.device != row.device:
            bytes_max = _BYTES_MAX.get(row.device.type, _BYTES_MAX_ELSEWHERE)
            rows = max(count, min(ROWS_MAX, bytes_max // (width * row.element_size())))
            self._rows = torch.empty(rows, width, dtype=row.dtype, device=row.device)
        if self.used + count > len(self._rows):
            return None
        return self._rows[self.used:self.used + count].copy_(row)

    def is_full(self, count: int) -> bool:
        """Whether `count` more rows find no room."""
        return self._rows is None or self.used + count > len(self._rows)

    def take(self) -> Tensor:
        """What is in use, which then is free."""
        assert self._rows is not None, "asked only when `used`"
        taken, self.used = self._rows[:self.used], 0
        return taken


class TokenRecorder:
    """Signals of every row of every step, in order. `choices`: alternatives to keep a token."""

    def __init__(self, measures: Measures, choices: int) -> None:
        self._measures = measures
        self._choices = choices
        self._raw, self._drawn = _Line(), _Line()
        self._chosen: list[Tensor] = []
        self._placed: Tensor | None = None
        self._scratch: tuple[Tensor, Tensor] | None = None
        self._moments: list[tuple[Tensor, ...]] = []
        self._signals: Tensor | None = None
        self._sampled: list[Tensor] = []
        self._alternatives: list[tuple[Tensor, Tensor]] = []
        self.steps = 0

    def place(self, row: Tensor) -> Tensor:
        """A copy of raw scores that others may write into before the token is chosen, to be handed to the next `hear`."""
        found = self._raw.place(row)
        if found is None:
            self.settle()
            found = self._raw.place(row)
        assert found is not None, "an empty line has room for a step"
        self._placed = found
        return found

    def hear(self, row: Tensor, chosen: Tensor, processed: Tensor | None) -> None:
        """One step: raw scores [row, vocabulary], the token chosen from each [row], and the scores it was drawn from (or None)."""
        self.steps += 1
        if len(row) >= _ENOUGH:
            self.settle()
            self._measure(row, chosen, processed, 1)
            return
        if row is not self._placed:
            self.place(row)
        self._placed = None
        if processed is not None and self._drawn.place(processed) is not None:
            self._drawn.used += len(processed)
        self._raw.used += len(row)
        self._chosen.append(chosen)
        if self._raw.is_full(len(row)):
            self.settle()

    def settle(self) -> None:
        """Reads what waits."""
        if not self._chosen:
            return
        waiting, self._chosen = self._chosen, []
        drawn = self._drawn.take() if self._drawn.used == self._raw.used else None
        self._drawn.used = 0
        self._measure(self._raw.take(), _joined(waiting), drawn, len(waiting))

    def _measure(self, logits: Tensor, chosen: Tensor, drawn: Tensor | None, steps: int) -> None:
        """logits, drawn: [step x row, vocabulary]; chosen: [step x row]."""
        chosen, width = chosen.to(logits.device), len(logits) // steps
        moments = self._measures.token_moments(logits, chosen, self._space(logits))
        self._moments.append(moments)
        if drawn is not None:
            self._sampled.append(self._measures.sampled_surprisal(drawn, chosen).view(steps, width))
        if self._choices:
            ids, surprisal = self._measures.alternatives(logits, self._choices)
            self._alternatives.append((ids.view(steps, width, -1), surprisal.view(steps, width, -1)))

    def _space(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Scratch kept from one measurement to the next."""
        rows = self._measures.scratch_rows(logits.device.type, logits.shape[1], logits.shape[0])
        kept = self._scratch
        if kept is None or kept[0].shape[0] < rows or kept[0].shape[1] != logits.shape[1] or not writable(kept[0]):
            first, second = (torch.empty(rows, logits.shape[1], dtype=torch.float32, device=logits.device) for _ in range(2))
            kept = self._scratch = (first, second)
        return kept

    @torch.no_grad()  # as in AttentionRecorder
    def stop(self) -> None:
        """No step follows: nothing large is kept."""
        self.settle()
        self._scratch = None
        self._raw, self._drawn = _Line(), _Line()
        if self._moments:
            signals = self._measures.signals_of([torch.cat(values) for values in zip(*self._moments, strict=True)])
            self._signals = signals.view(len(TOKEN_SIGNALS), self.steps, -1)
            self._moments.clear()

    def held_bytes(self) -> int:
        """Memory of the values that are kept."""
        kept = 0 if self._signals is None else self._signals.numel()
        return 4 * (kept + sum(ids.numel() * 3 for ids, _ in self._alternatives))

    def collect(self, steps: int) -> dict[str, NDArray[Any]]:
        """Values of the first `steps` steps by name, [row, step] or [row, step, choice], on the host."""
        if self._signals is None or not steps:
            found: dict[str, NDArray[Any]] = dict.fromkeys(TOKEN_SIGNALS, np.zeros((0, 0), dtype=np.float32))
        else:
            values = self._signals[:, :steps].cpu().numpy()
            found = {name: values[i].T for i, name in enumerate(TOKEN_SIGNALS)}
            if sum(len(part) for part in self._sampled) >= steps:
                found[c.TOKEN_SAMPLED_SURPRISAL] = _host(self._sampled, 0)[:steps].T
            if self._alternatives:
                ids, surprisal = (_host([part[i] for part in self._alternatives], 0)[:steps].swapaxes(0, 1) for i in (0, 1))
                found |= {c.ALTERNATIVE_ID: ids.astype(np.uint32), c.ALTERNATIVE_SURPRISAL: surprisal}
        found[c.TOKEN_RANK] = found[c.TOKEN_RANK].astype(np.uint32)
        return found


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _host(parts: list[Tensor], axis: int) -> NDArray[Any]:
    """Parts on any device -> one array on the host."""
    return np.concatenate([part.cpu().numpy() for part in parts], axis=axis)
