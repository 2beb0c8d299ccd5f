"""What was found, window by window, in gen_ai_drift: written once a window, read back for pages and after a restart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from cutaway_collector.baselines.attributes import quoted
from cutaway_collector.baselines.compare import Drift
from cutaway_collector.baselines.pins import Baseline
from cutaway_collector.blocks import Block, Nullable, Strings
from cutaway_collector.columns import DRIFT
from cutaway_collector.contracts import Store

_TEXTS: Final = (("ServiceVersion", "service_version"), ("Reference", "reference"), ("Attribute", "attribute"),
                 ("Statistic", "statistic"), ("Label", "label"), ("Moved", "moved"), ("ChangeVersion", "change_version"))
_HOLES: Final = (("P", "p"), ("Q", "q"), ("Psi", "psi"), ("JensenShannon", "jensen_shannon"), ("Wasserstein", "wasserstein"),
                 ("Ks", "ks"), ("Level", "level"), ("ReferenceLevel", "reference_level"),
                 ("Deviation", "deviation"))


def write(store: Store, rows: Sequence[Drift]) -> None:
    """The rows of one baseline and window; the same window again is the same insert. Raises StoreError."""
    if not rows:
        return
    one = rows[0]
    store.insert(block(rows), f"drift:{one.baseline.id}:{one.start_ns}:{one.end_ns}")


def block(rows: Sequence[Drift]) -> Block:
    """The rows as a block of gen_ai_drift."""
    count, one = len(rows), rows[0].baseline

    def numbers(name: str, dtype: type) -> Any:
        return np.array([getattr(row, name) for row in rows], dtype)

    def nullable(name: str, dtype: type) -> Nullable:
        values = [getattr(row, name) for row in rows]
        return Nullable(np.array([0 if value is None else value for value in values], dtype),
                        np.array([value is None for value in values], bool))

    return Block(DRIFT.name, count, {
        "TenantId": Strings.repeat(one.tenant, count), "ServiceName": Strings.repeat(one.service, count),
        "GenAiModel": Strings.repeat(one.model, count), "BaselineId": Strings.repeat(one.id, count),
        **{column: Strings.of([str(getattr(row, name)) for row in rows]) for column, name in _TEXTS},
        **{column: nullable(name, np.float64) for column, name in _HOLES},
        "WindowStart": numbers("start_ns", np.int64), "WindowEnd": numbers("end_ns", np.int64),
        "Value": numbers("value", np.float64), "N": numbers("n", np.uint64), "ReferenceN": numbers("reference_n", np.uint64),
        "ChangedAt": nullable("changed_ns", np.int64)})


def read(store: Store, baseline: Baseline, *, windows: int, before_ns: int = 2**63 - 1, attribute: str = "") -> list[Drift]:
    """The rows of the newest windows that end at `before_ns` or earlier, oldest window first; of one attribute unless "".

    Raises StoreError.
    """
    texts, holes = ", ".join(column for column, _ in _TEXTS), ", ".join(column for column, _ in _HOLES)
    where = "TenantId = {tenant:String} AND BaselineId = {baseline:String} AND toUnixTimestamp64Nano(WindowEnd) <= {before:Int64}"
    table = f"{quoted(store.database)}.{DRIFT.name}"
    found = store.query(
        f"SELECT {texts}, {holes}, toUnixTimestamp64Nano(WindowStart), toUnixTimestamp64Nano(WindowEnd), Value, N, ReferenceN, "
        f"toUnixTimestamp64Nano(ChangedAt) FROM {table} FINAL WHERE {where} AND WindowEnd IN "
        f"(SELECT DISTINCT WindowEnd FROM {table} WHERE {where} ORDER BY WindowEnd DESC LIMIT {{windows:UInt32}}) "
        "AND ({attribute:String} = '' OR Attribute = {attribute:String}) "
        "ORDER BY WindowEnd, WindowStart, Attribute",
        {"tenant": baseline.tenant, "baseline": baseline.id, "windows": windows, "before": before_ns, "attribute": attribute})
    names = [name for _, name in (*_TEXTS, *_HOLES)] + ["start_ns", "end_ns", "value", "n", "reference_n", "changed_ns"]
    return [Drift(baseline=baseline, **dict(zip(names, row, strict=True))) for row in found.rows]


def newest(store: Store, length_ns: int) -> dict[str, int]:
    """Baseline id -> end of its newest stored window of this length. Raises StoreError."""
    found = store.query(
        f"SELECT BaselineId, max(toUnixTimestamp64Nano(WindowEnd)) FROM {quoted(store.database)}.{DRIFT.name} "
        "WHERE toUnixTimestamp64Nano(WindowEnd) - toUnixTimestamp64Nano(WindowStart) = {length:Int64} GROUP BY BaselineId",
        {"length": length_ns})
    return {row[0]: int(row[1]) for row in found.rows}
