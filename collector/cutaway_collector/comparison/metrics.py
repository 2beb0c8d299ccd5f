"""The header of a comparison: speed, confidence and errors of both sides, their differences with intervals, and the tests.

Not a ranking: the same few metrics in the same order, whatever they say.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from cutaway_collector.drift import differences, significance
from cutaway_collector.drift.differences import Difference
from cutaway_collector.drift.rule import ALPHA, VALUES_MIN
from cutaway_collector.rates import difference, wilson
from cutaway_collector.search.compare import Count, Key, Numbers

METRICS: Final = ("duration", "ttft", "tps", "tokens.out", "perplexity", "surprisal", "entropy", "attn")
"""Fields of the registry; the rate of errors follows them."""
ERRORS: Final = "errors"
P95_MIN: Final = 20
"""Values of which one is above the 95th percentile."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of both sides in the field's unit; a, b: medians, or shares of errors. None where a side has no value.

    interval: of b less a, 95 %; bootstrap of the medians, or Newcombe's for shares; its ends NaN where a side has one value alone.
    a_p95, b_p95: None for shares and for fewer than P95_MIN values. p: of the
    Mann-Whitney test or Fisher's; q: after Benjamini-Hochberg over the metrics, None where a side has fewer than 30 values.
    """

    name: str
    method: Literal["bootstrap", "newcombe"]
    a: float | None
    b: float | None
    a_n: int
    b_n: int
    interval: Difference | None
    a_p95: float | None = None
    b_p95: float | None = None
    p: float | None = None
    q: float | None = None

    @property
    def differs(self) -> bool:
        """Whether chance would hardly do that."""
        return self.q is not None and self.q <= ALPHA


def metrics(a: Numbers, b: Numbers, a_count: Count, b_count: Count) -> list[Metric]:
    """Those of METRICS that a side has, and errors. Numbers are of the samples, errors of every span."""
    found = [one for one in (_quantiles(name, a, b) for name in METRICS) if one.a_n or one.b_n]
    if a_count.spans or b_count.spans:
        found.append(_errors(a_count, b_count))
    claimed = [one for one in found if one.p is not None and min(one.a_n, one.b_n) >= VALUES_MIN]
    q = dict(zip((one.name for one in claimed), significance.benjamini_hochberg([one.p for one in claimed if one.p is not None]),
                 strict=True))
    return [replace(one, q=q.get(one.name)) for one in found]


def _quantiles(name: str, a: Numbers, b: Numbers) -> Metric:
    sides = [side.values[Key("", name)] for side in (a, b)]
    finite = [np.sort(side[np.isfinite(side)]) for side in sides]
    middle, high = ([differences.quantile(side, share) if side.size >= least else None for side in finite]
                    for share, least in ((0.5, 1), (0.95, P95_MIN)))
    both = finite[0].size and finite[1].size
    apart = differences.quantile_difference(finite[0], finite[1], 0.5) if both else None
    return Metric(
        name, "bootstrap", middle[0], middle[1], finite[0].size, finite[1].size,
        _known(apart, finite[0].size, finite[1].size), high[0], high[1],
        differences.mann_whitney_p(finite[0], finite[1]) if both else None)


def _known(apart: Difference | None, a_n: int, b_n: int) -> Difference | None:
    """Of single values nothing is known but how far they are apart."""
    return apart._replace(low=float("nan"), high=float("nan")) if apart and min(a_n, b_n) < 2 else apart


def _errors(a: Count, b: Count) -> Metric:
    rates = [wilson(side.errors, side.spans) for side in (a, b)]
    both = a.spans and b.spans
    return Metric(
        ERRORS, "newcombe", rates[0].share if a.spans else None, rates[1].share if b.spans else None, a.spans, b.spans,
        _known(Difference(*difference(rates[0], rates[1])) if both else None, a.spans, b.spans),
        p=differences.fisher_p((a.errors, a.spans), (b.errors, b.spans)) if both else None)
