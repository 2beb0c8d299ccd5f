"""How sure a share is: so many of so many, and Wilson's interval, which stays inside 0 to 1 and is right for few. Not a test."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist
from typing import NamedTuple


class Rate(NamedTuple):
    """triggered of judged, their share, and the interval that holds the true share with the asked confidence."""

    triggered: int
    judged: int
    share: float
    low: float
    high: float


def wilson(triggered: int, judged: int, confidence: float = 0.95) -> Rate:
    """Wilson's score interval (E. B. Wilson, 1927) of a share. Nothing judged: nothing known, the interval is 0 to 1.

    Raises ValueError unless 0 <= triggered <= judged and 0 < confidence < 1.
    """
    if not 0 <= triggered <= judged or not 0 < confidence < 1:
        raise ValueError(f"a rate is 0 <= triggered <= judged with 0 < confidence < 1, not {triggered} of {judged} at {confidence}")
    if not judged:
        return Rate(0, 0, float("nan"), 0.0, 1.0)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = triggered / judged
    scale = 1 + z * z / judged
    middle = (share + z * z / (2 * judged)) / scale
    half = z / scale * sqrt(share * (1 - share) / judged + z * z / (4 * judged * judged))
    low = 0.0 if triggered == 0 else max(0.0, middle - half)
    high = 1.0 if triggered == judged else min(1.0, middle + half)
    return Rate(triggered, judged, share, low, high)


def difference(a: Rate, b: Rate) -> tuple[float, float, float]:
    """(share of b less share of a, low, high): the interval that Newcombe (1998, method 10) makes of both Wilson intervals."""
    value = b.share - a.share
    low = value - sqrt((b.share - b.low) ** 2 + (a.high - a.share) ** 2)
    high = value + sqrt((b.high - b.share) ** 2 + (a.share - a.low) ** 2)
    return value, low, high
