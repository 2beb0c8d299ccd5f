"""How far a window's mean is from its reference, in standard errors: what charts of streams are fed with. Decides nothing.

Not only sampling moves the mean of a window: the reference's own hours differ, too, and what they differ by beyond sampling belongs
to the standard error. Without it, a chart over windows of thousands of generations would alarm at every breath of real traffic.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cutaway_collector.baselines import attributes
from cutaway_collector.columns import BASELINE_SKETCHES
from cutaway_collector.contracts import Store
from cutaway_collector.drift import sketch
from cutaway_collector.drift.rule import Comparison

HOURS_MIN: Final = 12
"""Hours of the reference that hold enough values to say how hours differ; with fewer there is no deviation."""
VALUES_MIN: Final = 10
"""Values of an hour whose mean counts."""
CONSTANT: Final = 1e-9
"""Of the level: what varies by less does not vary."""
REFERENCE_ERRORS: Final = 2.0
"""Standard errors of the reference within which a difference counts as none: that error stays the same from window to window."""

Floats = npt.NDArray[np.float64]


class Hours(NamedTuple):
    """The reference by the hour of the week, ascending: the hours [k], how many values each holds [k], their means [k]."""

    hours: Floats
    counts: Floats
    means: Floats


def known_hours(store: Store, tenant: str, baseline_id: str) -> dict[str, Hours]:
    """Attribute -> hours, of the numbers of a baseline. Raises StoreError."""
    found = store.query(
        f"SELECT Attribute, HourOfWeek, sum(times) AS n, sum({sketch.representative_sql('cell')} * times) / n "
        f"FROM (SELECT Attribute, HourOfWeek, Bins, Counts FROM {attributes.quoted(store.database)}.{BASELINE_SKETCHES.name} "
        "WHERE TenantId = {tenant:String} AND BaselineId = {baseline:String} AND notEmpty(Bins)) "
        "ARRAY JOIN Bins AS cell, Counts AS times GROUP BY Attribute, HourOfWeek "
        "HAVING n >= {least:UInt32} ORDER BY Attribute, HourOfWeek",
        {"tenant": tenant, "baseline": baseline_id, "least": VALUES_MIN}).rows
    rows: defaultdict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for name, hour, count, mean in found:
        rows[name].append((float(hour), float(count), float(mean)))
    return {name: Hours(*np.array(each, np.float64).T) for name, each in rows.items()}


def deviation(one: Comparison, known: Hours | None, *, by_hour: bool) -> float | None:
    """The window's mean less its reference's, in standard errors; None for categories, too few values, a short or a constant one.

    by_hour: the reference is that of the window's hours, of the week or of any day. Its error is then another one every hour and
    belongs to the spread; else it is the same at each window, and a difference of up to REFERENCE_ERRORS of it counts as none. So
    with nothing wrong the values spread no wider than a standard normal does, and a chart's run length is at least the stated one.
    """
    if one.kind != "number" or one.few or known is None or known.hours.size < HOURS_MIN:
        return None
    sampling = one.reference_sd**2
    between = (neighbours_variance if by_hour else between_variance)(known, sampling)
    spread, error = sampling / one.n + between, sampling / one.reference_n + (0.0 if by_hour else between / known.hours.size)
    apart = one.level - one.reference_level
    if by_hour:
        spread += error + between
    else:
        apart = math.copysign(max(0.0, abs(apart) - REFERENCE_ERRORS * math.sqrt(error)), apart)
    # Of a constant only the rounding of its mean is left, which is no standard error.
    varies = math.sqrt(spread) > CONSTANT * max(abs(one.level), abs(one.reference_level))
    return apart / math.sqrt(spread) if varies else None


def between_variance(known: Hours, sampling: float) -> float:
    """Variance of the hours' true means: DerSimonian, Laird 1986. sampling: variance of one value."""
    if not sampling > 0:
        return float(np.var(known.means, ddof=1))
    weights = known.counts / sampling
    centre = np.sum(weights * known.means) / weights.sum()
    excess = np.sum(weights * (known.means - centre) ** 2) - (known.hours.size - 1)
    return float(max(0.0, excess / (weights.sum() - np.sum(weights**2) / weights.sum())))


def neighbours_variance(known: Hours, sampling: float) -> float:
    """The same by the differences of neighbouring hours, as a chart of moving ranges has it: the day's course is not in it."""
    near = np.diff(known.hours) == 1
    steps = np.diff(known.means)[near] ** 2 - sampling * (1 / known.counts[1:] + 1 / known.counts[:-1])[near]
    return float(max(0.0, np.mean(steps) / 2)) if near.any() else 0.0
