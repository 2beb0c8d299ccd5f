"""Compares every window with its baseline once, in one thread beside ingest; /metrics shows the newest verdicts.

Windows lie end to end, counted from 1970. One is compared GRACE_SECONDS after its end, and what arrives later is not in it. After a
restart the windows that were missed follow, the last WINDOWS_BACK_MAX of them; gen_ai_drift itself says which are done.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from cutaway_collector.baselines import stored
from cutaway_collector.baselines.compare import Drift, compare
from cutaway_collector.baselines.pins import Baseline, listed
from cutaway_collector.contracts import Store
from cutaway_collector.errors import StoreError

_LOG: Final = logging.getLogger(__name__)
GRACE_SECONDS: Final = 60
WINDOWS_BACK_MAX: Final = 24
LOOK_SECONDS: Final = 15.0
_MINUTE_NS: Final = 60_000_000_000
_LABELS: Final = ["tenant", "service", "model", "service_version", "attribute"]
_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Watch:
    """The thread. interval_minutes: length of a window, 0 for no thread at all. give_way: true while fresh spans need the store.

    The label values of its gauges are those of baselines, which an operator pins (at most BASELINES_MAX), and of what they watch.
    """

    def __init__(self, store: Store, *, interval_minutes: int, registry: CollectorRegistry,
                 give_way: Callable[[], bool] = lambda: False, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._store = store
        self._length_ns = interval_minutes * _MINUTE_NS
        self._give_way = give_way
        self._now_ns = now_ns
        self._stop = threading.Event()
        self._done: dict[str, int] = {}
        self._failure = ""
        self._turned_ns = 0
        self._windows = Counter("cutaway_drift_windows", "windows compared with their baseline", registry=registry)
        self._failures = Counter("cutaway_drift_failures", "comparisons that failed and are tried again", registry=registry)
        self._seconds = Histogram("cutaway_drift_seconds", "time of one comparison", buckets=_SECONDS, registry=registry)
        self._q = Gauge("cutaway_drift_q", "q-value of the newest window", _LABELS, registry=registry)
        self._shifted = Gauge("cutaway_drift_shifted", "1 where the newest window shifted", _LABELS, registry=registry)
        self._shown: dict[str, list[Drift]] = {}
        self._thread = threading.Thread(target=self._run, name="drift", daemon=True) if interval_minutes else None
        if self._thread is not None:
            self._thread.start()

    def close(self, deadline_s: float = 10.0) -> None:
        """Stops after the comparison under way; a window that is cut short is compared at the next start."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(deadline_s)

    def turn(self) -> int:
        """Compares what is due and not yet done, oldest window first; returns how many windows. Raises StoreError."""
        compared = 0
        baselines = listed(self._store)
        if baselines:
            newest = stored.newest(self._store, self._length_ns)
            last_ns = self._due_ns()
            for baseline in baselines:
                if baseline.id in newest and baseline.id not in self._shown:
                    self._shown[baseline.id] = stored.read(self._store, baseline, windows=1)
                # The window under way at the pin may lie within the reference: the next one is the first.
                first_ns = -(-baseline.pinned_ns // self._length_ns) * self._length_ns
                done_ns = max(newest.get(baseline.id, 0), self._done.get(baseline.id, 0), first_ns,
                              last_ns - WINDOWS_BACK_MAX * self._length_ns)
                for end_ns in range((done_ns // self._length_ns + 1) * self._length_ns, last_ns + 1, self._length_ns):
                    if self._stop.is_set():
                        return compared
                    self._compare(baseline, end_ns)
                    compared += 1
        self._show(baselines)
        return compared

    def _due_ns(self) -> int:
        """End of the newest window that is over and has had its grace."""
        return (self._now_ns() - GRACE_SECONDS * 1_000_000_000) // self._length_ns * self._length_ns

    def _compare(self, baseline: Baseline, end_ns: int) -> None:
        with self._seconds.time():
            rows = compare(self._store, baseline, end_ns - self._length_ns, end_ns)
        stored.write(self._store, rows)
        # A window without values leaves no row behind: this process remembers it, the next one looks again and finds it as empty.
        self._done[baseline.id] = end_ns
        self._windows.inc()
        if rows:
            self._shown[baseline.id] = rows

    def _show(self, baselines: list[Baseline]) -> None:
        for gauge in (self._q, self._shifted):
            gauge.clear()
        self._shown = {one.id: self._shown[one.id] for one in baselines if one.id in self._shown}
        self._done = {one.id: self._done[one.id] for one in baselines if one.id in self._done}
        for rows in self._shown.values():
            for row in rows:
                one = row.baseline
                words = (one.tenant, one.service, one.model, one.version, row.attribute)
                if row.q is not None:
                    self._q.labels(*words).set(row.q)
                self._shifted.labels(*words).set(row.label == "shifted")

    def _run(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            due_ns = self._due_ns()
            if due_ns == self._turned_ns or self._give_way():
                continue
            try:
                self.turn()
            except Exception as error:
                self._failures.inc()
                if str(error) != self._failure:
                    self._failure = str(error)
                    _LOG.warning("drift: %s", error, exc_info=None if isinstance(error, StoreError) else error)
            else:
                self._failure, self._turned_ns = "", due_ns
