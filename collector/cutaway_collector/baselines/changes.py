"""Where a change began, and what was deployed then: CUSUM over the means of short buckets, and changes of service.version.

Looks only for attributes that are known to have shifted, so it raises no alarm of its own. Not for a change that leaves the mean
where it was: a width that grew is found by the comparison, and its beginning is not.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from cutaway_collector.baselines import attributes
from cutaway_collector.baselines.attributes import VERSION, Scope
from cutaway_collector.columns import TRACES
from cutaway_collector.contracts import Store
from cutaway_collector.drift import sketch
from cutaway_collector.drift.rule import Comparison
from cutaway_collector.drift.streams import change_point

BUCKETS: Final = 12
"""Of one window."""
WINDOWS_BACK: Final = 24
"""How far back a beginning is looked for. By the hour, of the week or of any day, it is the window itself: other hours differ."""
VALUES_MIN: Final = 5
"""Values of a bucket whose mean counts."""
DEPLOYMENT_BUCKETS: Final = 2
"""A deployment this near to the beginning is named with it."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """The first generation under a service.version that took over from another. previous: the version before."""

    ns: int
    version: str
    previous: str

    def shown(self) -> dict[str, str | int]:
        """Plain JSON values."""
        return {"ns": self.ns, "version": self.version, "previous": self.previous}


def locate(store: Store, scope: Scope, shifted: Sequence[Comparison], *, by_hour: bool) -> dict[str, tuple[int, str]]:
    """Attribute -> (nanoseconds at which its change began, the version deployed then or ""). Raises StoreError."""
    length_ns = scope.end_ns - scope.start_ns
    step_ns = max(1, length_ns // BUCKETS)
    back = replace(scope, start_ns=scope.start_ns if by_hour else max(0, scope.start_ns - WINDOWS_BACK * length_ns))
    series = _series(store, back, shifted, step_ns)
    begun = {one.attribute: back.start_ns + bucket * step_ns
             for one in shifted if (bucket := began(series.get(one.attribute, []), one.reference_level, one.reference_sd)) >= 0}
    deployed = deployments(store, back, step_ns) if begun else []
    found = {}
    for name, ns in begun.items():
        near = [(abs(one.ns - ns), one.version) for one in deployed if abs(one.ns - ns) <= DEPLOYMENT_BUCKETS * step_ns]
        found[name] = (ns, min(near)[1] if near else "")
    return found


def began(series: Sequence[tuple[int, int, float]], level: float, spread: float) -> int:
    """(bucket, values, mean) in order -> the bucket in which the mean left `level`, -1 when a CUSUM does not say so at the end.

    spread: sd of one value.
    """
    if not spread > 0:
        return -1
    kept = [(bucket, (mean - level) / spread * math.sqrt(values)) for bucket, values, mean in series if values >= VALUES_MIN]
    place = change_point([z for _, z in kept])
    return kept[place][0] if place >= 0 else -1


def deployments(store: Store, scope: Scope, step_ns: int) -> list[Deployment]:
    """Every change of the version that most generations of a bucket carry, in order of time. Raises StoreError."""
    found = store.query(
        f"SELECT intDiv(toUnixTimestamp64Nano(Timestamp) - {{start:Int64}}, {{step:Int64}}) AS bucket, {VERSION} AS version, "
        f"count() AS n, toUnixTimestamp64Nano(min(Timestamp)) AS first {attributes.spans(store.database)} "
        f"AND version != '' GROUP BY bucket, version ORDER BY bucket, n DESC, version", {**scope.bound(), "step": step_ns})
    return _takeovers([(int(bucket), str(version), int(first)) for bucket, version, _, first in found.rows])


def deployments_of_services(store: Store, services: Sequence[str], start_ns: int, end_ns: int,
                            step_ns: int) -> dict[tuple[str, str], list[Deployment]]:
    """(tenant, service) -> the same of all generations of each service, whatever their model. Raises StoreError."""
    found = store.query(
        f"SELECT TenantId, ServiceName, intDiv(toUnixTimestamp64Nano(Timestamp) - {{start:Int64}}, {{step:Int64}}) AS bucket, "
        f"{VERSION} AS version, count() AS n, toUnixTimestamp64Nano(min(Timestamp)) AS first "
        f"FROM {attributes.quoted(store.database)}.{TRACES.name} "
        "WHERE Timestamp >= fromUnixTimestamp64Nano({start:Int64}) AND Timestamp < fromUnixTimestamp64Nano({end:Int64}) "
        "AND has({services:Array(String)}, ServiceName) AND GenAiModel != '' AND version != '' "
        "GROUP BY TenantId, ServiceName, bucket, version ORDER BY TenantId, ServiceName, bucket, n DESC, version",
        {"start": start_ns, "end": end_ns, "step": step_ns, "services": list(services)})
    rows: defaultdict[tuple[str, str], list[tuple[int, str, int]]] = defaultdict(list)
    for tenant, service, bucket, version, _, first in found.rows:
        rows[tenant, service].append((int(bucket), str(version), int(first)))
    return {key: _takeovers(each) for key, each in rows.items()}


def _takeovers(rows: Sequence[tuple[int, str, int]]) -> list[Deployment]:
    """(bucket, version, its first moment), of a bucket the most frequent version first -> changes of that version."""
    buckets: defaultdict[int, list[tuple[str, int]]] = defaultdict(list)
    for bucket, version, first in rows:
        buckets[bucket].append((version, first))
    out: list[Deployment] = []
    current, since = "", dict[str, int]()
    for bucket in sorted(buckets):
        present = dict(buckets[bucket])
        # A version that was gone is new again: a roll-back is a deployment, too.
        since = {version: since.get(version, first) for version, first in present.items()}
        main = buckets[bucket][0][0]
        if current and main != current:
            out.append(Deployment(since[main], main, current))
        current = main
    return out


def main_version(store: Store, scope: Scope) -> str:
    """The service.version of most generations, "" where none is said. Raises StoreError."""
    found = store.query(f"SELECT {VERSION} AS version {attributes.spans(store.database)} "
                        "GROUP BY version ORDER BY count() DESC, version LIMIT 1", scope.bound()).rows
    return str(found[0][0]) if found else ""


def _series(store: Store, scope: Scope, shifted: Sequence[Comparison], step_ns: int) -> dict[str, list[tuple[int, int, float]]]:
    """Attribute -> (bucket, values, mean or share) in order."""
    bucket = "intDiv(toUnixTimestamp64Nano(at) - {start:Int64}, {step:Int64})"
    # Binned like the reference, or its rounding would look like a change.
    value = sketch.representative_sql(sketch.bins_sql("x"))
    parts = (("number", value, attributes.numbers(store.database)),
             ("category", "label = transform(attribute, {names:Array(String)}, {moved:Array(String)}, '')",
              attributes.categories(store.database)))
    out: defaultdict[str, list[tuple[int, int, float]]] = defaultdict(list)
    for kind, mean, relation in parts:
        of_kind = [one for one in shifted if one.kind == kind]
        if not of_kind:
            continue
        found = store.query(
            f"SELECT attribute, {bucket} AS bucket, count(), avg({mean}) FROM ({relation}) "
            "WHERE has({names:Array(String)}, attribute) GROUP BY attribute, bucket ORDER BY attribute, bucket",
            {**scope.bound(), "step": step_ns, "names": [one.attribute for one in of_kind],
             "moved": [one.moved for one in of_kind]})
        for name, index, values, average in found.rows:
            out[name].append((int(index), int(values), float(average)))
    return out
