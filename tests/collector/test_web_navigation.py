"""The top bar: every link leads to a page that its visitor may see."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from cutaway_collector import credentials
from cutaway_collector.contracts import Scope
from cutaway_collector.credentials import Credentials
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore
from cutaway_collector.web import create_app
from cutaway_collector.web.gate import Gate
from cutaway_collector.web.navigation import NAVIGATION, Entry
from cutaway_collector.web.sessions import Sessions
from web_helpers import Page, stored, with_token


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseStore]:
    """One that holds nothing."""
    with stored(tmp_path_factory.mktemp("empty"), (), ()) as empty:
        yield empty


@pytest.fixture(scope="module")
def client(store: ClickHouseStore) -> FlaskClient:
    """Everybody is let in."""
    return create_app(store, Settings()).test_client()


@pytest.mark.parametrize("entry", NAVIGATION, ids=lambda entry: entry.path)
def test_every_link_of_the_bar_opens_a_page_that_says_where_one_is(client: FlaskClient, entry: Entry) -> None:
    """The page answers, on an empty store too, and its own link is marked as the current page."""
    answer = client.get(entry.path)

    assert answer.status_code == 200
    assert f'<a href="{entry.path}" aria-current="page">{entry.label}</a>' in answer.text


@pytest.mark.parametrize("scope", ["read", "edit", "admin"])
def test_the_bar_and_the_palette_lead_only_where_the_visitor_may_go(
    store: ClickHouseStore, tmp_path: Path, scope: Scope
) -> None:
    """Each link that a visitor sees answers, on the page that refuses another too; and what is left out would be refused."""
    key = credentials.add(tmp_path / "keys.json", "visitor", [scope])
    gate = Gate(Credentials(tmp_path / "keys.json"), Sessions(b"s" * 32, secure=False))
    client = with_token(create_app(store, Settings(), gate=gate).test_client())
    client.post("/sign-in", data={"key": key})
    paths = {entry.path for entry in NAVIGATION}
    listed = {page["url"] for page in json.loads(client.get("/palette.json").text)["pages"]}

    for shown in (client.get("/help"), client.get("/system")):
        links = {str(attrs["href"]) for tag, attrs in Page(shown.text).tags if tag == "a"} & paths
        assert links == listed & paths
        assert {200} == {client.get(path).status_code for path in links}
        assert {403} >= {client.get(path).status_code for path in paths - links}
    assert ("/system" in listed) is (scope == "admin")
