"""The routes of judgements over many answers: window scores, the form that makes an alert rule over them, and trigger rates.

    GET  /scores, /scores.json      parameters: from, to, service, model: how often scores trigger
    GET  /windows, /windows.json    parameters: from, to, service, model, route, template, label, limit; the page also rule: the
                                    rule that its form shows, for changing it
    POST /windows/alert             form: do (make, remove), rule (which one is changed or removed, none for a new one), and the
                                    fields of window_alert.Form

Changing a rule needs the scope edit, and a tenant's rules are its own. Not the judging: that is the alerts flow's.
"""

from __future__ import annotations

from collections.abc import Callable

from flask import Flask, Response, g, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from cutaway_collector.web import urls
from cutaway_collector.web.gate import may
from cutaway_collector.web.pages import rates, windows
from cutaway_collector.web.pages.window_alert import WindowRules
from cutaway_collector.web.site import Site


def routes(app: Flask, site: Site, rules: WindowRules, render: Callable[..., Response], answer: Callable[..., Response]) -> None:
    """Adds them."""

    @app.get("/windows")
    def windows_page() -> Response:
        watching = windows.Watching(rules, g.caller.tenant) if may("edit") else None
        return render("windows.html", windows.page(site, request.args, watching))

    @app.get("/windows.json")
    def windows_twin() -> Response:
        return answer(windows.twin(site, request.args))

    @app.get("/scores")
    def scores_page() -> Response:
        return render("rates.html", rates.page(site, request.args))

    @app.get("/scores.json")
    def scores_twin() -> Response:
        return answer(rates.twin(site, request.args))

    @app.post("/windows/alert")
    def windows_alert() -> AnyResponse:
        tenant, changes = g.caller.tenant, request.form.get("rule", "")
        if request.form.get("do") == "remove":
            rules.remove(tenant, changes)
            return redirect(urls.alerts(), 303)
        return redirect(urls.alerts(rule=rules.make(tenant, request.form, changes=changes)), 303)
