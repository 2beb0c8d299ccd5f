"""A collector with all that is behind the receivers, for the tests of OTLP conformance: pipeline and chDB too, in this process.

`Running.send` takes one of ROADS, so that a test can be told for every transport, encoding and compression. Test traces have ids of
their own (`new_trace`), so that tests share the collector and not their spans.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from backports import zstd
from google.protobuf.json_format import MessageToDict, Parse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from cutaway_collector import decode
from cutaway_collector.contracts import Encoding, Receipt
from cutaway_collector.pipeline import Pipeline
from cutaway_collector.receive import GrpcReceiver, HttpReceiver
from cutaway_collector.settings import Settings
from cutaway_collector.spool import Spool
from cutaway_collector.store import open_store
from decode_helpers import a_span, key_value, request
from receive_helpers import JSON, PROTOBUF, eventually, post

ROADS = ("grpc", "grpc gzip", "http", "http gzip", "http zstd", "json", "json gzip", "json zstd")
_IDS = ("traceId", "spanId", "parentSpanId")
_PACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstd.compress}


class Running:
    """The parts a test may touch. `before` is called with each payload before it is kept; it may raise or wait."""

    def __init__(self, pipeline: Pipeline, store: Any) -> None:
        self.before: Callable[[bytes], None] = lambda _: None
        self.pipeline, self.store = pipeline, store
        limit = Settings(data="unused").request_bytes_max
        self.http = HttpReceiver(self.submit, "127.0.0.1", 0, body_bytes_max=limit, concurrency_max=64, threads=4)
        self.grpc = GrpcReceiver(self.submit, "127.0.0.1", 0, body_bytes_max=limit, threads=4)
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.grpc.address[1]}", [("grpc.max_send_message_length", -1)])

    def submit(self, payload: bytes, encoding: Encoding, tenant: str = "") -> Receipt:
        self.before(payload)
        return self.pipeline.submit(payload, encoding, tenant)

    def close(self) -> None:
        self.channel.close()
        self.grpc.close()
        self.http.close()

    def send(self, message: ExportTraceServiceRequest, road: str) -> ExportTraceServiceResponse:
        """Sends, and checks that it was taken."""
        transport, _, packing = road.partition(" ")
        if transport == "grpc":
            compression = grpc.Compression.Gzip if packing else grpc.Compression.NoCompression
            answer = TraceServiceStub(self.channel).Export(message, timeout=60, compression=compression)
            assert isinstance(answer, ExportTraceServiceResponse)
            return answer
        headers = dict(JSON if transport == "json" else PROTOBUF)
        body = json.dumps(otlp_json(message)).encode() if transport == "json" else message.SerializeToString()
        if packing:
            headers["Content-Encoding"], body = packing, _PACK[packing](body)
        status, answered, said = post(self.http.address, body, headers)
        assert (status, answered["content-type"]) == (200, headers["Content-Type"]), said
        parsed = Parse(said, ExportTraceServiceResponse()) if transport == "json" else ExportTraceServiceResponse.FromString(said)
        assert isinstance(parsed, ExportTraceServiceResponse)
        return parsed

    def rows(self, trace: bytes, count: int, columns: str = "SpanName") -> list[tuple[Any, ...]]:
        """Rows of a trace, once at least `count` are stored and nothing waits any more, in the order of their span ids."""
        eventually(lambda: self.count(trace) >= count and not self.pipeline.status()[1]["waiting_requests"], 30)
        answer = self.store.query(f"SELECT {columns} FROM otel.otel_traces WHERE TraceId = {{id:String}} ORDER BY SpanId, SpanName",
                                  {"id": trace.hex()})
        return [tuple(row) for row in answer.rows]

    def count(self, trace: bytes) -> int:
        found = self.store.query("SELECT count() FROM otel.otel_traces WHERE TraceId = {id:String}", {"id": trace.hex()})
        return int(found.rows[0][0])


@contextmanager
def collector(folder: Path) -> Iterator[Running]:
    """Started, and stopped with everything stored."""
    decode.warm_up()
    settings = Settings(data=str(folder), batch_age_ms_max=20)
    store = open_store(settings)
    spool = Spool.of(settings)
    pipeline = Pipeline(store, spool, settings)
    running = Running(pipeline, store)
    try:
        yield running
    finally:
        running.close()
        pipeline.close(20)
        spool.close()
        store.close()


def new_trace() -> bytes:
    """An id no other test has."""
    return os.urandom(16)


def spans(trace: bytes, *names: str, **fields: Any) -> ExportTraceServiceRequest:
    """One span a name, numbered from 1."""
    return request(*[a_span(trace_id=trace, span_id=(index + 1).to_bytes(8, "big"), name=name, **fields)
                     for index, name in enumerate(names)])


def warned(trace: bytes) -> ExportTraceServiceRequest:
    """A span that is kept while a token series of it is not."""
    return spans(trace, "warned", attributes=[key_value("cutaway.token.surprisal", b"not a series")])


def otlp_json(message: Any) -> Any:
    """The protobuf library's ProtoJSON with the ids OTLP/JSON wants."""
    def fix(value: Any) -> Any:
        if isinstance(value, list):
            return [fix(one) for one in value]
        if not isinstance(value, dict):
            return value
        return {key: base64.b64decode(one).hex().upper() if key in _IDS else fix(one) for key, one in value.items()}

    return fix(MessageToDict(message, use_integers_for_enums=True))


class Gate:
    """`Running.before` that holds back payloads which contain `marker` until opened."""

    def __init__(self, marker: bytes) -> None:
        self._marker = marker
        self.reached, self.open = threading.Event(), threading.Event()

    def __call__(self, payload: bytes) -> None:
        if self._marker in payload:
            self.reached.set()
            self.open.wait(20)
