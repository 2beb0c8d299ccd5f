"""The system page: what comes in, what is refused and why, how full everything is, what runs in the background, and what is stored.

Nothing is measured here: the figures are those of /metrics and /readyz, the tables' sizes those the store gives.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import Any, Final

from prometheus_client import CollectorRegistry

from cutaway_collector.columns import TABLES
from cutaway_collector.contracts import Store
from cutaway_collector.search import storage
from cutaway_collector.settings import Settings
from cutaway_collector.store import schema
from cutaway_collector.web import charts, figures, urls
from cutaway_collector.web.site import Site

Status = Callable[[], tuple[bool, Mapping[str, Any]]]
MINUTES: Final = 60
FULL_WARN: Final = 0.5
FULL_BAD: Final = 0.9
_SECRET: Final = ("clickhouse",)
_UNITS: Final = ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"))
COUNTERS: Final[tuple[tuple[str, str], ...]] = (
    ("cutaway_spans_accepted_total", "Spans accepted: safe on disk"), ("cutaway_spans_stored_total", "Spans stored"),
    ("cutaway_spans_rejected_total", "Spans turned away, the sender was told why"),
    ("cutaway_spans_lost_total", "Spans lost: the store will never take them"),
    ("cutaway_sequences_stored_total", "Token series stored"), ("cutaway_scores_stored_total", "Scores stored"),
    ("cutaway_insert_failures_total", "Inserts that failed and were tried again or split"),
)
"""Series, what it says: since the collector started."""
FLOWS: Final[tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...]] = (
    ("Judging texts", "judge", (
        ("cutaway_judging_lag_seconds", "s behind"), ("cutaway_judging_sequences_total", "sequences judged"),
        ("cutaway_judging_failures_total", "failures"), ("cutaway_judging_left_out_spans_total", "spans left out"))),
    ("Window scores", "windows_minutes", (
        ("cutaway_windows_judged_total", "windows judged"), ("cutaway_window_failures_total", "failures"),
        ("cutaway_windows_passed_over_total", "given up"))),
    ("Drift", "drift_interval_minutes", (
        ("cutaway_drift_windows_total", "windows compared"), ("cutaway_drift_failures_total", "failures"))),
    ("Alerts", "alerts_interval_seconds", (
        ("cutaway_alerts_rules", "rules"), ("cutaway_alerts_lag_seconds", "s overdue"),
        ("cutaway_alerts_deliveries_waiting", "deliveries waiting"), ("cutaway_alerts_evaluation_failures_total", "failures"))),
    ("Back-fill", "", (
        ("cutaway_backfill_running", "running"), ("cutaway_backfill_sequences_total", "sequences read again"),
        ("cutaway_backfill_failures_total", "failures"))),
    ("Scores sent on", "scores_forward", (
        ("cutaway_scores_forwarded_total", "sent"), ("cutaway_scores_forward_waiting", "waiting"),
        ("cutaway_scores_forward_dropped_total", "dropped"))),
)
"""Name, the setting that switches it off, its series with what they count."""


@dataclass(frozen=True, slots=True)
class Gauge:
    """Something with a limit. tone: good, warn or bad."""

    name: str
    used: str
    limit: str
    share: float
    tone: str
    help: str


@dataclass(frozen=True, slots=True)
class Flow:
    """Something that runs in the background. state: on, off, or what is wrong."""

    name: str
    state: str
    tone: str
    figures: tuple[tuple[str, str], ...]
    trouble: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stored:
    """One table as printed. share: percent of all bytes; days: how long rows are kept."""

    name: str
    what: str
    rows: str
    stored: str
    ratio: str
    share: float
    parts: str
    days: str


@dataclass(frozen=True, slots=True)
class SystemPage:
    """Everything the template may use. changed: settings that are not their default, secrets left out."""

    ready: bool
    phase: str
    reasons: tuple[str, ...]
    histogram: charts.Histogram
    rate: str
    gauges: tuple[Gauge, ...]
    counters: tuple[tuple[str, str, bool], ...]
    requests: tuple[tuple[str, str, str], ...]
    letters_total: int
    letters: tuple[storage.Letter, ...]
    flows: tuple[Flow, ...]
    tables: tuple[Stored, ...]
    total: str
    columns: tuple[tuple[str, str, str, str], ...]
    slow: tuple[storage.SlowQuery, ...] | None
    findings: tuple[str, ...]
    versions: tuple[tuple[str, str], ...]
    changed: tuple[tuple[str, str], ...]
    twin_url: str


@dataclass(frozen=True, slots=True)
class Insides:
    """What the page looks into. store: not a visitor's view of it."""

    store: Store
    registry: CollectorRegistry
    status: Status | None


def facts(site: Site, insides: Insides) -> dict[str, Any]:
    """Everything as plain JSON values; what the page prints. Raises StoreError."""
    ready, details = insides.status() if insides.status else (True, {})
    samples = _samples(insides.registry)
    start_ns, counts = storage.per_minute(insides.store, MINUTES)
    letters_total, letters = storage.dead_letters(insides.store)
    slow = storage.slow_queries(insides.store)
    return {
        "ready": ready, "status": dict(details), "metrics": samples,
        "stored_per_minute": {"start_ns": start_ns, "counts": counts}, "dead_letters": {"total": letters_total,
                                                                                        "newest": [asdict(one) for one in letters]},
        "tables": [asdict(one) for one in storage.tables(insides.store)],
        "columns": [asdict(one) for one in storage.columns(insides.store)],
        "slow_queries": None if slow is None else [asdict(one) for one in slow],
        "schema_findings": schema.check(insides.store, site.settings), "versions": dict(_versions(insides.store)),
        "settings_changed": dict(_changed(site.settings)),
    }


def page(site: Site, insides: Insides) -> SystemPage:
    """The page. Raises StoreError."""
    found = facts(site, insides)
    status, samples, settings = found["status"], found["metrics"], site.settings
    minutes = found["stored_per_minute"]
    whole = minutes["counts"][-6:-1]  # the last minute is not over
    stored = sum(one["stored"] for one in found["tables"])
    letters = found["dead_letters"]
    return SystemPage(
        found["ready"], str(status.get("phase", "")), tuple(status.get("reasons", ())),
        charts.histogram(minutes["start_ns"], 60 * 10**9, minutes["counts"], [0] * MINUTES),
        figures.number(sum(whole) / (60 * len(whole))), _gauges(status, settings),
        tuple((words, figures.count(int(_sum(samples, name))), "lost" in name or "failures" in name) for name, words in COUNTERS
              if name in samples),
        _requests(samples), letters["total"], tuple(storage.Letter(**one) for one in letters["newest"]),
        _flows(samples, status, settings),
        tuple(_stored(one, stored, settings) for one in found["tables"]), size(stored),
        tuple((one["table"], one["name"], size(one["stored"]), _ratio(one["raw"], one["stored"])) for one in found["columns"]),
        None if found["slow_queries"] is None else tuple(storage.SlowQuery(**one) for one in found["slow_queries"]),
        tuple(found["schema_findings"]), tuple(found["versions"].items()), tuple(found["settings_changed"].items()),
        urls.system(json=True))


def _samples(registry: CollectorRegistry) -> dict[str, list[dict[str, Any]]]:
    """Series name -> its samples; buckets of histograms left out."""
    found: dict[str, list[dict[str, Any]]] = {}
    for family in registry.collect():
        for sample in family.samples:
            if not sample.name.endswith(("_bucket", "_created")):
                found.setdefault(sample.name, []).append({"labels": dict(sample.labels), "value": sample.value})
    return found


def _sum(samples: Mapping[str, list[dict[str, Any]]], name: str) -> float:
    return sum(float(one["value"]) for one in samples.get(name, ()))


def _requests(samples: Mapping[str, list[dict[str, Any]]]) -> tuple[tuple[str, str, str], ...]:
    """(outcome, encoding, count), what was refused first."""
    rows = [(one["labels"]["outcome"], one["labels"]["encoding"], one["value"])
            for one in samples.get("cutaway_requests_total", ())]
    return tuple((outcome, encoding, figures.count(int(value)))
                 for outcome, encoding, value in sorted(rows, key=lambda row: (row[0] == "accepted", row[0], row[1])))


def _gauges(status: Mapping[str, Any], settings: Settings) -> tuple[Gauge, ...]:
    known = (
        ("queue_bytes", "Queue", settings.queue_bytes_max,
         "requests being read or waiting to be stored; full, senders are asked to come back"),
        ("spool_bytes", "Spool", settings.spool_bytes_max,
         "acknowledged and not stored yet, on disk; it takes spans while the store is away"),
        ("dead_letter_bytes", "Dead letters", settings.dead_letters_bytes_max,
         "requests the store refused, kept to be looked at; the oldest go first"),
    )
    return tuple(_gauge(name, int(status[key]), limit, words) for key, name, limit, words in known if key in status)


def _gauge(name: str, used: int, limit: int, words: str) -> Gauge:
    share = used / limit
    tone = "bad" if share >= FULL_BAD else "warn" if share >= FULL_WARN else "good"
    return Gauge(name, size(used), size(limit), min(100.0, 100 * share), tone, words)


def _flows(samples: Mapping[str, list[dict[str, Any]]], status: Mapping[str, Any], settings: Settings) -> tuple[Flow, ...]:
    found = []
    for name, setting, series in FLOWS:
        value = getattr(settings, setting) if setting else True
        off = not value or value == "off"
        shown = tuple((words, figures.number(_sum(samples, one))) for one, words in series if one in samples)
        trouble = [f"{words}: {figures.number(_sum(samples, one))}" for one, words in series
                   if words in ("failures", "given up", "dropped", "spans left out") and _sum(samples, one)]
        if setting == "judge":
            judging = status.get("judging", {})
            said = [f"{scorer}: {why}" for scorer, why in judging.get("trouble", {}).items()]
            trouble = [*said, *filter(None, [judging.get("store")]), *trouble]
        state = "off" if off else "not here" if not shown else "on"
        found.append(Flow(name, state, "" if state != "on" else "warn" if trouble else "good", shown, tuple(trouble)))
    return tuple(found)


def _stored(one: Mapping[str, Any], total: int, settings: Settings) -> Stored:
    table = next(table for table in TABLES if table.name == one["name"])
    days = int(getattr(settings, table.retention)) if table.retention else 0
    return Stored(table.name, table.reason, figures.count(one["rows"]), size(one["stored"]), _ratio(one["raw"], one["stored"]),
                  100 * one["stored"] / (total or 1), figures.count(one["parts"]), f"{days} days" if days else "for ever")


def _ratio(raw: int, stored: int) -> str:
    return f"{raw / stored:.1f}×" if stored and raw else figures.ABSENT


def size(nbytes: int) -> str:
    """Bytes -> "1.5 MiB"."""
    for limit, unit in _UNITS:
        if nbytes >= limit:
            return f"{figures.number(nbytes / limit)}\u202f{unit}"
    return f"{nbytes}\u202fB"


def _versions(store: Store) -> list[tuple[str, str]]:
    engine, up_s = storage.version(store)
    packages = [(name, _version(name)) for name in ("cutaway", "chdb", "clickhouse-connect", "flask", "numpy", "numba")]
    return [*packages, ("ClickHouse", f"{engine}, up for {figures.duration(up_s * 1e9)}"), ("Python", platform.python_version()),
            ("System", f"{platform.system()} {platform.release()}, {sys.platform} {platform.machine()}")]


def _version(package: str) -> str:
    try:
        return version_of(package)
    except PackageNotFoundError:
        return "not installed as a package"


def _changed(settings: Settings) -> list[tuple[str, str]]:
    """Settings that are not their default. A ClickHouse URL may hold a password: only that there is one is told."""
    return [(item.name, "(set)" if item.name in _SECRET else str(getattr(settings, item.name))) for item in fields(settings)
            if getattr(settings, item.name) != item.default]
