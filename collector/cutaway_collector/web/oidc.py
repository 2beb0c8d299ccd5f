"""Signing in at an OpenID Connect provider: the way there, the way back, and what the person may do here.

Not the protocol, which is Authlib's (code flow with PKCE, state, nonce, and the ID token's signature, issuer, audience and times),
and not the session. A person is what the ID token says at that moment: nothing is asked of the provider afterwards.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from flask import Flask, Response, g, request, session
from werkzeug.wrappers import Response as AnyResponse

from cutaway_collector.contracts import Caller, Scope
from cutaway_collector.errors import SettingsError
from cutaway_collector.settings import Settings
from cutaway_collector.web import urls
from cutaway_collector.web.sessions import Sessions

_LOG: Final = logging.getLogger(__name__)

ENDPOINTS: Final = ("sign_in_elsewhere", "signed_in_elsewhere")
"""Routes that somebody without a session must reach."""
CALLBACK: Final = "/sign-in/oidc/callback"
ROLES: Final[Mapping[str, frozenset[Scope]]] = {
    "viewer": frozenset({"read"}), "editor": frozenset({"edit"}), "admin": frozenset({"admin"}),
}
PROVIDER_SECONDS_MAX: Final = 10
"""How long the provider may take to answer; a thread of the UI waits."""
_ENTRY: Final = re.compile(r"(?P<value>[^=,]+)=(?P<role>[a-z]+)(?:@(?P<tenant>[A-Za-z0-9][A-Za-z0-9_.-]{0,63}))?")


@dataclass(frozen=True, slots=True)
class Grant:
    """One entry of `oidc_roles`: whoever's claim holds the value ("*": everybody) has the scopes, on the tenant's rows."""

    value: str
    scopes: frozenset[Scope]
    tenant: str


def grants(text: str) -> tuple[Grant, ...]:
    """`oidc_roles` read. Raises SettingsError."""
    found: list[Grant] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        entry = _ENTRY.fullmatch(part)
        if entry is None or entry["role"] not in ROLES:
            raise SettingsError("oidc_roles is made of VALUE=ROLE or VALUE=ROLE@TENANT with commas, a role being one of "
                                f"{', '.join(ROLES)}; it holds {part[:80]!r}")
        found.append(Grant(entry["value"].strip(), ROLES[entry["role"]], entry["tenant"] or ""))
    return tuple(found)


def person(claims: Mapping[str, Any], claim: str, given: tuple[Grant, ...]) -> Caller | None:
    """Who signed in, with what the first grant that fits allows; None when none fits."""
    held = claims.get(claim)
    values = [held] if isinstance(held, str) else held if isinstance(held, list) else []
    name = next((str(claims[key])[:200] for key in ("email", "preferred_username", "name", "sub") if claims.get(key)), "somebody")
    grant = next((one for one in given if one.value == "*" or one.value in values), None)
    return Caller(grant.tenant, grant.scopes, name) if grant else None


def provider(settings: Settings, sessions: Sessions) -> Provider:
    """The provider of these settings. Raises SettingsError: roles that cannot be read, no secret file, Authlib not installed."""
    try:
        from authlib.integrations.flask_client import OAuth
    except ImportError:
        raise SettingsError("signing in at oidc_issuer needs Authlib: pip install 'cutaway[oidc]'") from None
    secret = ""
    if settings.oidc_client_secret_file:
        try:
            secret = Path(settings.oidc_client_secret_file).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"oidc_client_secret_file {settings.oidc_client_secret_file} cannot be read: {error}") from None
    return Provider(settings, OAuth, secret, sessions, grants(settings.oidc_roles))


class Provider:
    """Where people sign in. `name`: its host, as the sign-in page calls it. Reached first when somebody signs in."""

    def __init__(self, settings: Settings, oauth: Any, secret: str, sessions: Sessions, given: tuple[Grant, ...]) -> None:
        self.name = urlsplit(settings.oidc_issuer).netloc
        self._settings, self._oauth, self._secret, self._sessions, self._grants = settings, oauth, secret, sessions, given

    def routes(
        self, app: Flask, welcome: Callable[[Caller], AnyResponse], trouble: Callable[[int, str], Response]
    ) -> None:
        """Adds the way there and the way back. welcome: the answer that begins a session; trouble: the sign-in page with words."""
        app.secret_key = self._sessions.derived("oidc state")
        # State, nonce and verifier of a sign-in under way. Lax: the way back is a link on another site.
        app.config.update(SESSION_COOKIE_NAME=("__Host-" if self._sessions.secure else "") + "cutaway_oidc",
                          SESSION_COOKIE_SAMESITE="Lax", SESSION_COOKIE_SECURE=self._sessions.secure, SESSION_COOKIE_HTTPONLY=True)
        issuer = self._settings.oidc_issuer.rstrip("/")
        client = self._oauth(app).register(
            "oidc", client_id=self._settings.oidc_client_id, client_secret=self._secret or None,
            server_metadata_url=f"{issuer}/.well-known/openid-configuration",
            client_kwargs={"scope": "openid profile email", "code_challenge_method": "S256",
                           "default_timeout": PROVIDER_SECONDS_MAX,
                           "token_endpoint_auth_method": "client_secret_basic" if self._secret else "none"})
        back = self._settings.ui_url.rstrip("/") + CALLBACK

        @app.get("/sign-in/oidc")
        def sign_in_elsewhere() -> AnyResponse:
            session.clear()  # one sign-in at a time: a cookie is small
            wanted = request.args.get("next", "")
            try:
                answer: AnyResponse = client.authorize_redirect(back)
            except Exception as error:
                return trouble(503, self._failed(error))
            session["back"] = wanted if urls.is_local(wanted) and len(wanted) < 2000 else "/"
            return answer

        @app.get(CALLBACK)
        def signed_in_elsewhere() -> AnyResponse:
            g.back = session.get("back", "/")
            try:
                known = {"iss": {"essential": True, "values": [self._settings.oidc_issuer, issuer]}}
                claims = client.authorize_access_token(claims_options=known).get("userinfo")
            except Exception as error:
                return trouble(403, self._failed(error))
            finally:
                session.clear()
            if not claims:
                return trouble(403, f"{self.name} did not say who you are: its answer holds no ID token")
            who = person(claims, self._settings.oidc_claim, self._grants)
            if who is None:
                return trouble(403, f"{self.name} knows you, but no entry of oidc_roles lets you in: ask who runs this collector")
            _LOG.info("signed in at %s: %s, may %s", self.name, who.name, " and ".join(sorted(who.scopes)))
            return welcome(who)

    def _failed(self, error: Exception) -> str:
        """Words for the page; what happened goes to the log alone, for it may hold what others should not see."""
        _LOG.warning("signing in at %s failed: %s: %s", self.name, type(error).__name__, str(error)[:300])
        return f"Signing in at {self.name} did not succeed. Try again; if it stays so, the collector's log says why."
