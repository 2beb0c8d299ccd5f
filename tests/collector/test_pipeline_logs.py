"""Scores that senders send: log records go the same road as spans, and are stored once."""

from __future__ import annotations

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from cutaway_collector.contracts import Encoding
from cutaway_collector.errors import MalformedRequest
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore
from pipeline_helpers import START_NS, MeanSurprisal, Tampered, request, running, sample, stored
from store_helpers import wait_until


def verdicts(first: int, count: int) -> bytes:
    """An ExportLogsServiceRequest that judges the spans numbered from `first`: evaluation `kindness`, value 0.5."""
    message = ExportLogsServiceRequest()
    records = message.resource_logs.add().scope_logs.add().log_records
    for number in range(first, first + count):
        record = records.add(time_unix_nano=START_NS, event_name="gen_ai.evaluation.result",
                             trace_id=(number + 1).to_bytes(16, "big"), span_id=(number + 1).to_bytes(8, "big"))
        record.attributes.add(key="gen_ai.evaluation.name").value.string_value = "kindness"
        record.attributes.add(key="gen_ai.evaluation.score.value").value.double_value = 0.5
    return message.SerializeToString()


def scores(store: ClickHouseStore) -> list[tuple[str, str, int]]:
    """(name, tenant, rows as they lie in the table) of every score."""
    rows = store.query("SELECT ScoreName, TenantId, count() FROM otel.gen_ai_scores GROUP BY ALL ORDER BY ALL").rows
    return [(str(row[0]), str(row[1]), int(row[2])) for row in rows]


def test_sent_scores_are_acknowledged_and_stored(store: ClickHouseStore, settings: Settings) -> None:
    """A request of scores alone: accepted as many as it holds, on disk, in the table, counted."""
    with running(store, settings) as pipeline:
        receipt = pipeline.submit(verdicts(0, 4), "logs/protobuf", "team-a")
        assert (receipt.accepted, receipt.rejected) == (4, 0)
        assert pipeline.status()[1]["spool_bytes"] > 0
        wait_until(lambda: sample(pipeline, "cutaway_scores_stored_total") == 4)
        assert sample(pipeline, "cutaway_spans_accepted_total") == 0
    assert scores(store) == [("kindness", "team-a", 4)]
    assert stored(store) == []


def test_sent_scores_survive_a_restart(store: ClickHouseStore, settings: Settings) -> None:
    """Acknowledged while the store was away: the next process knows from the spool which decoder they need."""
    with running(Tampered(store, hold=True), settings, close_s=0.05) as pipeline:
        pipeline.submit(verdicts(0, 2), "logs/protobuf")
    with running(store, settings) as pipeline:
        pipeline.submit(verdicts(0, 2), "logs/protobuf")
        wait_until(lambda: pipeline.status()[1]["waiting_requests"] == 0)
        assert sample(pipeline, "cutaway_requests_duplicate_total", encoding="logs/protobuf") == 1
    assert scores(store) == [("kindness", "", 2)]


def test_fault_3_sent_and_computed_scores_of_one_batch_are_stored_once_each(store: ClickHouseStore, settings: Settings) -> None:
    """Every insert is done and its answer lost, twice over: spans, trace times and both kinds of scores stay single."""
    patient = Settings(data=settings.data, batch_age_ms_max=3_600_000)
    gate = Tampered(store, lose_answers=6)
    with running(gate, patient, scorers=[MeanSurprisal()]) as pipeline:
        pipeline.submit(request(0, 3, tokens=5), "protobuf")
        pipeline.submit(verdicts(0, 2), "logs/protobuf")
        assert pipeline.close(30)
    assert len(gate.tokens) > len(set(gate.tokens)) == 4
    assert stored(store) == [0, 1, 2]
    assert scores(store) == [("kindness", "", 2), ("mean_surprisal", "", 3)]
    assert store.query("SELECT count() FROM otel.otel_traces_trace_id_ts").rows[0][0] == 3


@pytest.mark.parametrize("encoding", ["logs/protobuf", "logs/json"])
def test_malformed_logs_leave_nothing_behind(store: ClickHouseStore, settings: Settings, encoding: Encoding) -> None:
    """Refused as a whole, in either encoding."""
    with running(store, settings) as pipeline:
        with pytest.raises(MalformedRequest):
            pipeline.submit(b"\xff\xff\xff", encoding)
        assert pipeline.status()[1]["spool_bytes"] == 0
