"""Every kernel with arguments that could go wrong and what an oracle says of them: one table for the CPU and the simulated GPU.

No test here. The oracles (score_helpers, SciPy) share no line with the kernels.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist, pdist

from cutaway_collector.score import attention, embedding, histogram, length, rauq, repetition, surprisal, tdigest, trend
from score_helpers import (
    INF,
    NAN,
    fixed,
    id_rows,
    ragged,
    rauq_oracle,
    repetition_oracle,
    share_oracle,
    surprisal_oracle,
    surprisal_rows,
    trend_oracle,
)

Kernel = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    """reference, on_cpu and on_cuda take the same arguments; expected() is the oracle's; rtol, atol: the stated tolerance."""

    name: str
    kernels: tuple[Kernel, Kernel, Kernel]
    arguments: tuple[Any, ...]
    expected: Callable[[], Any]
    rtol: float = 1e-12
    atol: float = 0.0


def _of(family: Any) -> tuple[Kernel, Kernel, Kernel]:
    return family.reference, family.on_cpu, family.on_cuda


def tables(seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Attention-like rows [token, entry] with their widths: none, one entry, holes, a column and a row of holes, long."""
    random = np.random.default_rng(seed)
    found = [random.uniform(0, 1, shape).astype(np.float32) for shape in (
        (0, 3), (1, 1), (7, 2), (8, 2), (20, 3), (130, 4), (40, 1), (9, 30), (12, 140))]
    found[4][:, 1], found[4][3] = NAN, INF
    found[5][random.uniform(size=found[5].shape) < 0.3] = NAN
    found[6] *= 0.05
    found[7][:, :20] *= 0.1
    found.append(np.full((10, 3), NAN, np.float32))
    return found, fixed(np.array([table.shape[1] if table.size else 0 for table in found], np.int64))


def _flat(found: list[np.ndarray]) -> tuple[Any, Any]:
    return ragged([table.ravel().tolist() for table in found], np.float32)


def generations(seed: int) -> tuple[list[list[float]], list[np.ndarray]]:
    """Surprisals and last-key weights [token, layer, head]: one token, one layer, holes, a head never measured."""
    random = np.random.default_rng(seed)
    shapes = ((1, 3, 2), (2, 1, 1), (9, 6, 3), (30, 5, 4), (40, 30, 2), (12, 4, 2), (5, 3, 2), (6, 3, 1), (4, 3, 2))
    weights = [random.beta(0.5, 1.0, shape).astype(np.float16).astype(np.float32) for shape in shapes]
    surprisals = [random.exponential(1.5, shape[0]).astype(np.float32).tolist() for shape in shapes]
    weights[2][4, 3, 0] = NAN
    weights[5][:, :, 1] = NAN
    weights[7][3] = NAN
    surprisals[6][2] = NAN
    surprisals[8][1] = INF
    surprisals[3][5] = 300.0
    return surprisals, weights


def _rauq() -> Case:
    surprisals, weights = generations(5)
    layers, heads = (fixed(np.array([table.shape[axis] for table in weights], np.int64)) for axis in (1, 2))

    def expected() -> list[float]:
        return [rauq_oracle(row, table) for row, table in zip(surprisals, weights, strict=True)]

    return Case("rauq", _of(rauq), (*ragged(surprisals, np.float32), *_flat(weights), layers, heads), expected, 1e-9)


def _length() -> Case:
    random = np.random.default_rng(6)
    groups = [0, 0, 40, 42, 45, 200]
    lengths = random.integers(1, 900, 200).astype(np.float64)
    figures = 3 + 0.01 * lengths + random.normal(size=200)
    lengths[42:45] = 7.0
    figures[[3, 60]], lengths[70] = NAN, INF

    def expected() -> Any:
        out = np.full(200, NAN)
        for first, last in pairwise(groups):
            good = [i for i in range(first, last) if math.isfinite(figures[i]) and math.isfinite(lengths[i])]
            if len(good) >= 3:
                flat = len({lengths[i] for i in good}) == 1
                line = [0.0, figures[good].mean()] if flat else np.polyfit(lengths[good], figures[good], 1)
                out[good] = figures[good] - np.polyval(line, lengths[good])
        return out

    return Case("length", _of(length), (fixed(figures), fixed(lengths), fixed(np.array(groups))), expected, 1e-9, 1e-9)


def _histogram() -> Case:
    random = np.random.default_rng(7)
    edges = [-1.5, -1.0, 0.0, 0.25, 2.0]
    rows = [[], random.normal(size=300).tolist(), [-INF, INF, NAN, *edges, -0.0, 5e-324], [NAN]]

    def expected() -> Any:
        out = np.zeros((len(rows), len(edges) + 1), np.int64)
        for row, counts in zip(rows, out, strict=True):
            for value in row:
                if value == value:
                    counts[bisect_left(edges, value) if value == edges[-1] else bisect_right(edges, value)] += 1
        return out

    return Case("histogram", _of(histogram), (*ragged(rows, np.float64), fixed(np.array(edges))), expected, 0.0)


def _tdigest() -> Case:
    random = np.random.default_rng(8)
    rows = [[], [4.0], random.normal(size=300).tolist(), [1.0] * 50, random.exponential(size=400).tolist()]

    def expected() -> Any:
        out = np.full((len(rows), 100), NAN)
        for row, means in zip(rows, out, strict=True):
            pieces: dict[int, list[float]] = {}
            for rank, value in enumerate(sorted(row)):
                scale = 200 / (2 * math.pi) * math.asin(2 * (rank + 0.5) / len(row) - 1) + 50
                pieces.setdefault(math.floor(scale), []).append(value)
            for piece, held in pieces.items():
                means[piece] = math.fsum(held) / len(held)
        return out

    return Case("tdigest", _of(tdigest), ragged(rows, np.float64), expected)


def _embeddings(longest: int) -> Iterator[Case]:
    """With long rows more vectors than a stripe holds, and not a multiple of it."""
    random = np.random.default_rng(9)
    many, fewer = (longest, longest - 43) if longest > embedding.STRIPE else (37, 29)
    x, y = fixed(random.normal(size=(many, 16))), fixed(random.normal(0.5, 2.0, size=(fewer, 16)))
    units = [fixed(matrix / np.linalg.norm(matrix, axis=1, keepdims=True)) for matrix in (x[:37], y[:29])]
    yield Case("cosine", (embedding.reference_cosine, embedding.products_on_cpu, embedding.products_on_cuda), tuple(units),
               lambda: 1 - cdist(x[:37], y[:29], "cosine"), 1e-9, 1e-12)
    yield Case("cosine_of_one_set", (embedding.reference_cosine, embedding.products_on_cpu, embedding.products_on_cuda),
               (units[0], units[0]), lambda: 1 - cdist(x[:37], x[:37], "cosine"), 1e-9, 1e-12)
    sums = (embedding.reference_sums, embedding.sums_on_cpu, embedding.sums_on_cuda)
    for name, left, right in (("kernel_sums", x, y), ("kernel_sums_of_few", x[:1], y[:0])):
        yield Case(name, sums, (left, right, 3.0), lambda left=left, right=right: [
            np.exp(-distances / 18).sum() for distances in (
                pdist(left, "sqeuclidean"), pdist(right, "sqeuclidean") if len(right) else np.zeros(0),
                cdist(left, right, "sqeuclidean"))], 1e-9)
    # So far apart that the kernel is next to nothing, and beyond what an exponential can say: 0, not a number that wrapped around.
    for name, bandwidth in (("gram", 3.0), ("gram_of_far_ones", 0.02)):
        yield Case(name, (embedding.reference_gram, embedding.gram_on_cpu, embedding.gram_on_cuda), (x, bandwidth),
                   lambda bandwidth=bandwidth: np.exp(-cdist(x, x, "sqeuclidean") / (2 * bandwidth**2)), 1e-9, 1e-300)


def cases(longest: int = 600) -> dict[str, Case]:
    """Name -> case; longest: tokens of the longest row."""
    surprisals, ids = surprisal_rows(11, longest), id_rows(11, longest)
    layered, widths = tables(3)
    shapes = (*_flat(layered), widths)
    made = [
        Case("surprisal", _of(surprisal), ragged(surprisals, np.float32),
             lambda: np.transpose([surprisal_oracle(row) for row in surprisals]), 1e-12, 1e-12),
        Case("repetition", _of(repetition), ragged(ids, np.uint32), lambda: np.transpose([repetition_oracle(row) for row in ids]),
             0.0, 2**-53),
        Case("trend", _of(trend), shapes, lambda: [trend_oracle(table.tolist()) for table in layered], 1e-9, 1e-12),
        Case("collapsed", _of(attention), (*shapes, 0.05, False),
             lambda: [share_oracle(table.tolist(), lambda mean: mean < 0.05) for table in layered], 0.0),
        Case("sinks", _of(attention), (*shapes, 0.3, True),
             lambda: [share_oracle(table.tolist(), lambda mean: mean > 0.3) for table in layered], 0.0),
        _rauq(), _length(), _histogram(), _tdigest(), *_embeddings(longest),
    ]
    return {case.name: case for case in made}
