"""What this process asks of the system it runs on: that memory it frees is kept for it, and as many open files as it may have.

Not a limit: those are the settings' business, and bound what is in use.
"""

from __future__ import annotations

import ctypes
import resource
from typing import Final

_TRIM_THRESHOLD: Final = -1
_TOP_PAD: Final = -2
_MMAP_THRESHOLD: Final = -3
_ARENA_MAX: Final = -8
"""Numbers of glibc's mallopt(3)."""

_KEPT_BYTES: Final = 256 * 1024 * 1024
_ARRAY_BYTES: Final = 32 * 1024 * 1024
"""Arrays up to here, glibc's own limit, come from memory that is kept."""
_OPEN_FILES: Final = 65_536
"""More than the limits on connections and the embedded engine's merges add up to."""


def keep_freed_memory() -> bool:
    """Sets it up for this process; False where the C library is not glibc, which then stays as it is.

    By default every array above 128 KiB comes from the kernel page by page and goes straight back, which cost a third of the CPU
    time of requests with long attributes; arrays of one request are as large as those of the next.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    # One arena: with one a thread, each keeps a peak of its own.
    return all(mallopt(option, value) == 1 for option, value in (
        (_MMAP_THRESHOLD, _ARRAY_BYTES), (_TRIM_THRESHOLD, _KEPT_BYTES), (_TOP_PAD, 4 * 1024 * 1024), (_ARENA_MAX, 1)))


def allow_open_files() -> int:
    """Raises the soft limit on open files, which is 1024 on most systems, as far as needed and allowed; returns what holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
