"""Counts between edges: sketches of a distribution that add up exactly. Not a choice of edges.

A histogram has one bin more on each side than its edges enclose, so that nothing is lost and histograms of the same edges merge by
addition: bin 0 is below the first edge, bin i holds edges[i - 1] <= v < edges[i], the last enclosed bin its upper edge too (as
numpy.histogram), and the last bin is above the last edge. Infinite values are below or above, NaN counts nowhere. Exact.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import prange

from cutaway_collector.blocks import Offsets
from cutaway_collector.score.device import THREADS, Device, cpu_helper, cpu_kernel, cuda, cuda_helper, cuda_kernel
from cutaway_collector.score.ragged import Floats, read_only

Counts = npt.NDArray[np.int64]
CELLS_AN_EDGE: Final = 4
"""Cells that lead to the edges: more of them hold fewer edges each, and are no longer all in the nearest cache."""


def reference(values: Floats, offsets: Offsets, edges: Floats) -> Counts:
    """Values [total], offsets [n + 1], rising edges [e] -> counts [n, e + 1]. The readable one."""
    out = np.zeros((offsets.size - 1, edges.size + 1), np.int64)
    for row in range(out.shape[0]):
        mine = values[offsets[row] : offsets[row + 1]]
        out[row, 1:-1] = np.histogram(mine[np.isfinite(mine)], edges)[0]
        out[row, 0], out[row, -1] = (mine < edges[0]).sum(), (mine > edges[-1]).sum()
    return out


def _at_or_below(value: float, edges: Any, low: int, high: int) -> int:
    """How many edges are at or below the value, by halving; it is known to be from low to high."""
    while low < high:
        middle = (low + high) // 2
        if edges[middle] <= value:
            low = middle + 1
        else:
            high = middle
    return low


_at_or_below_on_cpu = cpu_helper(_at_or_below)
_at_or_below_on_cuda = cuda_helper(_at_or_below)


@cpu_helper
def _guide(edges: Any, starts: Any) -> tuple[float, bool]:
    """Divides the edges' range evenly into cells; starts [cells + 1]: the first edge of each cell.

    Gives cells a unit of value, and whether a cell holds more than one edge. A cell's number rises with the value, rounding and
    all, so the edges at or below a value are those of earlier cells and some of its own.
    """
    cells, width = starts.size - 1, edges[edges.size - 1] - edges[0]
    scale = cells / width if math.isfinite(cells / width) else 0.0
    starts[:] = 0
    crowded = False
    for edge in range(edges.size):
        place = _cell(edges[edge], edges[0], scale, cells) + 1
        starts[place] += 1
        crowded = crowded or starts[place] > 1
    for cell in range(cells):
        starts[cell + 1] += starts[cell]
    return scale, crowded


@cpu_helper
def _cell(value: float, first: float, scale: float, cells: int) -> int:
    place = (value - first) * scale
    return int(place) if place < cells else cells - 1


@cpu_helper
def _row(values: Any, start: int, stop: int, edges: Any, starts: Any, scale: float, crowded: bool, counts: Any) -> None:
    """Counts a row, as `_at_or_below` of all edges would, but from the value's cell on.

    Where no cell holds two edges, one comparison with the next edge says the rest, without a branch to guess wrong: the edge of the
    cell, or of a later one, which is above. One function for the loop and what is in it: an array handed over a value would cost
    more than the counting.
    """
    first, last, cells = edges[0], edges[edges.size - 1], starts.size - 1
    for at in range(start, stop):
        value = values[at]
        if first <= value < last:
            cell = _cell(value, first, scale, cells)
            low = starts[cell]
            counts[_at_or_below_on_cpu(value, edges, low, starts[cell + 1]) if crowded else low + (edges[low] <= value)] += 1
        elif value < first:
            counts[0] += 1
        elif value > last:
            counts[edges.size] += 1
        elif value == last:  # neither: NaN
            counts[edges.size - 1] += 1


@cpu_kernel
def _cpu(values: Floats, offsets: Offsets, edges: Floats, starts: Offsets, out: Counts) -> None:
    scale, crowded = _guide(edges, starts)
    for row in prange(out.shape[0]):
        _row(values, offsets[row], offsets[row + 1], edges, starts, scale, crowded, out[row])


@cuda_kernel
def _cuda(values: Any, offsets: Any, edges: Any, out: Any) -> None:
    row, thread = cuda.blockIdx.x, cuda.threadIdx.x
    for at in range(offsets[row] + thread, offsets[row + 1], THREADS):
        value = values[at]
        if value == value:
            last = 1 if value == edges[edges.size - 1] else 0  # the upper edge of the last enclosed bin is in it
            cuda.atomic.add(out, (row, _at_or_below_on_cuda(value, edges, 0, edges.size) - last), 1)


def on_cpu(values: Floats, offsets: Offsets, edges: Floats) -> Counts:
    """As `reference`, on all cores: a row a core."""
    out = np.zeros((offsets.size - 1, edges.size + 1), np.int64)
    _cpu(values, offsets, edges, np.empty(CELLS_AN_EDGE * edges.size + 1, np.int64), out)
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
