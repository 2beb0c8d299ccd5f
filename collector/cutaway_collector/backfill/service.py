"""Back-fills inside a running collector: one thread, one job at a time, watched from outside. Scores nothing itself."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from cutaway_collector.backfill import sequences
from cutaway_collector.backfill.job import Run, begin
from cutaway_collector.backfill.notes import Job, Request
from cutaway_collector.backfill.part import Offer, parts
from cutaway_collector.contracts import Scorer, Store
from cutaway_collector.errors import Conflict

_LOG: Final = logging.getLogger(__name__)


class Backfills:
    """What the admin routes speak to. Thread-safe.

    scorers: of token series, asked for at each start, for a back-fill does not share scorers with the pipeline. others: what else
    there is, likewise. give_way: true while fresh spans
    need the store.
    """

    def __init__(self, store: Store, scorers: Callable[[], Sequence[Scorer]], *, rows_s_max: float, registry: CollectorRegistry,
                 give_way: Callable[[], bool], others: Callable[[], Sequence[Offer]] = tuple) -> None:
        self._store = store
        self._others = others
        self._scorers = scorers
        self._rows_s_max = rows_s_max
        self._give_way = give_way
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._job: Job | None = None
        self._seen = (0, 0)
        self._rows = Counter("cutaway_backfill_sequences", "sequences read again by back-fills", registry=registry)
        self._scores = Counter("cutaway_backfill_scores", "scores stored by back-fills", registry=registry)
        self._failures = Counter("cutaway_backfill_failures", "pieces on which a scorer failed", ["scorer"], registry=registry)
        self._seen_failures: dict[str, int] = {}
        Gauge("cutaway_backfill_running", "1 while a back-fill runs", registry=registry).set_function(lambda: float(self.running))
        share = Gauge("cutaway_backfill_progress_ratio", "share of the last back-fill's range that is done", registry=registry)
        share.set_function(self._ratio)

    @property
    def running(self) -> bool:
        """Whether a job is under way."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, request: Request | None) -> dict[str, Any]:
        """Starts a job, or goes on with one that was cut short (None: the newest); its status.

        Raises Conflict (one is running, or the collector is stopping), SettingsError, StoreError.
        """
        with self._lock:
            if self.running and self._job is not None:
                raise Conflict(f"one back-fill at a time: job {self._job.id} is running. Wait for it or cancel it.")
            if self._stop.is_set() and self._thread is None:
                raise Conflict("the collector is stopping")
            offers = [sequences.offer(self._store, self._scorers()), *self._others()]
            job, chosen = begin(self._store, request, [one for offer in offers for one in offer.scorers])
            self._stop = threading.Event()
            self._job, self._seen, self._seen_failures = job, (job.rows, job.scores), dict(job.failures)
            run = Run(self._store, job, parts(offers, job, chosen), rows_s_max=self._rows_s_max, stop=self._stop,
                      give_way=self._give_way, on_progress=self._count)
            self._thread = threading.Thread(target=run.run, name="backfill", daemon=True)
            self._thread.start()
            return job.shown()

    def status(self) -> dict[str, Any] | None:
        """The running job, else the last one of this process; None before the first."""
        return None if self._job is None else self._job.shown()

    def cancel(self) -> dict[str, Any] | None:
        """Asks the running job to stop after its piece; the status at once."""
        self._stop.set()
        return self.status()

    def close(self, deadline_s: float = 10.0) -> None:
        """Stops the running job and waits for its piece. The same request later goes on."""
        with self._lock:
            self._stop.set()
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(deadline_s)
            if thread.is_alive():
                _LOG.warning("the back-fill did not stop in %g s: it goes on at the next start of the same request", deadline_s)

    def _count(self, job: Job) -> None:
        rows, scores = self._seen
        self._rows.inc(job.rows - rows)
        self._scores.inc(job.scores - scores)
        for name, count in job.failures.items():
            self._failures.labels(name).inc(count - self._seen_failures.get(name, 0))
        self._seen, self._seen_failures = (job.rows, job.scores), dict(job.failures)

    def _ratio(self) -> float:
        job = self._job
        if job is None or job.rows_total <= 0:
            return float(job is not None and job.state == "done")
        return min(1.0, job.rows / job.rows_total)
