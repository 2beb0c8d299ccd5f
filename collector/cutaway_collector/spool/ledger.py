"""The small state that must change as a whole: which records form which batch, under which token, and which are done.

SQLite, one transaction a step, synced. It holds numbers, tokens and the keys of finished requests; the records themselves lie in
the segments.
"""

from __future__ import annotations

import logging
import os
import secrets
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cutaway_collector.spool.records import KEY_BYTES

_LOG: Final = logging.getLogger(__name__)
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS batches (
    first INTEGER PRIMARY KEY, last INTEGER NOT NULL, ranges TEXT NOT NULL, token TEXT NOT NULL, done INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS finished (first INTEGER PRIMARY KEY, at_ns INTEGER NOT NULL, keys BLOB NOT NULL);
"""
_DAMAGE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_SCHEMA, sqlite3.SQLITE_FORMAT,
                  sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_CONSTRAINT)
_PRIMARY_CODE: Final = 0xFF
"""SQLite's result codes that blame what is in the file; the others blame the disk, the rights or the moment."""
_SEED_BITS: Final = 63
"""SQLite's integers are signed."""


@dataclass(frozen=True, slots=True)
class FrozenBatch:
    """Records that are inserted together, always under the same token. sequences rise; token lacks the table's name."""

    sequences: tuple[int, ...]
    token: str

    @property
    def first(self) -> int:
        """The lowest sequence number: the batch's key."""
        return self.sequences[0]


def to_ranges(sequences: Sequence[int]) -> str:
    """Rising numbers as text: 3, 4, 5, 9 -> "3-5,9-9"."""
    out: list[str] = []
    start = previous = sequences[0]
    for number in [*sequences[1:], -1]:
        if number != previous + 1:
            out.append(f"{start}-{previous}")
            start = number
        previous = number
    return ",".join(out)


def from_ranges(text: str) -> Iterator[range]:
    """The ranges of `to_ranges`."""
    for part in text.split(","):
        first, _, last = part.partition("-")
        yield range(int(first), int(last) + 1)


class Ledger:
    """Thread-safe. Every method that changes something returns after the change is on disk. Raises sqlite3.Error when it cannot.

    remembered_max, remembered_s_max: finished requests whose keys are kept, at least so many unless they are older than this.
    """

    def __init__(self, path: Path, remembered_max: int, remembered_s_max: int) -> None:
        self._lock = threading.Lock()
        self._key_bytes_max = remembered_max * KEY_BYTES
        self._remembered_ns_max = remembered_s_max * 1_000_000_000
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_SCHEMA)
            self._db.execute("INSERT OR IGNORE INTO counters VALUES ('seed', ?)", (secrets.randbits(_SEED_BITS),))
            self.seed = int(self._db.execute("SELECT value FROM counters WHERE name = 'seed'").fetchone()[0])
            self._finished = deque(self._db.execute("SELECT first, at_ns, length(keys) FROM finished ORDER BY at_ns, first"))
            self._finished_bytes = sum(nbytes for _, _, nbytes in self._finished)
        except sqlite3.Error:
            self._db.close()
            raise

    def freeze(self, batch: FrozenBatch) -> None:
        """Binds records to a token, for good."""
        with self._lock, self._db:
            self._db.execute("INSERT INTO batches (first, last, ranges, token) VALUES (?, ?, ?, ?)",
                             (batch.first, batch.sequences[-1], to_ranges(batch.sequences), batch.token))

    def finish(self, batch: FrozenBatch, oldest_kept: int, keys: bytes) -> None:
        """Marks the batch done and forgets done batches that end before `oldest_kept`, the first record still on disk.

        keys: of its requests, one after another; they are remembered for a while after the records are gone.
        """
        with self._lock:
            now_ns, nbytes = time.time_ns(), self._finished_bytes + len(keys)
            gone: list[tuple[int]] = []
            for first, at_ns, size in self._finished:
                if nbytes - size < self._key_bytes_max and at_ns >= now_ns - self._remembered_ns_max:
                    break
                gone.append((first,))
                nbytes -= size
            with self._db:
                self._db.execute("BEGIN")
                self._db.execute("UPDATE batches SET done = 1 WHERE first = ?", (batch.first,))
                self._db.execute("DELETE FROM batches WHERE done = 1 AND last < ?", (oldest_kept,))
                self._db.execute("INSERT INTO counters VALUES ('sequence', ?) "
                                 "ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)", (batch.sequences[-1],))
                self._db.executemany("DELETE FROM finished WHERE first = ?", gone)
                self._db.execute("INSERT OR REPLACE INTO finished VALUES (?, ?, ?)", (batch.first, now_ns, keys))
            for _ in gone:
                self._finished.popleft()
            self._finished.append((batch.first, now_ns, len(keys)))
            self._finished_bytes = nbytes

    def finished_keys(self) -> Iterator[bytes]:
        """Keys of finished requests, in the order in which their batches were finished."""
        for (keys,) in self._read("SELECT keys FROM finished ORDER BY at_ns, first"):
            yield from (keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES))

    def frozen(self) -> list[FrozenBatch]:
        """Batches that were frozen and not finished, oldest first."""
        rows = self._read("SELECT ranges, token FROM batches WHERE done = 0 ORDER BY first")
        return [FrozenBatch(tuple(number for part in from_ranges(ranges) for number in part), token) for ranges, token in rows]

    def done(self) -> Iterator[range]:
        """Ranges of finished records that may still be on disk."""
        for (ranges,) in self._read("SELECT ranges FROM batches WHERE done = 1 ORDER BY first"):
            yield from from_ranges(ranges)

    def highest_sequence(self) -> int:
        """The highest sequence number ever put in a batch, 0 before the first: numbers are never given twice."""
        rows = self._read("SELECT value FROM counters WHERE name = 'sequence' UNION ALL SELECT last FROM batches")
        return max((int(row[0]) for row in rows), default=0)

    def close(self) -> None:
        """Closes the database."""
        with self._lock:
            self._db.close()

    def _read(self, sql: str) -> list[tuple[Any, ...]]:
        with self._lock:
            return list(self._db.execute(sql))


def open_ledger(path: Path, quarantine: Path, *, remembered_max: int, remembered_s_max: int) -> Ledger:
    """Opens the ledger; a damaged one is set aside, and every record then counts as not stored (it may be stored twice).

    Raises OSError when the disk is full, read-only or failing: the ledger itself is whole then, and must be kept for a better day.
    """
    try:
        return Ledger(path, remembered_max, remembered_s_max)
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & _PRIMARY_CODE not in _DAMAGE:
            raise OSError(f"the spool's ledger {path} cannot be opened ({error}): make room on its disk, and let it be written") \
                from None
        aside = quarantine / f"{path.name}.{os.getpid()}"
        path.replace(aside)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        _LOG.error("the spool's ledger is damaged (%s) and was moved to %s: records still in the spool may be stored twice",
                   error, aside)
        return Ledger(path, remembered_max, remembered_s_max)
