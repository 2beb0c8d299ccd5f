"""What several suites start from: an embedded store in a folder of the test's own. A file may have its own instead."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from alerts_helpers import wipe
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, open_store
from patience_helpers import unhurried


@pytest.fixture(autouse=True, scope="session")
def _unhurried() -> Iterator[None]:
    with unhurried():
        yield


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=str(tmp_path / "data"), batch_age_ms_max=20)


@pytest.fixture
def store(settings: Settings) -> Iterator[ClickHouseStore]:
    opened = open_store(settings)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def _alerts_opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseStore]:
    opened = open_store(Settings(data=str(tmp_path_factory.mktemp("alerts") / "data")))
    yield opened
    opened.close()


@pytest.fixture
def alerts_store(_alerts_opened: ClickHouseStore) -> ClickHouseStore:
    """One store for a module of tests of alerts, empty at the start of each."""
    wipe(_alerts_opened)
    return _alerts_opened
