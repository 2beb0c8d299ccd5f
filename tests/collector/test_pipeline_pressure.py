"""Pressure: memory stays bounded whatever comes, refusals can be retried, and what was acknowledged is stored once (fault 10)."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from cutaway_collector.pipeline import room
from cutaway_collector.pipeline.room import CHECKING_FACTOR, Room
from cutaway_collector.settings import Settings
from cutaway_collector.store import open_store
from pipeline_helpers import START_NS, request, stored
from pressure_helpers import Collecting, metric, post, watched
from store_helpers import Server, server, wait_until

MIB = 1024 * 1024
QUEUE_BYTES = 16 * MIB
SPANS = 1000
TOKENS = 1024
SENDERS = 8
MARGIN_BYTES = 192 * MIB
"""What bodies on their way in, an insert of 4 MiB and the allocator's leavings may take beyond the queue; eight requests decoded at
once take twice as much."""


@pytest.mark.parametrize("payload_bytes", [1, 1000, 10_000_000])
def test_a_request_alone_is_always_taken(payload_bytes: int) -> None:
    """Whatever its size: a limit smaller than one request must not turn it away for ever."""
    rooms = Room(10_000)
    assert rooms.enter(payload_bytes) == payload_bytes


def test_decoding_waits_for_its_turn() -> None:
    """A second large request is decoded when the first is done, not beside it."""
    rooms = Room(100_000)
    first = rooms.enter(100_000)
    entered: list[int] = []
    thread = threading.Thread(target=lambda: entered.append(rooms.enter(100_000)))
    thread.start()
    assert entered == []
    rooms.leave(first)
    thread.join()
    assert entered == [first]
    assert rooms.used == first


def test_who_waits_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """No room in time is an answer: 0, and nothing is reserved."""
    monkeypatch.setattr(room, "WAIT_S_MAX", 0.01)
    rooms = Room(100_000)
    first = rooms.enter(100_000)
    assert rooms.enter(1) == 0
    assert rooms.used == first


def test_rows_and_decoding_share_the_room() -> None:
    """Rows may take three quarters; what they leave, and always the last quarter, is for decoding; together they stay within it."""
    rooms = Room(120_000)
    assert rooms.hold(60_000)
    assert not rooms.hold(40_000)
    assert rooms.hold(30_000)
    assert rooms.enter(30_000) == 30_000
    assert rooms.used == 120_000
    rooms.release(90_000)
    assert rooms.hold(1_000_000), "a request larger than the room is held alone"


def flood(collector: Collecting, enough: int, start: int) -> tuple[set[int], int]:
    """Every sender sends numbered requests until it was refused `enough` times: (acknowledged numbers, refusals)."""
    acknowledged: set[int] = set()
    refusals: list[str] = []
    failures: list[str] = []

    def send(lane: int) -> None:
        number, refused, deadline_s = start + lane * 1_000_000, 0, time.monotonic() + 120
        try:
            while refused < enough:
                assert time.monotonic() < deadline_s, "the collector never refused anything"
                payload = request(number, SPANS, tokens=TOKENS, start_ns=START_NS)
                status, retry_after = post(collector.addresses["otlp_http"], payload)
                if status == 200:
                    acknowledged.add(number)
                    number += SPANS
                else:
                    refused += 1
                    assert status in (429, 503)
                    assert int(retry_after) >= 1
                    refusals.append(retry_after)
        except Exception as error:
            failures.append(repr(error))

    threads = [threading.Thread(target=send, args=(lane,)) for lane in range(SENDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    return acknowledged, len(refusals)


def _press(tmp_path: Path, running: Server, enough: int, rounds: int) -> None:
    flags = ("--queue-bytes-max", str(QUEUE_BYTES), "--batch-bytes-max", str(4 * MIB), "--score-device", "cpu")
    store = open_store(Settings(clickhouse=running.url))
    expected: set[int] = set()
    refusals = 0
    with Collecting(tmp_path / "collector", running.url, *flags) as collector:
        assert post(collector.addresses["otlp_http"], request(90_000_000, SPANS, tokens=TOKENS))[0] == 200
        wait_until(lambda: len(stored(store)) == SPANS, 60)
        expected |= set(range(90_000_000, 90_000_000 + SPANS))
        with watched(collector.process.pid) as peak:
            base_bytes = peak.nbytes
            for turn in range(rounds):
                # A store that neither answers nor hangs up: the slowest there is.
                assert running.process is not None
                os.kill(running.process.pid, signal.SIGSTOP)
                try:
                    acknowledged, refused = flood(collector, enough, turn * 10_000_000)
                finally:
                    os.kill(running.process.pid, signal.SIGCONT)
                refusals += refused
                expected |= {first + index for first in acknowledged for index in range(SPANS)}
                assert acknowledged
                wait_until(lambda: metric(collector, "cutaway_waiting_requests") == 0, 120)
        assert 0 < metric(collector, "cutaway_requests_total") - len(expected) / SPANS <= refusals
        decoding_bytes = CHECKING_FACTOR * len(request(0, SPANS, tokens=TOKENS))
        assert peak.nbytes < base_bytes + QUEUE_BYTES + decoding_bytes + MARGIN_BYTES
    assert stored(store) == sorted(expected)
    store.close()


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_fault_10_a_flood_against_a_slow_store(tmp_path: Path) -> None:
    """Eight senders, a store that hangs: refused with a time to come back, memory within the limit, afterwards every
    acknowledged span is stored once and no refused one."""
    with server(tmp_path / "server") as running:
        _press(tmp_path, running, 3, 1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_fault_10_floods_again_and_again(tmp_path: Path) -> None:
    """The same three times in the life of one process, longer, within the same memory."""
    with server(tmp_path / "server") as running:
        _press(tmp_path, running, 4, 3)
