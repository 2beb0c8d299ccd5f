"""The routes of the first run: the page, its JSON twin, and loading or removing the sample data by a form.

    GET  /start, /start.json
    POST /start/sample         form: do (load, remove)

Not the sample data. Loading and removing change what is stored, so they need the scope admin, and touch the visitor's tenant alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from flask import Flask, Response, g, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from cutaway_collector.contracts import Store
from cutaway_collector.errors import MalformedRequest, NotFound
from cutaway_collector.search import sample as stored_sample
from cutaway_collector.web import sample, urls
from cutaway_collector.web.gate import may
from cutaway_collector.web.pages import first_run
from cutaway_collector.web.pages.first_run import Intake
from cutaway_collector.web.site import Site

STORED_SECONDS_MAX: Final = 5.0
"""How long the form waits for the sample data, which goes the way of all spans and is stored a moment after it was taken."""


def routes(app: Flask, site: Site, store: Store, intake: Intake | None, render: Callable[..., Response],
           answer: Callable[..., Response]) -> None:
    """Adds them. store: the one that may be changed. intake: None where nothing is received (an application without a pipeline).

    The templates' `first_run()` is the page, for any other that has nothing to show yet.
    """

    def host() -> str:
        return urlsplit(f"//{request.host}").hostname or "localhost"

    def made() -> first_run.FirstRun:
        return first_run.page(site, intake, host=host(), may_load=may("admin"))

    app.jinja_env.globals["first_run"] = made

    @app.get("/start")
    def start_page() -> Response:
        return render("start.html", None)

    @app.get("/start.json")
    def start_twin() -> Response:
        return answer(first_run.twin(site, intake, host=host()))

    @app.post("/start/sample")
    def start_sample() -> AnyResponse:
        if intake is None:
            raise NotFound("sample data is loaded by `cutaway serve`, this is an application of its own")
        wanted = request.form.get("do", "")
        if wanted == "load":
            intake.submit(sample.request(site.now_ns()), "json", g.caller.tenant)
            until_s = time.monotonic() + STORED_SECONDS_MAX
            while not stored_sample.loaded(site.store) and time.monotonic() < until_s:
                time.sleep(0.05)
        elif wanted == "remove":
            stored_sample.remove(store, g.caller.tenant)
        else:
            raise MalformedRequest(f"do is load or remove, it is {wanted[:20]!r}")
        return redirect(urls.start(), 303)
