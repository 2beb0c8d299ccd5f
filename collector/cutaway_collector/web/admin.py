"""The routes of whoever runs the collector: start, watch and cancel a back-fill, as JSON. No pages, and not the back-fill itself.

    POST /admin/backfill.json         {"start_ns", "end_ns", "scorers", "service", "model", "missing"}, or {"resume": true}
    GET  /admin/backfill.json         the running job, else the last one, else null
    POST /admin/backfill-cancel.json  {}

All lie under /admin, which asks for the scope admin. A back-fill covers every tenant, so the key must not be of one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from flask import Flask, Response, g, request

from cutaway_collector.backfill import Backfills, Request
from cutaway_collector.errors import MalformedRequest, NotFound, PermissionDenied, SettingsError, UnsupportedMedia

ROUTE: Final = "/admin/backfill.json"
CANCEL_ROUTE: Final = "/admin/backfill-cancel.json"
_KINDS: Final[dict[str, type]] = {"start_ns": int, "end_ns": int, "scorers": list, "service": str, "model": str, "missing": bool}
_DEFAULTS: Final[dict[str, Any]] = {"scorers": [], "service": "", "model": "", "missing": False}


def routes(app: Flask, backfills: Backfills | None, answer: Callable[..., Response]) -> None:
    """Adds them. backfills: None where nothing can be started (an application without a pipeline), which answers 404."""

    def ours() -> Backfills:
        if g.caller.tenant:
            raise PermissionDenied("a back-fill covers every tenant: use an admin key that is of none")
        if backfills is None:
            raise NotFound("back-fills are run by `cutaway serve`, this is an application of its own")
        return backfills

    @app.get(ROUTE)
    def backfill_status() -> Response:
        return answer({"backfill": ours().status()})

    @app.post(ROUTE)
    def backfill_start() -> Response:
        service = ours()
        try:
            return answer({"backfill": service.start(_asked(body()))}, 202)
        except SettingsError as error:
            raise MalformedRequest(str(error)) from None

    @app.post(CANCEL_ROUTE)
    def backfill_cancel() -> Response:
        service = ours()
        body()
        return answer({"backfill": service.cancel()}, 202)


def body() -> dict[str, Any]:
    """The JSON object sent. Its media type is demanded because no form of another site can send it."""
    if request.mimetype != "application/json":
        raise UnsupportedMedia(f"this route takes application/json, it was sent {request.mimetype[:40] or 'nothing'!r}")
    try:
        body = json.loads(request.get_data(), object_pairs_hook=_once)
    except RecursionError:
        raise MalformedRequest("the body is nested too deeply") from None
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise MalformedRequest("the body is a JSON object: {} where there is nothing to say")
    return body


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise MalformedRequest(f"{twice[:60]!r} stands twice in one object: the first would be lost. Give it once.")
    return found


def _asked(body: dict[str, Any]) -> Request | None:
    if body.get("resume") is True:
        return None
    unknown = [name for name in body if name not in _KINDS]
    if unknown:
        raise MalformedRequest(f"a back-fill has no {unknown[0][:40]!r}: it has {', '.join(_KINDS)} or resume")
    for name, kind in _KINDS.items():
        value: Any = body.get(name, _DEFAULTS.get(name))
        if type(value) is not kind or not _inside(value):
            raise MalformedRequest(f"{name} of a back-fill is {_words(kind)}: it is {str(value)[:40]!r}")
    return Request.of(body)


def _inside(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(one, str) for one in value)
    return not isinstance(value, int) or 0 <= value < 2**63


def _words(kind: type) -> str:
    return {int: "nanoseconds since 1970", list: "a list of names", str: "a name", bool: "true or false"}[kind]
