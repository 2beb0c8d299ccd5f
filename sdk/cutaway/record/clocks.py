"""Moments of a generation, taken where the model runs, without waiting for it.

Not a measurement of the host's own work: a mark on CUDA is when the device gets there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from cutaway.steps import Clock


class HostClock:
    """Wall time of the host, in seconds: exact where the device is the host."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def mark(self) -> float:
        """Now."""
        return time.perf_counter()

    def seconds(self, marks: Sequence[float]) -> list[float]:
        """Seconds from the start to each mark."""
        return [mark - self._start for mark in marks]


class DeviceClock:
    """CUDA events: a mark is when the device gets there, not when the host queued it, and costs no synchronisation."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._start = self.mark()

    def mark(self) -> torch.cuda.Event:
        """An event recorded in the current stream."""
        event: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        event.record(torch.cuda.current_stream(self._device))
        return event

    def seconds(self, marks: Sequence[torch.cuda.Event]) -> list[float]:
        """Waits for the last mark, then seconds from the start to each."""
        if marks:
            marks[-1].synchronize()
        return [self._start.elapsed_time(mark) / 1e3 for mark in marks]


def clock_for(device: Any) -> Clock:
    """The clock that fits where the model runs."""
    return DeviceClock(device) if getattr(device, "type", "cpu") == "cuda" else HostClock()
