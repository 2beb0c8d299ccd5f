"""Requests sent twice: stored once, answered alike, across restarts and within bounds (fault 13)."""

from __future__ import annotations

import gc
import os
import sqlite3
import threading
import weakref
from pathlib import Path

import pytest

from cutaway_collector.contracts import Receipt
from cutaway_collector.errors import Overloaded
from cutaway_collector.pipeline.duplicates import Duplicates
from cutaway_collector.settings import Settings
from cutaway_collector.spool import Spool
from cutaway_collector.store import ClickHouseStore
from pipeline_helpers import SPANS_A_REQUEST, START_NS, Tampered, request, running, sample, stored
from store_helpers import wait_until

ONE = request(0, start_ns=START_NS)
KEY, OTHER = b"k" * 16, b"o" * 16
RECEIPT = Receipt(3, 1, "one span rejected")


def never() -> Receipt:
    raise AssertionError("a known request is not taken again")


def test_fault_13_the_same_bytes_are_stored_once(store: ClickHouseStore, settings: Settings) -> None:
    """Sent three times, whether or not the first has reached the store: the same receipt each time, one row a span, two counted."""
    with running(store, settings) as pipeline:
        payload = request(0, broken=2, start_ns=START_NS)
        receipts = [pipeline.submit(payload, "protobuf"), pipeline.submit(payload, "protobuf")]
        wait_until(lambda: pipeline.status()[1]["waiting_requests"] == 0)
        receipts.append(pipeline.submit(payload, "protobuf"))
        assert receipts[0].rejected == 2
        assert receipts == [receipts[0]] * 3
        assert sample(pipeline, "cutaway_requests_duplicate_total", encoding="protobuf") == 2
        assert sample(pipeline, "cutaway_spans_accepted_total") == 8
    assert stored(store) == list(range(2, SPANS_A_REQUEST))


def test_fault_13_requests_that_share_bytes_are_both_stored(store: ClickHouseStore, settings: Settings) -> None:
    """One span more, another tenant: not the same request."""
    with running(store, settings) as pipeline:
        pipeline.submit(ONE, "protobuf", "a")
        pipeline.submit(ONE, "protobuf", "b")
        pipeline.submit(ONE + request(10, 1, start_ns=START_NS), "protobuf", "a")
    assert stored(store) == sorted([*range(10), *range(10), *range(11)])


@pytest.mark.parametrize("store_away", [False, True], ids=["stored", "still-in-the-spool"])
def test_fault_13_a_restart_remembers(store: ClickHouseStore, settings: Settings, store_away: bool) -> None:
    """The next process knows the requests of the last, finished or not, and answers as that one did."""
    payload = request(0, broken=2, start_ns=START_NS)
    with running(Tampered(store, hold=store_away), settings, close_s=0.05 if store_away else 20) as pipeline:
        first = pipeline.submit(payload, "protobuf")
        if not store_away:
            wait_until(lambda: pipeline.status()[1]["waiting_requests"] == 0)
    with running(store, settings) as pipeline:
        assert pipeline.submit(payload, "protobuf") == first
        wait_until(lambda: pipeline.status()[1]["waiting_requests"] == 0)
    assert stored(store) == list(range(2, SPANS_A_REQUEST))


def test_fault_13_who_comes_while_the_first_is_written_waits(
    store: ClickHouseStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six senders of the same bytes during one slow write: one record, six equal receipts, none before the disk has it."""
    sync, busy, go = os.fdatasync, threading.Event(), threading.Event()

    def slow(handle: int) -> None:
        busy.set()
        go.wait()
        sync(handle)

    receipts: list[Receipt] = []
    with running(store, settings) as pipeline:
        monkeypatch.setattr(os, "fdatasync", slow)
        threads = [threading.Thread(target=lambda: receipts.append(pipeline.submit(ONE, "protobuf"))) for _ in range(6)]
        for thread in threads:
            thread.start()
        busy.wait()
        assert receipts == []
        go.set()
        for thread in threads:
            thread.join()
        assert receipts == [Receipt(SPANS_A_REQUEST, 0, "")] * 6
        assert sample(pipeline, "cutaway_requests_duplicate_total", encoding="protobuf") == 5
    assert stored(store) == list(range(SPANS_A_REQUEST))


def test_fault_13_a_refused_request_is_not_remembered(
    store: ClickHouseStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused for a full disk, then sent again: taken as new."""
    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    with running(store, settings) as pipeline:
        with monkeypatch.context() as broken:
            broken.setattr(os, "pwritev", full)
            for _ in range(2):
                with pytest.raises(Overloaded):
                    pipeline.submit(ONE, "protobuf")
        assert pipeline.submit(ONE, "protobuf").accepted == SPANS_A_REQUEST
        assert sample(pipeline, "cutaway_requests_duplicate_total", encoding="protobuf") == 0
    assert stored(store) == list(range(SPANS_A_REQUEST))


def test_who_waits_gets_the_same_refusal() -> None:
    """The first fails while the second waits: both are told, and the third is new."""
    duplicates = Duplicates([], requests_max=10, seconds_max=60)
    begun, go = threading.Event(), threading.Event()
    said: list[str] = []

    def refused() -> Receipt:
        begun.set()
        go.wait()
        raise Overloaded("full")

    def send() -> None:
        try:
            duplicates.answer(KEY, refused, never)
        except Overloaded as error:
            said.append(str(error))

    threads = [threading.Thread(target=send) for _ in range(2)]
    threads[0].start()
    begun.wait()
    threads[1].start()
    go.set()
    for thread in threads:
        thread.join()
    assert said == ["full", "full"]
    assert duplicates.answer(KEY, lambda: RECEIPT, never) == (RECEIPT, False)
    assert duplicates.answer(KEY, never, never) == (RECEIPT, True)


def test_a_refusal_lets_go_of_the_request() -> None:
    """Under pressure the bytes of refused requests must go at once, not when the interpreter next looks for circles."""
    class Payload:
        """Stands for the bytes of a request; unlike bytes it can be watched."""

    duplicates = Duplicates([], requests_max=10, seconds_max=60)
    payload = Payload()
    watch = weakref.ref(payload)

    def refused(held: Payload = payload) -> Receipt:
        raise Overloaded("full")

    gc.disable()
    try:
        with pytest.raises(Overloaded):
            duplicates.answer(KEY, refused, never)
        del payload, refused
        assert watch() is None
    finally:
        gc.enable()


def test_a_request_of_an_earlier_run_is_answered_anew() -> None:
    """Its receipt is gone with that process: it is made again, and nothing is kept."""
    duplicates = Duplicates([KEY], requests_max=10, seconds_max=60)
    assert duplicates.answer(KEY, never, lambda: RECEIPT) == (RECEIPT, True)


def test_nothing_accepted_is_nothing_remembered() -> None:
    """A request of which nothing was kept is new each time."""
    duplicates = Duplicates([], requests_max=10, seconds_max=60)
    empty = Receipt(0, 0, "")
    assert [duplicates.answer(KEY, lambda: empty, never) for _ in range(2)] == [(empty, False)] * 2


def test_the_window_is_bounded() -> None:
    """At least requests_max requests are known, at most twice as many; the latest ones."""
    duplicates = Duplicates([], requests_max=100, seconds_max=3600)
    keys = [number.to_bytes(16, "big") for number in range(1050)]
    for key in keys:
        duplicates.answer(key, lambda: RECEIPT, never)
    known = [duplicates.answer(key, lambda: Receipt(0, 0, ""), never)[1] for key in keys]
    assert known == sorted(known)
    assert 100 <= sum(known) <= 200


def test_the_window_ends_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """After twice seconds_max a request is forgotten; within seconds_max it is not."""
    now_s = 1000.0
    monkeypatch.setattr("cutaway_collector.pipeline.duplicates.time.monotonic", lambda: now_s)
    duplicates = Duplicates([], requests_max=10, seconds_max=60)
    duplicates.answer(KEY, lambda: RECEIPT, never)
    now_s += 59
    duplicates.answer(OTHER, lambda: RECEIPT, never)
    assert duplicates.answer(KEY, never, never) == (RECEIPT, True)
    for _ in range(2):
        now_s += 61
        duplicates.answer(os.urandom(16), lambda: RECEIPT, never)
    assert duplicates.answer(KEY, lambda: RECEIPT, never) == (RECEIPT, False)


def _finished(folder: Path) -> int:
    with sqlite3.connect(folder / "ledger.db") as ledger:
        count = int(ledger.execute("SELECT coalesce(sum(length(keys)), 0) / 16 FROM finished").fetchone()[0])
    ledger.close()
    return count


def test_the_ledger_keeps_no_more_keys_than_it_must(tmp_path: Path) -> None:
    """Keys of finished requests outlive their segments, at least remembered_max of them and at most a batch more."""
    spool = Spool(tmp_path, bytes_max=1 << 20, segment_bytes=4096, remembered_max=50)
    keys = []
    for number in range(60):
        payloads = [f"{number}-{part}".encode() * 50 for part in range(4)]
        keys += [spool.key(payload, "protobuf", "") for payload in payloads]
        spool.finish(spool.freeze([spool.append(payload, "protobuf", "", 1) for payload in payloads]))
    spool.close()
    assert 50 <= _finished(tmp_path) < 54
    spool = Spool(tmp_path, bytes_max=1 << 20, segment_bytes=4096, remembered_max=50)
    assert set(keys[-50:]) <= set(spool.remembered())
    spool.close()


def test_the_ledger_forgets_what_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys older than remembered_s_max go with the next finished batch."""
    spool = Spool(tmp_path, bytes_max=1 << 20, remembered_s_max=60)
    with monkeypatch.context() as earlier:
        earlier.setattr("cutaway_collector.spool.ledger.time.time_ns", lambda: 1_000_000_000)
        spool.finish(spool.freeze([spool.append(b"old", "protobuf", "", 1)]))
    spool.finish(spool.freeze([spool.append(b"new", "protobuf", "", 1)]))
    spool.close()
    assert _finished(tmp_path) == 1


def test_keys_differ_between_spools(tmp_path: Path) -> None:
    """A sender cannot know which requests would collide: every spool has a seed of its own, and keeps it."""
    seeds = []
    for name in ("a", "b", "a"):
        spool = Spool(tmp_path / name, bytes_max=1 << 20)
        seeds.append(spool.key(b"payload", "protobuf", "team"))
        spool.close()
    assert seeds[0] == seeds[2] != seeds[1]
