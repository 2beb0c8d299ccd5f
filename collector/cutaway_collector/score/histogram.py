"""Counts between edges: sketches of a distribution that add up exactly. Not a choice of edges.

A histogram has one bin more on each side than its edges enclose, so that nothing is lost and histograms of the same edges merge by
addition: bin 0 is below the first edge, bin i holds edges[i - 1] <= v < edges[i], the last enclosed bin its upper edge too (as
numpy.histogram), and the last bin is above the last edge. Infinite values are below or above, NaN counts nowhere. Exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import prange

from cutaway_collector.blocks import Offsets
from cutaway_collector.score.device import THREADS, Device, cpu_helper, cpu_kernel, cuda, cuda_helper, cuda_kernel
from cutaway_collector.score.ragged import Floats, read_only

Counts = npt.NDArray[np.int64]


def reference(values: Floats, offsets: Offsets, edges: Floats) -> Counts:
    """Values [total], offsets [n + 1], rising edges [e] -> counts [n, e + 1]. The readable one."""
    out = np.zeros((offsets.size - 1, edges.size + 1), np.int64)
    for row in range(out.shape[0]):
        mine = values[offsets[row] : offsets[row + 1]]
        out[row, 1:-1] = np.histogram(mine[np.isfinite(mine)], edges)[0]
        out[row, 0], out[row, -1] = (mine < edges[0]).sum(), (mine > edges[-1]).sum()
    return out


def _bin(value: float, edges: Any) -> int:
    """How many edges are at or below the value, by halving."""
    low, high = 0, edges.size
    while low < high:
        middle = (low + high) // 2
        if edges[middle] <= value:
            low = middle + 1
        else:
            high = middle
    return low - 1 if value == edges[edges.size - 1] else low


_bin_on_cpu, _bin_on_cuda = cpu_helper(_bin), cuda_helper(_bin)


@cpu_kernel
def _cpu(values: Floats, offsets: Offsets, edges: Floats, out: Counts) -> None:
    for row in prange(out.shape[0]):
        for at in range(offsets[row], offsets[row + 1]):
            if values[at] == values[at]:
                out[row, _bin_on_cpu(values[at], edges)] += 1


@cuda_kernel
def _cuda(values: Any, offsets: Any, edges: Any, out: Any) -> None:
    row, thread = cuda.blockIdx.x, cuda.threadIdx.x
    for at in range(offsets[row] + thread, offsets[row + 1], THREADS):
        if values[at] == values[at]:
            cuda.atomic.add(out, (row, _bin_on_cuda(values[at], edges)), 1)


def on_cpu(values: Floats, offsets: Offsets, edges: Floats) -> Counts:
    """As `reference`, on all cores: a row a core."""
    out = np.zeros((offsets.size - 1, edges.size + 1), np.int64)
    _cpu(values, offsets, edges, out)
    return out


def on_cuda(values: Floats, offsets: Offsets, edges: Floats) -> Counts:
    """As `reference`, on the GPU: a row a block, a value a thread."""
    out = np.zeros((offsets.size - 1, edges.size + 1), np.int64)
    if values.size and out.size:
        out_there = cuda.to_device(out)
        _cuda[out.shape[0], THREADS](cuda.to_device(values), cuda.to_device(offsets), cuda.to_device(edges), out_there)
        out_there.copy_to_host(out)
    return out


def histogram(values: npt.ArrayLike, edges: npt.ArrayLike, device: Device) -> Counts:
    """Values [n] and rising edges [e], e >= 2 -> counts [e + 1]. Raises ValueError when the edges do not rise."""
    mine, fences = read_only(np.asarray(values).ravel(), np.float64), read_only(np.asarray(edges), np.float64)
    if fences.ndim != 1 or fences.size < 2 or not bool((np.diff(fences) > 0).all()):
        raise ValueError(f"edges are at least two numbers that rise, these are {fences.size}: give them sorted and each once")
    offsets = read_only(np.array([0, mine.size]), np.int64)
    counts: Counts = device.run(on_cpu, on_cuda, mine, offsets, fences)[0]
    return counts
