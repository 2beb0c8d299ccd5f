"""Faults of the surroundings, by their number in the list of collector/README.md: stores that misbehave, disks, clocks, copies."""

from __future__ import annotations

import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import pytest

from cutaway_collector.settings import Settings
from cutaway_collector.spool import Spool
from cutaway_collector.store import ClickHouseStore, faults, open_store
from pipeline_helpers import START_NS, MeanSurprisal, Tampered, request, running, stored
from store_helpers import server, wait_until

_INSERT = re.compile(rb"INSERT.{1,20}INTO", re.DOTALL)
DAY_NS = 86_400_000_000_000
YEAR_NS = 365 * DAY_NS


def test_fault_5_a_restored_backup_drops_nothing_new(store: ClickHouseStore, settings: Settings, tmp_path: Path) -> None:
    """The spool is put back to an earlier day and gives the same numbers again: the new requests are stored all the same."""
    place = Path(settings.data) / "spool"
    with running(store, settings) as pipeline:
        pipeline.submit(request(0), "protobuf")
    shutil.copytree(place, tmp_path / "backup")
    for first in (10, 20):
        with running(store, settings) as pipeline:
            pipeline.submit(request(first), "protobuf")
        shutil.rmtree(place)
        shutil.copytree(tmp_path / "backup", place)
    assert stored(store) == list(range(30))


def test_fault_5_two_collectors_on_one_store(store: ClickHouseStore, settings: Settings, tmp_path: Path) -> None:
    """Each with a spool of its own, giving the same numbers: every span of both is stored."""
    other = Settings(data=str(tmp_path / "other"), batch_age_ms_max=20)
    with running(store, settings) as one, running(store, other) as two:
        for turn in range(5):
            one.submit(request(turn * 10), "protobuf")
            two.submit(request(1000 + turn * 10), "protobuf")
    assert stored(store) == [*range(50), *range(1000, 1050)]


def test_faults_5_and_19_a_clock_set_back(store: ClickHouseStore, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock jumps a day back, then forward, over restarts: every request is stored once, and a repeated one is known."""
    now_ns = time.time_ns
    for turn, shift_ns in enumerate((0, -DAY_NS, DAY_NS)):
        monkeypatch.setattr(time, "time_ns", lambda shift_ns=shift_ns: now_ns() + shift_ns)
        with running(store, settings) as pipeline:
            pipeline.submit(request(turn * 10, start_ns=START_NS), "protobuf")
            pipeline.submit(request(0, start_ns=START_NS), "protobuf")
    assert stored(store) == list(range(30))


def test_fault_19_spans_of_other_years(store: ClickHouseStore, settings: Settings) -> None:
    """A span of last year, one of now and one of next year in one request: all are stored under their own time."""
    now_ns = time.time_ns()
    with running(store, settings) as pipeline:
        pipeline.submit(request(0, 3, start_ns=now_ns - YEAR_NS, step_ns=YEAR_NS), "protobuf")
    assert stored(store) == [0, 1, 2]
    years = store.query("SELECT count(DISTINCT toYear(Timestamp)) FROM otel.otel_traces").rows[0][0]
    assert years == 3


@pytest.mark.parametrize("code", [252, 241, 159, 242, 516, 60, 243, 209, 210])
def test_fault_6_what_the_environment_does_passes(code: int) -> None:
    """Too many parts, memory, time, read-only, credentials, no table, no space, sockets: the batch waits and is tried again."""
    assert faults.insert_error(f"Code: {code}. DB::Exception: words", code).retryable


@pytest.mark.parametrize(("code", "message"), [
    (1000, "Poco::Exception. Code: 1000, e.code() = 28, No space left on device"), (1000, "Net Exception: Socket is not connected"),
    (1001, "std::__1::__fs::filesystem::filesystem_error: filesystem error: in rename: Input/output error"),
    (1001, "std::bad_alloc"),
])
def test_fault_6_what_a_library_of_the_engine_says_of_the_system_passes(code: int, message: str) -> None:
    """One code for whatever Poco or the C++ library threw: where its words blame disk, network or memory, the batch waits."""
    assert faults.insert_error(f"Code: {code}. DB::Exception: {message}", code).retryable


@pytest.mark.parametrize(("code", "message"), [(1001, "std::length_error: vector"),
                                               (6, "Cannot parse"), (53, "Type mismatch"), (69, "Array of 2147483648 is too large"),
                                               (469, "Constraint violated"), (252, "Too many partitions for single INSERT block")])
def test_fault_6_what_the_rows_are_to_blame_for_does_not(code: int, message: str) -> None:
    """Rows that will never fit: halved until the ones at fault are alone."""
    assert not faults.insert_error(f"Code: {code}. DB::Exception: {message}", code).retryable


class Cutting:
    """A TCP proxy that closes connections in the middle. cut: "body" after the first part of an insert, "answer" before any answer
    to one, "" never."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.cut = ""
        self.cuts = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._target)) as target:
            inserting = threading.Event()
            back = threading.Thread(target=self._back, args=(target, client, inserting), daemon=True)
            back.start()
            try:
                while data := client.recv(4096):
                    if self.cut and _INSERT.search(data):
                        inserting.set()
                        if self.cut == "body":
                            self.cuts += 1
                            target.sendall(data[:-10])
                            return
                    target.sendall(data)
            except OSError:
                return

    def _back(self, target: socket.socket, client: socket.socket, inserting: threading.Event) -> None:
        try:
            while data := target.recv(65536):
                if inserting.is_set() and self.cut == "answer":
                    self.cuts += 1
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(data)
        except OSError:
            return


@pytest.mark.parametrize("cut", ["body", "answer"])
def test_fault_6_a_connection_that_breaks(tmp_path: Path, cut: str) -> None:
    """Cut in the middle of an insert, or before its answer: tried again under the same token, every row stored once."""
    with server(tmp_path / "server") as behind:
        proxy = Cutting(behind.port)
        url = f"http://default:@127.0.0.1:{proxy.port}"
        settings = Settings(clickhouse=url, spool=str(tmp_path / "spool"), batch_age_ms_max=20)
        store = open_store(settings)
        try:
            with running(store, settings, scorers=[MeanSurprisal()]) as pipeline:
                pipeline.submit(request(0), "protobuf")
                wait_until(lambda: len(stored(store)) == 10)
                proxy.cut = cut
                pipeline.submit(request(10, tokens=3), "protobuf")
                wait_until(lambda: proxy.cuts >= 2)
                assert pipeline.status()[0]
                proxy.cut = ""
                wait_until(lambda: pipeline.status()[1]["waiting_requests"] == 0)
            assert stored(store) == list(range(20))
            assert store.query("SELECT count() FROM otel.gen_ai_scores").rows[0][0] == 10
        finally:
            store.close()
            proxy.close()


def test_fault_8_the_ledgers_disk_is_full(store: ClickHouseStore, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a batch nor its end can be written down for a while: tried again until they can, stored once."""
    tries = {"freeze": 0, "finish": 0}

    def failing(name: str) -> None:
        method = getattr(Spool, name)

        def call(self: Spool, *arguments: object) -> object:
            tries[name] += 1
            if tries[name] <= 2:
                raise sqlite3.OperationalError("database or disk is full")
            return method(self, *arguments)

        monkeypatch.setattr(Spool, name, call)

    failing("freeze")
    failing("finish")
    with running(store, settings) as pipeline:
        pipeline.submit(request(0), "protobuf")
        wait_until(lambda: "disk is full" in pipeline.status()[1]["last_error"])
        wait_until(lambda: pipeline.status()[1]["waiting_requests"] == 0)
        assert pipeline.status()[1]["last_error"] == ""
    assert stored(store) == list(range(10))


_QUOTA = """
import resource, sys
from cutaway_collector.errors import Overloaded
from cutaway_collector.spool import Spool

spool = Spool(sys.argv[1], bytes_max=1 << 24)
kept = [spool.append(bytes([1]) * 10_000, "protobuf", "", 1)]
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (35_000, hard))
refused = 0
for number in range(10):
    try:
        kept.append(spool.append(bytes([number]) * 10_000, "protobuf", "", 1))
    except Overloaded as error:
        refused += 1
        assert error.retry_after_s
assert refused >= 7, refused
assert spool.failure
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
kept.append(spool.append(b"again", "protobuf", "", 1))
assert spool.failure == ""
spool.close()
print(*kept)
"""


def test_fault_8_a_real_limit_of_the_kernel(tmp_path: Path) -> None:
    """Files may grow no further, then they may again: refused with a time to come back, recovered without a restart, whole."""
    said = subprocess.run([sys.executable, "-c", _QUOTA, str(tmp_path)], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    kept = [int(word) for word in said.stdout.split()]
    spool = Spool(tmp_path, bytes_max=1 << 24)
    assert list(spool.loose()) == kept
    assert [len(spool.read(number).payload) for number in kept] == [10_000] * (len(kept) - 1) + [5]
    assert list((tmp_path / "quarantine").iterdir()) == []
    spool.close()


def test_fault_15_a_million_tokens(store: ClickHouseStore, settings: Settings) -> None:
    """The longest sequence the settings allow goes the whole road, beside one that is too long, whose span is kept without it."""
    with running(store, settings) as pipeline:
        assert pipeline.submit(request(0, 1, tokens=1_000_000), "protobuf").message == ""
        receipt = pipeline.submit(request(1, 1, tokens=1_000_001), "protobuf")
        assert receipt.accepted == 1
        assert "1000000" in receipt.message or "sequence" in receipt.message
    assert stored(store) == [0, 1]
    assert [tuple(row) for row in store.query("SELECT length(Surprisals) FROM otel.gen_ai_tokens").rows] == [(1_000_000,)]


_OLD_LEDGER = """
CREATE TABLE batches (
    first INTEGER PRIMARY KEY, last INTEGER NOT NULL, ranges TEXT NOT NULL, token TEXT NOT NULL, done INTEGER NOT NULL DEFAULT 0);
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
INSERT INTO batches VALUES (1, 1, '1-1', 'old:1-1', 1), (2, 2, '2-2', 'old:2-2', 0);
INSERT INTO counters VALUES ('sequence', 1);
"""


def test_fault_21_a_spool_of_the_first_version(store: ClickHouseStore, settings: Settings) -> None:
    """Three requests as the first version left them, spelled out in bytes: the finished one is not stored again, but known; the
    frozen one goes under its old token, the loose one too is stored."""
    place = Path(settings.data) / "spool"
    (place / "segments").mkdir(parents=True)
    payloads = [request(number * 10, start_ns=START_NS) for number in range(3)]
    records = b""
    for sequence, payload in enumerate(payloads, start=1):
        head = (b"CTW1" + sequence.to_bytes(8, "little") + time.time_ns().to_bytes(8, "little") + len(payload).to_bytes(4, "little")
                + zlib.crc32(payload).to_bytes(4, "little") + b"\x00" + bytes(2))
        records += head + zlib.crc32(head).to_bytes(4, "little") + payload
    (place / "segments" / f"{1:020d}.log").write_bytes(records)
    with sqlite3.connect(place / "ledger.db") as ledger:
        ledger.executescript(_OLD_LEDGER)
    ledger.close()
    gate = Tampered(store)
    with running(gate, settings) as pipeline:
        for payload in payloads:
            assert pipeline.submit(payload, "protobuf").accepted == 10
        wait_until(lambda: pipeline.status()[1]["waiting_requests"] == 0)
    assert gate.tokens[0] == "old:2-2:otel_traces"
    assert stored(store) == list(range(10, 30))
