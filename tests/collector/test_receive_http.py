"""OTLP/HTTP against a real socket."""

from __future__ import annotations

import gzip
import http.client
import json
import random
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest
from google.rpc import status_pb2
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from cutaway_collector.contracts import Receipt
from cutaway_collector.errors import MalformedRequest, Overloaded
from cutaway_collector.receive import HttpReceiver
from receive_helpers import Recorder, request

LIMIT = 100_000
PROTOBUF = {"Content-Type": "application/x-protobuf"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def submit() -> Recorder:
    return Recorder()


@pytest.fixture
def receiver(submit: Recorder) -> Iterator[HttpReceiver]:
    made = HttpReceiver(submit, "127.0.0.1", 0, body_bytes_max=LIMIT, concurrency_max=8, threads=2)
    yield made
    made.close()


def call(
    receiver: HttpReceiver, body: bytes, headers: dict[str, str], *, path: str = "/v1/traces", method: str = "POST"
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(*receiver.address, timeout=60)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    result = answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    connection.close()
    return result


def test_protobuf_arrives_unchanged(receiver: HttpReceiver, submit: Recorder) -> None:
    """A protobuf body reaches submit byte for byte, and success is an empty ExportTraceServiceResponse."""
    body = request().SerializeToString()
    status, headers, answer = call(receiver, body, PROTOBUF)
    assert (status, headers["content-type"], answer) == (200, "application/x-protobuf", b"")
    assert submit.payloads == [(body, "protobuf")]


def test_json_with_charset_parameter(receiver: HttpReceiver, submit: Recorder) -> None:
    """Content-Type parameters are tolerated; a JSON request gets a JSON answer."""
    status, headers, answer = call(receiver, b'{"resourceSpans":[]}', {"Content-Type": "application/json; charset=utf-8"})
    assert (status, headers["content-type"], answer) == (200, "application/json", b"{}")
    assert submit.payloads == [(b'{"resourceSpans":[]}', "json")]


@pytest.mark.parametrize("pieces", [1, 3])
def test_gzip_is_undone(receiver: HttpReceiver, submit: Recorder, pieces: int) -> None:
    """gzip, in one member or several, reaches submit inflated."""
    body = request(20).SerializeToString()
    step = -(-len(body) // pieces)
    packed = b"".join(gzip.compress(body[at : at + step]) for at in range(0, len(body), step))
    assert call(receiver, packed, {**PROTOBUF, "Content-Encoding": "gzip"})[0] == 200
    assert submit.payloads == [(body, "protobuf")]


def test_chunked_body(receiver: HttpReceiver, submit: Recorder) -> None:
    """A body without Content-Length is taken."""
    body = request(5).SerializeToString()
    connection = http.client.HTTPConnection(*receiver.address, timeout=60)
    connection.request("POST", "/v1/traces", iter([body[:50], body[50:]]), PROTOBUF, encode_chunked=True)
    assert connection.getresponse().status == 200
    connection.close()
    assert submit.payloads == [(body, "protobuf")]


def test_a_body_of_many_pieces_arrives_unchanged(submit: Recorder) -> None:
    """However a long body is cut on its way, submit gets the bytes that were sent; so does the next one on the connection."""
    dice = random.Random(5)
    bodies = [dice.randbytes(size) for size in (3_000_001, 256 * 1024, 256 * 1024 + 1, 1)]
    made = HttpReceiver(submit, "127.0.0.1", 0, body_bytes_max=4_000_000, concurrency_max=8, threads=2)
    with closing(made), socket.create_connection(made.address, timeout=60) as sender:
        for body in bodies:
            sender.sendall(b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\n"
                           b"Content-Length: %d\r\n\r\n" % len(body))
            at = 0
            while at < len(body):
                size = dice.choice([1, 1000, 70_000, 700_000])
                sender.sendall(body[at : at + size])
                at += size
            assert b" 200 " in sender.recv(10_000).split(b"\r\n")[0]
    assert submit.payloads == [(body, "protobuf") for body in bodies]


def test_partial_success_names_the_rejected(receiver: HttpReceiver, submit: Recorder) -> None:
    """Rejected spans are counted in partial_success, in both encodings."""
    submit.receipt = Receipt(4, 2, "2 spans have no trace id")
    answer = ExportTraceServiceResponse.FromString(call(receiver, b"x", PROTOBUF)[2])
    assert (answer.partial_success.rejected_spans, answer.partial_success.error_message) == (2, "2 spans have no trace id")
    spoken = json.loads(call(receiver, b"{}", JSON)[2])
    assert spoken == {"partialSuccess": {"rejectedSpans": "2", "errorMessage": "2 spans have no trace id"}}


def test_malformed_is_400_with_a_status_in_the_same_encoding(receiver: HttpReceiver, submit: Recorder) -> None:
    """An undecodable body gets 400 and a google.rpc.Status that says why."""
    submit.error = MalformedRequest("length 9 at byte 3 exceeds what remains")
    status, headers, body = call(receiver, b"x", PROTOBUF)
    said = status_pb2.Status.FromString(body)
    assert (status, headers["content-type"], said.code) == (400, "application/x-protobuf", 3)
    assert said.message == "length 9 at byte 3 exceeds what remains"
    status, headers, body = call(receiver, b"x", JSON)
    assert (status, headers["content-type"]) == (400, "application/json")
    spoken = json.loads(body)
    assert (spoken["code"], spoken["message"]) == (3, "length 9 at byte 3 exceeds what remains")
    assert spoken["details"][0]["@type"] == "type.googleapis.com/google.rpc.BadRequest"


def test_overload_says_when_to_come_back(receiver: HttpReceiver, submit: Recorder) -> None:
    """A full queue is 503 with Retry-After in whole seconds."""
    submit.error = Overloaded("the queue is full", retry_after_s=3)
    status, headers, _ = call(receiver, b"x", PROTOBUF)
    assert (status, headers["retry-after"]) == (503, "3")


@pytest.mark.parametrize(
    ("path", "method", "headers", "expected"),
    [
        ("/v1/metrics", "POST", PROTOBUF, 404),
        ("/v1/profiles", "POST", JSON, 404),
        ("/elsewhere", "POST", PROTOBUF, 404),
        ("/v1/traces", "GET", PROTOBUF, 405),
        ("/v1/traces", "POST", {"Content-Type": "text/plain"}, 415),
        ("/v1/traces", "POST", {**PROTOBUF, "Content-Encoding": "br"}, 415),
    ],
)
def test_refusals_carry_a_status(
    receiver: HttpReceiver, submit: Recorder, path: str, method: str, headers: dict[str, str], expected: int
) -> None:
    """Every refusal is a Status in the request's encoding, and nothing is submitted."""
    status, answered, body = call(receiver, b"", headers, path=path, method=method)
    spoken = answered["content-type"] == "application/json"
    said = json.loads(body)["message"] if spoken else status_pb2.Status.FromString(body).message
    assert status == expected
    assert said
    assert submit.payloads == []


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_oversize_is_413_before_and_after_inflation(receiver: HttpReceiver, submit: Recorder, encoding: str) -> None:
    """A body over the limit is refused, also when only its inflated form is over it (a bomb costs the limit, not its size)."""
    body = bytes(LIMIT + 1) if encoding == "identity" else gzip.compress(bytes(50 * LIMIT))
    assert call(receiver, body, {**PROTOBUF, "Content-Encoding": encoding})[0] == 413
    assert submit.payloads == []


def test_damaged_gzip_is_400(receiver: HttpReceiver) -> None:
    """A truncated or damaged gzip stream is the sender's mistake, said so."""
    packed = gzip.compress(request(50).SerializeToString())
    for broken in (packed[:-9], packed[:12] + b"\xff\xff\xff" + packed[15:], b"not gzip"):
        assert call(receiver, broken, {**PROTOBUF, "Content-Encoding": "gzip"})[0] == 400


def test_an_internal_failure_is_retryable_and_harms_no_other_request(receiver: HttpReceiver, submit: Recorder) -> None:
    """An unexpected exception becomes 503; the next request is served."""
    submit.error = RuntimeError("boom")
    assert call(receiver, b"x", PROTOBUF)[0] == 503
    submit.error = None
    assert call(receiver, b"x", PROTOBUF)[0] == 200


def test_a_sender_that_goes_away_leaves_nothing_behind(receiver: HttpReceiver, submit: Recorder) -> None:
    """Half a body and a closed socket: nothing is submitted, the next request is served."""
    with socket.create_connection(receiver.address, timeout=60) as half:
        head = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nContent-Length: 100\r\n\r\n"
        half.sendall(head + b"abc")
    assert call(receiver, b"y", PROTOBUF)[0] == 200
    assert submit.payloads == [(b"y", "protobuf")]


def test_a_taken_port_is_an_error(receiver: HttpReceiver, submit: Recorder) -> None:
    """Two receivers on one port: the second says so at once."""
    with pytest.raises(OSError, match="in use"):
        HttpReceiver(submit, *receiver.address, body_bytes_max=1, concurrency_max=1, threads=1)
