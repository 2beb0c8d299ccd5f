"""The web UI: Flask routes, each a page and its JSON twin over one page function, behind one error handler and one set of headers.

Not a server (the wiring puts waitress in front) and not the queries (the search verb's): this flow only joins them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import orjson
from flask import Flask, Response, redirect, render_template, request
from jinja2 import StrictUndefined
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from werkzeug.exceptions import MethodNotAllowed
from werkzeug.wrappers import Response as AnyResponse

from cutaway_collector.alerts import Desk
from cutaway_collector.alerts.book import Book
from cutaway_collector.asker import HAS_GONE
from cutaway_collector.backfill import Backfills
from cutaway_collector.contracts import Store
from cutaway_collector.errors import RequestError
from cutaway_collector.search.language import QUERY_CHARACTERS_MAX
from cutaway_collector.search.saved import SavedSearches
from cutaway_collector.search.tenants import TenantStore
from cutaway_collector.settings import Settings
from cutaway_collector.web import (
    admin,
    alert_routes,
    compare_routes,
    complete_routes,
    drift_routes,
    errors,
    export_routes,
    figures,
    form_tokens,
    generation_routes,
    live_routes,
    map_routes,
    overview_routes,
    plugins,
    saved_routes,
    search_routes,
    security,
    start_routes,
    system_routes,
    trace_routes,
    urls,
    windows_routes,
)
from cutaway_collector.web import gate as visitors
from cutaway_collector.web.gate import Gate
from cutaway_collector.web.map_vectors import Vectors
from cutaway_collector.web.navigation import NAVIGATION
from cutaway_collector.web.pages import guide
from cutaway_collector.web.pages.first_run import Intake
from cutaway_collector.web.pages.saved_alert import Subscriptions
from cutaway_collector.web.pages.system import Insides
from cutaway_collector.web.pages.window_alert import WindowRules
from cutaway_collector.web.site import Site
from cutaway_collector.web.static_files import ENDPOINT, StaticFiles

log = logging.getLogger(__name__)

Status = Callable[[], tuple[bool, Mapping[str, Any]]]
"""Tells whether everything answers, and the details as plain JSON values."""

THEMES: Final = ("auto", "light", "dark")
_YEAR_S: Final = 31_536_000


def create_app(
    store: Store,
    settings: Settings,
    *,
    registry: CollectorRegistry | None = None,
    status: Status | None = None,
    now_ns: Callable[[], int] = time.time_ns,
    gate: Gate | None = None,
    backfills: Backfills | None = None,
    streams: live_routes.Streams | None = None,
    intake: Intake | None = None,
    vectors: Vectors | None = None,
) -> Flask:
    """The WSGI application over an open store.

    registry: what /metrics shows, empty when None. status: what /readyz asks, always ready when None. now_ns takes the
    place of the clock. gate: who is let in, everybody when None; every page then shows the rows of the visitor's tenant alone.
    streams: the places of the live view, of this application alone when None. intake: how spans come in, None where none do.
    vectors: embeddings for the map and for drift, which have none of their own when None.
    """
    site = Site(TenantStore(store, visitors.tenant(gate)), settings, now_ns, plugins.installed())
    app = Flask(__name__, static_folder="static", template_folder="templates")
    app.config["MAX_CONTENT_LENGTH"] = 16 * 1024
    app.jinja_env.undefined = StrictUndefined
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.filters.update(figures.FILTERS)
    files = StaticFiles(Path(app.static_folder or ""))
    app.view_functions[ENDPOINT] = files.send
    app.jinja_env.globals["plugins"] = site.plugins
    app.jinja_env.globals.update(static=files.address, module=files.module, urls=urls, query_characters_max=QUERY_CHARACTERS_MAX,
                                 navigation=lambda: [entry for entry in NAVIGATION if visitors.opens(entry.path)])
    _guard(app, settings, files)
    tokens = form_tokens.FormTokens(gate.sessions if gate else None,
                                    secure=gate.sessions.secure if gate else bool(settings.tls_certificate))
    visitors.guard(app, gate, tokens)
    form_tokens.routes(app, tokens)
    visitors.pages(app, gate, _theme)
    _pages(app)
    windows_routes.routes(app, site, WindowRules(Desk(store, settings), Book(store), settings.windows_minutes), _render, _json)
    admin.routes(app, backfills, _json)
    search_routes.routes(app, site, _render, _json)
    trace_routes.routes(app, site, _render, _json)
    generation_routes.routes(app, site, _render, _json)
    vectors = vectors or Vectors(store, None)
    drift_routes.routes(app, site, store, vectors, _render, _json)
    alert_routes.routes(app, site, store, _render, _json)
    live_routes.routes(app, site, streams or live_routes.Streams(settings.live_clients_max), _render, _json)
    start_routes.routes(app, site, store, intake, _render, _json)
    registry = registry or CollectorRegistry()
    system_routes.routes(app, site, Insides(store, registry, status), _render, _json)
    map_routes.routes(app, site, vectors, _render, _json)
    export_routes.routes(app, site, _render, _json)
    searches = SavedSearches(store)
    saved_routes.routes(app, site, searches, Subscriptions(Desk(store, settings), Book(store)), _render, _json)
    complete_routes.routes(app, site, searches, _json)
    compare_routes.routes(app, site, _render, _json)
    overview_routes.routes(app, site, _render, _json)
    _plumbing(app, registry, status)
    return app


def warm_up(app: Flask) -> None:
    """Compiles the templates, half a second in all, so that nobody's first page waits for it."""
    for name in app.jinja_env.list_templates(extensions=["html"]):
        app.jinja_env.get_template(name)


def _theme() -> str:
    theme = request.cookies.get("theme", "")
    return theme if theme in THEMES else "auto"


def _render(template: str, page: Any, *, code: int = 200, query: str = "", from_text: str = "") -> Response:
    here = request.full_path.rstrip("?")
    html = render_template(template, page=page, theme=_theme(), here=here, query=query, from_text=from_text,
                           signed_in=visitors.signed_in())
    return Response(html, code, mimetype="text/html")


def _json(body: Any, code: int = 200) -> Response:
    """NaN and infinities become null: JSON has no word for them."""
    return Response(orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY, default=str), code, mimetype="application/json")


def _guard(app: Flask, settings: Settings, files: StaticFiles) -> None:
    check = security.host_check_wanted(settings)

    @app.before_request
    def asker() -> None:
        # First of all, for the thread has served others; not undone afterwards, for the file of an export follows the request.
        # What changes something is done to its end, whoever leaves.
        HAS_GONE.set(request.environ.get("waitress.client_disconnected") if request.method in ("GET", "HEAD") else None)

    @app.before_request
    def host() -> None:
        if check:
            security.check_host(request)

    @app.after_request
    def seal(response: Response) -> Response:
        files.pack(request, response)
        return security.seal(response, immutable=files.is_lasting(request, response))

    @app.errorhandler(Exception)
    def failed(error: Exception) -> AnyResponse:
        elsewhere = visitors.refused(error) if isinstance(error, RequestError) else None
        if elsewhere is not None:
            return elsewhere
        failure = errors.describe(error, request.args.get("q", "").strip())
        if failure.status == 500:
            log.error("page failed: %s", request.path, exc_info=error)
        # The error page has a search box and links, which are no use to somebody who is not let in.
        twin = not errors.wants_page(request) or (not visitors.known() and failure.status in (401, 429))
        answer = _json(failure.twin(), failure.status) if twin else _render(
            "error.html", failure, code=failure.status, query=failure.query
        )
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            answer.headers["Allow"] = ", ".join(sorted(error.valid_methods))
        if isinstance(error, RequestError) and error.http == 401:
            answer.headers["WWW-Authenticate"] = 'Bearer realm="cutaway"'
        if isinstance(error, RequestError) and error.retry_after_s is not None:
            answer.headers["Retry-After"] = str(error.retry_after_s)
        return answer


def _pages(app: Flask) -> None:
    @app.get("/help")
    def help_page() -> AnyResponse:
        return _render("help.html", guide.page())

    @app.post("/theme")
    def theme() -> AnyResponse:
        wanted, back = request.form.get("theme", "auto"), request.form.get("back", "/")
        response = redirect(back if urls.is_local(back) else "/", 303)
        response.set_cookie("theme", wanted if wanted in THEMES else "auto", max_age=_YEAR_S, samesite="Lax", httponly=True)
        return response


def _plumbing(app: Flask, registry: CollectorRegistry, status: Status | None) -> None:
    @app.get("/healthz")
    def healthz() -> Response:
        return _json({"alive": True})

    @app.get("/readyz")
    def readyz() -> Response:
        ready, details = status() if status else (True, {})
        return _json({"ready": ready, **(details if visitors.known() else {})}, 200 if ready else 503)

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)
