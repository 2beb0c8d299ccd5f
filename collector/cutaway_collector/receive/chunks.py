"""A chunked body, taken apart as it comes. It reads no socket, and what stands behind the chunks is dropped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import httptools

from cutaway_collector.errors import HeadersTooLarge, MalformedRequest

FRAMING_BYTES_MAX: Final = 32 * 1024
"""Read without a byte of the body among them: extensions and trailers, which are of no use here."""
_HEAD: Final = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"


class Chunks:
    """ended: the last chunk has come; followed: and what may be another request, which is lost."""

    def __init__(self) -> None:
        self.ended = self.followed = False
        self._parts: list[bytes] = []
        self._framing_bytes = 0
        parser = httptools.HttpRequestParser(self)
        parser.feed_data(_HEAD)
        self._feed: Callable[[bytes], None] = parser.feed_data

    def decode(self, data: bytes) -> bytes:
        """The bytes of the body in the next bytes on the wire. Raises MalformedRequest, HeadersTooLarge."""
        self._framing_bytes += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError:
            if not self.ended:
                # The library's message may quote the request.
                raise MalformedRequest("the chunks of the body are malformed: send it with Content-Length") from None
            self.followed = True
        if self._framing_bytes > FRAMING_BYTES_MAX:
            raise HeadersTooLarge(f"a chunked body may have {FRAMING_BYTES_MAX} bytes of extensions and trailers: leave them out")
        part = b"".join(self._parts)
        self._parts.clear()
        if self.ended:
            self._feed = _nothing_more  # the parser holds this object
        return part

    def on_message_begin(self) -> None:
        """The first is our own."""
        self.followed = self.ended

    def on_chunk_header(self) -> None:
        """The next chunk."""
        self._framing_bytes = 0

    def on_body(self, part: bytes) -> None:
        """Part of it."""
        self._framing_bytes = 0
        self._parts.append(part)

    def on_message_complete(self) -> None:
        """The last chunk and what trails it."""
        self.ended = True


def _nothing_more(data: bytes) -> None:
    raise AssertionError("nothing is read of a body that has ended")
