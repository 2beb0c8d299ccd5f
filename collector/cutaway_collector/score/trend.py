"""Did it rise or fall as the sequence went on? The least-squares slope over position, a token. Not the last quarter less the first.

    surprisal_trend    nats a token; rising is a proxy of exposure bias that can be watched online, and only a proxy
    entropy_trend      nats a token; falling towards nothing is how a collapse announces itself
    lookback_trend     lookback ratio a token, mean over layers: how fast the model turns from the prompt to its own words
                       (the ratio: Chuang et al. 2024, arXiv 2407.07071)

Entries of a token are averaged first: the layers of one. Those that were not measured (NaN, infinite) enter no figure, a token
without any keeps its position. Below 8 measured tokens: NaN, a line through noise. CPU, CUDA and reference agree within 1e-9 of the
largest value over the length (sums are float64 about the middle position).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import float64, prange

from cutaway_collector.blocks import Block, Offsets
from cutaway_collector.score.device import (
    THREADS,
    Device,
    block_sum,
    cpu_helper,
    cpu_kernel,
    cpu_sum,
    cuda,
    cuda_helper,
    cuda_kernel,
)
from cutaway_collector.score.ragged import Floats, series, shaped, whole_numbers

TOKENS_MIN: Final = 8


def reference(values: npt.NDArray[Any], offsets: Offsets, widths: Offsets) -> Floats:
    """Values [total], offsets [n + 1], entries a token [n] -> slope [n] in units of the values a token. The readable one."""
    out = np.full(widths.size, np.nan)
    for row in range(out.size):
        table = values[offsets[row] : offsets[row + 1]].astype(np.float64)
        if not table.size:
            continue
        table = np.where(np.isfinite(table), table, np.nan).reshape(-1, widths[row])
        x = np.flatnonzero(np.isfinite(table).any(axis=1))
        if x.size >= TOKENS_MIN:
            y = np.nanmean(table[x], axis=1)
            out[row] = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    return out


def _mean_of(values: Any, first: int, width: int) -> float:
    """Mean of the measured ones among a token's entries, NaN without any."""
    total, count = 0.0, 0
    for entry in range(first, first + width):
        if math.isfinite(values[entry]):
            total += float64(values[entry])
            count += 1
    return total / count if count > 0 else math.nan


def _slope(count: float, sum_x: float, sum_y: float, sum_xy: float, sum_xx: float) -> float:
    if count < TOKENS_MIN:
        return math.nan
    return (sum_xy - sum_x * sum_y / count) / (sum_xx - sum_x * sum_x / count)


_mean_of_some_on_cpu, _slope_on_cpu = cpu_helper(_mean_of), cpu_helper(_slope)
_mean_on_cuda, _slope_on_cuda = cuda_helper(_mean_of), cuda_helper(_slope)


@cpu_sum
def _sum_on_cpu(entries: Any) -> float:
    total = 0.0
    for entry in range(entries.size):
        total += float64(entries[entry])
    return total


@cpu_helper
def _mean_on_cpu(values: Any, first: int, width: int) -> float:
    """As `_mean_of`, several entries at once; where a hole makes the sum NaN or infinite, entry by entry."""
    total = _sum_on_cpu(values[first : first + width])
    return total / width if math.isfinite(total) else _mean_of_some_on_cpu(values, first, width)


@cpu_helper
def _row(values: Any, start: int, tokens: int, width: int) -> float:
    count, sum_x, sum_y, sum_xy, sum_xx = 0, 0.0, 0.0, 0.0, 0.0
    for token in range(tokens):
        y = float64(values[start + token]) if width == 1 else _mean_on_cpu(values, start + token * width, width)
        if math.isfinite(y):
            x = token - 0.5 * (tokens - 1)  # about the middle, so that the sums stay small and nothing cancels
            count += 1
            sum_x += x
            sum_y += y
            sum_xy += x * y
            sum_xx += x * x
    return _slope_on_cpu(count, sum_x, sum_y, sum_xy, sum_xx)


@cpu_kernel
def _cpu(values: npt.NDArray[Any], offsets: Offsets, widths: Offsets, out: Floats) -> None:
    for row in prange(out.size):
        width = widths[row]
        out[row] = _row(values, offsets[row], (offsets[row + 1] - offsets[row]) // width if width > 0 else 0, width)


@cuda_kernel
def _cuda(values: Any, offsets: Any, widths: Any, out: Any) -> None:
    row, thread = cuda.blockIdx.x, cuda.threadIdx.x
    shared = cuda.shared.array(THREADS, float64)
    start, width = offsets[row], widths[row]
    tokens = (offsets[row + 1] - start) // width if width > 0 else 0
    count, sum_x, sum_y, sum_xy, sum_xx = 0.0, 0.0, 0.0, 0.0, 0.0
    for token in range(thread, tokens, THREADS):
        y = _mean_on_cuda(values, start + token * width, width)
        if math.isfinite(y):
            x = token - 0.5 * (tokens - 1)
            count += 1.0
            sum_x += x
            sum_y += y
            sum_xy += x * y
            sum_xx += x * x
    shared[thread] = count
    count = block_sum(shared, thread)
    shared[thread] = sum_x
    sum_x = block_sum(shared, thread)
    shared[thread] = sum_y
    sum_y = block_sum(shared, thread)
    shared[thread] = sum_xy
    sum_xy = block_sum(shared, thread)
    shared[thread] = sum_xx
    sum_xx = block_sum(shared, thread)
    if thread == 0:
        out[row] = _slope_on_cuda(count, sum_x, sum_y, sum_xy, sum_xx)


def on_cpu(values: npt.NDArray[Any], offsets: Offsets, widths: Offsets) -> Floats:
    """As `reference`, on all cores: a row a core."""
    out = np.empty(widths.size)
    _cpu(values, offsets, widths, out)
    return out


def on_cuda(values: npt.NDArray[Any], offsets: Offsets, widths: Offsets) -> Floats:
    """As `reference`, on the GPU: a row a block, a token a thread."""
    out = np.empty(widths.size)
    if out.size:
        out_there = cuda.device_array(out.size, np.float64)
        _cuda[out.size, THREADS](cuda.to_device(values), cuda.to_device(offsets), cuda.to_device(widths), out_there)
        out_there.copy_to_host(out)
    return out


class Trend:
    """Scorer of `surprisal_trend`, `entropy_trend` (nats a token) and `lookback_trend` (ratio a token)."""

    name = "trend"
    version = "1"
    columns = ("Surprisals", "Entropies", "AttentionLayers", "AttentionLookbacks")

    def __init__(self, device: Device) -> None:
        self._device = device

    def score(self, tokens: Block) -> Mapping[str, Floats]:
        """tokens: n rows -> the three, each [n], NaN where it does not apply."""
        one, layers = np.ones(tokens.rows, np.int64), whole_numbers(tokens, "AttentionLayers")
        found = {}
        for name, column, widths in (("surprisal_trend", "Surprisals", one), ("entropy_trend", "Entropies", one),
                                     ("lookback_trend", "AttentionLookbacks", layers)):
            values, offsets = series(tokens, column, np.float32)
            found[name] = self._device.run(on_cpu, on_cuda, values, offsets, shaped(offsets, widths))
        return found
