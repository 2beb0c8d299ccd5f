"""/readyz tells the truth: false for each reason there is, with its words, and true again when it has passed."""

from __future__ import annotations

import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cutaway_collector import app as wiring
from cutaway_collector.app import Collector
from cutaway_collector.pipeline import Pipeline
from cutaway_collector.settings import Settings
from cutaway_collector.spool import Spool
from cutaway_collector.store import ClickHouseStore, open_store
from cutaway_collector.web.readiness import Readiness
from pipeline_helpers import request
from store_helpers import Server, server, wait_until

FREE = {"otlp_grpc": "127.0.0.1:0", "otlp_http": "127.0.0.1:0", "ui": "127.0.0.1:0"}


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Server]:
    with server(tmp_path / "server") as found:
        yield found


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ClickHouseStore]:
    opened = open_store(Settings(data=str(tmp_path / "data")))
    yield opened
    opened.close()


def get(address: str, path: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def post(address: str, body: bytes) -> int:
    asked = urllib.request.Request(f"http://{address}/v1/traces", body, {"Content-Type": "application/x-protobuf"})
    try:
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_ready_between_start_and_drain(store: ClickHouseStore) -> None:
    """Not before every receiver listens, not after the stop was asked for."""
    readiness = Readiness(lambda: (True, {}), store, away_s_max=60, spool_bytes_max=2**30)
    try:
        assert (readiness()[0], readiness()[1]["reasons"]) == (False, ["the collector is starting"])
        readiness.serving()
        assert (readiness()[0], readiness()[1]["reasons"]) == (True, [])
        readiness.draining()
        assert (readiness()[0], readiness()[1]["reasons"]) == (False, ["the collector is draining"])
    finally:
        readiness.close()


@pytest.mark.parametrize("grace_s", [0.0, 1000.0])
def test_a_store_that_is_away(running: Server, grace_s: float) -> None:
    """Noticed though nothing is inserted; within the grace the collector stays ready, beyond it not; back again is ready again."""
    store = open_store(Settings(clickhouse=running.url))
    readiness = Readiness(lambda: (True, {"store": "reachable", "last_error": ""}), store, away_s_max=grace_s,
                          spool_bytes_max=2**30, look_s=0.02)
    readiness.serving()
    try:
        assert readiness()[0]
        running.stop()
        wait_until(lambda: bool(readiness()[1]["store_away_s"]))
        ready, details = readiness()
        assert ready is (grace_s > 0)
        assert details["store"] == "unreachable"
        assert "cannot be reached" in details["last_error"]
        assert any("store_away_seconds_max" in words for words in details["reasons"]) is not ready
        running.start()
        wait_until(lambda: readiness()[1]["store_away_s"] == 0)
        assert readiness()[0]
    finally:
        readiness.close()
        store.close()


def test_a_dead_writer(store: ClickHouseStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline whose writer died of a fault of ours takes nothing and says to restart."""
    def broken(self: Pipeline) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(Pipeline, "_next", broken)
    settings = Settings(data=str(tmp_path / "data"))
    spool = Spool.of(settings)
    pipeline = Pipeline(store, spool, settings)
    readiness = Readiness(pipeline.status, store, away_s_max=60, spool_bytes_max=2**30)
    readiness.serving()
    try:
        wait_until(lambda: not readiness()[0])
        assert "the writer has stopped" in readiness()[1]["reasons"][0]
    finally:
        readiness.close()
        pipeline.close(0)
        spool.close()


def test_a_full_spool_then_room_again_then_draining(running: Server, tmp_path: Path) -> None:
    """With its store away a collector fills its spool, then is not ready; the store back, it is. Alive all the time, and while it
    drains it says so."""
    warm = open_store(Settings(clickhouse=running.url))
    warm.close()
    running.stop()
    collector = Collector(Settings(clickhouse=running.url, spool=str(tmp_path / "spool"), spool_bytes_max=64 * 1024,
                                   drain_seconds_max=60, **FREE))
    http, ui = collector.addresses.otlp_http, collector.addresses.ui
    closing = threading.Thread(target=collector.close)
    try:
        assert get(ui, "/readyz")[0] == 200, "the spool takes its place"
        codes = []
        while not codes or codes[-1] == 200:
            codes.append(post(http, request(len(codes) * 10)))
            assert len(codes) < 2000
        assert codes[-1] in (429, 503)
        status, details = get(ui, "/readyz")
        assert (status, details["ready"]) == (503, False)
        assert "the spool is full" in details["reasons"][-1]
        assert get(ui, "/healthz")[0] == 200
        running.start()
        wait_until(lambda: get(ui, "/readyz")[0] == 200, 60)
        assert get(ui, "/readyz")[1]["reasons"] == []
        running.stop()
        assert post(http, request(100_000)) == 200
        closing.start()
        wait_until(lambda: get(ui, "/readyz")[1].get("phase") == "draining")
        assert (get(ui, "/readyz")[0], get(ui, "/healthz")[0]) == (503, 200)
        running.start()
        closing.join(60)
        assert not closing.is_alive()
    finally:
        collector.close()


def test_nothing_answers_before_the_kernels_are_warm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While kernels compile no port is open yet: nobody's first request waits for a compiler."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    refused: list[bool] = []

    def warm_up(device: str) -> None:
        with socket.socket() as client:
            refused.append(client.connect_ex(("127.0.0.1", port)) != 0)

    monkeypatch.setattr(wiring.score, "warm_up", warm_up)
    collector = Collector(Settings(data=str(tmp_path / "data"), **{**FREE, "ui": f"127.0.0.1:{port}"}))
    try:
        assert get(collector.addresses.ui, "/readyz")[0] == 200
    finally:
        collector.close()
    assert refused == [True]
