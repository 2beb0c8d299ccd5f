"""An upgrade of the schema that is cut short at any step is finished by the next start (fault 16)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cutaway_collector.contracts import Result
from cutaway_collector.errors import StoreError
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, open_store
from cutaway_collector.store.schema import check, create
from store_helpers import spans_block


class Interrupted:
    """The real store until `left` statements have run; the next one is never sent, as if the process had died."""

    def __init__(self, store: ClickHouseStore, left: int) -> None:
        self._store = store
        self.database = store.database
        self.left = left

    def prepare(self) -> None:
        self._store.prepare()

    def insert(self, block: Any, deduplication_token: str) -> None:
        self._store.insert(block, deduplication_token)

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Result:
        return self._store.query(sql, parameters)

    def command(self, sql: str) -> None:
        if self.left == 0:
            raise StoreError("killed", retryable=True)
        self.left -= 1
        self._store.command(sql)

    def close(self) -> None:
        self._store.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ClickHouseStore]:
    opened = open_store(Settings(data=str(tmp_path)))
    yield opened
    opened.close()


def make_older(store: ClickHouseStore) -> None:
    """What a database of an earlier version lacks: a table, columns that the view reads or does not, an index, the view."""
    for statement in ("DROP TABLE IF EXISTS otel.cutaway_dead_letters", "DROP VIEW IF EXISTS otel.otel_traces_trace_id_ts_mv",
                      "ALTER TABLE otel.otel_traces DROP COLUMN IF EXISTS NonfiniteStep",
                      "ALTER TABLE otel.gen_ai_tokens DROP INDEX IF EXISTS idx_span_id",
                      "ALTER TABLE otel.gen_ai_scores DROP COLUMN IF EXISTS Explanation"):
        store.command(statement)


@pytest.mark.slow
def test_fault_16_an_upgrade_killed_at_any_step_is_finished_by_the_next_start(store: ClickHouseStore) -> None:
    """Whatever statement was the last: the next start leaves nothing missing, and rows that were there are kept."""
    settings = Settings()
    store.insert(spans_block(5), "five")
    step, died = 0, True
    while died:
        make_older(store)
        assert check(store, settings), "there is something to repair"
        try:
            create(Interrupted(store, step), settings)
        except StoreError:
            step += 1
        else:
            died = False
        create(store, settings)
        assert check(store, settings) == []
    assert step > 10
    assert store.query("SELECT count() FROM otel.otel_traces").rows[0][0] == 5


def test_fault_16_a_column_that_vanishes_comes_back_with_the_next_start(tmp_path: Path) -> None:
    """Rows wait while a column is missing, for they are not to blame; the next start repairs the table and takes them."""
    settings = Settings(data=str(tmp_path))
    with closing(open_store(settings)) as store:
        store.command("ALTER TABLE otel.otel_traces DROP COLUMN StatusCode")
        with pytest.raises(StoreError) as refused:
            store.insert(spans_block(2), "two")
        assert refused.value.retryable
    with closing(open_store(settings)) as store:
        store.insert(spans_block(2), "two")
        assert store.query("SELECT count() FROM otel.otel_traces").rows[0][0] == 2
