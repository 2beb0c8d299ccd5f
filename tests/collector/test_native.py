"""The Native encoder against the engine's own reading of the bytes, and against bytes spelled out by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cutaway_collector.blocks import Block, Column, Cut, Lists, MapLists, Maps, Nullable, NumberMaps, Strings
from cutaway_collector.columns import TABLES
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, open_store
from cutaway_collector.store.native import KEPT_BYTES_MAX, Encoder, encode, plain_type
from store_helpers import maps, nullable, offsets


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseStore]:
    opened = open_store(Settings(data=str(tmp_path_factory.mktemp("native"))))
    yield opened
    opened.close()


def test_the_bytes_of_a_small_block() -> None:
    """Columns, rows, then name, type and values of each column: the layout of the format's documentation."""
    block = Block("gen_ai_scores", 2, {"SpanId": Strings.of(["ab", "x" * 200]), "SeqIndex": np.array([1, 258], np.uint16)})
    assert encode(block) == (b"\x02\x02" + b"\x06SpanId\x06String" + b"\x02ab" + b"\xc8\x01" + b"x" * 200
                             + b"\x08SeqIndex\x06UInt16" + b"\x01\x00\x02\x01")


def test_types_are_sent_plain() -> None:
    """LowCardinality is the engine's way to store, not ours to send."""
    assert plain_type("Map(LowCardinality(String), String)") == "Map(String, String)"
    assert plain_type("Array(LowCardinality(String))") == "Array(String)"
    assert plain_type("SimpleAggregateFunction(min, DateTime)") == "DateTime"
    assert plain_type("Nullable(Float64)") == "Nullable(Float64)"


texts = st.text(max_size=8)
mappings = st.dictionaries(texts, texts, max_size=3)
rows = st.fixed_dictionaries({
    "SpanName": texts, "SpanAttributes": mappings, "Duration": st.integers(0, 2**64 - 1),
    "InputTokens": st.none() | st.integers(0, 2**64 - 1), "Perplexity": st.none() | st.floats(allow_nan=False),
    "Events.Timestamp": st.lists(st.integers(0, 2**62), max_size=3), "Events.Attributes": st.lists(mappings, max_size=3),
})
_NUMBER = iter(range(1, 1_000_000))


@given(st.lists(rows, min_size=1, max_size=5))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_engine_reads_what_was_meant(store: ClickHouseStore, values: list[dict[str, Any]]) -> None:
    """Any rows of any text, maps, NULLs and nested lists, read back by the engine as they were."""
    for value in values:
        # Nested columns of one row are equally long.
        size = min(len(value["Events.Timestamp"]), len(value["Events.Attributes"]))
        value["Events.Timestamp"], value["Events.Attributes"] = value["Events.Timestamp"][:size], value["Events.Attributes"][:size]
    mark = f"mark-{next(_NUMBER)}"
    events = [value["Events.Attributes"] for value in values]
    columns: dict[str, Column] = {
        "Timestamp": np.full(len(values), 4_000_000_000_000_000_000) + np.arange(len(values)),
        "TraceId": Strings.repeat(mark, len(values)),
        "SpanName": Strings.of([value["SpanName"] for value in values]),
        "SpanAttributes": maps([value["SpanAttributes"] for value in values]),
        "Duration": np.array([value["Duration"] for value in values], np.uint64),
        "Events.Timestamp": Lists(offsets([value["Events.Timestamp"] for value in values]),
                                  np.array([x for value in values for x in value["Events.Timestamp"]], np.int64)),
        "Events.Name": Lists(offsets(events), Strings.repeat("e", sum(map(len, events)))),
        "Events.Attributes": MapLists(offsets(events), maps([m for event in events for m in event])),
        "InputTokens": nullable([value["InputTokens"] for value in values], np.uint64),
        "Perplexity": nullable([value["Perplexity"] for value in values], np.float64),
    }
    store.insert(Block("otel_traces", len(values), columns), mark)
    found = store.query(
        "SELECT SpanName, SpanAttributes, Duration, InputTokens, Perplexity, "
        "arrayMap(t -> toUnixTimestamp64Nano(t), Events.Timestamp), Events.Attributes "
        "FROM otel.otel_traces WHERE TraceId = {mark:String} ORDER BY Timestamp", {"mark": mark}).rows
    names = ("SpanName", "SpanAttributes", "Duration", "InputTokens", "Perplexity", "Events.Timestamp", "Events.Attributes")
    read = [[list(x) if isinstance(x, (list, tuple)) else x for x in row] for row in found]
    assert read == [[value[name] for name in names] for value in values]


def test_every_column_of_every_table_can_be_sent(store: ClickHouseStore) -> None:
    """One row for each column of the schema, read by the engine as a table of its own."""
    for table in TABLES:
        for column in table.columns:
            data = encode(Block(table.name, 1, {column.name: _zero(plain_type(column.type))}))
            rows = store.query(f"SELECT toTypeName(`{column.name}`) FROM format(Native, unhex('{data.hex()}'))").rows
            assert [tuple(row) for row in rows] == [(plain_type(column.type),)]


def _zero(type: str) -> Column:
    if type == "String":
        return Strings.of(["z"])
    if type.startswith("Nullable("):
        values = _zero(type.removeprefix("Nullable(")[:-1])
        assert isinstance(values, np.ndarray)
        return Nullable(values, np.ones(1, bool))
    if type.startswith("Map(String, Array("):
        return NumberMaps(np.array([0, 1]), Strings.of(["k"]), Lists(np.array([0, 2]), np.array([0.5, -0.0])))
    if type.startswith("Map("):
        return maps([{"k": "v"}])
    if type.startswith("Array(Map("):
        return MapLists(np.array([0, 2]), maps([{"k": "v"}, {}]))
    if type.startswith("Array("):
        return Lists(np.array([0, 1]), _zero(type.removeprefix("Array(")[:-1]))
    return np.zeros(1, {"DateTime": np.uint32}.get(type, np.int64 if type.startswith("DateTime64") else type.lower()))


@pytest.mark.parametrize(("column", "words"), [
    ({"Duration": np.array([1.5])}, "float64"),
    ({"Duration": np.array([-1])}, "int64"),
    ({"Duration": Strings.of(["5"])}, "Strings"),
    ({"SpanName": np.zeros(1)}, "ndarray"),
    ({"SpanName": Strings(np.zeros(2, np.uint8), np.array([0, 5]))}, "offsets"),
    ({"SpanAttributes": Maps(np.array([1, 1]), Strings.of([]), Strings.of([]))}, "offsets start at 0"),
    ({"SpanName": Strings.of(["a", "b"])}, "rows"),
])
def test_a_column_that_does_not_fit_is_named(column: dict[str, Column], words: str) -> None:
    """Values are never changed in silence: a wrong kind, dtype, border or length is an error that names the column."""
    with pytest.raises(ValueError, match=f"{next(iter(column))}.*{words}|{words}"):
        encode(Block("otel_traces", 1, column))


def test_narrower_numbers_are_widened() -> None:
    """What fits without loss is accepted, and times of NumPy count like the engine's."""
    wide = encode(Block("otel_traces", 1, {"Duration": np.array([7], np.uint64)}))
    assert encode(Block("otel_traces", 1, {"Duration": np.array([7], np.uint8)})) == wide
    moment = np.array(["2026-01-01T00:00:00.000000001"], "M8[ns]")
    assert encode(Block("otel_traces", 1, {"Timestamp": moment})) == encode(
        Block("otel_traces", 1, {"Timestamp": moment.view(np.int64)}))


def test_an_encoder_uses_its_memory_again() -> None:
    """A smaller block after a larger one is its own bytes and nothing of the other's; a huge one leaves no huge memory behind."""
    encoder = Encoder()
    large, small, huge = (Block("otel_traces", rows, {"Duration": np.arange(rows, dtype=np.uint64)})
                          for rows in (1000, 10, KEPT_BYTES_MAX // 8 + 1))
    for block in (large, small, huge, large):
        assert bytes(encoder.encode(block)) == encode(block)
    assert encoder._out.nbytes < 10_000


def test_offsets_that_fall_are_refused_before_anything_is_overrun() -> None:
    """Lengths are compared with the room that is left, not only with the data."""
    falling = Strings(np.zeros(4096, np.uint8), np.array([0, 4096, 5]))
    with pytest.raises(ValueError, match=r"otel_traces.SpanName.*offsets must not decrease"):
        encode(Block("otel_traces", 2, {"SpanName": falling}))


_pieces = st.lists(st.tuples(st.binary(max_size=200), st.binary(max_size=200), st.booleans()), max_size=30)


def _cut_maps(pieces: list[tuple[bytes, bytes, bool]]) -> Maps:
    """One map of those keys and values, left in a buffer where keys and values follow each other with a byte between; values that
    are marked lie in a buffer of their own.
    """
    source, own = bytearray(), bytearray()
    key_starts, starts = [], []
    for key, value, apart in pieces:
        key_starts.append(len(source))
        source += key + b"|"
        starts.append(-1 - len(own) if apart else len(source))
        (own if apart else source).extend(value)
    bytes_of = [np.frombuffer(bytes(each), np.uint8) for each in (source, own)]
    keys, values = (Cut(bytes_of[0], bytes_of[1], np.array(begins, np.int64), offsets(parts)) for begins, parts in (
        (key_starts, [key for key, _, _ in pieces]), (starts, [value for _, value, _ in pieces])))
    return Maps(np.array([0, len(pieces)], np.int64), keys, values)


@given(_pieces)
@settings(max_examples=150, deadline=None)
def test_texts_that_were_left_where_they_lay_are_sent_as_any_other(pieces: list[tuple[bytes, bytes, bool]]) -> None:
    """Keys and values cut from two buffers make the same bytes as texts put together before, and can be asked for like them."""
    apart = _cut_maps(pieces)
    together = Maps(apart.offsets, Strings.of([key for key, _, _ in pieces]), Strings.of([value for _, value, _ in pieces]))
    sent = [encode(Block("otel_traces", 1, {"SpanAttributes": attributes})) for attributes in (apart, together)]
    assert sent[0] == sent[1]
    assert list(apart.keys) == list(together.keys)
    assert list(apart.values) == list(together.values)


@pytest.mark.parametrize("start", [-5, -2**40, 7, 2**40])
def test_a_cut_outside_its_buffers_is_refused(start: int) -> None:
    """A position that no buffer has is a fault of ours, and reads nothing."""
    whole = _cut_maps([(b"key", b"four", False)])
    assert isinstance(whole.values, Cut)
    whole.values.starts[0] = start
    with pytest.raises(ValueError, match=r"otel_traces.SpanAttributes.*nor reach past the data"):
        encode(Block("otel_traces", 1, {"SpanAttributes": whole}))


def test_a_statement_stands_before_the_block() -> None:
    """An INSERT and its rows are one body: what follows the statement are the bytes of the block without it."""
    block = Block("gen_ai_scores", 1, {"Value": np.array([0.5])})
    encoder = Encoder()
    assert bytes(encoder.encode(block, b"INSERT\n")) == b"INSERT\n" + encode(block)
