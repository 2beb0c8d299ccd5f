"""The routes of generations: the page, its JSON twin, a window of its lanes for the script, and its numbers as float32.

    GET /gen/<span_id>              see pages.generation_choice for the parameters
    GET /gen/<span_id>.json         parameters: seq, heads, attention, start, count
    GET /gen/<span_id>/lane.json    as the page, of which it is one window
    GET /gen/<span_id>.f32          parameters: series, seq, heads, start, count

Not the looking up and not the drawing.
"""

from __future__ import annotations

from collections.abc import Callable

from flask import Flask, Response, request

from cutaway_collector.web.pages import generation, generation_twin
from cutaway_collector.web.site import Site


def routes(app: Flask, site: Site, render: Callable[..., Response], answer: Callable[..., Response]) -> None:
    """Adds them."""

    @app.get("/gen/<span_id>")
    def generation_page(span_id: str) -> Response:
        return render("generation.html", generation.page(site, span_id, request.args))

    @app.get("/gen/<span_id>.json")
    def generation_json(span_id: str) -> Response:
        return answer(generation_twin.twin(site, span_id, request.args))

    @app.get("/gen/<span_id>/lane.json")
    def generation_lane(span_id: str) -> Response:
        return answer(generation.lane(site, span_id, request.args))

    @app.get("/gen/<span_id>.f32")
    def generation_numbers(span_id: str) -> Response:
        return Response(generation_twin.binary(site, span_id, request.args), mimetype="application/octet-stream")
