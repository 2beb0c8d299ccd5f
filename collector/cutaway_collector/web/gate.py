"""Who is let in to which route: an API key in the Authorization header, or the session of a browser that signed in.

Not the keys (those are `credentials`) and not the routes: a scope follows from the route's name and method, so that a new route is
closed until somebody opens it here.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from flask import Flask, Request, Response, g, has_request_context, redirect, render_template, request
from werkzeug.wrappers import Response as AnyResponse

from cutaway_collector import credentials
from cutaway_collector.contracts import Caller, Scope
from cutaway_collector.credentials import Credentials
from cutaway_collector.errors import PermissionDenied, RequestError, TooManyRequests, Unauthenticated
from cutaway_collector.web import oidc, urls
from cutaway_collector.web.errors import ForeignForm
from cutaway_collector.web.form_tokens import FormTokens
from cutaway_collector.web.sessions import SESSION_SECONDS_MAX, Sessions

OPEN: Final = frozenset({"static", "healthz", "readyz", "sign_in", "sign_in_with_key", "form_token", *oidc.ENDPOINTS})
"""Endpoints for everybody: probes carry no keys, and a sign-in page must look like one, and be sent, before it is used."""
HARMLESS: Final = frozenset({"theme", "sign_out"})
"""Endpoints that change nothing but the visitor's own cookies, so that reading is scope enough."""
EDITING: Final = frozenset({"saved_save", "saved_rename", "saved_delete", "saved_alert", "alerts_mute", "windows_alert"})
"""Endpoints that change what a team shares and nothing of the collector: an editor's."""
_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
KEY_CHARS_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Gate:
    """What the UI needs to know visitors by. None in its place: everybody is let in."""

    credentials: Credentials
    sessions: Sessions
    provider: oidc.Provider | None = None


def scope_of(endpoint: str | None, method: str, path: str) -> Scope | None:
    """What a request must be allowed to do; None for everybody's. Whatever changes something and was not made an editor's, or tells
    of every tenant, needs admin."""
    if endpoint in OPEN:
        return None
    if path in ("/admin", "/system", "/system.json") or path.startswith("/admin/"):
        return "admin"
    if method in _READING or endpoint in HARMLESS:
        return "read"
    return "edit" if endpoint in EDITING else "admin"


def guard(app: Flask, gate: Gate | None, tokens: FormTokens) -> None:
    """Closes every route of the application but the open ones, and refuses changes that other sites cause: what the browser says
    of where they come from, and then the token that only our own pages hold, must be right."""

    @app.before_request
    def check() -> None:
        changes = request.method not in _READING
        if changes:
            _check_origin(request)
        let_in()
        if changes and request.endpoint is not None:  # where no route is, 404 and 405 say more
            tokens.check(request)

    def let_in() -> None:
        if gate is None:
            g.caller = Caller("", frozenset(credentials.SCOPES))
            return
        scope = scope_of(request.endpoint, request.method, request.path)
        if scope is not None:
            g.caller = _caller(gate, scope)
        elif request.endpoint == "readyz":  # says more to those who may read
            with suppress(RequestError):
                g.caller = _caller(gate, "read")


def _caller(gate: Gate, scope: Scope) -> Caller:
    authorization = request.headers.get("Authorization", "")
    if authorization:
        return gate.credentials(authorization, scope, request.remote_addr or "")
    found = gate.sessions.open(request.cookies.get(gate.sessions.cookie, ""))
    if isinstance(found, Caller):
        caller = found if gate.provider else None
    else:
        caller = gate.credentials.caller_of(found) if found else None
    if caller is None:
        raise Unauthenticated("sign in, or send an API key as `Authorization: Bearer KEY`")
    g.caller, g.signed_in = caller, True  # before it is refused: the page that says so shows where the visitor may go
    credentials.permit(caller, scope)
    return caller


def _check_origin(request: Request) -> None:
    """Raises ForeignForm for what a browser sends on behalf of another site. Programs send neither header."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is not None:
        fine = site in ("same-origin", "none")
    else:
        fine = origin is None or urlsplit(origin).netloc.lower() == request.headers.get("Host", "").lower()
    if not fine:
        raise ForeignForm("this form was sent by another site, or by a browser that hides from where")


def tenant(gate: Gate | None) -> Callable[[], str]:
    """Whose rows the visitor may see, asked at each query. Behind a gate, outside of a request it is nobody's: RuntimeError."""

    def of_visitor() -> str:
        if gate is None and not has_request_context():
            return ""
        caller: Caller = g.caller
        return caller.tenant

    return of_visitor


def signed_in() -> bool:
    """Whether the visitor has a session to end."""
    return bool(g.get("signed_in", False))


def known() -> bool:
    """Whether the visitor may be told more than that the collector is alive: nobody checks keys, or the visitor may read."""
    return "caller" in g


def may(scope: Scope) -> bool:
    """Whether the visitor has the scope; for what a page shows, since routes are closed by their own."""
    return credentials.allows(g.caller, scope)


def opens(path: str) -> bool:
    """Whether the page at this path would be shown to the visitor: links to others are left out."""
    scope = scope_of(None, "GET", path)
    return scope is None or (known() and may(scope))


def refused(error: RequestError) -> AnyResponse | None:
    """Where a browser that is not known is sent: the sign-in page. None for programs, which want the status."""
    page = request.method == "GET" and not request.path.endswith(".json") and "text/html" in request.headers.get("Accept", "")
    if not isinstance(error, Unauthenticated) or not page or request.headers.get("Authorization"):
        return None
    return redirect(urls.sign_in(request.full_path.rstrip("?")), 303)


def pages(app: Flask, gate: Gate | None, theme: Callable[[], str]) -> None:
    """The sign-in page, where it is needed."""
    if gate is None:
        return

    def shown(code: int, message: str = "") -> Response:
        html = render_template("sign_in.html", theme=theme(), message=message, next=_back(), key_chars_max=KEY_CHARS_MAX,
                               provider=gate.provider.name if gate.provider else "")
        return Response(html, code, mimetype="text/html")

    def welcome(who: Caller) -> AnyResponse:
        """The answer that carries the session: a page, for along a redirect that another site began no strict cookie is sent."""
        html = render_template("signed_in.html", theme=theme(), next=_back())
        return _with_session(Response(html, 200, mimetype="text/html"), gate.sessions, who)

    if gate.provider:
        gate.provider.routes(app, welcome, shown)

    @app.get("/sign-in")
    def sign_in() -> AnyResponse:
        return shown(200)

    @app.post("/sign-in")
    def sign_in_with_key() -> AnyResponse:
        key = request.form.get("key", "").strip()[:KEY_CHARS_MAX]
        try:
            digest = gate.credentials.digest(f"Bearer {key}", "read", request.remote_addr or "")
        except (Unauthenticated, PermissionDenied, TooManyRequests) as error:
            answer = shown(error.http, str(error))
            if error.retry_after_s is not None:
                answer.headers["Retry-After"] = str(error.retry_after_s)
            return answer
        return _with_session(redirect(_back(), 303), gate.sessions, digest)

    @app.post("/sign-out")
    def sign_out() -> AnyResponse:
        response = redirect(urls.sign_in(), 303)
        response.delete_cookie(gate.sessions.cookie, httponly=True, samesite="Strict", secure=gate.sessions.secure, path="/")
        return response


def _back() -> str:
    """Where the visitor wanted to go, if that is a page of ours."""
    wanted = request.values.get("next", "") or g.get("back", "")
    return wanted if urls.is_local(wanted) else "/"


def _with_session(response: AnyResponse, sessions: Sessions, who: str | Caller) -> AnyResponse:
    response.set_cookie(sessions.cookie, sessions.seal(who), max_age=SESSION_SECONDS_MAX, httponly=True, samesite="Strict",
                        secure=sessions.secure, path="/")
    return response
