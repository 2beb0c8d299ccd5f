"""One OTLP/HTTP connection, in a thread of its own: heads are parsed, bodies read, answers written, one request after another.

Not a web framework, and what a request means is http.py's. A thread that waits in the kernel costs a sender nothing and the
processor little: a body arrives in one read, where the bytes stay until they are stored. httptools parses heads and refuses what
smuggles requests: Content-Length beside Transfer-Encoding or twice, folded headers, bare line feeds. Added here: time for the head
of a request and for its body, bytes and number of its headers; `Upgrade` is ignored as RFC 9110 allows; what is not HTTP is
answered with a Status too. Requests sent before the answer to the first wait in the socket.
"""

from __future__ import annotations

import logging
import socket
import ssl
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, NamedTuple, TypeVar

import httptools

from cutaway_collector.errors import HeadersTooLarge, MalformedRequest, RequestError, TooSlow
from cutaway_collector.receive.buffers import unfilled
from cutaway_collector.receive.chunks import Chunks
from cutaway_collector.receive.limits import Share, too_large
from cutaway_collector.receive.replies import status_body, status_headers

logger = logging.getLogger(__name__)

HEAD_SECONDS_MAX: Final = 15.0
"""From the first byte of a request (or from connecting) to the end of its headers."""
BODY_SECONDS_MAX: Final = 30.0
"""A sender that needs longer for one body is holding a place others could use."""
IDLE_SECONDS_MAX: Final = 75.0
"""Between two requests of a connection: longer than the intervals exporters send at."""
HANDSHAKE_SECONDS_MAX: Final = 10.0
SEND_SECONDS_MAX: Final = 30.0
DISCARD_SECONDS_MAX: Final = 5.0
"""How long the rest of a refused body is read and thrown away, so that its sender reads the refusal and not a reset connection."""
HEAD_BYTES_MAX: Final = 32 * 1024
HEADERS_MAX: Final = 100
PIECE_BYTES: Final = 256 * 1024
"""Of a body, read at once, and set aside before they come; from then on, as many as have come already."""
_PEEKED_BYTES: Final = 4096
"""Looked at for the end of a head."""
_HEAD_END: Final = b"\r\n\r\n"

Headers = list[tuple[bytes, bytes]]
_T = TypeVar("_T")


class Gone(ConnectionError):
    """Whoever sent the request is no longer there, or may no longer be waited for: there is nobody to answer."""


class Reply(NamedTuple):
    """An answer. last: the connection ends with it, whatever is still to come."""

    status: int
    headers: Headers
    body: bytes = b""
    last: bool = False


class Connection:
    """An accepted connection. One thread runs it; `stop` and `abort` are for others. peer: the sender's address."""

    def __init__(self, accepted: socket.socket, peer: str, tls: ssl.SSLContext | None) -> None:
        accepted.settimeout(None)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(SEND_SECONDS_MAX))
        self._tls = tls
        self._socket = accepted
        self.peer = peer
        self._held = b""  # received over TLS, which cannot be looked at without being received, and not yet read
        self._first, self._idle, self._stopping = True, True, False
        self.method, self.path = "", ""
        self.headers: dict[str, str] = {}
        """Of the request; names in lower case. A header sent twice is one list, so that neither of two answers counts alone."""
        self._parser: httptools.HttpRequestParser | None = None
        self._url, self._count = b"", 0
        self._begun = self._complete = self._keep_alive = False
        self._refusal: RequestError | None = None
        self._left: int | None = 0  # bytes of the body to come, None while only its chunks will tell
        self._chunks: Chunks | None = None

    def run(self, answer: Callable[[Connection], Reply]) -> None:
        """Serves until either side has enough, then closes. answer: makes of the request that is here a reply."""
        try:
            if self._tls is not None:
                self._socket.settimeout(HANDSHAKE_SECONDS_MAX)
                self._socket = self._tls.wrap_socket(self._socket, server_side=True)
            while self._serve(answer):
                pass
        except OSError:
            pass  # the sender has gone
        except Exception:
            logger.exception("an OTLP/HTTP connection failed in the collector")
        finally:
            self._parser = None  # it holds this object
            self._socket.close()

    def stop(self) -> None:
        """Ends the connection: at once when it waits for a request, else with the answer to the one it has."""
        self._stopping = True
        if self._idle:
            self._shut(socket.SHUT_RD)

    def abort(self) -> None:
        """Ends it at once."""
        self._stopping = True
        self._shut(socket.SHUT_RDWR)

    # --- what the answer is made of ---------------------------------------------------------------------------------------

    @property
    def asks_first(self) -> bool:
        """Whether the sender keeps its body until it is told that it is wanted."""
        return "100-continue" in self.headers.get("expect", "").lower()

    def body(self, bytes_max: int, share: Share) -> bytes:
        """The whole body, every piece within the share. Raises TooLarge, Overloaded, TooSlow, MalformedRequest, Gone."""
        if self._left is not None and self._left > bytes_max:
            raise too_large(bytes_max, "on the wire")
        if self.asks_first:
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
        deadline_s = time.monotonic() + BODY_SECONDS_MAX
        try:
            if self._left is None:
                return self._in_chunks(bytes_max, share, deadline_s)
            return self._counted(self._left, share, deadline_s)
        except TimeoutError:
            raise TooSlow(f"a body must arrive within {BODY_SECONDS_MAX:.0f} s: send smaller batches") from None

    def _counted(self, size: int, share: Share, deadline_s: float) -> bytes:
        """A body of so many bytes, received where it stays: joining pieces would be one more copy of all that comes."""
        body, room = unfilled(size)
        at = 0
        while at < size:
            # Set aside before it comes, less what a read that came back early left of that.
            wanted = min(size - at, max(PIECE_BYTES, at))
            share.take(max(0, wanted - (share.held - at)))
            at += self._more(room[at : at + wanted], deadline_s)
        return body

    def _in_chunks(self, bytes_max: int, share: Share, deadline_s: float) -> bytes:
        parts: list[bytes] = []
        size = 0
        while self._left != 0:
            parts.append(self._chunk(deadline_s))
            share.take(len(parts[-1]))
            size += len(parts[-1])
            if size > bytes_max:
                raise too_large(bytes_max, "on the wire")
        return b"".join(parts)

    # --- one request ------------------------------------------------------------------------------------------------------

    def _serve(self, answer: Callable[[Connection], Reply]) -> bool:
        """Serves the next request; whether there may be another."""
        try:
            if not self._head():
                return False
        except RequestError as error:
            headers = [(b"content-type", b"application/x-protobuf"), *status_headers(error)]
            self._send(Reply(error.http, headers, status_body(error, as_json=False)), last=True)
            self._linger()
            return False
        reply = answer(self)
        last = reply.last or self._stopping or not self._keep_alive
        self._send(reply, last=last)
        if reply.last:
            return False
        if not self._drained():
            self._linger()
            return False
        return not last

    def _head(self) -> bool:
        """Reads the head of the next request; False when none comes. Raises RequestError for one that is not HTTP as we take it."""
        self._idle, self._begun, self._complete = True, False, False
        self._url, self.headers, self._count = b"", {}, 0
        self._left, self._chunks = 0, None
        self._parser = httptools.HttpRequestParser(self)
        if self._stopping:
            return False
        deadline_s = time.monotonic() + (HEAD_SECONDS_MAX if self._first else IDLE_SECONDS_MAX)
        size, tail = 0, b""
        while not self._complete:
            try:
                seen = self._peek(deadline_s)
            except TimeoutError:
                if not self._begun:
                    return False
                raise TooSlow(f"the head of a request must arrive within {HEAD_SECONDS_MAX:.0f} s") from None
            if not seen:
                return False
            if self._idle:
                self._idle = self._first = False
                deadline_s = time.monotonic() + HEAD_SECONDS_MAX
            end = (tail + seen).find(_HEAD_END)
            part = seen if end < 0 else seen[: end + len(_HEAD_END) - len(tail)]
            self._skip(len(part))
            self._parse(part)
            size, tail = size + len(part), (tail + part)[-3:]
            if size > HEAD_BYTES_MAX:
                raise _head_too_large()
        return self._understood()

    def _parse(self, part: bytes) -> None:
        assert self._parser is not None
        try:
            self._parser.feed_data(part)
        except httptools.HttpParserUpgrade:
            return  # nothing behind the head was given to the parser: the body is still here
        except httptools.HttpParserError:
            # The library's message may quote the request.
            raise self._refusal or _not_http() from None

    def _understood(self) -> bool:
        """Settles what the head said of path and body. True. Raises MalformedRequest."""
        try:
            self.path = (httptools.parse_url(self._url).path or b"").decode("ascii")
        except (httptools.HttpParserError, UnicodeDecodeError):
            raise _not_http() from None
        if self.method == "CONNECT":
            raise MalformedRequest("this is no proxy: send OTLP/HTTP requests to it directly")
        if "transfer-encoding" in self.headers:  # the parser takes none but chunked
            self._left, self._chunks = None, Chunks()
        else:
            self._left = int(self.headers.get("content-length") or 0)
        return True

    # --- the parser -------------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """More than empty lines have come."""
        self._begun = True

    def on_url(self, url: bytes) -> None:
        """Part of the path."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._count += 1
        if self._count > HEADERS_MAX:
            self._refusal = _head_too_large()
            raise self._refusal
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        """The body follows, and is not for the parser."""
        assert self._parser is not None
        self._complete = True
        self.method, self._keep_alive = self._parser.get_method().decode("ascii"), self._parser.should_keep_alive()

    # --- the socket -------------------------------------------------------------------------------------------------------

    def _peek(self, deadline_s: float) -> bytes:
        """Some bytes that have come and stay unread until `_skip`; b"" when there will be none. Raises TimeoutError."""
        if self._tls is None:
            return self._receive(_PEEKED_BYTES, socket.MSG_PEEK, deadline_s)
        if not self._held:
            self._held = self._receive(_PEEKED_BYTES, 0, deadline_s)
        return self._held

    def _skip(self, count: int) -> None:
        """Takes away what was peeked at."""
        if self._tls is None:
            self._socket.recv(count)
        else:
            self._held = self._held[count:]

    def _more(self, room: memoryview, deadline_s: float) -> int:
        """Receives more of a body whose bytes are counted, as many as there is room for; how many came before something was in the
        way. Raises MalformedRequest, Gone, TimeoutError.
        """
        assert self._left is not None
        if self._held:
            count = min(len(room), len(self._held))
            room[:count] = self._held[:count]
            self._held = self._held[count:]
        else:
            flags = socket.MSG_WAITALL if self._tls is None else 0
            count = self._in_time(lambda: self._socket.recv_into(room, 0, flags), deadline_s)
        self._left -= count
        return self._unless_gone(count)

    def _chunk(self, deadline_s: float) -> bytes:
        """What the next bytes of a chunked body say, perhaps nothing yet. Raises MalformedRequest, Gone, TimeoutError."""
        assert self._chunks is not None
        seen, self._held = self._held or self._receive(PIECE_BYTES, 0, deadline_s), b""
        self._unless_gone(len(seen))
        part = self._chunks.decode(seen)
        if self._chunks.ended:
            self._left = 0
            self._keep_alive = self._keep_alive and not self._chunks.followed  # whoever sent it will notice the end
        return part

    def _unless_gone(self, count: int) -> int:
        if count:
            return count
        if self._stopping:
            raise Gone
        raise MalformedRequest("the sender went away before the body was complete")

    def _receive(self, count: int, flags: int, deadline_s: float) -> bytes:
        return self._in_time(lambda: self._socket.recv(count, flags), deadline_s)

    def _in_time(self, receive: Callable[[], _T], deadline_s: float) -> _T:
        """Raises TimeoutError, Gone."""
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        try:
            if self._tls is not None:
                self._socket.settimeout(left_s)
            else:
                # The kernel's own clock: with Python's, a read of many bytes would come back for each packet.
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(left_s))
            return receive()
        except (BlockingIOError, TimeoutError):
            raise TimeoutError from None
        except OSError:
            raise Gone from None

    def _write(self, data: bytes) -> None:
        try:
            if self._tls is not None:
                self._socket.settimeout(SEND_SECONDS_MAX)
            self._socket.sendall(data)
        except OSError:
            raise Gone from None

    def _send(self, reply: Reply, *, last: bool) -> None:
        lines = [_STATUS_LINES[reply.status], *(name + b": " + value for name, value in reply.headers), _date()]
        if reply.status != HTTPStatus.NO_CONTENT:
            lines.append(b"content-length: %d" % len(reply.body))
        if last:
            lines.append(b"connection: close")
        self._write(b"\r\n".join(lines) + _HEAD_END + (reply.body if self.method != "HEAD" else b""))

    def _drained(self) -> bool:
        """Throws away what is left of a refused body; False when that takes too long or cannot be done."""
        deadline_s = time.monotonic() + DISCARD_SECONDS_MAX
        try:
            while self._left != 0:
                if self._left is None:
                    self._chunk(deadline_s)
                else:
                    self._more(memoryview(bytearray(min(self._left, PIECE_BYTES))), deadline_s)
        except (TimeoutError, RequestError):
            return False
        return True

    def _linger(self) -> None:
        """Ends our side, and reads on for a while: what still arrives would reset the connection, and the answer with it."""
        if self._tls is not None:
            return
        self._shut(socket.SHUT_WR)
        deadline_s = time.monotonic() + DISCARD_SECONDS_MAX
        with suppress(TimeoutError):
            while self._receive(PIECE_BYTES, 0, deadline_s):
                pass

    def _shut(self, how: int) -> None:
        with suppress(OSError):
            socket.socket.shutdown(self._socket, how)  # not TLS's own, which may be in use by the connection's thread


def last_words(error: RequestError) -> bytes:
    """An answer for who is not let in."""
    body = status_body(error, as_json=False)
    headers = [(b"content-type", b"application/x-protobuf"), (b"content-length", b"%d" % len(body)),
               (b"connection", b"close"), *status_headers(error)]
    lines = [_STATUS_LINES[error.http], *(name + b": " + value for name, value in headers)]
    return b"\r\n".join(lines) + _HEAD_END + body


_STATUS_LINES: Final = {int(status): b"HTTP/1.1 %d %s" % (status, status.phrase.encode()) for status in HTTPStatus}
_now: tuple[int, bytes] = (0, b"")


def _date() -> bytes:
    """The Date header, made once a second."""
    global _now
    second = int(time.time())
    if _now[0] != second:
        _now = second, b"date: " + formatdate(second, usegmt=True).encode()
    return _now[1]


def _timeval(seconds: float) -> bytes:
    """For the kernel, which takes nothing for for ever."""
    micros = max(1, int(seconds * 1_000_000))
    return struct.pack("@ll", micros // 1_000_000, micros % 1_000_000)


def _head_too_large() -> HeadersTooLarge:
    return HeadersTooLarge(f"a request may have {HEADERS_MAX} headers and {HEAD_BYTES_MAX} bytes of them and its path: send fewer")


def _not_http() -> MalformedRequest:
    return MalformedRequest("this is not HTTP/1.1: OTLP/HTTP is POST with protobuf or JSON")
