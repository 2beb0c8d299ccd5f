"""The spool: requests as received, on disk before they are acknowledged, until their rows are stored.

Not a queue in memory and not a decoder: it keeps bytes, says which are still owed to the store, and remembers how they were
grouped into batches, so that a repeated batch carries the token of the first try.

    segments/*.log   the records         ledger.db   batches, tokens, what is done
    dead/            records that the store will never take, each with its reason
    quarantine/      bytes found at start-up that are not whole records
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from cutaway_collector.contracts import Encoding
from cutaway_collector.directories import own_directory, private_directory
from cutaway_collector.settings import Settings
from cutaway_collector.spool.ledger import FrozenBatch, open_ledger
from cutaway_collector.spool.records import CorruptRecord, Record
from cutaway_collector.spool.segments import Segments

__all__ = ["CorruptRecord", "FrozenBatch", "Record", "Spool"]

SEGMENT_BYTES: Final = 64 * 1024 * 1024


class Spool:
    """One directory, owned by this process. Thread-safe.

    Raises DataDirectoryBusy when another process has it, StoreError when it cannot be ours, OSError when it cannot be read.
    """

    def __init__(self, directory: str | Path, *, bytes_max: int, segment_bytes: int = SEGMENT_BYTES) -> None:
        root = Path(directory)
        self._lock = own_directory(root)
        try:
            self._dead = private_directory(root / "dead")
            quarantine = private_directory(root / "quarantine")
            self._ledger = open_ledger(root / "ledger.db", quarantine)
            self._segments = Segments(private_directory(root / "segments"), quarantine, bytes_max=bytes_max,
                                      segment_bytes=max(4096, min(segment_bytes, bytes_max // 4)))
            self._segments.load(self._ledger.highest_sequence() + 1)
            self._segments.mark_ranges_done(self._ledger.done())
            self._segments.trim()
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
        return cls(place, bytes_max=settings.spool_bytes_max)

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
        return sum(1 for _ in self._dead.glob("*.json"))

    def append(self, payload: bytes, encoding: Encoding, tenant: str, received_ns: int) -> int:
        """Keeps one request; returns its sequence number when it is on disk. Raises Overloaded: nothing was kept."""
        return self._segments.append(payload, encoding, tenant, received_ns)

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
        self._ledger.finish(batch, self._segments.oldest_kept())
        self._segments.trim()

    def bury(self, sequence: int, reason: str) -> None:
        """Copies a record that cannot be stored to the dead letters, with the reason beside it. Raises OSError."""
        note: dict[str, object] = {"sequence": sequence, "session": self._session, "reason": reason}
        payload = b""
        try:
            record = self.read(sequence)
            note |= {"encoding": record.encoding, "tenant": record.tenant, "received_ns": record.received_ns}
            payload = record.payload
        except (CorruptRecord, KeyError) as error:
            note["unreadable"] = str(error)
        stem = self._dead / f"{sequence:020d}"
        _write(stem.with_suffix(".otlp"), payload)
        _write(stem.with_suffix(".json"), json.dumps(note).encode())

    def close(self) -> None:
        """Syncs, closes and gives the directory back; what is not finished stays for the next start."""
        self._segments.close()
        self._ledger.close()
        os.close(self._lock)


def _write(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
