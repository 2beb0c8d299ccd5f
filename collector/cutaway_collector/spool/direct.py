"""Large writes past the page cache: what is synced at once and hardly ever read back needs no copy in the kernel's memory.

Not a file and not a sync. A page of that memory that is touched for the first time costs more than writing what it holds, and a
container is charged for it. Only whole blocks can go this way: the bytes of the first one that lie there already are written again
with it, and those behind the last one are the caller's to write.
"""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Any, Final

import numpy as np

_LOG: Final = logging.getLogger(__name__)
BLOCK: Final = 4096
"""Places in the file, lengths and addresses are multiples of it: no disk asks for more."""
BYTES_MIN: Final = 2 * 1024 * 1024
"""Of a request: below, the page cache is as cheap."""
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

    def write(self, cached: int, head: bytes, body: bytes, offset: int) -> int:
        """Writes `head` and `body` to `offset`, as far as they fill whole blocks; how many bytes of them, perhaps none.

        cached: a handle of the same file, to read what lies before `offset`. From first to last, so that a write that is cut short
        leaves a record that ends too early. Raises OSError as a write does.
        """
        if self._handle < 0 or len(body) < BYTES_MIN:
            return 0
        if self._buffer is None:
            self._buffer = _aligned(_BUFFER_BYTES)
        before = offset % BLOCK
        start = offset - before
        lead = os.pread(cached, before, start) + head
        stop = (len(lead) + len(body)) // BLOCK * BLOCK
        at, data = 0, np.frombuffer(body, np.uint8)
        while at < stop:
            count = min(_BUFFER_BYTES, stop - at)
            room = self._buffer[:count]
            if at == 0:
                room[: len(lead)] = np.frombuffer(lead, np.uint8)
                room[len(lead) :] = data[: count - len(lead)]
            else:
                room[:] = data[at - len(lead) : at - len(lead) + count]
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

    def _refuse(self, error: Exception) -> None:
        self.close()
        self._refused = True
        _LOG.debug("the spool is written through the page cache: %s", error)


def _aligned(nbytes: int) -> Any:
    """uint8 [nbytes] at an address that is a multiple of BLOCK."""
    room = np.empty(nbytes + BLOCK, np.uint8)
    first = -room.ctypes.data % BLOCK
    return room[first : first + nbytes]
