"""Delivery: both protocols with the official exporters, and an absent collector that nobody notices but one log line."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import pytest
from opentelemetry import trace as otel
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceServicer, add_TraceServiceServicer_to_server
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

import cutaway
from cutaway import conventions as c
from cutaway.testing import pack, tiny_model, unpack
from sdk_helpers import batch


class Received:
    """What a receiver got: requests, their sizes and headers."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.headers: list[dict[str, str]] = []

    @property
    def spans(self) -> list[Any]:
        return [span for request in self.requests for rs in request.resource_spans for ss in rs.scope_spans for span in ss.spans]


Receiver = tuple[str, Received, Callable[[], None]]


@pytest.fixture
def http() -> Iterator[Receiver]:
    """A receiver of OTLP/HTTP on a free port: (endpoint, what arrived, kill)."""
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/traces":
                received.requests.append(ExportTraceServiceRequest.FromString(body))
                received.headers.append({key.lower(): value for key, value in self.headers.items()})
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def kill() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    yield f"http://127.0.0.1:{server.server_port}", received, kill
    kill()


class Service(TraceServiceServicer):  # type: ignore[misc]
    """A receiver of OTLP/gRPC."""

    def __init__(self, received: Received) -> None:
        self._received = received

    def Export(self, request: Any, context: Any) -> Any:
        self._received.requests.append(request)
        self._received.headers.append(dict(context.invocation_metadata()))
        return ExportTraceServiceResponse()


@pytest.fixture
def grpc_server() -> Iterator[Receiver]:
    """(endpoint, what arrived, kill)."""
    received = Received()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    add_TraceServiceServicer_to_server(Service(received), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"http://127.0.0.1:{port}", received, lambda: server.stop(None).wait()
    server.stop(None).wait()


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    yield
    cutaway.uninstrument()
    cutaway.shutdown()


class Recording(SpanExporter):
    """An exporter that keeps batches, fails or hangs as told."""

    def __init__(self, result: SpanExportResult = SpanExportResult.SUCCESS, gate: threading.Event | None = None) -> None:
        self.batches: list[list[str]] = []
        self.result = result
        self._gate = gate

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self._gate is not None:
            self._gate.wait(30)
        self.batches.append([span.name for span in spans])
        return self.result

    def shutdown(self) -> None:
        if self._gate is not None:
            self._gate.set()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What a program's log would show at its usual level."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_generation_arrives_by_http(http: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Endpoint and headers from the standard variables; the series arrive as bytes that unpack to the token counts."""
    endpoint, received, _ = http
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=blue")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "writer")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    cutaway.instrument()
    with cutaway.span("request"):
        tiny_model().generate(batch(1)[0], max_new_tokens=6, min_new_tokens=6, do_sample=False)
    assert cutaway.flush()

    by_name = {span.name: span for span in received.spans}
    generated = by_name["text_completion tiny-llama"]
    attributes = {item.key: item.value for item in generated.attributes}
    resource = {item.key: item.value.string_value for item in received.requests[0].resource_spans[0].resource.attributes}
    assert generated.parent_span_id == by_name["request"].span_id
    assert len(unpack(attributes[c.TOKEN_SURPRISAL].bytes_value)) == attributes[c.USAGE_OUTPUT_TOKENS].int_value == 6
    assert (resource["service.name"], resource["deployment.environment.name"]) == ("writer", "test")
    assert received.headers[0]["x-team"] == "blue"


def test_a_span_arrives_by_grpc(grpc_server: Receiver) -> None:
    """Protocol grpc, headers and resource from `configure`."""
    endpoint, received, _ = grpc_server
    cutaway.configure(endpoint=endpoint, protocol="grpc", headers={"X-Team": "red,blue=1"}, resource_attributes={"zone": "a"})
    with cutaway.span("hello", {"answer": 42}):
        pass
    assert cutaway.flush()

    assert [span.name for span in received.spans] == ["hello"]
    assert received.headers[0]["x-team"] == "red,blue=1"
    assert {"zone"} <= {item.key for item in received.requests[0].resource_spans[0].resource.attributes}


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_killed_collector_costs_one_line(
    grpc_server: Receiver, http: Receiver, protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The collector dies between generations: they go on, nothing is raised, and the whole outage is one warning."""
    model, ids = tiny_model(), batch(1)[0]
    endpoint, received, kill = grpc_server if protocol == "grpc" else http
    cutaway.configure(endpoint=endpoint, protocol=protocol, timeout_seconds=1, flush_seconds_max=5)
    cutaway.instrument()
    model.generate(ids, max_new_tokens=3, do_sample=False)
    assert cutaway.flush()
    kill()
    caplog.clear()
    for _ in range(3):
        out = model.generate(ids, max_new_tokens=3, do_sample=False)
        cutaway.flush()

    assert len(received.spans) == 1
    assert out.shape == (1, 12)
    assert len(lines(caplog)) == 1
    assert "cannot be delivered" in lines(caplog)[0]


def test_a_program_ends_quietly_while_its_collector_is_away() -> None:
    """A whole process with nobody listening: exit code 0 and one line on stderr."""
    program = (
        "import cutaway\n"
        "cutaway.configure(endpoint='http://127.0.0.1:9', timeout_seconds=1, flush_seconds_max=2)\n"
        "for i in range(20):\n    with cutaway.span('x'):\n        pass\n    i % 10 or cutaway.flush(0.1)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240)

    assert done.returncode == 0
    assert len(done.stderr.strip().splitlines()) == 1
    assert "cannot be delivered" in done.stderr


def test_the_end_of_an_outage_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    """After a failure the next success is told once, at level INFO, and a later outage is told again."""
    caplog.set_level(logging.INFO, "cutaway")
    exporter = Recording(SpanExportResult.FAILURE)
    cutaway.configure(exporter=exporter)
    told = []
    for result in (SpanExportResult.FAILURE, SpanExportResult.SUCCESS, SpanExportResult.FAILURE):
        exporter.result = result
        with cutaway.span("x"):
            pass
        told.append(cutaway.flush())

    assert told == [False, True, False]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "WARNING"]


def test_flush_and_shutdown_wait_no_longer_than_allowed() -> None:
    """An exporter that hangs: flush gives up after its limit, shutdown too, and the program can end."""
    gate = threading.Event()
    cutaway.configure(exporter=Recording(gate=gate), flush_seconds_max=1)
    with cutaway.span("x"):
        pass
    begin = time.monotonic()
    assert cutaway.flush(0.2) is False
    cutaway.shutdown()

    assert time.monotonic() - begin < 20  # generous: the hang itself would be 30 seconds


def test_the_queue_is_bounded_and_drops_the_oldest() -> None:
    """While the exporter hangs, at most `queue_spans_max` spans wait; the newest survive."""
    gate = threading.Event()
    exporter = Recording(gate=gate)
    cutaway.configure(exporter=exporter, queue_spans_max=5, batch_spans_max=1, delay_ms=0)
    for i in range(50):
        with cutaway.span(f"s{i}"):
            pass
    gate.set()
    cutaway.flush()
    sent = [name for names in exporter.batches for name in names]

    assert sent[-5:] == [f"s{i}" for i in range(45, 50)]
    assert len(sent) <= 7


def test_requests_stay_under_their_size() -> None:
    """Spans with large series are cut into requests under `request_bytes_max`, none is lost."""
    import numpy as np

    exporter = Recording()
    cutaway.configure(exporter=exporter, request_bytes_max=250_000, delay_ms=60_000)
    large = pack(np.zeros(25_000, dtype=np.float32))
    for i in range(10):
        with cutaway.span(f"s{i}", {"series": large}):
            pass
    assert cutaway.flush()

    assert [name for names in exporter.batches for name in names] == [f"s{i}" for i in range(10)]
    assert max(map(len, exporter.batches)) == 2


def test_other_exporters_keep_their_voice(caplog: pytest.LogCaptureFixture) -> None:
    """The exporter's logger is silent only while it works for us: the host's own exporter is still heard."""
    cutaway.configure(exporter=Recording())
    logging.getLogger("opentelemetry.exporter.otlp.proto.grpc.exporter").error("the host's own exporter failed")

    assert lines(caplog) == ["the host's own exporter failed"]


def test_disabled_means_no_span(monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_SDK_DISABLED=true: generation works, no span is made."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    exporter = Recording()
    cutaway.configure(exporter=exporter)
    cutaway.instrument()
    with cutaway.span("x") as span:
        tiny_model().generate(batch(1)[0], max_new_tokens=3, do_sample=False)

    assert not span.is_recording()
    assert cutaway.flush()
    assert exporter.batches == []


def test_the_global_provider_is_never_ours() -> None:
    """Configuring and tracing leave OpenTelemetry's global provider as it was."""
    before = otel.get_tracer_provider()
    cutaway.configure(exporter=Recording())
    with cutaway.span("x"):
        pass

    assert otel.get_tracer_provider() is before


@pytest.mark.slow
def test_console_prints_spans() -> None:
    """OTEL_TRACES_EXPORTER=console: every span as JSON on standard output, packed series as their size."""
    program = (
        "import cutaway, torch\nfrom cutaway.testing import tiny_model\n"
        "cutaway.instrument()\n"
        "tiny_model().generate(torch.tensor([[5, 6, 7]]), max_new_tokens=4, min_new_tokens=4)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240,
                          env={**os.environ, "OTEL_TRACES_EXPORTER": "console"})
    told = json.loads(done.stdout)

    assert told["attributes"][c.USAGE_OUTPUT_TOKENS] == 4
    assert told["attributes"][c.TOKEN_SURPRISAL] == f"<{c.SERIES_HEADER.size + 16} bytes>"
    assert "cannot be delivered" not in done.stderr
