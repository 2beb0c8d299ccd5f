"""One collector for the whole folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from serving import Serving


@pytest.fixture(scope="session")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A collector on an empty chDB directory, free ports."""
    with Serving(tmp_path_factory.mktemp("serving") / "data") as running:
        yield running
