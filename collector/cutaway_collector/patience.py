"""Calls of code that is not ours and may never come back: each in a thread of its own, waited for so long and no longer.

A thread cannot be ended from outside: one that hangs is left where it is, and until it comes back nothing else is asked of that
code. Not a sandbox: what it does meanwhile it does in our process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from cutaway_collector.errors import CutawayError

PAUSE_S: Final = 30.0
PAUSE_S_MAX: Final = 3600.0

Answer = TypeVar("Answer")


class NoAnswer(CutawayError):
    """It took too long. The message says nothing of what it was asked."""


class Patience(Generic[Answer]):
    """Of one callee. seconds_max: what a call may take; who took longer is left out for `pause_s`, then twice that, to an hour."""

    def __init__(self, seconds_max: float, *, pause_s: float = PAUSE_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds_max = seconds_max
        self._pause_first_s = self._pause_s = pause_s
        self._clock = clock
        self._due_s = 0.0
        self._hanging: threading.Event | None = None
        self.spent_s = 0.0
        """Processor time of the calls that came back, which the caller's thread did not spend."""

    def call(self, function: Callable[[], Answer]) -> Answer:
        """What it answers, or raises. Raises NoAnswer when it takes too long or took too long lately; its answer is then lost."""
        if self._hanging is not None and not self._hanging.is_set():
            raise NoAnswer(f"it has not come back from a call that it was given {self._seconds_max:g} s for")
        if self._clock() < self._due_s:
            raise NoAnswer(f"it took longer than {self._seconds_max:g} s and is left out for a while")
        answers: list[Answer] = []
        errors: list[Exception] = []
        done = threading.Event()

        def run() -> None:
            began_s = time.thread_time()
            try:
                answers.append(function())
            except Exception as error:
                errors.append(error)
            finally:
                self.spent_s += time.thread_time() - began_s
                done.set()

        threading.Thread(target=run, name="plug-in", daemon=True).start()
        if not done.wait(self._seconds_max):
            self._hanging = done
            self._due_s = self._clock() + self._pause_s
            self._pause_s = min(2 * self._pause_s, PAUSE_S_MAX)
            raise NoAnswer(f"it did not answer within {self._seconds_max:g} s")
        self._pause_s = self._pause_first_s
        if errors:
            raise errors[0]
        return answers[0]
