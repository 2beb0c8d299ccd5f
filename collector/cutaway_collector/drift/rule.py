"""Which statistic decides for which attribute, and the verdict over all attributes of a window. The one place where limits stand.

The rule, for alpha = 0.05:

    values a side       numbers                                          categories
    under 30            `few`: nothing is claimed                        the same
    up to 1,000         KS                                               chi-square
    above               Wasserstein / sd of the reference > 0.1          Jensen-Shannon > 0.1
                        and KS                                           and chi-square

A test counts when its q-value (Benjamini-Hochberg over the window's attributes) is below alpha. Among many values every difference
is significant, so above 1,000 the distance must matter too: the idea of Evidently's default, with the test kept, so that a
long-tailed attribute does not drift by chance. Not the statistics themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from cutaway_collector.drift import distances, significance
from cutaway_collector.drift.distances import Floats

Kind = Literal["number", "category"]
Label = Literal["steady", "shifted", "few"]
ALPHA: Final = 0.05
VALUES_MIN: Final = 30
SMALL_MAX: Final = 1000
DISTANCE_MIN: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One attribute of two windows. wasserstein is divided by the reference's sd; it and ks are None for categories.

    p: of KS or chi-square. level, reference_level: mean, or the share of the category `moved`.
    """

    attribute: str
    kind: Kind
    reference_n: int
    n: int
    p: float
    psi: float
    jensen_shannon: float
    ks: float | None
    wasserstein: float | None
    chi_square: float | None
    level: float
    reference_level: float
    reference_sd: float
    moved: str = ""

    @property
    def statistic(self) -> str:
        """Name of what decides: ks, wasserstein, chi2 or js."""
        small = self.n <= SMALL_MAX
        return ("ks" if small else "wasserstein") if self.kind == "number" else ("chi2" if small else "js")

    @property
    def value(self) -> float:
        """Its value."""
        return float({"ks": self.ks, "wasserstein": self.wasserstein, "chi2": self.chi_square, "js": self.jensen_shannon}
                     [self.statistic] or 0.0)

    @property
    def few(self) -> bool:
        """Whether a side has too few values to claim anything."""
        return min(self.n, self.reference_n) < VALUES_MIN


def judge(found: Sequence[Comparison], *, alpha: float = ALPHA) -> list[tuple[float | None, Label]]:
    """Comparisons of one window -> (q-value, label) of each, in their order; (None, "few") where nothing is claimed."""
    q = iter(significance.benjamini_hochberg([one.p for one in found if not one.few]))
    verdicts: list[tuple[float | None, Label]] = []
    for one in found:
        if one.few:
            verdicts.append((None, "few"))
            continue
        value = next(q)
        matters = one.n <= SMALL_MAX or one.value > DISTANCE_MIN
        verdicts.append((value, "shifted" if value < alpha and matters else "steady"))
    return verdicts


def compare_numbers(attribute: str, values: Floats, reference: Floats, now: Floats) -> Comparison:
    """values: ascending [k]; reference, now: how often each occurs [k]. What `sql.numbers` computes, on arrays."""
    reference_n, n = int(reference.sum()), int(now.sum())
    spread = distances.standard_deviation(values, reference)
    part = distances.groups(reference)
    grouped = [np.bincount(part, side, distances.GROUPS).astype(np.float64) for side in (reference, now)]
    ks = distances.kolmogorov_smirnov(reference, now)
    return Comparison(
        attribute=attribute, kind="number", reference_n=reference_n, n=n, p=significance.ks_p(ks, reference_n, n),
        psi=distances.psi(*_occupied(*grouped)), jensen_shannon=distances.jensen_shannon(*grouped), ks=ks,
        wasserstein=scaled(distances.wasserstein(values, reference, now), spread), chi_square=None,
        level=float(np.sum(values * now) / n), reference_level=float(np.sum(values * reference) / reference_n), reference_sd=spread)


def compare_categories(attribute: str, labels: Sequence[str], reference: Floats, now: Floats) -> Comparison:
    """Labels [k]; reference, now: counts [k]. What `sql.categories` computes, on arrays."""
    statistic, freedom = significance.chi_square(reference, now)
    shares = reference / reference.sum(), now / now.sum()
    most = max(range(len(labels)), key=lambda index: (abs(shares[1][index] - shares[0][index]), labels[index]))
    return Comparison(
        attribute=attribute, kind="category", reference_n=int(reference.sum()), n=int(now.sum()),
        p=significance.chi_square_p(statistic, freedom), psi=distances.psi(reference, now),
        jensen_shannon=distances.jensen_shannon(reference, now), ks=None, wasserstein=None, chi_square=statistic,
        level=float(shares[1][most]), reference_level=float(shares[0][most]), reference_sd=share_sd(float(shares[0][most])),
        moved=labels[most])


def scaled(distance: float, spread: float) -> float:
    """A distance by the reference's sd. Where the reference never varied, any distance at all is one sd."""
    return distance / spread if spread > 0 else float(distance > 0)


def share_sd(share: float) -> float:
    """Standard deviation of one yes or no."""
    return float(np.sqrt(share * (1 - share)))


def _occupied(reference: Floats, now: Floats) -> tuple[Floats, Floats]:
    kept = (reference > 0) | (now > 0)
    return reference[kept], now[kept]
