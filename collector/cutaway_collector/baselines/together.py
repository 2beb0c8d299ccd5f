"""All numbers of a generation at once: a second opinion on a window, and which of its generations are the foreign ones.

Reads the generations of the pinned window themselves, while retention still holds them: a sketch of each attribute alone cannot
tell that two of them no longer go together. Asked for by a person, so it takes no part in the q-values of a window.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cutaway_collector.baselines import attributes
from cutaway_collector.baselines.attributes import HOURS, NUMBERS, Scope
from cutaway_collector.baselines.pins import Baseline
from cutaway_collector.contracts import Store
from cutaway_collector.drift import multivariate, rule
from cutaway_collector.errors import SettingsError
from cutaway_collector.score import embedding
from cutaway_collector.score.device import Device

SAMPLE_MAX: Final = 400
"""Generations of each window, chosen by the hash of their ids: the same ones at every look."""
FOREIGN_MAX: Final = 10
PRESENT_MIN: Final = 0.8
"""Share of both samples that must have a number for MMD^2 to read it; the classifier does without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """mmd2, p: MMD^2 of ranks and its permutation p-value. auc, auc_p: of the classifier. None where it cannot be said.

    foreign: (span id, probability of being of this window rather than of the reference, number by attribute), the largest first.
    message: what is missing, "" for nothing.
    """

    reference_n: int
    n: int
    mmd2: float | None = None
    p: float | None = None
    auc: float | None = None
    auc_p: float | None = None
    foreign: tuple[tuple[str, float, dict[str, float | None]], ...] = ()
    message: str = ""

    def shown(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"reference_n": self.reference_n, "n": self.n, "mmd2": self.mmd2, "p": self.p, "auc": self.auc, "auc_p": self.auc_p,
                "foreign": [{"span_id": span, "probability": share, "values": values} for span, share, values in self.foreign],
                "message": self.message}


def together(store: Store, baseline: Baseline, start_ns: int, end_ns: int, device: Device, *, reference: str) -> Together:
    """Samples of both windows, compared. device: where MMD^2's kernel runs. reference: as `Drift.reference`. Raises StoreError."""
    scope = Scope(baseline.tenant, baseline.service, baseline.model, baseline.start_ns, baseline.end_ns, baseline.version)
    _, before = _sample(store, scope, attributes.reference_hours(reference, start_ns, end_ns))
    spans, now = _sample(store, Scope(baseline.tenant, baseline.service, baseline.model, start_ns, end_ns), list(range(HOURS)))
    found = partial(Together, reference_n=len(before), n=len(now))
    if min(len(before), len(now)) < rule.VALUES_MIN:
        return found(message=f"both windows need {rule.VALUES_MIN} generations that are still stored")
    present = np.minimum(*(np.isfinite(side).mean(axis=0) for side in (before, now)))
    mmd2, p = None, None
    if (present >= PRESENT_MIN).sum() >= 2:
        sides = [side[:, present >= PRESENT_MIN] for side in (before, now)]
        whole = [side[np.isfinite(side).all(axis=1)] for side in sides]
        if min(map(len, whole)) >= rule.VALUES_MIN:
            ranks = _ranks(np.concatenate(whole))
            mmd2, p = multivariate.mmd2(ranks[: len(whole[0])], ranks[len(whole[0]):],
                                        kernel=partial(embedding.rbf, device=device))
    kept = present > 0
    if not kept.any():
        return found(mmd2=mmd2, p=p, message="no number is in both windows")
    try:
        auc, auc_p, foreign = multivariate.domain_classifier(before[:, kept], now[:, kept])
    except SettingsError as error:
        return found(mmd2=mmd2, p=p, message=str(error))
    order = np.argsort(-foreign, kind="stable")[:FOREIGN_MAX]
    return found(mmd2=mmd2, p=p, auc=auc, auc_p=auc_p,
                 foreign=tuple((spans[index], float(foreign[index]), _named(now[index])) for index in order))


def _sample(store: Store, scope: Scope, hours: list[int]) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Span ids, and their numbers [n, len(NUMBERS)] with NaN for what is missing."""
    values = ", ".join(f"ifNull(toFloat64({expression}), nan)" for expression in NUMBERS.values())
    found = store.query(
        f"SELECT SpanId, {values} {attributes.spans(store.database)} AND has({{hours:Array(UInt8)}}, "
        f"{attributes.hour_of_week('Timestamp')}) ORDER BY cityHash64(TraceId, SpanId), SpanId LIMIT {SAMPLE_MAX}",
        {**scope.bound(), "hours": hours}).rows
    numbers = np.array([row[1:] for row in found], np.float64).reshape(len(found), len(NUMBERS))
    return [str(row[0]) for row in found], np.where(np.isfinite(numbers), numbers, np.nan)


def _ranks(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Each column as ranks from 0 to 1, equal values alike: no unit weighs more than another, no tail more than the rest."""
    ranks = [np.searchsorted(np.sort(column), column) / len(column) for column in points.T]
    return np.column_stack(ranks)


def _named(values: npt.NDArray[np.float64]) -> dict[str, float | None]:
    return {name: float(value) if np.isfinite(value) else None for name, value in zip(NUMBERS, values, strict=True)}
