"""Which attention stopped working? Shares of heads, or of layers where heads were not recorded. Not a judgement of single tokens.

    attention_collapsed_share   share whose mean normalised entropy is below 0.05: they look at one key, whatever they read. As
                                an event of training, collapse is Zhai et al. 2023 (arXiv 2303.06296); at inference it describes
    attention_sink_share        share whose mean weight of the first key is above 0.3, the sink rate of Gu et al. 2024
                                (arXiv 2410.10781)

A head's mean is over the sequence's tokens; entries that were not measured (NaN, infinite) are left out, and a head without any
does not count. Nothing recorded: NaN. Means are float64 and the counts exact: CPU, CUDA and reference agree to the last bit but
for a mean within 1e-12 of its threshold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import float64, prange

from cutaway_collector.blocks import Block, Offsets
from cutaway_collector.score.device import THREADS, Device, block_sum, cpu_helper, cpu_kernel, cuda, cuda_helper, cuda_kernel
from cutaway_collector.score.ragged import Floats, series, shaped, whole_numbers

COLLAPSED_BELOW: Final = 0.05
"""Ours: a head that spreads over two of a hundred keys has 0.15, one that gives 99 % to a single one of a hundred 0.02."""
SINK_ABOVE: Final = 0.3
"""The paper's epsilon."""


def reference(values: npt.NDArray[Any], offsets: Offsets, widths: Offsets, threshold: float, above: bool) -> Floats:
    """Values [total] of [token, head] a row, offsets [n + 1], heads [n] -> share [n] of heads beyond the threshold."""
    out = np.full(widths.size, np.nan)
    for row in range(out.size):
        table = values[offsets[row] : offsets[row + 1]].astype(np.float64)
        if not table.size:
            continue
        table = np.where(np.isfinite(table), table, np.nan).reshape(-1, widths[row])
        measured = table[:, np.isfinite(table).any(axis=0)]
        if measured.size:
            means = np.nanmean(measured, axis=0)
            out[row] = np.mean(means > threshold if above else means < threshold)
    return out


def _mean_down(values: Any, start: int, tokens: int, width: int, head: int) -> float:
    """Mean over the tokens of one head, NaN without a measured one."""
    total, count = 0.0, 0
    for token in range(tokens):
        value = values[start + token * width + head]
        if math.isfinite(value):
            total += float64(value)
            count += 1
    return total / count if count > 0 else math.nan


_mean_on_cpu, _mean_on_cuda = cpu_helper(_mean_down), cuda_helper(_mean_down)


@cpu_helper
def _share(values: Any, start: int, tokens: int, width: int, sums: Any, threshold: float, above: bool) -> float:
    """sums: float64 [width], scratch. Token by token, as the values lie; a head with holes is looked at again by itself."""
    sums[:] = 0.0
    for token in range(tokens):
        first = start + token * width
        # Cut out, whose index cannot be negative: the compiler then adds several heads at once.
        row = values[first : first + width]
        for head in range(row.size):
            sums[head] += float64(row[head])
    beyond, heads = 0, 0
    for head in range(width):
        mean = sums[head] / tokens if math.isfinite(sums[head]) else _mean_on_cpu(values, start, tokens, width, head)
        heads += math.isfinite(mean)
        beyond += mean > threshold if above else mean < threshold
    return beyond / heads if heads > 0 else math.nan


@cpu_kernel
def _cpu(
    values: npt.NDArray[Any], offsets: Offsets, widths: Offsets, rooms: Offsets, sums: Floats, threshold: float, above: bool,
    out: Floats,
) -> None:
    for row in prange(out.size):
        tokens = (offsets[row + 1] - offsets[row]) // widths[row] if widths[row] > 0 else 0
        scratch = sums[rooms[row] : rooms[row + 1]]
        out[row] = _share(values, offsets[row], tokens, widths[row], scratch, threshold, above) if tokens > 0 else math.nan


@cuda_kernel
def _cuda(values: Any, offsets: Any, widths: Any, threshold: float, above: bool, out: Any) -> None:
    row, thread = cuda.blockIdx.x, cuda.threadIdx.x
    shared = cuda.shared.array(THREADS, float64)
    start, width = offsets[row], widths[row]
    tokens = (offsets[row + 1] - start) // width if width > 0 else 0
    beyond, heads = 0.0, 0.0
    for head in range(thread, width, THREADS):
        mean = _mean_on_cuda(values, start, tokens, width, head)
        if math.isfinite(mean):
            heads += 1.0
            if (above and mean > threshold) or (not above and mean < threshold):
                beyond += 1.0
    shared[thread] = beyond
    beyond = block_sum(shared, thread)
    shared[thread] = heads
    heads = block_sum(shared, thread)
    if thread == 0:
        out[row] = beyond / heads if heads > 0.0 else math.nan


def on_cpu(values: npt.NDArray[Any], offsets: Offsets, widths: Offsets, threshold: float, above: bool) -> Floats:
    """As `reference`, on all cores: a row a core. Takes 8 bytes of scratch a head and row."""
    out = np.empty(widths.size)
    rooms = np.concatenate([np.zeros(1, np.int64), np.cumsum(widths)])
    _cpu(values, offsets, widths, rooms, np.empty(int(rooms[-1])), threshold, above, out)
    return out


def on_cuda(values: npt.NDArray[Any], offsets: Offsets, widths: Offsets, threshold: float, above: bool) -> Floats:
    """As `reference`, on the GPU: a row a block, a head a thread."""
    out = np.empty(widths.size)
    if out.size:
        out_there = cuda.device_array(out.size, np.float64)
        _cuda[out.size, THREADS](
            cuda.to_device(values), cuda.to_device(offsets), cuda.to_device(widths), threshold, above, out_there)
        out_there.copy_to_host(out)
    return out


class Attention:
    """Scorer of `attention_collapsed_share` and `attention_sink_share` (0 to 1)."""

    name = "attention"
    version = "1"
    columns = ("AttentionLayers", "AttentionHeads", "AttentionNormalizedEntropies", "AttentionNormalizedEntropyHeads",
               "AttentionSinks", "AttentionSinkHeads")

    def __init__(self, device: Device) -> None:
        self._device = device

    def score(self, tokens: Block) -> Mapping[str, Floats]:
        """tokens: n rows -> the two, each [n]; of heads where the row has them, of layers (means over heads) where not."""
        layers = whole_numbers(tokens, "AttentionLayers")
        heads = layers * whole_numbers(tokens, "AttentionHeads")
        found = {}
        for name, of_heads, of_layers, threshold, above in (
            ("attention_collapsed_share", "AttentionNormalizedEntropyHeads", "AttentionNormalizedEntropies", COLLAPSED_BELOW,
             False),
            ("attention_sink_share", "AttentionSinkHeads", "AttentionSinks", SINK_ABOVE, True),
        ):
            shares = []
            for which, widths in ((of_heads, heads), (of_layers, layers)):
                values, offsets = series(tokens, which, np.float32)
                shares.append(self._device.run(on_cpu, on_cuda, values, offsets, shaped(offsets, widths), threshold, above))
            found[name] = np.where(np.isnan(shares[0]), shares[1], shares[0])
        return found
