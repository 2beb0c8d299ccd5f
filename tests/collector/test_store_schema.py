"""The schema on the engine: rendered, compared, migrated, written to by others and read by others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cutaway_collector.columns import TABLES, UPSTREAM_COLUMNS
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, check, migrate, open_store, render
from cutaway_collector.store.schema import lacks

COLLECTOR_COLUMNS = (
    "Timestamp, TraceId, SpanId, ParentSpanId, TraceState, SpanName, SpanKind, ServiceName, ResourceAttributes, ScopeName, "
    "ScopeVersion, SpanAttributes, Duration, StatusCode, StatusMessage, `Events.Timestamp`, `Events.Name`, "
    "`Events.Attributes`, `Links.TraceId`, `Links.SpanId`, `Links.TraceState`, `Links.Attributes`"
)
"""The column list of the OpenTelemetry Collector's ClickHouse exporter, in its order."""

FOREIGN_INSERT = f"""
INSERT INTO otel.otel_traces ({COLLECTOR_COLUMNS}) VALUES (
    now64(9), '4bf92f3577b34da6a3ce929d0e0e4736', '00f067aa0ba902b7', '', '', 'chat', 'Client', 'shop',
    {{'service.name': 'shop'}}, 's', '1',
    {{'gen_ai.operation.name': 'chat', 'gen_ai.request.model': 'm-1', 'gen_ai.usage.input_tokens': '12',
      'gen_ai.usage.output_tokens': 'many', 'gen_ai.response.time_to_first_chunk': '0.25'}},
    1500000, 'Error', 'boom', [now64(9)], ['exception'], [{{'exception.type': 'ValueError'}}],
    ['aaaa'], ['bbbb'], [''], [{{'k': 'v'}}])
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ClickHouseStore]:
    opened = open_store(Settings(data=str(tmp_path)))
    yield opened
    opened.close()


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[ClickHouseStore]:
    """A store without any of our tables."""
    opened = open_store(Settings(data=str(tmp_path)), create=False)
    yield opened
    opened.close()


def test_a_new_store_has_the_schema(store: ClickHouseStore) -> None:
    """What start-up creates is exactly what the column table says, and there is nothing left to migrate."""
    assert check(store, Settings()) == []
    assert migrate(store, Settings()) == []
    rows = store.query("SELECT name FROM system.columns WHERE database = 'otel' AND table = 'otel_traces'").rows
    names = [row[0] for row in rows]
    own_and_upstream = [column.name for column in TABLES[0].columns]
    assert names[: len(own_and_upstream)] == own_and_upstream
    assert tuple(names[: len(UPSTREAM_COLUMNS)]) == tuple(name.strip(" `") for name in COLLECTOR_COLUMNS.split(","))


def test_statements_may_run_twice(store: ClickHouseStore) -> None:
    """Two collectors that start together do each other no harm."""
    for statement in render():
        store.command(statement)
    assert check(store, Settings()) == []


def test_a_foreign_insert_fills_our_columns(store: ClickHouseStore) -> None:
    """A collector that knows only the upstream columns is accepted; ours come from the attributes, nonsense becomes NULL."""
    store.command(FOREIGN_INSERT)
    rows = store.query("SELECT GenAiOperation, GenAiModel, InputTokens, OutputTokens, TimeToFirstTokenS, Perplexity, TenantId, "
                       "dateDiff('minute', IngestedAt, now64(3)) < 5 FROM otel.otel_traces").rows
    assert [tuple(row) for row in rows] == [("chat", "m-1", 12, None, 0.25, None, "", 1)]


def test_a_trace_is_found_as_grafana_looks_for_it(store: ClickHouseStore) -> None:
    """The data source's trace query: the time window from the companion table, then spans, tags, events and links."""
    store.command(FOREIGN_INSERT)
    rows = store.query("""
        WITH {trace:String} AS trace_id,
             (SELECT min(Start) FROM otel.otel_traces_trace_id_ts WHERE TraceId = trace_id) AS trace_start,
             (SELECT max(End) + 1 FROM otel.otel_traces_trace_id_ts WHERE TraceId = trace_id) AS trace_end
        SELECT TraceId AS traceID, SpanId AS spanID, ParentSpanId AS parentSpanID, ServiceName AS serviceName,
               SpanName AS operationName,
               multiply(toUnixTimestamp64Nano(Timestamp), 0.000001) AS startTime, multiply(Duration, 0.000001) AS duration,
               arrayMap(key -> map('key', key, 'value', SpanAttributes[key]), mapKeys(SpanAttributes)) AS tags,
               arrayMap((name, at, tags) -> tuple(name, toString(at), tags),
                        Events.Name, Events.Timestamp, Events.Attributes) AS logs,
               arrayMap((trace, span) -> tuple(trace, span), Links.TraceId, Links.SpanId) AS refs,
               if(StatusCode IN ('Error', 'STATUS_CODE_ERROR'), 2, 0) AS statusCode
        FROM otel.otel_traces WHERE traceID = trace_id AND Timestamp >= trace_start AND Timestamp <= trace_end LIMIT 1000
        """, {"trace": "4bf92f3577b34da6a3ce929d0e0e4736"}).rows
    assert len(rows) == 1
    row = rows[0]
    assert (row[3], row[4], row[6], row[10]) == ("shop", "chat", 1.5, 2)
    assert {"key": "gen_ai.request.model", "value": "m-1"} in row[7]
    assert (row[8][0][0], row[8][0][2]) == ("exception", {"exception.type": "ValueError"})
    assert [tuple(link) for link in row[9]] == [("aaaa", "bbbb")]


def test_attributes_are_searched_through_their_index(store: ClickHouseStore) -> None:
    """`key=value` items answer attribute searches, and the engine plans them with the skipping index."""
    store.command(FOREIGN_INSERT)
    where = "has(SpanAttributeItems, 'gen_ai.request.model=m-1')"
    assert store.query(f"SELECT count() FROM otel.otel_traces WHERE {where}").rows[0][0] == 1
    plan = store.query(f"EXPLAIN indexes = 1 SELECT SpanId FROM otel.otel_traces WHERE {where}").rows
    assert any("idx_span_attr_items" in row[0] for row in plan)


def test_migrate_builds_everything_from_nothing(bare: ClickHouseStore) -> None:
    """On an empty store it creates every table and view and writes down each statement; a second run finds nothing to do."""
    assert len(check(bare, Settings())) == len(TABLES) + 1
    report = migrate(bare, Settings())
    others = [table.name for table in TABLES if table.name != "cutaway_migrations"]
    assert report == [*(f"created {name}" for name in ["cutaway_migrations", *others]),
                      "view otel_traces_trace_id_ts_mv is missing: created"]
    assert check(bare, Settings()) == []
    assert migrate(bare, Settings()) == []
    recorded = bare.query("SELECT Statement FROM otel.cutaway_migrations ORDER BY AppliedAt").rows
    assert len(recorded) == len(report)
    assert all(row[0].startswith("CREATE") for row in recorded)


def test_missing_parts_are_named_and_added(store: ClickHouseStore) -> None:
    """A store of an older version: check says what is missing, migrate adds it, rows that were there keep their values."""
    store.command(FOREIGN_INSERT)
    store.command("ALTER TABLE otel.otel_traces DROP INDEX idx_perplexity")
    store.command("ALTER TABLE otel.otel_traces DROP INDEX idx_text_lower")
    store.command("ALTER TABLE otel.otel_traces DROP COLUMN SpanTextLower")
    store.command("ALTER TABLE otel.otel_traces DROP COLUMN SpanText")
    store.command("ALTER TABLE otel.otel_traces ADD INDEX idx_text StatusMessage TYPE text(tokenizer = splitByNonAlpha)")
    store.command("ALTER TABLE otel.otel_traces DROP COLUMN Perplexity")
    store.command("ALTER TABLE otel.otel_traces DROP COLUMN GenAiModel")
    store.command("DROP TABLE otel.gen_ai_scores")
    store.command("DROP VIEW otel.otel_traces_trace_id_ts_mv")
    assert sorted(check(store, Settings())) == [
        "column otel_traces.GenAiModel is missing", "column otel_traces.Perplexity is missing",
        "column otel_traces.SpanText is missing", "column otel_traces.SpanTextLower is missing",
        "index otel_traces.idx_perplexity is missing",
        "index otel_traces.idx_text is of an earlier version", "index otel_traces.idx_text_lower is missing",
        "table gen_ai_scores is missing",
        "view otel_traces_trace_id_ts_mv is missing"]
    assert len(migrate(store, Settings())) == 9
    assert check(store, Settings()) == []
    assert store.query("SELECT GenAiModel, ServiceName FROM otel.otel_traces").rows[0] == ("m-1", "shop")


def test_an_index_the_engine_does_not_have_is_left_out(store: ClickHouseStore) -> None:
    """An engine without indexes of words gets its tables without one, and that is no difference to repair."""
    lacking = render(Settings(), frozenset({"idx_text_lower"}))
    assert not any("idx_text" in statement for statement in lacking)
    assert any("idx_text" in statement for statement in render(Settings()))
    assert lacks(store) == frozenset()


def test_words_are_searched_through_their_index(store: ClickHouseStore) -> None:
    """Free text is planned with the index of words, attributes and events included."""
    store.command(FOREIGN_INSERT)
    for word in ("SHOP", "boo", "ValueErr", "m-1", "exception"):
        where = f"SpanTextLower LIKE '%{word.lower()}%'"
        assert store.query(f"SELECT count() FROM otel.otel_traces WHERE {where}").rows[0][0] == 1
    assert store.query("SELECT count() FROM otel.otel_traces WHERE SpanTextLower LIKE '%exception.type%'").rows[0][0] == 0
    for part in ("valueerr", "oo", "k"):
        plan = store.query(f"EXPLAIN indexes = 1 SELECT SpanId FROM otel.otel_traces WHERE SpanTextLower LIKE '%{part}%'").rows
        assert any("idx_text_lower" in row[0] for row in plan)


def test_a_changed_type_is_reported_and_left_alone(store: ClickHouseStore) -> None:
    """Types are never changed by a migration: it says so, and the column stays as it is."""
    store.command("ALTER TABLE otel.gen_ai_scores MODIFY COLUMN Label String")
    assert check(store, Settings()) == ["column gen_ai_scores.Label is String, not LowCardinality(String)"]
    report = migrate(store, Settings())
    assert len(report) == 1
    assert "left as it is" in report[0]
    assert len(check(store, Settings())) == 1


def test_columns_of_others_are_welcome(store: ClickHouseStore) -> None:
    """A site may add columns of its own; they are no difference."""
    store.command("ALTER TABLE otel.otel_traces ADD COLUMN Mine String DEFAULT 'x'")
    assert check(store, Settings()) == []


def test_retention_follows_the_settings() -> None:
    """Each table's TTL is its setting, and 0 days means for ever."""
    ddl = {line.split("(")[0].split(".")[-1].strip(): line
           for line in render(Settings(retention_days=3, tokens_retention_days=0, scores_retention_days=400))}
    assert " 3 * 86400" in ddl["otel_traces"]
    assert "TTL" not in ddl["gen_ai_tokens"]
    assert " 400 * 86400" in ddl["gen_ai_scores"]


def test_another_database_is_respected(tmp_path: Path) -> None:
    """Everything lives in the database of the settings, the view included."""
    store = open_store(Settings(data=str(tmp_path), database="odd`name"))
    try:
        assert check(store, Settings(database="odd`name")) == []
        rows = store.query("SELECT count() FROM system.tables WHERE database = {d:String}", {"d": "odd`name"}).rows
        assert rows[0][0] == len(TABLES) + 1
    finally:
        store.close()
