"""The worst window: where in a sequence was the model least sure? Largest mean surprisal over 16 tokens in a row.

Not a mean over the sequence (perplexity is that), which a few bad lines in a long answer hardly move. The idea of judging an answer
by its least confident window is DeepConf's (Fu et al. 2025, arXiv 2508.15260); here with surprisal in nats.

Tokens that were not measured (NaN, infinite) are left out first, so a window is 16 measured tokens in a row. A shorter sequence is
one window. No measured token: NaN. Sums are float64: CPU, CUDA and reference agree within 1e-12 relative.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import float64, prange

from cutaway_collector.blocks import Block, Offsets
from cutaway_collector.score.device import THREADS, Device, block_max, cpu_kernel, cuda, cuda_kernel
from cutaway_collector.score.ragged import Floats, measured, series

WINDOW_TOKENS: Final = 16
"""About a clause: long enough that one rare name does not decide, short enough to point at a place."""


def reference(values: npt.NDArray[Any], offsets: Offsets, window: int = WINDOW_TOKENS) -> Floats:
    """Measured values [total], offsets [n + 1] -> largest window mean [n], in the unit of the values. The readable one."""
    out = np.full(offsets.size - 1, np.nan)
    for row in range(out.size):
        sequence = values[offsets[row] : offsets[row + 1]].astype(np.float64)
        sequence = sequence[np.isfinite(sequence)]
        if sequence.size:
            windows = np.lib.stride_tricks.sliding_window_view(sequence, min(window, sequence.size))
            out[row] = windows.mean(axis=1).max()
    return out


@cpu_kernel
def _cpu(values: npt.NDArray[Any], offsets: Offsets, window: int, out: Floats) -> None:
    for row in prange(out.size):
        start, stop = offsets[row], offsets[row + 1]
        width = min(window, stop - start)
        if width == 0:
            out[row] = math.nan
            continue
        total = 0.0
        for token in range(start, start + width):
            total += float64(values[token])
        largest = total
        # A running sum: float32 values in a float64 sum leave 29 bits of room, so adding and taking away does not drift.
        for token in range(start + width, stop):
            total += float64(values[token]) - float64(values[token - width])
            largest = max(largest, total)
        out[row] = largest / width


@cuda_kernel
def _cuda(values: Any, offsets: Any, window: int, out: Any) -> None:
    row, thread = cuda.blockIdx.x, cuda.threadIdx.x
    shared = cuda.shared.array(THREADS, float64)
    start, stop = offsets[row], offsets[row + 1]
    width = window if window < stop - start else stop - start  # numba 0.68 cannot compile min() and max() for CUDA
    largest = -math.inf
    for first in range(start + thread, stop - width + 1, THREADS):
        total = 0.0
        for token in range(first, first + width):
            total += float64(values[token])
        if total > largest:
            largest = total
    shared[thread] = largest
    largest = block_max(shared, thread)
    if thread == 0:
        out[row] = largest / width if width > 0 else math.nan


def on_cpu(values: npt.NDArray[Any], offsets: Offsets, window: int = WINDOW_TOKENS) -> Floats:
    """As `reference`, on all cores: a row a core."""
    out = np.empty(offsets.size - 1)
    _cpu(*measured(values, offsets), window, out)
    return out


def on_cuda(values: npt.NDArray[Any], offsets: Offsets, window: int = WINDOW_TOKENS) -> Floats:
    """As `reference`, on the GPU: a row a block, a window a thread."""
    out = np.empty(offsets.size - 1)
    if out.size:
        kept, kept_offsets = measured(values, offsets)
        out_there = cuda.device_array(out.size, np.float64)
        _cuda[out.size, THREADS](cuda.to_device(kept), cuda.to_device(kept_offsets), window, out_there)
        out_there.copy_to_host(out)
    return out


class WorstWindow:
    """Scorer of `worst_window_surprisal` (nats), from the Surprisals of a gen_ai_tokens block."""

    name = "worst_window"
    version = "1"
    columns = ("Surprisals",)

    def __init__(self, device: Device) -> None:
        self._device = device

    def score(self, tokens: Block) -> Mapping[str, Floats]:
        """tokens: n rows -> {"worst_window_surprisal": [n]}, NaN for a sequence without surprisals."""
        values, offsets = series(tokens, "Surprisals", np.float32)
        return {"worst_window_surprisal": self._device.run(on_cpu, on_cuda, values, offsets)}
