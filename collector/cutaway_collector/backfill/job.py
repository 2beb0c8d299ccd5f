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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import numpy as np

from cutaway_collector.backfill import notes
from cutaway_collector.backfill.notes import Job, Request
from cutaway_collector.backfill.reader import Key, Piece, Reader
from cutaway_collector.blocks import Block, Strings
from cutaway_collector.columns import SCORES, TOKENS
from cutaway_collector.contracts import Scorer, Store
from cutaway_collector.errors import Conflict, SettingsError, StoreError
from cutaway_collector.score.rows import SOURCE, score_block, take

_LOG: Final = logging.getLogger(__name__)
_NOTE_SECONDS: Final = 2.0
_RETRY_FIRST_S: Final = 0.2
_RETRY_LONGEST_S: Final = 5.0
_AWAY_SECONDS_MAX: Final = 300.0
"""A store that is away for longer ends this run; the same command later goes on."""
_T = TypeVar("_T")


class Stopped(Exception):
    """The run was told to stop, or waited too long for the store."""


def choose(scorers: Iterable[Scorer], names: Sequence[str]) -> list[Scorer]:
    """The scorers of these names, all for none. Raises SettingsError naming one that there is not."""
    every = list(scorers)
    known = [scorer.name for scorer in every]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SettingsError(f"there is no scorer {unknown[0]!r}: there are {', '.join(known)}")
    return [scorer for scorer in every if not names or scorer.name in names]


def begin(store: Store, request: Request | None, scorers: Iterable[Scorer]) -> tuple[Job, list[Scorer]]:
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

    rows_s_max: sequences a second. give_way: true while fresh spans need the store. on_progress: called after each piece.
    """

    def __init__(self, store: Store, job: Job, scorers: Sequence[Scorer], *, rows_s_max: float, stop: threading.Event,
                 give_way: Callable[[], bool] = lambda: False, on_progress: Callable[[Job], None] = lambda job: None,
                 **reader: int) -> None:
        self.job = job
        self._store = store
        self._scorers = list(scorers)
        self._rows_s_max = rows_s_max
        self._stop = stop
        self._give_way = give_way
        self._on_progress = on_progress
        declared = [getattr(scorer, "columns", None) for scorer in self._scorers]
        columns = [column.name for column in TOKENS.columns
                   if any(names is None or column.name in names for names in declared)]
        self._reader = Reader(store, job.request, columns, **reader)
        self._left: Iterator[Piece] | None = None
        self._noted_s = -math.inf

    def run(self) -> Job:
        """Works until the job is done or stopped, and notes which. Raises nothing that a store or a scorer did."""
        job = self.job
        job.state, job.message = "running", ""
        try:
            self._until_done(lambda: self._note(always=True))
            job.rows_total = self._until_done(self._reader.count)
            self._pieces()
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

    def _pieces(self) -> None:
        names = self._score_names() if self.job.request.missing else {}
        behind, began_s = self.job.rows, time.monotonic()
        while (piece := self._until_done(self._next)) is not None:
            self._until_done(partial(self._piece, piece, names))
            self.job.message = ""
            self.job.rows += len(piece.keys)
            self.job.position = piece.keys[-1]
            self._until_done(self._note)
            self._on_progress(self.job)
            self._breathe(began_s + (self.job.rows - behind) / self._rows_s_max)

    def _next(self) -> Piece | None:
        if self._left is None:
            self._left = self._reader.pieces(self.job.position)
        try:
            return next(self._left, None)
        except StoreError:
            self._left = None  # a generator that raised is over: the next try begins behind the last piece
            raise

    def _piece(self, piece: Piece, names: Mapping[str, str]) -> None:
        present = self._present(piece, names) if names else {}
        if names and all(len(present.get(key, ())) == len(names) for key in piece.keys):
            return
        tokens = piece.read()
        if names:
            kept = [row for row, key in enumerate(_rows(tokens)) if len(present.get(key, ())) < len(names)]
            tokens = _taken(tokens, kept)
        failures: dict[str, int] = {}
        scores = score_block(tokens, self._scorers, now_ms=self.job.started_ms,
                             on_failure=lambda name, error: self._failed(failures, name, error))
        if present:
            fresh = [row for row, (key, name) in enumerate(zip(_rows(scores), _texts(scores, "ScoreName"), strict=True))
                     if name not in present.get(key, ())]
            scores = _taken(scores, fresh)
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
        names = list(zip(_texts(scores, "ScoreName"), _texts(scores, "ScorerVersion"), strict=True))
        said = json.dumps([list(_rows(scores)), names])
        return f"backfill:{self.job.id}:{hashlib.sha256(said.encode()).hexdigest()}"

    def _score_names(self) -> dict[str, str]:
        """Score name -> version, asked of each scorer with no rows to judge. Empty when one cannot say: all are then lacking."""
        names: dict[str, str] = {}
        for scorer in self._scorers:
            try:
                names.update(dict.fromkeys(scorer.score(self._reader.empty()), scorer.version))
            except Exception as error:
                _LOG.warning("the scorer %s does not take an empty block (%s): everything is scored again", scorer.name,
                             type(error).__name__)
                return {}
        return names

    def _present(self, piece: Piece, names: Mapping[str, str]) -> dict[Key, set[str]]:
        """Which of the scores that these scorers would give are there already, by sequence."""
        database = self._store.database.replace("\\", "\\\\").replace("`", "\\`")
        rows = self._store.query(
            "SELECT toUnixTimestamp64Nano(Timestamp), hex(TenantId), hex(ServiceName), hex(TraceId), hex(SpanId), SeqIndex, "
            f"groupUniqArray(ScoreName) FROM `{database}`.{SCORES.name} FINAL "
            "WHERE Timestamp >= fromUnixTimestamp64Nano({first:Int64}) AND Timestamp <= fromUnixTimestamp64Nano({last:Int64}) "
            "AND Source = {source:String} AND (ScoreName, ScorerVersion) IN "
            "arrayZip({names:Array(String)}, {versions:Array(String)}) GROUP BY ALL",
            {"first": piece.keys[0].timestamp_ns, "last": piece.keys[-1].timestamp_ns, "source": SOURCE,
             "names": list(names), "versions": list(names.values())}).rows
        return {Key(*key): set(found) for *key, found in rows}

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


def _texts(block: Block, name: str) -> list[str]:
    column = block.columns[name]
    assert isinstance(column, Strings)
    return [text.decode() for text in column]


def _rows(block: Block) -> Iterable[Key]:
    """Keys of a block's rows, as `Key` spells them."""
    columns: list[Any] = []
    for name in ("Timestamp", "TenantId", "ServiceName", "TraceId", "SpanId", "SeqIndex"):
        column = block.columns[name]
        columns.append([text.hex().upper() for text in column] if isinstance(column, Strings) else np.asarray(column).tolist())
    return map(Key, *columns)


def _taken(block: Block, rows: Sequence[int]) -> Block:
    if len(rows) == block.rows:
        return block
    index = np.array(rows, np.int64)
    return Block(block.table, len(rows), {name: take(column, index) for name, column in block.columns.items()})
