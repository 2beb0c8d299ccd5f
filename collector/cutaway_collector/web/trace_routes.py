"""The routes of a trace: its page, the fragment of one span, what its script reads, and the traces around it in a search.

    GET /trace/<trace_id>, /trace/<trace_id>.json
    GET /trace/<trace_id>/skeleton.json                     all rows as columns
    GET /trace/<trace_id>/matches.json?f=                   spans that the filter finds
    GET /trace/<trace_id>/span/<span_id>[.json]             parameter: start (of the trace, nanoseconds since 1970)
    GET /trace/<trace_id>/next[.json], .../previous[.json]  parameters of the search: q, from, to, sort, view

Not the queries: those are the search verb's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from flask import Flask, Response, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from cutaway_collector.web.errors import BadParameter
from cutaway_collector.web.pages import neighbours, span, trace
from cutaway_collector.web.site import Site

_START_DIGITS_MAX: Final = 19


def routes(app: Flask, site: Site, render: Callable[..., Response], answer: Callable[..., Response]) -> None:
    """Adds them."""

    @app.get("/trace/<trace_id>")
    def trace_page(trace_id: str) -> AnyResponse:
        page = trace.page(site, trace_id, request.args)
        return render("trace.html", page, query=page.search.get("q", ""), from_text=page.search.get("from", ""))

    @app.get("/trace/<trace_id>.json")
    def trace_twin(trace_id: str) -> Response:
        return answer(trace.twin(site, trace_id))

    @app.get("/trace/<trace_id>/skeleton.json")
    def trace_skeleton(trace_id: str) -> Response:
        return answer(trace.skeleton_twin(site, trace_id, request.args))

    @app.get("/trace/<trace_id>/matches.json")
    def trace_matches(trace_id: str) -> Response:
        return answer(trace.matches_twin(site, trace_id, request.args))

    @app.get("/trace/<trace_id>/span/<span_id>")
    def span_fragment(trace_id: str, span_id: str) -> Response:
        start = request.args.get("start", "0")
        if not start.isascii() or not start.isdigit() or len(start) > _START_DIGITS_MAX:
            raise BadParameter(f"start is a number of nanoseconds, it is {start[:20]!r}", hint="leave it out")
        return render("span.html", span.page(site, trace_id, span_id, start_ns=int(start)))

    @app.get("/trace/<trace_id>/span/<span_id>.json")
    def span_twin(trace_id: str, span_id: str) -> Response:
        return answer(span.twin(site, trace_id, span_id))

    @app.get("/trace/<trace_id>/<any(next, previous):way>")
    def neighbour_page(trace_id: str, way: str) -> AnyResponse:
        return redirect(neighbours.page(site, trace_id, request.args, forward=way == "next"))

    @app.get("/trace/<trace_id>/<any(next, previous):way>.json")
    def neighbour_twin(trace_id: str, way: str) -> Response:
        return answer(neighbours.twin(site, trace_id, request.args, forward=way == "next"))
