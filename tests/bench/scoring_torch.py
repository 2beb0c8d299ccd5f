"""What one would write without kernels: each family of scores in torch, rows padded to the longest, vectorised over the batch.

The baseline of suite `scoring`, whose figures are compared with the kernels' before anything is timed. Token by token where the
figure itself is a recurrence (RAUQ).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cutaway_collector.score import rauq as kernels
from cutaway_collector.score import tdigest as digest

Array = npt.NDArray[Any]


def padded(values: Array, offsets: Array, dtype: torch.dtype = torch.float64, width: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Ragged rows -> (values [n, longest] or [n, longest, width], whether a place holds one [n, longest]); the rest is 0."""
    lengths = torch.from_numpy(np.diff(offsets)) // width
    inside = torch.arange(int(lengths.max())) < lengths[:, None]
    table = torch.zeros((*inside.shape, width), dtype=dtype)
    table[inside] = torch.from_numpy(np.array(values)).to(dtype).reshape(-1, width)
    return (table.squeeze(-1) if width == 1 else table), inside


def surprisal(values: Array, offsets: Array) -> Array:
    """Perplexity, quantiles, worst window, bursts, quarters and slope."""
    table, inside = padded(values, offsets)
    lengths = inside.sum(1)
    total = table.sum(1)
    holed = torch.where(inside, table, torch.nan)
    sums = torch.nn.functional.pad(table.cumsum(1), (1, 0))
    windows = (sums[:, 16:] - sums[:, :-16]) / 16
    windows = torch.where(inside[:, 15:], windows, -torch.inf)
    high = torch.nn.functional.pad((table > 5) & inside, (1, 0))
    bursts = (~high[:, :-3] & high[:, 1:-2] & high[:, 2:-1] & high[:, 3:]).sum(1)
    firsts = -(-torch.arange(5) * lengths[:, None] // 4)
    quarters = sums.gather(1, firsts).diff(dim=1) / firsts.diff(dim=1)
    return np.asarray(torch.stack([
        (total / lengths).exp(), total / ((5 + lengths) / 6) ** 0.6,
        *torch.nanquantile(holed, torch.tensor([0.5, 0.9, 0.99], dtype=torch.float64), dim=1), windows.max(1).values,
        bursts.double(), *quarters.T, quarters[:, 3] - quarters[:, 0],
    ]))


def repetition(ids: Array, offsets: Array) -> Array:
    """Distinct-1, distinct-2, seq-rep-4 by sorting, and the loop's period by trying them all."""
    table, inside = padded(ids.astype(np.int64), offsets, torch.int64)
    lengths = inside.sum(1)
    figures = []
    names = torch.where(inside, table, -1)
    for gap in (0, 1, 2):
        keys = names if gap == 0 else (names[:, :-gap] << 32) | names[:, gap:]
        there = inside[:, 2 * gap - 1 :] if gap else inside
        keys = torch.where(there, keys[:, : there.shape[1]], -1)
        ordered, order = keys.sort(1)
        fresh = torch.nn.functional.pad(ordered[:, 1:] != ordered[:, :-1], (1, 0), value=True)
        figures.append((fresh & (ordered >= 0)).sum(1).double() / there.sum(1))
        names = torch.zeros_like(order).scatter(1, order, fresh.cumsum(1))
    places = (lengths[:, None] - 1 - torch.arange(table.shape[1])).clamp(min=0)
    backwards = table.gather(1, places)
    period = torch.zeros_like(lengths)
    for r in range(int(lengths.max()) // 3, 0, -1):
        loops = (lengths >= 3 * r) & (backwards[:, : 2 * r] == backwards[:, r : 3 * r]).all(1)
        period = torch.where(loops, r, period)
    return np.asarray(torch.stack([figures[0], figures[1], 1.0 - figures[2], period.double()]))


def trend(values: Array, offsets: Array, widths: Array) -> Array:
    """Slope over position, of the mean of a token's entries."""
    table, inside = padded(values, offsets, width=int(widths[0]))
    table = table if table.ndim == 2 else table.mean(2)
    lengths = inside.sum(1)
    x = torch.where(inside, torch.arange(table.shape[1]) - 0.5 * (lengths[:, None] - 1), 0.0)
    return np.asarray((x * table).sum(1) / (x * x).sum(1))


def attention(values: Array, offsets: Array, widths: Array, threshold: float, above: bool) -> Array:
    """Share of heads whose mean lies beyond the threshold."""
    table, inside = padded(values, offsets, width=int(widths[0]))
    means = table.sum(1) / inside.sum(1)[:, None]
    return np.asarray((means > threshold if above else means < threshold).double().mean(1))


def rauq(surprisals: Array, offsets: Array, keys: Array, key_offsets: Array, layers: Array, heads: Array) -> Array:
    """All rows and layers at once, a token after the other."""
    depth, each = int(layers[0]), int(heads[0])
    own, inside = padded(surprisals, offsets)
    own = (-own).exp()
    weights, _ = padded(keys, key_offsets, width=depth * each)
    weights = weights.unflatten(2, (depth, each))[:, :, kernels._first(depth) : kernels._behind(depth)]
    best = weights[:, 1:].sum(1).argmax(2)
    leaned = weights.gather(3, best[:, None, :, None].expand(-1, weights.shape[1], -1, 1)).squeeze(3)
    confidence = own[:, :1].expand(-1, leaned.shape[2])
    logs = confidence.log()
    for token in range(1, own.shape[1]):
        confidence = kernels.ALPHA * own[:, token, None] + (1 - kernels.ALPHA) * leaned[:, token] * confidence
        logs = logs + torch.where(inside[:, token, None], confidence.log(), 0.0)
    return np.asarray((-logs / inside.sum(1)[:, None]).max(1).values)


def length(figures: Array, lengths: Array, offsets: Array) -> Array:
    """Residuals of figures after a line over lengths, a group a row."""
    (y, inside), (x, _) = padded(figures, offsets), padded(lengths, offsets)
    count = inside.sum(1, keepdim=True)
    x, y = (torch.where(inside, side - side.sum(1, keepdim=True) / count, 0.0) for side in (x, y))
    return np.asarray((y - x * (x * y).sum(1, keepdim=True) / (x * x).sum(1, keepdim=True))[inside])


def histogram(values: Array, offsets: Array, edges: Array) -> Array:
    """Counts between edges, those outside too; no value equals the last edge."""
    rows, bins = offsets.size - 1, edges.size + 1
    row = torch.repeat_interleave(torch.arange(rows), torch.from_numpy(np.diff(offsets)))
    found = torch.bucketize(torch.tensor(values), torch.from_numpy(edges), right=True)
    return np.asarray(torch.bincount(row * bins + found, minlength=rows * bins).reshape(rows, bins))


def tdigest(values: Array, offsets: Array) -> Array:
    """Means of the pieces: sorted rows, differences of running sums."""
    table, inside = padded(values, offsets)
    ordered = torch.where(inside, table, torch.inf).sort(1).values
    sums = torch.nn.functional.pad(torch.where(inside, ordered, 0.0).cumsum(1), (1, 0))
    cuts = torch.from_numpy(digest._cuts(np.diff(offsets)))
    held = cuts.diff(dim=1)
    return np.asarray(torch.where(held > 0, sums.gather(1, cuts).diff(dim=1) / held, torch.nan))


def cosine(x: Array, y: Array) -> Array:
    """Of vectors of length 1."""
    return np.asarray(torch.from_numpy(x) @ torch.from_numpy(y).T)


def mean_cosine(x: Array) -> Array:
    """Over all pairs of different vectors of length 1."""
    a = torch.from_numpy(x)
    return np.asarray(((a @ a.T).sum() - len(x)) / (len(x) * (len(x) - 1)))


def sums(x: Array, y: Array, bandwidth: float) -> Array:
    """Sums of the Gaussian kernel over the pairs within x, within y, and across."""
    a, b = torch.from_numpy(x), torch.from_numpy(y)

    def kernel(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        squares = ((left * left).sum(1)[:, None] + (right * right).sum(1) - 2 * left @ right.T).clamp(min=0)
        return (-squares / (2 * math.pow(bandwidth, 2))).exp().sum()

    return np.asarray(torch.stack([(kernel(a, a) - len(x)) / 2, (kernel(b, b) - len(y)) / 2, kernel(a, b)]))
