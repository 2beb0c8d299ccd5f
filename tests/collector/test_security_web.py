"""Who is let in to the UI: every route without a key and with each kind of key, the sign-in page, its cookie, foreign forms."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

import web_helpers as world
from cutaway_collector import credentials
from cutaway_collector import web as web_package
from cutaway_collector.credentials import Credentials
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore
from cutaway_collector.web import create_app, sessions
from cutaway_collector.web.gate import Gate
from cutaway_collector.web.sessions import Sessions
from web_helpers import Page

OPEN = {"/static/<path:filename>", "/healthz", "/readyz", "/sign-in", "/form-token.json"}
"""Written down here once more, so that opening a route is a decision in two places."""
EDITORS = {"/saved", "/saved/rename", "/saved/delete", "/saved/alert", "/alerts/mute", "/windows/alert"}
"""And what an editor may change."""
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseStore]:
    with world.stored(tmp_path_factory.mktemp("web") / "data", *world.hostile_world()) as open_store:
        yield open_store


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def keys(keys_file: Path) -> dict[str, str]:
    """Scope -> a key that has it alone."""
    return {scope: credentials.add(keys_file, scope, [scope]) for scope in credentials.SCOPES}


@pytest.fixture
def app(store: ClickHouseStore, keys_file: Path, keys: dict[str, str]) -> Flask:
    gate = Gate(Credentials(keys_file), Sessions(b"s" * 32, secure=False))
    status = (True, {"writer": "running"})
    return create_app(store, Settings(data="unused"), now_ns=lambda: world.NOW_NS, gate=gate, status=lambda: status)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return world.with_token(app.test_client())


def _requests(app: Flask) -> list[tuple[str, str, str]]:
    """Every (rule, method, path) of the application, HEAD and OPTIONS included."""
    values = {"trace_id": f"{world.RAG_TRACE:032x}", "span_id": f"{world.CHAT:016x}", "filename": "cutaway.css"}
    found = []
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:[a-z]+:)?([a-z_]+)>", lambda match: values[match[1]], rule.rule)
        found += [(rule.rule, method, path) for method in sorted(rule.methods or ())]
    assert len(found) > 30
    return found


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _sign_in(client: FlaskClient, key: str, back: str = "/help") -> object:
    answer = client.post("/sign-in", data={"key": key, "next": back})
    assert (303, back) == (answer.status_code, answer.location)
    world.with_token(client)
    return answer


def test_every_route_is_closed_without_a_key(app: Flask, client: FlaskClient) -> None:
    """Walk the whole map of routes: but for probes, static files and the sign-in page, nothing answers, known or not."""
    for rule, method, path in [*_requests(app), ("/nowhere", "GET", "/nowhere"), ("/admin/x", "POST", "/admin/x")]:
        answer = client.open(path, method=method)
        if rule in OPEN:
            assert 401 != answer.status_code or (method, rule) == ("POST", "/sign-in"), (method, path)
            continue
        assert 401 == answer.status_code, (method, path)
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("scope", ["ingest", "read", "edit", "admin"])
def test_every_route_asks_for_its_scope(app: Flask, client: FlaskClient, keys: dict[str, str], scope: str) -> None:
    """A key that only sends reads nothing; a viewer's changes nothing; an editor's keeps searches and mutes alerts; an admin's is
    let in everywhere."""
    for rule, method, path in _requests(app):
        if rule in OPEN:
            continue
        answer = client.open(path, method=method, headers=_bearer(keys[scope]))
        changes = method not in ("GET", "HEAD", "OPTIONS") and rule not in ("/theme", "/sign-out")
        system = rule.startswith(("/admin", "/system"))
        needed = "edit" if rule in EDITORS and changes else "admin" if changes or system else "read"
        allowed = scope in ("admin", needed) or (scope, needed) == ("edit", "read")
        assert (403 == answer.status_code) is not allowed, (method, path, answer.status_code)
        assert 401 != answer.status_code


def test_a_key_in_the_address_is_no_key(client: FlaskClient, keys: dict[str, str]) -> None:
    """Addresses end up in logs and histories, so nothing in one lets anybody in."""
    for name in ("key", "token", "api_key", "access_token", "authorization"):
        assert 401 == client.get("/search.json", query_string={name: keys["read"]}).status_code
    assert 401 == client.get("/search.json", headers={"Authorization": "Basic " + keys["read"]}).status_code


def test_readiness_tells_details_only_to_those_who_may_read(client: FlaskClient, keys: dict[str, str]) -> None:
    """A probe learns yes or no; the rest names servers and errors."""
    assert {"ready": True} == client.get("/readyz").json == client.get("/readyz", headers=_bearer(keys["ingest"])).json
    assert {"ready": True, "writer": "running"} == client.get("/readyz", headers=_bearer(keys["read"])).json


def test_a_browser_is_led_to_the_sign_in_page_and_back(client: FlaskClient, keys: dict[str, str]) -> None:
    """A link from a colleague survives the sign-in."""
    link = "/search?q=perplexity:>20&from=-1h"
    sent = client.get(link, headers=BROWSER)
    assert 303 == sent.status_code
    page = Page(client.get(sent.location).text)
    (hidden,) = [attrs for tag, attrs in page.tags if tag == "input" and attrs.get("name") == "next"]

    assert client.post("/sign-in", data={"key": keys["read"], "next": hidden["value"]}).location.startswith("/search?q=perplexity:")
    assert 200 == client.get(link, headers=BROWSER).status_code


def test_a_link_from_elsewhere_needs_no_second_sign_in(client: FlaskClient, keys: dict[str, str]) -> None:
    """The strict cookie stays away when another site's link is followed; the page offers the way on, by a click of our own."""
    sent = client.get("/search?q=x", headers=BROWSER).location
    _sign_in(client, keys["read"])
    (onward,) = Page(client.get(sent).text).links("/search?")

    assert 200 == client.get(onward).status_code


def test_programs_get_the_status_and_no_redirect(client: FlaskClient) -> None:
    """A twin, or a request that names a key, is told 401: a page to read would look like an answer."""
    assert 401 == client.get("/search.json", headers=BROWSER).status_code
    assert 401 == client.get("/search", headers={**BROWSER, **_bearer("cw_" + "0" * 43)}).status_code
    assert 401 == client.get("/metrics").status_code


@pytest.mark.parametrize("back", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)"])
def test_the_sign_in_leads_nowhere_else(client: FlaskClient, keys: dict[str, str], back: str) -> None:
    """No open redirect behind a sign-in."""
    assert "/" == client.post("/sign-in", data={"key": keys["read"], "next": back}).location


@pytest.mark.parametrize("secure", [False, True])
def test_the_cookie_is_out_of_reach(store: ClickHouseStore, keys_file: Path, keys: dict[str, str], secure: bool) -> None:
    """Scripts cannot read it, other sites cannot cause it to be sent, with TLS it is never sent without; it holds no key."""
    gate = Gate(Credentials(keys_file), Sessions(b"s" * 32, secure=secure))
    app = create_app(store, Settings(data="unused"), gate=gate)
    at = "https://localhost" if secure else "http://localhost"
    answer = world.with_token(app.test_client(), at).post("/sign-in", data={"key": keys["read"]}, base_url=at)
    (cookie,) = answer.headers.getlist("Set-Cookie")

    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert secure == ("Secure" in cookie.split("; ")) == cookie.startswith("__Host-")
    assert keys["read"] not in cookie
    assert "Domain" not in cookie


@pytest.mark.parametrize("key", ["", "cw_" + "0" * 43, "x" * 10_000, "<script>alert(1)</script>"])
def test_a_wrong_key_is_told_so_on_the_page(client: FlaskClient, key: str) -> None:
    """401 with the reason beside the field; what was typed does not come back."""
    answer = client.post("/sign-in", data={"key": key})
    page = Page(answer.text)

    assert 401 == answer.status_code
    assert [] == answer.headers.getlist("Set-Cookie")
    assert any(attrs.get("role") == "alert" for _, attrs in page.tags)
    assert not key or key[:100] not in answer.text


def test_a_key_that_only_sends_cannot_sign_in(client: FlaskClient, keys: dict[str, str]) -> None:
    """Its session could show nothing; the page says which scope is missing."""
    answer = client.post("/sign-in", data={"key": keys["ingest"]})

    assert 403 == answer.status_code
    assert "scope read" in answer.text


def test_guessing_at_the_sign_in_page_is_slowed_down(client: FlaskClient) -> None:
    """The page throttles as the receivers do, with Retry-After."""
    for _ in range(credentials.FAILURES_PER_MINUTE_MAX):
        assert 401 == client.post("/sign-in", data={"key": "cw_" + "1" * 43}).status_code
    answer = client.post("/sign-in", data={"key": "cw_" + "1" * 43})

    assert 429 == answer.status_code
    assert 1 <= int(answer.headers["Retry-After"]) <= 61
    assert 429 == client.get("/search.json", headers=_bearer("cw_" + "2" * 43)).status_code


def test_a_session_ends_when_its_key_is_removed(client: FlaskClient, app: Flask, keys_file: Path, keys: dict[str, str]) -> None:
    """Revoking a key revokes what was opened with it."""
    _sign_in(client, keys["read"])
    assert 200 == client.get("/help").status_code
    credentials.remove(keys_file, "read")

    deadline = time.monotonic() + 30
    while client.get("/help").status_code != 401:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_session_ends_with_its_time(client: FlaskClient, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A cookie kept longer than the browser should have kept it is worth nothing."""
    _sign_in(client, keys["read"])
    monkeypatch.setattr(sessions, "SESSION_SECONDS_MAX", -1)

    assert 401 == client.get("/help").status_code


@pytest.mark.parametrize("change", [
    lambda value: value[:-9] + ("A" if value[-9] != "A" else "B") + value[-8:], lambda value: "x" + value, lambda value: "",
    lambda value: value.split(".")[0], lambda value: value * 10,
])
def test_a_cookie_that_was_tampered_with_is_nobodys(
    client: FlaskClient, keys: dict[str, str], change: Callable[[str], str]
) -> None:
    """The signature covers all of it."""
    _sign_in(client, keys["read"])
    cookie = client.get_cookie("cutaway_session")
    assert cookie is not None
    client.set_cookie("cutaway_session", change(cookie.value))

    assert 401 == client.get("/help").status_code


def test_a_cookie_of_another_collector_is_nobodys(client: FlaskClient, keys: dict[str, str]) -> None:
    """Each data directory has a secret of its own."""
    client.set_cookie("cutaway_session", Sessions(b"t" * 32, secure=False).seal(credentials.digest_of(keys["read"])))

    assert 401 == client.get("/help").status_code


def test_signing_out_forgets_the_cookie(client: FlaskClient, keys: dict[str, str]) -> None:
    """The button is on every page once signed in, and works without script."""
    _sign_in(client, keys["read"])
    assert any(attrs.get("action") == "/sign-out" for tag, attrs in Page(client.get("/help").text).tags if tag == "form")

    assert (303, "/sign-in") == ((answer := client.post("/sign-out")).status_code, answer.location)
    assert 401 == client.get("/help").status_code


def test_a_session_has_the_scopes_of_its_key(client: FlaskClient, keys: dict[str, str]) -> None:
    """A reader who signed in is no admin."""
    _sign_in(client, keys["read"])
    assert 403 == client.post("/admin/anything").status_code

    _sign_in(client, keys["admin"])
    assert 404 == client.post("/admin/anything").status_code


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 303), ({"Origin": "http://localhost"}, 303), ({"Sec-Fetch-Site": "same-origin"}, 303),
        ({"Sec-Fetch-Site": "none"}, 303),
        ({"Origin": "http://evil.example"}, 403), ({"Origin": "null"}, 403), ({"Origin": "http://localhost:9999"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403), ({"Sec-Fetch-Site": "same-site", "Origin": "http://localhost"}, 403),
    ],
)
def test_forms_of_other_sites_are_refused(client: FlaskClient, keys: dict[str, str], headers: dict[str, str], status: int) -> None:
    """Nobody is signed in, out or to somebody else's account by a page elsewhere, another port of this machine included."""
    assert status == client.post("/sign-in", data={"key": keys["read"]}, headers=headers).status_code
    assert status == client.post("/theme", data={"theme": "dark"}, headers={**headers, **_bearer(keys["read"])}).status_code


def test_the_sign_in_page_can_be_used_by_all(client: FlaskClient) -> None:
    """Label, description and error belong to the field, a password manager knows it, and no script is needed."""
    page = Page(client.post("/sign-in", data={"key": "cw_" + "0" * 43}).text)
    (field,) = [attrs for tag, attrs in page.tags if tag == "input" and attrs.get("name") == "key"]
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}

    assert [{"for": field["id"]}] == [attrs for tag, attrs in page.tags if tag == "label"]
    assert set(str(field["aria-describedby"]).split()) <= ids
    assert ("password", "current-password", "true") == (field["type"], field["autocomplete"], field["aria-invalid"])
    assert 1 == sum(tag == "h1" for tag, _ in page.tags)
    (form,) = [attrs for tag, attrs in page.tags if tag == "form"]
    assert ("/sign-in", "post") == (form["action"], form["method"])
    assert not any(name.startswith("on") or name == "style" for _, attrs in page.tags for name in attrs)
    assert all("src" in attrs for tag, attrs in page.tags if tag == "script")


def test_the_sign_in_page_is_sealed_and_says_nothing_of_the_store(client: FlaskClient) -> None:
    """The strict policy holds, nothing is cached, and a stranger sees no search box, count or name."""
    answer = client.get("/sign-in")

    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "no-store" == answer.headers["Cache-Control"]
    assert not any(attrs.get("role") == "search" for _, attrs in Page(answer.text).tags)


def test_without_a_gate_there_is_no_sign_in(store: ClickHouseStore) -> None:
    """On loopback nobody is asked, and nothing suggests that somebody could be."""
    client = create_app(store, Settings(data="unused")).test_client()

    assert 404 == client.get("/sign-in").status_code
    assert "sign-out" not in client.get("/help").text


def test_the_secret_is_kept_for_its_owner_and_outlives_a_restart(tmp_path: Path) -> None:
    """Made once, 0600 whatever the umask; a file of another size is refused rather than trusted."""
    made = sessions.secret(tmp_path / "secret")

    assert made == sessions.secret(tmp_path / "secret")
    assert 0o600 == (tmp_path / "secret").stat().st_mode & 0o777
    assert made != sessions.secret(tmp_path / "other")
    (tmp_path / "secret").write_bytes(b"")
    with pytest.raises(Exception, match="remove it"):
        sessions.secret(tmp_path / "secret")


def _changes(app: Flask) -> list[str]:
    """Every path of the application that takes a method which may change something, and the sign-in, which changes who one is."""
    found = [(method, path) for _, method, path in _requests(app) if method not in ("GET", "HEAD", "OPTIONS")]
    assert {"POST"} == {method for method, _ in found}
    paths = [path for _, path in found]
    assert {"/saved", "/theme", "/alerts/mute", "/start/sample", "/admin/backfill.json"} < set(paths)
    return paths


def _wrong_tokens(token: str, other: str) -> dict[str, dict[str, str]]:
    flipped = token[:-2] + ("A" if token[-2] != "A" else "B") + token[-1]
    return {"none": {}, "empty": {"form_token": ""}, "short": {"form_token": token[:-1]}, "flipped": {"form_token": flipped},
            "of another session": {"form_token": other}, "no ASCII": {"form_token": "é" * 43}, "in another field": {"token": token}}


def test_nothing_is_changed_without_the_token_of_the_session(app: Flask, keys: dict[str, str]) -> None:
    """Every route with an unsafe method, for an admin who signed in: refused without a token, with a wrong one and with that of
    another session of the same key, whatever the form says; with the right one, in the form or a header, each goes its own way."""
    client, elsewhere = app.test_client(), app.test_client()
    for each in (client, elsewhere):
        _sign_in(world.with_token(each), keys["admin"])
    token, other = (str(each.environ_base.pop("HTTP_X_FORM_TOKEN")) for each in (client, elsewhere))
    if token == other:  # signed in within the same second: the same cookie, the same session
        other = world.with_token(app.test_client()).environ_base["HTTP_X_FORM_TOKEN"]

    for path in sorted(_changes(app), key="/sign-out".__eq__):  # the last, for it ends the session
        for name, wrong in _wrong_tokens(token, other).items():
            assert 403 == client.post(path, data=wrong).status_code, (path, name)
        assert 403 == client.post(path, headers={"X-Form-Token": other}).status_code
        assert 403 == client.post(path, query_string={"form_token": token}).status_code  # an address is seen by others
        assert 403 == client.post(path, json={"form_token": token}).status_code
        for right in ({"data": {"form_token": token}}, {"headers": {"X-Form-Token": token}}):
            assert "what was sent" not in client.post(path, **right).text, path


def test_nothing_is_changed_without_a_token_where_nobody_signs_in(store: ClickHouseStore) -> None:
    """On loopback too: a page elsewhere that a browser does not tell on cannot save a search or start a back-fill."""
    app = create_app(store, Settings(data="unused"), now_ns=lambda: world.NOW_NS)
    client, other = app.test_client(), app.test_client()
    token, foreign = (str(world.with_token(each).environ_base.pop("HTTP_X_FORM_TOKEN")) for each in (client, other))

    for path in _changes(app):
        for name, wrong in _wrong_tokens(token, foreign).items():
            assert 403 == client.post(path, data=wrong).status_code, (path, name)
        assert 403 == app.test_client().post(path, data={"form_token": token}).status_code  # without the cookie
        assert 403 == client.post(path, headers={"Authorization": "Basic YTpi"}).status_code  # browsers keep and send these
        assert 403 != client.post(path, data={"form_token": token}).status_code
        assert 403 != app.test_client().post(path, headers=_bearer("any")).status_code  # no page can make a browser send it


def test_an_api_key_in_the_header_needs_no_token(client: FlaskClient, keys: dict[str, str], app: Flask) -> None:
    """A program that sends its key with every request is not led by a page."""
    assert 303 == app.test_client().post("/saved", data={"name": "by key", "q": "x"}, headers=_bearer(keys["edit"])).status_code
    assert 401 == app.test_client().post("/saved", data={"name": "x"}, headers=_bearer("cw_" + "0" * 43)).status_code


def test_every_form_that_changes_something_carries_the_token() -> None:
    """In the templates themselves, so that a form only some visitor sees is no exception; and no script changes anything."""
    web = Path(web_package.__file__).parent
    forms = [form for file in (web / "templates").glob("*.html")
             for form in re.findall(r"<form\b[^>]*method=.post[^>]*>(.{0,40})", file.read_text(), re.IGNORECASE | re.DOTALL)]
    assert len(forms) >= 9
    assert [] == [form for form in forms if not form.startswith("{{ form_token() }}")]
    assert [] == [file.name for file in (web / "static").glob("*.js")
                  if re.search(r"method:|request\.open\(.(?!GET)|sendBeacon", file.read_text())]


def test_the_forms_of_a_page_are_taken(client: FlaskClient, keys: dict[str, str]) -> None:
    """What stands in a page's hidden field is what the routes ask for, before signing in and after."""
    del client.environ_base["HTTP_X_FORM_TOKEN"]

    def hidden(path: str) -> dict[str, str]:
        (value,) = {attrs["value"] for _, attrs in Page(client.get(path).text).tags if attrs.get("name") == "form_token"}
        return {"form_token": str(value)}

    assert 303 == client.post("/sign-in", data={"key": keys["edit"], **hidden("/sign-in")}).status_code
    assert 303 == client.post("/saved", data={"name": "mine", "q": "x", **hidden("/search")}).status_code
    assert 303 == client.post("/sign-out", data=hidden("/help")).status_code


def test_the_visitors_cookie_is_made_once_and_out_of_reach(store: ClickHouseStore) -> None:
    """Scripts cannot read it and forms of other sites do not bring it; a value that is not of our making is replaced."""
    client = create_app(store, Settings(data="unused")).test_client()
    (cookie,) = client.get("/help").headers.getlist("Set-Cookie")
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
    assert [] == client.get("/help").headers.getlist("Set-Cookie")
    assert [] == client.get("/static/cutaway.css").headers.getlist("Set-Cookie")
    client.set_cookie("cutaway_visitor", "planted")
    assert 1 == len(client.get("/help").headers.getlist("Set-Cookie"))
