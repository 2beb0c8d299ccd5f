"""Compiled code is ready before the first request: whatever a sender brings, nothing is compiled while it waits."""

from __future__ import annotations

import collections
from typing import Any

import pytest
from numba.core import event
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from cutaway_collector import decode, score
from cutaway_collector.blocks import concat_blocks
from cutaway_collector.decode import Limits
from cutaway_collector.errors import MalformedRequest
from cutaway_collector.store import native
from decode_fuzz_helpers import bases
from decode_helpers import RECEIVED_NS, a_span, key_value, request


class _Compilations(event.Listener):
    """Counts functions compiled, by name. What the cache on disk holds is loaded without one: a cold start tells the most."""

    def __init__(self) -> None:
        self.seen: collections.Counter[str] = collections.Counter()

    def on_start(self, event: Any) -> None:
        """A function begins to be compiled."""
        self.seen[event.data["dispatcher"].py_func.__name__] += 1

    def on_end(self, event: Any) -> None:
        """It is done."""


def _take(payload: bytes, encoding: Any) -> None:
    decoded = decode.decode(payload, encoding, received_ns=RECEIVED_NS, tenant="team")
    for block in (decoded.spans, decoded.tokens):
        if block.rows:
            native.encode(block)
            native.encode(concat_blocks([block, block]))


@pytest.fixture
def compilations() -> Any:
    decode.warm_up()
    native.warm_up()
    score.warm_up()
    listener = _Compilations()
    with event.install_listener("numba:compile", listener):
        yield listener.seen


def test_the_listener_sees_a_compilation(compilations: collections.Counter[str]) -> None:
    """The witness of the tests below notices a function that was not ready."""
    from numba import njit

    assert njit(lambda value: value + 1)(1) == 2
    assert compilations


@pytest.mark.parametrize("payload", [
    b"", *bases(), request(a_span()).SerializeToString(),
    request(a_span(attributes=[key_value("gen_ai.request.model", "long" * 1000), key_value("k", 1.5)])).SerializeToString()])
def test_no_request_waits_for_the_compiler(payload: bytes, compilations: collections.Counter[str]) -> None:
    """Protobuf with and without series, events, links, arrays of doubles and every kind of value is decoded by what is ready."""
    _take(payload, "protobuf")
    assert not compilations


def test_a_request_in_an_odd_layout_does_not_wait(compilations: collections.Counter[str]) -> None:
    """The road of messages in pieces, which the protobuf library lays out anew, needs nothing more."""
    whole = request(a_span(attributes=[key_value("a", 1)])).resource_spans[0]
    resource = ExportTraceServiceRequest()
    resource.resource_spans.add().resource.CopyFrom(whole.resource)
    spans = ExportTraceServiceRequest()
    spans.resource_spans.add().scope_spans.extend(whole.scope_spans)
    inner = spans.resource_spans[0].SerializeToString() + resource.resource_spans[0].SerializeToString() + b"\x0a\x00"
    _take(b"\x0a" + _varint(len(inner)) + inner, "protobuf")
    assert not compilations


def _varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + _varint(value >> 7)


@pytest.mark.parametrize("attributes", [
    [("gen_ai.system", "openai"), ("gen_ai.usage.prompt_tokens", 3)],
    [("llm.model_name", "m"), ("openinference.span.kind", "LLM"), ("llm.token_count.prompt", 5)],
    [("gen_ai.usage.input_tokens", "12"), ("gen_ai.request.model", "m")],
])
def test_no_dialect_waits_for_the_compiler(attributes: list[tuple[str, Any]], compilations: collections.Counter[str]) -> None:
    """Other tools' names, and numbers spelled as text, are read by what is ready."""
    _take(request(a_span(attributes=[key_value(*pair) for pair in attributes])).SerializeToString(), "protobuf")
    assert not compilations


def test_json_does_not_wait_for_the_compiler(compilations: collections.Counter[str]) -> None:
    """OTLP/JSON takes the road of protobuf."""
    _take(b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"' + b"01" * 16 + b'","spanId":"' + b"01" * 8
          + b'","name":"n","startTimeUnixNano":"1700000000000000000","attributes":[{"key":"d","value":{"arrayValue":{"values":'
          + b'[{"doubleValue":1.5},{"doubleValue":2}]}}}]}]}]}]}', "json")
    assert not compilations


def test_a_refusal_does_not_wait_for_the_compiler(compilations: collections.Counter[str]) -> None:
    """Bytes that are no request, and spans over a limit, are refused by what is ready."""
    with pytest.raises(MalformedRequest):
        _take(b"\xff\xff\xff", "protobuf")
    payload = request(a_span(attributes=[key_value("a", 1)] * 3)).SerializeToString()
    assert decode.decode(payload, "protobuf", received_ns=RECEIVED_NS, limits=Limits(attributes_max=2)).rejected == 1
    assert not compilations
