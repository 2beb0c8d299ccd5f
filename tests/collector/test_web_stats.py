"""The results view of `| stats`, its twin, and where `| compare` leads."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from cutaway_collector.contracts import Store
from cutaway_collector.search import SearchRequest, find, stats
from cutaway_collector.settings import Settings
from cutaway_collector.web import create_app
from search_helpers import START_NS, Span, stored
from web_helpers import NOW_NS, get

HOSTILE = '<b>"x" OR 1=1 | stats\\'
SPANS = [Span(number, ["tool", "chat"][number % 2], number, service=["api", HOSTILE, "a b"][number % 3], duration_ns=number * 10**6,
              start_ns=START_NS + number * 10**9) for number in range(1, 121)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with stored(Path(tmp_path_factory.mktemp("web-stats")), SPANS) as opened:
        yield opened


@pytest.fixture(scope="module")
def client(store: Store) -> FlaskClient:
    return create_app(store, Settings(data="unused"), now_ns=lambda: NOW_NS).test_client()  # type: ignore[arg-type]  # any store


def _address(query: str, path: str = "/search") -> str:
    return f"{path}?q={urllib.parse.quote(query)}"


def test_the_page_and_its_twin_show_the_same(client: FlaskClient, store: Store) -> None:
    """A table, a link from each group to its spans, and what it cost; the twin has the numbers."""
    query = "duration:>0 | stats count(), p95(duration) by service"
    twin = client.get(_address(query, "/search.json")).get_json()
    found = stats(store, SearchRequest(q=query))
    assert [tuple(row) for row in twin["rows"]] == list(found.rows)
    assert [column["name"] for column in twin["columns"]] == ["service", "count()", "p95(duration)"]
    page = get(client, _address(query))
    assert HOSTILE in page.text
    links = [urllib.parse.parse_qs(urllib.parse.urlsplit(link).query)["q"][0] for link in page.links("/search?q=")]
    mine = [link for link in links if link.startswith("duration:>0 service:")]
    assert len(mine) == 3
    for _, count, _ in found.rows:
        lengths = [len(find(store, SearchRequest(q=link, limit=500), rows_max=500)["rows"]) for link in mine]
        assert lengths.count(count) == 3


def test_lines_are_drawn_for_each_group(client: FlaskClient) -> None:
    """An image with words for every group and figure; the numbers are there as a table too."""
    page = get(client, _address("| stats count(), max(duration) by name every 1m"))
    drawn = page.with_class("line")
    assert len(drawn) == 4
    assert all("values from" in str(line["aria-label"]) for line in drawn)
    assert "rows as a table" in page.text


@pytest.mark.parametrize(("query", "a", "b"), [
    ("is:error | compare", "is:error", None), ("is:error | compare (model:x OR y)", "is:error", "model:x OR y")])
def test_compare_leads_to_its_page(client: FlaskClient, query: str, a: str, b: str | None) -> None:
    """With the condition as one side and the argument, or nothing for the rest, as the other; the time range goes along."""
    for path in ("/search", "/search.json"):
        answer = client.get(f"{_address(query, path)}&from=-1h")
        assert answer.status_code == 302
        target = urllib.parse.urlsplit(answer.headers["Location"])
        asked = dict(urllib.parse.parse_qsl(target.query))
        assert target.path == path.replace("search", "compare")
        assert (asked["a"], asked.get("b"), asked["from"]) == (a, b, "-1h")
