"""One background thread that finishes what generations leave behind, so that the host does not wait for it.

Not a queue without end: what does not fit is refused, and then done at once by whoever brought it. Nothing is dropped.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Final

from cutaway import guard

JOBS_MAX: Final = 256
BYTES_MAX: Final = 64 * 1024 * 1024
"""What may wait: as much as the exporter's own queue."""

_EXIT_SECONDS: Final = 5.0
"""Longest wait at the end of the program, as for the exporter."""

Job = Callable[[], None]


class Worker:
    """Runs jobs one after another on a thread of its own, which begins with the first job. A fault in a job is contained."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._begin()
        _workers.add(self)

    def drain_first_at_exit(self) -> None:
        """When the program ends: before whoever registered earlier. Called again after each exporter that our jobs end in was made,
        for what is registered last runs first, and a closed exporter takes no span."""
        atexit.unregister(self._drain_at_exit)
        atexit.register(self._drain_at_exit)

    def _drain_at_exit(self) -> None:
        self.drain(_EXIT_SECONDS)

    def _begin(self) -> None:
        self._jobs: deque[tuple[Job, int]] = deque()
        self._bytes = 0
        self._busy = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def submit(self, job: Job, size_bytes: int) -> bool:
        """Whether the job was taken. False: too much waits already, or no thread can be started; do it yourself."""
        with self._changed:
            if len(self._jobs) >= JOBS_MAX or (self._jobs and self._bytes + size_bytes > BYTES_MAX):
                return False
            if self._thread is None or not self._thread.is_alive():
                try:
                    self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                    self._thread.start()
                except RuntimeError:  # the interpreter is ending, or the system has no thread left
                    self._thread = None
                    return False
            self._jobs.append((job, size_bytes))
            self._bytes += size_bytes
            self._changed.notify_all()
        return True

    def drain(self, timeout_seconds: float) -> bool:
        """Waits until every job that was taken is done. False when that takes longer, and from within a job."""
        if threading.current_thread() is self._thread:
            return False
        deadline = time.monotonic() + timeout_seconds
        with self._changed:
            while self._jobs or self._busy:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._jobs:
                    self._changed.wait()
                job, size_bytes = self._jobs.popleft()
                self._bytes -= size_bytes
                self._busy = True
            try:
                with guard.guarded("finishing a span"):
                    job()
            finally:
                del job
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()


_workers: weakref.WeakSet[Worker] = weakref.WeakSet()


def _begin_in_child() -> None:
    """After a fork: the thread lives in the parent, and so do the jobs it will do."""
    for worker in list(_workers):
        worker._begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_in_child)
