"""Alerts inside a running collector: the thread that judges, the threads that deliver, and their figures. Judges nothing itself."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from cutaway_collector.alerts.book import Book
from cutaway_collector.alerts.channels import Channels, Secrets
from cutaway_collector.alerts.deliveries import Deliveries, Send
from cutaway_collector.alerts.egress import Egress, networks
from cutaway_collector.alerts.evaluator import Evaluator
from cutaway_collector.alerts.lease import Lease
from cutaway_collector.contracts import Store
from cutaway_collector.errors import StoreError
from cutaway_collector.settings import Settings

_LOG: Final = logging.getLogger(__name__)
_LEASE_LOOK_S: Final = 1.0
RULES_SHOWN_MAX: Final = 200
"""Rules with a series of their own in /metrics; the others are one series together."""


class Alerts:
    """Evaluator, deliveries and their threads. Making one starts nothing; `start` does.

    caught_up: false while spans that have arrived are not stored yet: judging waits, so that an outage of the store does not look
    like an outage of the senders. Raises SettingsError for settings that are wrong.
    """

    def __init__(self, store: Store, settings: Settings, *, registry: CollectorRegistry,
                 caught_up: Callable[[], bool] = lambda: True, send: Send | None = None,
                 now_ns: Callable[[], int] = time.time_ns) -> None:
        self._interval_s = settings.alerts_interval_seconds
        self._caught_up = caught_up
        self._now_ns = now_ns
        # A data directory has one owner, a server may have many collectors.
        self._lease = Lease(store) if settings.clickhouse else None
        self._stop = threading.Event()
        self._said = ""
        book = Book(store)
        egress = Egress(networks(settings.alerts_networks))
        delivered = Counter("cutaway_alerts_deliveries", "tries of deliveries", ["channel", "outcome"], registry=registry)
        self.deliveries = Deliveries(
            book, send or Channels(egress, Secrets(secrets_directory(settings))).send, lambda: self.evaluator.definitions.channels,
            attempts_max=settings.alerts_attempts_max, may_send=self._mine,
            on_outcome=lambda channel, fine: delivered.labels(channel, "delivered" if fine else "failed").inc())
        self.evaluator = Evaluator(store, book, lateness_s=settings.alerts_lateness_seconds, deliver=self.deliveries.add,
                                   base=settings.ui_url, room=self.deliveries.room)
        self._windows = Counter("cutaway_alerts_windows", "windows that rules judged", registry=registry)
        self._events = Counter("cutaway_alerts_events", "alerts that began or ended", ["kind"], registry=registry)
        self._failures = Counter("cutaway_alerts_evaluation_failures", "rules that could not be judged", registry=registry)
        self._left_out = Gauge("cutaway_alerts_groups_left_out", "groups beyond what rules judge, last time", registry=registry)
        self._took = Gauge("cutaway_alerts_evaluation_seconds", "how long the last look took", registry=registry)
        Gauge("cutaway_alerts_rules", "rules that are judged", registry=registry).set_function(
            lambda: float(len(self.evaluator.definitions.rules)))
        Gauge("cutaway_alerts_deliveries_waiting", "deliveries that are not done", registry=registry).set_function(
            lambda: float(self.deliveries.waiting))
        Gauge("cutaway_alerts_lag_seconds", "by how much the rule furthest behind is overdue", registry=registry).set_function(
            lambda: self.evaluator.lag_s(self._now_ns()))
        Gauge("cutaway_alerts_judging", "1 where this collector judges the rules, 0 where another one of the server does",
              registry=registry).set_function(lambda: float(bool(self._interval_s) and self._mine()))
        registry.register(_Firing(self.evaluator))
        self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)

    def start(self) -> None:
        """Begins, unless the settings say that nothing is judged."""
        if self._interval_s:
            if self._lease:
                self._lease.start()
            self._thread.start()

    def _mine(self) -> bool:
        """Whether this collector judges and tells."""
        return self._lease is None or self._lease.held()

    def close(self, deadline_s: float = 10.0) -> None:
        """Ends after the look and the tries that are under way. The next start goes on from there."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(deadline_s)
        self.deliveries.close(deadline_s)
        if self._lease:
            self._lease.close(deadline_s)

    def look(self) -> None:
        """Judges what is due now. Raises StoreError."""
        began_s = time.monotonic()
        tally = self.evaluator.tick(self._now_ns())
        self._took.set(time.monotonic() - began_s)
        self._windows.inc(tally.windows)
        for event in tally.events:
            self._events.labels(event.kind).inc()
        self._failures.inc(len(tally.failed))
        if tally.windows:
            self._left_out.set(sum(tally.left_out.values()))
        for (_, name), message in tally.failed.items():
            _LOG.warning("the alert rule %s could not be judged: %s", name, message)

    def _run(self) -> None:
        self.deliveries.start()
        ours = 0
        while not self._stop.wait(self._interval_s if ours else _LEASE_LOOK_S if self._lease else 0):
            try:
                turn = self._lease.turn() if self._lease else 1
                if turn != ours:
                    ours = 0
                    self.evaluator.forget()
                    self.deliveries.forget()
                    if turn:
                        self.evaluator.know()
                        self.deliveries.take_up()
                    ours = turn
                if not ours:
                    continue
                if self._caught_up():
                    self.look()
                self._said = ""
            except StoreError as error:
                if str(error) != self._said:  # one line an outage
                    _LOG.warning("alerts wait for the store: %s", error)
                self._said = str(error)
                self._stop.wait(1.0)
            except Exception:
                _LOG.exception("judging alerts broke: it is tried again")
                self._stop.wait(float(self._interval_s))


class _Firing(Collector):
    """cutaway_alerts_firing by rule: groups that fire now. Bounded: rules beyond the first two hundred share the name "other"."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The family, made when it is asked for."""
        family = GaugeMetricFamily("cutaway_alerts_firing", "groups that are firing, by rule", labels=["tenant", "rule"])
        others = 0
        firing = sorted(self._evaluator.firing().items())
        for number, ((tenant, rule), count) in enumerate(firing):
            if number < RULES_SHOWN_MAX:
                family.add_metric([tenant, rule], count)
            else:
                others += count
        if len(firing) > RULES_SHOWN_MAX:
            family.add_metric(["", "other"], others)
        yield family


def secrets_directory(settings: Settings) -> Path | None:
    """Where channels' secrets lie; None when nothing says."""
    if settings.alerts_secrets:
        return Path(settings.alerts_secrets)
    return Path(settings.data) / "alert-secrets" if settings.data else None
