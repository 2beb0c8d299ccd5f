"""The routes of baselines and drift: the page, its JSON twin, and pin, list and remove as JSON for whoever runs the collector.

    GET  /drift, /drift.json            parameters: baseline, at (end of a stored window), or from and to
    GET  /admin/baselines.json          every baseline of the caller's tenant, all of them for a key of none
    POST /admin/baselines.json          {"service", "model", "start_ns", "end_ns", "version", "tenant"}
    POST /admin/baselines-remove.json   {"baseline"}
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from flask import Flask, Response, g, request

from cutaway_collector.baselines import listed, pin, remove
from cutaway_collector.baselines.attributes import Scope
from cutaway_collector.contracts import Store
from cutaway_collector.errors import MalformedRequest, PermissionDenied, SettingsError
from cutaway_collector.web import admin
from cutaway_collector.web.map_vectors import Vectors
from cutaway_collector.web.pages import drift
from cutaway_collector.web.site import Site

ROUTE: Final = "/admin/baselines.json"
REMOVE_ROUTE: Final = "/admin/baselines-remove.json"
_TEXTS: Final = ("service", "model", "version", "tenant")
_TIMES: Final = ("start_ns", "end_ns")


def routes(app: Flask, site: Site, store: Store, vectors: Vectors, render: Callable[..., Response],
           answer: Callable[..., Response]) -> None:
    """Adds them. store: the one that may be written; the pages read the visitor's view of it. vectors: embeddings of texts."""
    embedder = drift.Embedder(vectors, site.settings.score_device)

    @app.get("/drift")
    def drift_page() -> Response:
        return render("drift.html", drift.page(site, request.args, embedder, g.caller.tenant))

    @app.get("/drift.json")
    def drift_twin() -> Response:
        return answer(drift.twin(site, request.args, embedder, g.caller.tenant))

    @app.get(ROUTE)
    def baselines() -> Response:
        return answer({"baselines": [one.shown() for one in listed(store, g.caller.tenant or None)]})

    @app.post(ROUTE)
    def baseline_pin() -> Response:
        try:
            return answer({"baseline": pin(store, _scope(admin.body())).shown()}, 201)
        except SettingsError as error:
            raise MalformedRequest(str(error)) from None

    @app.post(REMOVE_ROUTE)
    def baseline_remove() -> Response:
        wanted = admin.body().get("baseline")
        if not isinstance(wanted, str):
            raise MalformedRequest("say which: {\"baseline\": \"its id\"}")
        try:
            return answer({"baseline": remove(store, wanted, g.caller.tenant or None).shown()})
        except SettingsError as error:
            raise MalformedRequest(str(error)) from None


def _scope(body: dict[str, Any]) -> Scope:
    """What is to be pinned; of the caller's own tenant unless the key is of none."""
    unknown = [name for name in body if name not in (*_TEXTS, *_TIMES)]
    if unknown:
        raise MalformedRequest(f"a baseline has no {unknown[0][:40]!r}: it has {', '.join((*_TEXTS, *_TIMES))}")
    texts = {name: body.get(name, "") for name in _TEXTS}
    numbers = {name: body.get(name) for name in _TIMES}
    if not all(isinstance(text, str) for text in texts.values()):
        raise MalformedRequest(f"{', '.join(_TEXTS)} of a baseline are names")
    if not all(type(number) is int and 0 <= number < 2**63 for number in numbers.values()):
        raise MalformedRequest("start_ns and end_ns of a baseline are nanoseconds since 1970")
    mine = g.caller.tenant
    if mine and texts["tenant"] not in ("", mine):
        raise PermissionDenied("a key of a tenant pins baselines of that tenant alone")
    return Scope(mine or texts["tenant"], texts["service"], texts["model"], body["start_ns"], body["end_ns"], texts["version"])
