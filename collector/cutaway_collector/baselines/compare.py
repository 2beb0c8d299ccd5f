"""One window against its baseline: distances in SQL over sketches and spans, p-values, q-values, and where the change began.

Stores nothing: see `stored`. The rule that decides is drift/rule.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cutaway_collector.baselines import attributes, changes
from cutaway_collector.baselines.attributes import HOURS, Scope, quoted, reference_hours
from cutaway_collector.baselines.deviation import deviation, known_hours
from cutaway_collector.baselines.pins import OTHER, Baseline, listed
from cutaway_collector.columns import BASELINE_SKETCHES
from cutaway_collector.contracts import Result, Store
from cutaway_collector.drift import rule, significance, sketch, sql
from cutaway_collector.drift.rule import Comparison, Label
from cutaway_collector.errors import SettingsError

HOUR_VALUES_MIN: Final = 300
"""Reference values that the same hours of the week must hold; with fewer those of any day, with fewer still all hours stand in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """One attribute of one window. What it says is explained at the columns of gen_ai_drift.

    q is None with label `few`; changed_ns is None when nothing shifted or the place is not found.
    """

    baseline: Baseline
    start_ns: int
    end_ns: int
    service_version: str
    reference: str
    attribute: str
    statistic: str
    value: float
    p: float | None
    q: float | None
    n: int
    reference_n: int
    label: Label
    psi: float
    jensen_shannon: float
    wasserstein: float | None
    ks: float | None
    level: float
    reference_level: float
    moved: str
    deviation: float | None = None
    changed_ns: int | None = None
    change_version: str = ""

    def shown(self) -> dict[str, Any]:
        """Plain JSON values."""
        names = ("attribute", "statistic", "value", "p", "q", "n", "reference_n", "label", "psi", "jensen_shannon", "wasserstein",
                 "ks", "level", "reference_level", "deviation", "moved", "changed_ns", "change_version", "reference", "start_ns",
                 "end_ns", "service_version")
        one = self.baseline
        return {"baseline": one.id, "tenant": one.tenant, "service": one.service, "model": one.model,
                **{name: getattr(self, name) for name in names}}


def drift_of(store: Store, tenant: str, window: tuple[int, int], *, service: str = "", model: str = "",
             attribute: str = "") -> list[Drift]:
    """How far a window (start_ns, end_ns) is from every baseline of the tenant, or from those of a service and a model.

    attribute: this one alone; its q-value is still that among all. A baseline without values in the window gives no row.
    Raises SettingsError (the window is empty) and StoreError.
    """
    start_ns, end_ns = window
    if not 0 <= start_ns < end_ns:
        raise SettingsError("a window ends after it begins")
    rows: list[Drift] = []
    for baseline in listed(store, tenant):
        if service in ("", baseline.service) and model in ("", baseline.model):
            rows += compare(store, baseline, start_ns, end_ns)
    return [row for row in rows if attribute in ("", row.attribute)]


def compare(store: Store, baseline: Baseline, start_ns: int, end_ns: int) -> list[Drift]:
    """One baseline, one window; attributes that lack values on either side are left out. Raises StoreError."""
    scope = Scope(baseline.tenant, baseline.service, baseline.model, start_ns, end_ns)
    reference = _reference_of(store, baseline, start_ns, end_ns)
    hours, by_hour = reference_hours(reference, start_ns, end_ns), reference != "all"
    bound = {**scope.bound(), "baseline": baseline.id, "hours": hours, "other": OTHER}
    found = sorted([*_numbers(store, bound), *_categories(store, bound)], key=lambda one: one.attribute)
    if not found:
        return []
    verdicts = rule.judge(found)
    shifted = [one for one, (_, label) in zip(found, verdicts, strict=True) if label == "shifted"]
    began = changes.locate(store, scope, shifted, by_hour=by_hour) if shifted else {}
    version = changes.main_version(store, scope)
    known = known_hours(store, baseline.tenant, baseline.id)
    rows = []
    for one, (q, label) in zip(found, verdicts, strict=True):
        changed_ns, change_version = began.get(one.attribute, (None, ""))
        rows.append(Drift(
            baseline=baseline, start_ns=start_ns, end_ns=end_ns, service_version=version, reference=reference,
            attribute=one.attribute, statistic=one.statistic, value=one.value, p=None if one.few else one.p, q=q, n=one.n,
            reference_n=one.reference_n, label=label, psi=one.psi, jensen_shannon=one.jensen_shannon, wasserstein=one.wasserstein,
            ks=one.ks, level=one.level, reference_level=one.reference_level, moved=one.moved,
            deviation=deviation(one, known.get(one.attribute), by_hour=by_hour), changed_ns=changed_ns,
            change_version=change_version))
    return rows


def histograms(store: Store, baseline: Baseline, start_ns: int, end_ns: int) -> dict[str, dict[int | str, tuple[float, float]]]:
    """Attribute -> bin or label -> (count in the reference, count in the window). The reference is the one `compare` takes."""
    hours = reference_hours(_reference_of(store, baseline, start_ns, end_ns), start_ns, end_ns)
    scope = Scope(baseline.tenant, baseline.service, baseline.model, start_ns, end_ns)
    bound = {**scope.bound(), "baseline": baseline.id, "hours": hours, "other": OTHER}
    out: dict[str, dict[int | str, tuple[float, float]]] = {}
    for cell, relation in (("bin", _cells(store.database)), ("label", _words(store.database))):
        found = store.query(f"SELECT attribute, {cell}, sumIf(w, side = 0), sumIf(w, side = 1) FROM ({relation}) "
                            f"GROUP BY attribute, {cell} ORDER BY attribute, {cell}", bound)
        for name, key, before, now in found.rows:
            out.setdefault(name, {})[key] = (float(before), float(now))
    return out


def _reference_of(store: Store, baseline: Baseline, start_ns: int, end_ns: int) -> str:
    """The nearest to the window that the baseline knows well enough: its hours of the week, else of any day, else every hour.

    Without the step between, a service of a hundred generations an hour would be called shifted every night, by its day alone.
    """
    hours, daily = (reference_hours(one, start_ns, end_ns) for one in ("hour", "day"))
    if len(hours) == HOURS:
        return "all"
    week, day = store.query(
        "SELECT max(week), max(day) FROM (SELECT sumIf(arraySum(Counts), has({hours:Array(UInt8)}, HourOfWeek)) AS week, "
        f"sum(arraySum(Counts)) AS day FROM {_sketches(store.database)} "
        "AND has({daily:Array(UInt8)}, HourOfWeek) GROUP BY Attribute)",
        {"tenant": baseline.tenant, "baseline": baseline.id, "hours": hours, "daily": daily}).rows[0]
    if int(week) >= HOUR_VALUES_MIN:
        return "hour"
    return "day" if int(day) >= HOUR_VALUES_MIN and len(daily) < HOURS else "all"


def _sketches(database: str) -> str:
    return (f"{quoted(database)}.{BASELINE_SKETCHES.name} WHERE TenantId = {{tenant:String}} "
            "AND BaselineId = {baseline:String}")


def _reference(database: str, cell: str, column: str) -> str:
    kept = (f"SELECT Attribute, {column} AS cells, Counts FROM {_sketches(database)} AND notEmpty({column}) "
            "AND has({hours:Array(UInt8)}, HourOfWeek)")
    return (f"SELECT Attribute AS attribute, toUInt8(0) AS side, {cell}, toFloat64(times) AS w "
            f"FROM ({kept}) ARRAY JOIN cells AS cell, Counts AS times")


def _cells(database: str) -> str:
    """Relation attribute, side, bin, w of the numbers of both sides."""
    return (f"{_reference(database, 'cell AS bin', 'Bins')} UNION ALL SELECT attribute, toUInt8(1) AS side, "
            f"{sketch.bins_sql('x')} AS bin, toFloat64(count()) AS w FROM ({attributes.numbers(database)}) GROUP BY attribute, bin")


def _words(database: str) -> str:
    """Relation attribute, side, label, w of the words of both sides; what the reference does not name is OTHER."""
    known = f"(attribute, label) IN (SELECT Attribute, arrayJoin(Labels) FROM {_sketches(database)})"
    return (f"{_reference(database, 'toString(cell) AS label', 'Labels')} UNION ALL SELECT attribute, toUInt8(1) AS side, "
            f"if({known}, label, {{other:String}}) AS label, toFloat64(count()) AS w "
            f"FROM ({attributes.categories(database)}) GROUP BY attribute, label")


def _numbers(store: Store, bound: dict[str, Any]) -> list[Comparison]:
    relation = f"SELECT attribute, side, {sketch.representative_sql('bin')} AS x, w FROM ({_cells(store.database)})"
    found = _rows(store.query(sql.numbers(relation), bound))
    small = [row["attribute"] for row in found if max(row["n"], row["reference_n"]) <= rule.SMALL_MAX]
    exact: dict[str, float] = {}
    if small:
        chosen = f"SELECT * FROM ({relation}) WHERE has({{small:Array(String)}}, attribute)"
        exact = {row["attribute"]: row["p"] for row in _rows(store.query(sql.exact_ks(chosen), {**bound, "small": small}))}
    return [Comparison(
        attribute=row["attribute"], kind="number", reference_n=int(row["reference_n"]), n=int(row["n"]),
        p=exact.get(row["attribute"], significance.ks_p(row["ks"], int(row["reference_n"]), int(row["n"]))),
        psi=row["psi"], jensen_shannon=row["jensen_shannon"], ks=row["ks"],
        wasserstein=rule.scaled(row["wasserstein"], row["reference_sd"]), chi_square=None, level=row["mean"],
        reference_level=row["reference_mean"], reference_sd=row["reference_sd"]) for row in found]


def _categories(store: Store, bound: dict[str, Any]) -> list[Comparison]:
    return [Comparison(
        attribute=row["attribute"], kind="category", reference_n=int(row["reference_n"]), n=int(row["n"]),
        p=significance.chi_square_p(row["chi_square"], int(row["freedom"])), psi=row["psi"], jensen_shannon=row["jensen_shannon"],
        ks=None, wasserstein=None, chi_square=row["chi_square"], level=row["share"], reference_level=row["reference_share"],
        reference_sd=rule.share_sd(row["reference_share"]), moved=row["moved"])
        for row in _rows(store.query(sql.categories(_words(store.database)), bound))]


def _rows(found: Result) -> Sequence[dict[str, Any]]:
    return [dict(zip(found.columns, row, strict=True)) for row in found.rows]
