"""OTLP/JSON: the same rows as protobuf, and its own rules about ids, numbers, enums and names."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import HealthCheck, given, settings
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from cutaway_collector import decode
from cutaway_collector.contracts import Decoded
from cutaway_collector.errors import MalformedRequest
from decode_helpers import RECEIVED_NS, requests, rows

IDS = ("traceId", "spanId", "parentSpanId")


@pytest.fixture(autouse=True, scope="module")
def _compiled() -> None:
    decode.warm_up()


def from_json(content: Any, **options: Any) -> Decoded:
    payload = content if isinstance(content, bytes) else json.dumps(content).encode()
    return decode.decode(payload, "json", received_ns=RECEIVED_NS, tenant="team", **options)


def otlp_json(message: ExportTraceServiceRequest) -> Any:
    """The library's ProtoJSON with the ids OTLP/JSON wants."""
    def fix(value: Any) -> Any:
        if isinstance(value, list):
            return [fix(one) for one in value]
        if not isinstance(value, dict):
            return value
        return {key: base64.b64decode(one).hex().upper() if key in IDS else fix(one) for key, one in value.items()}

    return fix(MessageToDict(message, use_integers_for_enums=True))


def envelope(**span: Any) -> dict[str, Any]:
    """One span as OTLP/JSON, with members replaced; None removes one."""
    basis = {"traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174", "name": "generate", "kind": 3,
             "startTimeUnixNano": "1700000000000000000", "endTimeUnixNano": 1700000000000000005}
    return {"resourceSpans": [{"scopeSpans": [{"spans": [basis | span]}]}]}


def attribute(value: dict[str, Any]) -> bytes:
    """Text of one attribute value."""
    (row,) = rows(from_json(envelope(attributes=[{"key": "k", "value": value}])).spans)
    ((_, text),) = row["SpanAttributes"]
    assert isinstance(text, bytes)
    return text


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(requests)
def test_json_gives_the_rows_of_protobuf(message: ExportTraceServiceRequest) -> None:
    """Whatever a request holds, the encoding makes no difference to what is stored or said."""
    theirs = decode.decode_protobuf(message.SerializeToString(), received_ns=RECEIVED_NS, tenant="team")
    ours = from_json(otlp_json(message))
    assert rows(ours.spans) == rows(theirs.spans)
    assert (rows(ours.tokens), ours.rejected, ours.message) == (rows(theirs.tokens), theirs.rejected, theirs.message)


@pytest.mark.parametrize("payload", [b"{}", b'{"resourceSpans":[]}', b'{"resourceSpans":null}', b'{"resourceSpans":[{}]}'])
def test_an_empty_request_gives_empty_blocks(payload: bytes) -> None:
    """Nothing sent is nothing stored; null means absent."""
    assert from_json(payload).spans.rows == 0


@pytest.mark.parametrize("spelling", [str.upper, str.lower, str.title])
def test_ids_are_hex_of_any_case(spelling: Any) -> None:
    """And are stored in lower case."""
    (row,) = rows(from_json(envelope(traceId=spelling("5b8efff798038103d269b633813fc60c"))).spans)
    assert row["TraceId"] == b"5b8efff798038103d269b633813fc60c"


@pytest.mark.parametrize("value", [5, "5", 5.0])
def test_integers_come_as_numbers_or_strings(value: Any) -> None:
    """JavaScript cannot write a 64-bit number, others do."""
    assert attribute({"intValue": value}) == b"5"


@pytest.mark.parametrize(("value", "text"), [
    ({"intValue": "-9223372036854775808"}, b"-9223372036854775808"), ({"intValue": "9223372036854775807"}, b"9223372036854775807"),
    ({"doubleValue": 1}, b"1"), ({"doubleValue": "NaN"}, b"NaN"), ({"doubleValue": "-Infinity"}, b"-Infinity"),
    ({"doubleValue": "1.5"}, b"1.5"), ({"boolValue": False}, b"false"), ({"stringValue": ""}, b""), ({}, b""),
    ({"bytesValue": "+/8="}, b"+/8="), ({"bytesValue": "-_8"}, b"+/8="), ({"stringValue": None, "intValue": 1}, b"1"),
    ({"arrayValue": {}}, b"[]"), ({"kvlistValue": {"values": [{"key": "a"}]}}, b'{"a":null}'),
])
def test_each_kind_of_value(value: dict[str, Any], text: bytes) -> None:
    """Including the empty one, special doubles and both alphabets of base64."""
    assert attribute(value) == text


def test_unknown_and_snake_case_names_are_ignored_at_every_level() -> None:
    """A newer sender must not be refused; `start_time_unix_nano` is not a name of OTLP/JSON."""
    pairs = [{"key": "k", "value": {"intValue": 1, "x": 2}}]
    content = envelope(nonsense={"a": [1]}, parent_span_id="eee19b7ec3c1b174", attributes=pairs)
    content["unknown"] = content["resourceSpans"][0]["resource_spans"] = 5
    (row,) = rows(from_json(content).spans)
    assert (row["ParentSpanId"], row["SpanAttributes"]) == (b"", [(b"k", b"1")])


@pytest.mark.parametrize(("span", "path"), [
    ({"traceId": "W47/95gDgQPSabYzgT/GDA=="}, r"spans\[0\].traceId must be hexadecimal"),
    ({"traceId": "5b 8efff798038103d269b633813fc60c"}, "traceId"), ({"spanId": 5}, "spanId"), ({"spanId": "abc"}, "spanId"),
    ({"kind": "SPAN_KIND_SERVER"}, "kind must be a number"), ({"kind": 2**31}, "kind"), ({"status": {"code": "2"}}, "status.code"),
    ({"startTimeUnixNano": "soon"}, "startTimeUnixNano"), ({"startTimeUnixNano": -1}, "startTimeUnixNano"),
    ({"startTimeUnixNano": "1" * 30}, "startTimeUnixNano"), ({"endTimeUnixNano": 1.5}, "endTimeUnixNano"), ({"name": 5}, "name"),
    ({"attributes": {"k": "v"}}, r"attributes must be an array"), ({"attributes": [5]}, r"attributes\[0\] must be an object"),
    ({"attributes": [{"key": "k", "value": {"intValue": True}}]}, r"attributes\[0\].value.intValue"),
    ({"attributes": [{"key": "k", "value": {"intValue": 2**63}}]}, "intValue"),
    ({"attributes": [{"key": "k", "value": {"boolValue": 1}}]}, "boolValue must be true or false"),
    ({"attributes": [{"key": "k", "value": {"doubleValue": "many"}}]}, "doubleValue"),
    ({"attributes": [{"key": "k", "value": {"bytesValue": "*"}}]}, "bytesValue must be base64"),
    ({"attributes": [{"key": "k", "value": {"intValue": 1, "stringValue": "x"}}]}, "one value, not several"),
    ({"attributes": [{"key": "k", "value": "v"}]}, "value must be an object"),
    ({"events": [{"timeUnixNano": {}}]}, r"events\[0\].timeUnixNano"),
])
def test_a_body_that_is_not_the_message_is_refused_with_its_path(span: dict[str, Any], path: str) -> None:
    """The sender learns where and which rule, not what it sent."""
    with pytest.raises(MalformedRequest, match=path):
        from_json(envelope(**span))


@pytest.mark.parametrize("payload", [b"", b"[]", b"5", b"{", b'{"a":\xff}', b'{"resourceSpans":[}', b"[" * 5000, b'"\\ud800"'])
def test_a_body_that_is_not_json_is_refused(payload: bytes) -> None:
    """Nothing, another type, cut off, not UTF-8, nested without end, half a surrogate pair."""
    with pytest.raises(MalformedRequest):
        from_json(payload)


def test_errors_do_not_repeat_the_payload() -> None:
    """Prompts must not reach logs by way of an error."""
    for payload in (b'{"secret prompt', json.dumps(envelope(traceId="secret")).encode()):
        with pytest.raises(MalformedRequest) as caught:
            from_json(payload)
        assert "secret" not in str(caught.value)


def test_a_bad_span_is_rejected_alone() -> None:
    """A well-formed id of the wrong length is the span's fault, not the body's; so is a value nested too deep."""
    deep: dict[str, Any] = {"intValue": 1}
    for _ in range(60):
        deep = {"arrayValue": {"values": [deep]}}
    content = envelope()
    spans = content["resourceSpans"][0]["scopeSpans"][0]["spans"]
    spans += [spans[0] | {"traceId": "abcd"}, spans[0] | {"attributes": [{"key": "k", "value": deep}]}]
    decoded = from_json(content)
    assert (decoded.spans.rows, decoded.rejected) == (1, 2)


def test_nesting_without_end_is_the_senders_mistake() -> None:
    """Not a failure of the collector, which senders would repeat for ever."""
    value = b'{"arrayValue":{"values":[' * 300 + b"{}" + b"]}}" * 300
    payload = json.dumps(envelope(attributes=[{"key": "k", "value": "here"}])).encode().replace(b'"here"', value)
    with pytest.raises(MalformedRequest, match="nest too deep"):
        from_json(payload)
