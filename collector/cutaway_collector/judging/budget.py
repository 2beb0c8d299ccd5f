"""How long to rest after work, so that work stays within a share of one core. Measures nothing."""

from __future__ import annotations

import time
from collections.abc import Callable


class Budget:
    """share: of one core, 0 < share <= 1. clock: monotonic seconds."""

    def __init__(self, share: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._share = share
        self._clock = clock
        self._free_at_s = clock()

    def spend(self, seconds: float) -> None:
        """Work that has just ended and took so many seconds of processor time."""
        now_s = self._clock()
        # The work itself took at least this long: the rest is what is left of its share of the time.
        self._free_at_s = max(self._free_at_s, now_s - seconds) + seconds / self._share

    def rest_s(self) -> float:
        """Seconds until work may go on, 0 when it may now."""
        return max(0.0, self._free_at_s - self._clock())
