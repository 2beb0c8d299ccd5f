"""The token that whoever changes something must send along: our own pages hold it, and no page of another site can read it.

Not who may change what (the gate's), and not the look at where a form comes from, which stays beside it. A token is a keyed hash
of the visitor's session cookie, so it is worth nothing in another session and ends with its own. Who has none (nobody signs in
on loopback, and nobody has on the sign-in page) gets a cookie of random bytes in its place.
"""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from typing import Final

from flask import Flask, Request, Response, g, request
from markupsafe import Markup

from cutaway_collector.web.errors import ForeignForm
from cutaway_collector.web.sessions import Sessions

FIELD: Final = "form_token"
HEADER: Final = "X-Form-Token"
ROUTE: Final = "/form-token.json"
"""Where a program that has no key asks for a token: {"token"}, and the cookie it belongs to."""
_COOKIE_BYTES: Final = 16
_COOKIE: Final = re.compile(r"[A-Za-z0-9_-]{22}", re.ASCII)
_FORMS: Final = ("application/x-www-form-urlencoded", "multipart/form-data")


class FormTokens:
    """sessions: those of the gate, None where nobody signs in. Tokens without a gate end with this object."""

    def __init__(self, sessions: Sessions | None, *, secure: bool) -> None:
        self._sessions = sessions
        self._secret = sessions.derived("form tokens") if sessions else secrets.token_bytes(32)
        self._secure = secure
        self.cookie = "__Host-cutaway_visitor" if secure else "cutaway_visitor"

    def token(self) -> str:
        """What this visitor's forms carry. Gives the visitor a cookie first where there is nothing to bind it to."""
        bound_to = self._bound_to(request)
        if not bound_to:
            if "visitor_cookie" not in g:
                g.visitor_cookie = secrets.token_urlsafe(_COOKIE_BYTES)
            bound_to = g.visitor_cookie
        return self._of(bound_to)

    def field(self) -> Markup:
        """The token as the hidden field of a form."""
        return Markup('<input type="hidden" name="{}" value="{}">').format(FIELD, self.token())

    def check(self, asked: Request) -> None:
        """Raises ForeignForm unless the token comes along, in the form's field or the header."""
        if _carries_a_key(asked):
            return
        given = asked.headers.get(HEADER, "")
        if not given and asked.mimetype in _FORMS:
            given = asked.form.get(FIELD, "")
        bound_to = self._bound_to(asked)
        if not bound_to or not hmac.compare_digest(given.encode(), self._of(bound_to).encode()):
            what = "does not carry the token of your session" if given else "carries no token"
            raise ForeignForm(f"what was sent {what}, which every form of these pages does")

    def keep(self, response: Response) -> None:
        """Puts the cookie made for this visitor on the answer. Lax: a link on another site must not replace it."""
        made = g.get("visitor_cookie", "")
        if made:
            response.set_cookie(self.cookie, made, httponly=True, samesite="Lax", secure=self._secure, path="/")

    def _bound_to(self, asked: Request) -> str:
        """The session cookie if it is one of ours, else the visitor's; "" for neither."""
        if self._sessions:
            session = asked.cookies.get(self._sessions.cookie, "")
            if session and self._sessions.open(session):
                return session
        visitor = asked.cookies.get(self.cookie, "")
        return visitor if _COOKIE.fullmatch(visitor) else ""

    def _of(self, bound_to: str) -> str:
        return base64.urlsafe_b64encode(hmac.digest(self._secret, bound_to.encode(), "sha256")).decode().rstrip("=")


def _carries_a_key(asked: Request) -> bool:
    """A bearer key is nothing a browser adds by itself, nor can a page of another site add it; Basic credentials are."""
    return asked.headers.get("Authorization", "")[:7].lower() == "bearer "


def routes(app: Flask, tokens: FormTokens) -> None:
    """Gives templates `form_token()`, the field, and programs the route."""
    app.jinja_env.globals["form_token"] = tokens.field

    @app.get(ROUTE)
    def form_token() -> dict[str, str]:
        return {"token": tokens.token()}

    @app.after_request
    def keep(response: Response) -> Response:
        tokens.keep(response)
        return response
