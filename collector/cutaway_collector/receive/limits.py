"""Size limits of a request body, enforced while it is inflated and in sum. Does not read sockets itself.

gzip goes through ISA-L, which inflates a 512-span request 1.7 times as fast as zlib; zstd is four times as fast as zlib.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any, Final

from isal import igzip_lib, isal_zlib

from cutaway_collector.errors import MalformedRequest, Overloaded, TooLarge, UnsupportedMedia

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MEMBERS_MAX: Final = 1000
"""gzip members or zstd frames of one body: writers make one, or one a flush; a body of empty ones is an attack on the processor."""
WINDOW_LOG_MAX: Final = 23
"""zstd frames may ask for a window of 8 MiB, as RFC 9659 has it for HTTP; a frame that asks for gigabytes is refused unread."""

_PIECE_BYTES: Final = 1024 * 1024
"""Fed at a time: what follows a member is copied, so a piece bounds the price of a member."""
_GZIP: Final = 31  # zlib's name for the gzip container with the largest window


class Budget:
    """Bytes of bodies that are being taken at once, all senders together. A single body is always let in. Thread-safe."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self.held = 0

    def take(self, nbytes: int, mine: int) -> None:
        """Adds nbytes to the `mine` this body has already. Raises Overloaded when the others leave no room."""
        with self._lock:
            if self.held > mine and self.held + nbytes > self._limit:
                raise Overloaded(f"{self.held} bytes of requests are being taken already, receive_bytes_max allows {self._limit}: "
                                 "send this request again in a moment")
            self.held += nbytes

    def give_back(self, nbytes: int) -> None:
        """The body is done with."""
        with self._lock:
            self.held -= nbytes


class Share:
    """What one body has of a budget; for one thread."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.held = 0

    def take(self, nbytes: int) -> None:
        """More of it. Raises Overloaded when the others leave no room."""
        self._budget.take(nbytes, self.held)
        self.held += nbytes

    def give_back(self) -> None:
        """All of it."""
        self._budget.give_back(self.held)
        self.held = 0


def too_large(limit: int, when: str) -> TooLarge:
    """The refusal for a body over the limit."""
    return TooLarge(
        f"a request may have {limit} bytes {when}, this one has more: send smaller batches, or raise request_bytes_max"
    )


def check_encoding(encoding: str) -> None:
    """Raises UnsupportedMedia for a Content-Encoding `inflate` would not undo."""
    if _normal(encoding) not in ("", "identity", *_INFLATERS):
        raise UnsupportedMedia("Content-Encoding is identity, gzip or zstd, once: leave the header out, or use gzip")


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """Undoes Content-Encoding (`identity`, `gzip`, `zstd`; also several members in a row), never making more than `limit` bytes.

    Raises UnsupportedMedia for other encodings, TooLarge, MalformedRequest for a damaged or truncated stream.
    """
    check_encoding(encoding)
    if (name := _normal(encoding)) not in _INFLATERS:
        return body
    parts: list[bytes] = []
    room, members = limit, 0
    stream: Any = None
    view = memoryview(body)
    for at in range(0, len(body), _PIECE_BYTES):
        rest: Any = view[at : at + _PIECE_BYTES]
        while rest:
            if stream is None:
                if parts and name == "gzip" and not (rest := bytes(rest).lstrip(b"\0")):
                    break  # gzip files may be padded with zero bytes
                members += 1
                if members > MEMBERS_MAX:
                    raise MalformedRequest(f"a {name} body may have {MEMBERS_MAX} members, this one has more: send it as one")
                stream = _INFLATERS[name]()
            part = _next_part(stream, rest, room, name)
            if len(part) > room:
                raise too_large(limit, "after decompression")
            parts.append(part)
            room -= len(part)
            rest, stream = (stream.unused_data, None) if stream.eof else (b"", stream)
    if stream is not None:
        raise MalformedRequest(f"the {name} stream ends too early: send the body again, or without compression")
    return b"".join(parts)


def _next_part(stream: Any, rest: Any, room: int, name: str) -> bytes:
    try:
        part: bytes = stream.decompress(rest, room + 1)
    except (igzip_lib.IsalError, zstd.ZstdError):  # type: ignore[misc]  # its stubs call the class an instance
        # The library's message is about its own states, and says nothing a sender could act on.
        raise MalformedRequest(f"the {name} stream is damaged, or needs more memory than is given to one: send the body again, "
                               "or without compression") from None
    return part


def _gunzip() -> Any:
    return isal_zlib.decompressobj(wbits=_GZIP)


def _unzstd() -> Any:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG_MAX})


_INFLATERS: Final[dict[str, Callable[[], Any]]] = {"gzip": _gunzip, "x-gzip": _gunzip, "zstd": _unzstd}


def _normal(encoding: str) -> str:
    return encoding.strip().lower()
