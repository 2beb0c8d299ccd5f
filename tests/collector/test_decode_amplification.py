"""Requests of a few kilobytes, compressed, that would become gigabytes or minutes: refused before anything is made of them."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from cutaway_collector import amplification, decode
from cutaway_collector.contracts import Encoding
from cutaway_collector.errors import TooLarge
from receive_helpers import request

MIB = 1024 * 1024


def _field(number: int, content: bytes) -> bytes:
    length, out = len(content), bytearray([number << 3 | 2])
    while length > 127:
        out.append(length & 127 | 128)
        length >>= 7
    out.append(length)
    return bytes(out) + content


def _irregular() -> bytes:
    """A resource behind its spans: sound, and only the protobuf library can read it."""
    spans = request().resource_spans[0].scope_spans[0].SerializeToString()
    return _field(1, _field(2, spans) + _field(1, b""))


SPAN = request().SerializeToString()
FLOODS: dict[str, tuple[Encoding, Callable[[], bytes]]] = {
    "resources": ("protobuf", lambda: SPAN + b"\x0a\x00" * 10_000_000),
    "scopes": ("protobuf", lambda: SPAN + _field(1, b"\x12\x00" * 10_000_000)),
    "irregular": ("protobuf", lambda: _irregular() + _field(1, _field(2, b"\x12\x00" * 10_000_000))),
    "log records": ("logs/protobuf", lambda: _field(1, _field(2, b"\x12\x00" * 200_000))),
    "log scopes": ("logs/protobuf", lambda: _field(1, b"\x12\x00" * 200_000)),
    "log resources": ("logs/protobuf", lambda: b"\x0a\x00" * 200_000),
    "many logs": ("logs/protobuf", lambda: _field(1, _field(2, b"\x12\x00" * 10_000_000))),
    "json objects": ("json", lambda: b'{"resourceSpans":[{"scopeSpans":[{"spans":[' + b"{}," * 2_000_000 + b"{}]}]}]}"),
    "json arrays": ("json", lambda: b'{"x":[' + b"[]," * 2_000_000 + b"[]]}"),
    "json values": ("json", lambda: b'{"x":[' + b"1," * 12_000_000 + b"1]}"),
    "json logs": ("logs/json", lambda: b'{"resourceLogs":[' + b"{}," * 2_000_000 + b"{}]}"),
    "json scores": ("scores/json", lambda: b'{"scores":[' + b"{}," * 2_000_000 + b"{}]}"),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_of_empty_parts_is_refused_before_it_is_made(name: str) -> None:
    """Two or three bytes stand for each part: TooLarge, with the limit, and with no more memory than a few times the request."""
    encoding, make = FLOODS[name]
    payload = make()
    decode.warm_up()
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge, match=r"may (hold|have) \d+ .*(send fewer at once)"):
            decode.decode(payload, encoding, received_ns=1_790_000_000_000_000_000)
        assert tracemalloc.get_traced_memory()[1] < 5 * len(payload) + 32 * MIB
    finally:
        tracemalloc.stop()


def test_what_senders_send_is_far_from_the_limits() -> None:
    """Ten thousand resources of a span each, and the same out of order, are taken."""
    spans = ExportTraceServiceRequest()
    for _ in range(10_000):
        spans.resource_spans.append(request().resource_spans[0])
    assert decode.decode(spans.SerializeToString(), "protobuf", received_ns=0).spans.rows == 10_000
    assert decode.decode(_irregular() * 10_000, "protobuf", received_ns=0).spans.rows == 10_000
    assert amplification.PARSED_BYTES_MAX > 10_000 * len(_irregular())
