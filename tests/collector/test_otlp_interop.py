"""OTLP conformance, the points about how senders behave: retries, official exporters, browsers, connections (12, 13, 23 to 28)."""

from __future__ import annotations

import http.client
import importlib.util
import json
import logging
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import LogsServiceStub
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import MetricsServiceStub
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from conformance_helpers import Gate, Running, collector, new_trace, spans
from cutaway_collector import errors, search
from cutaway_collector.errors import Overloaded, SettingsError
from cutaway_collector.receive import GrpcReceiver, HttpReceiver
from decode_helpers import key_value
from receive_helpers import HEAD, JSON, PROTOBUF, Recorder, eventually, post, until_closed

RETRYABLE_HTTP = {429, 502, 503, 504}
RETRYABLE_GRPC = {grpc.StatusCode[name].value[0] for name in
                  ("CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS")}
PAGE = "https://app.example.com"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with collector(tmp_path_factory.mktemp("interop") / "data") as made:
        yield made


@pytest.fixture(autouse=True)
def _nothing_left_of_other_tests(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "running" in request.fixturenames:
        request.getfixturevalue("running").before = lambda _: None


class Exporting:
    """The official SDK with one exporter; the results of its exports."""

    def __init__(self, exporter: SpanExporter) -> None:
        self.results: list[SpanExportResult] = []
        export = exporter.export

        def noted(batch: Any) -> SpanExportResult:
            self.results.append(export(batch))
            return self.results[-1]

        exporter.export = noted  # type: ignore[method-assign]  # to see what the processor throws away
        self._provider = TracerProvider(resource=Resource({"service.name": "official"}))
        self._provider.add_span_processor(SimpleSpanProcessor(exporter))

    def span(self) -> bytes:
        """Sends one span; its trace id."""
        with self._provider.get_tracer("interop").start_as_current_span("official", attributes={"k": [1, 2]}) as span:
            trace = span.get_span_context().trace_id.to_bytes(16, "big")
        self._provider.shutdown()
        return trace


def exporters(running: Running) -> dict[str, SpanExporter]:
    url = f"http://127.0.0.1:{running.http.address[1]}/v1/traces"
    grpc_at = f"127.0.0.1:{running.grpc.address[1]}"
    return {
        "grpc": GrpcExporter(endpoint=grpc_at, insecure=True), "http": HttpExporter(endpoint=url),
        "grpc gzip": GrpcExporter(endpoint=grpc_at, insecure=True, compression=grpc.Compression.Gzip),
        "http gzip": HttpExporter(endpoint=url, compression=Compression.Gzip),
    }


# --- 12, 13: retries --------------------------------------------------------------------------------------------------------


def test_12_overload_says_when_to_come_back(running: Running) -> None:
    """503 with Retry-After in whole seconds above zero; UNAVAILABLE with RetryInfo above zero."""
    def full(_: bytes) -> None:
        raise Overloaded("full", retry_after_s=2)

    running.before = full
    status, headers, _ = post(running.http.address, b"", PROTOBUF)
    assert (status, headers["retry-after"]) == (503, "2")
    with pytest.raises(grpc.RpcError) as caught:
        running.send(spans(new_trace(), "x"), "grpc")
    info = error_details_pb2.RetryInfo()
    status = status_pb2.Status.FromString(dict(caught.value.trailing_metadata())["grpc-status-details-bin"])
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert status.details[0].Unpack(info)
    assert info.retry_delay.seconds == 2


@pytest.mark.parametrize("which", ["grpc", "http"])
def test_12_an_official_exporter_comes_back_and_succeeds(running: Running, which: str) -> None:
    """Turned away twice, it sends again, and the span is stored once."""
    attempts: list[bytes] = []

    def full_at_first(payload: bytes) -> None:
        attempts.append(payload)
        if len(attempts) <= 1:
            raise Overloaded("full")

    running.before = full_at_first
    exporting = Exporting(exporters(running)[which])
    trace = exporting.span()
    assert (len(attempts), exporting.results) == (2, [SpanExportResult.SUCCESS])
    assert running.rows(trace, 1) == [("official",)]


def _kinds() -> list[type[errors.RequestError]]:
    found, todo = [], [errors.RequestError]
    while todo:
        kind = todo.pop()
        found.append(kind)
        todo += kind.__subclasses__()
    return [kind for kind in found if kind is not errors.Conflict]  # the UI's, never a receiver's


@pytest.mark.parametrize("kind", _kinds(), ids=lambda kind: kind.__name__)
def test_13_only_what_may_be_repeated_looks_so(kind: type[errors.RequestError]) -> None:
    """A refusal that says when to come back has a retryable code in both worlds; any other in neither."""
    error = kind("x")
    temporary = error.retry_after_s is not None
    assert (error.http in RETRYABLE_HTTP, error.grpc in RETRYABLE_GRPC) == (temporary, temporary)


@pytest.mark.parametrize("which", ["grpc", "http"])
def test_13_an_oversize_batch_does_not_loop(which: str, caplog: pytest.LogCaptureFixture) -> None:
    """An official exporter gives an oversize batch up; the collector is asked no more than the exporter's own few times."""
    submit = Recorder()
    taken: list[GrpcReceiver | HttpReceiver] = []
    exporter: SpanExporter
    if which == "grpc":
        grpc_receiver = GrpcReceiver(submit, "127.0.0.1", 0, body_bytes_max=50, threads=2)
        taken.append(grpc_receiver)
        exporter = GrpcExporter(endpoint=f"127.0.0.1:{grpc_receiver.address[1]}", insecure=True, timeout=2)
    else:
        http_receiver = HttpReceiver(submit, "127.0.0.1", 0, body_bytes_max=50, concurrency_max=8, threads=2)
        taken.append(http_receiver)
        exporter = HttpExporter(endpoint=f"http://127.0.0.1:{http_receiver.address[1]}/v1/traces", timeout=60)
    exporting = Exporting(exporter)
    with caplog.at_level(logging.WARNING):
        exporting.span()
    taken[0].close()
    assert exporting.results == [SpanExportResult.FAILURE]
    assert caplog.text.count("retrying") <= (2 if which == "grpc" else 0)
    assert submit.payloads == []


# --- 23: other people's senders ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["grpc", "grpc gzip", "http", "http gzip"])
def test_23_official_exporters(running: Running, which: str) -> None:
    """What OpenTelemetry's own SDK sends is stored as it was meant."""
    exporting = Exporting(exporters(running)[which])
    trace = exporting.span()
    assert exporting.results == [SpanExportResult.SUCCESS]
    assert running.rows(trace, 1, "SpanName, ServiceName, SpanAttributes['k'], ScopeName") == [
        ("official", "official", "[1,2]", "interop")]


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_23_rotel_forwards_to_us(running: Running, protocol: str) -> None:
    """Another collector in between: spans it takes arrive here."""
    found = importlib.util.find_spec("rotel")
    if found is None or found.origin is None:
        pytest.skip("rotel is not installed: pip install --pre rotel")
    rotel = str(Path(found.origin).with_name("rotel-agent"))
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        inlet, unused = one.getsockname()[1], other.getsockname()[1]
    address = (running.grpc if protocol == "grpc" else running.http).address
    process = subprocess.Popen(
        [rotel, "start", "--otlp-http-endpoint", f"127.0.0.1:{inlet}", "--otlp-grpc-endpoint", f"127.0.0.1:{unused}",
         "--otlp-exporter-endpoint", f"http://127.0.0.1:{address[1]}", "--otlp-exporter-protocol", protocol],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        trace = new_trace()
        body = spans(trace, "forwarded").SerializeToString()
        eventually(lambda: _taken(("127.0.0.1", inlet), body), 30)
        assert set(running.rows(trace, 1)) == {("forwarded",)}
    finally:
        process.terminate()
        process.wait(timeout=60)


def _taken(address: tuple[str, int], body: bytes) -> bool:
    try:
        return post(address, body, PROTOBUF)[0] == 200
    except OSError:
        return False


# --- 24: browsers -----------------------------------------------------------------------------------------------------------

PREFLIGHT = {"Origin": PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}


def allowing(origins: str, **more: Any) -> HttpReceiver:
    return HttpReceiver(Recorder(), "127.0.0.1", 0, body_bytes_max=1000, concurrency_max=8, threads=2, cors_origins=origins, **more)


def test_24_cors_is_off_by_default(running: Running) -> None:
    """A preflight is refused, and no answer lets a page read it."""
    status, headers, _ = post(running.http.address, b"", PREFLIGHT, method="OPTIONS")
    assert (status, [name for name in headers if name.startswith("access-control")]) == (405, [])
    _, headers, _ = post(running.http.address, b"", {**PROTOBUF, "Origin": PAGE})
    assert [name for name in headers if name.startswith("access-control")] == []


@pytest.mark.parametrize(("origins", "origin", "allowed"), [
    (PAGE, PAGE, PAGE), (f"https://other.example, {PAGE}/", PAGE, PAGE), ("*", PAGE, "*"), (PAGE, "https://evil.example", None),
    (PAGE, "null", None), (PAGE, PAGE + ".evil.example", None),
])
def test_24_cors_for_named_origins(origins: str, origin: str, allowed: str | None) -> None:
    """Preflight and answer name the origin; another gets neither; credentials are never allowed."""
    receiver = allowing(origins)
    try:
        status, preflight, _ = post(receiver.address, b"", {**PREFLIGHT, "Origin": origin}, method="OPTIONS")
        answered, headers, _ = post(receiver.address, b"", {**PROTOBUF, "Origin": origin})
        refused, error, _ = post(receiver.address, b"", {"Content-Type": "text/plain", "Origin": origin})
    finally:
        receiver.close()
    assert (status, answered, refused) == (204 if allowed else 405, 200, 415)
    assert {one.get("access-control-allow-origin") for one in (preflight, headers, error)} == {allowed}
    assert "access-control-allow-credentials" not in {*preflight, *headers}
    assert ("authorization" in preflight.get("access-control-allow-headers", "")) == bool(allowed)


@pytest.mark.parametrize("origins", ["app.example.com", "https://*.example.com", "javascript:alert(1)"])
def test_24_what_is_no_origin_is_an_error_at_start(origins: str) -> None:
    """Rather than a rule that never matches."""
    with pytest.raises(SettingsError, match="cors_origins"):
        allowing(origins)


def test_24_any_origin_and_keys_do_not_go_together() -> None:
    """A page anywhere must not be the one that carries a key."""
    with pytest.raises(SettingsError, match="name the origins"):
        allowing("*", authenticate=lambda *_: None)


# --- 25 to 28: connections and other signals --------------------------------------------------------------------------------


def test_25_a_connection_serves_many_requests(running: Running) -> None:
    """Keep-alive: with a length, chunked without one, and with an error in between."""
    trace = new_trace()
    first, second = (spans(trace, name).SerializeToString() for name in ("one", "two"))
    connection = http.client.HTTPConnection(*running.http.address, timeout=60)
    connection.connect()
    local = connection.sock.getsockname()
    for body, expected, chunked in ((first, 200, False), (b"junk", 400, False), (iter([second[:9], second[9:]]), 200, True)):
        connection.request("POST", "/v1/traces", body, PROTOBUF, encode_chunked=chunked)
        answer = connection.getresponse()
        answer.read()
        assert (answer.status, connection.sock.getsockname()) == (expected, local)
    connection.close()
    assert sorted(running.rows(trace, 2)) == [("one",), ("two",)]


def test_25_expect_100_continue(running: Running) -> None:
    """A sender that asks first is told to go on, then answered."""
    trace = new_trace()
    body = spans(trace, "asked").SerializeToString()
    with socket.create_connection(running.http.address, timeout=60) as raw:
        raw.sendall(HEAD + b"Connection: close\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
        assert raw.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        raw.sendall(body)
        assert until_closed(raw).startswith(b"HTTP/1.1 200")
    assert running.rows(trace, 1) == [("asked",)]


@pytest.mark.parametrize("media", [PROTOBUF, JSON])
def test_26_metrics_are_404_over_http(running: Running, media: dict[str, str]) -> None:
    """With a Status, not a failure."""
    status, headers, body = post(running.http.address, b"", media, path="/v1/metrics")
    assert (status, headers["content-type"]) == (404, media["Content-Type"])
    assert b"/v1/traces" in body


def test_26_metrics_are_unimplemented_over_grpc(running: Running) -> None:
    """With a Status too."""
    with pytest.raises(grpc.RpcError) as caught:
        MetricsServiceStub(running.channel).Export(ExportMetricsServiceRequest(), timeout=60)
    status = status_pb2.Status.FromString(dict(caught.value.trailing_metadata())["grpc-status-details-bin"])
    assert (caught.value.code(), status.code) == (grpc.StatusCode.UNIMPLEMENTED, 12)


@pytest.mark.parametrize("road", ["grpc", "http", "json"])
def test_26_logs_keep_evaluation_results(running: Running, road: str) -> None:
    """A record that carries one becomes a score; another is counted in partial_success of the logs' own response."""
    trace, name = new_trace(), f"score-{uuid.uuid4().hex}"
    now = time.time_ns()
    if road == "json":
        judged = {"traceId": trace.hex(), "spanId": "01" * 8, "timeUnixNano": str(now), "eventName": "gen_ai.evaluation.result",
                  "attributes": [{"key": "gen_ai.evaluation.name", "value": {"stringValue": name}},
                                 {"key": "gen_ai.evaluation.score.value", "value": {"doubleValue": 0.5}}]}
        records = [judged, {"eventName": "other"}]
        body = json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]}).encode()
        said = json.loads(post(running.http.address, body, JSON, path="/v1/logs")[2])["partialSuccess"]
        rejected, words = int(said["rejectedLogRecords"]), said["errorMessage"]
    else:
        message = ExportLogsServiceRequest()
        made = message.resource_logs.add().scope_logs.add().log_records
        made.add(trace_id=trace, span_id=b"\1" * 8, time_unix_nano=now, event_name="gen_ai.evaluation.result", attributes=[
            key_value("gen_ai.evaluation.name", name), key_value("gen_ai.evaluation.score.value", 0.5)])
        made.add(event_name="other")
        if road == "grpc":
            answer = LogsServiceStub(running.channel).Export(message, timeout=60)
        else:
            answer = ExportLogsServiceResponse.FromString(
                post(running.http.address, message.SerializeToString(), PROTOBUF, path="/v1/logs")[2])
        rejected, words = answer.partial_success.rejected_log_records, answer.partial_success.error_message
    assert rejected == 1
    assert "evaluation results" in words
    sql = "SELECT Value FROM otel.gen_ai_scores WHERE ScoreName = {name:String} AND TraceId = {id:String}"
    eventually(lambda: len(running.store.query(sql, {"name": name, "id": trace.hex()}).rows) == 1, 30)
    assert running.store.query(sql, {"name": name, "id": trace.hex()}).rows[0][0] == 0.5


def test_26_a_sent_score_is_shown_with_its_generation(running: Running) -> None:
    """Although its time is the record's, not the span's."""
    trace, span_id = new_trace(), uuid.uuid4().bytes[:8]
    message = spans(trace, "judged", start_time_unix_nano=time.time_ns())
    message.resource_spans[0].scope_spans[0].spans[0].span_id = span_id
    running.send(message, "grpc")
    logs = ExportLogsServiceRequest()
    logs.resource_logs.add().scope_logs.add().log_records.add(
        trace_id=trace, span_id=span_id, time_unix_nano=time.time_ns() + 5 * 10**9, event_name="gen_ai.evaluation.result",
        attributes=[key_value("gen_ai.evaluation.name", "Relevance"), key_value("gen_ai.evaluation.score.value", 0.5)])
    LogsServiceStub(running.channel).Export(logs, timeout=60)
    running.rows(trace, 1)
    eventually(lambda: not running.pipeline.status()[1]["waiting_requests"], 30)
    page = search.generation(running.store, span_id.hex())
    assert page is not None
    assert [(score["name"], score["value"]) for score in page["scores"]] == [("Relevance", 0.5)]


def test_27_calls_on_one_connection_overtake_each_other(running: Running) -> None:
    """A call that waits does not hold up the next on the same channel, and gets its own answer in the end."""
    slow, quick = new_trace(), new_trace()
    running.before = gate = Gate(b"held back")
    held = running.channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export").future(
        spans(slow, "held back").SerializeToString(), timeout=60)
    assert gate.reached.wait(60)
    running.send(spans(quick, "quick"), "grpc")
    assert not held.done()
    gate.open.set()
    assert held.result() == b""
    assert (running.rows(quick, 1), running.rows(slow, 1)) == ([("quick",)], [("held back",)])


@pytest.mark.parametrize("road", ["grpc", "http"])
def test_28_a_sender_gone_before_the_reply(running: Running, road: str) -> None:
    """What was taken is stored once; sent again, because its sender never heard, it is still stored once; no thread is left."""
    trace = new_trace()
    body = spans(trace, "impatient").SerializeToString()
    running.before = gate = Gate(b"impatient")
    if road == "http":
        with socket.create_connection(running.http.address, timeout=60) as raw:
            raw.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            assert gate.reached.wait(60)
    else:
        call = running.channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export").future(body, timeout=60)
        assert gate.reached.wait(60)
        call.cancel()
    threads = threading.active_count()
    gate.open.set()
    assert running.rows(trace, 1) == [("impatient",)]
    assert post(running.http.address, body, PROTOBUF)[0] == 200
    assert running.rows(trace, 1) == [("impatient",)]
    eventually(lambda: threading.active_count() <= threads + 2)  # pools fill up to their size, and no further
