"""Requests that are sent twice because their acknowledgement was lost: told from new ones by their key, and answered alike.

Not storage: the spool keeps the keys over a restart. Not a search for equal spans either: only a request that is equal byte for
byte is the same request; a span that is sent again in another request is stored again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future

from cutaway_collector.contracts import Receipt


class Duplicates:
    """Thread-safe. Keys are remembered in two generations, so that forgetting costs nothing: at least `requests_max` requests or
    `seconds_max` seconds, whichever is less, and at most twice that.

    known: keys of earlier runs, oldest first.
    """

    def __init__(self, known: Iterable[bytes], *, requests_max: int, seconds_max: int) -> None:
        self._requests_max = requests_max
        self._seconds_max = seconds_max
        self._lock = threading.Lock()
        self._young: dict[bytes, Receipt | None] = {}
        self._old: dict[bytes, Receipt | None] = {}
        self._born_s = time.monotonic()
        self._under_way: dict[bytes, Future[Receipt] | None] = {}
        """Keys of requests that are being taken, each with what others who sent the same wait for, if any do."""
        for key in known:
            self._remember(key, None)

    def answer(self, key: bytes, first: Callable[[], Receipt], again: Callable[[], Receipt]) -> tuple[Receipt, bool]:
        """(receipt, whether the request was known): `first` runs for a new request, and is remembered when it accepts something.

        Who comes while it runs waits, and gets the same receipt or the same error; after an error the request is new again. `again`
        makes the receipt anew, keeping nothing, for a request that an earlier run acknowledged. Raises what they raise.
        """
        with self._lock:
            known = key in self._young or key in self._old
            receipt = self._young.get(key) or self._old.get(key)
            mine = not known and key not in self._under_way
            if mine:
                self._under_way[key] = None
            elif not known:
                running = self._under_way[key] = self._under_way[key] or Future()
        if known:
            return receipt or again(), True
        if not mine:
            try:
                return running.result(), True
            finally:
                del running  # an error would hold this frame, the frame the future, the future the error: with the request's bytes
        try:
            receipt = first()
        except BaseException as error:
            with self._lock:
                awaited = self._under_way.pop(key)
            if awaited is not None:
                awaited.set_exception(error)
            del awaited  # the same circle
            raise
        with self._lock:
            awaited = self._under_way.pop(key)
            if receipt.accepted:
                self._remember(key, receipt)
        if awaited is not None:
            awaited.set_result(receipt)
        return receipt, False

    def _remember(self, key: bytes, receipt: Receipt | None) -> None:
        now_s = time.monotonic()
        if len(self._young) >= self._requests_max or now_s - self._born_s >= self._seconds_max:
            self._old, self._young, self._born_s = self._young, {}, now_s
        self._young[key] = receipt
