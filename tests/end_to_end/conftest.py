"""One collector for the whole folder, and a browser that is watched."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from browser_helpers import Watch, chromium, watched_page
from patience_helpers import unhurried
from serving import Serving


@pytest.fixture(autouse=True, scope="session")
def _unhurried() -> Iterator[None]:
    with unhurried():
        yield


@pytest.fixture(scope="session")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A collector on an empty chDB directory, free ports."""
    with Serving(tmp_path_factory.mktemp("serving") / "data") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium for the tests of one file."""
    with chromium() as running:
        yield running


@pytest.fixture
def watch() -> Iterator[Watch]:
    """Attach it to a page: the test fails when the page breaks its policy, throws, or calls another host."""
    watching = Watch()
    yield watching
    assert not watching.faults, watching.faults


@pytest.fixture
def page(browser: Browser, watch: Watch, url: str) -> Iterator[Page]:
    """A watched page of 1280 x 900 px whose addresses begin with the `url` of its file."""
    context, opened = watched_page(browser, watch, base_url=url)
    yield opened
    context.close()
