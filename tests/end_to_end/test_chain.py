"""From a real generation, and from any OTLP sender, to a row found by search: real processes, real sockets, real engine."""

from __future__ import annotations

import http.client
import json
import secrets
import time
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

from serving import Serving
from store_helpers import wait_until

SEARCH_SECONDS_MAX = 2.0
"""The promise: found within two seconds of the flush."""


def _found(serving: Serving, q: str, count: int) -> list[dict[str, Any]]:
    deadline = time.monotonic() + SEARCH_SECONDS_MAX
    while True:
        rows: list[dict[str, Any]] = serving.json("/search.json", q=q, limit="100")["rows"]
        if len(rows) >= count or time.monotonic() > deadline:
            return rows
        time.sleep(0.02)


def _exporter(kind: str, serving: Serving) -> SpanExporter:
    if kind == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        return GrpcExporter(endpoint=serving.addresses["otlp_grpc"], insecure=True)
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

    return HttpExporter(endpoint=f"http://{serving.addresses['otlp_http']}/v1/traces",
                        compression=Compression.Gzip if kind == "http+gzip" else Compression.NoCompression)


@pytest.mark.parametrize("kind", ["grpc", "http", "http+gzip"])
def test_the_official_exporters_arrive_once(serving: Serving, kind: str) -> None:
    """Spans of the official exporters are stored once and found within two seconds of the flush."""
    marker = f"m{secrets.token_hex(6)}"
    provider = TracerProvider(resource=Resource.create({"service.name": "official"}))
    provider.add_span_processor(BatchSpanProcessor(_exporter(kind, serving)))
    tracer = provider.get_tracer("t")
    with tracer.start_as_current_span("parent", attributes={"marker": marker, "n": 3, "ok": True, "xs": ["a", "b"]}) as parent:
        parent.add_event("thought", {"depth": 2})
        for index in range(9):
            with tracer.start_as_current_span(f"child {index}", attributes={"marker": marker}):
                pass
    assert provider.force_flush()
    rows = _found(serving, f"marker:{marker}", 10)
    assert len({row["span_id"] for row in rows}) == len(rows) == 10
    trace = serving.json(f"/trace/{rows[0]['trace_id']}.json")
    root = next(span for span in trace["spans"] if span["name"] == "parent")
    assert root["attributes"] == {"marker": marker, "n": "3", "ok": "true", "xs": '["a","b"]'}
    assert [(event["name"], event["attributes"]) for event in root["events"]] == [("thought", {"depth": "2"})]
    assert {span["parent_span_id"] for span in trace["spans"] if span is not root} == {root["span_id"]}
    provider.shutdown()


def test_hand_made_json_arrives(serving: Serving) -> None:
    """OTLP/JSON written by hand is stored and found."""
    marker = f"m{secrets.token_hex(6)}"
    now = time.time_ns()
    body = {"resourceSpans": [{
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "by-hand"}}]},
        "scopeSpans": [{"scope": {"name": "hand"}, "spans": [{
            "traceId": secrets.token_hex(16).upper(), "spanId": secrets.token_hex(8), "name": "written", "kind": 2,
            "startTimeUnixNano": str(now), "endTimeUnixNano": str(now + 5_000_000), "status": {"code": 2, "message": "no"},
            "attributes": [{"key": "marker", "value": {"stringValue": marker}},
                           {"key": "gen_ai.usage.output_tokens", "value": {"intValue": "12"}}],
        }]}],
    }]}
    connection = http.client.HTTPConnection(serving.addresses["otlp_http"], timeout=10)
    connection.request("POST", "/v1/traces", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b"{}")
    connection.close()
    (row,) = _found(serving, f"marker:{marker}", 1)
    assert (row["service"], row["status"], row["duration_ns"], row["output_tokens"]) == ("by-hand", "Error", 5_000_000, 12)


def test_malformed_requests_harm_no_other(serving: Serving) -> None:
    """Junk gets 400 with a reason; the process stays ready."""
    connection = http.client.HTTPConnection(serving.addresses["otlp_http"], timeout=10)
    for body, media in ((b"\x0a\xff\xff\xff\xff\x0f", "application/x-protobuf"), (b'{"resourceSpans": 7}', "application/json"),
                        (b"{", "application/json")):
        connection.request("POST", "/v1/traces", body, {"Content-Type": media})
        answer = connection.getresponse()
        text = answer.read()
        assert (answer.status, bool(text)) == (400, True)
    connection.close()
    assert serving.json("/readyz")["ready"] is True


def test_metrics_count_what_was_stored(serving: Serving) -> None:
    """/metrics is Prometheus text and its stored spans grow with what arrives."""
    def stored() -> float:
        lines = [line for line in serving.text("/metrics").splitlines() if line.startswith("cutaway_spans_stored_total")]
        return float(lines[0].split()[-1]) if lines else 0.0

    before = stored()
    test_hand_made_json_arrives(serving)
    wait_until(lambda: stored() > before)  # a row can be found a moment before it is counted
    assert stored() == before + 1


def test_a_second_process_on_the_directory_is_told(serving: Serving) -> None:
    """One process owns a data directory; a second one exits with a sentence that names the remedy."""
    second = serving.run("serve", "--data", str(serving.data), "--otlp-grpc", "127.0.0.1:0", "--otlp-http", "127.0.0.1:0",
                         "--ui", "127.0.0.1:0")
    assert second.returncode == 1
    assert "in use by another cutaway process" in second.stderr
    assert second.stdout == ""


def test_sigterm_drains_and_a_restart_still_has_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What was acknowledged before SIGTERM is found, once, after a restart."""
    data = tmp_path_factory.mktemp("drain") / "data"
    with Serving(data) as first:
        assert first.run("load", "--endpoint", first.addresses["otlp_grpc"], "--spans", "500", "--batch", "100").returncode == 0
        first.stop()
    with Serving(data) as again:
        assert len(_all_span_ids(again)) == 500


def _all_span_ids(serving: Serving) -> set[str]:
    seen: list[str] = []
    after = ""
    while True:
        page = serving.json("/search.json", limit="200", after=after)
        seen += [row["span_id"] for row in page["rows"]]
        after = page["next"] or ""
        if not after:
            break
    assert len(seen) == len(set(seen))
    return set(seen)
