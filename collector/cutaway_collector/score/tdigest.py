"""t-digests: sketches of a distribution, small and mergeable, sharpest at the ends. Not exact in the middle: see the bound.

Dunning & Ertl 2019 (arXiv 1902.04023) with the scale function k1: sorted values are cut where (C / 2 pi) asin(2 q - 1) passes a
whole number, and each piece is kept as its mean and its weight; C = 200 makes at most 100 pieces. A piece around quantile q
holds at most about 2 pi sqrt(q (1 - q)) / C of the weight (1.6 % at the median, 0.3 % at the 99th percentile), which bounds the
error in rank; merging doubles the bound at worst. Least and largest value are kept exactly.

Values that are not finite are left out. The cuts depend on the number of values alone, so CPU, CUDA and reference cut alike and
agree within 1e-12 relative.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import prange

from cutaway_collector.blocks import Offsets
from cutaway_collector.score.device import THREADS, Device, block_sort, cpu_kernel, cuda, cuda_kernel
from cutaway_collector.score.ragged import Floats, measured, powers_of_two, read_only

COMPRESSION: Final = 200
PIECES: Final = COMPRESSION // 2


@dataclass(frozen=True, slots=True)
class TDigest:
    """means: float64 [pieces], rising; weights: float64 [pieces], above 0; least, largest: of all values, NaN for none."""

    means: Floats
    weights: Floats
    least: float
    largest: float

    def quantile(self, q: float) -> float:
        """The value below which the share q (0 to 1) lies, linear between the middles of the pieces; NaN for no value."""
        if not self.weights.size:
            return math.nan
        return float(np.interp(q * self.weights.sum(), *self._corners()))

    def cdf(self, value: float) -> float:
        """The share of values at or below `value`, the inverse of `quantile`; NaN for no value."""
        if not self.weights.size:
            return math.nan
        if value < self.least or value >= self.largest:
            return float(value >= self.largest)
        ranks, values = self._corners()
        return float(np.interp(value, values, ranks)) / float(self.weights.sum())

    def _corners(self) -> tuple[Floats, Floats]:
        ends = np.cumsum(self.weights)
        return (np.concatenate([[0.0], ends - self.weights / 2, ends[-1:]]),
                np.concatenate([[self.least], self.means, [self.largest]]))


def merge(digests: Iterable[TDigest]) -> TDigest:
    """One digest of what all of them saw, again of at most PIECES pieces."""
    parts = [digest for digest in digests if digest.weights.size]
    if not parts:
        return TDigest(np.zeros(0), np.zeros(0), math.nan, math.nan)
    means, weights = np.concatenate([part.means for part in parts]), np.concatenate([part.weights for part in parts])
    order = np.argsort(means, kind="stable")
    means, weights = means[order], weights[order]
    middles = (np.cumsum(weights) - weights / 2) / weights.sum()
    firsts = np.flatnonzero(np.diff(np.searchsorted(_QUANTILE_CUTS, middles, side="right"), prepend=-1))
    merged = np.add.reduceat(weights, firsts)
    return TDigest(np.add.reduceat(means * weights, firsts) / merged, merged,
                   min(part.least for part in parts), max(part.largest for part in parts))


_QUANTILE_CUTS: Final = np.round((np.sin(2 * np.pi / COMPRESSION * np.arange(1, PIECES) - np.pi / 2) + 1) / 2, 15)
"""Where k1 passes a whole number, between 0 and 1 [PIECES - 1]; rounded, so that the middle is 1/2."""


def _cuts(counts: Offsets) -> npt.NDArray[np.int64]:
    """Values a row [n] -> first rank of each piece, and behind the last [n, PIECES + 1]; rank i has the quantile (i + 1/2) / n."""
    cuts = np.zeros((counts.size, PIECES + 1), np.int64)
    cuts[:, 1:-1] = np.ceil(counts[:, None] * _QUANTILE_CUTS - 0.5)
    cuts[:, -1] = counts
    return cuts


def reference(values: Floats, offsets: Offsets) -> Floats:
    """Finite values [total], offsets [n + 1] -> mean of each piece [n, PIECES], NaN for an empty one. The readable one."""
    cuts = _cuts(np.diff(offsets))
    out = np.full((cuts.shape[0], PIECES), np.nan)
    for row in range(out.shape[0]):
        ordered = np.sort(values[offsets[row] : offsets[row + 1]])
        for piece in range(PIECES):
            mine = ordered[cuts[row, piece] : cuts[row, piece + 1]]
            out[row, piece] = mine.mean() if mine.size else np.nan
    return out


@cpu_kernel
def _cpu(ordered: Floats, offsets: Offsets, cuts: npt.NDArray[np.int64], out: Floats) -> None:
    for row in prange(out.shape[0]):
        for piece in range(out.shape[1]):
            total = 0.0
            for rank in range(cuts[row, piece], cuts[row, piece + 1]):
                total += ordered[offsets[row] + rank]
            count = cuts[row, piece + 1] - cuts[row, piece]
            out[row, piece] = total / count if count > 0 else math.nan


@cuda_kernel
def _cuda(values: Any, offsets: Any, rooms: Any, ordered: Any, cuts: Any, out: Any) -> None:
    row, thread = cuda.blockIdx.x, cuda.threadIdx.x
    start, count = offsets[row], offsets[row + 1] - offsets[row]
    room, size = rooms[row], rooms[row + 1] - rooms[row]
    for at in range(thread, size, THREADS):
        ordered[room + at] = values[start + at] if at < count else math.inf
    block_sort(ordered, room, size, thread)
    for piece in range(thread, out.shape[1], THREADS):
        total = 0.0
        for rank in range(cuts[row, piece], cuts[row, piece + 1]):
            total += ordered[room + rank]
        held = cuts[row, piece + 1] - cuts[row, piece]
        out[row, piece] = total / held if held > 0 else math.nan


def on_cpu(values: Floats, offsets: Offsets) -> Floats:
    """As `reference`: NumPy sorts (its vector units are hard to beat), all cores sum: a row a core."""
    cuts = _cuts(np.diff(offsets))
    ordered = np.array(values)
    for row in range(offsets.size - 1):
        ordered[offsets[row] : offsets[row + 1]].sort()
    out = np.empty((cuts.shape[0], PIECES))
    _cpu(ordered, offsets, cuts, out)
    return out


def on_cuda(values: Floats, offsets: Offsets) -> Floats:
    """As `reference`, on the GPU: a row a block. Takes at most 16 bytes of scratch a value."""
    cuts = _cuts(np.diff(offsets))
    out = np.empty((cuts.shape[0], PIECES))
    if out.size:
        rooms = powers_of_two(np.diff(offsets))
        out_there, ordered = cuda.device_array(out.shape, np.float64), cuda.device_array(int(rooms[-1]) + 1, np.float64)
        _cuda[out.shape[0], THREADS](
            cuda.to_device(values), cuda.to_device(offsets), cuda.to_device(rooms), ordered, cuda.to_device(cuts), out_there)
        out_there.copy_to_host(out)
    return out


def digests(values: npt.ArrayLike, offsets: npt.ArrayLike, device: Device) -> list[TDigest]:
    """Values [total] of many groups, offsets [n + 1] -> a digest a group."""
    kept, rows = measured(read_only(np.asarray(values).ravel(), np.float64), read_only(np.asarray(offsets), np.int64))
    means, counts = device.run(on_cpu, on_cuda, kept, rows), np.diff(_cuts(np.diff(rows)), axis=1)
    made = []
    for row in range(rows.size - 1):
        mine, some = kept[rows[row] : rows[row + 1]], counts[row] > 0
        ends = (float(mine.min()), float(mine.max())) if mine.size else (math.nan, math.nan)
        made.append(TDigest(means[row][some], counts[row][some].astype(np.float64), *ends))
    return made


def digest(values: Sequence[float] | Floats, device: Device) -> TDigest:
    """Values [n] -> their digest."""
    return digests(values, [0, len(values)], device)[0]
