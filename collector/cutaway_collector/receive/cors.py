"""CORS of OTLP/HTTP: which browser pages may send spans. Off unless origins are named; never allows credentials such as cookies."""

from __future__ import annotations

import re
from typing import Final

from cutaway_collector.errors import SettingsError

Headers = list[tuple[bytes, bytes]]

_ORIGIN: Final = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+")
_MAX_AGE_S: Final = b"7200"  # what Chromium caps it to


class Cors:
    """origins: `scheme://host[:port]` each, or one `*`. Raises SettingsError for anything else."""

    def __init__(self, origins: str, *, authenticated: bool) -> None:
        """origins: comma separated, "" for none. authenticated: keys are asked for, which a page of any origin must not carry."""
        self._origins = frozenset(part.strip().rstrip("/") for part in origins.split(",") if part.strip())
        for origin in self._origins - {"*"}:
            if not _ORIGIN.fullmatch(origin):
                raise SettingsError(f"cors_origins are like https://app.example.com, comma separated: {origin!r} is no origin")
        if "*" in self._origins and authenticated:
            raise SettingsError("cors_origins may not be * while senders need a key: name the origins that may use one")

    def headers(self, origin: str) -> Headers:
        """What a reply to this Origin carries; nothing unless it is allowed."""
        if not origin or not self._origins & {origin, "*"}:
            return []
        allowed = b"*" if "*" in self._origins else origin.encode("latin-1")
        return [(b"access-control-allow-origin", allowed), (b"vary", b"Origin")]

    def preflight(self, origin: str) -> Headers:
        """What a preflight is answered with; nothing unless the origin is allowed."""
        allowed = self.headers(origin)
        if not allowed:
            return []
        return [
            *allowed,
            (b"access-control-allow-methods", b"POST"),
            (b"access-control-allow-headers", b"content-type, content-encoding, authorization"),
            (b"access-control-max-age", _MAX_AGE_S),
        ]
