"""How sure a share is: the Wilson score interval, which stays inside 0 to 1 and is right for few answers. Not a test."""

from __future__ import annotations

import math

Z_95: float = 1.959963984540054
"""Standard normal quantile of a two-sided interval of 95 %."""


def wilson(hits: int, count: int, z: float = Z_95) -> tuple[float, float]:
    """So many hits of count -> lower and upper end (Wilson 1927). (0, 1) when nothing was counted."""
    if not count:
        return 0.0, 1.0
    share, square = hits / count, z * z
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = z * math.sqrt(share * (1 - share) / count + square / (4 * count * count)) / (1 + square / count)
    low = 0.0 if hits == 0 else middle - half
    return low, 1.0 if hits == count else middle + half
