"""Decoding protobuf: against the protobuf library, rule by rule, and under mutation."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from cutaway_collector import columns, decode
from cutaway_collector.contracts import Decoded
from cutaway_collector.decode import Limits, numbers
from cutaway_collector.errors import MalformedRequest, TooLarge
from decode_helpers import RECEIVED_NS, a_span, any_value, expected, key_value, request, requests, rows, spell_double

GENERATED = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
UPSTREAM = [*(column.name for column in columns.UPSTREAM_COLUMNS), "SpanNumbers"]


@pytest.fixture(autouse=True, scope="module")
def _compiled() -> None:
    decode.warm_up()


def protobuf(payload: bytes, **options: Any) -> Decoded:
    return decode.decode_protobuf(payload, received_ns=RECEIVED_NS, tenant="team", **options)


def upstream(decoded: Decoded) -> list[dict[str, Any]]:
    return [{name: row[name] for name in UPSTREAM} for row in rows(decoded.spans)]


def one(*pairs: Any, **fields: Any) -> dict[str, Any]:
    """The row of one span with those attributes."""
    (row,) = rows(protobuf(request(a_span(attributes=[key_value(*pair) for pair in pairs], **fields)).SerializeToString()).spans)
    return row


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field by hand."""
    assert number < 16
    length, size = len(content), b""
    while length > 127:
        size += bytes([length & 127 | 128])
        length >>= 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + content


@GENERATED
@given(requests)
def test_rows_equal_the_protobuf_library(message: ExportTraceServiceRequest) -> None:
    """Every upstream column of every kept span is what a plain decoder on the official classes gives; the others are counted."""
    payload = message.SerializeToString()
    decoded = protobuf(payload)
    assert upstream(decoded) == expected(payload)
    total = sum(len(scope.spans) for batch in message.resource_spans for scope in batch.scope_spans)
    assert decoded.spans.rows + decoded.rejected == total
    assert bool(decoded.rejected) == ("rejected" in decoded.message)


@GENERATED
@given(requests, st.integers(0, 2**32))
def test_mutated_bytes_are_refused_or_read_as_the_library_reads_them(message: ExportTraceServiceRequest, seed: int) -> None:
    """No byte sequence crashes the decoder, and whatever the protobuf library accepts is decoded to the same rows."""
    payload = bytearray(message.SerializeToString() or b"\x0a\x00")
    chance = random.Random(seed)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(payload))
        action = chance.randrange(4)
        if action == 0:
            payload[at] = chance.randrange(256)
        elif action == 1:
            del payload[at : at + chance.randint(1, 5)]
        elif action == 2:
            payload[at:at] = chance.randbytes(chance.randint(1, 5))
        else:
            other = chance.randrange(len(payload))
            payload[at:at] = payload[other : other + chance.randint(1, 40)]
        payload = payload or bytearray(b"\x0a")
    agrees_with_the_library(bytes(payload))


def agrees_with_the_library(payload: bytes) -> None:
    try:
        wanted = expected(payload)
    except DecodeError:
        # The library also refuses text that is not UTF-8 and damage inside fields nobody stores; we may read those.
        try:
            protobuf(payload)
        except MalformedRequest:
            return
        return
    assert upstream(protobuf(payload)) == wanted


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_many_mutations_agree_with_the_library() -> None:
    """The same promise over many more damaged requests."""
    chance = random.Random(7)
    span = a_span(attributes=[key_value("a", (1, 2.5, {"b": "c"})), key_value("gen_ai.request.model", "m")])
    span.events.add(name="e", time_unix_nano=5).attributes.add(key="k").value.bool_value = True
    span.links.add(trace_id=bytes(16), span_id=bytes(8))
    basis = request(span, a_span(), resource=Resource(attributes=[key_value("service.name", "s")])).SerializeToString()
    for _ in range(100_000):
        payload = bytearray(basis)
        for _ in range(chance.randint(1, 3)):
            payload[chance.randrange(len(payload))] = chance.randrange(256)
        agrees_with_the_library(bytes(payload))


@pytest.mark.slow
@pytest.mark.parametrize("cut", range(1, 60, 3))
def test_a_cut_request_is_refused_with_an_offset(cut: int) -> None:
    """A body that ends in the middle of a message names the byte where it stopped making sense."""
    payload = request(a_span()).SerializeToString()
    with pytest.raises(MalformedRequest, match=r"at byte \d+"):
        protobuf(payload[:-cut])


@pytest.mark.parametrize(("payload", "reason"), [
    (b"\xff" * 12, "longer than ten bytes"),
    (b"\x00\x01", "number 0"),
    (b"\x0e", "wire type that does not exist"),
    (b"\x0c", "ends a group that never began"),
    (b"\x0a\xff\xff\xff\xff\x0f", "larger than what remains"),
    (b"\x0a\x80\x80\x80\x80\x80\x01", "larger than what remains"),
    (b"\x0a\x05\x12", "larger than what remains"),
    (b"\x09\x01\x02", "cut off"),
    (b"\x08\x80", "cut off"),
    (b"\x0b\x08\x01", "cannot read it"),
], ids=[
    "varint", "field 0", "wire type 6", "end group", "length", "overlong length", "short", "fixed64", "open varint", "open group",
])
def test_broken_wire_format_is_refused_with_its_reason(payload: bytes, reason: str) -> None:
    """Each way of not being protobuf has its own words."""
    with pytest.raises(MalformedRequest, match=reason):
        protobuf(payload)


@pytest.mark.parametrize("payload", [b"", b"\x0a\x00", b"\x0a\x02\x12\x00"], ids=["no bytes", "no scope", "no span"])
def test_an_empty_request_gives_empty_blocks(payload: bytes) -> None:
    """Nothing sent is nothing stored, with every column present."""
    decoded = protobuf(payload)
    decoded.spans.check()
    decoded.tokens.check()
    assert (decoded.spans.rows, decoded.tokens.rows, decoded.rejected, decoded.message) == (0, 0, 0, "")


def test_blocks_have_every_column_in_order() -> None:
    """The store relies on the order of the column table."""
    decoded = protobuf(request(a_span()).SerializeToString())
    sent = [column.name for column in columns.TRACES.columns if column.name != "StoredAt"]
    assert (decoded.spans.table, list(decoded.spans.columns)) == ("otel_traces", sent)
    assert (decoded.tokens.table, list(decoded.tokens.columns)) == ("gen_ai_tokens", [c.name for c in columns.TOKENS.columns])


def test_tenant_and_time_come_from_the_receiver() -> None:
    """A payload cannot name its tenant; the receipt time is stored in milliseconds."""
    row = one(("TenantId", "other"), ("tenant", "other"))
    assert (row["TenantId"], row["IngestedAt"]) == (b"team", RECEIVED_NS // 10**6)


@pytest.mark.parametrize(("value", "text"), [
    (True, b"true"), (False, b"false"), (0, b"0"), (-(2**63), b"-9223372036854775808"), (2**63 - 1, b"9223372036854775807"),
    (1.0, b"1"), (-0.0, b"-0"), (1e21, b"1e+21"), (1e20, b"100000000000000000000"), (1e-6, b"0.000001"), (1e-7, b"1e-7"),
    (0.1 + 0.2, b"0.30000000000000004"), (5e-324, b"5e-324"), (1.7976931348623157e308, b"1.7976931348623157e+308"),
    (math.nan, b"NaN"), (-math.inf, b"-Infinity"), (b"", b""), (b"\x00\xff", b"AP8="), (b"abc", b"YWJj"), (None, b""), ("", b""),
    ((), b"[]"), ({}, b"{}"), ((1, "a", True, None, 2.0, b"x"), b'[1,"a",true,null,2,"eA=="]'),
    ({"b": {"c": (math.inf,)}, "a": ""}, b'{"b":{"c":["Infinity"]},"a":""}'),
    (('"\\\x00\n\t\x1f/\x7f\u00e9',), '["\\"\\\\\\u0000\\n\\t\\u001f/\x7f\u00e9"]'.encode()),
])
def test_values_are_spelled_as_the_exporter_does(value: Any, text: bytes) -> None:
    """Dashboards compare text: each kind of value has exactly one spelling."""
    assert one(("k", value))["SpanAttributes"] == [(b"k", text)]


@settings(max_examples=500, deadline=None)
@given(st.lists(st.floats(), max_size=5))
def test_doubles_read_back_as_themselves(values: list[float]) -> None:
    """The spelling is the shortest that reads back to the same bits, in the layout of Go's encoding/json."""
    spelled = numbers.spell(np.array(values, np.float64))
    assert [text.decode() for text in spelled] == [f"{spell_double(value)}," for value in values]


@pytest.mark.parametrize("size", [0, 1, 117, 118, 119, 125, 126, 127, 128, 129, 16_370, 16_380, 16_383, 16_384, 16_390, 2**21])
def test_texts_of_any_length_are_read_whole(size: int) -> None:
    """Their lengths, and those of what they stand in, take one byte, two, three or four."""
    row = one(("t", "x" * size), ("after", "y"), ("list", ["z" * size]))
    assert dict(row["SpanAttributes"])[b"t"] == b"x" * size
    assert [key for key, _ in row["SpanAttributes"]] == [b"t", b"after", b"list"]


@pytest.mark.parametrize("value", [
    b"\x0a\x01k\x12\x83\x80\x01" + b"\x0a\x01x", b"\x0a\x01k\x12\x05\x0a\x82\x80\x01x", b"\x0a\x01k\x12\x83" + b"\x0a\x01x",
    b"\x0a\x01k\x12\x80", b"\x0a\x01k\x12\x02\x0a\x80", b"\x0a\x01k\x12\x80\x80\x0a\xfd\x7f" + b"x" * 16_381,
], ids=["value", "text", "two bytes", "end", "end of text", "third byte taken for a tag"])
def test_a_length_that_is_too_long_is_refused(value: bytes) -> None:
    """In an attribute, by however many bytes, where the library refuses it too."""
    payload = field(1, field(2, field(2, a_span().SerializeToString() + field(9, value))))
    with pytest.raises(DecodeError):
        ExportTraceServiceRequest.FromString(payload)
    with pytest.raises(MalformedRequest):
        protobuf(payload)


def test_repeated_keys_are_all_kept_and_the_first_is_lifted() -> None:
    """Nothing a sender said is lost, and the lifted column agrees with what a look-up in the map finds first."""
    row = one(("gen_ai.request.model", "first"), ("", "empty key"), ("gen_ai.request.model", "second"))
    assert [key for key, _ in row["SpanAttributes"]] == [b"gen_ai.request.model", b"", b"gen_ai.request.model"]
    assert row["GenAiModel"] == b"first"


@pytest.mark.parametrize(("value", "stored"), [
    (12, 12), (0, 0), (-1, None), (12.0, 12), (12.5, None), ("34", 34), ("-3", None), ("3.5", None), ("", None), (True, None),
    ("18446744073709551615", 2**64 - 1), ("18446744073709551616", None), (math.nan, None), ((1,), None),
])
def test_token_counts_are_lifted_from_any_number(value: Any, stored: int | None) -> None:
    """Senders write counts as ints, doubles or text; what is no whole number of tokens is NULL, never 0."""
    assert one(("gen_ai.usage.input_tokens", value))["InputTokens"] == stored


@pytest.mark.parametrize(("value", "stored"), [(2, 2.0), (0.25, 0.25), ("1e-3", 0.001), ("x", None), (None, None), ("0x10", None)])
def test_signals_are_lifted_from_any_number(value: Any, stored: float | None) -> None:
    """A perplexity may be an int, a double or text."""
    assert one(("cutaway.output.perplexity", value))["Perplexity"] == stored


def test_the_first_listed_attribute_wins() -> None:
    """Time to first token is ours when present, the convention's otherwise, and text that is no number does not hide it."""
    ours, theirs = "cutaway.time_to_first_token", "gen_ai.response.time_to_first_chunk"
    assert one((theirs, 2.0), (ours, 1.0))["TimeToFirstTokenS"] == 1.0
    assert one((theirs, 2.0))["TimeToFirstTokenS"] == 2.0
    assert one((ours, "soon"), (theirs, 2.0))["TimeToFirstTokenS"] == 2.0


def test_lifted_attributes_stay_in_the_map() -> None:
    """Grafana and searches over the map still see them."""
    row = one(("gen_ai.operation.name", "chat"), ("gen_ai.usage.output_tokens", 5))
    assert row["SpanAttributes"] == [(b"gen_ai.operation.name", b"chat"), (b"gen_ai.usage.output_tokens", b"5")]
    assert (row["GenAiOperation"], row["OutputTokens"]) == (b"chat", 5)


@pytest.mark.parametrize(("fields", "word"), [
    ({"trace_id": bytes(16)}, "trace_id"), ({"trace_id": b"short"}, "trace_id"), ({"span_id": bytes(8)}, "span_id"),
    ({"span_id": b"ninebytes"}, "span_id"), ({"start_time_unix_nano": 0}, "1971"), ({"start_time_unix_nano": 2**64 - 1}, "1971"),
    ({"start_time_unix_nano": 4_291_747_200 * 10**9}, "from 1971 to 2105"), ({"start_time_unix_nano": 2**32 * 10**9}, "2105"),
    ({"attributes": [key_value("k", 1)] * 5}, "may hold 4"),
    ({"attributes": [key_value("k", ((((1,),),),))]}, "nest 3"),
    ({"attributes": [key_value("k", {"a": {"b": ({},)}})]}, "nest 3"),
], ids=["zero trace", "short trace", "zero span", "long span", "no start", "last start", "first late start", "wrapping start",
        "attributes", "arrays", "maps"])
def test_a_bad_span_is_rejected_alone(fields: dict[str, Any], word: str) -> None:
    """Neighbours before and after are stored, and the sender is told which rule was broken."""
    good = [a_span(name="before"), a_span(name="after")]
    payload = request(good[0], a_span(**fields), good[1]).SerializeToString()
    decoded = protobuf(payload, limits=Limits(attributes_max=4, attribute_depth_max=3))
    assert [row["SpanName"] for row in rows(decoded.spans)] == [b"before", b"after"]
    assert decoded.rejected == 1
    assert word in decoded.message


@pytest.mark.parametrize("start_ns", [31_536_000 * 10**9, 4_291_747_200 * 10**9 - 1])
def test_a_start_at_either_end_is_kept(start_ns: int) -> None:
    """The first nanosecond of 1971 and the last of 2105 are stored as they came."""
    assert one(start_time_unix_nano=start_ns)["Timestamp"] == start_ns


def test_a_value_as_deep_as_allowed_is_kept() -> None:
    """The limit is the deepest that is still accepted."""
    payload = request(a_span(attributes=[key_value("k", (((1,),),))])).SerializeToString()
    assert protobuf(payload, limits=Limits(attribute_depth_max=3)).spans.rows == 1
    assert protobuf(payload, limits=Limits(attribute_depth_max=2)).rejected == 1


def test_attributes_of_events_links_and_resources_are_limited_too() -> None:
    """A span answers for all it brings; the spans of another resource do not."""
    many = [key_value("k", 1)] * 5
    event, link = a_span(), a_span()
    event.events.add(attributes=many)
    link.links.add(attributes=many)
    message = request(event, link, a_span(name="kept"))
    message.MergeFrom(request(a_span(), resource=Resource(attributes=many)))
    decoded = protobuf(message.SerializeToString(), limits=Limits(attributes_max=4))
    assert [row["SpanName"] for row in rows(decoded.spans)] == [b"kept"]
    assert decoded.rejected == 3


def test_a_bomb_of_nested_arrays_costs_one_span() -> None:
    """Ten thousand levels neither overflow a stack nor take the neighbours along."""
    value = b""
    for _ in range(10_000):
        value = field(5, field(1, value))
    bomb = a_span().SerializeToString() + field(9, field(1, b"k") + field(2, value))
    payload = field(1, field(2, field(2, bomb) + field(2, a_span().SerializeToString())))
    decoded = protobuf(payload)
    assert (decoded.spans.rows, decoded.rejected) == (1, 1)


def test_an_end_before_the_start_is_no_duration() -> None:
    """UInt64 must not wrap to centuries."""
    assert one(start_time_unix_nano=1_700_000_000 * 10**9, end_time_unix_nano=5)["Duration"] == 0


def test_text_that_is_not_utf8_is_stored_as_it_came() -> None:
    """Losing a span over a broken byte in a prompt helps nobody."""
    payload = request(a_span(name="NAME")).SerializeToString().replace(b"NAME", b"\xff\xfe\x80A")
    assert rows(protobuf(payload).spans)[0]["SpanName"] == b"\xff\xfe\x80A"


UNKNOWN = [b"\xa0\x06\x05", b"\xa1\x06" + bytes(8), b"\xa2\x06\x02hi", b"\xa5\x06" + bytes(4), b"\xa3\x06\x08\x01\xa4\x06"]


@pytest.mark.parametrize("unknown", UNKNOWN, ids=["varint", "fixed64", "bytes", "fixed32", "group"])
def test_unknown_fields_are_skipped_at_every_level(unknown: bytes) -> None:
    """A newer sender's fields, of any wire type, change nothing."""
    value = field(1, b"v") + unknown
    pair = field(1, b"k") + unknown + field(2, value) + unknown
    event = field(2, b"e") + unknown + field(3, pair)
    span = unknown + a_span().SerializeToString() + field(9, pair) + field(11, event) + field(15, unknown) + unknown
    scope = unknown + field(1, field(1, b"scope") + unknown) + unknown + field(2, span)
    payload = unknown + field(1, unknown + field(1, field(1, pair) + unknown) + field(2, scope) + unknown) + unknown
    assert upstream(protobuf(payload)) == expected(payload)
    assert protobuf(payload).spans.rows == 1


def test_order_and_pieces_follow_the_merging_rules() -> None:
    """Resource and scope after the spans and in two pieces, a split status, a repeated scalar: as the library merges them."""
    span = field(15, b"\x18\x02") + field(5, b"first") + a_span(name="last").SerializeToString() + field(15, field(2, b"broken"))
    scope = field(2, span) + field(1, field(1, b"scope")) + field(2, span) + field(1, field(2, b"1.0"))
    resource = [field(1, field(1, key_value(key, key).SerializeToString())) for key in ("service.name", "host")]
    payload = field(1, field(2, scope) + resource[0] + resource[1])
    assert upstream(protobuf(payload)) == expected(payload)
    row = rows(protobuf(payload).spans)[0]
    assert (row["SpanName"], row["StatusCode"], row["ScopeVersion"]) == (b"last", b"Error", b"1.0")
    assert len(row["ResourceAttributes"]) == 2


@pytest.mark.parametrize("values", [
    [("a",), ("b", 1)], [{"a": 1}, {"b": 2}], ["text", 5], [("a",), "text", ("b",)], [5, 6],
], ids=["arrays", "maps", "scalars", "arrays apart", "same scalar"])
def test_a_value_in_pieces_follows_the_merging_rules(values: list[Any]) -> None:
    """Two values of one attribute: messages of one kind merge, otherwise the last wins."""
    for joined in (b"".join(field(2, any_value(one).SerializeToString()) for one in values),
                   field(2, b"".join(any_value(one).SerializeToString() for one in values))):
        payload = field(1, field(2, field(2, a_span().SerializeToString() + field(9, field(1, b"k") + joined))))
        assert upstream(protobuf(payload)) == expected(payload)


def test_concatenated_requests_are_one_request() -> None:
    """Protobuf's own rule, and the way some proxies batch."""
    payload = request(a_span(name="a")).SerializeToString() + request(a_span(name="b")).SerializeToString()
    assert [row["SpanName"] for row in rows(protobuf(payload).spans)] == [b"a", b"b"]


def test_tables_grow_to_what_a_dense_request_needs() -> None:
    """Requests far denser than usual are walked again with exact sizes."""
    spans = [a_span(attributes=[key_value("", None)] * 40) for _ in range(300)]
    for span in spans:
        span.events.extend([type(span).Event()] * 40)
        span.links.extend([type(span).Link()] * 40)
    payload = request(*spans).SerializeToString()
    assert upstream(protobuf(payload)) == expected(payload)


def test_minimal_spans_cannot_exhaust_memory() -> None:
    """Two bytes that become a row of two hundred are refused beyond the limit, as too large."""
    payload = field(1, field(2, b"\x12\x00" * 100_000))
    assert protobuf(payload).rejected == 100_000
    with pytest.raises(TooLarge, match="send fewer spans at once"):
        protobuf(payload, limits=Limits(working_bytes_max=1024 * 1024))


def test_a_huge_resource_times_many_spans_cannot_exhaust_memory() -> None:
    """A resource repeats in every row: 80 kB of it in 20 000 spans would be 1.6 GB from a 1.5 MB request."""
    resource = Resource(attributes=[key_value("k", "v" * 80_000)])
    with pytest.raises(TooLarge, match="a smaller resource"):
        protobuf(request(*[a_span()] * 20_000, resource=resource).SerializeToString())


def test_errors_do_not_repeat_the_payload() -> None:
    """Prompts must not reach logs by way of an error."""
    with pytest.raises(MalformedRequest) as caught:
        protobuf(request(a_span(name="secret prompt")).SerializeToString() + b"\x0a\x7fsecret")
    assert "secret" not in str(caught.value)


def test_compiled_code_on_disk_belongs_to_these_sources(tmp_path: Path) -> None:
    """A change in any file of the decoder must not meet machine code of the old one: numba alone watches one file of several."""
    from numba.core.caching import IndexDataCacheFile

    from cutaway_collector.decode import otlp, wire

    stamp = otlp.request._cache._cache_file._source_stamp  # type: ignore[attr-defined]  # the cache has no public door
    IndexDataCacheFile(str(tmp_path), "kernel", "older sources").save("key", "machine code")
    assert IndexDataCacheFile(str(tmp_path), "kernel", "older sources").load("key") == "machine code"
    assert IndexDataCacheFile(str(tmp_path), "kernel", stamp).load("key") is None
    assert stamp == wire._STAMP
