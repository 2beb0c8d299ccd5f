"""A collector's claim to the alert lease as a program of its own, for tests that kill and pause it: by a clock of its own.

    python tests/lease_helpers.py URL DIR SKEW_S LASTS_S SETTLE_S

Its wall clock is SKEW_S ahead. After each claim that gives it the lease it prints `held FROM UNTIL`, moments of the machine's
monotonic clock, which all processes share, between which it would judge; else `waits`.
"""

from __future__ import annotations

import sys
import time

from cutaway_collector.alerts.lease import Lease
from cutaway_collector.errors import StoreError
from cutaway_collector.settings import Settings
from cutaway_collector.store import open_store


def main(url: str, folder: str, skew_s: float, lasts_s: float, settle_s: float) -> None:
    """Claims until it is killed."""
    real_ns = time.time_ns
    time.time_ns = lambda: real_ns() + int(skew_s * 1e9)
    store = open_store(Settings(clickhouse=url, spool=folder))
    lease = Lease(store, lasts_s=lasts_s, settle_s=settle_s)
    while True:
        try:
            held = lease.claim()
        except StoreError:
            held = False
        print(f"held {time.monotonic()} {lease._until_s}" if held else "waits", flush=True)
        time.sleep(lasts_s / 20)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(float, sys.argv[3:6]))
