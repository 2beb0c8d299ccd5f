"""From a request to rows: check, spool, acknowledge; then batch, decode, insert, score, forget. The flow to read first.

    submit   checks on the caller's thread, keeps the raw bytes on disk, returns the receipt; they wait in memory as well
    writer   one thread: takes what is due, makes rows of it, freezes the batch and its token, inserts it, lets the spool forget it

Not a receiver and not a store. An acknowledged request is stored once: sent again it is known, a batch is repeated under its token
until the store has it, also by the next process, and rows that the store will never take become dead letters, counted and told why.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import numpy as np
from prometheus_client import CollectorRegistry

from cutaway_collector import decode as decoding
from cutaway_collector import score as scoring
from cutaway_collector.batch import Batcher, Pending
from cutaway_collector.blocks import concat_blocks
from cutaway_collector.contracts import Checked, Encoding, Receipt, Rows, Scorer, Store
from cutaway_collector.errors import Overloaded, RequestError, StoreError
from cutaway_collector.pipeline.duplicates import Duplicates
from cutaway_collector.pipeline.insert import BatchInsert, Outcome, ScoreBlock
from cutaway_collector.pipeline.metrics import Metrics
from cutaway_collector.pipeline.room import CHECKING_FACTOR, PARSING_FACTOR, Room
from cutaway_collector.settings import Settings
from cutaway_collector.spool import FULL_SHARE, CorruptRecord, FrozenBatch, Spool

_LOG: Final = logging.getLogger(__name__)
_RETRY_FIRST_S: Final = 0.1
_RETRY_LONGEST_S: Final = 5.0
_T = TypeVar("_T")


class _Stopping(Exception):
    """The writer was told to stop while it waited to try again; the spool keeps the batch for the next start."""


class Pipeline:
    """Made running; what an earlier process left in the spool is stored first. Thread-safe.

    store, spool: open, and closed by the caller after `close`. scorers: whose scores are stored behind each batch.
    """

    def __init__(
        self, store: Store, spool: Spool, settings: Settings, *, scorers: Iterable[Scorer] = (),
        score_block: ScoreBlock = scoring.score_block,
    ) -> None:
        self._spool = spool
        self._prepare = store.prepare
        self._limits = decoding.Limits(attribute_depth_max=settings.attribute_depth_max, attributes_max=settings.attributes_max,
                                       sequence_tokens_max=settings.sequence_tokens_max)
        self._settings = settings
        self._changed = threading.Condition()
        self._fresh = Batcher(rows_max=settings.batch_rows_max, bytes_max=settings.batch_bytes_max,
                              age_s_max=settings.batch_age_ms_max / 1000)
        self._backlog = deque(spool.loose())
        self._room = Room(settings.queue_bytes_max)
        self._duplicates = Duplicates(spool.remembered(), requests_max=settings.duplicates_requests_max,
                                      seconds_max=settings.duplicates_seconds_max)
        self._storing = 0
        self._closing = False
        self._stop = threading.Event()
        self._failure = ""
        self._death = ""
        self._metrics = Metrics(queue_bytes=lambda: self._room.used, spool_bytes=lambda: spool.size_bytes, waiting=self._waiting,
                                dead_count=lambda: spool.dead_letters, dead_bytes=lambda: spool.dead_bytes)
        self._insert = BatchInsert(store, scorers, score_block, self._metrics)
        self._unfinished = spool.frozen()
        self._storing = sum(len(batch.sequences) for batch in self._unfinished)
        self._writer = threading.Thread(target=self._run, name="writer", daemon=True)
        self._writer.start()

    @property
    def registry(self) -> CollectorRegistry:
        """The pipeline's own Prometheus registry."""
        return self._metrics.registry

    def submit(self, payload: bytes, encoding: Encoding, tenant: str = "") -> Receipt:
        """contracts.Submit: returns once the request is on disk; its spans are searchable within a batch's age and an insert.

        A request that is equal byte for byte to an acknowledged one, or to one under way, gets its receipt and is not kept again.
        Raises MalformedRequest, TooLarge (nothing kept), Overloaded (nothing kept, come back later).
        """
        outcome = "failed"
        try:
            key = self._spool.key(payload, encoding, tenant)
            receipt, known = self._duplicates.answer(key, lambda: self._accept(payload, encoding, tenant, key),
                                                     lambda: self._receipt(self._checked(payload, encoding, tenant)))
            outcome = "accepted"
            if known:
                self._metrics.duplicates.labels(encoding).inc()
            return receipt
        except RequestError as error:
            outcome = "overloaded" if isinstance(error, Overloaded) else "refused"
            raise
        finally:
            self._metrics.requests.labels(encoding, outcome).inc()
            self._metrics.bytes.inc(len(payload))

    def status(self) -> tuple[bool, dict[str, Any]]:
        """(whether requests would be accepted, details as plain JSON values)."""
        with self._changed:
            failure, death, closing = self._failure, self._death, self._closing
            alive = self._writer.is_alive() and not death
        spool_bytes, disk = self._spool.size_bytes, self._spool.failure
        room = spool_bytes < FULL_SHARE * self._settings.spool_bytes_max and (bool(failure) or not self._room.is_full(1))
        return alive and not closing and room and not disk, {
            "store": "unreachable" if failure else "reachable", "last_error": "; ".join(filter(None, (death, disk, failure))),
            "writer": "running" if alive else "stopped",
            "stopping": closing, "waiting_requests": self._waiting(), "queue_bytes": self._room.used, "spool_bytes": spool_bytes,
            "dead_letters": self._spool.dead_letters, "dead_letter_bytes": self._spool.dead_bytes,
        }

    def close(self, deadline_s: float) -> bool:
        """Refuses new requests and stores what waits. True when all is stored; the spool keeps the rest for the next start."""
        with self._changed:
            self._closing = True
            if self._failure and not self._waiting():
                # The writer tries to reach the store for nothing but its tables: not worth the deadline.
                self._stop.set()
            self._changed.notify_all()
        self._writer.join(deadline_s)
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        self._writer.join(5)
        waiting = self._waiting()
        if waiting:
            _LOG.warning("stopped with %d requests waiting: they are in the spool and will be stored at the next start", waiting)
        return waiting == 0

    # --- the caller's threads ---------------------------------------------------------------------------------------------

    def _accept(self, payload: bytes, encoding: Encoding, tenant: str, key: bytes) -> Receipt:
        # What has no room now is not worth looking at.
        self._refuse_unless(self._has_room(len(payload)))
        checked = self._checked(payload, encoding, tenant)
        self._metrics.rejected.inc(checked.rejected)
        receipt = self._receipt(checked)
        if receipt.accepted == 0:
            return receipt
        nbytes = checked.held_bytes
        keep = self._room.hold(nbytes)
        try:
            self._refuse_unless(keep or self._has_room(nbytes))
            sequence = self._spool.append(payload, encoding, tenant, checked.received_ns, key)
        except BaseException:
            self._room.release(nbytes if keep else 0)
            raise
        self._metrics.accepted.inc(checked.spans)
        with self._changed:
            if keep:
                self._fresh.add(Pending(sequence, checked, time.monotonic()))
            else:
                self._backlog.append(sequence)
            # The writer sleeps until the oldest request is due: only the first of a batch, or the last that fits, changes that.
            if len(self._fresh) <= 1 or self._fresh.is_full():
                self._changed.notify_all()
        return receipt

    def _checked(self, payload: bytes, encoding: Encoding, tenant: str) -> Checked:
        """The request, found sound within the memory that looking at it may take. Raises RequestError."""
        reserved = self._room.enter(len(payload) * (CHECKING_FACTOR if encoding == "protobuf" else PARSING_FACTOR))
        if not reserved:
            raise Overloaded(f"{self._room.used} bytes are being read or wait to be stored, queue_bytes_max allows "
                             f"{self._settings.queue_bytes_max}: this request was not kept, send it again later")
        try:
            return decoding.check(payload, encoding, received_ns=time.time_ns(), tenant=tenant, limits=self._limits)
        finally:
            self._room.leave(reserved)

    @staticmethod
    def _receipt(checked: Checked) -> Receipt:
        # Scores that came as events of spans count with their spans.
        scores = 0 if checked.scores is None or checked.wire else checked.scores.rows
        return Receipt(checked.spans + scores, checked.rejected, checked.message)

    def _has_room(self, nbytes: int) -> bool:
        """False: memory is full while the store answers. While it is away the spool alone keeps what memory cannot."""
        return bool(self._failure) or not self._room.is_full(nbytes)

    def _refuse_unless(self, room: bool) -> None:
        with self._changed:
            if self._death:
                raise Overloaded(f"{self._death}: this request was not kept, send it again later", retry_after_s=5)
            if self._closing or not self._writer.is_alive():
                raise Overloaded("the collector is stopping: send this request again in a moment")
        if not room:
            raise Overloaded(f"{self._room.held} bytes wait to be stored, queue_bytes_max allows "
                             f"{self._settings.queue_bytes_max}: this request was not kept, send it again later")

    def _waiting(self) -> int:
        with self._changed:
            return len(self._fresh) + len(self._backlog) + self._storing

    # --- the writer's thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._until_done(self._prepare)
            for batch in self._unfinished:
                self._store(batch.sequences, *self._load(batch.sequences), batch)
            while (work := self._next()) is not None:
                self._store(*work)
        except _Stopping:
            return
        except Exception as error:
            with self._changed:
                self._death = f"the writer has stopped ({type(error).__name__}), restart the collector to go on"
            _LOG.exception("%s: what was acknowledged is safe in the spool, nothing more is taken", self._death)

    def _next(self) -> tuple[Sequence[int], list[Pending], dict[int, str]] | None:
        """Waits for a batch. What has just arrived goes first, for someone is looking for it; then the backlog."""
        with self._changed:
            while not self._stop.is_set():
                due_s = self._fresh.due_in_s(time.monotonic())
                if due_s is not None and (due_s <= 0 or self._closing):
                    items = self._fresh.take()
                    self._storing = len(items)
                    return [item.sequence for item in items], items, {}
                if self._backlog:
                    break
                if self._closing:
                    return None
                self._changed.wait(due_s)
            else:
                return None
        return self._from_backlog()

    def _from_backlog(self) -> tuple[Sequence[int], list[Pending], dict[int, str]]:
        line = Batcher(rows_max=self._settings.batch_rows_max, bytes_max=self._settings.batch_bytes_max, age_s_max=0)
        sequences: list[int] = []
        unreadable: dict[int, str] = {}
        while self._backlog and not line.is_full() and not self._stop.is_set():
            with self._changed:
                sequence = self._backlog.popleft()
                self._storing += 1
            sequences.append(sequence)
            loaded, reasons = self._load([sequence])
            unreadable |= reasons
            for item in loaded:
                line.add(item)
        # One read too many may have overfilled the batch by a request; it goes along, for its sequence is already counted.
        items: list[Pending] = []
        while len(line):
            items += line.take()
        return sequences, items, unreadable

    def _load(self, sequences: Sequence[int]) -> tuple[list[Pending], dict[int, str]]:
        """Requests back from the spool, and the reasons of those that cannot be read or decoded any more."""
        items: list[Pending] = []
        unreadable: dict[int, str] = {}
        for sequence in sequences:
            try:
                record = self._spool.read(sequence)
                checked = decoding.check(record.payload, record.encoding, received_ns=record.received_ns, tenant=record.tenant,
                                         limits=self._limits)
            except (CorruptRecord, KeyError, RequestError) as error:
                unreadable[sequence] = f"{type(error).__name__}: {error}"
                continue
            items.append(Pending(sequence, checked, time.monotonic()))
            self._room.take(checked.held_bytes)
        return items, unreadable

    def _store(
        self, sequences: Sequence[int], items: list[Pending], unreadable: dict[int, str], frozen: FrozenBatch | None = None
    ) -> None:
        """Stores one batch, however long it takes; raises _Stopping when told to stop meanwhile."""
        batch = frozen or self._until_done(lambda: self._spool.freeze(sequences))
        built, rows, broken = self._built(items)
        try:
            outcome = self._until_done(lambda: self._insert.run(built, rows, batch.token))
        except _Stopping:
            raise
        except Exception as error:
            _LOG.exception("a batch could not be stored: its %d requests become dead letters", len(built))
            reason = f"{type(error).__name__}: {error}"
            outcome = Outcome(0, rows.spans.rows, {item.sequence: (reason, item.rows) for item in built})
        outcome.refused |= broken
        outcome.spans_lost += sum(spans for _, spans in broken.values())
        self._bury(batch, {sequence: (reason, 0) for sequence, reason in unreadable.items()} | outcome.refused)
        self._metrics.stored.inc(outcome.spans_stored)
        self._metrics.lost.inc(outcome.spans_lost)
        self._until_done(lambda: self._spool.finish(batch))
        self._metrics.dead_letters_removed.inc(self._until_done(self._spool.expire))
        self._room.release(sum(item.held_bytes for item in items))
        with self._changed:
            self._storing = max(0, self._storing - len(sequences))

    def _built(self, items: list[Pending]) -> tuple[list[Pending], Rows, dict[int, tuple[str, int]]]:
        """(the requests that became rows, their rows, sequence number -> (why not, spans) of the others).

        A request was found sound before, so none should fail now; if one does, by a fault of ours, the others are not lost with it.
        """
        try:
            return items, decoding.build([item.request for item in items], self._limits), {}
        except Exception:
            _LOG.exception("a batch of %d requests could not be built at once: each is tried by itself", len(items))
        good: list[Pending] = []
        parts = [decoding.build([], self._limits)]
        broken: dict[int, tuple[str, int]] = {}
        for item in items:
            try:
                parts.append(decoding.build([item.request], self._limits))
                good.append(item)
            except Exception as error:
                broken[item.sequence] = f"{type(error).__name__}: {error}", item.rows
        # Requests that only fail together are joined as blocks: whatever it was that they could not share, they have their own.
        spans, tokens = (concat_blocks([getattr(part, name) for part in parts]) for name in ("spans", "tokens"))
        return good, Rows(spans, tokens, np.concatenate([part.token_rows for part in parts[1:]] or [np.zeros(0, np.int64)])), broken

    def _bury(self, batch: FrozenBatch, refused: dict[int, tuple[str, int]]) -> None:
        """Dead letters of a batch: payload and reason into the folder, reason into the store; repeated, neither is doubled."""
        letters = []
        for sequence, (reason, spans) in sorted(refused.items()):
            _LOG.error("request %d becomes a dead letter: %s", sequence, reason)
            letters.append(self._until_done(partial(self._spool.bury, sequence, reason, spans)))
            self._metrics.dead_letters_removed.inc(self._until_done(self._spool.expire))
        if letters:
            self._until_done(lambda: self._insert.tell(letters, batch.token))
            self._metrics.dead_letters.inc(len(letters))

    def _until_done(self, action: Callable[[], _T]) -> _T:
        """Repeats what may fail for a while (a store away, a full disk) until it succeeds. Raises _Stopping."""
        delay_s = _RETRY_FIRST_S
        while True:
            try:
                result = action()
            except (StoreError, sqlite3.Error, OSError) as error:
                self._note_failure(str(error))
            else:
                self._note_failure("")
                return result
            if self._stop.wait(delay_s):
                raise _Stopping
            delay_s = min(delay_s * 2, _RETRY_LONGEST_S)

    def _note_failure(self, failure: str) -> None:
        with self._changed:
            before, self._failure = self._failure, failure
        if failure and not before:
            _LOG.warning("storing waits and is tried again: %s", failure)
        elif before and not failure:
            _LOG.info("storing goes on")
