"""How much memory requests may take, from decoding until their rows are stored. Not the spool's limit, which is of the disk."""

from __future__ import annotations

import threading
import time
from typing import Final

DECODING_FACTOR: Final = 12
"""Memory that decoding takes at its peak, over the bytes of the request: 8 to 12 were measured for spans of 400 bytes and more."""
DECODING_SHARE: Final = 4
"""One part in so many of the memory is kept for decoding, so that requests can go to the spool when all else is full."""
WAIT_S_MAX: Final = 1.0
"""How long a request waits for its turn to be decoded: a burst is no overload."""


class Room:
    """Thread-safe. held: bytes of decoded rows; decoding: bytes reserved for requests that are being decoded. Together they stay
    within `bytes_max`, but for one request that is larger by itself, which is decoded alone.
    """

    def __init__(self, bytes_max: int) -> None:
        self._changed = threading.Condition()
        self._bytes_max = bytes_max
        self._held_max = bytes_max - bytes_max // DECODING_SHARE
        self.held = 0
        self.decoding = 0

    @property
    def used(self) -> int:
        """Bytes of both kinds."""
        return self.held + self.decoding

    def enter(self, payload_bytes: int) -> int:
        """Reserves what decoding a request may take, once there is room; 0: there was none in time. To be given back by `leave`."""
        wanted, deadline_s = max(1, payload_bytes * DECODING_FACTOR), time.monotonic() + WAIT_S_MAX
        with self._changed:
            while self.decoding and self.decoding + wanted > self._decoding_max():
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    return 0
                self._changed.wait(left_s)
            self.decoding += wanted
            return wanted

    def leave(self, reserved: int) -> None:
        """The request is decoded, or was not one."""
        with self._changed:
            self.decoding -= reserved
            self._changed.notify_all()

    def is_full(self, nbytes: int) -> bool:
        """Whether rows of that many bytes would find no room now; a request always finds it when no other is held."""
        return self.held > 0 and self.held + nbytes > self._held_max

    def hold(self, nbytes: int) -> bool:
        """Takes room for decoded rows, if there is any."""
        with self._changed:
            if self.is_full(nbytes):
                return False
            self.held += nbytes
            return True

    def take(self, nbytes: int) -> None:
        """Takes room for rows that must be stored whatever it costs: they come back from the spool one batch at a time."""
        with self._changed:
            self.held += nbytes

    def release(self, nbytes: int) -> None:
        """The rows are stored, or were not kept."""
        with self._changed:
            self.held -= nbytes
            self._changed.notify_all()

    def _decoding_max(self) -> int:
        return max(self._bytes_max // DECODING_SHARE, self._bytes_max - self.held)
