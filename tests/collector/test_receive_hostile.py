"""Senders that mean harm, on real sockets: slow, endless, doubled, cut off, out of proportion. The next sender is served."""

from __future__ import annotations

import contextlib
import gzip
import logging
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from backports import zstd
from google.rpc import status_pb2

from cutaway_collector.errors import MalformedRequest, Overloaded, TooLarge
from cutaway_collector.receive import HttpReceiver, connection, limits
from receive_helpers import HEAD, JSON, PROTOBUF, Keys, Recorder, eventually, post, request, until_closed

LIMIT = 200_000
CONNECTIONS = 6
END = b"Content-Length: 1\r\n\r\nx"


@pytest.fixture
def submit() -> Recorder:
    return Recorder()


@pytest.fixture
def receiver(submit: Recorder, monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpReceiver]:
    monkeypatch.setattr(connection, "IDLE_SECONDS_MAX", 1)
    made = HttpReceiver(submit, "127.0.0.1", 0, body_bytes_max=LIMIT, concurrency_max=4, threads=2, connections_max=CONNECTIONS,
                        receive_bytes_max=300_002)
    yield made
    eventually(lambda: _served(made))
    made.close()


@pytest.fixture
def hasty(receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch) -> HttpReceiver:
    """Gives slow senders half a second: for tests of those alone, for a busy machine makes any sender slow."""
    monkeypatch.setattr(connection, "HEAD_SECONDS_MAX", 0.5)
    monkeypatch.setattr(connection, "DISCARD_SECONDS_MAX", 0.5)
    monkeypatch.setattr(connection, "BODY_SECONDS_MAX", 0.5)
    return receiver


@contextlib.contextmanager
def dial(receiver: HttpReceiver, *sent: bytes) -> Iterator[socket.socket]:
    with socket.create_connection(receiver.address, timeout=60) as raw:
        for part in sent:
            raw.sendall(part)
        yield raw


def refused(said: bytes, status: int) -> str:
    """Checks a refusal that carries a Status as protobuf; its message."""
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), said[:200]
    message = str(status_pb2.Status.FromString(body).message)
    assert message
    return message


# --- slow -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"POST /v1", HEAD, HEAD + b"X-Slow: "])
def test_a_head_that_does_not_end_is_given_up(hasty: HttpReceiver, submit: Recorder, sent: bytes) -> None:
    """Slowloris: after its time the connection is told so and closed."""
    with dial(hasty, sent) as raw:
        assert "head of a request must arrive" in refused(until_closed(raw), 408)
    assert submit.payloads == []


def test_dripping_does_not_buy_time(hasty: HttpReceiver) -> None:
    """A byte now and then, even of empty lines between requests, does not start the clock again."""
    with dial(hasty, HEAD + END) as raw:
        assert raw.recv(4096).startswith(b"HTTP/1.1 200")
        raw.settimeout(0.05)
        closed = False
        for _ in range(200):
            try:
                raw.sendall(b"\r\n")
                closed = raw.recv(4096) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                closed = True
            if closed:
                break
        assert closed


def test_a_connection_that_says_nothing_is_closed(hasty: HttpReceiver) -> None:
    """Before the first request, and after one."""
    with dial(hasty) as raw:
        assert until_closed(raw) == b""
    with dial(hasty, HEAD + END) as raw:
        assert until_closed(raw).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("framing", [b"Content-Length: 100\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"])
def test_a_body_that_does_not_end_is_given_up(hasty: HttpReceiver, submit: Recorder, framing: bytes) -> None:
    """408, and the connection does not stay open for the rest."""
    with dial(hasty, HEAD + framing) as raw:
        assert "body must arrive" in refused(until_closed(raw), 408)
    assert submit.payloads == []


def test_an_endless_body_is_refused_and_not_read_for_ever(hasty: HttpReceiver, submit: Recorder) -> None:
    """413 once it is over the limit; the rest is thrown away for a short while, then the connection is gone."""
    chunk = b"ffff\r\n" + bytes(0xFFFF) + b"\r\n"
    with dial(hasty, HEAD + b"Transfer-Encoding: chunked\r\n\r\n") as raw, contextlib.suppress(ConnectionError):
        while True:
            raw.sendall(chunk)
    assert submit.payloads == []


# --- many -----------------------------------------------------------------------------------------------------------------


def test_connections_are_capped(receiver: HttpReceiver) -> None:
    """One too many is told when to come back, and is let in once another has gone."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(dial(receiver, HEAD[:20])) for _ in range(CONNECTIONS)]
        with dial(receiver) as raw:
            said = until_closed(raw)
        assert "connections are open" in refused(said, 503)
        assert b"retry-after: 1" in said
        held[0].close()
        eventually(lambda: _served(receiver))


def _served(receiver: HttpReceiver) -> bool:
    try:
        return post(receiver.address, b"x", PROTOBUF)[0] == 200
    except (ConnectionError, OSError):
        return False


@pytest.mark.parametrize("sent", [
    b"POST /" + b"a" * 100_000, HEAD + b"X: " + b"b" * 600_000, HEAD + b"b" * 600_000,
    HEAD + b"".join(b"X-%d: 1\r\n" % index for index in range(200)) + b"\r\n", HEAD + b"X: " + b"c" * 40_000 + b"\r\n\r\n",
], ids=["path", "one header", "a name", "number", "size"])
def test_header_floods_are_431(receiver: HttpReceiver, submit: Recorder, sent: bytes) -> None:
    """Whatever of the head is without end is refused while it still comes."""
    with dial(receiver, sent) as raw:
        assert "headers" in refused(until_closed(raw), 431)
    assert submit.payloads == []


def test_trailers_are_dropped_and_bounded(receiver: HttpReceiver, submit: Recorder) -> None:
    """Headers behind a chunked body change nothing, and are not collected for ever."""
    body = HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n1\r\nx\r\n0\r\n"
    with dial(receiver, body + b"Content-Type: application/json\r\n\r\n") as raw:
        assert until_closed(raw).startswith(b"HTTP/1.1 200")
    with dial(receiver, body + b"X: " + b"d" * 600_000) as raw:
        assert not until_closed(raw).startswith(b"HTTP/1.1 200")
    assert submit.payloads == [(b"x", "protobuf")]


def test_pipelined_requests_are_answered_in_order(receiver: HttpReceiver, submit: Recorder) -> None:
    """A few requests ahead of their answers are served one after another."""
    with dial(receiver, b"".join(HEAD + b"Content-Length: 1\r\n\r\n%d" % index for index in range(5))) as raw:
        said = until_closed(raw)
    assert said.count(b"HTTP/1.1 200") == 5
    assert [payload for payload, _ in submit.payloads] == [b"%d" % index for index in range(5)]


def test_a_flood_of_pipelined_requests_waits_in_the_socket(receiver: HttpReceiver, submit: Recorder) -> None:
    """They are not collected: while the first is being taken, none of those behind it is read."""
    submit.gate = threading.Event()
    with dial(receiver) as raw:
        raw.settimeout(1)
        with pytest.raises(TimeoutError):
            raw.sendall((HEAD + END) * 400_000)
        eventually(lambda: receiver._in_flight == 1)
        assert submit.payloads == []
        submit.gate.set()


def test_bodies_on_their_way_in_share_a_budget(receiver: HttpReceiver, submit: Recorder) -> None:
    """The sender who would exceed it is asked to come back; when the others are done, it may."""
    head = HEAD + b"Content-Length: 150001\r\n\r\n"
    with dial(receiver, head + bytes(150_000)) as first, dial(receiver, head + bytes(150_000)) as second:
        eventually(lambda: receiver._budget.held >= 300_000)
        with dial(receiver, HEAD + b"Connection: close\r\nContent-Length: 5\r\n\r\nabcde") as third:
            assert "receive_bytes_max" in refused(until_closed(third), 503)
        for raw in (first, second):
            raw.sendall(b"z")
            assert raw.recv(4096).startswith(b"HTTP/1.1 200")
    eventually(lambda: receiver._budget.held == 0)
    assert len(submit.payloads) == 2


def test_requests_at_once_are_capped(receiver: HttpReceiver, submit: Recorder) -> None:
    """Beyond the cap: 503 with Retry-After."""
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(dial(receiver, HEAD + b"Content-Length: 5\r\n\r\n"))
        eventually(lambda: receiver._in_flight == 4)
        status, headers, _ = post(receiver.address, b"x", PROTOBUF)
    assert (status, headers["retry-after"]) == (503, "1")


# --- smuggled -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", [
    b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd", b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcd",
    b"Content-Length: 4, 4\r\n\r\nabcd", b"Content-Length: +4\r\n\r\nabcd", b"Content-Length: -1\r\n\r\n",
    b"Content-Length: 99999999999999999999\r\n\r\n", b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    b"X-A: b\r\n  folded\r\nContent-Length: 1\r\n\r\nx", b"Content-Length : 1\r\n\r\nx", b"X: a\0b\r\nContent-Length: 1\r\n\r\nx",
    b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
])
def test_ambiguous_framing_is_400_and_closes(receiver: HttpReceiver, submit: Recorder, framing: bytes) -> None:
    """Whatever a proxy in front might read differently: refused with a Status, and nothing behind it is taken for a request."""
    with dial(receiver, HEAD + framing + HEAD + END) as raw:
        said = until_closed(raw)
    assert said.count(b"HTTP/1.1 ") == 1
    refused(said, 400)
    assert submit.payloads == []


@pytest.mark.parametrize("sent", [
    b"POST /v1/traces HTTP/1.1\nHost: x\nContent-Length: 0\n\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01",
    b"CONNECT other:443 HTTP/1.1\r\nHost: other\r\n\r\n", b"POST /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n", b"what is this\r\n\r\n",
], ids=["bare line feeds", "HTTP/2", "TLS", "CONNECT", "path", "words"])
def test_what_is_not_http_1_is_400(receiver: HttpReceiver, sent: bytes) -> None:
    """Also with a Status."""
    with dial(receiver, sent) as raw:
        refused(until_closed(raw), 400)


def test_an_offer_to_upgrade_does_not_lose_the_body(receiver: HttpReceiver, submit: Recorder) -> None:
    """HTTP clients that offer h2c are served HTTP/1.1; the body is not taken for the other protocol."""
    offer = HEAD + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n"
    with dial(receiver, offer + b"Content-Length: 4\r\n\r\nab", b"cd") as raw:
        assert raw.recv(4096).startswith(b"HTTP/1.1 200")
        raw.sendall(offer + b"Transfer-Encoding: chunked\r\n\r\n2\r\nef\r\n0\r\n\r\n")
        assert raw.recv(4096).startswith(b"HTTP/1.1 200")
    assert [payload for payload, _ in submit.payloads] == [b"abcd", b"ef"]


# --- cut off --------------------------------------------------------------------------------------------------------------


def test_a_reset_in_the_middle_leaves_nothing(receiver: HttpReceiver, submit: Recorder) -> None:
    """RST instead of the rest of the body: nothing is submitted and no place is kept."""
    for _ in range(20):
        with dial(receiver, HEAD + b"Content-Length: 100\r\n\r\nabc") as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    eventually(lambda: receiver._in_flight == 0)
    assert receiver._budget.held == 0
    assert submit.payloads == []


def test_senders_that_do_not_wait_for_the_reply(receiver: HttpReceiver, submit: Recorder) -> None:
    """What was complete is submitted once each; no thread and no place is kept for a reply nobody reads."""
    threads = threading.active_count()
    for _ in range(30):
        with dial(receiver, HEAD + END) as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    eventually(lambda: receiver._in_flight == 0)
    assert len(submit.payloads) <= 30
    eventually(lambda: threading.active_count() <= threads)


# --- bombs ----------------------------------------------------------------------------------------------------------------


_WIDE = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
BOMBS: dict[str, tuple[str, bytes, int]] = {
    "gzip": ("gzip", gzip.compress(bytes(1 << 26)), 413),
    "zstd": ("zstd", zstd.compress(bytes(1 << 28)), 413),
    "many members": ("gzip", gzip.compress(bytes(LIMIT // 2)) * 3, 413),
    "many empty members": ("gzip", gzip.compress(b"") * 9000, 400),
    "many empty frames": ("zstd", zstd.compress(b"") * 15000, 400),
    "window of 128 MiB": ("zstd", _WIDE.compress(bytes(1000)) + _WIDE.flush(), 400),
    "truncated": ("gzip", gzip.compress(bytes(1000))[:-5], 400),
    "truncated zstd": ("zstd", zstd.compress(bytes(1000))[:-2], 400),
    "checksum": ("gzip", gzip.compress(b"abc")[:-5] + b"\0" * 5, 400),
    "junk behind": ("gzip", gzip.compress(b"abc") + b"junk", 400),
    "encoded twice": ("gzip, gzip", gzip.compress(gzip.compress(b"abc")), 415),
    "another encoding": ("br", b"abc", 415),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_compression_bombs_are_refused(receiver: HttpReceiver, submit: Recorder, bomb: str) -> None:
    """Out of proportion, in members, in frames, with a window, cut off, twice: refused at the limit's cost, nothing submitted."""
    encoding, body, expected = BOMBS[bomb]
    status, _, answer = post(receiver.address, body, {**PROTOBUF, "Content-Encoding": encoding})
    assert (status, submit.payloads) == (expected, [])
    assert status_pb2.Status.FromString(answer).message


def test_inflating_a_bomb_takes_the_limit_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The inflater never makes more than a byte over the limit, however much is behind it."""
    made: list[int] = []

    class Watched:
        def __init__(self) -> None:
            self._inner = zlib.decompressobj(31)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def decompress(self, data: bytes, room: int) -> bytes:
            part = self._inner.decompress(data, room)
            made.append(len(part))
            return part

    monkeypatch.setitem(limits._INFLATERS, "gzip", Watched)
    with pytest.raises(TooLarge):
        limits.inflate(gzip.compress(bytes(10_000_000)), "gzip", 10_000)
    assert sum(made) == 10_001


def test_zstd_is_undone(receiver: HttpReceiver, submit: Recorder) -> None:
    """In one frame or several."""
    body = request(50).SerializeToString()
    for packed in (zstd.compress(body), zstd.compress(body[:70]) + zstd.compress(body[70:])):
        assert post(receiver.address, packed, {**PROTOBUF, "Content-Encoding": "zstd"})[0] == 200
    assert submit.payloads == [(body, "protobuf")] * 2


# --- silent ---------------------------------------------------------------------------------------------------------------


def test_no_refusal_logs_what_was_sent(
    receiver: HttpReceiver, submit: Recorder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Payloads, paths, headers and keys stay out of the log, whichever way a request is refused."""
    caplog.set_level(logging.DEBUG)
    secret = b"tell-nobody" * 100
    words = secret.decode()[:11]
    head = {**PROTOBUF, "Authorization": f"Bearer {words}", "X-Note": words}
    kinds: list[tuple[int, Any]] = [
        (404, lambda: post(receiver.address, secret, head, path=f"/{words}")),
        (405, lambda: post(receiver.address, secret, head, method="PUT")),
        (415, lambda: post(receiver.address, secret, {**head, "Content-Encoding": words})),
        (415, lambda: post(receiver.address, secret, {"Content-Type": words})),
        (413, lambda: post(receiver.address, secret * 300, head)),
        (400, lambda: post(receiver.address, secret, {**head, "Content-Encoding": "gzip"})),
    ]
    for expected, call in kinds:
        assert call()[0] == expected
    for expected, error in ((400, MalformedRequest("no")), (503, Overloaded("no")), (503, RuntimeError("boom"))):
        submit.error = error
        assert post(receiver.address, secret, {**head, **JSON})[0] == expected
    submit.error = None
    monkeypatch.setattr(connection, "BODY_SECONDS_MAX", 0.5)
    monkeypatch.setattr(connection, "DISCARD_SECONDS_MAX", 0.5)
    for raw_bytes in (secret + b"\r\n\r\n", HEAD + b"X: " + secret * 600, HEAD + b"Content-Length: 9999\r\n\r\n" + secret):
        with dial(receiver, raw_bytes) as raw:
            until_closed(raw)
    keyed = HttpReceiver(submit, "127.0.0.1", 0, body_bytes_max=LIMIT, concurrency_max=4, threads=2, authenticate=Keys())
    try:
        assert post(keyed.address, secret, head)[0] == 401
        assert post(keyed.address, secret, {**head, "Authorization": "Bearer reader"})[0] == 403
    finally:
        keyed.close()
    assert words not in caplog.text
    assert "OTLP/HTTP request failed in the collector" in caplog.text
