"""One collector for the whole folder, and a browser that is watched."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from browser_helpers import Watch, chromium
from serving import Serving


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
