"""The routes of the system page. It tells of every tenant, so the key must be an admin's and of no tenant.

    GET /system, /system.json
"""

from __future__ import annotations

from collections.abc import Callable

from flask import Flask, Response, g

from cutaway_collector.errors import PermissionDenied
from cutaway_collector.web.gate import may
from cutaway_collector.web.pages import system
from cutaway_collector.web.site import Site


def routes(app: Flask, site: Site, insides: system.Insides, render: Callable[..., Response],
           answer: Callable[..., Response]) -> None:
    """Adds them."""

    def ours() -> system.Insides:
        if g.caller.tenant or not may("admin"):
            raise PermissionDenied("this page tells of every tenant: use an admin key that is of none")
        return insides

    @app.get("/system")
    def system_page() -> Response:
        return render("system.html", system.page(site, ours()))

    @app.get("/system.json")
    def system_twin() -> Response:
        return answer(system.facts(site, ours()))
