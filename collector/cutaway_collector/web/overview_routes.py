"""The routes of the start page, of its part that comes later, and their JSON twins.

    GET /, /overview.json                            parameters: from; of the page also changes (now: it waits for them)
    GET /overview/changes, /overview/changes.json    parameters: from

Not the queries, and not the first run, which the page shows while nothing is stored.
"""

from __future__ import annotations

from collections.abc import Callable

from flask import Flask, Response, g, request

from cutaway_collector.web.pages import overview, overview_changes
from cutaway_collector.web.site import Site


def routes(app: Flask, site: Site, render: Callable[..., Response], answer: Callable[..., Response]) -> None:
    """Adds them. What changed since yesterday is kept for a minute, by tenant."""
    recent = overview_changes.Recent()

    @app.get("/")
    def overview_page() -> Response:
        return render("overview.html", overview.page(site, request.args, recent, g.caller.tenant))

    @app.get("/overview.json")
    def overview_twin() -> Response:
        return answer(overview.twin(site, request.args))

    @app.get("/overview/changes")
    def overview_later() -> Response:
        return render("_changes_alone.html", overview_changes.fragment(site, request.args, recent, g.caller.tenant))

    @app.get("/overview/changes.json")
    def overview_later_twin() -> Response:
        return answer(overview_changes.twin(site, request.args, recent, g.caller.tenant))
