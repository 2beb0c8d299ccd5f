"""Keeps the rows of scores until their tokens are chosen, reads them once, and copies the values once at the end.

Not the formulas (measure/) and not the choice: what is heard here was chosen by the loop.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cutaway import conventions as c
from cutaway.steps import TOKEN_SIGNALS, Measures

ROWS_MAX: Final = 16
"""Rows of scores that share a measurement: the model has emptied the caches between two tokens, so an operation costs more to start
than to run on one row. More rows win little."""

_BYTES_MAX: Final = {"cpu": 4 * 1024 * 1024}
_BYTES_MAX_ELSEWHERE: Final = 64 * 1024 * 1024
"""Logits that wait. On a CPU they should still be in its cache when they are read."""


class TokenRecorder:
    """Signals of every row of every step, in order. `choices`: alternatives to keep a token."""

    def __init__(self, measures: Measures, choices: int) -> None:
        self._measures = measures
        self._choices = choices
        self._rows: list[Tensor] = []
        self._chosen: list[Tensor] = []
        self._processed: list[Tensor] = []
        self._scratch: tuple[Tensor, Tensor] | None = None
        self._moments: list[Tensor] = []
        self._signals: Tensor | None = None
        self._sampled: list[Tensor] = []
        self._alternatives: list[tuple[Tensor, Tensor]] = []
        self.steps = 0

    def hear(self, row: Tensor, chosen: Tensor, processed: Tensor | None) -> None:
        """One step: raw scores [row, vocabulary], the token chosen from each [row], and the scores it was drawn from (or None)."""
        self.steps += 1
        self._rows.append(row)
        self._chosen.append(chosen)
        if processed is not None:
            self._processed.append(processed)
        waiting = len(self._rows)
        full = waiting * row.numel() * 4 >= _BYTES_MAX.get(row.device.type, _BYTES_MAX_ELSEWHERE)
        if full or waiting * row.shape[0] >= ROWS_MAX:
            self.settle()

    def settle(self) -> None:
        """Reads what waits."""
        if not self._rows:
            return
        steps, width = len(self._rows), self._rows[0].shape[0]
        logits = _joined(self._rows)
        chosen = _joined(self._chosen).to(logits.device)
        moments = self._measures.token_moments(logits, chosen, self._space(logits))
        self._moments.append(moments.view(len(moments), steps, width))
        if len(self._processed) == steps:
            self._sampled.append(self._measures.sampled_surprisal(_joined(self._processed), chosen).view(steps, width))
        if self._choices:
            ids, surprisal = self._measures.alternatives(logits, self._choices)
            self._alternatives.append((ids.view(steps, width, -1), surprisal.view(steps, width, -1)))
        self._rows, self._chosen, self._processed = [], [], []

    def _space(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Scratch kept from one measurement to the next."""
        rows = self._measures.scratch_rows(logits.device.type, logits.shape[1], logits.shape[0])
        kept = self._scratch
        if kept is None or kept[0].shape[0] < rows or kept[0].shape[1] != logits.shape[1]:
            first, second = (torch.empty(rows, logits.shape[1], dtype=torch.float32, device=logits.device) for _ in range(2))
            kept = self._scratch = (first, second)
        return kept

    @torch.no_grad()  # as in AttentionRecorder
    def stop(self) -> None:
        """No step follows: nothing large is kept."""
        self.settle()
        self._scratch = None
        if self._moments:
            self._signals = self._measures.signals_of(torch.cat(self._moments, dim=1))
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
