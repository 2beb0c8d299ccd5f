"""How often a score triggers, with what that figure is worth. A plain function, not an alert."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cutaway_collector.contracts import Judged
from cutaway_collector.rates import Rate, wilson


def trigger_rates(scores: Mapping[str, Judged], threshold: float = 0.5, confidence: float = 0.95) -> dict[str, Rate]:
    """Score name -> how often it lies above the threshold, of the sequences it applies to. For `policy_*` that is 0 or 1."""
    rates = {}
    for name, column in scores.items():
        applies = column.values[~np.isnan(column.values)]
        rates[name] = wilson(int((applies > threshold).sum()), int(applies.size), confidence)
    return rates
