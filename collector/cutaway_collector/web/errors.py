"""Every way a page can fail, as one shape that a template and a JSON twin share.

Not a logger: what went wrong inside is logged by the caller with its traceback; the page tells the visitor what to do.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from flask import Request
from werkzeug.exceptions import HTTPException

from cutaway_collector.errors import CutawayError, QueryError, QueryTooLarge, RequestError, StoreError

_NO_PAGES: Final = frozenset({"/healthz", "/readyz", "/metrics", "/live/events"})


class BadParameter(CutawayError):
    """A parameter of the URL is not what its name says. `hint` tells what would be."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Missing(CutawayError):
    """Nothing is stored under this id. `hint` tells where it may have gone."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class WrongHost(CutawayError):
    """The Host header names another machine: a page elsewhere is being tricked into reading this one (DNS rebinding)."""


class ForeignForm(CutawayError):
    """A change that another site may have asked for in the visitor's name."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What the visitor is told. `column` is the 0-based offset in `query` where the trouble is, -1 when there is no such place."""

    status: int
    title: str
    message: str
    hint: str = ""
    column: int = -1
    query: str = ""

    def twin(self) -> dict[str, Any]:
        """The JSON answer."""
        body = {key: value for key, value in asdict(self).items() if value not in ("", -1)}
        return {"error": body}


def wants_page(request: Request) -> bool:
    """Whether a failure is told as a page: not at addresses of data (`.json`, `.f32`, `/metrics`, events, what runs the collector),
    nor to a program that asks for an exported file. They are told as JSON."""
    path = request.path
    if "." in path.rpartition("/")[2] or path.startswith("/admin/") or path in _NO_PAGES:
        return False
    return not (path == "/export" and "format" in request.args and "text/html" not in request.headers.get("Accept", ""))


def describe(error: Exception, query: str = "") -> Failure:
    """Any exception -> what to tell the visitor. Unknown ones become a 500 without their text, which may hold payload."""
    if isinstance(error, QueryError):
        if not query:  # the verb also checks sort keys, cursors and head numbers
            return Failure(400, "This address cannot be read", str(error), error.hint)
        return Failure(400, "This query cannot be read", str(error), error.hint, max(0, min(error.column, len(query))), query)
    if isinstance(error, BadParameter):
        return Failure(400, "This address cannot be read", str(error), error.hint)
    if isinstance(error, Missing):
        return Failure(404, "Nothing here", str(error), error.hint)
    if isinstance(error, WrongHost):
        return Failure(421, "Wrong host", str(error), "Open the collector by the address it listens on.")
    if isinstance(error, ForeignForm):
        return Failure(403, "Refused", str(error),
                       "Open the page again, by the collector's own address, and send its form from there. Programs send an API "
                       "key as `Authorization: Bearer KEY`.")
    if isinstance(error, QueryTooLarge):
        return Failure(400, "This asks for too much at once", str(error))
    if isinstance(error, StoreError):
        hint = "It is worth trying again in a moment." if error.retryable else "Trying again will not help until this is put right."
        return Failure(503, "The store did not answer", str(error), hint)
    if isinstance(error, RequestError):
        return Failure(error.http, "Refused", str(error))
    if isinstance(error, HTTPException):
        return _http(error)
    return Failure(
        500,
        "This page broke",
        "An error inside cutaway kept this page from being made.",
        "The collector's log holds the details; the rest of cutaway goes on.",
    )


def _http(error: HTTPException) -> Failure:
    status = error.code or 500
    if status == 404:
        return Failure(
            404,
            "Nothing here",
            "There is no page at this address.",
            "Paste a trace id (32 hex digits) or a span id (16) into the search box to jump to it.",
        )
    return Failure(status, error.name, error.description or error.name)
