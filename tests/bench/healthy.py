"""How often a healthy model raises an alarm over time: 120 hours in a row, nothing wrong, at every default of drift and alerts.

Real store, real comparison with a pinned baseline, real judging of rules; only the clock and the generations are made. What a
detector claims of one look is in `detectors`; here are its looks one after the other, each at the same baseline.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from tests import drift_helpers as made
from tests.alerts_helpers import Bench

from cutaway_collector.alerts import Desk
from cutaway_collector.alerts.fields import NS
from cutaway_collector.baselines import pin, stored
from cutaway_collector.baselines.attributes import Scope
from cutaway_collector.baselines.compare import compare
from cutaway_collector.contracts import Store
from cutaway_collector.drift.rule import ALPHA
from cutaway_collector.settings import Settings
from cutaway_collector.store import open_store

WINDOWS, GENERATIONS = 120, 400
DAYS = 7
"""Of the pinned window."""
RULES = Path(__file__).parent.parent.parent / "examples" / "alerts.yaml"


@dataclass(frozen=True)
class Alarms:
    """windows: compared; shifted: of those, how many had any shifted attribute; attributes: verdicts; moved: shifted ones.

    fired: alerts of the example rules.
    """

    windows: int
    shifted: int
    attributes: int
    moved: int
    fired: int


def alarms(store: Store, *, seed: int, windows: int = WINDOWS) -> Alarms:
    """One run on an empty store."""
    rng = np.random.default_rng(seed)
    hour_ns, end_ns = made.HOUR_NS, made.START_NS
    week, count = (end_ns - DAYS * 24 * hour_ns, end_ns), DAYS * 24 * GENERATIONS // 4
    store.insert(made.block(made.healthy(rng, count), made.moments(rng, count, *week)), f"week {seed}")
    baseline = pin(store, Scope("", made.SERVICE, made.MODEL, *week))
    Desk(store, Settings(data="unused")).apply({"rules": yaml.safe_load(RULES.read_text())["rules"]})
    bench = Bench(store)
    bench.evaluator.tick(end_ns)
    shifted = attributes = moved = fired = 0
    for window in range(windows):
        start_ns = end_ns + window * hour_ns
        stop_ns = start_ns + hour_ns
        numbers, at_ns = made.healthy(rng, GENERATIONS), made.moments(rng, GENERATIONS, start_ns, stop_ns)
        store.insert(made.block(numbers, at_ns, first=1_000_000 + window * GENERATIONS), f"hour {seed} {window}")
        rows = compare(store, baseline, start_ns, stop_ns)
        stored.write(store, rows)
        hits = [row.attribute for row in rows if row.label == "shifted"]
        shifted, attributes, moved = shifted + bool(hits), attributes + len(rows), moved + len(hits)
        # Ten minutes later, when rules about drift are due; rules about scores look at every minute.
        fired += sum(event.kind == "firing" for event in bench.evaluator.tick(stop_ns + 700 * NS).events)
    return Alarms(windows, shifted, attributes, moved, fired)


def figures(rounds: int) -> Iterator[tuple[str, str, str, list[tuple[float, float]]]]:
    """Shares of windows and of verdicts that are false alarms, beside the level that is claimed; a few runs, not `rounds`."""
    found = []
    for seed in range(max(1, min(rounds, 3))):
        with tempfile.TemporaryDirectory() as folder:
            store = open_store(Settings(data=str(Path(folder) / "data"), retention_days=0, scores_retention_days=0))
            try:
                found.append(alarms(store, seed=seed))
            finally:
                store.close()
    for what, unit, pairs in (
        ("windows with any shift", "share of windows", [(one.shifted / one.windows, ALPHA) for one in found]),
        ("verdicts `shifted`", "share of verdicts", [(one.moved / one.attributes, ALPHA) for one in found]),
        ("alerts of the example rules", "alerts", [(float(one.fired), ALPHA * one.windows) for one in found]),
    ):
        yield f"{what}, {WINDOWS} healthy hours in a row", unit, f"nominal {ALPHA:g} an hour", pairs
