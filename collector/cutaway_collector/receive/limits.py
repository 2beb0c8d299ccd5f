"""Size limits of a request body, enforced while it arrives and while it is inflated. Does not read sockets itself."""

from __future__ import annotations

import zlib

from cutaway_collector.errors import MalformedRequest, TooLarge, UnsupportedMedia


def too_large(limit: int, when: str) -> TooLarge:
    """The refusal for a body over the limit."""
    return TooLarge(
        f"a request may have {limit} bytes {when}, this one has more: send smaller batches, or raise request_bytes_max"
    )


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """Undoes Content-Encoding (`identity`, `gzip`, also several gzip members in a row), never producing more than `limit` bytes.

    Raises UnsupportedMedia for other encodings, TooLarge, MalformedRequest for a damaged or truncated stream.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding != "gzip":
        raise UnsupportedMedia("Content-Encoding is identity or gzip: leave the header out, or use gzip")
    parts: list[bytes] = []
    room, rest = limit, body
    while rest:
        stream = zlib.decompressobj(wbits=31)  # 31: gzip container, largest window
        try:
            part = stream.decompress(rest, room + 1)
        except zlib.error as error:
            raise MalformedRequest(f"the gzip stream is damaged ({error}): send the body again, or without compression") from None
        if len(part) > room:
            raise too_large(limit, "after decompression")
        if not stream.eof:
            raise MalformedRequest("the gzip stream ends too early: send the body again, or without compression")
        parts.append(part)
        room -= len(part)
        rest = stream.unused_data.lstrip(b"\0")  # gzip files may be padded with zero bytes
    return b"".join(parts)
