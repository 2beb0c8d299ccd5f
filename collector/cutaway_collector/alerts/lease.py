"""Which of several collectors on one server judges and tells: the one that asked first and still says that it is there.

Each writes a row of its own and says so again every few seconds; the row that is oldest, of those heard of lately, holds the lease.
Ages are the server's: collectors' clocks need not agree. A newcomer waits until whoever asked at the same moment is visible, and
whoever was silent for too long asks anew, at the end of the queue, so two never hold it at once as long as an insert takes less
than SETTLE_S. Not a lock on the work itself: a delivery that is under way when the lease is lost still arrives.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from typing import Final

import numpy as np

from cutaway_collector.alert_columns import ALERT_HOLDERS
from cutaway_collector.blocks import Block, Column, Strings
from cutaway_collector.contracts import Store
from cutaway_collector.errors import StoreError
from cutaway_collector.search import rows

_LOG: Final = logging.getLogger(__name__)
LASTS_S: Final = 30.0
"""After so long a silence the next collector takes over."""
SETTLE_S: Final = 5.0
"""How old a claim is before it counts; and how much sooner than others think a holder gives up."""
ROUND_S: Final = 5.0


class Lease:
    """One collector's claim. lasts_s, settle_s: of all collectors of a store alike. now_s: a clock that never goes back."""

    def __init__(self, store: Store, *, lasts_s: float = LASTS_S, settle_s: float = SETTLE_S,
                 now_s: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._lasts_s = lasts_s
        self._settle_s = settle_s
        self._now_s = now_s
        self._holder = ""
        self._since_ms = 0
        self._said_s = 0.0
        self._until_s = 0.0
        self._version = 0
        self._turn = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alerts-lease", daemon=True)

    def start(self) -> None:
        """Begins to claim it, in a thread of its own."""
        self._thread.start()

    def held(self) -> bool:
        """Whether this collector may judge and tell now. Never waits."""
        return self._now_s() < self._until_s

    def turn(self) -> int:
        """Which time it is that this collector holds the lease, from 1; 0 while it does not. Another turn: another came between."""
        return self._turn if self.held() else 0

    def close(self, deadline_s: float = 10.0) -> None:
        """Lets go of it, so that another need not wait."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(deadline_s)
        self._until_s = 0.0
        if self._holder:
            try:
                self._say(gone=True)
            except StoreError as error:
                _LOG.warning("the lease of alerts was not given back, others wait %g s for it: %s", self._lasts_s, error)
            self._holder = ""

    def claim(self) -> bool:
        """Says that this collector is there, and whether it now holds the lease. Raises StoreError."""
        began_s = self._now_s()
        if not self._holder or began_s - self._said_s > self._lasts_s - self._settle_s:
            # Others may have taken over meanwhile: an old claim must not come back before theirs.
            self._holder, self._since_ms, self._until_s = uuid.uuid4().hex, 0, 0.0
        self._say(gone=False)
        found = self._store.query(
            "SELECT Holder, toUnixTimestamp64Milli(Since), "
            f"Since <= now64(3) - toIntervalMillisecond({int(1000 * self._settle_s)}) "
            f"FROM {rows.table(self._store, ALERT_HOLDERS.name)} FINAL "
            f"WHERE IngestedAt > now64(3) - toIntervalMillisecond({int(1000 * self._lasts_s)}) ORDER BY Since, Holder").rows
        mine = next((row for row in found if row[0] == self._holder), None)
        if mine is None or self._now_s() - began_s > self._settle_s:
            self._holder, self._until_s = "", 0.0  # too slow to be sure of anything: ask anew
            return False
        self._since_ms, self._said_s = int(mine[1]), began_s
        first = found[0][0] == self._holder and bool(mine[2])
        if first and began_s >= self._until_s:
            self._turn += 1
        self._until_s = began_s + self._lasts_s - self._settle_s if first else 0.0
        return first

    def _say(self, *, gone: bool) -> None:
        self._version = max(time.time_ns(), self._version + 1)
        columns: dict[str, Column] = {"Holder": Strings.of([self._holder]), "Version": np.array([self._version], np.uint64),
                                      "IsDeleted": np.array([gone], np.uint8)}
        if self._since_ms:  # the first time the server's clock says it
            columns["Since"] = np.array([self._since_ms], np.int64)
        self._store.insert(Block(ALERT_HOLDERS.name, 1, columns), f"{ALERT_HOLDERS.name}:{uuid.uuid4().hex}")

    def _run(self) -> None:
        said = ""
        while not self._stop.is_set():
            before = self.held()
            try:
                if self.claim() != before:
                    _LOG.info("alerts are judged %s", "here" if self.held() else "by another collector of this server")
                said = ""
            except StoreError as error:
                if str(error) != said:
                    _LOG.warning("the lease of alerts waits for the store: %s", error)
                said = str(error)
            self._stop.wait(min(ROUND_S, self._lasts_s / 4))
