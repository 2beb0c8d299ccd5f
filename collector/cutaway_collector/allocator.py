"""The C library's allocator, told to keep what is freed: arrays of one request are as large as those of the next.

Not a memory limit: those are the settings' business, and bound what is in use. By default every array above 128 KiB comes from the
kernel page by page and goes straight back, which cost a third of the CPU time of requests with long attributes.
"""

from __future__ import annotations

import ctypes
from typing import Final

_TRIM_THRESHOLD: Final = -1
_TOP_PAD: Final = -2
_MMAP_THRESHOLD: Final = -3
_ARENA_MAX: Final = -8
"""Numbers of glibc's mallopt(3)."""

_KEPT_BYTES: Final = 256 * 1024 * 1024
_ARRAY_BYTES: Final = 32 * 1024 * 1024
"""Arrays up to here, glibc's own limit, come from memory that is kept."""


def keep_freed_memory() -> bool:
    """Sets it up for this process; False where the C library is not glibc, which then stays as it is."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    # Two arenas: with one a thread, each keeps a peak of its own.
    return all(mallopt(option, value) == 1 for option, value in (
        (_MMAP_THRESHOLD, _ARRAY_BYTES), (_TRIM_THRESHOLD, _KEPT_BYTES), (_TOP_PAD, 4 * 1024 * 1024), (_ARENA_MAX, 1)))
