"""The routes of saved searches: the page, its JSON twin, and the forms that save, rename and delete.

    GET  /saved, /saved.json        parameters: filter
    POST /saved                     form: name, q, from, to, sort, cols, view; takes the place of the search of that name
    POST /saved/rename              form: name, new
    POST /saved/delete              form: name
    POST /saved/alert               form: name, do (make, remove), and the fields of saved_alert.Form: the alert rule of that search

A tenant's searches are its own; changing them needs the scope edit. Not the keeping: that is the search verb's.
"""

from __future__ import annotations

from collections.abc import Callable

from flask import Flask, Response, g, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from cutaway_collector.errors import NotFound
from cutaway_collector.search.saved import SavedSearch, SavedSearches
from cutaway_collector.web import urls
from cutaway_collector.web.gate import may
from cutaway_collector.web.pages import saved
from cutaway_collector.web.pages.saved_alert import Subscriptions
from cutaway_collector.web.site import Site


def routes(
    app: Flask, site: Site, searches: SavedSearches, alerts: Subscriptions, render: Callable[..., Response],
    answer: Callable[..., Response],
) -> None:
    """Adds them."""

    @app.get("/saved")
    def saved_page() -> Response:
        may_change = may("edit")
        rules = alerts.rules(g.caller.tenant) if may_change else None
        return render("saved.html", saved.page(searches.all(g.caller.tenant), request.args, site.now_ns(), rules))

    @app.get("/saved.json")
    def saved_twin() -> Response:
        return answer(saved.twin(searches.all(g.caller.tenant), request.args))

    @app.post("/saved")
    def saved_save() -> AnyResponse:
        form = {key: request.form.get(key, "").strip() for key in ("name", "q", "from", "to", "sort", "cols", "view")}
        searches.save(g.caller.tenant, SavedSearch(
            form["name"], form["q"], form["from"], form["to"], form["sort"], form["cols"], form["view"], g.caller.name))
        return redirect(urls.saved(), 303)

    @app.post("/saved/rename")
    def saved_rename() -> AnyResponse:
        old, new = request.form.get("name", ""), request.form.get("new", "").strip()
        searches.rename(g.caller.tenant, old, new)
        alerts.renamed(g.caller.tenant, old, new)
        return redirect(urls.saved(), 303)

    @app.post("/saved/delete")
    def saved_delete() -> AnyResponse:
        name = request.form.get("name", "")
        searches.delete(g.caller.tenant, name)
        alerts.deleted(g.caller.tenant, name)
        return redirect(urls.saved(), 303)

    @app.post("/saved/alert")
    def saved_alert() -> AnyResponse:
        tenant, wanted = g.caller.tenant, request.form.get("name", "")
        search = next((one for one in searches.all(tenant) if one.name == wanted), None)
        if search is None:
            raise NotFound(f"no search is saved as {wanted[:100]!r}")
        if request.form.get("do") == "remove":
            alerts.unsubscribe(tenant, search)
            return redirect(urls.saved(), 303)
        return redirect(urls.alerts(rule=alerts.subscribe(tenant, search, request.form)), 303)
