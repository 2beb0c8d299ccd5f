"""What several suites start from: an embedded store in a folder of the test's own. A file may have its own instead."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, open_store


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=str(tmp_path / "data"), batch_age_ms_max=20)


@pytest.fixture
def store(settings: Settings) -> Iterator[ClickHouseStore]:
    opened = open_store(settings)
    yield opened
    opened.close()
