"""Whether the prompts, or the answers, of a window mean something else than those of the reference: MMD^2 over their embeddings.

Not the embedder, which is handed in, and like `together` no part of the q-values: it is asked for by a person, and reads the texts
of the pinned window while retention still holds them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

import numpy as np

from cutaway_collector.baselines import attributes
from cutaway_collector.baselines.attributes import HOURS, Scope
from cutaway_collector.baselines.pins import Baseline
from cutaway_collector.contracts import Store
from cutaway_collector.drift import multivariate, rule
from cutaway_collector.drift.multivariate import Floats
from cutaway_collector.score import embedding
from cutaway_collector.score.device import Device
from cutaway_collector.search.points import Key

TEXTS_MAX: Final = 200
"""Generations of each window, chosen by the hash of their ids: the same ones at every look."""
Of = Literal["prompt", "answer"]
Embed = Callable[[Of, Sequence[Key]], "Known"]


@dataclass(frozen=True, slots=True)
class Known:
    """Unit vectors by generation, of those with a text. pending: how many are still being made; trouble: why none are, or ""."""

    vectors: Mapping[Key, Floats]
    pending: int
    trouble: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDrift:
    """mmd2, p: of the embeddings and by permutation, None where it cannot be said; message: what is missing, "" for nothing."""

    of: Of
    reference_n: int
    n: int
    pending: int
    mmd2: float | None = None
    p: float | None = None
    message: str = ""

    def shown(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"of": self.of, "reference_n": self.reference_n, "n": self.n, "pending": self.pending, "mmd2": self.mmd2,
                "p": self.p, "message": self.message}


def of_texts(store: Store, baseline: Baseline, start_ns: int, end_ns: int, embed: Embed, device: Device, *,
             reference: str) -> list[TextDrift]:
    """Prompts and answers of both windows. reference: as `Drift.reference`. Raises StoreError."""
    hours = attributes.reference_hours(reference, start_ns, end_ns)
    before = _sample(store, Scope(baseline.tenant, baseline.service, baseline.model, baseline.start_ns, baseline.end_ns,
                                  baseline.version), hours)
    now = _sample(store, Scope(baseline.tenant, baseline.service, baseline.model, start_ns, end_ns), list(range(HOURS)))
    kinds: tuple[Of, ...] = ("prompt", "answer")
    return [_compared(of, embed(of, [*before, *now]), before, now, device) for of in kinds]


def _compared(of: Of, known: Known, reference: Sequence[Key], now: Sequence[Key], device: Device) -> TextDrift:
    sides = [[known.vectors[key] for key in keys if key in known.vectors] for keys in (reference, now)]
    found = partial(TextDrift, of=of, reference_n=len(sides[0]), n=len(sides[1]), pending=known.pending)
    if known.trouble:
        return found(message=known.trouble)
    if known.pending:
        return found(message=f"{known.pending} texts are still being embedded: load this page again in a moment")
    if min(map(len, sides)) < rule.VALUES_MIN:
        return found(message=f"both windows need {rule.VALUES_MIN} texts that are still stored")
    mmd2, p = multivariate.mmd2(np.stack(sides[0]), np.stack(sides[1]), kernel=partial(embedding.rbf, device=device))
    return found(mmd2=mmd2, p=p)


def _sample(store: Store, scope: Scope, hours: list[int]) -> list[Key]:
    found = store.query(
        f"SELECT TraceId, SpanId, toUnixTimestamp64Nano(Timestamp) {attributes.spans(store.database)} "
        f"AND has({{hours:Array(UInt8)}}, {attributes.hour_of_week('Timestamp')}) "
        f"ORDER BY cityHash64(TraceId, SpanId), SpanId LIMIT 1 BY TraceId, SpanId LIMIT {TEXTS_MAX}",
        {**scope.bound(), "hours": hours}).rows
    return [Key(str(trace), str(span), int(at)) for trace, span, at in found]
