"""Baselines: pinned, listed and removed. A pin reads its window once, day by day, and keeps histograms an hour of the week.

A pin of the same tenant, service, model and service.version replaces the older one. Nothing here compares.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from cutaway_collector.baselines import attributes
from cutaway_collector.baselines.attributes import Scope, quoted
from cutaway_collector.blocks import Block, Lists, Strings
from cutaway_collector.columns import BASELINE_SKETCHES, BASELINES
from cutaway_collector.contracts import Store
from cutaway_collector.drift import sketch
from cutaway_collector.errors import SettingsError

BASELINES_MAX: Final = 100
"""Each is compared at every window and shown in /metrics."""
GENERATIONS_MIN: Final = 100
DAYS_MAX: Final = 92
SCORES_MAX: Final = 20
"""Names of scores, the most frequent ones, that a baseline watches, and as many labels."""
LABELS_MAX: Final = 100
"""Words of one attribute, the most frequent ones; the rest counts as OTHER."""
OTHER: Final = "(other)"
_DAY_NS: Final = 86_400_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """A pinned reference window. version: the service.version it was taken of, "" for any; spans: generations in it."""

    id: str
    tenant: str
    service: str
    model: str
    version: str
    start_ns: int
    end_ns: int
    spans: int
    pinned_ns: int = 0

    def shown(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"baseline": self.id, "tenant": self.tenant, "service": self.service, "model": self.model,
                "service_version": self.version, "start_ns": self.start_ns, "end_ns": self.end_ns, "generations": self.spans,
                "pinned_ns": self.pinned_ns}


_Key = tuple[str, int]
_Counts = dict[_Key, Counter[Any]]


def pin(store: Store, scope: Scope) -> Baseline:
    """Keeps what is normal for the scope. Raises SettingsError (too few generations, too many baselines) and StoreError."""
    if not scope.service or not scope.model:
        raise SettingsError("a baseline is of one service and one model: name both")
    if not 0 <= scope.start_ns < scope.end_ns:
        raise SettingsError("a baseline's window ends after it begins: give --from a time before --to")
    if scope.end_ns - scope.start_ns > DAYS_MAX * _DAY_NS:
        raise SettingsError(f"a baseline's window has at most {DAYS_MAX} days: take a shorter one")
    before = listed(store)
    older = [one for one in before if _key(one) == (scope.tenant, scope.service, scope.model, scope.version)]
    if len(before) - len(older) >= BASELINES_MAX:
        raise SettingsError(f"there are {len(before)} baselines, {BASELINES_MAX} are allowed: remove one")
    spans, numbers, words = 0, _Counts(), _Counts()
    for start_ns in range(scope.start_ns, scope.end_ns, _DAY_NS):
        part = Scope(scope.tenant, scope.service, scope.model, start_ns, min(start_ns + _DAY_NS, scope.end_ns), scope.version)
        spans += _read(store, part, numbers, words)
    if spans < GENERATIONS_MIN:
        raise SettingsError(f"a baseline needs {GENERATIONS_MIN} generations, the window holds {spans}: widen it, or check the "
                            "names of service and model")
    baseline = Baseline(id=uuid.uuid4().hex, tenant=scope.tenant, service=scope.service, model=scope.model, version=scope.version,
                        start_ns=scope.start_ns, end_ns=scope.end_ns, spans=spans, pinned_ns=time.time_ns())
    store.insert(_sketches(baseline, _most_frequent(numbers, "score."), _most_frequent(_cut(words), "label.")),
                 f"baseline:{baseline.id}:sketches")
    store.insert(_header(baseline), f"baseline:{baseline.id}")
    for one in older:
        _forget(store, one)
    return baseline


def listed(store: Store, tenant: str | None = None) -> list[Baseline]:
    """Every baseline, of one tenant unless None; by tenant, service, model. Raises StoreError."""
    found = store.query(
        "SELECT BaselineId, TenantId, ServiceName, GenAiModel, ServiceVersion, toUnixTimestamp64Nano(WindowStart), "
        f"toUnixTimestamp64Nano(WindowEnd), Spans, Version FROM {quoted(store.database)}.{BASELINES.name} FINAL "
        "WHERE {any:UInt8} = 1 OR TenantId = {tenant:String} ORDER BY TenantId, ServiceName, GenAiModel, ServiceVersion",
        {"any": int(tenant is None), "tenant": tenant or ""})
    return [Baseline(id=row[0], tenant=row[1], service=row[2], model=row[3], version=row[4], start_ns=int(row[5]),
                     end_ns=int(row[6]), spans=int(row[7]), pinned_ns=int(row[8])) for row in found.rows]


def remove(store: Store, id: str, tenant: str | None = None) -> Baseline:
    """Forgets a baseline, of that tenant unless None; what was found with it stays. id: its id, or its first eight digits or more.

    Raises SettingsError (there is none) and StoreError.
    """
    found = [one for one in listed(store, tenant) if one.id == id or (len(id) >= 8 and one.id.startswith(id))]
    if len(found) != 1:
        raise SettingsError(f"there is no baseline {id[:40]!r}: `cutaway baselines list` shows them")
    store.insert(_header(found[0], deleted=True), f"baseline:{found[0].id}:removed")
    _forget(store, found[0])
    return found[0]


def _key(one: Baseline) -> tuple[str, str, str, str]:
    return one.tenant, one.service, one.model, one.version


def _forget(store: Store, one: Baseline) -> None:
    # The id is ours, 32 hex digits.
    store.command(f"DELETE FROM {quoted(store.database)}.{BASELINE_SKETCHES.name} WHERE BaselineId = '{one.id}'")


def _read(store: Store, scope: Scope, numbers: _Counts, words: _Counts) -> int:
    """Adds the scope's histograms; returns its generations."""
    hour, database = attributes.hour_of_week("at"), store.database
    count = store.query(f"SELECT count() {attributes.spans(database)}", scope.bound()).rows[0][0]
    if not count:
        return 0
    for into, cell, relation in ((numbers, sketch.bins_sql("x"), attributes.numbers(database)),
                                 (words, "label", attributes.categories(database))):
        found = store.query(f"SELECT attribute, {hour} AS hour, {cell} AS cell, count() FROM ({relation}) "
                            "GROUP BY attribute, hour, cell", scope.bound())
        for name, hour_number, key, times in found.rows:
            into.setdefault((name, int(hour_number)), Counter())[key] += int(times)
    return int(count)


def _most_frequent(counts: _Counts, prefix: str) -> _Counts:
    """Without all but the most frequent names that senders choose."""
    totals: Counter[str] = Counter()
    for (name, _hour), cells in counts.items():
        totals[name] += sum(cells.values()) if name.startswith(prefix) else 0
    kept = {name for name, _ in totals.most_common(SCORES_MAX)}
    return {key: cells for key, cells in counts.items() if not key[0].startswith(prefix) or key[0] in kept}


def _cut(words: _Counts) -> _Counts:
    """Without all but the most frequent labels, which are counted as OTHER."""
    totals: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for (name, _hour), cells in words.items():
        totals[name].update(cells)
    kept = {name: {label for label, _ in cells.most_common(LABELS_MAX)} for name, cells in totals.items()}
    out: _Counts = {}
    for (name, hour), cells in words.items():
        found = out.setdefault((name, hour), Counter())
        for label, times in cells.items():
            found[label if label in kept[name] else OTHER] += times
    return out


def _sketches(baseline: Baseline, numbers: _Counts, words: _Counts) -> Block:
    rows = [(key, sorted(cells.items()), True) for key, cells in sorted(numbers.items())]
    rows += [(key, sorted(cells.items()), False) for key, cells in sorted(words.items())]

    def offsets(lengths: list[int]) -> Any:
        return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

    bins = [cell for _, cells, plain in rows if plain for cell, _ in cells]
    labels = [cell for _, cells, plain in rows if not plain for cell, _ in cells]
    counts = [times for _, cells, _ in rows for _, times in cells]
    return Block(BASELINE_SKETCHES.name, len(rows), {
        "TenantId": Strings.repeat(baseline.tenant, len(rows)), "BaselineId": Strings.repeat(baseline.id, len(rows)),
        "Attribute": Strings.of([key[0] for key, _, _ in rows]), "HourOfWeek": np.array([key[1] for key, _, _ in rows], np.uint8),
        "Bins": Lists(offsets([len(cells) * plain for _, cells, plain in rows]), np.array(bins, np.int64)),
        "Labels": Lists(offsets([len(cells) * (not plain) for _, cells, plain in rows]), Strings.of(labels)),
        "Counts": Lists(offsets([len(cells) for _, cells, _ in rows]), np.array(counts, np.uint64)),
    })


def _header(baseline: Baseline, *, deleted: bool = False) -> Block:
    texts = {"TenantId": baseline.tenant, "ServiceName": baseline.service, "GenAiModel": baseline.model,
             "ServiceVersion": baseline.version, "BaselineId": baseline.id}
    return Block(BASELINES.name, 1, {
        **{name: Strings.of([text]) for name, text in texts.items()},
        "WindowStart": np.array([baseline.start_ns], np.int64), "WindowEnd": np.array([baseline.end_ns], np.int64),
        "Spans": np.array([baseline.spans], np.uint64),
        "Version": np.array([time.time_ns() if deleted else baseline.pinned_ns], np.uint64),
        "IsDeleted": np.array([deleted], np.uint8)})
