"""The alert lease over ClickHouse's HTTP interface: claimants in processes of their own with wrong clocks, killed and paused."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from cutaway_collector.alerts.lease import Lease
from cutaway_collector.errors import StoreError
from cutaway_collector.settings import Settings
from cutaway_collector.store import open_store
from store_helpers import Server, server, wait_until

pytestmark = pytest.mark.slow
LASTS_S, SETTLE_S = 6.0, 1.5
SKEWS_S = (0.0, 3600.0, -86_400.0)
"""Seconds by which the claimants' clocks are ahead: of one a day behind everybody else's."""


class Claimant:
    """A process; spans: (from, until) of what it held, by the machine's monotonic clock."""

    def __init__(self, url: str, folder: Path, skew_s: float) -> None:
        folder.mkdir()
        self.spans: list[tuple[float, float]] = []
        self.said = 0
        self.last = ""
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parents[1] / "lease_helpers.py"), url, str(folder), str(skew_s), str(LASTS_S),
             str(SETTLE_S)], stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            word, *moments = line.split()
            if word == "held":
                self.spans.append((float(moments[0]), float(moments[1])))
            self.last = word
            self.said += 1

    def end(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self._reader.join()
        if self.process.stdout is not None:
            self.process.stdout.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Server]:
    """A server with our tables."""
    with server(tmp_path / "server") as running:
        store = open_store(Settings(clickhouse=running.url, spool=str(tmp_path / "spool")))
        store.prepare()
        store.close()
        yield running


def holder_of(claimants: list[Claimant]) -> Claimant:
    """The one that holds it, waited for."""
    found: list[Claimant] = []

    def looked() -> bool:
        found[:] = [one for one in claimants if one.process.poll() is None and one.last == "held"]
        return bool(found)

    wait_until(looked)
    return found[0]


def answers(claimant: Claimant, count: int) -> None:
    """Waits until it has claimed so many times more."""
    target = claimant.said + count
    wait_until(lambda: claimant.said >= target)


def test_one_of_several_holds_it_whatever_their_clocks_say(served: Server, tmp_path: Path) -> None:
    """Three claimants, clocks an hour ahead and a day behind: the holder is killed, the next is paused and wakes up; at no moment
    do two hold it, each is followed by another, and who woke up waits at the end of the queue."""
    claimants = [Claimant(served.url, tmp_path / f"claimant {number}", skew) for number, skew in enumerate(SKEWS_S)]
    try:
        first = holder_of(claimants)
        answers(first, 5)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
        second = holder_of([one for one in claimants if one is not first])
        answers(second, 3)
        second.process.send_signal(signal.SIGSTOP)
        third = next(one for one in claimants if one not in (first, second))
        wait_until(lambda: third.last == "held")
        second.process.send_signal(signal.SIGCONT)
        answers(third, 5)
        # What it said last before its pause may still be on its way: what it says after that counts.
        answers(second, 3)
        assert (third.last, second.last) == ("held", "waits")
    finally:
        for one in claimants:
            one.process.send_signal(signal.SIGCONT)
            one.end()
    held = sorted((start, end, number) for number, one in enumerate(claimants) for start, end in one.spans)
    assert {number for _, _, number in held} == {0, 1, 2}
    for (_, end, one), (start, _, other) in pairwise(held):
        assert one == other or end <= start, "two held it at once"


def test_a_server_that_goes_away_takes_the_lease_with_it(served: Server, tmp_path: Path) -> None:
    """The holder fails to say that it is there and gives up by itself; when the server is back one of both takes it up again."""
    stores = [open_store(Settings(clickhouse=served.url, spool=str(tmp_path / name))) for name in ("one", "other")]
    clock = [1000.0]
    leases = [Lease(store, lasts_s=LASTS_S, settle_s=SETTLE_S, now_s=lambda: clock[0]) for store in stores]
    try:
        wait_until(leases[0].claim)
        assert not leases[1].claim()
        served.stop()
        with pytest.raises(StoreError):
            leases[0].claim()
        clock[0] += LASTS_S
        assert not leases[0].held()
        served.start()
        wait_until(lambda: leases[1].claim() or leases[0].claim())
        assert [lease.held() for lease in leases].count(True) == 1
    finally:
        for store in stores:
            store.close()
