"""What can never be stored is visible: a row with the reason in the store, the payload in a bounded folder (fault 7)."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from cutaway_collector.blocks import Block
from cutaway_collector.contracts import Store
from cutaway_collector.errors import StoreError
from cutaway_collector.settings import Settings
from cutaway_collector.spool import Spool
from cutaway_collector.spool.dead import DeadLetters
from cutaway_collector.store import ClickHouseStore
from pipeline_helpers import Tampered, request, running, sample, stored
from store_helpers import wait_until


class LosesLetters(Tampered):
    """Refuses the dead letters themselves: for good, or until it is told to stop. done: stores them first, and loses the answer."""

    def __init__(self, store: Store, *, retryable: bool, done: bool = False) -> None:
        super().__init__(store, poison=[7])
        self.retryable = retryable
        self.done = done
        self.tries = 0

    def insert(self, block: Block, deduplication_token: str) -> None:
        if block.table == "cutaway_dead_letters":
            self.tries += 1
            if self.done:
                super().insert(block, deduplication_token)
            raise StoreError("no letters today", retryable=self.retryable)
        super().insert(block, deduplication_token)


def letters(store: Store) -> list[dict[str, Any]]:
    """Rows of the dead-letter table, by sequence."""
    found = store.query("SELECT * FROM otel.cutaway_dead_letters ORDER BY Sequence")
    return [dict(zip(found.columns, row, strict=True)) for row in found.rows]


def folder(settings: Settings) -> list[Path]:
    return sorted((Path(settings.data) / "spool" / "dead").iterdir())


def test_fault_7_a_refused_span_is_told_in_the_table(store: ClickHouseStore, settings: Settings) -> None:
    """Two poisoned spans in one request: a row that says whose, which, how many and why; the neighbours are stored."""
    with running(Tampered(store, poison=[7, 8]), settings) as pipeline:
        pipeline.submit(request(0), "protobuf", "team-a")
        pipeline.submit(request(10), "protobuf", "team-b")
        wait_until(lambda: pipeline.status()[1]["waiting_requests"] == 0)
        assert stored(store) == [number for number in range(20) if number not in (7, 8)]
        row, = letters(store)
        payload = folder(settings)[1].read_bytes()
        assert (row["TenantId"], row["Encoding"], row["Spans"], row["Bytes"]) == ("team-a", "protobuf", 2, len(payload))
        assert row["Reason"] == "1 of 10 rows were refused: the store refuses this value"
        assert abs(row["ReceivedAt"].timestamp() - time.time()) < 3600
        assert f"{row['Sequence']:020d}" == folder(settings)[0].stem
        assert sample(pipeline, "cutaway_dead_letters_total") == sample(pipeline, "cutaway_dead_letter_files") == 1
        assert pipeline.status()[1]["dead_letter_bytes"] == sum(path.stat().st_size for path in folder(settings))


def test_fault_7_no_payload_is_in_the_reason(store: ClickHouseStore, settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """The note beside the payload holds numbers and the reason; nothing a sender wrote is logged."""
    with running(Tampered(store, poison=[3]), settings) as pipeline:
        pipeline.submit(request(0).replace(b"generate", b"secretly"), "protobuf")
        wait_until(lambda: pipeline.status()[1]["dead_letters"] == 1)
    note = json.loads(folder(settings)[0].read_text())
    assert set(note) == {"session", "sequence", "reason", "spans", "encoding", "tenant", "received_ns", "nbytes"}
    assert "secretly" not in caplog.text + json.dumps(note)
    assert b"secretly" in folder(settings)[1].read_bytes()


def test_fault_2_a_record_damaged_on_disk_is_told_in_the_table(store: ClickHouseStore, settings: Settings) -> None:
    """A bit flips while the record waits: its neighbour is stored, and the row says the request cannot be read any more."""
    with running(Tampered(store, hold=True), settings, close_s=0.05) as pipeline:
        for number in range(2):
            pipeline.submit(request(number * 10), "protobuf")
    spool = Spool.of(settings)
    segment = next((Path(settings.data) / "spool" / "segments").glob("*.log"))
    spool.append(b"", "protobuf", "", 1)  # the first segment is not the last any more, so the next start trusts its index
    spool.close()
    raw = bytearray(segment.read_bytes())
    raw[100] ^= 1
    segment.write_bytes(raw)
    with running(store, settings) as pipeline:
        wait_until(lambda: pipeline.status()[1]["waiting_requests"] == 0)
    assert stored(store) == list(range(10, 20))
    row, = letters(store)
    assert row["Reason"] == "CorruptRecord: the body is damaged"
    assert (row["Encoding"], row["Spans"], row["ReceivedAt"].year) == ("", 0, 1970)


def test_fault_3_letters_are_not_doubled(store: ClickHouseStore, settings: Settings) -> None:
    """Stopped when the letter was stored and the batch not finished: the next process buries it again, and one row is left."""
    losing = LosesLetters(store, retryable=True, done=True)
    with running(losing, settings, close_s=0.05) as pipeline:
        pipeline.submit(request(0), "protobuf")
        wait_until(lambda: losing.tries >= 2)
    with running(Tampered(store, poison=[7]), settings) as pipeline:
        wait_until(lambda: pipeline.status()[1]["waiting_requests"] == 0)
        assert pipeline.status()[1]["dead_letters"] == 1
    assert len(letters(store)) == 1
    assert stored(store) == [number for number in range(10) if number != 7]


def test_letters_that_are_refused_hold_nothing_up(
    store: ClickHouseStore, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """A table that does not take them for good: said once, the folder has them, later requests are stored."""
    with running(LosesLetters(store, retryable=False), settings) as pipeline:
        pipeline.submit(request(0), "protobuf")
        wait_until(lambda: pipeline.status()[1]["waiting_requests"] == 0)
        pipeline.submit(request(10), "protobuf")
        wait_until(lambda: len(stored(store)) == 19)
        assert pipeline.status()[1]["dead_letters"] == 1
    assert sum("does not take the reasons" in record.getMessage() for record in caplog.records) == 1


def test_the_folder_is_bounded_in_bytes(store: ClickHouseStore, settings: Settings) -> None:
    """Beyond dead_letters_bytes_max the oldest letters go, and are counted; their rows stay."""
    small = Settings(data=settings.data, batch_age_ms_max=20, dead_letters_bytes_max=4096)
    with running(Tampered(store, poison=range(0, 200, 10)), small) as pipeline:
        for number in range(20):
            pipeline.submit(request(number * 10), "protobuf")
        wait_until(lambda: pipeline.status()[1]["waiting_requests"] == 0)
        left = pipeline.status()[1]["dead_letters"]
        assert 0 < left < 20
        assert pipeline.status()[1]["dead_letter_bytes"] <= 4096
        assert sample(pipeline, "cutaway_dead_letters_removed_total") == 20 - left
    rows = letters(store)
    assert len(rows) == 20
    assert {path.stem for path in folder(settings)} == {f"{row['Sequence']:020d}" for row in rows[-left:]}


def test_letters_go_when_they_are_old(tmp_path: Path) -> None:
    """Letters of an earlier run count from when they were written; 0 days keeps them for ever."""
    first = DeadLetters(tmp_path, bytes_max=1 << 20, seconds_max=60)
    for sequence in (1, 2):
        first.add(sequence, {"reason": "a test"}, b"payload")
    for path in tmp_path.glob("*1.*"):
        os.utime(path, (time.time() - 100, time.time() - 100))
    assert DeadLetters(tmp_path, bytes_max=1 << 20, seconds_max=0).expire() == 0
    later = DeadLetters(tmp_path, bytes_max=1 << 20, seconds_max=60)
    assert (later.count, later.expire(), later.count) == (2, 1, 1)
    assert later.nbytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert {path.stem for path in tmp_path.iterdir()} == {f"{2:020d}"}


def test_a_letter_written_again_is_one_letter(tmp_path: Path) -> None:
    """A replayed batch buries the same request under the same name."""
    dead = DeadLetters(tmp_path, bytes_max=1 << 20, seconds_max=60)
    for payload in (b"payload", b"pay"):
        dead.add(1, {"reason": "a test"}, payload)
    assert dead.count == 1
    assert dead.nbytes == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_the_newest_letter_is_kept_whatever_its_size(tmp_path: Path) -> None:
    """One request larger than the folder's limit is still there to be looked at."""
    dead = DeadLetters(tmp_path, bytes_max=100, seconds_max=60)
    for sequence in (1, 2):
        dead.add(sequence, {"reason": "a test"}, bytes(1000))
    assert (dead.expire(), dead.count) == (1, 1)
