"""Clusters of near-equal answers: who says almost the same words as somebody else in the window? Not paraphrases."""

from __future__ import annotations

from typing import Final

import numpy as np

from cutaway_collector.windows.answers import Floats

NEAR: Final = 0.9
"""Cosine of two answers' word pairs from which they are near-equal: about one pair of twenty may differ on each side."""


def clusters(similarities: Floats, *, near: float = NEAR) -> list[list[int]]:
    """Cosines [n, n] -> groups of two and more answers, each near another of its group (single linkage); the largest first."""
    linked = similarities >= near
    left = np.ones(similarities.shape[0], bool)
    found: list[list[int]] = []
    for seed in range(left.size):
        if not left[seed]:
            continue
        group = np.zeros(left.size, bool)
        group[seed] = True
        while (grown := linked[group].any(axis=0) | group).sum() > group.sum():
            group = grown
        left &= ~group
        if group.sum() > 1:
            found.append(np.flatnonzero(group).tolist())
    return sorted(found, key=lambda members: (-len(members), members[0]))
