"""A slow, plain decoder on the official protobuf classes, and random requests: the oracle of the decoder's tests.

Written from the proto files and the exporter's spelling rules, one Python object at a time; it shares no code with the decoder.
"""

from __future__ import annotations

import base64
import itertools
import json
import math
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from cutaway import conventions
from cutaway_collector.blocks import Block, Lists, MapLists, Maps, Nullable, NumberMaps, Strings

RECEIVED_NS = 1_800_000_000_123_456_789
KINDS = ["Unspecified", "Internal", "Server", "Client", "Producer", "Consumer"]
STATUSES = ["Unset", "Ok", "Error"]
SERIES = {
    *conventions.TOKEN_SERIES, conventions.TOKEN_TEXT, *conventions.ATTENTION_SERIES, *conventions.ALTERNATIVE_SERIES,
    *conventions.PROMPT_SERIES, *conventions.DIFFUSION_SERIES,
}
START_NS = (31_536_000 * 10**9, 4_291_747_200 * 10**9)


def plain(column: Any) -> list[Any]:
    """Any column as Python values: bytes, numbers, None, lists, lists of pairs."""
    if isinstance(column, Strings):
        return list(column)
    if isinstance(column, Nullable):
        return [None if hole else value for value, hole in zip(column.values.tolist(), column.missing.tolist(), strict=True)]
    if isinstance(column, Maps | NumberMaps):
        pairs = list(zip(column.keys, plain(column.values), strict=True))
        return _cut(column.offsets, pairs)
    if isinstance(column, Lists | MapLists):
        return _cut(column.offsets, plain(column.values))
    return list(column.tolist())


def _cut(offsets: Any, values: list[Any]) -> list[Any]:
    assert offsets[0] == 0
    assert offsets[-1] == len(values)
    return [values[start:stop] for start, stop in itertools.pairwise(offsets)]


def rows(block: Block) -> list[dict[str, Any]]:
    """A block as one dictionary a row, after its own check."""
    block.check()
    columns = {name: plain(column) for name, column in block.columns.items()}
    return [{name: values[index] for name, values in columns.items()} for index in range(block.rows)]


def spell_double(value: float) -> str:
    """As Go's encoding/json lays a double out, and NaN and the infinities as OTLP/JSON does."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    if value == 0:
        return "-0" if math.copysign(1, value) < 0 else "0"
    shortest = Decimal(repr(value))
    if 1e-6 <= abs(value) < 1e21:
        text = format(shortest, "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    sign, digits, _ = shortest.normalize().as_tuple()
    mantissa = str(digits[0]) + ("." + "".join(map(str, digits[1:])) if len(digits) > 1 else "")
    return f"{'-' if sign else ''}{mantissa}e{shortest.adjusted():+d}"


def _json(value: AnyValue) -> str:
    kind = value.WhichOneof("value")
    if kind == "string_value":
        return json.dumps(value.string_value, ensure_ascii=False)
    if kind == "double_value":
        text = spell_double(value.double_value)
        return text if math.isfinite(value.double_value) else f'"{text}"'
    if kind == "bytes_value":
        return json.dumps(base64.b64encode(value.bytes_value).decode())
    if kind == "array_value":
        return "[" + ",".join(_json(one) for one in value.array_value.values) + "]"
    if kind == "kvlist_value":
        pairs = [f"{json.dumps(one.key, ensure_ascii=False)}:{_json(one.value)}" for one in value.kvlist_value.values]
        return "{" + ",".join(pairs) + "}"
    return spell(value).decode() or "null"


def spell(value: AnyValue) -> bytes:
    """An attribute value as the exporter writes it."""
    kind = value.WhichOneof("value")
    if kind == "string_value":
        return value.string_value.encode()
    if kind == "bool_value":
        return b"true" if value.bool_value else b"false"
    if kind == "int_value":
        return b"%d" % value.int_value
    if kind == "double_value":
        return spell_double(value.double_value).encode()
    if kind == "bytes_value":
        return base64.b64encode(value.bytes_value)
    return _json(value).encode() if kind in ("array_value", "kvlist_value") else b""


def _map(attributes: Any) -> list[tuple[bytes, bytes]]:
    return [(one.key.encode(), spell(one.value)) for one in attributes]


def _vector(value: AnyValue) -> bool:
    """Whether it stays numbers: sixteen finite doubles or more and nothing else."""
    inner = value.array_value.values
    return len(inner) >= 16 and all(one.WhichOneof("value") == "double_value" and math.isfinite(one.double_value) for one in inner)


def _id(raw: bytes, width: int) -> bytes:
    return raw.hex().encode() if len(raw) == width and any(raw) else b""


def _depth(value: AnyValue) -> int:
    inner = [*value.array_value.values, *(one.value for one in value.kvlist_value.values)]
    nests = value.WhichOneof("value") in ("array_value", "kvlist_value")
    return (1 if nests else 0) + max((_depth(one) for one in inner), default=0)


def wanted(span: Span, resource: Resource, depth_max: int = 32, attributes_max: int = 4096) -> bool:
    """Whether a span is kept."""
    owners = [span.attributes, resource.attributes, *(e.attributes for e in span.events), *(k.attributes for k in span.links)]
    return (
        len(span.trace_id) == 16 and any(span.trace_id) and len(span.span_id) == 8 and any(span.span_id)
        and START_NS[0] <= span.start_time_unix_nano < START_NS[1]
        and all(len(owner) <= attributes_max for owner in owners)
        and all(_depth(one.value) <= depth_max for owner in owners for one in owner)
    )


def expected(payload: bytes) -> list[dict[str, Any]]:
    """Upstream columns of every kept span, by the protobuf library."""
    message = ExportTraceServiceRequest.FromString(payload)
    return [
        _row(span, scope.scope, batch.resource)
        for batch in message.resource_spans for scope in batch.scope_spans for span in scope.spans
        if wanted(span, batch.resource)
    ]


def _row(span: Span, scope: Any, resource: Resource) -> dict[str, Any]:
    services = [spell(one.value) for one in resource.attributes if one.key == "service.name"]
    in_range = 2**63 - 1
    return {
        "Timestamp": span.start_time_unix_nano,
        "TraceId": _id(span.trace_id, 16), "SpanId": _id(span.span_id, 8), "ParentSpanId": _id(span.parent_span_id, 8),
        "TraceState": span.trace_state.encode(), "SpanName": span.name.encode(),
        "SpanKind": KINDS[span.kind if 0 <= span.kind < 6 else 0].encode(),
        "ServiceName": services[0] if services else b"",
        "ResourceAttributes": _map(resource.attributes),
        "ScopeName": scope.name.encode(), "ScopeVersion": scope.version.encode(),
        "SpanAttributes": [
            pair for pair, one in zip(_map(span.attributes), span.attributes, strict=True)
            if one.key not in SERIES and not _vector(one.value)
        ],
        "SpanNumbers": [
            (one.key.encode(), [inner.double_value for inner in one.value.array_value.values])
            for one in span.attributes if one.key not in SERIES and _vector(one.value)
        ],
        "Duration": max(0, span.end_time_unix_nano - span.start_time_unix_nano),
        "StatusCode": STATUSES[span.status.code if 0 <= span.status.code < 3 else 0].encode(),
        "StatusMessage": span.status.message.encode(),
        "Events.Timestamp": [min(event.time_unix_nano, in_range) for event in span.events],
        "Events.Name": [event.name.encode() for event in span.events],
        "Events.Attributes": [_map(event.attributes) for event in span.events],
        "Links.TraceId": [_id(link.trace_id, 16) for link in span.links],
        "Links.SpanId": [_id(link.span_id, 8) for link in span.links],
        "Links.TraceState": [link.trace_state.encode() for link in span.links],
        "Links.Attributes": [_map(link.attributes) for link in span.links],
    }


def a_span(**fields: Any) -> Span:
    """A span that is kept, with fields replaced."""
    basis: dict[str, Any] = {
        "trace_id": bytes(range(16)), "span_id": bytes(range(1, 9)), "name": "generate",
        "start_time_unix_nano": 1_700_000_000_000_000_000, "end_time_unix_nano": 1_700_000_001_000_000_000,
    }
    return Span(**(basis | fields))


def request(*spans: Span, resource: Resource | None = None) -> ExportTraceServiceRequest:
    """One resource, one scope, those spans."""
    return ExportTraceServiceRequest(resource_spans=[ResourceSpans(resource=resource, scope_spans=[ScopeSpans(spans=spans)])])


def key_value(key: str, value: Any) -> KeyValue:
    """An attribute from a Python value; tuples are arrays, dictionaries maps, None the empty value."""
    return KeyValue(key=key, value=any_value(value))


def any_value(value: Any) -> AnyValue:
    """AnyValue of a Python value."""
    if value is None:
        return AnyValue()
    if isinstance(value, tuple | list):
        return AnyValue(array_value=ArrayValue(values=[any_value(one) for one in value]))
    if isinstance(value, dict):
        return AnyValue(kvlist_value=KeyValueList(values=[key_value(key, one) for key, one in value.items()]))
    name = {bool: "bool_value", int: "int_value", float: "double_value", bytes: "bytes_value", str: "string_value"}[type(value)]
    return AnyValue(**{name: value})


_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_key = st.one_of(_text, st.sampled_from(["service.name", "gen_ai.request.model", "gen_ai.operation.name", "error.type", "x" * 300]))
_int64 = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-300, 300))
_leaf = st.one_of(
    st.none(), _text, st.booleans(), _int64, st.floats(), st.binary(max_size=9),
    st.sampled_from([1.0, 1e21, 1e-7, 1e-6, 999999999999999900000.0, 5e-324, -0.0]),
)


def _nest(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.lists(inner, max_size=4), st.dictionaries(_text, inner, max_size=3))


_vectors = st.lists(st.one_of(st.floats(), st.floats(allow_nan=False, allow_infinity=False)), min_size=14, max_size=18)
_value = st.one_of(st.recursive(_leaf, _nest, max_leaves=8), _vectors)
attributes = st.lists(st.builds(key_value, _key, _value), max_size=5)
_uint64 = st.one_of(st.integers(0, 2**64 - 1), st.integers(1_600_000_000 * 10**9, 1_900_000_000 * 10**9))
_enum = st.one_of(st.integers(-1, 7), st.integers(-(2**31), 2**31 - 1))


def _ids(width: int) -> st.SearchStrategy[bytes]:
    good = st.binary(min_size=width, max_size=width)
    return st.one_of(good, good, good, st.just(bytes(width)), st.binary(max_size=width + 2))


_events = st.lists(st.builds(Span.Event, time_unix_nano=_uint64, name=_text, attributes=attributes), max_size=2)
_links = st.lists(st.builds(Span.Link, trace_id=_ids(16), span_id=_ids(8), trace_state=_text, attributes=attributes,
                            flags=st.integers(0, 2**32 - 1)), max_size=2)
spans = st.builds(
    Span, trace_id=_ids(16), span_id=_ids(8), parent_span_id=_ids(8), trace_state=_text, name=_text, kind=_enum,
    start_time_unix_nano=_uint64, end_time_unix_nano=_uint64, attributes=attributes, dropped_attributes_count=st.integers(0, 9),
    events=_events, links=_links, status=st.builds(Status, message=_text, code=_enum), flags=st.integers(0, 2**32 - 1),
)
_scope_spans = st.builds(ScopeSpans, spans=st.lists(spans, max_size=3), schema_url=_text)


def _with_scope(scope_spans: ScopeSpans, name: str, version: str, attached: list[KeyValue]) -> ScopeSpans:
    scope_spans.scope.name, scope_spans.scope.version = name, version
    scope_spans.scope.attributes.extend(attached)
    return scope_spans


_scopes = st.one_of(_scope_spans, st.builds(_with_scope, _scope_spans, _text, _text, attributes))
_resources = st.builds(ResourceSpans, scope_spans=st.lists(_scopes, max_size=2), resource=st.one_of(
    st.none(), st.builds(Resource, attributes=attributes)))
requests = st.builds(ExportTraceServiceRequest, resource_spans=st.lists(_resources, max_size=2))
"""Requests with every kind of value, id, time and enum, good and bad."""
