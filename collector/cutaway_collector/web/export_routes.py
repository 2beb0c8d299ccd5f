"""The routes of exports: the page that offers them, its JSON twin, and the files.

    GET /export, /export.json                                                 parameters of the search page
    GET /export?format=csv|jsonl|parquet&rows=all|these&arrays=0|1            the same, and a file is the answer

Not the rows and not the formats. Few files are under way at once, and when its client goes away a file's next page is not read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from flask import Flask, Response, request, stream_with_context

from cutaway_collector.errors import TooManyRequests
from cutaway_collector.web.pages import export
from cutaway_collector.web.site import Site

RETRY_AFTER_S: Final = 15


def routes(app: Flask, site: Site, render: Callable[..., Response], answer: Callable[..., Response]) -> None:
    """Adds them."""
    places = threading.BoundedSemaphore(site.settings.exports_max)

    @app.get("/export")
    def export_page() -> Response:
        if "format" not in request.args:
            page = export.page(site, request.args)
            return render("export.html", page, query=page.query, from_text=page.from_text)
        if not places.acquire(blocking=False):
            raise TooManyRequests(f"{site.settings.exports_max} exports are under way, which is as many as the setting exports_max "
                                  "allows: try again when one has ended", retry_after_s=RETRY_AFTER_S)
        try:
            file = export.download(site, request.args)
            response = Response(stream_with_context(file.pieces), mimetype=file.mimetype)
        except BaseException:
            places.release()
            raise
        response.call_on_close(places.release)
        response.headers["Content-Disposition"] = f'attachment; filename="{file.name}"'
        return response

    @app.get("/export.json")
    def export_twin() -> Response:
        return answer(export.twin(site, request.args))
