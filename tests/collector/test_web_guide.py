"""The help page: every name of the language stands on it, and every example on it runs and finds what it should."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from cutaway_collector.contracts import Store
from cutaway_collector.search import FIELDS, FLAGS, SearchRequest, explain, find, parse, stats
from cutaway_collector.search.aggregates import AGGREGATES, SERIES
from cutaway_collector.search.english import warnings
from cutaway_collector.search.language import KINDS, STAGES, read
from cutaway_collector.search.sql import Parameters, condition
from cutaway_collector.search.stats import FUNCTIONS
from cutaway_collector.settings import Settings
from cutaway_collector.web import create_app
from cutaway_collector.web.pages import guide
from web_helpers import NOW_NS, get, stored, world

PAGE = guide.page()
SHOWN = [one.query for one in (*PAGE.examples, *PAGE.forms, *PAGE.flags, *PAGE.braces, *PAGE.measures, *PAGE.stages)]
OF_NAMES = [row.example.query for row in (*PAGE.fields, *PAGE.series, *PAGE.units)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with stored(Path(tmp_path_factory.mktemp("guide")), *world()) as opened:
        yield opened


@pytest.fixture(scope="module")
def client(store: Store) -> FlaskClient:
    return create_app(store, Settings(data="unused"), now_ns=lambda: NOW_NS).test_client()  # type: ignore[arg-type]  # any store


@pytest.mark.parametrize("query", SHOWN)
def test_every_example_runs_as_it_is_meant(store: Store, query: str) -> None:
    """It parses, is said in English, names nothing that looks like a slip, and the engine accepts it."""
    asked, request = read(query), SearchRequest(q=query)
    assert explain(query).endswith(".")
    if asked.compare is not None:
        request = SearchRequest(q=asked.compare.other or asked.text)
    if asked.stats is not None:
        assert stats(store, request).rows
        return
    said = find(store, request, rows_max=50)["stats"]["warnings"]
    assert [warning for warning in said if not warning.startswith("No score is named")] == []


@pytest.mark.parametrize("query", OF_NAMES)
def test_every_name_is_shown_in_use(query: str) -> None:
    """The example of a field, series or unit fits its kind, and looks like no slip. That each runs, the tests of SQL tell."""
    tree = parse(query)
    assert condition(tree, Parameters())
    assert explain(query).endswith(".")
    assert warnings(tree) == []


def test_the_page_links_to_what_it_shows(client: FlaskClient) -> None:
    """Each example's link is the search for it."""
    page = get(client, "/help")
    linked = {urllib.parse.parse_qs(urllib.parse.urlsplit(link).query)["q"][0] for link in page.links("/search?q=")}
    assert {*SHOWN, *OF_NAMES} <= linked


def test_every_name_of_the_language_is_on_the_page(client: FlaskClient) -> None:
    """Fields with their aliases, flags, braces, aggregates, series, stages and figures, as the registries have them."""
    text = get(client, "/help").text
    names = [name for field in FIELDS for name in (field.name, *field.aliases)]
    names += [f"is:{flag.name}" for flag in FLAGS] + [f"{kind}{{" for kind in KINDS] + [f"| {stage}" for stage in STAGES]
    names += [series.name for series in SERIES] + list(AGGREGATES) + list(FUNCTIONS)
    assert [name for name in names if name not in text] == []


@pytest.mark.parametrize("query", [
    "perplexity:>20", "any{is:error} duration:>2s", "surprisal.p95:>6bits", "is:generation | sort -surprisal.max"])
def test_examples_find_something_in_a_store_with_answers(store: Store, query: str) -> None:
    """They are no empty promises."""
    assert find(store, SearchRequest(q=query), rows_max=50)["rows"]
