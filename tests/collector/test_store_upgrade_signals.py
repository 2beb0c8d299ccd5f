"""A data directory from before the signals beyond surprisal and entropy had columns: it gains them and keeps what it holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cutaway import conventions as c
from cutaway_collector import decode
from cutaway_collector.search import SearchRequest, find, generation
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, check, migrate, open_store
from decode_helpers import a_span, key_value, request
from every_signal_helpers import Shape, cuts, packed, values_of
from store_helpers import NOW_NS

OLD_DDL = (
    "CREATE DATABASE otel",
    """CREATE TABLE otel.otel_traces (
        Timestamp DateTime64(9), TraceId String, SpanId String, ParentSpanId String, TraceState String,
        SpanName LowCardinality(String), SpanKind LowCardinality(String), ServiceName LowCardinality(String),
        ResourceAttributes Map(LowCardinality(String), String), ScopeName String, ScopeVersion String,
        SpanAttributes Map(LowCardinality(String), String), Duration UInt64, StatusCode LowCardinality(String),
        StatusMessage String, `Events.Timestamp` Array(DateTime64(9)), `Events.Name` Array(LowCardinality(String)),
        `Events.Attributes` Array(Map(LowCardinality(String), String)), `Links.TraceId` Array(String), `Links.SpanId` Array(String),
        `Links.TraceState` Array(String), `Links.Attributes` Array(Map(LowCardinality(String), String)),
        TenantId LowCardinality(String) DEFAULT '', IngestedAt DateTime64(3) DEFAULT now64(3),
        GenAiOperation LowCardinality(String) DEFAULT SpanAttributes['gen_ai.operation.name'],
        GenAiProvider LowCardinality(String) DEFAULT SpanAttributes['gen_ai.provider.name'],
        GenAiModel LowCardinality(String) DEFAULT SpanAttributes['gen_ai.request.model'],
        ConversationId String DEFAULT SpanAttributes['gen_ai.conversation.id'],
        InputTokens Nullable(UInt64) DEFAULT toUInt64OrNull(SpanAttributes['gen_ai.usage.input_tokens']),
        OutputTokens Nullable(UInt64) DEFAULT toUInt64OrNull(SpanAttributes['gen_ai.usage.output_tokens']),
        TimeToFirstTokenS Nullable(Float64) DEFAULT toFloat64OrNull(SpanAttributes['cutaway.time_to_first_token']),
        TimePerOutputTokenS Nullable(Float64) DEFAULT toFloat64OrNull(SpanAttributes['cutaway.time_per_output_token']),
        Perplexity Nullable(Float64) DEFAULT toFloat64OrNull(SpanAttributes['cutaway.output.perplexity']),
        SurprisalMean Nullable(Float64) DEFAULT toFloat64OrNull(SpanAttributes['cutaway.output.surprisal.mean']),
        SurprisalMax Nullable(Float64) DEFAULT toFloat64OrNull(SpanAttributes['cutaway.output.surprisal.max']),
        EntropyMean Nullable(Float64) DEFAULT toFloat64OrNull(SpanAttributes['cutaway.output.entropy.mean']),
        AttentionEntropyMean Nullable(Float64) DEFAULT toFloat64OrNull(SpanAttributes['cutaway.attention.entropy.mean']),
        AttentionEntropyMin Nullable(Float64) DEFAULT toFloat64OrNull(SpanAttributes['cutaway.attention.entropy.min']))
    ENGINE = MergeTree PARTITION BY toDate(Timestamp) PRIMARY KEY (ServiceName, SpanName, toDateTime(Timestamp))
    ORDER BY (ServiceName, SpanName, toDateTime(Timestamp), Timestamp)
    TTL toDateTime(least(toUnixTimestamp(IngestedAt) + 30 * 86400, 4294967295))
    SETTINGS non_replicated_deduplication_window = 10000""",
    """CREATE TABLE otel.gen_ai_tokens (
        Timestamp DateTime64(9), TenantId LowCardinality(String) DEFAULT '', ServiceName LowCardinality(String),
        GenAiModel LowCardinality(String), TraceId String, SpanId String, SeqIndex UInt16,
        IngestedAt DateTime64(3) DEFAULT now64(3), InputTokens UInt32, OutputTokens UInt32, TokenIds Array(UInt32),
        TokenTexts Array(String), Surprisals Array(Float32), Entropies Array(Float32), Margins Array(Float32), Ranks Array(UInt32),
        InterTokenS Array(Float32), AttentionLayers UInt16, AttentionHeads UInt16, AttentionEntropies Array(Float32),
        AttentionEntropyHeads Array(Float32))
    ENGINE = MergeTree PARTITION BY toDate(Timestamp)
    ORDER BY (ServiceName, GenAiModel, toDateTime(Timestamp), Timestamp, SpanId, SeqIndex)
    TTL toDateTime(least(toUnixTimestamp(IngestedAt) + 14 * 86400, 4294967295))
    SETTINGS non_replicated_deduplication_window = 10000""",
    f"""INSERT INTO otel.otel_traces (Timestamp, TraceId, SpanId, SpanName, ServiceName, SpanAttributes)
    VALUES (fromUnixTimestamp64Nano({NOW_NS}), repeat('ab', 16), repeat('ab', 8), 'generate', 'tests',
    map('gen_ai.operation.name', 'chat', '{c.OUTPUT_NLL}', '12.5', '{c.OUTPUT_LOOP_PERIOD}', '3'))""",
    f"""INSERT INTO otel.gen_ai_tokens
    (Timestamp, ServiceName, TraceId, SpanId, SeqIndex, OutputTokens, Surprisals, AttentionLayers, AttentionEntropies)
    VALUES (fromUnixTimestamp64Nano({NOW_NS}), 'tests', repeat('ab', 16), repeat('ab', 8), 0, 2, [0.5, 1.5], 2, [1, 2, 3, 4])""",
)
"""The two tables as they stood then, without codecs and indexes, and one generation."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a directory that an earlier version left."""
    made = Settings(data=str(tmp_path))
    store = open_store(made, create=False)
    for statement in OLD_DDL:
        store.command(statement)
    store.close()
    return made


@pytest.fixture
def store(settings: Settings) -> Iterator[ClickHouseStore]:
    """That directory, opened by today's code."""
    opened = open_store(settings)
    yield opened
    opened.close()


def test_check_names_the_missing_columns_and_migrate_adds_them(settings: Settings) -> None:
    """Nothing is changed before it is told, and what is added is written down."""
    store = open_store(settings, create=False)
    try:
        found = check(store, settings)
        assert {"column otel_traces.Nll is missing", "column gen_ai_tokens.SourceMasses is missing"} <= set(found)
        assert any(words.startswith("column gen_ai_tokens.StepTimes is missing: added") for words in migrate(store, settings))
        assert check(store, settings) == []
        assert migrate(store, settings) == []
    finally:
        store.close()


def test_old_spans_gain_the_numbers_their_attributes_hold(store: ClickHouseStore, settings: Settings) -> None:
    """A sender that was ahead of the collector finds its spans by the new fields, and those it never sent are unknown."""
    assert check(store, settings) == []
    row = store.query("SELECT Nll, LoopPeriod, Rauq FROM otel.otel_traces").rows[0]
    assert tuple(row) == (12.5, 3, None)
    found = find(store, SearchRequest(q="nll:>12 loop:3"), rows_max=10)
    assert [one["span_id"] for one in found["rows"]] == ["ab" * 8]


def test_old_token_rows_read_as_before(store: ClickHouseStore) -> None:
    """Their series are there, the new ones empty, their attention the only map."""
    found = generation(store, "ab" * 8)
    assert found is not None
    (sequence,) = found["sequences"]
    assert sequence["signals"]["surprisal"] == [0.5, 1.5]
    assert sequence["attention_entropy"] == [[1, 2], [3, 4]]
    assert (sequence["signals"]["varentropy"], sequence["alternatives"], sequence["prompt"]["surprisal"]) == ([], [], [])
    assert found["attention_series"] == {"recorded": ["entropy"], "heads": dict.fromkeys(found["attention_series"]["heads"], 0),
                                         "layers": [0, 1]}


def test_new_rows_land_beside_old_ones(store: ClickHouseStore) -> None:
    """Columns were added at the end, in another order than a new table has them: rows find theirs by name."""
    shape = Shape(lengths=(2, 1), prompts=(3, 2))
    values = values_of(shape)
    span = a_span(start_time_unix_nano=NOW_NS, attributes=[*cuts(shape), *packed(values), key_value(c.OUTPUT_RAUQ, 0.5)])
    decoded = decode.decode_protobuf(request(span).SerializeToString(), received_ns=NOW_NS)
    store.insert(decoded.spans, "spans")
    store.insert(decoded.tokens, "tokens")
    assert store.query("SELECT count(), max(Rauq) FROM otel.otel_traces").rows[0] == (2, 0.5)
    found = generation(store, span.span_id.hex())
    assert found is not None
    assert [sequence["prompt"]["token_ids"] for sequence in found["sequences"]] == [
        values[c.PROMPT_TOKEN_ID][:3].tolist(), values[c.PROMPT_TOKEN_ID][3:].tolist()]
