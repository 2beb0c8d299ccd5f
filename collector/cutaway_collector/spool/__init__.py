"""The spool: requests as received, on disk before they are acknowledged, until their rows are stored.

Not a queue in memory and not a decoder: it keeps bytes, says which are still owed to the store, and remembers how they were
grouped into batches, so that a repeated batch carries the token of the first try.

    segments/*.log   the records, with *.idx of what is in them    ledger.db   batches, tokens, what is done, keys of what was
    dead/            records that the store will never take, each with its reason
    quarantine/      bytes found at start-up that are not whole records; within the bounds of dead/
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from cutaway_collector.contracts import Encoding
from cutaway_collector.directories import own_directory, private_directory
from cutaway_collector.settings import Settings
from cutaway_collector.spool.dead import DEAD_BYTES_MAX, DEAD_SECONDS_MAX, DeadLetters
from cutaway_collector.spool.ledger import FrozenBatch, open_ledger
from cutaway_collector.spool.quarantine import Quarantine
from cutaway_collector.spool.records import CorruptRecord, Record, request_key
from cutaway_collector.spool.segments import Segments

__all__ = ["FULL_SHARE", "CorruptRecord", "FrozenBatch", "Letter", "Record", "Spool"]

SEGMENT_BYTES: Final = 64 * 1024 * 1024
REMEMBERED_MAX: Final = 50_000
REMEMBERED_SECONDS_MAX: Final = 3600
FULL_SHARE: Final = 0.95
"""Of bytes_max: filled so far, a spool has no room for the next large request, though a small one may still fit."""
_QUARANTINE_SECONDS: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Letter:
    """A request that was buried. encoding is "" and received_ns 0 when the record could not be read; spans: how many were lost."""

    session: str
    sequence: int
    reason: str
    spans: int
    encoding: str = ""
    tenant: str = ""
    received_ns: int = 0
    nbytes: int = 0


class Spool:
    """One directory, owned by this process. Thread-safe.

    Raises DataDirectoryBusy when another process has it, StoreError when it cannot be ours, OSError when it cannot be read.
    """

    def __init__(
        self, directory: str | Path, *, bytes_max: int, segment_bytes: int = SEGMENT_BYTES, remembered_max: int = REMEMBERED_MAX,
        remembered_s_max: int = REMEMBERED_SECONDS_MAX, dead_bytes_max: int = DEAD_BYTES_MAX, dead_s_max: int = DEAD_SECONDS_MAX,
    ) -> None:
        root = Path(directory)
        self._lock = own_directory(root)
        self._remembered_max = remembered_max
        try:
            self._dead = DeadLetters(private_directory(root / "dead"), bytes_max=dead_bytes_max, seconds_max=dead_s_max)
            self._quarantine = Quarantine(private_directory(root / "quarantine"), bytes_max=dead_bytes_max, seconds_max=dead_s_max)
            self._ledger = open_ledger(root / "ledger.db", self._quarantine.directory, remembered_max=remembered_max,
                                       remembered_s_max=remembered_s_max)
            self._segments = Segments(private_directory(root / "segments"), self._quarantine, bytes_max=bytes_max,
                                      segment_bytes=max(4096, min(segment_bytes, bytes_max // 4)), seed=self._ledger.seed)
            self._segments.load(self._ledger.highest_sequence() + 1)
            self._segments.mark_ranges_done(self._ledger.done())
            self._segments.trim()
            self._quarantine.expire()
            self._expired_s = time.monotonic()
        except BaseException:
            os.close(self._lock)
            raise
        # A new name at every start: a directory restored from a backup can then never repeat a token that was used meanwhile.
        self._session = uuid.uuid4().hex

    @classmethod
    def of(cls, settings: Settings) -> Spool:
        """The spool the settings name: `spool`, else DIR/spool with --data, else a folder of the user's state directory."""
        if settings.spool:
            place = Path(settings.spool)
        elif settings.data:
            place = Path(settings.data) / "spool"
        else:
            place = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "cutaway" / "spool"
        return cls(place, bytes_max=settings.spool_bytes_max, remembered_max=settings.duplicates_requests_max,
                   remembered_s_max=settings.duplicates_seconds_max, dead_bytes_max=settings.dead_letters_bytes_max,
                   dead_s_max=settings.dead_letters_retention_days * 86_400)

    @property
    def size_bytes(self) -> int:
        """Bytes of the records on disk, finished ones included until their segment is deleted."""
        return self._segments.size_bytes

    @property
    def syncs(self) -> int:
        """How many times the disk was synced since the start: fewer than appends when they share."""
        return self._segments.syncs

    @property
    def failure(self) -> str:
        """Why nothing can be kept at the moment, "" when it can. While it lasts, asking tries the disk, at most once a second."""
        return self._segments.failure

    @property
    def dead_letters(self) -> int:
        """Records in the dead-letter folder."""
        return self._dead.count

    @property
    def dead_bytes(self) -> int:
        """Bytes of the dead-letter folder."""
        return self._dead.nbytes

    def key(self, payload: bytes, encoding: Encoding, tenant: str) -> bytes:
        """What tells this request from every other, in this spool: 16 bytes."""
        return request_key(payload, encoding, tenant, self._ledger.seed)

    def remembered(self) -> Iterator[bytes]:
        """Keys of the latest requests of earlier runs, oldest first: finished ones, then those whose records are still here."""
        yield from self._ledger.finished_keys()
        yield from self._segments.latest_keys(self._remembered_max)

    def append(self, payload: bytes, encoding: Encoding, tenant: str, received_ns: int, key: bytes | None = None) -> int:
        """Keeps one request; returns its sequence number when it is on disk. Raises Overloaded: nothing was kept.

        key: as `key` gives it, where the caller has it already.
        """
        return self._segments.append(payload, encoding, tenant, received_ns, key or self.key(payload, encoding, tenant))

    def read(self, sequence: int) -> Record:
        """One record. Raises CorruptRecord, or KeyError when it is finished and gone."""
        return self._segments.read(sequence)

    def frozen(self) -> list[FrozenBatch]:
        """Batches of an earlier run that were frozen and not finished, oldest first."""
        return self._ledger.frozen()

    def loose(self) -> Iterator[int]:
        """Records of an earlier run that are in no batch, oldest first. To be read once, at the start."""
        bound = {sequence for batch in self.frozen() for sequence in batch.sequences}
        return (sequence for sequence in self._segments.undone() if sequence not in bound)

    def freeze(self, sequences: Sequence[int]) -> FrozenBatch:
        """Binds records into a batch under a new token, on disk before it returns. Raises sqlite3.Error."""
        ordered = tuple(sorted(sequences))
        batch = FrozenBatch(ordered, f"{self._session}:{ordered[0]}-{ordered[-1]}")
        self._ledger.freeze(batch)
        return batch

    def finish(self, batch: FrozenBatch) -> None:
        """The batch is stored: its records may go. Raises sqlite3.Error."""
        self._segments.mark_done(batch.sequences)
        self._ledger.finish(batch, self._segments.oldest_kept(), self._segments.keys(batch.sequences))
        self._segments.trim()

    def bury(self, sequence: int, reason: str, spans: int = 0) -> Letter:
        """Copies a record that cannot be stored to the dead letters, with the reason beside it. Raises OSError."""
        letter, payload, unreadable = Letter(self._session, sequence, reason, spans), b"", ""
        try:
            record = self.read(sequence)
            payload = record.payload
            letter = replace(letter, encoding=record.encoding, tenant=record.tenant, received_ns=record.received_ns,
                             nbytes=len(payload))
        except (CorruptRecord, KeyError) as error:
            unreadable = str(error)
        self._dead.add(sequence, asdict(letter) | ({"unreadable": unreadable} if unreadable else {}), payload)
        return letter

    def expire(self) -> int:
        """Removes dead letters that are too old, or too many for their bytes; how many. The quarantine has the same bounds, and is
        looked at once an hour. Raises OSError.
        """
        if time.monotonic() - self._expired_s >= _QUARANTINE_SECONDS:
            self._expired_s = time.monotonic()
            self._quarantine.expire()
        return self._dead.expire()

    def close(self) -> None:
        """Syncs, closes and gives the directory back; what is not finished stays for the next start."""
        self._segments.close()
        self._ledger.close()
        os.close(self._lock)
