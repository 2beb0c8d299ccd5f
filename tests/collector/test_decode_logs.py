"""Evaluation results in OTLP logs become scores; other logs are counted and said to be left out."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from cutaway_collector import decode
from cutaway_collector.contracts import Decoded
from cutaway_collector.errors import MalformedRequest
from decode_helpers import RECEIVED_NS, key_value, rows

TIME_NS = 1_700_000_000_000_000_007
JUDGED = {"trace_id": bytes(range(16)), "span_id": bytes(range(1, 9))}
GOOD: dict[str, Any] = {"gen_ai.evaluation.name": "Relevance", "gen_ai.evaluation.score.value": 0.75}


def logs(*records: dict[str, Any], service: str | None = "judge", scope: str = "evals") -> ExportLogsServiceRequest:
    """Records as keyword arguments of LogRecord; `attributes` as a mapping."""
    message = ExportLogsServiceRequest()
    sent = message.resource_logs.add()
    if service is not None:
        sent.resource.attributes.append(key_value("service.name", service))
    scoped = sent.scope_logs.add()
    scoped.scope.name, scoped.scope.version = scope, "1.2"
    for fields in records:
        basis: dict[str, Any] = {"event_name": "gen_ai.evaluation.result", "time_unix_nano": TIME_NS, **JUDGED, **fields}
        attributes = basis.pop("attributes", GOOD)
        scoped.log_records.add(**basis, attributes=[key_value(key, value) for key, value in attributes.items()])
    return message


def decoded(message: ExportLogsServiceRequest, **limits: int) -> Decoded:
    return decode.decode(message.SerializeToString(), "logs/protobuf", received_ns=RECEIVED_NS, tenant="team",
                         limits=decode.Limits(**limits))


def only(message: ExportLogsServiceRequest) -> dict[str, Any]:
    made = decoded(message)
    assert made.scores is not None
    assert (made.rejected, made.message) == (0, "")
    (row,) = rows(made.scores)
    return row


def test_an_evaluation_result_is_a_score() -> None:
    """Every column of gen_ai_scores, from the record, its resource and its scope."""
    said = {**GOOD, "gen_ai.evaluation.score.label": "pass", "gen_ai.evaluation.explanation": "to the point",
            "cutaway.sequence.index": 3, "gen_ai.request.model": "smollm2"}
    assert only(logs({"attributes": said})) == {
        "Timestamp": TIME_NS, "TenantId": b"team", "ServiceName": b"judge", "GenAiModel": b"smollm2",
        "TraceId": bytes(range(16)).hex().encode(), "SpanId": b"0102030405060708", "SeqIndex": 3,
        "IngestedAt": RECEIVED_NS // 10**6, "ScoreName": b"Relevance", "ScorerVersion": b"1.2", "Source": b"judge", "Value": 0.75,
        "Label": b"pass", "Explanation": b"to the point", "Version": RECEIVED_NS // 10**6, "IsDeleted": 0,
    }


def test_a_logs_request_has_no_spans() -> None:
    """The blocks of spans and tokens are there and empty."""
    made = decoded(logs({}))
    assert (made.spans.rows, made.tokens.rows) == (0, 0)
    assert list(made.spans.columns) == list(decode.decode_protobuf(b"", received_ns=1).spans.columns)


@pytest.mark.parametrize(("change", "column", "expected"), [
    ({"event_name": "", "attributes": {**GOOD, "event.name": "gen_ai.evaluation.result"}}, "ScoreName", b"Relevance"),
    ({"time_unix_nano": 0, "observed_time_unix_nano": TIME_NS + 1}, "Timestamp", TIME_NS + 1),
    ({"span_id": b""}, "SpanId", b""), ({"span_id": bytes(8)}, "SpanId", b""),
    ({"attributes": {**GOOD, "gen_ai.evaluation.score.value": 4}}, "Value", 4.0),
    ({"attributes": {**GOOD, "gen_ai.request.model": 5}}, "GenAiModel", b""),
])
def test_what_senders_may_leave_out_or_say_otherwise(change: dict[str, Any], column: str, expected: Any) -> None:
    """The event's name as an attribute, only the observed time, a whole trace judged, a whole number."""
    assert only(logs(change))[column] == expected


def test_a_label_alone_is_kept() -> None:
    """Its value is NaN, which no statistic counts."""
    row = only(logs({"attributes": {"gen_ai.evaluation.name": "Toxicity", "gen_ai.evaluation.score.label": "none"}}))
    assert (row["Label"], math.isnan(row["Value"])) == (b"none", True)


@pytest.mark.parametrize(("service", "scope", "source"), [
    ("judge", "evals", b"judge"), (None, "evals", b"evals"), (None, "", b"unknown"), ("collector", "x", b"collector (sent)"),
])
def test_the_source_says_who_sent_it(service: str | None, scope: str, source: bytes) -> None:
    """And a sender cannot pass for the collector's own scorers, whose rows it would replace."""
    assert only(logs({}, service=service, scope=scope))["Source"] == source


@pytest.mark.parametrize(("change", "rule"), [
    ({"trace_id": b""}, "names what it judges"), ({"trace_id": bytes(16)}, "names what it judges"),
    ({"span_id": b"abc"}, "names what it judges"), ({"time_unix_nano": 0}, "1971 to 2105"), ({"time_unix_nano": 2**64 - 1}, "1971"),
    ({"attributes": {"gen_ai.evaluation.score.value": 1.0}}, "has a name"),
    ({"attributes": {"gen_ai.evaluation.name": "x"}}, "finite number"),
    ({"attributes": {**GOOD, "gen_ai.evaluation.score.value": math.inf}}, "finite number"),
    ({"attributes": {**GOOD, "gen_ai.evaluation.score.value": "good"}}, "finite number"),
    ({"attributes": {**GOOD, "cutaway.sequence.index": -1}}, "whole number from 0"),
    ({"attributes": {**GOOD, "cutaway.sequence.index": 0.5}}, "whole number from 0"),
    ({"attributes": {**GOOD, "more": 1, "yet": 2}}, "may hold 3 attributes"),
    ({"event_name": "session.start"}, "traces and evaluation results"),
])
def test_a_bad_record_is_rejected_alone(change: dict[str, Any], rule: str) -> None:
    """Counted and explained; its neighbour is kept; nothing of it is repeated."""
    made = decoded(logs({}, change, {}), attributes_max=3)
    assert made.scores is not None
    assert (made.scores.rows, made.rejected) == (2, 1)
    assert rule in made.message
    assert "session" not in made.message


def test_other_logs_are_counted_together() -> None:
    """Nothing to store is no block, and one sentence says how many and why."""
    made = decoded(logs(*[{"event_name": "", "attributes": {}, "body": None}] * 5))
    assert (made.scores, made.rejected) == (None, 5)
    assert made.message == "5 log record(s) were not kept: this collector stores traces and evaluation results, not other logs"


def test_json_gives_the_rows_of_protobuf() -> None:
    """The same request as OTLP/JSON: hex ids, lowerCamelCase."""
    message = logs({}, {"span_id": b""}, {"body": key_value("", {"a": [1, "x"]}).value, "severity_number": 9})
    ids = ("traceId", "spanId")

    def fix(value: Any) -> Any:
        if isinstance(value, list):
            return [fix(one) for one in value]
        if not isinstance(value, dict):
            return value
        return {key: base64.b64decode(one).hex() if key in ids else fix(one) for key, one in value.items()}

    spoken = json.dumps(fix(MessageToDict(message, use_integers_for_enums=True))).encode()
    ours = decode.decode(spoken, "logs/json", received_ns=RECEIVED_NS, tenant="team")
    theirs = decoded(message)
    assert ours.scores is not None
    assert theirs.scores is not None
    assert rows(ours.scores) == rows(theirs.scores)


@pytest.mark.parametrize(("payload", "encoding"), [
    (b"\x0a\xff", "logs/protobuf"), (b"{", "logs/json"), (b'{"resourceLogs":5}', "logs/json"),
    (b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"traceId":"AAE="}]}]}]}', "logs/json"),
])
def test_a_body_that_is_not_the_message_is_refused(payload: bytes, encoding: Any) -> None:
    """As a whole, for nothing in it can be trusted."""
    with pytest.raises(MalformedRequest):
        decode.decode(payload, encoding, received_ns=RECEIVED_NS)


@pytest.mark.parametrize("payload", [b"", logs().SerializeToString()])
def test_an_empty_request_is_fine(payload: bytes) -> None:
    """Nothing sent is nothing stored."""
    made = decode.decode(payload, "logs/protobuf", received_ns=RECEIVED_NS)
    assert (made.scores, made.rejected, made.message) == (None, 0, "")
