"""What every answer carries and every request must satisfy: a strict content policy, and a Host that is ours.

Not a sign-in: who is let in to what is the gate's business.
"""

from __future__ import annotations

import re
from typing import Final

from flask import Request, Response

from cutaway_collector.settings import Settings, split_address
from cutaway_collector.web.errors import WrongHost

POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        # No script of ours makes markup from text; with this, none can by mistake.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""Spans hold text written by strangers. Were it ever printed unescaped, this still keeps it from running or calling out."""

HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    # Other sites learn nothing; under no-referrer our own forms would not say where they come from.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_HONEST: Final = re.compile(r"(?:127\.0\.0\.1|localhost\.?|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE | re.ASCII)


def host_check_wanted(settings: Settings) -> bool:
    """True when the UI listens on loopback: then every honest Host header names loopback, whatever its port."""
    return split_address("ui", settings.ui)[0] in _LOOPBACK


def check_host(request: Request) -> None:
    """Raises WrongHost unless the Host header is a name of loopback, with one port or none."""
    host = request.headers.get("Host") or request.host  # the property drops a default port, so 127.0.0.1:80:80 would pass
    if not _HONEST.fullmatch(host):
        raise WrongHost(f"this collector answers on loopback only, the request was for {host[:80]!r}")


def seal(response: Response, *, immutable: bool) -> Response:
    """Puts the headers on. Pages show what is stored right now and may hold prompts, so nothing but static files is kept."""
    for name, value in HEADERS.items():
        response.headers[name] = value
    if immutable:
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
    elif "Cache-Control" not in response.headers:
        response.headers["Cache-Control"] = "no-store"
    return response
