"""The routes that help with typing: suggestions for the search box, the words of the language, what the palette leads to.

    GET /complete.json           parameters: q, caret, from, to
    GET /vocabulary.json         fields, flags, stages and so on, with an ETag: browsers ask whether it has changed
    GET /palette.json            pages, saved searches, keys

Not the searching and not the lists on the screen, which the scripts draw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from flask import Flask, Response, g, request
from werkzeug.wrappers import Response as AnyResponse

from cutaway_collector.search import completion
from cutaway_collector.search.saved import SavedSearches
from cutaway_collector.web import urls
from cutaway_collector.web.gate import opens
from cutaway_collector.web.keys import SHORTCUTS
from cutaway_collector.web.navigation import NAVIGATION
from cutaway_collector.web.pages import complete, saved
from cutaway_collector.web.site import Site


def routes(app: Flask, site: Site, searches: SavedSearches, answer: Callable[..., Response]) -> None:
    """Adds them."""

    @app.get("/complete.json")
    def complete_twin() -> Response:
        return answer(complete.twin(site, request.args))

    @app.get("/vocabulary.json")
    def vocabulary() -> AnyResponse:
        response = answer(completion.vocabulary())
        response.headers["Cache-Control"] = "private, no-cache"  # kept, and asked about: it changes with the version alone
        response.add_etag()
        return response.make_conditional(request)

    @app.get("/palette.json")
    def palette() -> Response:
        pages: list[dict[str, Any]] = [{"label": "Search", "url": urls.search()}]
        pages += [{"label": entry.label, "url": entry.path} for entry in NAVIGATION if opens(entry.path)]
        pages += [{"label": "Trigger rates", "url": urls.rates()}] if opens("/scores") else []
        kept = [{"label": one.name, "url": saved.address(one), "help": one.query} for one in searches.all(g.caller.tenant)]
        return answer({"pages": pages, "saved": kept, "keys": [asdict(line) for line in SHORTCUTS]})
