"""Metrics: names, units, buckets and values against the conventions' own tables; delivery to receivers that speak real OTLP."""

from __future__ import annotations

import logging
import math
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from typing import Any

import grpc
import numpy as np
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics

import cutaway
from cutaway import conventions as c
from cutaway import encode, metrics, settings
from cutaway.errors import ConfigurationError
from cutaway.testing import recorded, tiny_model
from sdk_helpers import batch

SECONDS = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
TOKENS = [1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864]
SERVER = {
    "gen_ai.server.request.duration": ("s", SECONDS),
    "gen_ai.server.time_per_output_token": ("s", [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5]),
    "gen_ai.server.time_to_first_token":
        ("s", [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0]),
}
RELEASED = {
    **SERVER,
    "gen_ai.client.token.usage": ("{token}", TOKENS),
    "gen_ai.client.operation.duration": ("s", SECONDS),
    "gen_ai.client.operation.time_to_first_chunk": ("s", SECONDS),
    "gen_ai.client.operation.time_per_output_chunk": ("s", SECONDS),
}
"""docs/gen-ai/gen-ai-metrics.md of v1.41.0: name -> unit, boundaries."""
LATEST = {
    **SERVER,
    "gen_ai.client.inference.duration": ("s", SECONDS),
    "gen_ai.client.inference.time_to_first_chunk": ("s", SECONDS),
    "gen_ai.client.inference.time_per_output_chunk": ("s", SECONDS),
    "gen_ai.client.inference.usage.input_tokens": ("{token}", None),
    "gen_ai.client.inference.usage.output_tokens": ("{token}", None),
    "gen_ai.client.inference.operation.input_tokens": ("{token}", TOKENS),
    "gen_ai.client.inference.operation.output_tokens": ("{token}", TOKENS),
}
"""docs/gen-ai/{client-inference,gen-ai-token-metrics}.md of the unreleased text; None: a counter."""
OURS = {"cutaway.output.perplexity": "1", "cutaway.output.surprisal": "{nat}", "cutaway.output.entropy": "{nat}",
        "cutaway.attention.entropy": "{nat}"}

CALL = {c.OPERATION_NAME: "chat", c.PROVIDER_NAME: "huggingface", c.REQUEST_MODEL: "owner/tiny", c.RESPONSE_MODEL: "owner/tiny"}
FELT = {c.OUTPUT_PERPLEXITY: 3.5, c.OUTPUT_SURPRISAL_MEAN: 1.25, c.OUTPUT_ENTROPY_MEAN: 2.75, c.ATTENTION_ENTROPY_MEAN: 1.5}
SPAN = {
    **CALL, **FELT, c.REQUEST_STREAM: True, c.USAGE_INPUT_TOKENS: 12, c.USAGE_OUTPUT_TOKENS: 4, c.TIME_TO_FIRST_TOKEN: 0.5,
    c.RESPONSE_TIME_TO_FIRST_CHUNK: 0.5, c.TIME_PER_OUTPUT_TOKEN: 0.25,
    c.TOKEN_INTER_TOKEN_TIME: encode.pack(np.array([0.5, 0.25, 0.0, 0.5], dtype=np.float32)),
    # what belongs to one call alone
    c.REQUEST_SEED: 7, c.CONVERSATION_ID: "abc", c.DECODING_MODE: "sample", c.MACHINE_CPU_TIME: 1.0, c.TOKEN_TEXT: ["a", "b"],
}
"""A streamed answer of four tokens; the second and third came in one step."""


class Read:
    """One meter whose data points can be looked at."""

    def __init__(self, latest: bool = False) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader], shutdown_on_exit=False)
        self.instruments = metrics.Instruments(self.provider.get_meter("cutaway"), latest)

    def found(self) -> dict[str, Any]:
        """Name -> metric, of everything recorded so far."""
        data = self.reader.get_metrics_data()
        if data is None:
            return {}
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics]
        return {metric.name: metric for scope in scopes for metric in scope.metrics}

    def points(self, name: str) -> list[Any]:
        """Data points of one metric; [] when nothing was recorded."""
        metric = self.found().get(name)
        return [] if metric is None else list(metric.data.data_points)


@pytest.mark.parametrize(("latest", "table"), [(False, RELEASED), (True, LATEST)], ids=["v1.41", "latest"])
def test_names_units_and_buckets_are_those_of_the_conventions(latest: bool, table: dict[str, Any]) -> None:
    """Every instrument of the table, none besides it and our own four."""
    read = Read(latest)
    read.instruments.record(SPAN, 1.5)
    found = read.found()

    assert set(found) == set(table) | set(OURS)
    assert {name: metric.unit for name, metric in found.items()} == {name: row[0] for name, row in table.items()} | OURS
    for name, (_, boundaries) in table.items():
        point = found[name].data.data_points[0]
        if boundaries is None:
            assert found[name].data.is_monotonic, name
        else:
            assert list(point.explicit_bounds) == boundaries, name


def test_the_released_names_are_those_of_the_published_package() -> None:
    """opentelemetry-semantic-conventions makes the same names and units."""
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader], shutdown_on_exit=False).get_meter("theirs")
    for name in RELEASED:
        getattr(gen_ai_metrics, f"create_{name.replace('.', '_')}")(meter).record(1)
    data = reader.get_metrics_data()
    assert data is not None
    theirs = {metric.name: metric.unit for metric in data.resource_metrics[0].scope_metrics[0].metrics}

    assert theirs == {name: unit for name, (unit, _) in RELEASED.items()}


@pytest.mark.parametrize("renamed", ["duration", "time_to_first_chunk", "time_per_output_chunk"])
def test_a_renamed_metric_keeps_all_but_its_name(renamed: str) -> None:
    """The migration guide: `gen_ai.client.operation.*` became `gen_ai.client.inference.*`, attributes unchanged."""
    old, new = Read(), Read(latest=True)
    for read in (old, new):
        read.instruments.record({**SPAN, c.ERROR_TYPE: "ValueError"}, 1.5)
    before, after = old.points(f"gen_ai.client.operation.{renamed}")[0], new.points(f"gen_ai.client.inference.{renamed}")[0]

    assert (before.sum, before.bucket_counts, before.attributes) == (after.sum, after.bucket_counts, after.attributes)
    assert new.points(f"gen_ai.client.operation.{renamed}") == old.points(f"gen_ai.client.inference.{renamed}") == []


def test_our_buckets_hold_the_whole_scale() -> None:
    """Bounds rise, begin under what a sure model gives and end above log of a vocabulary of 150 k (perplexity: the vocabulary)."""
    read = Read()
    read.instruments.record(SPAN, 1.0)
    for name in OURS:
        bounds = list(read.found()[name].data.data_points[0].explicit_bounds)
        assert bounds == sorted(set(bounds))
        assert bounds[-1] >= (150_000 if name.endswith("perplexity") else math.log(150_000))
        assert bounds[0] <= (1.1 if name.endswith("perplexity") else 0.25)


def test_values_are_the_spans() -> None:
    """Counts, sums and, for the tokens, one point a type."""
    read = Read()
    read.instruments.record(SPAN, 1.5)
    sums = {name: (metric.data.data_points[0].count, metric.data.data_points[0].sum) for name, metric in read.found().items()
            if name != "gen_ai.client.token.usage"}
    usage = {point.attributes["gen_ai.token.type"]: point.sum for point in read.points("gen_ai.client.token.usage")}

    assert usage == {"input": 12, "output": 4}
    assert sums == {
        "gen_ai.client.operation.duration": (1, 1.5), "gen_ai.server.request.duration": (1, 1.5),
        "gen_ai.server.time_to_first_token": (1, 0.5), "gen_ai.server.time_per_output_token": (1, 0.25),
        "gen_ai.client.operation.time_to_first_chunk": (1, 0.5),
        "gen_ai.client.operation.time_per_output_chunk": (2, 0.75),  # neither the first nor the one that came with another
        "cutaway.output.perplexity": (1, 3.5), "cutaway.output.surprisal": (1, 1.25), "cutaway.output.entropy": (1, 2.75),
        "cutaway.attention.entropy": (1, 1.5),
    }


def test_the_newer_counters_say_the_modality() -> None:
    """Counters have `gen_ai.token.modality`, the histograms beside them do not; two calls add up."""
    read = Read(latest=True)
    read.instruments.record(SPAN, 1.0)
    read.instruments.record(SPAN, 1.0)
    (used,) = read.points("gen_ai.client.inference.usage.input_tokens")
    (spread,) = read.points("gen_ai.client.inference.operation.output_tokens")

    assert (used.value, dict(used.attributes)) == (24, {**CALL, "gen_ai.token.modality": "text"})
    assert (spread.count, spread.sum, dict(spread.attributes)) == (2, 8, CALL)


def test_unknown_usage_is_zero_of_unknown_modality() -> None:
    """The newer text counts every call: without counts a 0 under `unknown`; the released text reports nothing."""
    new, old = Read(latest=True), Read()
    for read in (new, old):
        read.instruments.record({**CALL, c.ERROR_TYPE: "ValueError"}, 1.0)
    (used,) = new.points("gen_ai.client.inference.usage.output_tokens")
    (spread,) = new.points("gen_ai.client.inference.operation.output_tokens")

    assert (used.value, dict(used.attributes)) == (0, {**CALL, "gen_ai.token.modality": "unknown"})
    assert (spread.count, spread.sum, dict(spread.attributes)) == (1, 0, {**CALL, "error.type": "ValueError"})
    assert old.points("gen_ai.client.token.usage") == []


@pytest.mark.parametrize("latest", [False, True])
def test_nothing_of_a_single_call_is_an_attribute(latest: bool) -> None:
    """Only operation, provider, models, error and the two kinds of token."""
    read = Read(latest)
    read.instruments.record({**SPAN, c.ERROR_TYPE: "ValueError"}, 1.0)
    names = {name for metric in read.found().values() for point in metric.data.data_points for name in point.attributes}

    assert names <= {*CALL, "error.type", "gen_ai.token.type", "gen_ai.token.modality"}


def test_a_failed_call_has_its_error_and_no_server_times() -> None:
    """Durations say `error.type`; times to tokens are of successful responses only."""
    read = Read()
    read.instruments.record({**SPAN, c.ERROR_TYPE: "torch.OutOfMemoryError"}, 1.0)

    for name in ("gen_ai.client.operation.duration", "gen_ai.server.request.duration"):
        assert read.points(name)[0].attributes["error.type"] == "torch.OutOfMemoryError"
    assert read.points("gen_ai.server.time_to_first_token") == []
    assert read.points("gen_ai.server.time_per_output_token") == []


def test_an_attribute_without_a_value_is_absent() -> None:
    """None for the error is no error, and no label."""
    read = Read()
    read.instruments.record({**SPAN, c.ERROR_TYPE: None, c.RESPONSE_MODEL: None}, 1.0)

    assert len(read.points("gen_ai.server.time_to_first_token")) == 1
    assert set(read.points("gen_ai.client.operation.duration")[0].attributes) == set(CALL) - {c.RESPONSE_MODEL}


@pytest.mark.parametrize("latest", [False, True])
def test_chunks_are_of_streams_only(latest: bool) -> None:
    """The same call without a streamer has no chunk metrics; the token times of the server remain."""
    read = Read(latest)
    read.instruments.record({name: value for name, value in SPAN.items() if name != c.REQUEST_STREAM}, 1.0)

    assert not [name for name in read.found() if name.endswith("_chunk")]
    assert len(read.points("gen_ai.server.time_to_first_token")) == 1


def test_a_series_may_be_an_array() -> None:
    """Before it is packed, the same readings."""
    read = Read()
    read.instruments.record({**SPAN, c.TOKEN_INTER_TOKEN_TIME: np.array([0.5, 0.25, 0, 0.5], dtype=np.float32)}, 1.0)
    (point,) = read.points("gen_ai.client.operation.time_per_output_chunk")

    assert (point.count, point.sum) == (2, 0.75)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_what_is_not_finite_is_not_recorded(broken: float) -> None:
    """A NaN would spoil the sum of its histogram for good."""
    read = Read()
    read.instruments.record({**SPAN, c.OUTPUT_PERPLEXITY: broken,
                             c.TOKEN_INTER_TOKEN_TIME: encode.pack(np.array([1, broken, 2], dtype=np.float32))}, 1.0)

    assert read.points("cutaway.output.perplexity") == []
    assert read.points("gen_ai.client.operation.time_per_output_chunk")[0].sum == 2
    assert len(read.points("cutaway.output.surprisal")) == 1


def test_a_sampled_call_is_found_through_its_exemplar() -> None:
    """The bucket a call fell into keeps its trace id, when the context of its span is passed."""
    read = Read()
    span = trace.NonRecordingSpan(trace.SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=trace.TraceFlags(1)))
    read.instruments.record(SPAN, 1.0, trace.set_span_in_context(span))
    (exemplar,) = read.points("cutaway.output.perplexity")[0].exemplars

    assert (exemplar.trace_id, exemplar.span_id, exemplar.value) == (0xABC, 0xDEF, 3.5)


def test_without_a_provider_nothing_happens() -> None:
    """The global no-op of OpenTelemetry takes everything silently."""
    from opentelemetry.metrics import NoOpMeterProvider

    metrics.Instruments(NoOpMeterProvider().get_meter("cutaway"), False).record(SPAN, 1.0)


def test_a_generation_is_counted_with_the_figures_of_its_span() -> None:
    """`configure(meter_provider=...)`: two calls of a real model; sums are those of the two spans, which also have the CPU time."""
    reader = InMemoryMetricReader()
    read = Read()
    read.reader = reader
    model = tiny_model()
    with recorded(meter_provider=MeterProvider([reader], shutdown_on_exit=False)) as spans:
        for tokens in (3, 5):
            model.generate(batch(1)[0], max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
        cutaway.flush()
        found = read.found()
    ended = spans.get_finished_spans()
    attributes = [dict(span.attributes or {}) for span in ended]
    usage = {point.attributes["gen_ai.token.type"]: point.sum for point in found["gen_ai.client.token.usage"].data.data_points}
    (felt,) = found["cutaway.output.perplexity"].data.data_points
    (took,) = found["gen_ai.client.operation.duration"].data.data_points

    assert usage == {"input": sum(each[c.USAGE_INPUT_TOKENS] for each in attributes), "output": 8}
    assert (felt.count, felt.sum) == (2, pytest.approx(sum(each[c.OUTPUT_PERPLEXITY] for each in attributes)))
    assert took.sum == pytest.approx(sum((each.end_time or 0) - (each.start_time or 0) for each in ended) / 1e9)
    assert dict(took.attributes) == {name: attributes[0][name] for name in CALL if name in attributes[0]}
    assert all(0 < each[c.MACHINE_CPU_TIME] for each in attributes)


# --- a provider of our own ------------------------------------------------------------------------------------------------
RESOURCE = Resource({"service.name": "writer"})


@pytest.fixture
def http() -> Iterator[tuple[str, Queue[Any]]]:
    """(endpoint, queue of (path, headers, decoded request)) of an OTLP/HTTP receiver."""
    requests: Queue[Any] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            requests.put((self.path, dict(self.headers), metrics_service_pb2.ExportMetricsServiceRequest.FromString(body)))
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", requests
        server.shutdown()
        thread.join()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Callable[..., MeterProvider]:
    """Call it with settings and variables: records one call through a provider of our own, and ends that provider."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)

    def run(environ: dict[str, str] | None = None, **arguments: Any) -> MeterProvider:
        for name, value in (environ or {}).items():
            monkeypatch.setenv(name, value)
        made = metrics.provider(settings.load({"metrics_exporter": "otlp", **arguments}), RESOURCE)
        metrics.Instruments(made.get_meter("cutaway"), False).record(SPAN, 1.5)
        made.shutdown()
        return made
    return run


def check(request: Any) -> None:
    """One request with our resource and the duration of the recorded call."""
    (resource,) = request.resource_metrics
    assert {a.key: a.value.string_value for a in resource.resource.attributes} == {"service.name": "writer"}
    found = {metric.name: metric for scope in resource.scope_metrics for metric in scope.metrics}
    assert set(found) == set(RELEASED) | set(OURS)
    point = found["gen_ai.client.operation.duration"].histogram.data_points[0]
    assert (point.count, point.sum, list(point.explicit_bounds)) == (1, 1.5, SECONDS)


def test_metrics_go_where_spans_go(http: tuple[str, Queue[Any]], sent: Callable[..., MeterProvider]) -> None:
    """The configured endpoint with the path of metrics, and the configured headers; sent at the end of the provider."""
    endpoint, requests = http
    sent(endpoint=endpoint, headers={"X-Key": "secret"})
    path, headers, request = requests.get(timeout=30)

    assert path == "/v1/metrics"
    assert headers["x-key"] == "secret"
    check(request)


@pytest.mark.parametrize(("environ", "expected"), [
    ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "{}/own/path", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, "/own/path"),
    ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/x", "OTEL_EXPORTER_OTLP_ENDPOINT": "{}/base"}, "/base/v1/metrics"),
    ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "{}/v1/traces"}, "/v1/metrics"),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": "{}"}, "/v1/metrics"),
])
def test_the_variables_of_metrics_win(
    http: tuple[str, Queue[Any]], sent: Callable[..., MeterProvider], environ: dict[str, str], expected: str,
) -> None:
    """OTEL_EXPORTER_OTLP_METRICS_ENDPOINT as it is; the general one with the path added; that of traces without its path."""
    endpoint, requests = http
    sent({name: value.format(endpoint) for name, value in environ.items()})
    path, _, request = requests.get(timeout=30)

    assert path == expected
    check(request)


def test_grpc_is_spoken_where_it_is_asked_for(sent: Callable[..., MeterProvider]) -> None:
    """protocol="grpc": the metrics service of a real gRPC server gets the same request."""
    requests: Queue[Any] = Queue()

    class Service(metrics_service_pb2_grpc.MetricsServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:
            requests.put(request)
            return metrics_service_pb2.ExportMetricsServiceResponse()

    server = grpc.server(ThreadPoolExecutor(1))
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        sent(endpoint=f"http://127.0.0.1:{port}", protocol="grpc")
        check(requests.get(timeout=30))
    finally:
        server.stop(None).wait()


def test_an_outage_is_one_line(
    sent: Callable[..., MeterProvider], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody listens: however often it is tried, one warning of ours and none of the exporter's."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with caplog.at_level(logging.DEBUG):
        made = metrics.provider(settings.load({"metrics_exporter": "otlp", "endpoint": f"http://127.0.0.1:{port}",
                                               "timeout_seconds": 0.2}), RESOURCE)
        instruments = metrics.Instruments(made.get_meter("cutaway"), False)
        for _ in range(2):
            instruments.record(SPAN, 1.0)
            made.force_flush()
        made.shutdown()
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]

    assert [record.name for record in warnings] == ["cutaway"]
    assert "metrics cannot be delivered" in warnings[0].getMessage()


def test_a_program_ends_though_nobody_answers() -> None:
    """A collector takes the connection and is silent, the exporter would wait an hour: the program ends by itself, exit code 0."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        program = (
            "from cutaway import metrics, settings\nfrom opentelemetry.sdk.resources import Resource\n"
            f"chosen = settings.load(dict(metrics_exporter='otlp', endpoint='http://127.0.0.1:{mute.getsockname()[1]}',\n"
            "    timeout_seconds=3600, flush_seconds_max=1))\n"
            "made = metrics.provider(chosen, Resource({}))\n"
            "metrics.Instruments(made.get_meter('cutaway'), False).record({}, 1.0)\n"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240)

    (line,) = done.stderr.strip().splitlines()

    assert done.returncode == 0
    assert "metrics cannot be delivered (no answer in time)" in line


@pytest.mark.parametrize("seconds", [0, 1])
def test_a_flush_in_vain_ends_and_says_so(seconds: int) -> None:
    """Within the time it was given, whatever the exporter's own is: False, no exception."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        chosen = settings.load({"metrics_exporter": "otlp", "endpoint": f"http://127.0.0.1:{mute.getsockname()[1]}",
                                "timeout_seconds": 3600, "flush_seconds_max": 1})
        made = metrics.provider(chosen, RESOURCE)
        metrics.Instruments(made.get_meter("cutaway"), False).record(SPAN, 1.0)
        results: Queue[bool] = Queue()
        threading.Thread(target=lambda: results.put(made.force_flush(seconds * 1000)), daemon=True).start()
        assert results.get(timeout=60) is False
        made.shutdown()


def test_a_flush_that_arrives_says_so(http: tuple[str, Queue[Any]]) -> None:
    """True, and the request is there."""
    endpoint, requests = http
    made = metrics.provider(settings.load({"metrics_exporter": "otlp", "endpoint": endpoint}, {}), RESOURCE)
    metrics.Instruments(made.get_meter("cutaway"), False).record(SPAN, 1.5)

    assert made.force_flush() is True
    check(requests.get_nowait()[2])
    made.shutdown()


def test_console_prints_them() -> None:
    """OTEL_METRICS_EXPORTER=console: JSON on standard output when the program ends."""
    program = (
        "from cutaway import metrics, settings\nfrom opentelemetry.sdk.resources import Resource\n"
        "made = metrics.provider(settings.load({}), Resource({}))\n"
        "metrics.Instruments(made.get_meter('cutaway'), False).record({}, 1.0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240,
                          env={**os.environ, "OTEL_METRICS_EXPORTER": "console"})

    assert '"gen_ai.client.operation.duration"' in done.stdout


@pytest.mark.parametrize("chosen", ["none", "prometheus"])
def test_no_reader_unless_asked(chosen: str, sent: Callable[..., MeterProvider]) -> None:
    """`none`, the default, and `prometheus`, which is the program's own affair: no thread of OpenTelemetry begins."""
    before = set(threading.enumerate())
    sent({"OTEL_METRICS_EXPORTER": chosen}, metrics_exporter=None)

    assert set(threading.enumerate()) <= before
    assert settings.Settings().metrics_exporter == "none"


@pytest.mark.parametrize(("environ", "arguments", "said"), [
    ({}, {"metrics_exporter": "statsd"}, "metrics_exporter is one of 'none', 'otlp', 'console', 'prometheus'; it is 'statsd'"),
    ({"OTEL_METRIC_EXPORT_INTERVAL": "0"}, {}, "OpenTelemetry refuses one of its OTEL_* variables"),
])
def test_wrong_settings_are_explained(
    sent: Callable[..., MeterProvider], environ: dict[str, str], arguments: dict[str, str], said: str,
) -> None:
    """A ConfigurationError with rule, value and remedy."""
    with pytest.raises(ConfigurationError, match=r"leave it out|unset it") as caught:
        sent(environ, **arguments)
    assert said in str(caught.value)


FORKING = """
import os, signal
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from cutaway.metrics.sending import _Exporter

made = []
class Kept(MetricExporter):
    def export(self, data, timeout_millis=0, **more): return MetricExportResult.SUCCESS
    def force_flush(self, timeout_millis=0): return True
    def shutdown(self, timeout_millis=0, **more): made.append("closed")

def make():
    made.append(os.getpid())
    return Kept()

exporter = _Exporter(make)
for exports in (0, 1):
    pid = os.fork()
    if not pid:
        signal.alarm(30)
        for _ in range(2 * exports):
            exporter.export(MetricsData([]))
        exporter.shutdown()
        expected = [os.getppid(), os.getpid(), "closed"] if exports else [os.getppid()]
        os._exit(0 if made == expected else 3)
    print(os.waitpid(pid, 0)[1], flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_has_an_exporter_of_its_own() -> None:
    """Made at its first export; one that never exports leaves the parent's connection alone."""
    done = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, text=True, timeout=240)

    assert done.stdout.split() == ["0", "0"], done.stderr
