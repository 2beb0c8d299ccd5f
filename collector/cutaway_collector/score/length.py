"""What is left of an uncertainty once the length of the answer is taken out of it. For windows of many sequences, not for one.

Long answers are uncertain because they are long, even by figures that are means a token. LINE (2025, arXiv 2505.19060) regresses
the figure on the length over a group (a model, a route) and keeps the residual:

    u_i - (a + b n_i)        a, b: least squares over the group's sequences

A figure or length that is not finite stays out of the fit and gets NaN; so does a whole group with fewer than 3 figures. A group
whose lengths are all equal has b = 0. CPU, CUDA and reference agree within 1e-9 of the largest figure.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import float64, prange

from cutaway_collector.blocks import Offsets
from cutaway_collector.score.device import THREADS, Device, block_sum, cpu_helper, cpu_kernel, cuda, cuda_helper, cuda_kernel
from cutaway_collector.score.ragged import Floats, read_only

FIGURES_MIN: Final = 3
"""A line goes through any two."""


def reference(figures: Floats, lengths: Floats, offsets: Offsets) -> Floats:
    """Uncertainties and lengths [total], offsets of the groups [n + 1] -> residuals [total], in their unit. The readable one."""
    out = np.full(figures.size, np.nan)
    for group in range(offsets.size - 1):
        mine = np.arange(offsets[group], offsets[group + 1])
        mine = mine[np.isfinite(figures[mine]) & np.isfinite(lengths[mine])]
        if mine.size >= FIGURES_MIN:
            x, y = lengths[mine] - lengths[mine].mean(), figures[mine] - figures[mine].mean()
            out[mine] = y - x * ((x * y).sum() / (x * x).sum() if (x * x).sum() > 0 else 0.0)
    return out


def _residual(y: float, x: float, count: float, mean_x: float, mean_y: float, sum_xx: float, sum_xy: float) -> float:
    if count < FIGURES_MIN or not (math.isfinite(x) and math.isfinite(y)):
        return math.nan
    return y - mean_y - (x - mean_x) * (sum_xy / sum_xx if sum_xx > 0.0 else 0.0)


_residual_on_cpu, _residual_on_cuda = cpu_helper(_residual), cuda_helper(_residual)


@cpu_helper
def _group(figures: Any, lengths: Any, start: int, stop: int, out: Any) -> None:
    count, mean_x, mean_y, sum_xx, sum_xy = 0.0, 0.0, 0.0, 0.0, 0.0
    for at in range(start, stop):
        if math.isfinite(figures[at]) and math.isfinite(lengths[at]):
            # Welford's step: the means move along, so that the sums about them never cancel.
            count += 1.0
            step = lengths[at] - mean_x
            mean_x += step / count
            sum_xx += step * (lengths[at] - mean_x)
            mean_y += (figures[at] - mean_y) / count
            sum_xy += step * (figures[at] - mean_y)
    for at in range(start, stop):
        out[at] = _residual_on_cpu(figures[at], lengths[at], count, mean_x, mean_y, sum_xx, sum_xy)


@cpu_kernel
def _cpu(figures: Floats, lengths: Floats, offsets: Offsets, out: Floats) -> None:
    for group in prange(offsets.size - 1):
        _group(figures, lengths, offsets[group], offsets[group + 1], out)


@cuda_kernel
def _cuda(figures: Any, lengths: Any, offsets: Any, out: Any) -> None:
    group, thread = cuda.blockIdx.x, cuda.threadIdx.x
    shared = cuda.shared.array(THREADS, float64)
    count, sum_x, sum_y, sum_xx, sum_xy = 0.0, 0.0, 0.0, 0.0, 0.0
    for at in range(offsets[group] + thread, offsets[group + 1], THREADS):
        if math.isfinite(figures[at]) and math.isfinite(lengths[at]):
            count += 1.0
            sum_x += lengths[at]
            sum_y += figures[at]
    shared[thread] = count
    count = block_sum(shared, thread)
    shared[thread] = sum_x
    sum_x = block_sum(shared, thread)
    shared[thread] = sum_y
    sum_y = block_sum(shared, thread)
    mean_x, mean_y = sum_x / count if count > 0.0 else 0.0, sum_y / count if count > 0.0 else 0.0
    for at in range(offsets[group] + thread, offsets[group + 1], THREADS):
        if math.isfinite(figures[at]) and math.isfinite(lengths[at]):
            sum_xx += (lengths[at] - mean_x) ** 2
            sum_xy += (lengths[at] - mean_x) * (figures[at] - mean_y)
    shared[thread] = sum_xx
    sum_xx = block_sum(shared, thread)
    shared[thread] = sum_xy
    sum_xy = block_sum(shared, thread)
    for at in range(offsets[group] + thread, offsets[group + 1], THREADS):
        out[at] = _residual_on_cuda(figures[at], lengths[at], count, mean_x, mean_y, sum_xx, sum_xy)


def on_cpu(figures: Floats, lengths: Floats, offsets: Offsets) -> Floats:
    """As `reference`, on all cores: a group a core."""
    out = np.full(figures.size, np.nan)
    _cpu(figures, lengths, offsets, out)
    return out


def on_cuda(figures: Floats, lengths: Floats, offsets: Offsets) -> Floats:
    """As `reference`, on the GPU: a group a block, a figure a thread."""
    out = np.full(figures.size, np.nan)
    if offsets.size > 1 and out.size:
        out_there = cuda.to_device(out)
        _cuda[offsets.size - 1, THREADS](cuda.to_device(figures), cuda.to_device(lengths), cuda.to_device(offsets), out_there)
        out_there.copy_to_host(out)
    return out


def length_adjusted(figures: npt.ArrayLike, lengths: npt.ArrayLike, offsets: npt.ArrayLike, device: Device) -> Floats:
    """Uncertainties [total] and their sequences' tokens [total], offsets of the groups [n + 1] -> residuals [total].

    Raises ValueError when the three do not fit one another.
    """
    y, x, groups = (read_only(np.asarray(values), dtype) for values, dtype in (
        (figures, np.float64), (lengths, np.float64), (offsets, np.int64)))
    falls = groups.size < 1 or groups[0] < 0 or groups[-1] > y.size or bool((np.diff(groups) < 0).any())
    if y.ndim != 1 or y.shape != x.shape or falls:
        raise ValueError(f"there is one length a figure and the groups' offsets rise within them: {y.size} figures, {x.size} "
                         f"lengths, offsets of {groups.size - 1} groups")
    return device.run(on_cpu, on_cuda, y, x, groups)
