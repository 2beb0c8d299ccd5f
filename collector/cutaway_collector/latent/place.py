"""Vectors to a plane and back to groups: principal components, UMAP where it is installed, k-means, the ray test of a polygon.

Not random: seeds are fixed, so a map looks the same when it is opened again.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from cutaway_collector.errors import MissingExtra

Layout = Literal["pca", "umap"]
Floats = npt.NDArray[np.float64]

WIDTH: Final = 1000
HEIGHT: Final = 640
"""The plane: x to the right, y downwards, whole numbers, so that a selection is short in a URL."""
_MARGIN: Final = 24
_PRESENT_SHARE: Final = 0.5
_UMAP_ROWS_MIN: Final = 16
_NOTHING: Final = 1e-12
INSTALL: Final = "pip install 'cutaway[map]'"


def features(values: Floats) -> tuple[Floats, list[int]]:
    """[n, m] numbers with NaN -> ([n, k] in standard deviations from the mean, which k columns): those that at least half of the
    rows have and that vary. What a row lacks counts as the mean."""
    kept = []
    columns = []
    for index in range(values.shape[1]):
        column = values[:, index]
        known = np.isfinite(column)
        if known.sum() < max(2, _PRESENT_SHARE * len(column)):
            continue
        spread = column[known].std()
        if not spread > 1e-12 * max(1.0, float(np.abs(column[known]).max())):
            continue
        kept.append(index)
        columns.append(np.where(known, (column - column[known].mean()) / spread, 0.0))
    return (np.stack(columns, 1) if columns else np.zeros((len(values), 0))), kept


def pca(vectors: Floats, components: int = 2) -> tuple[Floats, Floats]:
    """[n, d] -> ([n, components] coordinates, [components] share of the variance of each)."""
    found, shares = principal_axes(vectors, components)
    return (vectors - vectors.mean(0)) @ found, shares


def principal_axes(vectors: Floats, components: int = 2) -> tuple[Floats, Floats]:
    """[n, d] -> ([d, components] principal axes, [components] share of the variance along each); 0 where nothing varies. Signs are
    fixed: the largest loading of an axis is positive, so that the same vectors give the same picture."""
    centred = vectors - vectors.mean(0)
    # Of n vectors of d numbers, the smaller of the two products says it all.
    if centred.shape[1] <= centred.shape[0]:
        values, all_axes = np.linalg.eigh(centred.T @ centred)
    else:
        values, left = np.linalg.eigh(centred @ centred.T)
        all_axes = centred.T @ left / np.sqrt(np.maximum(values, 1e-300))
    # What is left of an axis along which nothing varies is rounding: a later vector has nothing to do with it.
    order = np.argsort(values)[::-1][:components]
    order = order[values[order] > _NOTHING * max(float(values.max(initial=0.0)), 0.0)]
    chosen = all_axes[:, order]
    if chosen.size:
        chosen = chosen * np.where(chosen[np.abs(chosen).argmax(0), np.arange(chosen.shape[1])] < 0, -1.0, 1.0)
    found, shares = np.zeros((vectors.shape[1], components)), np.zeros(components)
    found[:, : chosen.shape[1]] = chosen
    shares[: len(order)] = values[order] / max(float(np.maximum(values, 0).sum()), 1e-300)
    return found, shares


def umap(vectors: Floats) -> Floats:
    """[n, d] -> [n, 2] by UMAP (McInnes et al. 2018, arXiv 1802.03426), cosine distance, a fixed seed. Raises MissingExtra.

    The first call compiles for some tens of seconds.
    """
    if len(vectors) < _UMAP_ROWS_MIN:
        raise MissingExtra(f"UMAP needs at least {_UMAP_ROWS_MIN} points, there are {len(vectors)}: the principal components are "
                           "shown")
    try:
        module: Any = importlib.import_module("umap")
    except ImportError as error:
        raise MissingExtra(f"UMAP is not installed, the principal components are shown: {INSTALL}") from error
    reducer = module.UMAP(n_components=2, n_neighbors=min(15, len(vectors) - 1), metric="cosine", random_state=7, n_jobs=1)
    return np.asarray(reducer.fit_transform(vectors), np.float64)


def place(coordinates: Floats) -> npt.NDArray[np.int64]:
    """[n, 2] -> [n, 2] places in WIDTH x HEIGHT, each axis filled; what is far outside of the middle 98 % is put at the edge."""
    return within(coordinates, *ends(coordinates)) if len(coordinates) else np.zeros((0, 2), np.int64)


def ends(coordinates: Floats) -> tuple[Floats, Floats]:
    """[n, 2] with n of 1 or more -> ([2], [2]): where each axis of the plane begins and ends."""
    low, high = np.percentile(coordinates, 1, axis=0), np.percentile(coordinates, 99, axis=0)
    reach = 4 * np.maximum(high - low, 1e-9)
    bounded = np.clip(coordinates, low - reach, high + reach)
    return bounded.min(0), bounded.max(0)


def within(coordinates: Floats, low: Floats, high: Floats) -> npt.NDArray[np.int64]:
    """[n, 2] -> [n, 2] places in WIDTH x HEIGHT between those ends; what lies beyond them is put at the edge."""
    share = (np.clip(coordinates, low, high) - low) / np.maximum(high - low, 1e-12)
    size = np.array([WIDTH, HEIGHT]) - 2 * _MARGIN
    return np.asarray(np.rint(_MARGIN + share * size), np.int64)


def clusters(vectors: Floats, count: int, seed: int = 7) -> npt.NDArray[np.int64]:
    """[n, d] -> [n] numbers of clusters, 0 the largest: k-means++ (Arthur & Vassilvitskii 2007), then Lloyd's steps."""
    rng = np.random.default_rng(seed)
    n = len(vectors)
    count = max(1, min(count, n))
    if not n:
        return np.zeros(0, np.int64)
    centres = vectors[[int(rng.integers(n))]]
    for _ in range(count - 1):
        nearest = squares(vectors, centres).min(1)
        total = nearest.sum()
        if not total > 0:
            break
        centres = np.vstack([centres, vectors[int(rng.choice(n, p=nearest / total))]])
    labels = np.zeros(n, np.int64)
    for _ in range(50):
        before, labels = labels, squares(vectors, centres).argmin(1)
        centres = np.stack([vectors[labels == one].mean(0) if (labels == one).any() else centres[one]
                            for one in range(len(centres))])
        if (before == labels).all():
            break
    sizes = np.bincount(labels, minlength=len(centres))
    rank = np.empty(len(centres), np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(centres))
    return rank[labels]


def squares(vectors: Floats, centres: Floats) -> Floats:
    """[n, k] squared distances."""
    found = (vectors**2).sum(1)[:, None] - 2 * vectors @ centres.T + (centres**2).sum(1)[None, :]
    return np.asarray(np.maximum(found, 0.0), np.float64)


def inside(places: npt.NDArray[np.int64], polygon: Sequence[tuple[int, int]]) -> npt.NDArray[np.bool_]:
    """[n, 2] -> [n]: which places lie in the polygon, by the even-odd rule; its first corner follows its last."""
    x, y = places[:, 0].astype(float), places[:, 1].astype(float)
    found = np.zeros(len(places), bool)
    for (x1, y1), (x2, y2) in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
        if y1 == y2:
            continue
        crosses = (y1 > y) != (y2 > y)
        found ^= crosses & (x < (x2 - x1) * (y - y1) / (y2 - y1) + x1)
    return found
