"""The whole trace in a strip: its rows squeezed into a few lanes, as SVG paths over a fixed number of columns.

Not the waterfall: it says where in time and how far down something happens, so that a part can be chosen. Its size does not grow
with the trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from cutaway_collector.web.waterfall import Waterfall

COLUMNS: Final = 500
LANES_MAX: Final = 32
HEIGHT: Final = 64


@dataclass(frozen=True, slots=True)
class MiniMap:
    """Paths on COLUMNS x HEIGHT to be stroked `stroke` wide: all spans, the failed ones."""

    spans: str
    failures: str
    stroke: float
    columns: int = COLUMNS
    height: int = HEIGHT


def draw(tree: Waterfall) -> MiniMap:
    """The map of all rows, open or not."""
    order: list[int] = []
    for row, entry in enumerate(tree.entries):
        if entry >= 0:
            order.append(entry)
        elif tree.ends[row] == row + 1:  # a closed group of a trace too large for a row a span
            order.extend(tree.groups[~entry].members)
    # Floats: a duration may have all of 64 bits, and 500 columns need few digits.
    starts = np.array([tree.skeleton.starts_ns[span] - tree.start_ns for span in order], np.float64)
    ends = starts + np.array([tree.skeleton.durations_ns[span] for span in order], np.float64)
    failed = np.array([tree.skeleton.failed[span] for span in order], bool)
    lanes = min(LANES_MAX, len(order))
    lane = np.arange(len(order)) * lanes // len(order)
    first = np.minimum(np.floor(starts / tree.total_ns * COLUMNS), COLUMNS - 1).astype(np.int64)
    behind = np.clip(np.ceil(ends / tree.total_ns * COLUMNS), first + 1, COLUMNS).astype(np.int64)
    height = HEIGHT / lanes
    paths = [_path(lane[chosen], first[chosen], behind[chosen], lanes) for chosen in (np.ones_like(failed), failed)]
    return MiniMap(paths[0], paths[1], round(min(height * 0.7, 8), 2))


def _path(lane: npt.NDArray[np.int64], first: npt.NDArray[np.int64], behind: npt.NDArray[np.int64], lanes: int) -> str:
    """One line for each stretch of columns that some span of a lane covers."""
    steps = np.zeros((lanes, COLUMNS + 1), np.int64)
    np.add.at(steps, (lane, first), 1)
    np.add.at(steps, (lane, behind), -1)
    covered = np.cumsum(steps, axis=1)[:, :COLUMNS] > 0
    edges = np.diff(np.pad(covered, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    begins, ends = np.nonzero(edges == 1), np.nonzero(edges == -1)
    height = HEIGHT / lanes
    places: Sequence[tuple[int, int, int]] = list(zip(begins[0].tolist(), begins[1].tolist(), ends[1].tolist(), strict=True))
    return "".join(f"M{start} {(at + 0.5) * height:.4g}h{end - start}" for at, start, end in places)
