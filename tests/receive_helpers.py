"""A `submit` that remembers, credentials of four kinds, raw HTTP, and OTLP requests made by the official classes."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from cutaway_collector.contracts import Caller, Encoding, Receipt, Scope
from cutaway_collector.errors import PermissionDenied, TooManyRequests, Unauthenticated

PROTOBUF = {"Content-Type": "application/x-protobuf"}
JSON = {"Content-Type": "application/json"}
HEAD = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\n"
"""What raw requests begin with; a framing header and an empty line are to follow."""


class Recorder:
    """Stands in for the pipeline: keeps payloads, answers `receipt`, or raises `error`; waits for `gate` first."""

    def __init__(self) -> None:
        self.payloads: list[tuple[bytes, str]] = []
        self.tenants: list[str] = []
        self.receipt = Receipt(1, 0, "")
        self.error: Exception | None = None
        self.gate: threading.Event | None = None

    def __call__(self, payload: bytes, encoding: Encoding, tenant: str = "") -> Receipt:
        if self.gate is not None:
            self.gate.wait()
        if self.error is not None:
            raise self.error
        self.payloads.append((payload, encoding))
        self.tenants.append(tenant)
        return self.receipt


class Keys:
    """Stands in for the authenticator: the key `sender` may send for tenant team-a, `reader` may not, `busy` asks too often."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []

    def __call__(self, authorization: str, scope: Scope, peer: str) -> Caller:
        self.asked.append((authorization, scope, peer))
        if authorization == "Bearer sender":
            return Caller("team-a", frozenset({"ingest"}))
        if authorization == "Bearer reader":
            raise PermissionDenied("this key may read, not ingest")
        if authorization == "Bearer busy":
            raise TooManyRequests("too many failures from this address", retry_after_s=7)
        raise Unauthenticated("send a key: Authorization: Bearer ...")


def post(
    address: tuple[str, int], body: bytes, headers: dict[str, str], *, path: str = "/v1/traces", method: str = "POST",
) -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own: status, headers in lower case, body."""
    connection = http.client.HTTPConnection(*address, timeout=60)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def until_closed(raw: socket.socket) -> bytes:
    """Everything the other side says before it closes; fails the test when it does not in a minute."""
    raw.settimeout(60)
    said = b""
    try:
        while part := raw.recv(65536):
            said += part
    except ConnectionResetError:
        pass
    return said


def eventually(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Polls until `condition` holds; fails the test when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


def request(spans: int = 1) -> ExportTraceServiceRequest:
    """A request of `spans` spans with valid ids."""
    message = ExportTraceServiceRequest()
    made = message.resource_spans.add().scope_spans.add().spans
    for index in range(spans):
        made.add(trace_id=bytes([1] * 16), span_id=(index + 1).to_bytes(8, "big"), name="work",
                 start_time_unix_nano=1_700_000_000_000_000_000, end_time_unix_nano=1_700_000_000_001_000_000)
    return message
