"""How alike are two sets of embeddings? Pairwise cosines, and RBF-MMD^2 between two windows. Holds no model and makes no embedding.

    pairwise_cosine   u . v / (|u| |v|) of every pair
    rbf               k(x, y) = exp(-|x - y|^2 / 2 s^2) of every pair
    rbf_mmd2          the unbiased estimate of MMD^2 (Gretton et al. 2012, JMLR 13, equation 3), k(x, y) = exp(-|x - y|^2 / 2 s^2)
    median_distance   the usual s: the median distance between different vectors

Matrices are row-major, a vector a row; sums are float64. A vector with a value that is not finite, and for cosines one of length 0,
has no direction: its cosines are NaN, and MMD leaves it out. Fewer than two vectors on a side: NaN. CPU, CUDA and reference agree
within 1e-9. Memory: the cosines themselves; MMD works in stripes of 512 vectors.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import float64, prange

from cutaway_collector.score.device import THREADS, Device, block_sum, cpu_kernel, cuda, cuda_kernel
from cutaway_collector.score.ragged import Floats, read_only

STRIPE: Final = 512
SAMPLE: Final = 1000
"""Vectors that a median distance looks at: half a million pairs."""


def reference_cosine(x: Floats, y: Floats) -> Floats:
    """[n, d], [m, d] -> cosines [n, m]. The readable one."""
    out = np.full((len(x), len(y)), np.nan)
    for row, a in enumerate(x):
        for column, b in enumerate(y):
            if a.any() and b.any():
                out[row, column] = a @ b / np.sqrt((a @ a) * (b @ b))
    return out


def reference_sums(x: Floats, y: Floats, bandwidth: float) -> Floats:
    """[n, d], [m, d] -> sum over y of k(x_i, y) [n]. The readable one."""
    return np.array([np.exp(-((y - a) ** 2).sum(axis=1) / (2 * bandwidth**2)).sum() for a in x])


@cpu_kernel
def _exp_sums(products: Floats, squares_x: Floats, squares_y: Floats, scale: float, out: Floats) -> None:
    for row in prange(out.size):
        total = 0.0
        for column in range(squares_y.size):
            # Rounding can make the distance of a vector to itself a little less than nothing.
            total += math.exp(-max(squares_x[row] + squares_y[column] - 2.0 * products[row, column], 0.0) * scale)
        out[row] = total


@cuda_kernel
def _exp_sums_there(x: Any, y: Any, scale: float, out: Any) -> None:
    row, thread = cuda.blockIdx.x, cuda.threadIdx.x
    shared = cuda.shared.array(THREADS, float64)
    total = 0.0
    for column in range(thread, y.shape[0], THREADS):
        distance = 0.0
        for axis in range(x.shape[1]):
            distance += (x[row, axis] - y[column, axis]) ** 2
        total += math.exp(-distance * scale)
    shared[thread] = total
    total = block_sum(shared, thread)
    if thread == 0:
        out[row] = total


@cuda_kernel
def _products_there(x: Any, y: Any, out: Any) -> None:
    row, thread = cuda.blockIdx.x, cuda.threadIdx.x
    for column in range(thread, y.shape[0], THREADS):
        total = 0.0
        for axis in range(x.shape[1]):
            total += x[row, axis] * y[column, axis]
        out[row, column] = total


def products_on_cpu(x: Floats, y: Floats) -> Floats:
    """[n, d], [m, d] -> x . y [n, m]: BLAS, which nothing of ours would beat."""
    return x @ y.T


def products_on_cuda(x: Floats, y: Floats) -> Floats:
    """As `products_on_cpu`, on the GPU: a row of x a block."""
    out = np.zeros((len(x), len(y)))
    if out.size:
        out_there = cuda.device_array(out.shape, np.float64)
        _products_there[len(x), THREADS](cuda.to_device(x), cuda.to_device(y), out_there)
        out_there.copy_to_host(out)
    return out


def sums_on_cpu(x: Floats, y: Floats, bandwidth: float) -> Floats:
    """As `reference_sums`: products by BLAS, a stripe at a time, exponentials on all cores."""
    out = np.zeros(len(x))
    squares_x, squares_y = (x * x).sum(axis=1), (y * y).sum(axis=1)
    for first in range(0, len(x), STRIPE):
        stripe = slice(first, min(first + STRIPE, len(x)))
        _exp_sums(x[stripe] @ y.T, squares_x[stripe], squares_y, 0.5 / bandwidth**2, out[stripe])
    return out


def sums_on_cuda(x: Floats, y: Floats, bandwidth: float) -> Floats:
    """As `reference_sums`, on the GPU: a row of x a block, a row of y a thread."""
    out = np.zeros(len(x))
    if len(x) and len(y):
        out_there = cuda.device_array(out.size, np.float64)
        _exp_sums_there[len(x), THREADS](cuda.to_device(x), cuda.to_device(y), 0.5 / bandwidth**2, out_there)
        out_there.copy_to_host(out)
    return out


def pairwise_cosine(x: npt.ArrayLike, y: npt.ArrayLike, device: Device) -> Floats:
    """[n, d], [m, d] -> cosines [n, m], -1 to 1. Raises ValueError when they are not matrices of one width."""
    a, b = _matrices(x, y)
    units = []
    for matrix in (a, b):
        lengths = np.sqrt((matrix * matrix).sum(axis=1))
        lengths[~(np.isfinite(lengths) & (lengths > 0))] = np.nan
        units.append(read_only(matrix / lengths[:, None], np.float64))
    cosines: Floats = np.clip(device.run(products_on_cpu, products_on_cuda, *units), -1.0, 1.0)
    return cosines


def rbf(points: npt.ArrayLike, bandwidth: float, device: Device) -> Floats:
    """[n, d] -> k of every pair of rows [n, n], its products on the device. bandwidth: s, above 0."""
    rows = read_only(np.asarray(points, np.float64), np.float64)
    squares = (rows * rows).sum(axis=1)
    distances = squares[:, None] + squares - 2.0 * device.run(products_on_cpu, products_on_cuda, rows, rows)
    kernel: Floats = np.exp(-np.maximum(distances, 0.0) / (2 * bandwidth**2))
    return kernel


def median_distance(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """[n, d], [m, d] -> median distance between different vectors of both, of at most SAMPLE spread evenly; NaN below two."""
    both = np.concatenate([_finite(matrix) for matrix in _matrices(x, y)])
    both = both[np.unique(np.linspace(0, len(both) - 1, min(len(both), SAMPLE)).astype(np.int64))] if len(both) else both
    squares = (both * both).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares - 2 * both @ both.T, 0.0)[np.triu_indices(len(both), 1)]
    return float(np.sqrt(np.median(distances))) if distances.size else math.nan


def rbf_mmd2(x: npt.ArrayLike, y: npt.ArrayLike, bandwidth: float, device: Device) -> float:
    """[n, d], [m, d] -> MMD^2, about 0 (also a little below) for one distribution, at most 2. bandwidth: s, above 0.

    Raises ValueError when they are not matrices of one width, or the bandwidth is no positive number.
    """
    if not (math.isfinite(bandwidth) and bandwidth > 0):
        raise ValueError(f"a bandwidth is above 0, it is {bandwidth}: median_distance gives the usual one, 0 for equal vectors")
    a, b = (read_only(_finite(matrix), np.float64) for matrix in _matrices(x, y))
    n, m = len(a), len(b)
    if n < 2 or m < 2:
        return math.nan
    within_a, within_b, across = (
        float(device.run(sums_on_cpu, sums_on_cuda, left, right, bandwidth).sum()) for left, right in ((a, a), (b, b), (a, b)))
    return (within_a - n) / (n * (n - 1)) + (within_b - m) / (m * (m - 1)) - 2.0 * across / (n * m)


def _matrices(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Floats, Floats]:
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"embeddings are two matrices of one width, a vector a row: their shapes are {a.shape} and {b.shape}")
    return a, b


def _finite(matrix: Floats) -> Floats:
    return matrix[np.isfinite(matrix).all(axis=1)]
