"""A plane that vectors were put into, kept so that later ones are put into the same plane: places that were looked at stay.

Not UMAP, whose plane has no axes. Made of principal components, the ends of both axes, and the middles of the clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from cutaway_collector.latent.place import Floats, clusters, ends, features, principal_axes, squares, within

COMPONENTS: Final = 10
"""Clusters are told apart by so many axes; the picture has the first two."""


@dataclass(frozen=True, slots=True)
class Frame:
    """columns [k]: of the values, those that count. centre, spread [k]: what is taken off them, and their unit. axes [k, c],
    shares [c]: of the variance. low, high [2]: ends of the first two axes. middles [g, c]: of the clusters, the largest first."""

    columns: npt.NDArray[np.int64]
    centre: Floats
    spread: Floats
    axes: Floats
    shares: Floats
    low: Floats
    high: Floats
    middles: Floats

    def coordinates(self, values: Floats) -> Floats:
        """[n, m] values, NaN for what is missing, -> [n, c]. What is missing counts as the mean."""
        return np.asarray(np.nan_to_num((values[:, self.columns] - self.centre) / self.spread) @ self.axes, np.float64)

    def places(self, coordinates: Floats) -> npt.NDArray[np.int64]:
        """[n, c] -> [n, 2] places in the plane; what lies beyond its ends is put at the edge."""
        return within(coordinates[:, :2], self.low, self.high)

    def beyond(self, coordinates: Floats) -> npt.NDArray[np.bool_]:
        """[n, c] -> [n]: which lie outside of where the vectors lay that the plane was made of."""
        reach = 0.05 * (self.high - self.low)
        outside = (coordinates[:, :2] < self.low - reach) | (coordinates[:, :2] > self.high + reach)
        return np.asarray(outside.any(axis=1))

    def groups(self, coordinates: Floats) -> npt.NDArray[np.int64]:
        """[n, c] -> [n] numbers of the clusters whose middles are nearest."""
        return np.asarray(squares(coordinates, self.middles).argmin(1), np.int64)


def fit(values: Floats, groups: int, *, scaled: bool) -> Frame:
    """The plane of [n, m] values with n of 1 or more. scaled: columns are numbers of different units, NaN for what is missing, and
    count by their standard deviation; those that too few have, or that are all alike, do not count."""
    if scaled:
        _, kept = features(values)
        columns = np.array(kept, np.int64)
        used = values[:, columns]
        known = np.isfinite(used)
        used = np.where(known, used, np.nan)
        centre, spread = (np.nanmean(used, axis=0), np.nanstd(used, axis=0)) if kept else (np.zeros(0), np.ones(0))
    else:
        columns = np.arange(values.shape[1])
        centre, spread = values.mean(0), np.ones(values.shape[1])
    matrix = np.nan_to_num((values[:, columns] - centre) / spread)
    count = min(COMPONENTS, *matrix.shape) if min(matrix.shape, default=0) > 2 else 2
    axes, shares = principal_axes(matrix, count)
    coordinates = matrix @ axes
    low, high = ends(coordinates[:, :2])
    labels = clusters(coordinates, groups)
    middles = np.stack([coordinates[labels == one].mean(0) for one in range(int(labels.max()) + 1)])
    return Frame(columns, centre, spread, axes, shares, low, high, middles)
