"""The routes of the search page, of the fragments it fetches, and of its forms, which lead to another address.

    GET  /search, /search.json              parameters: search_state.NAMES; col, more and facet come from its forms
    GET  /search/facet, /search/facet.json  those, and name
    GET  /search/picture                    those, and rows (how many the page shows)
    GET  /search/plot.json                  those
    GET  /search/row/<trace>/<span>[.json]  at: its start
    GET  /search/compare                    pick: two rows
    GET  /search/selection                  q, field, low, high, from, to, start, end

Not the pages themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from flask import Flask, Response, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from cutaway_collector.search.heat import MEASURES
from cutaway_collector.web import search_state, urls
from cutaway_collector.web.errors import BadParameter
from cutaway_collector.web.pages import search, search_picture, stats
from cutaway_collector.web.site import Arguments, Site

_PICK: Final = re.compile(r"(?:span|trace):[0-9A-Za-z_.-]{1,64}")
_VALUE: Final = re.compile(r'[^\s()"|{}\[\]]{1,40}')


def routes(app: Flask, site: Site, render: Callable[..., Response], answer: Callable[..., Response]) -> None:
    """Adds them."""

    @app.get("/search")
    def search_page() -> AnyResponse:
        target = (search.jump(site, request.args.get("q", "").strip()) or search_state.tidied(request.args)
                  or stats.compared(request.args))
        if target:
            return redirect(target)
        if stats.wanted(request.args):
            figures = stats.page(site, request.args)
            return render("stats.html", figures, query=figures.query, from_text=figures.from_text)
        page = search.page(site, request.args)
        return render("search.html", page, query=page.query, from_text=request.args.get("from", ""))

    @app.get("/search.json")
    def search_twin() -> AnyResponse:
        target = stats.compared(request.args, json=True)
        if target:
            return redirect(target)
        return answer((stats if stats.wanted(request.args) else search).twin(site, request.args))

    @app.get("/search/facet")
    def search_facet() -> Response:
        return render("_facet_alone.html", search.facet_fragment(site, request.args))

    @app.get("/search/facet.json")
    def search_facet_twin() -> Response:
        return answer(search.facet_twin(site, request.args))

    @app.get("/search/picture")
    def search_later() -> Response:
        return render("_picture_alone.html", search_picture.fragment(site, request.args))

    @app.get("/search/plot.json")
    def search_plot_twin() -> Response:
        return answer(search_picture.twin(site, request.args))

    @app.get("/search/row/<trace_id>/<span_id>")
    def search_row(trace_id: str, span_id: str) -> Response:
        return render("_row_more.html", search.row_page(site, trace_id, span_id, request.args))

    @app.get("/search/row/<trace_id>/<span_id>.json")
    def search_row_twin(trace_id: str, span_id: str) -> Response:
        return answer(search.row_twin(site, trace_id, span_id, request.args))

    @app.get("/search/compare")
    def search_compare() -> AnyResponse:
        return redirect(picked(request.args.getlist("pick")))

    @app.get("/search/selection")
    def search_selection() -> AnyResponse:
        return redirect(selected(request.args))


def picked(rows: list[str]) -> str:
    """Where two chosen rows are compared. Raises BadParameter."""
    if len(rows) != 2:
        raise BadParameter(f"two rows are compared, {len(rows)} were selected",
                           hint="go back and select two: x marks a row, c compares")
    if not all(_PICK.fullmatch(row) for row in rows):
        raise BadParameter("a row is picked as span:ID or trace:ID")
    return urls.compare(a=rows[0], b=rows[1])


def selected(args: Arguments) -> str:
    """Where a selection of the picture is compared with the rest: with the other values of that time, or with the time around it.

    Raises BadParameter.
    """
    field, query = args.get("field", ""), args.get("q", "")
    low, high, since, until = (args.get(name, "").strip() for name in ("low", "high", "from", "to"))
    for value in (low, high):
        if value and not _VALUE.fullmatch(value):
            raise BadParameter(f"an end of a selection is a number with a unit, it is {value[:40]!r}", hint="try 500ms")
    if low or high:
        if field not in MEASURES:
            raise BadParameter(f"a selection is of one of {', '.join(MEASURES)}, it is of {field[:20]!r}")
        term = " ".join([f"{field}:>={low}"] * bool(low) + [f"{field}:<{high}"] * bool(high))
        return urls.compare(a=term, b=f"-({term})", q=query, from_=since, to=until)
    start, end = args.get("start", ""), args.get("end", "")
    if not (since and until) or (since, until) == (start, end):
        raise BadParameter("a selection is a part of the picture: of its values, of its time, or of both",
                           hint="fill in one of the fields, or drag over the picture with the shift key held")
    before = start and since != start
    return urls.compare(q=query, afrom=since, ato=until, bfrom=start if before else until, bto=since if before else end)
