"""The pipeline over a real store and a real spool: acknowledged means stored once, whatever happens in between."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from cutaway_collector import decode
from cutaway_collector.contracts import Checked, Rows
from cutaway_collector.errors import MalformedRequest, Overloaded
from cutaway_collector.pipeline import Pipeline
from cutaway_collector.settings import Settings
from cutaway_collector.spool import Spool
from cutaway_collector.store import ClickHouseStore, open_store
from pipeline_helpers import SPANS_A_REQUEST, BrokenScorer, MeanSurprisal, Tampered, request, running, sample, stored
from store_helpers import Server, server, wait_until

DAY_NS = 86_400_000_000_000


def fill(pipeline: Pipeline) -> tuple[int, Overloaded]:
    """Submits numbered requests until one is refused: how many were taken, and the refusal."""
    for number in range(1000):
        try:
            pipeline.submit(request(number * 10), "protobuf")
        except Overloaded as refusal:
            return number, refusal
    raise AssertionError("a thousand requests were taken")


def test_an_acknowledged_request_is_found(store: ClickHouseStore, settings: Settings) -> None:
    """After the receipt the spans appear in the store by themselves."""
    with running(store, settings) as pipeline:
        receipt = pipeline.submit(request(0), "protobuf", "team-a")
        assert (receipt.accepted, receipt.rejected, receipt.message) == (SPANS_A_REQUEST, 0, "")
        wait_until(lambda: stored(store) == list(range(SPANS_A_REQUEST)))
        assert store.query("SELECT DISTINCT TenantId FROM otel.otel_traces").rows[0][0] == "team-a"


def test_spans_turned_away_are_counted_and_their_neighbours_kept(store: ClickHouseStore, settings: Settings) -> None:
    """The receipt says how many spans were rejected and why; the rest is stored."""
    with running(store, settings) as pipeline:
        receipt = pipeline.submit(request(0, broken=3), "protobuf")
        assert (receipt.accepted, receipt.rejected) == (7, 3)
        assert "span_id" in receipt.message
        wait_until(lambda: stored(store) == list(range(3, 10)))
        assert sample(pipeline, "cutaway_spans_rejected_total") == 3


def test_a_malformed_request_leaves_nothing_behind(store: ClickHouseStore, settings: Settings) -> None:
    """Refused as a whole: no bytes in the spool, the next request is unharmed."""
    with running(store, settings) as pipeline:
        with pytest.raises(MalformedRequest):
            pipeline.submit(b"\xff\xff\xff", "protobuf")
        assert pipeline.status()[1]["spool_bytes"] == 0
        pipeline.submit(request(0), "protobuf")
        wait_until(lambda: len(stored(store)) == SPANS_A_REQUEST)
        assert sample(pipeline, "cutaway_requests_total", encoding="protobuf", outcome="refused") == 1


def test_an_empty_request_is_a_success(store: ClickHouseStore, settings: Settings) -> None:
    """OTLP allows a request without spans; nothing is written for it."""
    with running(store, settings) as pipeline:
        assert pipeline.submit(b"", "protobuf").accepted == 0
        assert pipeline.status()[1]["spool_bytes"] == 0


def test_scores_follow_their_spans(store: ClickHouseStore, settings: Settings) -> None:
    """Each sequence gets a row per score, under the span it belongs to."""
    with running(store, settings, scorers=[MeanSurprisal()]) as pipeline:
        pipeline.submit(request(0, 4, tokens=6), "protobuf")
        wait_until(lambda: sample(pipeline, "cutaway_scores_stored_total") == 4)
        rows = store.query("SELECT ScoreName, Value, count() FROM otel.gen_ai_scores FINAL GROUP BY 1, 2").rows
        assert [tuple(row) for row in rows] == [("mean_surprisal", 2.5, 4)]
        assert store.query("SELECT count(), sum(length(Surprisals)) FROM otel.gen_ai_tokens").rows[0] == (4, 24)


def test_a_failing_scorer_holds_nothing_up(store: ClickHouseStore, settings: Settings) -> None:
    """Spans, tokens and the other scorers' rows are stored; the failure is counted under its name."""
    with running(store, settings, scorers=[BrokenScorer(), MeanSurprisal()]) as pipeline:
        pipeline.submit(request(0, 2, tokens=3), "protobuf")
        wait_until(lambda: sample(pipeline, "cutaway_scores_stored_total") == 2)
        assert stored(store) == [0, 1]
        assert sample(pipeline, "cutaway_scorer_failures_total", scorer="broken") == 1


def test_a_lost_answer_does_not_double_spans(store: ClickHouseStore, settings: Settings) -> None:
    """An insert that was done but reported as failed is repeated under the same token, and stored once."""
    gate = Tampered(store, lose_answers=2)
    with running(gate, settings) as pipeline:
        pipeline.submit(request(0), "protobuf")
        wait_until(lambda: sample(pipeline, "cutaway_spans_stored_total") == SPANS_A_REQUEST)
    assert stored(store) == list(range(SPANS_A_REQUEST))
    assert len(gate.tokens) == 3
    assert len(set(gate.tokens)) == 1


def test_the_next_process_repeats_an_unfinished_batch_under_its_token(store: ClickHouseStore, settings: Settings) -> None:
    """Stopped after the insert and before the note of it: the next start uses the frozen token, so nothing is stored twice."""
    first = Tampered(store, lose_answers=1_000_000)
    with running(first, settings, close_s=0.05) as pipeline:
        pipeline.submit(request(0), "protobuf")
        wait_until(lambda: len(first.tokens) >= 2)
    second = Tampered(store)
    with running(second, settings) as pipeline:
        wait_until(lambda: pipeline.status()[1]["waiting_requests"] == 0)
    assert set(second.tokens) == set(first.tokens)
    assert stored(store) == list(range(SPANS_A_REQUEST))


def test_requests_that_never_reached_a_batch_are_stored_by_the_next_process(store: ClickHouseStore, settings: Settings) -> None:
    """Acknowledged while the store was away, stored after a restart."""
    with running(Tampered(store, hold=True), settings, close_s=0.05) as pipeline:
        for number in range(5):
            pipeline.submit(request(number * 10), "protobuf")
    assert stored(store) == []
    with running(store, settings):
        wait_until(lambda: stored(store) == list(range(50)))


def test_rows_the_store_refuses_are_singled_out(store: ClickHouseStore, settings: Settings) -> None:
    """Two poisoned spans among forty: thirty-eight are stored, two are counted lost, their requests lie in the dead letters."""
    with running(Tampered(store, poison=[7, 23]), settings) as pipeline:
        for number in range(4):
            pipeline.submit(request(number * 10), "protobuf")
        wait_until(lambda: pipeline.status()[1]["waiting_requests"] == 0)
        assert stored(store) == [number for number in range(40) if number not in (7, 23)]
        assert sample(pipeline, "cutaway_spans_lost_total") == 2
        assert sample(pipeline, "cutaway_dead_letters_total") == 2
        assert pipeline.status()[1]["dead_letters"] == 2
    letters = sorted((Path(settings.data) / "spool" / "dead").glob("*.json"))
    reasons = [json.loads(letter.read_text())["reason"] for letter in letters]
    assert reasons == ["1 of 10 rows were refused: the store refuses this value"] * 2
    assert [letter.with_suffix(".otlp").stat().st_size > 100 for letter in letters] == [True, True]


def test_spans_strewn_over_many_days_are_stored_in_parts(store: ClickHouseStore, settings: Settings) -> None:
    """The engine refuses an insert over more than a hundred days; halved, it takes every row."""
    with running(store, settings) as pipeline:
        pipeline.submit(request(0, 110, step_ns=DAY_NS), "protobuf")
        wait_until(lambda: sample(pipeline, "cutaway_spans_stored_total") == 110)
        assert sample(pipeline, "cutaway_dead_letters_total") == 0
    assert len(stored(store)) == 110


def test_a_full_queue_asks_senders_to_come_back(store: ClickHouseStore, settings: Settings) -> None:
    """When the store is slow, decoded bytes pile up to queue_bytes_max and not beyond; afterwards requests are taken again."""
    gate = Tampered(store)
    gate.gate.clear()
    small = Settings(data=settings.data, batch_age_ms_max=20, queue_bytes_max=20_000)
    with running(gate, small) as pipeline:
        taken, refusal = fill(pipeline)
        assert "queue_bytes_max" in str(refusal)
        assert refusal.retry_after_s
        assert taken > 0
        assert pipeline.status()[1]["queue_bytes"] <= 20_000
        gate.gate.set()
        wait_until(lambda: pipeline.status()[1]["waiting_requests"] == 0)
        pipeline.submit(request(taken * 10), "protobuf")
    assert stored(store) == list(range((taken + 1) * 10))


def test_while_the_store_is_away_the_spool_takes_what_memory_cannot(store: ClickHouseStore, settings: Settings) -> None:
    """An outage does not refuse senders at queue_bytes_max: requests wait on disk and are decoded again later."""
    gate = Tampered(store, hold=True)
    small = Settings(data=settings.data, batch_age_ms_max=20, queue_bytes_max=20_000)
    with running(gate, small) as pipeline:
        pipeline.submit(request(0), "protobuf")
        wait_until(lambda: pipeline.status()[1]["store"] == "unreachable")
        for number in range(1, 50):
            pipeline.submit(request(number * 10), "protobuf")
        assert pipeline.status()[1]["queue_bytes"] <= 20_000
        assert pipeline.status()[0]
        gate.hold.clear()
        wait_until(lambda: stored(store) == list(range(500)))
        wait_until(lambda: pipeline.status()[1]["waiting_requests"] == 0)
        assert pipeline.status()[1] == {
            "store": "reachable", "last_error": "", "writer": "running", "stopping": False, "waiting_requests": 0, "queue_bytes": 0,
            "spool_bytes": pipeline.status()[1]["spool_bytes"], "dead_letters": 0, "dead_letter_bytes": 0}


def test_a_disk_that_takes_nothing_is_not_ready(
    store: ClickHouseStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While requests are refused for the disk's sake, status says not ready and why; afterwards it is ready again."""
    def read_only(*arguments: object) -> int:
        raise OSError(30, "Read-only file system")

    with running(store, settings) as pipeline:
        with monkeypatch.context() as broken:
            broken.setattr(os, "pwritev", read_only)
            with pytest.raises(Overloaded, match="Read-only"):
                pipeline.submit(request(0), "protobuf")
            ready, details = pipeline.status()
            assert not ready
            assert "Read-only file system" in details["last_error"]
            assert details["store"] == "reachable"
        pipeline.submit(request(0), "protobuf")
        assert pipeline.status()[0]
        assert pipeline.status()[1]["last_error"] == ""


def test_a_writer_that_died_is_not_ready(
    store: ClickHouseStore, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault of ours that ends the writer is logged once, told by status, and no request is acknowledged after it."""
    with running(store, settings) as pipeline:
        def fault(*arguments: object) -> None:
            raise RuntimeError("a fault")

        monkeypatch.setattr(pipeline, "_store", fault)
        pipeline.submit(request(0), "protobuf")
        wait_until(lambda: pipeline.status()[1]["writer"] == "stopped")
        ready, details = pipeline.status()
        assert not ready
        assert "RuntimeError" in details["last_error"]
        with pytest.raises(Overloaded, match="writer has stopped"):
            pipeline.submit(request(10), "protobuf")
        wait_until(lambda: any("writer has stopped" in record.getMessage() for record in caplog.records))
    assert sum("writer has stopped" in record.getMessage() for record in caplog.records) == 1


def test_a_spool_that_is_nearly_full_is_not_ready(
    store: ClickHouseStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 95 % a large request would find no room: others are to be asked, though what still fits is taken."""
    with running(store, settings) as pipeline:
        for share, ready in ((0.94, True), (0.96, False)):
            monkeypatch.setattr(Spool, "size_bytes", int(share * settings.spool_bytes_max))
            assert pipeline.status()[0] is ready
        assert pipeline.submit(request(0), "protobuf").accepted


def test_a_full_spool_asks_senders_to_come_back(store: ClickHouseStore, settings: Settings) -> None:
    """The disk has a limit too, and the refusal names it."""
    gate = Tampered(store, hold=True)
    small = Settings(data=settings.data, batch_age_ms_max=20, spool_bytes_max=16_384)
    with running(gate, small) as pipeline:
        taken, refusal = fill(pipeline)
        assert "spool_bytes_max" in str(refusal)
        gate.hold.clear()
        wait_until(lambda: stored(store) == list(range(taken * 10)))

        def accepted_again() -> bool:
            try:
                return pipeline.submit(request(taken * 10), "protobuf").accepted == SPANS_A_REQUEST
            except Overloaded:
                return False

        wait_until(accepted_again)
    assert stored(store) == list(range((taken + 1) * 10))


def test_closing_stores_what_waits(store: ClickHouseStore, settings: Settings) -> None:
    """Asked to stop with a young batch: it is stored at once, close says so, and new requests are refused."""
    patient = Settings(data=settings.data, batch_age_ms_max=3_600_000)
    with running(store, patient) as pipeline:
        pipeline.submit(request(0), "protobuf")
        assert stored(store) == []
        assert pipeline.close(20) is True
        assert stored(store) == list(range(SPANS_A_REQUEST))
        with pytest.raises(Overloaded, match="stopping"):
            pipeline.submit(request(100), "protobuf")


def test_closing_has_a_deadline(store: ClickHouseStore, settings: Settings) -> None:
    """With the store away, close gives up, says so, and leaves the requests to the next start."""
    with running(Tampered(store, hold=True), settings) as pipeline:
        pipeline.submit(request(0), "protobuf")
        assert pipeline.close(0.1) is False


def test_a_record_that_can_no_longer_be_read_becomes_a_dead_letter(store: ClickHouseStore, settings: Settings) -> None:
    """A record damaged on disk after a crash is buried and told in the table; those before and behind it are stored."""
    with running(Tampered(store, hold=True), settings, close_s=0.05) as pipeline:
        for number in range(3):
            pipeline.submit(request(number * 10), "protobuf")
    segment = next((Path(settings.data) / "spool" / "segments").glob("*.log"))
    segment.with_suffix(".idx").unlink()  # a crash leaves none
    raw = bytearray(segment.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    segment.write_bytes(raw)
    with running(store, settings) as pipeline:
        wait_until(lambda: pipeline.status()[1]["waiting_requests"] == 0)
        assert stored(store) == [*range(10), *range(20, 30)]
        assert pipeline.status()[1]["dead_letters"] == 1
    assert store.query("SELECT Sequence, Reason FROM otel.cutaway_dead_letters").rows == [(2, "CorruptRecord: the body is damaged")]
    assert list((Path(settings.data) / "spool" / "quarantine").iterdir())


def test_many_senders_at_once(store: ClickHouseStore, settings: Settings) -> None:
    """Eight threads, every acknowledged span stored once."""
    with running(store, settings) as pipeline:
        def send(lane: int) -> None:
            for turn in range(10):
                pipeline.submit(request(lane * 1000 + turn * 10), "protobuf")

        threads = [threading.Thread(target=send, args=(lane,)) for lane in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        expected = sorted(lane * 1000 + number for lane in range(8) for number in range(100))
        wait_until(lambda: stored(store) == expected)


def test_a_server_that_goes_and_comes_back_gets_everything_once(tmp_path: Path) -> None:
    """ClickHouse over HTTP dies under load and returns: status tells meanwhile, nothing is lost, nothing doubled."""
    with server(tmp_path / "server") as running_server:
        _outage(running_server, tmp_path)


def _outage(running_server: Server, tmp_path: Path) -> None:
    settings = Settings(clickhouse=running_server.url, spool=str(tmp_path / "spool"), batch_age_ms_max=20)
    store = open_store(settings)
    try:
        with running(store, settings) as pipeline:
            pipeline.submit(request(0), "protobuf")
            wait_until(lambda: len(stored(store)) == SPANS_A_REQUEST)
            running_server.stop()
            for number in range(1, 6):
                pipeline.submit(request(number * 10), "protobuf")
            wait_until(lambda: pipeline.status()[1]["store"] == "unreachable")
            ready, details = pipeline.status()
            assert ready
            assert "cannot be reached" in details["last_error"]
            running_server.start()
            wait_until(lambda: pipeline.status()[1]["waiting_requests"] == 0)
            assert stored(store) == list(range(60))
    finally:
        store.close()


def test_requests_are_taken_before_the_server_is_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A collector that starts before ClickHouse takes spans, says that the store is away, once, and stores them when it comes."""
    running_server = Server(tmp_path / "server").start()
    running_server.stop()
    settings = Settings(clickhouse=running_server.url, spool=str(tmp_path / "spool"), batch_age_ms_max=20)
    store = open_store(settings)
    try:
        with running(store, settings) as pipeline:
            wait_until(lambda: pipeline.status()[1]["store"] == "unreachable")
            pipeline.submit(request(0), "protobuf")
            ready, details = pipeline.status()
            assert ready
            assert details["last_error"] == f"the store at 127.0.0.1:{running_server.port} cannot be reached: Connection refused"
            running_server.start()
            wait_until(lambda: pipeline.status()[1]["waiting_requests"] == 0)
            assert stored(store) == list(range(SPANS_A_REQUEST))
            assert pipeline.status()[1]["store"] == "reachable"
        assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1
    finally:
        store.close()
        running_server.stop()


def test_stopping_does_not_wait_for_a_server_that_never_came(tmp_path: Path) -> None:
    """With nothing to store, a stop ends while the store is away, long before its deadline, and reports that all is stored."""
    running_server = Server(tmp_path / "server").start()
    running_server.stop()
    settings = Settings(clickhouse=running_server.url, spool=str(tmp_path / "spool"))
    store = open_store(settings)
    try:
        with running(store, settings) as pipeline:
            wait_until(lambda: pipeline.status()[1]["store"] == "unreachable")
            assert pipeline.close(3600)
    finally:
        store.close()


def test_a_request_that_cannot_become_rows_harms_no_other(
    store: ClickHouseStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours in one request of a batch: it alone becomes a dead letter that says why, its neighbours are stored."""
    build = decode.build

    def faulty(requests: Sequence[Checked], limits: decode.Limits) -> Rows:
        if any(one.tenant == "bad" for one in requests):
            raise ZeroDivisionError("planted")
        return build(requests, limits)

    monkeypatch.setattr(decode, "build", faulty)
    with running(store, settings) as pipeline:
        for number, tenant in enumerate(["good", "bad", "good"]):
            pipeline.submit(request(number * 10), "protobuf", tenant)
        wait_until(lambda: sample(pipeline, "cutaway_dead_letters_total") == 1)
        wait_until(lambda: stored(store) == [*range(10), *range(20, 30)])
        assert sample(pipeline, "cutaway_spans_lost_total") == SPANS_A_REQUEST
        assert "ZeroDivisionError: planted" in store.query("SELECT Reason FROM otel.cutaway_dead_letters").rows[0][0]


def test_requests_that_fail_only_together_are_all_stored(
    store: ClickHouseStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours in joining them: each becomes rows by itself, token series and scores too, and none is a dead letter."""
    build = decode.build

    def faulty(requests: Sequence[Checked], limits: decode.Limits) -> Rows:
        if len(requests) > 1:
            raise ZeroDivisionError("planted")
        return build(requests, limits)

    monkeypatch.setattr(decode, "build", faulty)
    with running(store, settings) as pipeline:
        for number in range(3):
            pipeline.submit(request(number * 10), "protobuf", "")
        wait_until(lambda: stored(store) == [*range(30)])
        assert sample(pipeline, "cutaway_dead_letters_total") == 0
        assert pipeline.status()[1]["writer"] == "running"
