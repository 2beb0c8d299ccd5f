"""Asked to stop under load: nothing acknowledged is lost, a second signal ends the wait (fault 11)."""

from __future__ import annotations

import http.client
import os
import signal
import threading
from contextlib import closing
from pathlib import Path

import pytest

from cutaway_collector.settings import Settings
from cutaway_collector.store import open_store
from pipeline_helpers import SPANS_A_REQUEST, START_NS, request, stored
from pressure_helpers import Collecting, metric, post
from serving import Serving
from store_helpers import server, wait_until


def test_fault_11_sigterm_under_load(tmp_path: Path) -> None:
    """Four senders do not stop when the collector is told to: it exits with 0, and what it acknowledged is there, once."""
    data = tmp_path / "data"
    acknowledged: list[int] = []

    def send(lane: int) -> None:
        number = lane * 1_000_000
        try:
            while post(collector.addresses["otlp_http"], request(number, start_ns=START_NS))[0] == 200:
                acknowledged.append(number)
                number += SPANS_A_REQUEST
        except (OSError, http.client.HTTPException):
            return

    with Serving(data) as collector:
        threads = [threading.Thread(target=send, args=(lane,)) for lane in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(acknowledged) >= 40, 120)
        assert collector.stop() == 0
        for thread in threads:
            thread.join()
    with Serving(data):
        pass  # what the first left in its spool, if anything, is stored by the next
    with closing(open_store(Settings(data=str(data)))) as store:
        numbers = stored(store)
    assert len(numbers) == len(set(numbers))
    assert {first + index for first in acknowledged for index in range(SPANS_A_REQUEST)} <= set(numbers)


@pytest.mark.slow
def test_fault_11_a_second_sigterm_does_not_wait(tmp_path: Path) -> None:
    """With a store that hangs the first signal drains, the second ends the process with 130; the next one stores what was left."""
    with server(tmp_path / "server") as running:
        assert running.process is not None
        collector = Collecting(tmp_path / "collector", running.url)
        os.kill(running.process.pid, signal.SIGSTOP)
        try:
            for number in range(3):
                assert post(collector.addresses["otlp_http"], request(number * 10))[0] == 200
            collector.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "draining" in collector.log.read_text())
            assert collector.stop() == 130
        finally:
            os.kill(running.process.pid, signal.SIGCONT)
        with Collecting(tmp_path / "collector", running.url) as collector:
            wait_until(lambda: metric(collector, "cutaway_waiting_requests") == 0, 60)
        with closing(open_store(Settings(clickhouse=running.url))) as store:
            assert stored(store) == list(range(30))
