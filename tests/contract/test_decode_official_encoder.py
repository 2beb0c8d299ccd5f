"""What the official OpenTelemetry SDK encodes, we decode: spans made by its tracer, bytes by its OTLP encoder."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from cutaway import conventions
from cutaway_collector import columns, decode
from decode_helpers import RECEIVED_NS, expected, rows


@pytest.fixture(scope="module")
def exported() -> Any:
    """Three spans of two scopes, with everything the SDK can put on a span."""
    memory = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource.create({"service.name": "writer", "host.cpus": 4, "zones": ["a", "b"]}))
    provider.add_span_processor(SimpleSpanProcessor(memory))
    tracer = provider.get_tracer("cutaway", "0.1.0", schema_url=conventions.SCHEMA_URL, attributes={"scope": "attribute"})
    with tracer.start_as_current_span("answer", kind=SpanKind.SERVER) as parent:
        link = Link(parent.get_span_context(), {"why": "retry"})
        with tracer.start_as_current_span("chat m", kind=SpanKind.CLIENT, links=[link]) as span:
            span.set_attributes({
                conventions.OPERATION_NAME: "chat", conventions.REQUEST_MODEL: "m", conventions.USAGE_INPUT_TOKENS: 11,
                conventions.USAGE_OUTPUT_TOKENS: 2, conventions.OUTPUT_PERPLEXITY: 1.75,
                conventions.RESPONSE_FINISH_REASONS: ["stop"],
                conventions.TOKEN_TEXT: ["Hel", "lo"], conventions.SEQUENCE_OUTPUT_TOKENS: [2],
                conventions.SEQUENCE_INPUT_TOKENS: [11],
                conventions.TOKEN_SURPRISAL: conventions.SERIES_HEADER.pack(1, 1, 0, 2, 1, 1) + b"\0\0\0\x3f\0\0\x80\x3f",
            })
            span.add_event("first token", {"index": 0, "late": False})
            span.set_status(Status(StatusCode.ERROR, "too hot"))
        with provider.get_tracer("other").start_as_current_span("plain"):
            pass
    provider.shutdown()
    return memory.get_finished_spans()


def test_rows_equal_the_protobuf_library(exported: Any) -> None:
    """The encoder's bytes become the rows a plain reading of them gives."""
    payload = encode_spans(exported).SerializeToString()
    decoded = decode.decode_protobuf(payload, received_ns=RECEIVED_NS)
    names = [*(column.name for column in columns.UPSTREAM_COLUMNS), "SpanNumbers"]
    assert [{name: row[name] for name in names} for row in rows(decoded.spans)] == expected(payload)
    assert (decoded.spans.rows, decoded.rejected, decoded.message) == (3, 0, "")


def test_a_generation_arrives_with_its_signals(exported: Any) -> None:
    """From `set_attribute` in a program to lifted columns and token rows."""
    decoded = decode.decode_protobuf(encode_spans(exported).SerializeToString(), received_ns=RECEIVED_NS)
    by_name = {row["SpanName"]: row for row in rows(decoded.spans)}
    row, parent = by_name[b"chat m"], by_name[b"answer"]
    assert (row["ParentSpanId"], row["TraceId"]) == (parent["SpanId"], parent["TraceId"])
    assert (row["SpanKind"], row["StatusCode"], row["StatusMessage"]) == (b"Client", b"Error", b"too hot")
    assert (row["GenAiOperation"], row["InputTokens"], row["Perplexity"]) == (b"chat", 11, 1.75)
    assert row["Links.Attributes"] == [[(b"why", b"retry")]]
    assert row["Events.Attributes"] == [[(b"index", b"0"), (b"late", b"false")]]
    (tokens,) = rows(decoded.tokens)
    assert (tokens["SpanId"], tokens["InputTokens"], tokens["OutputTokens"]) == (row["SpanId"], 11, 2)
    assert (tokens["Surprisals"], tokens["TokenTexts"]) == ([0.5, 1.0], [b"Hel", b"lo"])
