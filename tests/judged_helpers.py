"""Shared by the tests of the pages that judge: one store with firing, quiet and muted alerts, a drifted model and sick windows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from prometheus_client import CollectorRegistry

import alerts_helpers as alarms
import drift_helpers as made
import window_helpers as windows
from alerts_helpers import MINUTE, T0_S, Bench, document
from cutaway_collector.alerts import Desk
from cutaway_collector.alerts.fields import NS
from cutaway_collector.baselines import pin, stored
from cutaway_collector.baselines.attributes import Scope
from cutaway_collector.baselines.compare import compare
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, open_store
from cutaway_collector.web import create_app
from cutaway_collector.windowing import Windows
from drift_helpers import HOUR_NS, MODEL, SERVICE
from flask_serving import serving
from search_helpers import spans_block

MINUTES: Final = 40
NOW_NS: Final = (T0_S + MINUTES * MINUTE) * NS
LONG: Final = "a-name-that-its-owner-made-as-long-as-a-sentence-and-then-some-more"
SHARES: Final = [0, 0.05, 0.1, 0, 0.05, *[0.5, 0.4, 0.6, 0.5] * 3, *[0.05, 0, 0.1] * 8]


@contextmanager
def judged(folder: Path) -> Iterator[ClickHouseStore]:
    """Forty minutes of alerts that end at NOW_NS, three hours of drift before them, and a window of collapsed answers."""
    store = open_store(Settings(data=str(folder / "data"), retention_days=0, scores_retention_days=0))
    try:
        _alerts(store)
        _drift(store)
        _windows(store, folder)
        yield store
    finally:
        store.close()


def _alerts(store: ClickHouseStore) -> None:
    put = alarms.put_minutes
    put(store, SHARES, service="calm-again")
    put(store, [0.05, 0, *[0.1] * 10, *[0.7, 0.5, 0.8] * 9], service="loops-now")
    put(store, [0.05] * 39, service=LONG)
    Desk(store, Settings(data="unused")).apply({
        "channels": [{"name": "ops", "kind": "log"}],
        "rules": [
            document("looping-answers", group_by=["service"], owner="generation team", channels=["ops"], severity="critical",
                     labels={"team": "gen"}, runbook="https://runbooks.example.org/loops <look here first>"),
            document("all-loops", condition={"above": 0.2, "for": "1m"}),
            document("muted-loops", mute_until="2099-01-01", condition={"above": 0.1}),
            document(LONG, query=f"service:{LONG} is:generation repetition:<0.999999999999999999", owner=LONG),
            document("chat-is-silent", query="service:nobody", aggregate=None, of=None,
                     condition={"kind": "no_data", "for": "15m"}),
        ]})
    bench = Bench(store)
    bench.evaluator.tick((T0_S + 31) * NS)
    bench.run(T0_S, MINUTES - 1)
    store.command("OPTIMIZE TABLE otel.cutaway_alert_states FINAL")


def _drift(store: ClickHouseStore) -> None:
    rng = np.random.default_rng(1)
    end_ns = NOW_NS // HOUR_NS * HOUR_NS
    day = end_ns - 30 * HOUR_NS, end_ns - 6 * HOUR_NS
    store.insert(made.block(made.healthy(rng, 2000), made.moments(rng, 2000, *day), first=100_000), "day")
    one = pin(store, Scope("", SERVICE, MODEL, *day))
    for hour in range(6):
        start = day[1] + hour * HOUR_NS
        numbers, last = made.healthy(rng, 200), hour >= 4
        store.insert(made.block(made.cold(numbers) if last else numbers, made.moments(rng, 200, start, start + HOUR_NS),
                                first=200_000 + 10_000 * hour, version="1.1" if last else "1.0"), f"hour {hour}")
        stored.write(store, compare(store, one, start, start + HOUR_NS))


def _windows(store: ClickHouseStore, folder: Path) -> None:
    first_s = T0_S - 4 * 900
    for place, (service, texts) in enumerate((("collapsed", windows.collapsed(20)), ("healthy", windows.healthy(30)))):
        for window in range(4):
            first = 10_000 * (1 + place) + 1000 * window
            spans = [windows.generation(first + number, (first_s + 900 * window + number) * NS, service=service, template=LONG)
                     for number in range(len(texts))]
            store.insert(spans_block(spans), f"{service} {window}")
            store.insert(windows.tokens_block(spans, texts), f"tokens {service} {window}")
    Windows(store, minutes=15, answers_max=50, groups_max=5, folder=folder / "corpora", registry=CollectorRegistry(),
            now_s=lambda: T0_S + 900).catch_up()


@contextmanager
def served(store: ClickHouseStore) -> Iterator[str]:
    """Its pages on a free port of loopback, NOW_NS being the present."""
    with serving(create_app(store, Settings(data="unused"), now_ns=lambda: NOW_NS)) as address:
        yield address
