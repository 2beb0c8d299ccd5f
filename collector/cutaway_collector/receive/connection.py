"""One OTLP/HTTP connection: uvicorn's httptools protocol with a clock and a measure on everything a sender could draw out.

httptools itself refuses what smuggles requests: Content-Length beside Transfer-Encoding or twice, folded headers, bare line feeds.
Added here: time for the head of a request, bytes and number of its headers, connections in all, requests waiting behind one
another; `Upgrade` is ignored as RFC 9110 allows, where uvicorn would lose the body; what is not HTTP is answered with a Status too.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cutaway_collector.errors import HeadersTooLarge, MalformedRequest, Overloaded, RequestError, TooSlow
from cutaway_collector.receive.replies import status_body, status_headers

HEAD_SECONDS_MAX: Final = 15.0
"""From the first byte of a request (or from connecting) to the end of its headers."""
HEAD_BYTES_MAX: Final = 32 * 1024
HEADERS_MAX: Final = 100
DISCARD_SECONDS_MAX: Final = 5.0
"""How long the rest of a refused body is read and thrown away, so that its sender reads the refusal and not a reset connection."""
PIPELINED_MAX: Final = 16
"""Requests sent before the answer to the first; OTLP senders wait for it."""

READ_AHEAD_BYTES_MAX: Final = 256 * 1024
"""Of a body, before the application has taken what came: as much as one read brings, so that most are read without a pause."""

_REASONS: Final = {
    400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large", 503: b"Service Unavailable",
}
_HOP_BY_HOP: Final = (b"connection", b"upgrade", b"http2-settings")


class Connection(HttpToolsProtocol):
    """Made by the receiver for each accepted connection. `connections_max` counts this one."""

    def __init__(self, *arguments: Any, connections_max: int, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.access_log = False  # paths are what senders wrote; uvicorn would log them wherever the host has a handler
        self._connections_max = connections_max
        self._refusal: RequestError | None = None
        self._clock: asyncio.TimerHandle | None = None
        self._in_head = self._in_body = self._upgrading = self._refused = False
        self._method = b""
        self._head_bytes = self._without_progress = 0

    # --- the transport ----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        """Takes the connection, or says that there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self._connections_max:
            self._refuse(Overloaded(f"{self._connections_max} connections are open, receiver_connections_max allows no more: "
                                    "come back later, or close idle ones"))
            transport.close()  # without the courtesy below: it would let too many stay
        else:
            self._start_clock(HEAD_SECONDS_MAX)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the clock as well."""
        self._stop_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parses; nothing is parsed any more once the connection was refused."""
        self._unset_keepalive_if_required()
        if self._refused:
            return
        self._without_progress += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as found:
            self._go_on_without_upgrade(data[found.args[0] :])
            return
        except httptools.HttpParserError:
            # The library's message may quote the request.
            self._refuse(self._refusal or MalformedRequest("this is not HTTP/1.1: OTLP/HTTP is POST with protobuf or JSON"))
            return
        if self._without_progress > HEAD_BYTES_MAX:
            # A header that has not ended yet is held inside the parser, out of reach of the counts below.
            self._refuse(_head_too_large())
        elif self._clock is None and (self._in_head or (not self._in_body and self._idle())):
            self._start_clock(HEAD_SECONDS_MAX)

    # --- the parser -------------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A new request."""
        super().on_message_begin()
        self._in_head, self._head_bytes, self._without_progress = True, 0, 0

    def on_url(self, url: bytes) -> None:
        """Part of the path."""
        self._measure(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; those that trail a chunked body are of no use here and dropped."""
        self._measure(len(name) + len(value))
        if not self._in_body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The body follows; the application decides whether it is wanted."""
        self._in_head, self._in_body, self._without_progress = False, True, 0
        self._method = self.parser.get_method()
        if self.parser.should_upgrade():
            self._upgrading = True
            return
        if len(self.pipeline) >= PIPELINED_MAX:
            self._refusal = Overloaded(f"{PIPELINED_MAX} requests wait on this connection: wait for answers, or open another")
            raise self._refusal
        self._stop_clock()
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        """Framing of a chunked body."""
        self._without_progress = 0

    def on_body(self, body: bytes) -> None:
        """Part of a body, for the application to take: as its parent does, but the usual single part is not copied."""
        self._without_progress = 0
        cycle = self.cycle
        if cycle.response_complete:
            return
        if not cycle.body:
            cycle.body = body  # type: ignore[assignment]  # it is only ever measured, added to below, and made into bytes
        else:
            cycle.body = bytearray(cycle.body) if isinstance(cycle.body, bytes) else cycle.body
            cycle.body += body
        if len(cycle.body) > READ_AHEAD_BYTES_MAX:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        """The body is complete, perhaps that of a request answered before."""
        self._in_body, self._without_progress = False, 0
        if self._upgrading:
            return
        answered = self.cycle.response_complete
        super().on_message_complete()
        if answered:
            self._stop_clock()
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def on_response_complete(self) -> None:
        """Goes on to the next request; what is left of a refused body gets a short while to arrive."""
        super().on_response_complete()
        if self._in_body and self._idle() and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._start_clock(DISCARD_SECONDS_MAX)

    # --- the measures -----------------------------------------------------------------------------------------------------

    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _measure(self, nbytes: int) -> None:
        self._head_bytes += nbytes
        if self._head_bytes > HEAD_BYTES_MAX or len(self.headers) >= HEADERS_MAX:
            self._refusal = _head_too_large()
            raise self._refusal

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        """The same request again, as if it had not asked to become another protocol."""
        if self._method == b"CONNECT":
            self._refuse(MalformedRequest("this is no proxy: send OTLP/HTTP requests to it directly"))
            return
        self._upgrading, self._in_body = False, False
        self.parser = httptools.HttpRequestParser(self)
        lines = [self._method + b" " + self.url + b" HTTP/1.1", *(
            name + b": " + value for name, value in self.headers if name not in _HOP_BY_HOP)]
        self.data_received(b"\r\n".join(lines) + b"\r\n\r\n" + rest)

    def _start_clock(self, seconds: float) -> None:
        self._stop_clock()
        self._clock = self.loop.call_later(seconds, self._time_is_up)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _time_is_up(self) -> None:
        self._clock = None
        if not self._idle():
            self._start_clock(HEAD_SECONDS_MAX)  # an answer is being made: it must not be cut off
        elif self._in_head:
            self._refuse(TooSlow(f"the head of a request must arrive within {HEAD_SECONDS_MAX:.0f} s"))
        else:
            self.transport.close()

    def _refuse(self, error: RequestError) -> None:
        """Says why, unless in the middle of another answer, and closes once the sender has had the time to read it."""
        if self.transport.is_closing():
            return
        self._refused = True
        if not self._idle():
            if self.pipeline or self.cycle.response_started or not self._in_body:
                self.transport.close()
                return
            self.cycle.disconnected = True  # the application waits for a body that cannot be read on: it has nothing to say
            self.cycle.message_event.set()
        body = status_body(error, as_json=False)
        headers = [(b"content-type", b"application/x-protobuf"), (b"content-length", str(len(body)).encode()),
                   (b"connection", b"close"), *status_headers(error)]
        lines = [b"HTTP/1.1 %d %s" % (error.http, _REASONS[error.http]), *(name + b": " + value for name, value in headers)]
        self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        if self.transport.can_write_eof():
            self._in_head = False
            self.transport.write_eof()  # what still arrives would otherwise reset the connection, and the answer with it
            self._start_clock(DISCARD_SECONDS_MAX)
        else:
            self.transport.close()


def _head_too_large() -> HeadersTooLarge:
    return HeadersTooLarge(f"a request may have {HEADERS_MAX} headers and {HEAD_BYTES_MAX} bytes of them and its path: send fewer")
