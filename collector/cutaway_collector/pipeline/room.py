"""How much memory requests may take, from the first look at them until they are stored. Not the limit of the spool on disk."""

from __future__ import annotations

import threading
import time
from typing import Final

CHECKING_FACTOR: Final = 4
"""Memory that a look at a protobuf request takes at its peak, over its bytes: the tables of one with series in short spans."""
PARSING_FACTOR: Final = 12
"""The same of JSON, which becomes Python objects first, and of logs."""
CHECKING_SHARE: Final = 4
"""One part in so many of the memory is kept for looking at requests, so that they can go to the spool when all else is full."""
WAIT_S_MAX: Final = 1.0
"""How long a request waits for its turn to be looked at: a burst is no overload."""


class Room:
    """Thread-safe. held: bytes of requests that wait; checking: bytes reserved for requests that are looked at. Together they stay
    within `bytes_max`, but for one request that is larger by itself, which is looked at alone.
    """

    def __init__(self, bytes_max: int) -> None:
        self._changed = threading.Condition()
        self._bytes_max = bytes_max
        self._held_max = bytes_max - bytes_max // CHECKING_SHARE
        self.held = 0
        self.checking = 0

    @property
    def used(self) -> int:
        """Bytes of both kinds."""
        return self.held + self.checking

    def enter(self, nbytes: int) -> int:
        """Reserves what a look at a request may take, once there is room; 0: none in time. To be given back by `leave`."""
        wanted, deadline_s = max(1, nbytes), time.monotonic() + WAIT_S_MAX
        with self._changed:
            while self.checking and self.checking + wanted > self._checking_max():
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    return 0
                self._changed.wait(left_s)
            self.checking += wanted
            return wanted

    def leave(self, reserved: int) -> None:
        """The request was looked at."""
        with self._changed:
            self.checking -= reserved
            self._changed.notify_all()

    def is_full(self, nbytes: int) -> bool:
        """Whether a request of that many bytes would find no room now; a request always finds it when no other is held."""
        return self.held > 0 and self.held + nbytes > self._held_max

    def hold(self, nbytes: int) -> bool:
        """Takes room for a request that waits, if there is any."""
        with self._changed:
            if self.is_full(nbytes):
                return False
            self.held += nbytes
            return True

    def take(self, nbytes: int) -> None:
        """Takes room for what must be stored whatever it costs: requests that come back from the spool one batch at a time."""
        with self._changed:
            self.held += nbytes

    def release(self, nbytes: int) -> None:
        """The request is stored, or was not kept."""
        with self._changed:
            self.held -= nbytes
            self._changed.notify_all()

    def _checking_max(self) -> int:
        return max(self._bytes_max // CHECKING_SHARE, self._bytes_max - self.held)
