"""What this process asks of the system it runs on: freed memory is kept while there is work, code that has done its work is let go
of, as many files may be open as the system allows, and its end does not wait for anybody.

Not a limit: those are the settings' business, and bound what is in use.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import resource
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

_TRIM_THRESHOLD: Final = -1
_TOP_PAD: Final = -2
_MMAP_THRESHOLD: Final = -3
_ARENA_MAX: Final = -8
"""Numbers of glibc's mallopt(3)."""

_DONT_NEED: Final = 4
"""Of madvise(2), on Linux."""
_COMPILER: Final = "libllvmlite"
_SMAPS: Final = Path("/proc/self/smaps")

_KEPT_BYTES: Final = 256 * 1024 * 1024
_ARRAY_BYTES: Final = 32 * 1024 * 1024
"""Arrays up to here, glibc's own limit, come from memory that is kept."""
_QUIET_SECONDS: Final = 10.0
"""Between two looks; after it, what kept memory would save is less than what others may do with it."""
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


def let_waiting_threads_sleep() -> None:
    """Between two kernels on several cores their threads sleep. By default OpenMP's spin for milliseconds, so that the next kernel
    starts at once: a tenth of the CPU time of spans with token series, taken from those who send and store. Read once, when the
    first such kernel loads the library; a variable that is set already holds.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def set_aside_what_stays() -> None:
    """What the start has made is not looked at again by Python's search for garbage: two hundred thousand objects, of libraries
    mostly, were a fiftieth of the work of a busy collector. For a process that runs one; what is made later is searched as ever.
    Without a search before it, which takes 0.15 s of the start and found ten objects.
    """
    gc.freeze()


def give_freed_memory_back() -> None:
    """All that is free goes to the system: some hundredths of a second, and pages that the next request has to ask for again."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        return


def let_go_of_the_compiler() -> int:
    """Takes the pages of LLVM's code out of this process and returns how many bytes they were: kernels are compiled, or loaded from
    the disk, and 65 MiB of what did that are not needed again. Code that is needed after all comes back from its file by itself.

    Only what is mapped read-only and has no page of our own among it (`Anonymous`), so that nothing is lost that no file holds.
    """
    total = 0
    with suppress(OSError, AttributeError):
        madvise = ctypes.CDLL(None).madvise
        for start, stop, resident in _unchanged(_COMPILER):
            if madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), _DONT_NEED) == 0:
                total += resident
    return total


def _unchanged(library: str) -> Iterator[tuple[int, int, int]]:
    """(start, stop, resident bytes) of each mapping of a library's file that cannot be written and never was. Raises OSError."""
    start = stop = resident = 0
    ours = False
    for line in _SMAPS.read_text().splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):  # the head of a mapping: addresses, permissions, offset, device, inode, path
            start, stop = (int(word, 16) for word in name.split("-"))
            ours = "w" not in rest[0] and len(rest) > 4 and Path(rest[4]).name.startswith(library)
        elif ours and name == "Rss:":
            resident = int(rest[0]) * 1024
        elif ours and name == "Anonymous:" and rest[0] == "0" and resident:
            yield start, stop, resident


class GivingBack:
    """A thread that gives freed memory back once when nothing has come for a while, and the compiler with it. done: a figure that
    work changes.
    """

    def __init__(self, done: Callable[[], object]) -> None:
        self._done = done
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="giving-back", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        before, given = self._done(), False
        while not self._over.wait(_QUIET_SECONDS):
            now = self._done()
            if now != before:
                given = False
            elif not given:
                give_freed_memory_back()
                let_go_of_the_compiler()
                given = True
            before = now


def allow_open_files() -> int:
    """Raises the soft limit on open files, which is 1024 on most systems, as far as needed and allowed; returns what holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def leave(code: int) -> NoReturn:
    """Ends the process, everything being closed. By way of the interpreter, the embedded engine would take itself apart while some
    threads still count for a page that nobody waits for any more: they crash in it, and the process hangs for ever."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # whoever read it has gone
            stream.flush()
    os._exit(code)
