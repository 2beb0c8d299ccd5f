"""One back-fill from its first piece to its last: read, score, store, note. Not a thread and not a schedule of its own.

Exactly once without a lock: every score of a job carries the job's start as its Version and each piece has a deduplication token
made of its rows, so that a piece done twice, before and after a kill, is one insert to the store and one row to a reader.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Final, TypeVar

from cutaway_collector.backfill import notes
from cutaway_collector.backfill.notes import Job, Named, Request
from cutaway_collector.backfill.part import Part, Todo
from cutaway_collector.backfill.sequences import rows, texts
from cutaway_collector.blocks import Block
from cutaway_collector.contracts import Store
from cutaway_collector.errors import Conflict, SettingsError, StoreError

_LOG: Final = logging.getLogger(__name__)
_NOTE_SECONDS: Final = 2.0
_RETRY_FIRST_S: Final = 0.2
_RETRY_LONGEST_S: Final = 5.0
_AWAY_SECONDS_MAX: Final = 300.0
"""A store that is away for longer ends this run; the same command later goes on."""
_T = TypeVar("_T")
_S = TypeVar("_S", bound=Named)


class Stopped(Exception):
    """The run was told to stop, or waited too long for the store."""


def choose(scorers: Iterable[_S], names: Sequence[str]) -> list[_S]:
    """The scorers of these names, all for none. Raises SettingsError naming one that there is not."""
    every = list(scorers)
    known = [scorer.name for scorer in every]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SettingsError(f"there is no scorer {unknown[0]!r}: there are {', '.join(known)}")
    return [scorer for scorer in every if not names or scorer.name in names]


def begin(store: Store, request: Request | None, scorers: Iterable[_S]) -> tuple[Job, list[_S]]:
    """A new job, or the one that asked the same and was cut short; the newest one that was cut short for None.

    Raises SettingsError (an unknown scorer, an empty range, nothing to go on with), Conflict (another process is at one) and
    StoreError.
    """
    every = list(scorers)
    busy = notes.running_elsewhere(store)
    if busy:
        raise Conflict(f"one back-fill at a time: another process is at job {busy}. Wait for it, or stop that process.")
    if request is None:
        job = notes.unfinished(store)
        if job is None:
            raise SettingsError("no back-fill was cut short: say what to score again with --from and --to")
        chosen = choose(every, job.request.scorers)
        # Other versions are other scores: from the start, then, and not from where the older ones stopped.
        if job.request.fingerprint(chosen) == job.fingerprint:
            return job, chosen
        request = job.request
    if not request.start_ns < request.end_ns:
        raise SettingsError("a back-fill's range ends after it begins: give --from a time before --to")
    chosen = choose(every, request.scorers)
    fingerprint = request.fingerprint(chosen)
    found = notes.unfinished(store, fingerprint)
    if found is not None:
        return found, chosen
    return Job(id=uuid.uuid4().hex, fingerprint=fingerprint, request=request, started_ms=time.time_ns() // 1_000_000), chosen


class Run:
    """One process's work on a job. `job` may be read by other threads meanwhile.

    parts: what it goes through, in this order. rows_s_max: sequences (or spans with text) a second. give_way: true while fresh
    spans need the store. on_progress: called after each piece.
    """

    def __init__(self, store: Store, job: Job, parts: Sequence[Part], *, rows_s_max: float, stop: threading.Event,
                 give_way: Callable[[], bool] = lambda: False, on_progress: Callable[[Job], None] = lambda job: None) -> None:
        self.job = job
        self._store = store
        self._parts = list(parts)
        self._rows_s_max = rows_s_max
        self._stop = stop
        self._give_way = give_way
        self._on_progress = on_progress
        self._left: Iterator[Todo] | None = None
        self._noted_s = -math.inf

    def run(self) -> Job:
        """Works until the job is done or stopped, and notes which. Raises nothing that a store or a scorer did."""
        job = self.job
        job.state, job.message = "running", ""
        try:
            self._until_done(lambda: self._note(always=True))
            job.rows_total = sum(self._until_done(part.count) for part in self._parts)
            for part in self._parts[[part.name for part in self._parts].index(job.part) if job.part else 0:]:
                job.part, job.position = part.name, job.position if job.part == part.name else None
                self._part(part)
            job.state = "done"
        except Stopped as reason:
            job.state, job.message = "stopped", str(reason)
        except Exception as error:
            job.state, job.message = "stopped", str(error) if isinstance(error, StoreError) else f"{type(error).__name__}: {error}"
            _LOG.warning("the back-fill %s stopped: %s", job.id, job.message)
        try:
            self._note(always=True)
        except StoreError as error:
            job.message = job.message or str(error)
        self._on_progress(job)
        return job

    def _part(self, part: Part) -> None:
        behind, began_s = self.job.rows, time.monotonic()
        self._left = None
        while (piece := self._until_done(partial(self._next, part))) is not None:
            self._until_done(partial(self._piece, piece))
            self.job.message = ""
            self.job.rows += len(piece.keys)
            self.job.position = piece.keys[-1]
            self._until_done(self._note)
            self._on_progress(self.job)
            self._breathe(began_s + (self.job.rows - behind) / self._rows_s_max)

    def _next(self, part: Part) -> Todo | None:
        if self._left is None:
            self._left = part.pieces(self.job.position)
        try:
            return next(self._left, None)
        except StoreError:
            self._left = None  # a generator that raised is over: the next try begins behind the last piece
            raise

    def _piece(self, piece: Todo) -> None:
        failures: dict[str, int] = {}
        scores = piece.scores(lambda name, error: self._failed(failures, name, error))
        if scores.rows:
            self._store.insert(scores, self._token(scores))
        for name, count in failures.items():
            self.job.failures[name] = self.job.failures.get(name, 0) + count
        self.job.scores += scores.rows

    def _failed(self, failures: dict[str, int], name: str, error: Exception) -> None:
        failures[name] = failures.get(name, 0) + 1
        if name not in self.job.failures:
            _LOG.warning("the scorer %s failed in the back-fill %s: %s", name, self.job.id, type(error).__name__)

    def _token(self, scores: Block) -> str:
        """Stands for these rows of this job and nothing else."""
        names = list(zip(texts(scores, "ScoreName"), texts(scores, "ScorerVersion"), strict=True))
        said = json.dumps([list(rows(scores)), names])
        return f"backfill:{self.job.id}:{hashlib.sha256(said.encode()).hexdigest()}"

    def _note(self, *, always: bool = False) -> None:
        if always or time.monotonic() - self._noted_s >= _NOTE_SECONDS:
            notes.write(self._store, self.job)
            self._noted_s = time.monotonic()

    def _breathe(self, until_s: float) -> None:
        """Waits for the next turn: the rate, and as long as fresh spans need the store. Raises Stopped."""
        while True:
            if self._stop.is_set():
                raise Stopped("it was asked to stop")
            wait_s = until_s - time.monotonic()
            if wait_s <= 0 and not self._give_way():
                return
            self._until_done(self._note)
            self._stop.wait(min(max(wait_s, 0.05), 1.0))

    def _until_done(self, action: Callable[[], _T]) -> _T:
        """Repeats what may fail for a while until it succeeds. Raises Stopped, and StoreError when trying again cannot help."""
        delay_s, patience_s = _RETRY_FIRST_S, time.monotonic() + _AWAY_SECONDS_MAX
        while True:
            try:
                return action()
            except StoreError as error:
                if not error.retryable:
                    raise
                self.job.message = str(error)
                if time.monotonic() > patience_s:
                    raise Stopped(str(error)) from None
            if self._stop.wait(delay_s):
                raise Stopped("it was asked to stop")
            delay_s = min(2 * delay_s, _RETRY_LONGEST_S)
