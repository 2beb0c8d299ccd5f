"""A data directory of an earlier version, opened by today's code: it starts, keeps its rows and takes new ones."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, check, migrate, open_store
from store_helpers import NOW_NS, spans_block, tokens_block

OLD_DDL = (
    "CREATE DATABASE otel",
    """CREATE TABLE otel.otel_traces (
        Timestamp DateTime64(9), TraceId String, SpanId String, ParentSpanId String, TraceState String,
        SpanName LowCardinality(String), SpanKind LowCardinality(String), ServiceName LowCardinality(String),
        ResourceAttributes Map(LowCardinality(String), String), ScopeName String, ScopeVersion String,
        SpanAttributes Map(LowCardinality(String), String), Duration UInt64, StatusCode LowCardinality(String),
        StatusMessage String,
        `Events.Timestamp` Array(DateTime64(9)), `Events.Name` Array(LowCardinality(String)),
        `Events.Attributes` Array(Map(LowCardinality(String), String)), `Links.TraceId` Array(String), `Links.SpanId` Array(String),
        `Links.TraceState` Array(String), `Links.Attributes` Array(Map(LowCardinality(String), String)))
    ENGINE = MergeTree PARTITION BY toDate(Timestamp) PRIMARY KEY (ServiceName, SpanName, toDateTime(Timestamp))
    ORDER BY (ServiceName, SpanName, toDateTime(Timestamp), Timestamp)
    TTL toDateTime(Timestamp) + toIntervalDay(30) SETTINGS ttl_only_drop_parts = 1""",
    """CREATE TABLE otel.otel_traces_trace_id_ts (TraceId String, Start SimpleAggregateFunction(min, DateTime),
        End SimpleAggregateFunction(max, DateTime))
    ENGINE = AggregatingMergeTree PARTITION BY toStartOfWeek(Start) ORDER BY (TraceId) TTL Start + toIntervalDay(37)""",
    """CREATE TABLE otel.gen_ai_tokens (Timestamp DateTime64(9), TenantId LowCardinality(String) DEFAULT '',
        ServiceName LowCardinality(String), GenAiModel LowCardinality(String), TraceId String, SpanId String, SeqIndex UInt16)
    ENGINE = MergeTree PARTITION BY toDate(Timestamp)
    ORDER BY (ServiceName, GenAiModel, toDateTime(Timestamp), Timestamp, SpanId, SeqIndex)
    TTL toDateTime(Timestamp) + toIntervalDay(14)""",
    """CREATE MATERIALIZED VIEW otel.otel_traces_trace_id_ts_mv TO otel.otel_traces_trace_id_ts
    AS SELECT TraceId, min(Timestamp) AS Start, max(Timestamp) AS End FROM otel.otel_traces WHERE TraceId != '' GROUP BY TraceId""",
    """INSERT INTO otel.otel_traces (Timestamp, TraceId, SpanId, SpanName, ServiceName)
    VALUES (now64(9), 'old-trace', 'old-span', 'generate', 'tests')""",
)
"""The tables as they were created before arrival was stored, as far as they differ from today's, and one row."""


def old_store(folder: Path) -> None:
    """Leaves a data directory of the earlier version in `folder`."""
    store = open_store(Settings(data=str(folder)), create=False)
    try:
        for statement in OLD_DDL:
            store.command(statement)
    finally:
        store.close()


def one(store: ClickHouseStore, sql: str) -> object:
    return store.query(sql).rows[0][0]


def time_to_live(store: ClickHouseStore, table: str) -> str:
    """What the engine holds behind TTL."""
    clauses = str(one(store, f"SELECT engine_full FROM system.tables WHERE database = 'otel' AND name = '{table}'"))
    return clauses.partition(" TTL ")[2].partition(" SETTINGS ")[0]


def test_an_older_directory_starts_and_takes_rows(tmp_path: Path) -> None:
    """Columns are added, the view and the time to live follow; old rows are found beside new ones, and each step is recorded."""
    old_store(tmp_path)
    settings = Settings(data=str(tmp_path))
    store = open_store(settings)
    try:
        assert check(store, settings) == []
        store.insert(spans_block(2), "new")
        store.insert(tokens_block(2), "new-tokens")
        assert one(store, "SELECT count() FROM otel.otel_traces") == 3
        assert one(store, "SELECT count() FROM otel.gen_ai_tokens WHERE IngestedAt > now() - 60") == 2
        assert one(store, "SELECT uniqExact(TraceId) FROM otel.otel_traces_trace_id_ts WHERE End > now() - 3600") == 3
        assert one(store, "SELECT countIf(IngestedAt > now() - 60) FROM otel.otel_traces_trace_id_ts WHERE TraceId LIKE '0%'") == 2
        assert "IngestedAt" in time_to_live(store, "otel_traces")
        recorded = [str(row[0]) for row in store.query("SELECT Statement FROM otel.cutaway_migrations").rows]
        for part in ("otel_traces_trace_id_ts_mv MODIFY QUERY", "gen_ai_tokens ADD COLUMN IF NOT EXISTS `IngestedAt`",
                     "otel_traces MODIFY TTL"):
            assert any(part in statement for statement in recorded), part
        assert one(store, "SELECT count() FROM system.mutations WHERE database = 'otel'") == 0
    finally:
        store.close()


def test_an_older_table_gets_the_settings_it_lacks_and_keeps_what_was_chosen(tmp_path: Path) -> None:
    """Inserts reach the disk and make few files there too; a value that somebody gave a table stays."""
    old_store(tmp_path)
    store = open_store(Settings(data=str(tmp_path)), create=False)
    store.command("ALTER TABLE otel.gen_ai_tokens MODIFY SETTING min_bytes_for_wide_part = 5")
    store.close()
    store = open_store(Settings(data=str(tmp_path)))
    try:
        held = dict(store.query("SELECT name, engine_full FROM system.tables WHERE database = 'otel'").rows)
        for setting in ("fsync_after_insert = 1", "min_bytes_for_wide_part = 134217728", "deduplication_window = 10000"):
            assert setting in str(held["otel_traces"])
        assert "min_bytes_for_wide_part = 5" in str(held["gen_ai_tokens"])
        store.insert(spans_block(2), "new")
        store.insert(spans_block(2), "new")
        assert one(store, "SELECT count() FROM otel.otel_traces") == 3
    finally:
        store.close()


@pytest.mark.slow
def test_check_names_the_time_to_live_and_the_view(tmp_path: Path) -> None:
    """What differs in an older directory is told before anything is changed, and migrate changes it."""
    old_store(tmp_path)
    settings = Settings(data=str(tmp_path))
    store = open_store(settings, create=False)
    try:
        found = check(store, settings)
        assert "view otel_traces_trace_id_ts_mv has another SELECT" in found
        assert any(words.startswith("TTL of otel_traces is toDateTime(Timestamp) + toIntervalDay(30), not ") for words in found)
        assert migrate(store, settings) != []
        assert check(store, settings) == []
    finally:
        store.close()


@pytest.mark.parametrize(("days", "expected"), [(7, "7 * 86400"), (0, "")])
def test_a_new_retention_holds_from_the_next_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, days: int, expected: str
) -> None:
    """Another --retention-days changes the tables at the next start, is logged then, and not again at the start after."""
    open_store(Settings(data=str(tmp_path))).close()
    logged = []
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.INFO, "cutaway_collector"):
            store = open_store(Settings(data=str(tmp_path), retention_days=days))
        ttl = time_to_live(store, "otel_traces")
        store.close()
        assert expected in ttl
        assert bool(ttl) == bool(days)
        logged.append(sum("TTL of otel_traces is " in record.getMessage() for record in caplog.records))
    assert logged == [1, 0]


@pytest.mark.slow
def test_another_sort_order_is_reported_and_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A key cannot be changed without rewriting the table: start-up says so and works with what is there."""
    settings = Settings(data=str(tmp_path))
    store = open_store(settings, create=False)
    store.command("CREATE DATABASE otel")
    store.command(OLD_DDL[1].replace("toDateTime(Timestamp), Timestamp)", "toDateTime(Timestamp), TraceId)"))
    store.close()
    with caplog.at_level(logging.WARNING, "cutaway_collector"):
        store = open_store(settings)
    try:
        assert ["ORDER BY of otel_traces is" in record.getMessage() for record in caplog.records] == [True]
        store.insert(spans_block(2), "kept")
        assert one(store, "SELECT count() FROM otel.otel_traces") == 2
    finally:
        store.close()


@pytest.mark.parametrize("days", [1, 30, 30_000, 36_500])
def test_the_longest_retention_keeps_rows(tmp_path: Path, days: int) -> None:
    """A century of retention does not wrap around: a fresh span outlives a merge, and so does the row that finds its trace."""
    settings = Settings(data=str(tmp_path), retention_days=days, tokens_retention_days=days, scores_retention_days=days)
    store = open_store(settings)
    try:
        store.insert(spans_block(3), "fresh")
        store.insert(tokens_block(3), "fresh")
        for table in ("otel_traces", "otel_traces_trace_id_ts", "gen_ai_tokens"):
            store.command(f"OPTIMIZE TABLE otel.{table} FINAL")
            assert one(store, f"SELECT count() FROM otel.{table}") == 3
    finally:
        store.close()


def test_retention_ends(tmp_path: Path) -> None:
    """Rows that arrived longer ago than the retention are gone after a merge; younger ones stay, whatever their own time says."""
    store = open_store(Settings(data=str(tmp_path), retention_days=2))
    try:
        store.command("INSERT INTO otel.otel_traces (Timestamp, SpanId, IngestedAt) VALUES (now64(9), 'old', now64(3) - 3 * 86400)")
        store.insert(spans_block(1, start_ns=NOW_NS - 9 * 86_400 * 10**9), "young")
        store.command("OPTIMIZE TABLE otel.otel_traces FINAL")
        assert [row[0] for row in store.query("SELECT SpanId FROM otel.otel_traces").rows] == [f"{0:016x}"]
    finally:
        store.close()
