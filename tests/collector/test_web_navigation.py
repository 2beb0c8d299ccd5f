"""The top bar: every link leads to a page."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient

from cutaway_collector.settings import Settings
from cutaway_collector.web import create_app
from cutaway_collector.web.navigation import NAVIGATION, Entry
from web_helpers import stored


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    """The pages over a store that holds nothing."""
    with stored(tmp_path_factory.mktemp("empty"), (), ()) as store:
        yield create_app(store, Settings()).test_client()


@pytest.mark.parametrize("entry", NAVIGATION, ids=lambda entry: entry.path)
def test_every_link_of_the_bar_opens_a_page_that_says_where_one_is(client: FlaskClient, entry: Entry) -> None:
    """The page answers, on an empty store too, and its own link is marked as the current page."""
    answer = client.get(entry.path)

    assert answer.status_code == 200
    assert f'<a href="{entry.path}" aria-current="page">{entry.label}</a>' in answer.text
