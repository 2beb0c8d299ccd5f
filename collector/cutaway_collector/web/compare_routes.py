"""The routes of the comparison: the page and its JSON twin.

    GET /compare, /compare.json    parameters: a, b, q (of both), from, to, afrom, ato, bfrom, bto; by (a field: its two top values)

Not the comparing, which is the comparison flow's.
"""

from __future__ import annotations

from collections.abc import Callable

from flask import Flask, Response, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from cutaway_collector.web.pages import compare, compare_twin
from cutaway_collector.web.site import Site


def routes(app: Flask, site: Site, render: Callable[..., Response], answer: Callable[..., Response]) -> None:
    """Adds them."""

    @app.get("/compare")
    def compare_page() -> AnyResponse:
        fault = None
        if request.args.get("by", "").strip():
            try:
                return redirect(compare.by(site, request.args))
            except compare.Alone as error:
                fault = error
        page = compare.page(site, request.args, fault)
        return render("compare.html", page, code=400 if page.fault else 200, from_text=page.values["from"])

    @app.get("/compare.json")
    def compare_twin_() -> Response:
        return answer(compare_twin.twin(site, request.args))
