"""How alike are two sets of embeddings? Pairwise cosines, and RBF-MMD^2 between two windows. Holds no model and makes no embedding.

    pairwise_cosine   u . v / (|u| |v|) of every pair
    rbf               k(x, y) = exp(-|x - y|^2 / 2 s^2) of every pair
    rbf_mmd2          the unbiased estimate of MMD^2 (Gretton et al. 2012, JMLR 13, equation 3), k(x, y) = exp(-|x - y|^2 / 2 s^2)
    median_distance   the usual s: the median distance between different vectors

Matrices are row-major, a vector a row; sums are float64. A vector with a value that is not finite, and for cosines one of length 0,
has no direction: its cosines are NaN, and MMD leaves it out, as one whose length overflows. Fewer than two vectors on a side: NaN.
CPU, CUDA and reference agree within 1e-9. Memory: the cosines, or kernels, themselves; MMD works in stripes of 500 vectors.

A pair of one set is computed once, not twice: half of the products, which BLAS makes, and half of the exponentials, which are
computed while a stripe is still in the cache.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import float64, prange

from cutaway_collector.score.device import THREADS, Device, block_sum, cpu_kernel, cpu_loop, cuda, cuda_kernel
from cutaway_collector.score.ragged import Floats, read_only

STRIPE: Final = 500
"""Rows at once: few enough for the cache, and no power of two, whose columns would lie in each other's way there."""
SAMPLE: Final = 1000
"""Vectors that a median distance looks at: half a million pairs."""
_SMALLEST: Final = -708.0
"""exp of less is no normal float64; it counts as this one, 3e-308."""
_POWERS: Final = 2.0 ** np.arange(-1022, 1)
_LOG2E: Final = 1.0 / math.log(2.0)
_LN2: Final = math.log(2.0)
_TAYLOR: Final = tuple(1.0 / math.factorial(power) for power in range(12))


def reference_cosine(x: Floats, y: Floats) -> Floats:
    """[n, d], [m, d] -> cosines [n, m]. The readable one."""
    out = np.full((len(x), len(y)), np.nan)
    for row, a in enumerate(x):
        for column, b in enumerate(y):
            if a.any() and b.any():
                out[row, column] = a @ b / np.sqrt((a @ a) * (b @ b))
    return out


def reference_sums(x: Floats, y: Floats, bandwidth: float) -> Floats:
    """[n, d], [m, d] -> sums of k over the pairs within x, those within y, and those of an x and a y [3]. The readable one."""
    def kernel(a: Floats, others: Floats) -> float:
        return float(np.exp(-((others - a) ** 2).sum(axis=1) / (2 * bandwidth**2)).sum())

    within_x, within_y = (sum(kernel(a, side[row + 1:]) for row, a in enumerate(side)) for side in (x, y))
    return np.array([within_x, within_y, sum(kernel(a, y) for a in x)])


def reference_gram(x: Floats, bandwidth: float) -> Floats:
    """[n, d] -> k of every pair [n, n]. The readable one."""
    return np.array([np.exp(-((x - a) ** 2).sum(axis=1) / (2 * bandwidth**2)) for a in x]).reshape(len(x), len(x))


@cpu_loop
def _exp(x: float) -> float:
    """exp(x) of x <= 0, right to 1e-14, without a branch: 2^k exp(r), |r| <= ln(2) / 2. The one of libm keeps a loop scalar."""
    x = max(x, _SMALLEST)
    k = np.floor(x * _LOG2E + 0.5)
    r = x - k * _LN2
    total = _TAYLOR[11]
    total = _TAYLOR[10] + r * total
    total = _TAYLOR[9] + r * total
    total = _TAYLOR[8] + r * total
    total = _TAYLOR[7] + r * total
    total = _TAYLOR[6] + r * total
    total = _TAYLOR[5] + r * total
    total = _TAYLOR[4] + r * total
    total = _TAYLOR[3] + r * total
    total = _TAYLOR[2] + r * total
    total = _TAYLOR[1] + r * total
    total = _TAYLOR[0] + r * total
    return float(total * _POWERS[np.int64(k) + 1022])


@cpu_loop
def _exp_sum(products: Floats, half: float, halves: Floats, scale: float) -> float:
    """Sum of exp(-scale |x - y|^2) over products x . y of one x; halves are of |x|^2. Rounding can make a distance less than 0."""
    total = 0.0
    for column in range(products.size):
        total += _exp(min((products[column] - half - halves[column]) * (2.0 * scale), 0.0))
    return total


@cpu_kernel
def _exp_sums(products: Floats, halves_x: Floats, halves_y: Floats, scale: float, later: bool, out: Floats) -> None:
    """later: of row i the columns behind i alone."""
    for row in prange(out.size):
        first = row + 1 if later else 0
        out[row] = _exp_sum(products[row, first:], halves_x[row], halves_y[first:], scale)


@cpu_kernel
def _exp_in_place(products: Floats, halves_x: Floats, halves_y: Floats, scale: float) -> None:
    for row in prange(products.shape[0]):
        for column in range(products.shape[1]):
            products[row, column] = _exp(min((products[row, column] - halves_x[row] - halves_y[column]) * (2.0 * scale), 0.0))


@cuda_kernel
def _exp_sums_there(x: Any, y: Any, scale: float, later: bool, out: Any) -> None:
    row, thread = cuda.blockIdx.x, cuda.threadIdx.x
    shared = cuda.shared.array(THREADS, float64)
    total = 0.0
    for column in range(thread + (row + 1 if later else 0), y.shape[0], THREADS):
        distance = 0.0
        for axis in range(x.shape[1]):
            distance += (x[row, axis] - y[column, axis]) ** 2
        total += math.exp(-distance * scale)
    shared[thread] = total
    total = block_sum(shared, thread)
    if thread == 0:
        out[row] = total


@cuda_kernel
def _gram_there(x: Any, scale: float, out: Any) -> None:
    row, thread = cuda.blockIdx.x, cuda.threadIdx.x
    for column in range(row + thread, x.shape[0], THREADS):
        distance = 0.0
        for axis in range(x.shape[1]):
            distance += (x[row, axis] - x[column, axis]) ** 2
        out[row, column] = out[column, row] = math.exp(-distance * scale)


@cuda_kernel
def _products_there(x: Any, y: Any, mirrored: bool, out: Any) -> None:
    row, thread = cuda.blockIdx.x, cuda.threadIdx.x
    for column in range(thread + (row if mirrored else 0), y.shape[0], THREADS):
        total = 0.0
        for axis in range(x.shape[1]):
            total += x[row, axis] * y[column, axis]
        out[row, column] = total
        if mirrored:
            out[column, row] = total


def products_on_cpu(x: Floats, y: Floats) -> Floats:
    """[n, d], [m, d] -> x . y [n, m]: BLAS, which nothing of ours would beat. Where y is x, NumPy asks it for one half alone."""
    return x @ y.T


def products_on_cuda(x: Floats, y: Floats) -> Floats:
    """As `products_on_cpu`, on the GPU: a row of x a block."""
    out = np.zeros((len(x), len(y)))
    if out.size:
        out_there, x_there = cuda.device_array(out.shape, np.float64), cuda.to_device(x)
        y_there = x_there if y is x else cuda.to_device(y)
        _products_there[len(x), THREADS](x_there, y_there, y is x, out_there)
        out_there.copy_to_host(out)
    return out


def sums_on_cpu(x: Floats, y: Floats, bandwidth: float) -> Floats:
    """As `reference_sums`: products by BLAS, a stripe at a time, exponentials on all cores."""
    stripes = _Stripes(0.5 / bandwidth**2, max(len(x), len(y)))
    halves_x, halves_y = _halves(x), _halves(y)
    return np.array([stripes.within(x, halves_x), stripes.within(y, halves_y), stripes.across(x, y, halves_x, halves_y)])


def sums_on_cuda(x: Floats, y: Floats, bandwidth: float) -> Floats:
    """As `reference_sums`, on the GPU: a row a block, a row of the other side a thread."""
    found = np.zeros(3)
    there = [cuda.to_device(side) if len(side) else None for side in (x, y)]
    for place, (left, right, later) in enumerate(((0, 0, True), (1, 1, True), (0, 1, False))):
        a, b = there[left], there[right]
        if a is not None and b is not None:
            out = cuda.device_array(a.shape[0], np.float64)
            _exp_sums_there[a.shape[0], THREADS](a, b, 0.5 / bandwidth**2, later, out)
            found[place] = out.copy_to_host().sum()
    return found


def gram_on_cpu(x: Floats, bandwidth: float) -> Floats:
    """As `reference_gram`: a stripe of the upper half at a time, mirrored while it is in the cache."""
    out = np.empty((len(x), len(x)))
    halves, scale = _halves(x), 0.5 / bandwidth**2
    for first in range(0, len(x), STRIPE):
        rows, rest = slice(first, first + STRIPE), slice(first + STRIPE, None)
        own = x[rows] @ x[rows].T
        _exp_in_place(own, halves[rows], halves[rows], scale)
        out[rows, rows] = own
        if first + STRIPE < len(x):
            across = x[rows] @ x[rest].T
            _exp_in_place(across, halves[rows], halves[rest], scale)
            out[rows, rest], out[rest, rows] = across, across.T
    return out


def gram_on_cuda(x: Floats, bandwidth: float) -> Floats:
    """As `reference_gram`, on the GPU: a row a block."""
    out = np.zeros((len(x), len(x)))
    if out.size:
        out_there = cuda.device_array(out.shape, np.float64)
        _gram_there[len(x), THREADS](cuda.to_device(x), 0.5 / bandwidth**2, out_there)
        out_there.copy_to_host(out)
    return out


def pairwise_cosine(x: npt.ArrayLike, y: npt.ArrayLike, device: Device) -> Floats:
    """[n, d], [m, d] -> cosines [n, m], -1 to 1; where y is x itself, half of the work. Raises ValueError when they are not
    matrices of one width.
    """
    a, b = _matrices(x, y)
    units = []
    for matrix in (a,) if y is x else (a, b):
        lengths = np.sqrt((matrix * matrix).sum(axis=1))
        lengths[~(np.isfinite(lengths) & (lengths > 0))] = np.nan
        units.append(read_only(matrix / lengths[:, None], np.float64))
    cosines: Floats = np.clip(device.run(products_on_cpu, products_on_cuda, units[0], units[-1]), -1.0, 1.0)
    return cosines


def rbf(points: npt.ArrayLike, bandwidth: float, device: Device) -> Floats:
    """[n, d] -> k of every pair of rows [n, n], on the device. bandwidth: s, above 0."""
    return device.run(gram_on_cpu, gram_on_cuda, read_only(np.asarray(points, np.float64), np.float64), bandwidth)


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
    within_a, within_b, across = device.run(sums_on_cpu, sums_on_cuda, a, b, bandwidth).tolist()
    return float(2.0 * within_a / (n * (n - 1)) + 2.0 * within_b / (m * (m - 1)) - 2.0 * across / (n * m))


class _Stripes:
    """Sums of exp(-scale |x - y|^2), a stripe of rows at a time. columns: at most so many; the products of all stripes have one
    place, because fresh memory costs as much as the exponentials."""

    def __init__(self, scale: float, columns: int) -> None:
        self._scale = scale
        self._products, self._sums = np.empty(STRIPE * columns), np.empty(STRIPE)

    def within(self, rows: Floats, halves: Floats) -> float:
        """Over the pairs of different rows: in each stripe those among its rows, and those with the rows behind it."""
        total = 0.0
        for first in range(0, len(rows), STRIPE):
            own, rest = slice(first, first + STRIPE), slice(first + STRIPE, None)
            total += self._sum(rows[own], rows[own], halves[own], halves[own], later=True)
            total += self._sum(rows[own], rows[rest], halves[own], halves[rest])
        return total

    def across(self, x: Floats, y: Floats, halves_x: Floats, halves_y: Floats) -> float:
        """Over the pairs of an x and a y."""
        stripes = (slice(first, first + STRIPE) for first in range(0, len(x), STRIPE))
        return sum(self._sum(x[own], y, halves_x[own], halves_y) for own in stripes)

    def _sum(self, x: Floats, y: Floats, halves_x: Floats, halves_y: Floats, *, later: bool = False) -> float:
        if not len(y):
            return 0.0
        products = self._products[: len(x) * len(y)].reshape(len(x), len(y))
        np.matmul(x, y.T, out=products)
        out = self._sums[: len(x)]
        _exp_sums(products, halves_x, halves_y, self._scale, later, out)
        return float(out.sum())


def _halves(rows: Floats) -> Floats:
    halves: Floats = 0.5 * np.einsum("ij,ij->i", rows, rows)
    return halves


def _matrices(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Floats, Floats]:
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"embeddings are two matrices of one width, a vector a row: their shapes are {a.shape} and {b.shape}")
    return a, b


def _finite(matrix: Floats) -> Floats:
    """The rows whose squared length is a number."""
    with np.errstate(over="ignore", invalid="ignore"):
        return matrix[np.isfinite(_halves(matrix))]
