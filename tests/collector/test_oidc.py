"""Signing in at an OpenID Connect provider: a real one in a thread, real sockets, and a browser made of `requests`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from flask import Flask
from oidc_provider_mock import User, run_server_in_thread

from cutaway_collector.contracts import Caller
from cutaway_collector.credentials import Credentials, add
from cutaway_collector.errors import SettingsError
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore
from cutaway_collector.web import create_app, oidc
from cutaway_collector.web.gate import Gate
from cutaway_collector.web.sessions import Sessions
from flask_serving import serving
from web_helpers import stored

ROLES = "crew=editor, bosses=admin, guests=viewer@acme"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseStore]:
    with stored(tmp_path_factory.mktemp("oidc"), (), ()) as opened:
        yield opened


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    """A provider that lets anybody be anybody, and says in `groups` what the name begins with."""
    people = [User(sub=f"{group}-1", claims={"groups": groups, "email": f"{group}@example.org"})
              for group, groups in (("crew", ["x", "crew"]), ("bosses", ["bosses", "crew"]), ("guests", ["guests"]),
                                    ("strangers", []), ("text", "crew"))]
    with run_server_in_thread(user_claims=people, require_nonce=True) as server:
        yield f"http://localhost:{server.server_port}"


Open = Callable[..., str]


@pytest.fixture
def opened(store: ClickHouseStore, issuer: str, tmp_path: Path) -> Iterator[Open]:
    """Serves the pages with these settings; gives their address."""
    keys = tmp_path / "keys.json"
    add(keys, "reader", ["read"])
    secret = tmp_path / "secret"
    secret.write_text("of the registration\n")
    with ExitStack() as stack:

        def start(**changes: Any) -> str:
            # Where it listens is known only once it listens: the tests go on there from whatever stands in the settings.
            settings = Settings(**{"oidc_issuer": issuer, "oidc_client_id": "cutaway", "oidc_roles": ROLES,
                                   "oidc_client_secret_file": str(secret),
                                   "ui_url": "http://127.0.0.1:1", "auth": "required", **changes})
            sessions = Sessions(b"s" * 32, secure=False)
            provider = oidc.provider(settings, sessions)
            app = create_app(store, settings, gate=Gate(Credentials(keys), sessions, provider))
            return stack.enter_context(serving(app))

        yield start


def sign_in(browser: requests.Session, at: str, who: str, back: str = "/help") -> requests.Response:
    """There and back; what the way back answered."""
    away = browser.get(f"{at}/sign-in/oidc", params={"next": back}, allow_redirects=False)
    assert away.status_code == 302, away.text
    returned = requests.post(away.headers["Location"], data={"sub": who}, allow_redirects=False, timeout=60)
    home = urlsplit(returned.headers["Location"])
    return browser.get(f"{at}{home.path}?{home.query}", timeout=60)


@pytest.mark.parametrize(("who", "reads", "edits", "runs"), [
    ("crew-1", 200, 303, 403), ("bosses-1", 200, 303, 200), ("guests-1", 200, 403, 403), ("text-1", 200, 303, 403),
])
def test_a_person_gets_the_role_of_the_first_entry_that_fits(opened: Open, who: str, reads: int, edits: int, runs: int) -> None:
    """Viewers look, editors keep searches too, admins see the system; `crew` stands before `bosses`, so order decides."""
    at = opened(oidc_roles="bosses=admin,crew=editor,guests=viewer")
    with requests.Session() as browser:
        welcome = sign_in(browser, at, who)
        assert welcome.status_code == 200
        assert 'content="0; url=/help"' in welcome.text

        assert browser.get(f"{at}/search.json").status_code == reads
        form = {"name": f"of {who}", "q": "is:error", "form_token": browser.get(f"{at}/form-token.json").json()["token"]}
        saving = browser.post(f"{at}/saved", data=form, allow_redirects=False)
        assert saving.status_code == edits
        assert browser.get(f"{at}/system.json").status_code == runs


def test_who_comes_first_counts(opened: Open) -> None:
    """Somebody whom two entries fit gets the role of the one that stands first."""
    at = opened(oidc_roles="crew=viewer,bosses=admin")
    with requests.Session() as browser:
        sign_in(browser, at, "bosses-1")

        assert browser.get(f"{at}/system.json").status_code == 403


def test_whom_no_entry_fits_stays_outside(opened: Open) -> None:
    """A known person without a role is told so, and has no session."""
    at = opened()
    with requests.Session() as browser:
        answer = sign_in(browser, at, "strangers-1")

        assert answer.status_code == 403
        assert "no entry of oidc_roles" in answer.text
        assert browser.get(f"{at}/search.json").status_code == 401


def test_a_star_lets_everybody_in(opened: Open) -> None:
    """Everybody who can sign in may look."""
    at = opened(oidc_roles="*=viewer")
    with requests.Session() as browser:
        assert sign_in(browser, at, "strangers-1").status_code == 200
        assert browser.get(f"{at}/search.json").status_code == 200


def test_the_way_there_is_guarded(opened: Open) -> None:
    """State, nonce and a PKCE challenge are sent, to the registered redirect URI and not to the Host of the request."""
    at = opened()
    away = requests.get(f"{at}/sign-in/oidc", headers={"Host": "127.0.0.1:9"}, allow_redirects=False, timeout=60)
    asked = parse_qs(urlsplit(away.headers["Location"]).query)

    assert asked["code_challenge_method"] == ["S256"]
    assert all(len(asked[name][0]) >= 20 for name in ("state", "nonce", "code_challenge"))
    assert asked["redirect_uri"] == ["http://127.0.0.1:1/sign-in/oidc/callback"]
    assert "HttpOnly" in away.headers["Set-Cookie"]
    assert "SameSite=Lax" in away.headers["Set-Cookie"]


def test_an_answer_nobody_asked_for_is_refused(opened: Open) -> None:
    """A way back with the state of another browser, a state of no sign-in, or none: no session."""
    at = opened()
    with requests.Session() as other, requests.Session() as browser:
        away = other.get(f"{at}/sign-in/oidc", allow_redirects=False)
        returned = requests.post(away.headers["Location"], data={"sub": "crew-1"}, allow_redirects=False, timeout=60)
        query = urlsplit(returned.headers["Location"]).query
        for asked in (query, "code=x&state=y", "code=x", "", "error=access_denied&error_description=<b>no</b>"):
            answer = browser.get(f"{at}{oidc.CALLBACK}?{asked}")
            assert answer.status_code == 403
            assert "<b>no</b>" not in answer.text
        assert browser.get(f"{at}/search.json").status_code == 401


def test_a_code_is_good_once(opened: Open) -> None:
    """The same way back a second time is refused."""
    at = opened()
    with requests.Session() as browser:
        away = browser.get(f"{at}/sign-in/oidc", allow_redirects=False)
        returned = requests.post(away.headers["Location"], data={"sub": "crew-1"}, allow_redirects=False, timeout=60)
        query = urlsplit(returned.headers["Location"]).query
        assert browser.get(f"{at}{oidc.CALLBACK}?{query}").status_code == 200
        assert browser.get(f"{at}{oidc.CALLBACK}?{query}").status_code == 403


def test_a_provider_of_another_name_is_not_believed(opened: Open, issuer: str) -> None:
    """An ID token must come from the issuer of the settings, not from whatever its metadata calls itself."""
    described = requests.get(f"{issuer}/.well-known/openid-configuration", timeout=60).json()
    impostor = Flask("impostor")
    impostor.get("/.well-known/openid-configuration")(lambda: described)
    with serving(impostor) as elsewhere, requests.Session() as browser:
        at = opened(oidc_issuer=elsewhere)

        assert sign_in(browser, at, "crew-1").status_code == 403
        assert browser.get(f"{at}/search.json").status_code == 401


def test_a_provider_that_is_away_is_said(opened: Open) -> None:
    """The page says where it did not succeed; keys still work."""
    at = opened(oidc_issuer="http://127.0.0.1:1")
    answer = requests.get(f"{at}/sign-in/oidc", timeout=60)

    assert answer.status_code == 503
    assert "127.0.0.1:1 did not succeed" in answer.text
    assert "API key" in answer.text


@pytest.mark.parametrize("back", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)"])
def test_the_way_back_leads_nowhere_else(opened: Open, back: str) -> None:
    """Where the visitor wanted to go is a page of ours, or the start."""
    at = opened()
    with requests.Session() as browser:
        assert 'content="0; url=/"' in sign_in(browser, at, "crew-1", back).text


def test_a_session_of_a_person_is_tied_to_its_tenant(opened: Open) -> None:
    """@TENANT: what belongs to the whole collector is closed, whatever the role."""
    at = opened(oidc_roles="bosses=admin@acme")
    with requests.Session() as browser:
        sign_in(browser, at, "bosses-1")

        assert browser.get(f"{at}/search.json").status_code == 200
        assert browser.get(f"{at}/admin/backfill.json").status_code == 403


def test_without_a_provider_its_cookies_mean_nothing(store: ClickHouseStore, tmp_path: Path) -> None:
    """A person's session ends when the provider is taken out of the settings."""
    keys = tmp_path / "keys.json"
    add(keys, "reader", ["read"])
    sessions = Sessions(b"s" * 32, secure=False)
    app = create_app(store, Settings(auth="required"), gate=Gate(Credentials(keys), sessions))
    client = app.test_client()
    client.set_cookie(sessions.cookie, sessions.seal(Caller("", frozenset({"admin"}), "ada")))
    assert client.get("/search.json").status_code == 401
    assert client.get("/sign-in/oidc").status_code == 401


@pytest.mark.parametrize(("changes", "words"), [
    ({"oidc_client_id": ""}, "oidc_client_id"), ({"ui_url": ""}, "ui_url"), ({"oidc_roles": ""}, "oidc_roles"),
    ({"ui_url": "http://cutaway.example.org"}, "https"), ({"oidc_issuer": "http://login.example.org"}, "https"),
    ({"oidc_issuer": "login.example.org"}, "https"),
])
def test_settings_that_cannot_work_are_refused(changes: dict[str, str], words: str) -> None:
    """At the start, with the name of what is wrong."""
    complete = {"oidc_issuer": "https://login.example.org", "oidc_client_id": "c", "oidc_roles": "*=viewer",
                "ui_url": "https://cutaway.example.org"}
    Settings(**complete)  # type: ignore[arg-type]  # texts, every one
    with pytest.raises(SettingsError, match=words):
        Settings(**{**complete, **changes})  # type: ignore[arg-type]  # texts, every one


@pytest.mark.parametrize("text", ["crew", "crew=boss", "crew=admin@", "=admin", "crew=admin@a b", "crew==admin"])
def test_roles_that_cannot_be_read_are_refused(text: str) -> None:
    """With the entry and how one is written."""
    with pytest.raises(SettingsError, match="VALUE=ROLE"):
        oidc.grants(text)


def test_a_missing_secret_file_is_refused(tmp_path: Path) -> None:
    """With its name."""
    settings = Settings(oidc_issuer="https://login.example.org", oidc_client_id="c", oidc_roles="*=viewer",
                        ui_url="https://cutaway.example.org", oidc_client_secret_file=str(tmp_path / "none"))
    with pytest.raises(SettingsError, match="none cannot be read"):
        oidc.provider(settings, Sessions(b"s" * 32, secure=True))
