"""Quarters: did the model get worse as it went on? Mean surprisal of each quarter of a sequence, and the slope over position.

A rising surprisal is a proxy of exposure bias that can be watched online, and only a proxy: the bias itself is the excess error of
a model that reads its own words over one that reads a person's (Arora et al. 2022, arXiv 2204.01171), and needs reference text.

Token i of n belongs to quarter floor(4 i / n). Tokens that were not measured (NaN, infinite) keep their position and enter no
figure. NaN, "does not apply": all quarters below four tokens, a quarter without a measured token, the slope below two measured
tokens. The slope is the least-squares line's, in nats a token. Sums are float64 about the means: CPU, CUDA and reference agree
within 1e-9 (quarters relative, slope relative to the largest surprisal over the length).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import float64, prange

from cutaway_collector.blocks import Block, Offsets
from cutaway_collector.score.device import THREADS, Device, block_sum, cpu_kernel, cuda, cuda_kernel
from cutaway_collector.score.ragged import Floats, series

NAMES: Final = ("surprisal_q1", "surprisal_q2", "surprisal_q3", "surprisal_q4", "surprisal_slope")
QUARTERS: Final = 4
SLOPE: Final = QUARTERS
"""Row of the slope in the result, after the quarters."""


def reference(values: npt.NDArray[Any], offsets: Offsets) -> Floats:
    """Surprisals [total], offsets [n + 1] -> [5, n]: four quarter means and the slope, in the order of NAMES. The readable one."""
    out = np.full((QUARTERS + 1, offsets.size - 1), np.nan)
    for row in range(out.shape[1]):
        sequence = values[offsets[row] : offsets[row + 1]].astype(np.float64)
        position = np.arange(sequence.size)
        finite = np.isfinite(sequence)
        for quarter in range(QUARTERS if sequence.size >= QUARTERS else 0):
            mine = finite & (QUARTERS * position // sequence.size == quarter)
            if mine.any():
                out[quarter, row] = sequence[mine].mean()
        if finite.sum() >= 2:
            x, y = position[finite] - position[finite].mean(), sequence[finite]
            out[SLOPE, row] = (x * (y - y.mean())).sum() / (x * x).sum()
    return out


@cpu_kernel
def _cpu(values: npt.NDArray[Any], offsets: Offsets, out: Floats) -> None:
    for row in prange(out.shape[1]):
        start, stop = offsets[row], offsets[row + 1]
        count, sum_x, sum_y = 0, 0.0, 0.0
        for quarter in range(QUARTERS):
            # The first position of quarter k is the smallest i with 4 i >= k n.
            first = start + (quarter * (stop - start) + QUARTERS - 1) // QUARTERS
            last = start + ((quarter + 1) * (stop - start) + QUARTERS - 1) // QUARTERS
            count_here, sum_here = 0, 0.0
            for token in range(first, last):
                if math.isfinite(values[token]):
                    count_here += 1
                    sum_here += float64(values[token])
                    sum_x += float64(token - start)
            out[quarter, row] = sum_here / count_here if count_here > 0 and stop - start >= QUARTERS else math.nan
            count += count_here
            sum_y += sum_here
        if count < 2:
            out[SLOPE, row] = math.nan
            continue
        mean_x, mean_y = sum_x / count, sum_y / count
        sum_xy, sum_xx = 0.0, 0.0
        for token in range(start, stop):
            if math.isfinite(values[token]):
                x = float64(token - start) - mean_x
                sum_xy += x * (float64(values[token]) - mean_y)
                sum_xx += x * x
        out[SLOPE, row] = sum_xy / sum_xx


@cuda_kernel
def _cuda(values: Any, offsets: Any, out: Any) -> None:
    row, thread = cuda.blockIdx.x, cuda.threadIdx.x
    shared = cuda.shared.array(THREADS, float64)
    start, stop = offsets[row], offsets[row + 1]
    count, mean_x, mean_y = 0.0, 0.0, 0.0
    for quarter in range(QUARTERS):
        first = start + (quarter * (stop - start) + QUARTERS - 1) // QUARTERS
        last = start + ((quarter + 1) * (stop - start) + QUARTERS - 1) // QUARTERS
        count_mine, sum_mine, x_mine = 0.0, 0.0, 0.0
        for token in range(first + thread, last, THREADS):
            if math.isfinite(values[token]):
                count_mine += 1.0
                sum_mine += float64(values[token])
                x_mine += float64(token - start)
        shared[thread] = count_mine
        count_here = block_sum(shared, thread)
        shared[thread] = sum_mine
        sum_here = block_sum(shared, thread)
        shared[thread] = x_mine
        mean_x += block_sum(shared, thread)
        if thread == 0:
            out[quarter, row] = sum_here / count_here if count_here > 0.0 and stop - start >= QUARTERS else math.nan
        count += count_here
        mean_y += sum_here
    if count > 0.0:
        mean_x, mean_y = mean_x / count, mean_y / count
    xy_mine, xx_mine = 0.0, 0.0
    for token in range(start + thread, stop, THREADS):
        if math.isfinite(values[token]):
            x = float64(token - start) - mean_x
            xy_mine += x * (float64(values[token]) - mean_y)
            xx_mine += x * x
    shared[thread] = xy_mine
    sum_xy = block_sum(shared, thread)
    shared[thread] = xx_mine
    sum_xx = block_sum(shared, thread)
    if thread == 0:
        out[SLOPE, row] = sum_xy / sum_xx if count > 1.0 else math.nan


def on_cpu(values: npt.NDArray[Any], offsets: Offsets) -> Floats:
    """As `reference`, on all cores: a row a core."""
    out = np.empty((QUARTERS + 1, offsets.size - 1))
    _cpu(values, offsets, out)
    return out


def on_cuda(values: npt.NDArray[Any], offsets: Offsets) -> Floats:
    """As `reference`, on the GPU: a row a block, a token a thread."""
    out = np.empty((QUARTERS + 1, offsets.size - 1))
    if out.size:
        out_there = cuda.device_array(out.shape, np.float64)
        _cuda[out.shape[1], THREADS](cuda.to_device(values), cuda.to_device(offsets), out_there)
        out_there.copy_to_host(out)
    return out


class Quarters:
    """Scorer of `surprisal_q1` to `surprisal_q4` (nats) and `surprisal_slope` (nats a token), from the Surprisals."""

    name = "quarters"
    version = "1"
    columns = ("Surprisals",)

    def __init__(self, device: Device) -> None:
        self._device = device

    def score(self, tokens: Block) -> Mapping[str, Floats]:
        """tokens: n rows -> the five NAMES, each [n], NaN where it does not apply."""
        values, offsets = series(tokens, "Surprisals", np.float32)
        return dict(zip(NAMES, self._device.run(on_cpu, on_cuda, values, offsets), strict=True))
