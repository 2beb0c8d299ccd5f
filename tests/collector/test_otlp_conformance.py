"""OTLP as the specification has it, point by point, against running receivers with a real pipeline and a real store behind them.

The points are those of the conformance table in collector/README.md; 12, 13 and 23 to 28 are in test_otlp_interop.py, 22 in
test_otlp_golden.py.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from conformance_helpers import ROADS, Running, collector, new_trace, otlp_json, spans, warned
from cutaway_collector.columns import UPSTREAM_COLUMNS
from cutaway_collector.errors import MalformedRequest, Overloaded
from decode_helpers import a_span, key_value, request
from receive_helpers import JSON, PROTOBUF, post

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
MIB = 1024 * 1024
COMPARED = ", ".join(f"`{column.name}`" for column in UPSTREAM_COLUMNS if column.name != "TraceId")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with collector(tmp_path_factory.mktemp("conformance") / "data") as made:
        yield made


@pytest.fixture(autouse=True)
def _nothing_left_of_other_tests(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "running" in request.fixturenames:
        request.getfixturevalue("running").before = lambda _: None


def status_of(body: bytes, media: dict[str, str]) -> tuple[int, str]:
    """(code, message) of a google.rpc.Status in either encoding."""
    if media["Content-Type"].endswith("json"):
        said = json.loads(body)
        return said["code"], said["message"]
    status = status_pb2.Status.FromString(body)
    return status.code, status.message


def raw_export(running: Running, body: bytes, **named: Any) -> Any:
    return running.channel.unary_unary(EXPORT)(body, timeout=60, **named)


@pytest.mark.parametrize("road", ["grpc", "http"])
def test_01_both_transports_answer(running: Running, road: str) -> None:
    """TraceService/Export and POST /v1/traces take a span, and it is found."""
    trace = new_trace()
    running.send(spans(trace, "work"), road)
    assert running.rows(trace, 1) == [("work",)]


@pytest.mark.parametrize("road", ROADS)
def test_02_compressions_are_accepted(running: Running, road: str) -> None:
    """Identity and gzip on both, zstd on HTTP."""
    trace = new_trace()
    running.send(spans(trace, "packed"), road)
    assert running.rows(trace, 1) == [("packed",)]


@pytest.mark.parametrize("media", [PROTOBUF, JSON])
def test_02_an_unknown_compression_is_refused_for_good(running: Running, media: dict[str, str]) -> None:
    """With a Status, and not as something to try again."""
    status, headers, body = post(running.http.address, b"x", {**media, "Content-Encoding": "snappy"})
    assert (status, "retry-after" in headers) == (415, False)
    assert "gzip" in status_of(body, media)[1]


@pytest.mark.parametrize("media", ["application/x-protobuf", "application/json", "application/json; charset=utf-8",
                                   "APPLICATION/JSON", "application/x-protobuf;x=y"])
def test_03_both_encodings_on_one_port(running: Running, media: str) -> None:
    """By Content-Type, with parameters; the answer's Content-Type is the request's."""
    trace = new_trace()
    message = spans(trace, "typed")
    body = message.SerializeToString() if "protobuf" in media else json.dumps(otlp_json(message)).encode()
    status, headers, _ = post(running.http.address, body, {"Content-Type": media})
    assert (status, headers["content-type"]) == (200, media.split(";")[0].lower())
    assert running.rows(trace, 1) == [("typed",)]


@pytest.mark.parametrize("message", [
    ExportTraceServiceRequest(), ExportTraceServiceRequest(resource_spans=[ResourceSpans()]),
    ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(), ScopeSpans()])]),
])
@pytest.mark.parametrize("road", ROADS)
def test_04_an_empty_request_is_a_success(running: Running, message: ExportTraceServiceRequest, road: str) -> None:
    """No bytes, no resources, empty envelopes."""
    assert running.send(message, road) == ExportTraceServiceResponse()


def test_05_full_success_leaves_partial_success_unset(running: Running) -> None:
    """0 bytes in protobuf and on gRPC, {} in JSON."""
    message = spans(new_trace(), "fine")
    assert raw_export(running, message.SerializeToString()) == b""
    assert post(running.http.address, message.SerializeToString(), PROTOBUF)[::2] == (200, b"")
    assert post(running.http.address, json.dumps(otlp_json(message)).encode(), JSON)[::2] == (200, b"{}")


@pytest.mark.parametrize("road", ROADS)
def test_06_partial_success_counts_exactly(running: Running, road: str) -> None:
    """Two of four are bad: two rejected, in words, and the others stored once."""
    trace = new_trace()
    message = spans(trace, "good", "bad", "good too", "bad too")
    sent = message.resource_spans[0].scope_spans[0].spans
    sent[1].span_id, sent[3].start_time_unix_nano = b"", 0
    partial = running.send(message, road).partial_success
    assert partial.rejected_spans == 2
    assert "span_id" in partial.error_message
    assert running.rows(trace, 2) == [("good",), ("good too",)]


@pytest.mark.parametrize("road", ROADS)
def test_07_a_warning_rejects_nothing(running: Running, road: str) -> None:
    """The span is kept and something about it is said: 0 rejected, with a message."""
    trace = new_trace()
    partial = running.send(warned(trace), road).partial_success
    assert partial.rejected_spans == 0
    assert "the spans are kept" in partial.error_message
    assert running.rows(trace, 1) == [("warned",)]


def test_08_an_undecodable_request_is_the_senders_mistake(running: Running) -> None:
    """400 and INVALID_ARGUMENT, a Status with BadRequest, nothing of it stored."""
    trace = new_trace()
    body = spans(trace, "cut").SerializeToString()[:-3]
    status, _, answer = post(running.http.address, body, PROTOBUF)
    assert status == 400
    with pytest.raises(grpc.RpcError) as caught:
        raw_export(running, body)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    for said in (answer, dict(caught.value.trailing_metadata())["grpc-status-details-bin"]):
        detail = error_details_pb2.BadRequest()
        assert status_pb2.Status.FromString(said).details[0].Unpack(detail)
        assert detail.field_violations[0].description
    assert post(running.http.address, b'{"resourceSpans": 5}', JSON)[0] == 400
    assert running.rows(trace, 0) == []


@pytest.mark.parametrize("media", [PROTOBUF, JSON])
@pytest.mark.parametrize(("path", "method", "extra", "expected"), [
    ("/nothing", "POST", {}, 404), ("/v1/metrics", "POST", {}, 404), ("/v1/traces", "GET", {}, 405), ("/v1/traces", "PUT", {}, 405),
    ("/v1/traces", "OPTIONS", {}, 405), ("/v1/traces", "POST", {"Content-Encoding": "br"}, 415),
    ("/v1/traces", "POST", {"Content-Encoding": "gzip"}, 400), ("/v1/traces", "POST", {"Expected": "overload"}, 503),
])
def test_09_every_refusal_is_a_status(
    running: Running, media: dict[str, str], path: str, method: str, extra: dict[str, str], expected: int
) -> None:
    """In the encoding of the request, with a code and a message."""
    def full(_: bytes) -> None:
        raise Overloaded("full")

    running.before = full if "Expected" in extra else (lambda _: None)
    status, headers, body = post(running.http.address, b"not an OTLP request", {**media, **extra}, path=path, method=method)
    code, message = status_of(body, media)
    assert (status, headers["content-type"]) == (expected, media["Content-Type"])
    assert code > 0
    assert message


def test_09_an_unknown_content_type_is_told_in_protobuf(running: Running) -> None:
    """Its own encoding is not one we have."""
    status, headers, body = post(running.http.address, b"x", {"Content-Type": "text/plain"})
    assert (status, headers["content-type"]) == (415, "application/x-protobuf")
    assert status_pb2.Status.FromString(body).message


@pytest.mark.parametrize("packed", [False, True])
def test_10_sizes_are_limited_before_and_after_inflation(running: Running, packed: bool) -> None:
    """64 MiB by default; beyond: 413 on HTTP, RESOURCE_EXHAUSTED without RetryInfo on gRPC."""
    body = bytes(64 * MIB + 1)
    headers = {**PROTOBUF, **({"Content-Encoding": "gzip"} if packed else {})}
    status, _, answer = post(running.http.address, gzip.compress(body, 1) if packed else body, headers)
    assert (status, status_pb2.Status.FromString(answer).code) == (413, 8)
    with pytest.raises(grpc.RpcError) as caught:
        raw_export(running, body, compression=grpc.Compression.Gzip if packed else None)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "grpc-status-details-bin" not in dict(caught.value.trailing_metadata() or ())


def test_11_a_response_stays_small(running: Running) -> None:
    """A hundred thousand rejected spans are told in few words."""
    message = request()
    message.resource_spans[0].scope_spans[0].spans.extend([Span(name="no id")] * 100_000)
    answer = post(running.http.address, message.SerializeToString(), PROTOBUF)[2]
    partial = ExportTraceServiceResponse.FromString(answer).partial_success
    assert (partial.rejected_spans, len(answer) < 16_384) == (100_000, True)
    assert partial.error_message


def spoken(trace_id: str, **fields: Any) -> bytes:
    span = {"traceId": trace_id, "spanId": "00000000000000aB", "name": "spoken", "kind": 1,
            "startTimeUnixNano": "1700000000000000000", "endTimeUnixNano": "1700000000000000005", **fields}
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}).encode()


def test_14_json_ids_are_hex_of_any_case(running: Running) -> None:
    """Stored in lower case, whatever case was sent; base64 is refused."""
    trace = new_trace()
    for spelled in (trace.hex().upper(), trace.hex()):
        assert post(running.http.address, spoken(spelled), JSON)[0] == 200
    assert running.rows(trace, 2, "SpanId") == [("00000000000000ab",)] * 2
    assert post(running.http.address, spoken("W47/95gDgQPSabYzgT/GDA=="), JSON)[0] == 400


@pytest.mark.parametrize(("fields", "column", "expected"), [
    ({"endTimeUnixNano": 1700000000000000007}, "Duration", 7), ({"endTimeUnixNano": "1700000000000000007"}, "Duration", 7),
    ({"kind": 2}, "SpanKind", "Server"), ({"kind": 77}, "SpanKind", "Unspecified"), ({"newer": {"x": [1]}}, "SpanName", "spoken"),
    ({"parent_span_id": "00000000000000ab"}, "ParentSpanId", ""),
    ({"attributes": [{"key": "k", "value": {"bytesValue": "AQI="}}]}, "SpanAttributes['k']", "AQI="),
    ({"attributes": [{"key": "k", "value": {"intValue": "9223372036854775807"}}]}, "SpanAttributes['k']", "9223372036854775807"),
    ({"attributes": [{"key": "k", "value": {"doubleValue": "NaN"}}]}, "SpanAttributes['k']", "NaN"),
    ({"attributes": [{"key": "k", "value": {"doubleValue": "-Infinity"}}]}, "SpanAttributes['k']", "-Infinity"),
])
def test_15_json_values(running: Running, fields: dict[str, Any], column: str, expected: Any) -> None:
    """64-bit integers as numbers and strings, enums as numbers, other names ignored, bytes in base64, NaN as text."""
    trace = new_trace()
    assert post(running.http.address, spoken(trace.hex(), **fields), JSON)[0] == 200
    assert running.rows(trace, 1, column) == [(expected,)]


@pytest.mark.parametrize("fields", [{"kind": "SPAN_KIND_SERVER"}, {"startTimeUnixNano": "soon"}, {"name": 5}])
def test_15_json_of_another_type_is_refused(running: Running, fields: dict[str, Any]) -> None:
    """Names of enums among them."""
    assert post(running.http.address, spoken(new_trace().hex(), **fields), JSON)[0] == 400


def field(number: int, wire_type: int, content: bytes) -> bytes:
    key = number << 3 | wire_type
    return bytes([key & 127 | 128, key >> 7]) + content if key > 127 else bytes([key]) + content


def nested(number: int, content: bytes) -> bytes:
    size = len(content)
    return field(number, 2, (bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])) + content)


UNKNOWN = {0: b"\x05", 1: bytes(8), 2: b"\x03abc", 5: bytes(4), 3: field(1, 0, b"\x01") + field(900, 4, b"")}


@pytest.mark.parametrize("wire_type", UNKNOWN)
def test_16_unknown_fields_of_every_wire_type_are_skipped(running: Running, wire_type: int) -> None:
    """Groups too; at every level."""
    trace = new_trace()
    extra = field(900, wire_type, UNKNOWN[wire_type])
    span = a_span(trace_id=trace, name="odd").SerializeToString()
    body = extra + nested(1, extra + nested(2, extra + nested(2, extra + span + extra) + extra)) + extra
    assert post(running.http.address, body, PROTOBUF)[0] == 200
    assert running.rows(trace, 1) == [("odd",)]


def test_16_any_order_pieces_and_repetition_follow_protobuf(running: Running) -> None:
    """Spans before their resource, a resource in two pieces, a name given twice: the later one counts, the pieces add up."""
    trace = new_trace()
    first = request(resource=None).SerializeToString()
    half = [nested(1, key_value("service.name", "halves").SerializeToString()), nested(1, key_value("b", "2").SerializeToString())]
    span = a_span(trace_id=trace, name="early").SerializeToString() + nested(5, b"late")
    body = nested(1, nested(2, nested(2, span)) + nested(1, half[0]) + nested(1, half[1])) + first
    assert post(running.http.address, body, PROTOBUF)[0] == 200
    assert running.rows(trace, 1, "SpanName, ServiceName, ResourceAttributes['b']") == [("late", "halves", "2")]


@pytest.mark.parametrize("fields", [
    {"trace_id": b""}, {"trace_id": bytes(16)}, {"trace_id": b"short"}, {"trace_id": bytes(17)},
    {"span_id": b""}, {"span_id": bytes(8)}, {"span_id": b"short"}, {"span_id": bytes(range(9))},
])
def test_17_a_span_without_valid_ids_is_rejected_alone(running: Running, fields: dict[str, Any]) -> None:
    """Of another length, or all zero; its neighbour is stored."""
    trace = new_trace()
    bad = a_span(**{"trace_id": trace, "name": "bad", **fields})
    answer = running.send(request(bad, a_span(trace_id=trace, name="good")), "http")
    assert answer.partial_success.rejected_spans == 1
    assert running.rows(trace, 1) == [("good",)]


def test_18_every_kind_of_value_is_stored(running: Running) -> None:
    """Empty, bytes, mixed arrays, maps in maps."""
    trace = new_trace()
    values = {"e": None, "b": b"\x01\x02", "a": [1, "x", None, [True]], "m": {"k": {"n": 1.5}}, "s": "t", "i": -1, "t": True}
    running.send(spans(trace, "v", attributes=[key_value(key, value) for key, value in values.items()]), "grpc")
    ((stored,),) = running.rows(trace, 1, "SpanAttributes")
    assert dict(stored) == {"e": "", "b": "AQI=", "a": '[1,"x",null,[true]]', "m": '{"k":{"n":1.5}}', "s": "t", "i": "-1",
                            "t": "true"}


@pytest.mark.parametrize(("fields", "column", "expected"), [
    ({"end_time_unix_nano": 5}, "Duration", 0),
    ({"attributes": [key_value("", "empty"), key_value("k", "1"), key_value("k", "2")]}, "mapValues(SpanAttributes)",
     ["empty", "1", "2"]),
])
def test_19_odd_but_kept(running: Running, fields: dict[str, Any], column: str, expected: Any) -> None:
    """An end before the start is no duration; repeated and empty keys are kept as sent."""
    trace = new_trace()
    running.send(spans(trace, "odd", **fields), "http")
    assert running.rows(trace, 1, column) == [(expected,)]


@pytest.mark.parametrize("start_ns", [0, 1, 2**63 - 1, 2**64 - 1])
def test_19_times_outside_of_our_century_are_rejected(running: Running, start_ns: int) -> None:
    """Counted, and said so, instead of hidden by retention or wrapped into another century."""
    answer = running.send(spans(new_trace(), "when", start_time_unix_nano=start_ns), "http")
    assert answer.partial_success.rejected_spans == 1
    assert "1971" in answer.partial_success.error_message


def test_20_what_is_documented_as_dropped_changes_nothing_else(running: Running) -> None:
    """Flags, dropped counts, schema URLs and scope attributes: accepted, and the row is as without them; tracestate is kept."""
    plain, full = new_trace(), new_trace()
    running.send(spans(plain, "s", trace_state="a=b"), "http")
    message = spans(full, "s", trace_state="a=b", flags=257, dropped_attributes_count=1, dropped_events_count=2,
                    dropped_links_count=3)
    sent = message.resource_spans[0]
    sent.schema_url = sent.scope_spans[0].schema_url = "https://opentelemetry.io/schemas/1.40.0"
    sent.scope_spans[0].scope.CopyFrom(InstrumentationScope(attributes=[key_value("k", "v")], dropped_attributes_count=4))
    running.send(message, "http")
    assert running.rows(full, 1, COMPARED) == running.rows(plain, 1, COMPARED)
    assert running.rows(full, 1, "TraceState") == [("a=b",)]


def test_21_every_road_gives_the_same_rows(running: Running) -> None:
    """gRPC, protobuf, JSON, compressed or not: what is stored does not tell which."""
    found = []
    for road in ROADS:
        trace = new_trace()
        attributes = [key_value("x", [1, {"y": b"z"}]), key_value("gen_ai.request.model", "m")]
        message = spans(trace, "a", "b", kind=3, attributes=attributes)
        message.resource_spans[0].resource.attributes.append(key_value("service.name", "same"))
        made = message.resource_spans[0].scope_spans[0].spans[0]
        made.events.add(time_unix_nano=1_700_000_000_000_000_009, name="e").attributes.append(key_value("k", 0.5))
        made.links.add(trace_id=bytes(range(16)), span_id=bytes(range(8)), trace_state="c=d")
        made.status.code, made.status.message = 2, "no"
        running.send(message, road)
        found.append(running.rows(trace, 2, COMPARED))
    assert len(found[0]) == 2
    assert all(rows == found[0] for rows in found)


def test_malformed_is_what_the_decoder_says(running: Running) -> None:
    """A refusal of the pipeline keeps its words on the way to the sender."""
    def refuse(_: bytes) -> None:
        raise MalformedRequest("rule, value, remedy")

    running.before = refuse
    assert status_of(post(running.http.address, b"x", JSON)[2], JSON) == (3, "rule, value, remedy")
