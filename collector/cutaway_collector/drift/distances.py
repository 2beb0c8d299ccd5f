"""Distances of two distributions given as weighted values, in plain NumPy: the reference that the SQL is held to.

Not tests: a distance says how far, `significance` whether chance goes as far.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

EPSILON: Final = 1e-4
"""Share that an empty bin counts for in PSI, which would be infinite otherwise."""
GROUPS: Final = 10
"""Groups of equal reference mass into which numbers fall for PSI and Jensen-Shannon: PSI's limits are meant for deciles."""


def psi(reference: Floats, now: Floats) -> float:
    """Population stability index, nats: sum of (q - p) ln(q / p) over shares, an empty bin counting EPSILON.

    reference, now: counts [bins] of the same bins. Under no change it is about (bins - 1)(1/n + 1/m): read it beside n.
    """
    p, q = (np.where(side > 0, side / side.sum(), EPSILON) for side in (reference, now))
    return float(np.sum((q - p) * np.log(q / p)))


def jensen_shannon(reference: Floats, now: Floats) -> float:
    """Jensen-Shannon distance with logarithms to the base 2: 0 for equal shares, 1 for shares with nothing in common.

    reference, now: counts [bins] of the same bins. Lin 1991; the square root of the divergence, as SciPy has it.
    """
    p, q = reference / reference.sum(), now / now.sum()
    middle = (p + q) / 2
    terms = [np.sum(side[side > 0] * np.log2(side[side > 0] / middle[side > 0])) for side in (p, q)]
    return float(np.sqrt(max(0.0, sum(terms) / 2)))


def groups(reference: Floats) -> npt.NDArray[np.int64]:
    """Counts of ascending cells [k] -> group of each [k]: how many tenths of the reference's mass lie below the cell."""
    below = np.cumsum(reference) - reference
    found: npt.NDArray[np.int64] = np.minimum(GROUPS - 1, np.floor(GROUPS * below / reference.sum())).astype(np.int64)
    return found


def gaps(reference: Floats, now: Floats) -> Floats:
    """Differences [k] of the two distribution functions after each of k ascending cells."""
    gap: Floats = np.cumsum(reference) / reference.sum() - np.cumsum(now) / now.sum()
    return gap


def kolmogorov_smirnov(reference: Floats, now: Floats) -> float:
    """Largest gap of the two distribution functions. Counts [k] of the same ascending cells; coarse ones never enlarge it."""
    return float(np.max(np.abs(gaps(reference, now))))


def wasserstein(values: Floats, reference: Floats, now: Floats) -> float:
    """Wasserstein-1 in the values' unit: the area between the two distribution functions.

    values: ascending [k]; reference, now: how often each occurs [k].
    """
    return float(np.sum(np.abs(gaps(reference, now))[:-1] * np.diff(values)))


def standard_deviation(values: Floats, counts: Floats) -> float:
    """Of values [k] that occur counts [k] times, in the values' unit; the population's, as the SQL has it."""
    mean = np.sum(values * counts) / counts.sum()
    return float(np.sqrt(np.sum(counts * (values - mean) ** 2) / counts.sum()))
