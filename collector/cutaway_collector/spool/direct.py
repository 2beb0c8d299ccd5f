"""Large writes past the page cache: what is synced at once and hardly ever read back needs no copy in the kernel's memory.

Not a file and not a sync. A page of that memory that is touched for the first time costs more than writing what it holds, and a
container is charged for it. Only whole blocks can go this way: the bytes of the first one that lie there already are written again
with it, and the last one is filled up with zeros, so that what comes next has a block of its own.
"""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Any, Final

import numpy as np

from cutaway_collector.spool.records import BLOCK

_LOG: Final = logging.getLogger(__name__)
BYTES_MIN: Final = 128 * 1024
"""Of a record: below, the page cache is as cheap, and a filled-up block a larger share."""
_BUFFER_BYTES: Final = 1024 * 1024
"""Written at once; larger ones were no faster."""


class DirectWrites:
    """The file that is being written, opened a second time. Not thread-safe. Where the system has no such writes, none are made."""

    def __init__(self) -> None:
        self._handle = -1
        self._refused = False
        self._buffer: Any = None

    def open(self, path: Path) -> None:
        """Begins another file, which exists. Never raises."""
        self.close()
        if self._refused:
            return
        try:
            self._handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_DIRECT)
        except (OSError, AttributeError) as error:  # the file system, or the system, has no such writes
            self._refuse(error)

    def close(self) -> None:
        """Lets go of the file."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def filling_max(self, nbytes: int) -> int:
        """The most that `filling` can be, also in a file that is still to be opened."""
        return BLOCK - 1 if nbytes >= BYTES_MIN and not self._refused else 0

    def filling(self, offset: int, nbytes: int) -> int:
        """Zeros to follow a record of `nbytes` at `offset`: as many as its last block lacks, if it goes this way."""
        return -(offset + nbytes) % BLOCK if self._takes(nbytes) else 0

    def write(self, cached: int, head: bytes, body: bytes, offset: int) -> int:
        """Writes `head`, `body` and what `filling` says to `offset`; how many bytes of them, none where they go another way.

        cached: a handle of the same file, to read what lies before `offset`. From first to last, so that a write that is cut short
        leaves a record that ends too early. Raises OSError as a write does.
        """
        if not self._takes(len(head) + len(body)):
            return 0
        if self._buffer is None:
            self._buffer = _aligned(_BUFFER_BYTES)
        before = offset % BLOCK
        start = offset - before
        lead = (os.pread(cached, before, start) if before else b"") + head
        size = len(lead) + len(body)
        stop = -(-size // BLOCK) * BLOCK
        at, data = 0, np.frombuffer(body, np.uint8)
        while at < stop:
            count = min(_BUFFER_BYTES, stop - at)
            room = self._buffer[:count]
            first, last = max(0, at - len(lead)), min(at + count, size) - len(lead)
            if at == 0:
                room[: len(lead)] = np.frombuffer(lead, np.uint8)
            room[first + len(lead) - at : last + len(lead) - at] = data[first:last]
            room[last + len(lead) - at :] = 0
            try:
                written = os.pwrite(self._handle, room, start + at)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._refuse(error)  # other blocks than ours, or none at all
                break
            at += written // BLOCK * BLOCK
            if written < count:
                break
        return max(0, at - before)

    def _takes(self, nbytes: int) -> bool:
        return self._handle >= 0 and nbytes >= BYTES_MIN

    def _refuse(self, error: Exception) -> None:
        self.close()
        self._refused = True
        _LOG.debug("the spool is written through the page cache: %s", error)


def _aligned(nbytes: int) -> Any:
    """uint8 [nbytes] at an address that is a multiple of BLOCK."""
    room = np.empty(nbytes + BLOCK, np.uint8)
    first = -room.ctypes.data % BLOCK
    return room[first : first + nbytes]
