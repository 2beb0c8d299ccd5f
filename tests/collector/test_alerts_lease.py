"""Several collectors on one server: one of them judges and tells, another takes over when it is gone. Real store, own clocks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from alerts_helpers import MINUTE, T0_S, document, put_minutes
from cutaway_collector.alerts import Alerts, Desk
from cutaway_collector.alerts import service as service_module
from cutaway_collector.alerts.book import Book
from cutaway_collector.alerts.channels import Channel
from cutaway_collector.alerts.fields import NS
from cutaway_collector.alerts.lease import Lease
from cutaway_collector.contracts import Store
from cutaway_collector.settings import Settings
from store_helpers import wait_until

LASTS_S, SETTLE_S = 2.0, 0.3


def _lease(store: Store, **changes: Any) -> Lease:
    return Lease(store, **{"lasts_s": LASTS_S, "settle_s": SETTLE_S, **changes})


def _until_held(lease: Lease) -> None:
    wait_until(lease.claim)


def test_the_first_that_asked_holds_it(alerts_store: Store) -> None:
    """A newcomer waits for as long as the holder says that it is there."""
    first, second = _lease(alerts_store), _lease(alerts_store)
    assert not first.claim()  # nobody holds it before others that asked at the same moment could be seen
    _until_held(first)
    for _ in range(5):
        assert not second.claim()
        assert first.claim()
    assert (1, 0) == (first.turn(), second.turn())


def test_one_that_is_killed_is_followed(alerts_store: Store) -> None:
    """It says nothing any more: the next takes over once its time is over, and not before it would have given up itself."""
    first, second = _lease(alerts_store), _lease(alerts_store)
    _until_held(first)
    overlapped = []

    def taken() -> bool:
        mine = second.claim()
        overlapped.append(mine and first.held())
        return mine

    wait_until(taken)
    assert not any(overlapped)
    assert second.held()
    assert not first.held()


def test_one_that_wakes_up_asks_anew(alerts_store: Store) -> None:
    """A collector that was stopped for long finds itself at the end of the queue, not where it was."""
    first, second = _lease(alerts_store), _lease(alerts_store)
    _until_held(first)
    wait_until(second.claim)
    assert not first.claim()
    assert second.claim()
    assert 1 == first._turn


def test_one_that_is_closed_is_followed_at_once(alerts_store: Store) -> None:
    """A stop gives it back: nobody waits for a time to run out."""
    first, second = _lease(alerts_store, lasts_s=3600.0), _lease(alerts_store, lasts_s=3600.0)
    _until_held(first)
    assert not second.claim()
    first.close()
    _until_held(second)


def test_only_one_of_many_holds_it(alerts_store: Store) -> None:
    """Four that ask at the same time, over and over: never two at once."""
    leases = [_lease(alerts_store, lasts_s=60.0, settle_s=3.0) for _ in range(4)]
    stop, most = threading.Event(), []

    def ask(lease: Lease) -> None:
        while not stop.is_set():
            lease.claim()
            most.append(sum(one.held() for one in leases))

    threads = [threading.Thread(target=ask, args=(lease,)) for lease in leases]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: any(lease.held() for lease in leases) and len(most) > 40, 60)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert 1 == max(most)


@pytest.fixture
def collectors(alerts_store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Alerts]]:
    """Makes collectors' alerts over one server, with leases of seconds; they are closed at the end."""
    monkeypatch.setattr(service_module, "Lease", _lease)
    monkeypatch.setattr(service_module, "_LEASE_LOOK_S", 0.05)
    made: list[Alerts] = []

    def make(send: Callable[[Channel, Mapping[str, Any]], None], now_ns: Callable[[], int]) -> Alerts:
        settings = Settings(clickhouse="http://server", alerts_interval_seconds=1)
        made.append(Alerts(alerts_store, settings, registry=CollectorRegistry(), send=send, now_ns=now_ns))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.slow
def test_two_collectors_of_a_server_tell_once(alerts_store: Store, collectors: Callable[..., Alerts]) -> None:
    """Both run all the time; the one that judges is closed while an alert is about to fire: it is told once, by the other."""
    put_minutes(alerts_store, [0.5] * 30)
    Desk(alerts_store, Settings(data="unused")).apply(
        {"rules": [document(channels=["log"])], "channels": [{"name": "log", "kind": "log"}]})
    clock, told = [T0_S * NS], list[tuple[str, str]]()

    def telling(who: str) -> Callable[[Channel, Mapping[str, Any]], None]:
        return lambda channel, message: told.append((who, message["event"]))

    one, two = (collectors(telling(who), lambda: clock[0]) for who in ("one", "two"))
    one.start()
    wait_until(lambda: Book(alerts_store).states() != {})
    two.start()
    clock[0] += 2 * MINUTE * NS
    wait_until(lambda: _phase(alerts_store) == "pending")
    assert two.evaluator.definitions.rules == {}
    one.close()
    clock[0] += 5 * MINUTE * NS
    wait_until(lambda: bool(told))
    wait_until(lambda: two.deliveries.waiting == 0)

    (event,) = Desk(alerts_store, Settings(data="unused")).listing()["events"]
    assert [("two", event["event"])] == told


def _phase(store: Store) -> str:
    listing = Desk(store, Settings(data="unused")).listing()
    return str(listing["rules"][0]["state"])


def test_metrics_say_who_judges(alerts_store: Store) -> None:
    """A gauge that an operator can add up over collectors: it is one, or nobody judges."""
    registry = CollectorRegistry()
    Alerts(alerts_store, Settings(clickhouse="http://server"), registry=registry).close()
    assert "cutaway_alerts_judging 0.0" in generate_latest(registry).decode()
