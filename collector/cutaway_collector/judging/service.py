"""The thread that judges texts: fresh spans first, then what a scorer missed. Decides the order alone.

Each scorer has a place in the order of the spans. While it works that is where the reading is; one that fails stays where it
was, is left out of what comes, and is tried again with growing pauses until it has caught up.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from cutaway_collector.contracts import Store, TextScorer
from cutaway_collector.errors import MissingExtra, StoreError
from cutaway_collector.judging import notes
from cutaway_collector.judging.budget import Budget
from cutaway_collector.judging.rows import Row, block, judge, token
from cutaway_collector.judging.spans import Found, Place, Spans
from cutaway_collector.patience import NoAnswer

_LOG: Final = logging.getLogger(__name__)
POLL_SECONDS: Final = 1.0
NOTE_SECONDS: Final = 2.0
HEARTBEAT_SECONDS: Final = 15.0
"""A note is due by then though nothing was judged: others see that this process lives."""
RETRY_SECONDS: Final = 30.0
RETRY_SECONDS_MAX: Final = 3600.0
PROBE_SPANS: Final = 8
"""Spans behind a batch that a scorer refuses as a whole, which tell whether it is the batch or the scorer."""
_LONGEST_PAUSE_S: Final = 30.0


class _Metrics:
    """The series of /metrics."""

    def __init__(self, registry: CollectorRegistry, lag_s: Callable[[], float]) -> None:
        self.sequences = Counter("cutaway_judging_sequences", "sequences whose texts were judged", registry=registry)
        self.scores = Counter("cutaway_judging_scores", "scores of texts stored", registry=registry)
        self.failures = Counter("cutaway_judging_failures", "batches on which a scorer of texts failed", ["scorer"],
                                registry=registry)
        self.left_out = Counter("cutaway_judging_left_out_spans", "spans that a scorer of texts will never judge: it failed on "
                                "them alone", ["scorer"], registry=registry)
        self.unread = Counter("cutaway_judging_unread_spans", "spans with more text than is read, or deleted meanwhile",
                              registry=registry)
        self.behind = Gauge("cutaway_judging_scorer_behind", "1 while a scorer of texts fails or catches up", ["scorer"],
                            registry=registry)
        self.seconds = Counter("cutaway_judging_cpu_seconds", "processor time of judging texts", registry=registry)
        Gauge("cutaway_judging_lag_seconds", "how long the oldest span that is not judged yet has been stored, as far as is known",
              registry=registry).set_function(lag_s)


@dataclass(slots=True)
class _Trouble:
    """A scorer that failed: why, when to try again (monotonic seconds) and the next pause."""

    reason: str
    due_s: float = 0.0
    pause_s: float = RETRY_SECONDS


class Judging:
    """Judges in a thread from `start` to `close`. scorers: made before. give_way: true while fresh spans need the store.

    core_percent: processor time of this thread, in percent of one core. broken: plug-ins that could not be loaded, and why.
    """

    def __init__(self, store: Store, scorers: Sequence[TextScorer], *, registry: CollectorRegistry, batch_rows_max: int = 64,
                 sample_per_mille: int = 1000, core_percent: int = 100, give_way: Callable[[], bool] = lambda: False,
                 broken: Mapping[str, Exception] = MappingProxyType({}), settle_ms: int = 10_000,
                 retry_s: float = RETRY_SECONDS, poll_s: float = POLL_SECONDS) -> None:
        self._store = store
        self._scorers = list(scorers)
        self._spans = Spans(store, sample_per_mille=sample_per_mille, settle_ms=settle_ms)
        self._batch_rows_max = batch_rows_max
        self._budget = Budget(core_percent / 100)
        self._give_way = give_way
        self._retry_s, self._poll_s = retry_s, poll_s
        self._note: notes.Note | None = None
        self._noted_s, self._moved = 0.0, False
        self._started_s = time.monotonic()
        self._page: deque[Found] = deque()
        self._trouble: dict[str, _Trouble] = {}
        self._givers: dict[str, str] = {}
        self._broken = {name: _said(error) for name, error in broken.items()}
        for name, reason in self._broken.items():
            _LOG.warning("the text scorer %s cannot be loaded and is left out: %s", name, reason)
        self._store_failure = ""
        self._metrics = _Metrics(registry, self._lag_s)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="judging", daemon=True)

    def start(self) -> None:
        """Begins where the last process stopped."""
        self._started_s = time.monotonic()
        self._thread.start()

    def close(self, deadline_s: float = 10.0) -> None:
        """Stops after the batch at hand. What is not judged yet is at the next start."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(deadline_s)

    def status(self) -> dict[str, Any]:
        """Plain JSON values: which scorers there are, which are in trouble and why, how far behind the reading is."""
        return {"scorers": [scorer.name for scorer in self._scorers], "lag_s": round(self._lag_s(), 1),
                "trouble": self._broken | {name: trouble.reason for name, trouble in list(self._trouble.items())},
                "store": self._store_failure}

    # --- the thread -------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        pause_s = self._poll_s
        while not self._stop.is_set():
            began_s, worked = self._spent_s(), False
            try:
                worked = self._turn()
                self._store_failure = ""
                pause_s = self._poll_s
            except Exception as error:
                # Told once: the next turn goes on where the last batch was stored.
                if not self._store_failure:
                    _LOG.warning("judging texts waits and goes on later: %s", _said(error))
                self._store_failure = _said(error)
                self._page.clear()
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            spent_s = self._spent_s() - began_s
            self._metrics.seconds.inc(spent_s)
            self._budget.spend(spent_s)
            self._stop.wait(max(self._budget.rest_s(), 0.0 if worked else pause_s))
        self._let_go()

    def _spent_s(self) -> float:
        """Processor time of this thread, and of those in which plug-ins ran."""
        return time.thread_time() + sum(float(getattr(scorer, "spent_s", 0.0)) for scorer in self._scorers)

    def _turn(self) -> bool:
        """One batch of fresh spans and one of what a scorer missed; whether there was anything to do."""
        if self._give_way():
            return False
        note = self._held()
        if note is None:
            return False
        worked = self._fresh(note)
        for scorer in self._scorers:
            worked |= self._catch_up(note, scorer)
        self._write(note, always=False)
        return worked

    def _held(self) -> notes.Note | None:
        """Where this process is, None while another one works on it."""
        if self._note is not None and time.monotonic() - self._noted_s < HEARTBEAT_SECONDS:
            return self._note
        known = notes.read(self._store)
        if known is not None and known.busy:
            self._note = None
            self._page.clear()
            return None
        if self._note is None:
            if known is None:
                # What came since `start` counts: a store may be away at first.
                began_ms = self._spans.now_ms() - int(1000 * (time.monotonic() - self._started_s))
                known = notes.Note(began_ms, Place(began_ms, 0))
            self._note = known
            for name in {scorer.name for scorer in self._scorers} & set(known.behind):
                self._trouble[name] = _Trouble("it failed before the last start", pause_s=self._retry_s)
                self._metrics.behind.labels(name).set(1)
        self._write(self._note, always=True)
        return self._note

    def _write(self, note: notes.Note, *, always: bool) -> None:
        if always or (self._moved and time.monotonic() - self._noted_s >= NOTE_SECONDS):
            notes.write(self._store, note)
            self._noted_s, self._moved = time.monotonic(), False

    def _let_go(self) -> None:
        if self._note is not None:
            try:
                notes.write(self._store, self._note, owned=False)
            except StoreError as error:
                _LOG.warning("where judging stopped is not noted, its last seconds are judged again: %s", error)

    # --- one batch --------------------------------------------------------------------------------------------------------

    def _fresh(self, note: notes.Note) -> bool:
        if not self._page:
            self._page.extend(self._spans.page(note.position, began_ms=note.began_ms))
        batch = list(itertools.islice(self._page, self._batch_rows_max))
        if not batch:
            return False
        working = [scorer for scorer in self._scorers if scorer.name not in note.behind]
        judged, failed = self._judge(batch, working)
        self._insert(judged)
        for name, error in failed.items():
            note.behind[name] = note.position
            self._failed(name, error)
        note.position = batch[-1].place
        self._moved = True
        for _ in batch:
            self._page.popleft()
        return True

    def _catch_up(self, note: notes.Note, scorer: TextScorer) -> bool:
        """One batch of what a scorer missed, once its pause is over."""
        after, trouble = note.behind.get(scorer.name), self._trouble.get(scorer.name)
        if after is None or trouble is None or time.monotonic() < trouble.due_s:
            return False
        batch = self._spans.page(after, began_ms=note.began_ms, upto=note.position, limit=self._batch_rows_max)
        if batch:
            judged, failed = self._judge(batch, [scorer])
            if failed and not isinstance(failed[scorer.name], MissingExtra):
                judged, failed = self._one_by_one(note, batch, scorer, failed)
            if failed:
                self._failed(scorer.name, failed[scorer.name])
                return False
            self._insert(judged)
            note.behind[scorer.name] = batch[-1].place
            self._moved = True
            self._trouble[scorer.name] = _Trouble("it is catching up", pause_s=self._retry_s)
        if len(batch) < self._batch_rows_max:
            del note.behind[scorer.name]
            del self._trouble[scorer.name]
            self._moved = True
            self._metrics.behind.labels(scorer.name).set(0)
            _LOG.info("the text scorer %s has caught up", scorer.name)
        return bool(batch)

    def _one_by_one(self, note: notes.Note, batch: Sequence[Found], scorer: TextScorer, failed: dict[str, Exception]
                    ) -> tuple[list[Row], dict[str, Exception]]:
        """A batch span by span, so that a bad text costs its own scores alone. Where all fail it is the scorer and not the texts,
        unless it can judge what comes behind them.
        """
        judged: list[Row] = []
        bad = 0
        for found in batch:
            made, trouble = self._judge([found], [scorer])
            judged += made
            bad += bool(trouble)
        if bad == len(batch):
            behind = self._spans.page(batch[-1].place, began_ms=note.began_ms, upto=note.position, limit=PROBE_SPANS)
            if all(self._judge([found], [scorer])[1] for found in behind):
                return [], failed
        if bad:
            self._metrics.left_out.labels(scorer.name).inc(bad)
            _LOG.warning("the text scorer %s cannot judge %d spans, which stay without its scores: %s", scorer.name, bad,
                         type(failed[scorer.name]).__name__)
        return judged, {}

    def _judge(self, batch: Sequence[Found], scorers: Sequence[TextScorer]) -> tuple[list[Row], dict[str, Exception]]:
        """Scores of these spans, and the scorers that failed on any of them."""
        told = self._spans.texts(batch)
        self._metrics.unread.inc(len(batch) - len(told))
        made, failed, count = judge(told, batch, scorers, self._givers)
        self._metrics.sequences.inc(count)
        return made, failed

    def _insert(self, judged: Sequence[Row]) -> None:
        if judged:
            self._store.insert(block(judged, time.time_ns() // 1_000_000), token(judged))
            self._metrics.scores.inc(len(judged))

    def _failed(self, name: str, error: Exception) -> None:
        """Told once: in the log here, in the status as long as it lasts."""
        self._metrics.failures.labels(name).inc()
        self._metrics.behind.labels(name).set(1)
        before = self._trouble.get(name)
        trouble = before or _Trouble("", pause_s=self._retry_s)
        if trouble.reason != _said(error):
            _LOG.warning("the text scorer %s is left out until it works again: %s", name, _said(error))
        pause_s = min(trouble.pause_s, RETRY_SECONDS_MAX)
        # The first try comes at once: most likely it is one text that the scorer cannot take.
        due_s = time.monotonic() + (pause_s if before or isinstance(error, MissingExtra) else 0.0)
        self._trouble[name] = _Trouble(_said(error), due_s, pause_s * (2 if before else 1))

    def _lag_s(self) -> float:
        try:
            oldest = self._page[0].place.stored_ms
        except IndexError:
            return 0.0
        return max(0.0, time.time() - oldest / 1000)


def _said(error: Exception) -> str:
    """What went wrong, without a text: a plug-in's message may quote what it was given."""
    return str(error) if isinstance(error, MissingExtra | NoAnswer | StoreError | ImportError) else type(error).__name__
