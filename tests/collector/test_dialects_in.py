"""Spans of other tools fill our columns: recorded ones, every attribute and word of the table, by either road into the store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cutaway_collector import columns, decode, dialects
from cutaway_collector.blocks import Block
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, check, migrate, open_store
from decode_helpers import RECEIVED_NS, a_span, key_value, request, rows

RECORDED = Path(__file__).parent.parent / "dialects"
NAMES = ("GenAiOperation", "GenAiProvider", "GenAiModel", "InputTokens", "OutputTokens")
ANSWERED = "gpt-4o-mini-2024-07-18"
EXPECTED: dict[str, list[tuple[str, str, str, int | None, int | None]]] = {
    # OpenInference has no name for the model asked for, only for the one that answered.
    "openinference": [
        ("chat", "openai", ANSWERED, 24, 5), ("chat", "openai", ANSWERED, 24, 5),
        ("embeddings", "openai", "text-embedding-3-small", 6, None),
        ("text_completion", "openai", "gpt-3.5-turbo-instruct", 24, 5),
    ],
    "openllmetry": [
        ("chat", "openai", "gpt-4o-mini", 24, 5), ("chat", "openai", "gpt-4o-mini", 24, 5),
        ("embeddings", "openai", "text-embedding-3-small", 6, None),
        ("text_completion", "openai", "gpt-3.5-turbo-instruct", 24, 5),
    ],
    # This version counted nothing in a stream.
    "openllmetry_old": [
        ("chat", "openai", "gpt-4o-mini", 24, 5), ("chat", "openai", "gpt-4o-mini", None, None),
        ("embeddings", "openai", "text-embedding-3-small", 6, None),
        ("text_completion", "openai", "gpt-3.5-turbo-instruct", 24, 5),
    ],
    # The official instrumentation does not watch completions.
    "opentelemetry": [
        ("chat", "openai", "gpt-4o-mini", 24, 5), ("chat", "openai", "gpt-4o-mini", 24, 5),
        ("embeddings", "openai", "text-embedding-3-small", 6, None),
    ],
    "opentelemetry_latest": [
        ("chat", "openai", "gpt-4o-mini", 24, 5), ("chat", "openai", "gpt-4o-mini", 24, 5),
        ("embeddings", "openai", "text-embedding-3-small", 6, None),
    ],
}
"""What the calls of record_dialects.py were, as far as each tool says it."""

VLLM = {
    "gen_ai.request.id": "cmpl-1", "gen_ai.request.temperature": 0.7, "gen_ai.request.top_p": 1.0, "gen_ai.request.max_tokens": 16,
    "gen_ai.request.n": 1, "gen_ai.response.model": "Qwen/Qwen2.5-1.5B", "gen_ai.usage.num_sequences": 1,
    "gen_ai.usage.prompt_tokens": 384, "gen_ai.usage.completion_tokens": 32, "gen_ai.latency.time_in_queue": 0.001,
    "gen_ai.latency.time_to_first_token": 1.325, "gen_ai.latency.e2e": 1.976, "gen_ai.latency.time_in_model_prefill": 1.281,
    "gen_ai.latency.time_in_model_decode": 0.654, "gen_ai.latency.time_in_model_inference": 1.935,
}
"""One `llm_request` span: names and types as vLLM's engine sets them."""

SOURCES = [(column, source) for column in columns.LIFTED for source in column.foreign]
OWN = [column.name for column in columns.LIFTED]


@pytest.fixture(autouse=True, scope="module")
def _compiled() -> None:
    decode.warm_up()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseStore]:
    """An embedded store of this module."""
    opened = open_store(Settings(data=str(tmp_path_factory.mktemp("dialects"))))
    yield opened
    opened.close()


def recorded(tool: str) -> Block:
    """The recorded spans, decoded."""
    payload = json.dumps(json.loads(RECORDED.joinpath(f"{tool}.json").read_text())["request"]).encode()
    return decode.decode_json(payload, received_ns=RECEIVED_NS).spans


def spans(*attributes: Mapping[str, Any]) -> Block:
    """One span for each set of attributes, decoded."""
    made = [a_span(span_id=(index + 1).to_bytes(8, "big"), attributes=[key_value(*pair) for pair in each.items()])
            for index, each in enumerate(attributes)]
    return decode.decode_protobuf(request(*made).SerializeToString(), received_ns=RECEIVED_NS).spans


def lifted(block: Block) -> list[list[Any]]:
    """Every lifted column, a list a span; text as text."""
    return [[value.decode() if isinstance(value, bytes) else value for value in (row[name] for name in OWN)] for row in rows(block)]


def by_default(store: ClickHouseStore, block: Block) -> list[list[Any]]:
    """The same, as the store's DEFAULT expressions fill them when another collector's insert does not name our columns."""
    upstream = {column.name for column in columns.UPSTREAM_COLUMNS}
    table = f"{store.database}.{block.table}"
    store.command(f"TRUNCATE TABLE {table}")
    store.insert(Block(block.table, block.rows, {name: held for name, held in block.columns.items() if name in upstream}), "")
    found = store.query(f"SELECT {', '.join(OWN)} FROM {table} ORDER BY SpanId").rows
    return [list(row) for row in found]


@pytest.mark.parametrize("tool", EXPECTED)
def test_a_recorded_instrumentation_fills_our_columns(tool: str) -> None:
    """What real instrumentations sent for known calls lands where searches and pages look."""
    found = [tuple(dict(zip(OWN, row, strict=True))[name] for name in NAMES) for row in lifted(recorded(tool))]
    assert found == EXPECTED[tool]


@pytest.mark.parametrize("tool", EXPECTED)
def test_its_attributes_stay_as_they_came(tool: str) -> None:
    """Filling columns takes nothing away: names and values are those of the sender, in its order."""
    sent = [
        [(one["key"], next(iter(one["value"].values()))) for one in span["attributes"]]
        for resource in json.loads(RECORDED.joinpath(f"{tool}.json").read_text())["request"]["resourceSpans"]
        for scope in resource["scopeSpans"] for span in scope["spans"]
    ]
    for row, attributes in zip(rows(recorded(tool)), sent, strict=True):
        assert [key.decode() for key, _ in row["SpanAttributes"]] == [key for key, _ in attributes]
        plain = {key: value for key, value in attributes if isinstance(value, str)}
        assert {key.decode(): value.decode() for key, value in row["SpanAttributes"] if key.decode() in plain} == plain


def test_a_request_of_vllm() -> None:
    """Its legacy token counts, its own latency names and the model that answered."""
    (row,) = (dict(zip(OWN, values, strict=True)) for values in lifted(spans(VLLM)))
    assert (row["GenAiOperation"], row["GenAiModel"]) == ("text_completion", "Qwen/Qwen2.5-1.5B")
    assert (row["InputTokens"], row["OutputTokens"], row["TimeToFirstTokenS"]) == (384, 32, 1.325)


@pytest.mark.parametrize(("column", "source"), SOURCES, ids=[f"{column.name}-{source.name}" for column, source in SOURCES])
def test_every_attribute_of_the_table(column: columns.Column, source: dialects.Source) -> None:
    """Alone on a span it fills its column, each word with what it means, whatever its letter case, each number in its unit."""
    if column.type.startswith("Nullable("):
        sent: list[tuple[Any, Any]] = [(1500, 1500 / source.divisor), ("2", 2 / source.divisor), ("two", None)]
    else:
        sent = [(word, meaning) for word, meaning in source.words]
        sent += [(word.upper(), meaning) for word, meaning in source.words]
        sent += [("Something-Else", "Something-Else" if source.rest is None else source.rest)]
    found = [dict(zip(OWN, row, strict=True))[column.name] for row in lifted(spans(*({source.name: value} for value, _ in sent)))]
    assert found == [meaning for _, meaning in sent]


def test_the_conventions_own_name_wins() -> None:
    """A tool that writes two dialects at once is taken at the word of the newer one, wherever it stands."""
    (row,) = (dict(zip(OWN, values, strict=True)) for values in lifted(spans({
        "openinference.span.kind": "AGENT", "llm.provider": "azure", "llm.model_name": "b", "llm.token_count.prompt": 1,
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "x_ai", "gen_ai.request.model": "a",
        "gen_ai.usage.input_tokens": 2,
    })))
    assert tuple(row[name] for name in NAMES) == ("chat", "x_ai", "a", 2, None)


def test_a_word_without_a_meaning_leaves_the_column_to_the_next() -> None:
    """A chain is no operation of a model; what else the span says still counts."""
    found = [row[OWN.index("GenAiOperation")] for row in lifted(spans(
        {"openinference.span.kind": "CHAIN"}, {"openinference.span.kind": "CHAIN", "traceloop.span.kind": "tool"}))]
    assert found == ["", "execute_tool"]


@pytest.mark.parametrize("tool", EXPECTED)
def test_a_foreign_insert_of_recorded_spans_gives_the_same_row(store: ClickHouseStore, tool: str) -> None:
    """The exporter of otelcol writes the map alone; the store's defaults say what our decoder says."""
    block = recorded(tool)
    order = sorted(range(block.rows), key=lambda index: rows(block)[index]["SpanId"])
    assert by_default(store, block) == [lifted(block)[index] for index in order]


def test_a_foreign_insert_of_every_attribute_and_word_gives_the_same_row(store: ClickHouseStore) -> None:
    """The whole table by both roads: every word in three spellings, words nobody knows, numbers of every kind, nothing."""
    said: list[dict[str, Any]] = [{}, VLLM]
    for _column, source in SOURCES:
        words = [word for word, _ in source.words]
        values = (*words, *map(str.upper, words), *map(str.title, words), "Ünknown", "", " ", 1, 2.5, -1, "7", "0.25", True, None)
        said += [{source.name: value} for value in values]
    block = spans(*said)
    assert by_default(store, block) == lifted(block)


_value = st.one_of(
    st.sampled_from(["", "LLM", "chain", "chat", "OpenAI", "az.ai.openai", "tool", "m", "1", "1500", "0.5", "1e3"]),
    st.integers(-2, 3000), st.sampled_from([0.0, 0.125, 1.5, 250.0]), st.booleans(),
)
_names = sorted({source.name for column in columns.LIFTED for source in column.sources if column.foreign})


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.dictionaries(st.sampled_from(_names), _value, max_size=8), min_size=1, max_size=12))
def test_any_mixture_of_dialects_gives_the_same_row_by_either_road(store: ClickHouseStore, said: list[dict[str, Any]]) -> None:
    """Whatever a span carries at once, in whatever order: which source wins is one rule, not two."""
    block = spans(*said)
    assert by_default(store, block) == lifted(block)


def test_the_words_of_the_table_can_be_matched() -> None:
    """Words are lower-case, each once a source, and nothing in the table needs quoting in SQL."""
    for _column, source in SOURCES:
        said = [word for word, _ in source.words]
        assert len(set(said)) == len(said)
        for text in (source.name, source.rest or "", *said, *(meaning for _, meaning in source.words)):
            assert not set(text) & set("'\\\"")
        assert said == [word.lower() for word in said]


BEFORE = {
    "GenAiOperation": "SpanAttributes['gen_ai.operation.name']",
    "GenAiProvider": "SpanAttributes['gen_ai.provider.name']",
    "GenAiModel": "SpanAttributes['gen_ai.request.model']",
    "ConversationId": "SpanAttributes['gen_ai.conversation.id']",
    "InputTokens": "toUInt64OrNull(SpanAttributes['gen_ai.usage.input_tokens'])",
    "OutputTokens": "toUInt64OrNull(SpanAttributes['gen_ai.usage.output_tokens'])",
    "TimeToFirstTokenS": "coalesce(toFloat64OrNull(SpanAttributes['cutaway.time_to_first_token']), "
                         "toFloat64OrNull(SpanAttributes['gen_ai.response.time_to_first_chunk']))",
    "TimePerOutputTokenS": "toFloat64OrNull(SpanAttributes['cutaway.time_per_output_token'])",
}
"""The defaults of stores made before other tools' names counted."""


def test_an_older_store_takes_over_the_new_defaults(store: ClickHouseStore) -> None:
    """A migration sets them, records it and rewrites nothing: stored rows stay, new foreign rows are understood."""
    chosen = Settings(database=store.database)
    codecs = "SELECT name, type, compression_codec FROM system.columns WHERE database = 'otel' AND table = 'otel_traces'"
    untouched = store.query(codecs).rows
    try:
        for name, default in BEFORE.items():
            store.command(f"ALTER TABLE otel.otel_traces MODIFY COLUMN {name} DEFAULT {default}")
        found = check(store, chosen)
        assert by_default(store, spans(VLLM))[0][OWN.index("InputTokens")] is None
    finally:
        migrate(store, chosen)
    assert found == [f"column otel_traces.{name} has another default" for name in BEFORE]
    assert check(store, chosen) == []
    assert store.query(codecs).rows == untouched
    assert store.query("SELECT InputTokens FROM otel.otel_traces").rows[0][0] is None
    said = [str(row[0]) for row in store.query("SELECT Statement FROM otel.cutaway_migrations").rows]
    assert all(any(f"MODIFY COLUMN `{name}` DEFAULT" in statement for statement in said) for name in BEFORE)
    assert store.query("SELECT count() FROM system.mutations WHERE database = 'otel'").rows[0][0] == 0
    assert by_default(store, spans(VLLM)) == lifted(spans(VLLM))
