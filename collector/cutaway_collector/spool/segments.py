"""Append-only segment files with group commit: one fdatasync serves every append that was written before it began.

Not the bookkeeping of what is done: that is the ledger's. A segment is deleted as a whole, when its last record is done.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from cutaway_collector.contracts import Encoding
from cutaway_collector.errors import Overloaded
from cutaway_collector.spool.direct import DirectWrites
from cutaway_collector.spool.index import index_path, read_index, write_index
from cutaway_collector.spool.quarantine import Quarantine
from cutaway_collector.spool.records import (
    HEADER_BYTES,
    KEY_BYTES,
    CorruptRecord,
    Record,
    Scan,
    body_checksum,
    header,
    read_record,
    scan,
)

_LOG: Final = logging.getLogger(__name__)
_TRIAL_S: Final = 1.0
_TRIAL_BYTES_MAX: Final = 1024 * 1024
"""A broken disk is tried again at most so often, with as much as was last refused, but no more than this."""


class Segment:
    """One file: its records' places and keys, its length, which are done. `lost_from`: first record a failed sync took back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sequences = array("Q")
        self.offsets = array("Q")
        self.keys = bytearray()
        self.size = 0
        self.durable_size = 0
        self.done: set[int] = set()
        self.lost_from: int | None = None

    @property
    def finished(self) -> bool:
        """Whether every record is done."""
        return len(self.done) == len(self.sequences)

    def key(self, at: int) -> bytes:
        """The key of the record at a place in the arrays."""
        return bytes(self.keys[at * KEY_BYTES : (at + 1) * KEY_BYTES])

    def index(self, sequence: int) -> int | None:
        """The place of a record in the arrays, None when it is not here."""
        at = bisect_left(self.sequences, sequence)
        return at if at < len(self.sequences) and self.sequences[at] == sequence else None


class Segments:
    """The files of one spool. Thread-safe.

    directory: exists already, private. bytes_max: of all segments together. segment_bytes: after which a new file begins.
    seed: of the records' keys.
    """

    def __init__(self, directory: Path, quarantine: Quarantine, *, bytes_max: int, segment_bytes: int, seed: int) -> None:
        self._directory = directory
        self._seed = seed
        self._quarantine = quarantine
        self._bytes_max = bytes_max
        self._segment_bytes = segment_bytes
        self._changed = threading.Condition()
        self._syncing = False
        self._durable = 0
        self._next = 1
        self._old: list[Segment] = []
        self._active: Segment | None = None
        self._handle = -1
        self._direct = DirectWrites()
        self._closed = False
        self._failure = ""
        self._refused_bytes = 0
        self._tried_s = 0.0
        self.syncs = 0

    def load(self, next_sequence: int) -> None:
        """Finds what an earlier run left. What cannot be trusted goes to the quarantine and is logged. Raises OSError.

        A segment is read from end to end where no index fits it: the last one after a crash, which may have torn it. Acknowledged
        records that are damaged keep their numbers, so that they are offered like others and found unreadable, not forgotten.
        """
        paths = sorted(self._directory.glob("*.log"))
        for path in paths:
            found = read_index(path, self._seed)
            if found is None:
                found = scan(path, self._seed)
                self._set_aside(path, found)
                write_index(path, found, self._seed)
                os.truncate(path, found.good_bytes)  # last: until then the index does not fit, and all this is done again
            segment = Segment(path)
            segment.sequences, segment.offsets, segment.keys = found.sequences, found.offsets, found.keys
            segment.size = segment.durable_size = found.good_bytes
            if found.sequences:
                self._old.append(segment)
            else:
                _unlink(path)
        for leftover in set(self._directory.glob("*.idx")) - {index_path(path) for path in paths}:
            leftover.unlink(missing_ok=True)
        highest = max((segment.sequences[-1] for segment in self._old), default=0)
        self._next = max(next_sequence, highest + 1)
        self._durable = self._next - 1

    @property
    def size_bytes(self) -> int:
        """Bytes of all segments on disk."""
        with self._changed:
            return self._bytes()

    @property
    def failure(self) -> str:
        """Why the disk took nothing when it was last asked, "" when it did. While it fails, asking tries it, once a second:
        a collector that is not ready gets no requests that would show the disk is well again.
        """
        with self._changed:
            now_s = time.monotonic()
            if not self._failure or self._closed or now_s - self._tried_s < _TRIAL_S:
                return self._failure
            self._tried_s, size = now_s, min(self._refused_bytes, _TRIAL_BYTES_MAX)
        failure = _trial(self._directory / "trial", size)
        with self._changed:
            self._note(failure)
            return self._failure

    def append(self, payload: bytes, encoding: Encoding, tenant: str, received_ns: int, key: bytes) -> int:
        """Writes one record and returns its sequence number once it is on disk. Raises Overloaded: nothing is kept."""
        raw_tenant = tenant.encode()
        checksum = body_checksum(raw_tenant, payload)
        size = HEADER_BYTES + len(raw_tenant) + len(payload)
        with self._changed:
            if self._closed:
                raise Overloaded("the collector is stopping: send this request again in a moment")
            if self._bytes() + size + self._direct.filling_max(size) > self._bytes_max:
                raise Overloaded(f"the spool may hold {self._bytes_max} bytes (spool_bytes_max) and is full, because the store is "
                                 "behind: this request was not kept, send it again later", retry_after_s=5)
            try:
                segment = self._writable(size)
                sequence = self._next
                filling = self._direct.filling(segment.size, size)
                head = header(sequence, received_ns, encoding, raw_tenant, len(payload), checksum, filled=filling > 0)
                self._write(segment, head + raw_tenant, payload, filling)
            except OSError as error:
                self._note(f"the spool cannot be written ({error.strerror})", size)
                raise Overloaded(f"the spool cannot be written ({error.strerror}): this request was not kept, send it again later",
                                 retry_after_s=5) from None
            segment.sequences.append(sequence)
            segment.offsets.append(segment.size)
            segment.keys += key
            segment.size += size + filling
            self._next += 1
            self._await_durable(segment, sequence)
            return sequence

    def read(self, sequence: int) -> Record:
        """One record from disk. Raises CorruptRecord or KeyError (not here)."""
        with self._changed:
            segment, at = self._find(sequence)
            offset, size, path = segment.offsets[at], segment.size, segment.path
        with path.open("rb") as file:
            file.seek(offset)
            record = read_record(file, size - offset)
        if record.sequence != sequence:
            raise CorruptRecord("another record lies in its place")
        return record

    def mark_done(self, sequences: Iterable[int]) -> None:
        """Notes finished records; unknown ones are ignored."""
        with self._changed:
            for sequence in sequences:
                try:
                    segment, _ = self._find(sequence)
                except KeyError:
                    continue
                segment.done.add(sequence)

    def mark_ranges_done(self, ranges: Iterable[range]) -> None:
        """The same for ranges, which may name records that are long gone."""
        with self._changed:
            for part in ranges:
                for segment in self._old:
                    low, high = bisect_left(segment.sequences, part.start), bisect_left(segment.sequences, part.stop)
                    segment.done.update(segment.sequences[low:high])

    def trim(self) -> None:
        """Deletes segments whose records are all done, the active one too once it is large enough to be worth a new file."""
        with self._changed:
            active = self._active
            if active is not None and active.finished and active.size >= self._segment_bytes // 4 and active.lost_from is None:
                self._rotate()
            self._delete_finished()

    def oldest_kept(self) -> int:
        """The lowest sequence number still on disk; the next one when there is none."""
        with self._changed:
            firsts = [segment.sequences[0] for segment in self._all() if segment.sequences]
            return min(firsts, default=self._next)

    def keys(self, sequences: Iterable[int]) -> bytes:
        """The keys of records, one after another; those that are gone are left out."""
        with self._changed:
            out = bytearray()
            for sequence in sequences:
                try:
                    segment, at = self._find(sequence)
                except KeyError:
                    continue
                out += segment.key(at)
            return bytes(out)

    def latest_keys(self, count: int) -> list[bytes]:
        """The keys of the latest records on disk, at most `count`, oldest first."""
        with self._changed:
            latest: list[bytes] = []
            for segment in reversed(self._all()):
                first = max(0, len(segment.sequences) - (count - len(latest)))
                latest += [segment.key(at) for at in reversed(range(first, len(segment.sequences)))]
            return latest[::-1]

    def undone(self) -> Iterator[int]:
        """Sequence numbers on disk and not done, rising, of the segments that `load` found."""
        with self._changed:
            segments = list(self._old)
        for segment in segments:
            for sequence in segment.sequences:
                if sequence not in segment.done:
                    yield sequence

    def close(self) -> None:
        """Syncs and closes; further appends are refused."""
        with self._changed:
            self._closed = True
            self._rotate()
            self._delete_finished()

    def _note(self, failure: str, refused_bytes: int = 0) -> None:
        """Remembers how the disk is, and logs when that changes."""
        before, self._failure = self._failure, failure
        if failure:
            self._refused_bytes, self._tried_s = max(self._refused_bytes, refused_bytes), time.monotonic()
        if failure and not before:
            _LOG.warning("requests are refused until the disk recovers: %s", failure)
        elif before and not failure:
            self._refused_bytes = 0
            _LOG.info("the spool can be written again")

    def _delete_finished(self) -> None:
        for segment in [item for item in self._old if item.finished]:
            _unlink(segment.path)
            self._old.remove(segment)

    def _all(self) -> list[Segment]:
        return [*self._old, *([self._active] if self._active is not None else [])]

    def _bytes(self) -> int:
        return sum(segment.size for segment in self._all())

    def _find(self, sequence: int) -> tuple[Segment, int]:
        for segment in reversed(self._all()):
            at = segment.index(sequence)
            if at is not None:
                return segment, at
        raise KeyError(sequence)

    def _writable(self, size: int) -> Segment:
        active = self._active
        if active is not None and active.lost_from is None and (active.size == 0 or active.size + size <= self._segment_bytes):
            return active
        self._rotate()
        path = self._directory / f"{self._next:020d}.log"
        self._handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        self._direct.open(path)
        self._active = Segment(path)
        # The file's name must outlive a power cut as its contents do.
        directory = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return self._active

    def _rotate(self) -> None:
        while self._syncing:
            self._changed.wait()
        segment = self._active
        if segment is None:
            return
        if segment.lost_from is None:
            self._sync(segment, self._handle)
        os.close(self._handle)
        self._direct.close()
        self._handle, self._active = -1, None
        if not segment.sequences:
            _unlink(segment.path)
            return
        self._old.append(segment)
        if not segment.finished:
            write_index(segment.path, Scan(segment.offsets, segment.sequences, segment.keys, segment.size), self._seed)

    def _write(self, segment: Segment, head: bytes, payload: bytes, filling: int) -> None:
        try:
            done = self._direct.write(self._handle, head, payload, segment.size)
            offset, total = segment.size + done, len(head) + len(payload) + filling - done
            parts = [memoryview(head)[done:], memoryview(payload)[max(0, done - len(head)) :]]
            parts.append(memoryview(bytes(total - sum(map(len, parts)))))
            written = os.pwritev(self._handle, [part for part in parts if part], offset) if total else 0
            rest = b"".join(parts)[written:] if written < total else b""
            while rest:
                count = os.pwrite(self._handle, rest, offset + written)
                written, rest = written + count, rest[count:]
        except OSError:
            os.ftruncate(self._handle, segment.size)
            raise

    def _await_durable(self, segment: Segment, sequence: int) -> None:
        while True:
            if segment.lost_from is not None and sequence >= segment.lost_from:
                raise Overloaded("the spool's disk reported an error: this request was not kept, send it again later",
                                 retry_after_s=5)
            if self._durable >= sequence:
                return
            if self._syncing:
                self._changed.wait()
            else:
                self._sync(segment, self._handle, release=True)

    def _sync(self, segment: Segment, handle: int, *, release: bool = False) -> None:
        """Syncs everything written so far. With `release`, other threads may write meanwhile: their group is the next one."""
        target, size = self._next - 1, segment.size
        self._syncing = True
        if release:
            self._changed.release()
        failure: OSError | None = None
        try:
            os.fdatasync(handle)
        except OSError as error:
            failure = error
        finally:
            if release:
                self._changed.acquire()
            self._syncing = False
        self.syncs += 1
        if failure is None:
            self._note("")
            self._durable, segment.durable_size = max(self._durable, target), size
        else:
            self._take_back(segment, handle, failure)
        self._changed.notify_all()

    def _take_back(self, segment: Segment, handle: int, failure: OSError) -> None:
        """After a failed sync nobody knows what is on disk: cut the file to what is, and begin a new one."""
        keep = bisect_left(segment.offsets, segment.durable_size)
        if keep == len(segment.offsets):
            return
        segment.lost_from = segment.sequences[keep]
        del segment.sequences[keep:], segment.offsets[keep:], segment.keys[keep * KEY_BYTES :]
        self._note(f"the spool cannot be synced ({failure.strerror})", segment.size - segment.durable_size)
        segment.size = segment.durable_size
        _LOG.debug("the spool could not be synced (%s): records from %d on were refused", failure.strerror, segment.lost_from)
        try:
            os.ftruncate(handle, segment.size)
        except OSError as error:
            _LOG.debug("the spool segment %s could not be cut back: %s", segment.path, error.strerror)

    def _set_aside(self, path: Path, found: Scan) -> None:
        """Copies damaged bytes to the quarantine; one number stands for all that was lost at the end."""
        for start, stop in found.unreadable:
            _LOG.warning("spool segment %s has a damaged record of %d bytes at byte %d: they were copied to %s", path.name,
                         stop - start, start, self._quarantine.copy(path, start, stop))
        if found.damage:
            size = path.stat().st_size
            _LOG.warning("spool segment %s is good up to byte %d (%s): the remaining %d bytes were moved to %s", path.name,
                         found.good_bytes, found.damage, size - found.good_bytes,
                         self._quarantine.copy(path, found.good_bytes, size))
            if not found.torn:
                found.add(found.good_bytes, found.sequences[-1] + 1 if found.sequences else int(path.stem))


def _unlink(segment: Path) -> None:
    # The index first: one without its segment would only lie about.
    index_path(segment).unlink(missing_ok=True)
    segment.unlink(missing_ok=True)


def _trial(path: Path, size: int) -> str:
    """Why a file of `size` bytes cannot be written and synced, "" when it can."""
    try:
        try:
            with os.fdopen(os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(bytes(size))
                file.flush()
                os.fdatasync(file.fileno())
        finally:
            path.unlink(missing_ok=True)
    except OSError as error:
        return f"the spool cannot be written ({error.strerror})"
    return ""
