"""Many requests as one batch of rows, and attributes that stay numbers."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from cutaway import conventions as c
from cutaway_collector import decode, search
from cutaway_collector.blocks import Cut, Maps, concat_blocks
from cutaway_collector.contracts import Checked
from cutaway_collector.decode import Limits, text
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, native, open_store
from decode_helpers import a_span, key_value, request, requests, rows

RECEIVED_NS = 1_700_000_000_000_000_000
VECTOR = [0.5, -0.0, 1e-300, 5e-324, 1.7976931348623157e308, *(float(number) for number in range(11))]
LIMITS = Limits()


def checked(message: ExportTraceServiceRequest, tenant: str = "", later_ns: int = 0) -> Checked:
    return decode.check(message.SerializeToString(), "protobuf", received_ns=RECEIVED_NS + later_ns, tenant=tenant, limits=LIMITS)


def tokens(number: int) -> Any:
    """A span with two sequences of token series, of `number` tokens and of one."""
    return a_span(attributes=[key_value(c.SEQUENCE_OUTPUT_TOKENS, (number, 1)),
                              key_value(c.TOKEN_SURPRISAL, (0.5,) * (number + 1))])


@hypothesis_settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(requests, st.sampled_from(["", "a", "b"])), max_size=5))
def test_a_batch_is_its_requests_one_after_another(messages: list[tuple[ExportTraceServiceRequest, str]]) -> None:
    """Rows, tenants, times of arrival: nothing of one request leaks into the next, and none is lost."""
    single = [checked(message, tenant, place * 1_000_000) for place, (message, tenant) in enumerate(messages)]
    together = decode.build(single, LIMITS)
    apart = [decode.build([one], LIMITS) for one in single]

    assert rows(together.spans) == [row for one in apart for row in rows(one.spans)]
    assert rows(together.tokens) == [row for one in apart for row in rows(one.tokens)]


def test_the_series_of_a_batch_belong_to_their_requests() -> None:
    """Each request is told how many token rows it brought, be it none: what the store refuses is blamed on the right one."""
    plain, bad = request(a_span()), request(a_span(attributes=[key_value(c.TOKEN_SURPRISAL, "x")]))
    messages = (plain, request(tokens(2)), bad, request(tokens(3), a_span(), tokens(1)))
    built = decode.build([checked(message) for message in messages], LIMITS)

    assert built.token_rows.tolist() == [0, 2, 0, 4]
    assert [row["OutputTokens"] for row in rows(built.tokens)] == [2, 1, 3, 1, 1, 1]


def test_a_look_says_what_the_rows_will_be() -> None:
    """Before any row is made: how many are kept, how many are not and why; series that are left out are named."""
    message = request(a_span(), a_span(span_id=b""), tokens(2), a_span(attributes=[key_value(c.TOKEN_SURPRISAL, "x")]))
    found = checked(message)

    assert (found.spans, found.rejected) == (3, 1)
    assert "span_id must be 8 bytes" in found.message
    assert "token series of 1 span(s) left out" in found.message


def test_a_large_resource_counts_for_every_span() -> None:
    """What rows will take is known before they are made, repeated resources included: within a third of what it is."""
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource

    message = request(*[a_span() for _ in range(50)], resource=Resource(attributes=[key_value("k", "v" * 5000)]))
    found = checked(message)
    held = decode.build([found], LIMITS).spans.nbytes()
    assert found.row_bytes == pytest.approx(held, rel=1 / 3)


def test_requests_that_may_be_taken_alone_may_be_taken_together() -> None:
    """The limit on one request is not one on a batch, which is bounded by what its requests say they will take, tables included."""
    limits = Limits(working_bytes_max=1024 * 1024)
    message = request(a_span(attributes=[KeyValue()] * 4000), a_span(attributes=[KeyValue()] * 4000)).SerializeToString()
    found = [decode.check(message, "protobuf", received_ns=RECEIVED_NS, tenant="", limits=limits) for _ in range(5)]

    assert sum(one.row_bytes for one in found) > 2 * limits.working_bytes_max
    assert decode.build(found, limits).spans.rows == 10


@pytest.mark.parametrize(("value", "kept"), [
    (VECTOR, True), (VECTOR[:15], False), ([*VECTOR, float("nan")], False), ([*VECTOR, 1], False), ([*VECTOR, "x"], False),
], ids=["doubles", "short", "nan", "mixed", "text"])
def test_long_arrays_of_doubles_stay_numbers(value: list[Any], kept: bool) -> None:
    """Sixteen finite doubles or more and nothing else; everything else is text as ever. To the bit, and in neither place twice."""
    (row,) = rows(decode.build([checked(request(a_span(attributes=[key_value("v", value), key_value("t", "u")])))], LIMITS).spans)
    texts, numbers = dict(row["SpanAttributes"]), dict(row["SpanNumbers"])

    assert (b"v" in numbers, b"v" in texts) == (kept, not kept)
    assert texts[b"t"] == b"u"
    if kept:
        assert [number.hex() for number in numbers[b"v"]] == [number.hex() for number in value]


def test_the_layout_of_an_array_does_not_decide() -> None:
    """An element with a field nobody knows is legal, if odd: the array stays numbers like one that every encoder writes."""
    odd = AnyValue.FromString(b"\x21" + struct.pack("<d", 0.25) + b"\x78\x01")
    span = a_span(attributes=[key_value("v", VECTOR)])
    span.attributes[0].value.array_value.values.insert(3, odd)
    (row,) = rows(decode.build([checked(request(span))], LIMITS).spans)
    assert dict(row["SpanNumbers"]) == {b"v": [*VECTOR[:3], 0.25, *VECTOR[3:]]}


def test_arrays_of_spans_that_are_turned_away_go_with_them() -> None:
    """Their neighbours keep their own numbers, whatever stands between: short arrays, odd ones, spans without any."""
    vectors = [[float(number) + place / 8 for number in range(16 + place)] for place in range(6)]
    spans = [a_span(span_id=b"" if place in (0, 3) else bytes([place] * 8),
                    attributes=[key_value("short", [0.5]), key_value("v", vector), key_value("odd", [*vector, float("inf")])])
             for place, vector in enumerate(vectors)]
    spans[2].attributes[1].value.array_value.values.insert(1, AnyValue.FromString(b"\x21" + struct.pack("<d", 9.5) + b"\x78\x01"))
    vectors[2].insert(1, 9.5)
    built = decode.build([checked(request(*spans[:3])), checked(request(a_span())), checked(request(*spans[3:]))], LIMITS)

    assert [dict(row["SpanNumbers"]).get(b"v") for row in rows(built.spans)] == [
        vectors[1], vectors[2], None, vectors[4], vectors[5]]


@pytest.mark.parametrize("arrays", [0, 1, 50])
def test_rows_do_not_hold_the_tables_they_came_from(arrays: int) -> None:
    """Numbers that are few take the memory of few: the tables of a batch, which are larger than its rows, go with the walk."""
    spans = [a_span(attributes=[key_value("v", VECTOR * 10)] if place < arrays else [KeyValue()] * 20) for place in range(50)]
    values = decode.build([checked(request(*spans))], LIMITS).spans.columns["SpanNumbers"].values.values

    assert values.size == 160 * arrays
    owner = values
    while owner.base is not None:
        owner = owner.base
    assert owner.nbytes <= 2 * values.nbytes


def test_resources_events_and_links_keep_their_arrays_as_text() -> None:
    """Only the attributes of spans have a column for numbers."""
    span = a_span()
    span.events.add(name="e").attributes.append(key_value("v", VECTOR))
    (row,) = rows(decode.build([checked(request(span))], LIMITS).spans)
    assert row["SpanNumbers"] == []
    assert orjson.loads(dict(row["Events.Attributes"][0])[b"v"]) == VECTOR


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseStore]:
    directory: Path = tmp_path_factory.mktemp("numbers")
    opened = open_store(Settings(data=str(directory / "data")))
    message = request(a_span(attributes=[key_value("app.vector", VECTOR), key_value("app.word", "w")]),
                      a_span(span_id=bytes(range(2, 10)), attributes=[key_value("app.word", "w")]))
    # Received now: rows older than the retention are gone as soon as they are stored.
    opened.insert(decode.build([checked(message, later_ns=time.time_ns() - RECEIVED_NS)], LIMITS).spans, "numbers")
    yield opened
    opened.close()


def test_stored_numbers_can_be_computed_with(store: ClickHouseStore) -> None:
    """They are an array of doubles in the store, equal to what was sent."""
    (found,) = store.query("SELECT SpanNumbers['app.vector'], arraySum(SpanNumbers['app.vector']) FROM otel.otel_traces "
                           "WHERE mapContains(SpanNumbers, 'app.vector')").rows
    assert list(found[0]) == VECTOR
    assert found[1] == sum(VECTOR)


def test_numbers_are_found_and_shown_like_other_attributes(store: ClickHouseStore) -> None:
    """`has:` finds the span; its page has the array among the attributes, as JSON."""
    found = search.find(store, search.SearchRequest(q="has:app.vector has:app.word"), rows_max=10)
    assert [row["span_id"] for row in found["rows"]] == [bytes(range(1, 9)).hex()]
    made = search.trace(store, found["rows"][0]["trace_id"], spans_max=10)
    assert made is not None
    (attributes,) = [span["attributes"] for span in made["spans"] if span["span_id"] == found["rows"][0]["span_id"]]
    assert orjson.loads(attributes["app.vector"]) == VECTOR
    assert attributes["app.word"] == "w"


@hypothesis_settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(requests, max_size=3))
def test_long_texts_make_the_rows_that_short_ones_make(messages: list[ExportTraceServiceRequest]) -> None:
    """Left where they lie in the request or copied together: the same attributes, columns and bytes for the store."""
    made = []
    for long_bytes in (0, 2**62):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(text, "LONG_BYTES", long_bytes)
            made.append(decode.build([checked(message) for message in messages], LIMITS).spans)
    left, copied = (block.columns["SpanAttributes"] for block in made)
    assert isinstance(left, Maps)
    assert isinstance(copied, Maps)
    assert not len(left.values) or isinstance(left.values, Cut) > isinstance(copied.values, Cut)
    assert native.encode(made[0]) == native.encode(made[1])
    assert rows(made[0]) == rows(made[1])
    assert native.encode(concat_blocks([made[0], made[0]])) == native.encode(concat_blocks([made[1], made[1]]))
