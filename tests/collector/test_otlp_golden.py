"""OTLP conformance, point 22: every pair of the properties of a request, against the protobuf library.

The set is built as OpenTelemetry's collector builds its golden data: rows of choices such that any two choices of two properties
meet in at least one of them, without trying every combination. The oracle is decode_helpers.expected, which shares no code with the
decoder.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import Message
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from conformance_helpers import otlp_json
from cutaway_collector import decode
from decode_helpers import RECEIVED_NS, a_span, expected, key_value, rows

_MANY = [key_value(f"key.{index}", index) for index in range(130)]
_KINDS = [key_value(key, value) for key, value in {
    "text": "naïve 🌍", "empty": "", "int": -(2**63), "double": 1e-7, "yes": True, "no": False, "none": None, "bytes": b"\x00\xff",
    "array": [1, "a", None, [2.5, b"x"]], "map": {"a": {"b": [True]}, "": ""}, "service.name": "not the resource's",
}.items()]
_START = 1_700_000_000_000_000_000

PROPERTIES: dict[str, dict[str, Any]] = {
    "parent": {"root": b"", "child": bytes(range(2, 10)), "bad": b"abc"},
    "tracestate": {"none": "", "one": "a=1", "many": "a=1,b=2,c@d=3"},
    "name": {"none": "", "plain": "chat m", "long": "n" * 5000, "unicode": "генерация 生成 🚀"},
    "kind": {str(kind): kind for kind in (0, 1, 2, 3, 4, 5, 99)},
    "times": {"usual": (_START, _START + 9), "zero": (_START, _START), "backwards": (_START, 5), "no end": (_START, 0)},
    "attributes": {"none": [], "kinds": _KINDS, "many": _MANY, "twice": [key_value("k", 1), key_value("k", "2")]},
    "events": {"none": [], "one": [("e", _START, [])], "many": [("", 0, _KINDS), ("late", 2**64 - 1, _MANY[:3])]},
    "links": {"none": [], "one": [(bytes(range(16)), bytes(range(8)), "", [])], "bad": [(b"x", b"", "t=1", _KINDS)] * 2},
    "status": {"unset": None, "ok": (1, ""), "error": (2, "it broke: naïvely"), "new": (7, "")},
    "resource": {"none": None, "empty": [], "service": [key_value("service.name", "golden")], "kinds": [*_KINDS, *_MANY[:9]]},
    "scope": {"none": None, "name": ("lib", ""), "version": ("lib", "1.2.3")},
    "spans": {"one": 1, "two": 2, "many": 40},
    "dropped": {"no": False, "yes": True},
}
"""Property -> name of a choice -> the choice."""


def pairwise() -> list[dict[str, str]]:
    """Rows that cover every pair of choices, each row picked to cover as many open pairs as it can, greedily."""
    names = list(PROPERTIES)
    open_pairs = {
        (one, a, other, b) for one, other in itertools.combinations(names, 2) for a in PROPERTIES[one] for b in PROPERTIES[other]
    }
    made = []
    while open_pairs:
        one, a, other, b = min(open_pairs)
        row = {one: a, other: b}
        for name in names:
            if name not in row:
                row[name] = max(PROPERTIES[name], key=lambda choice: sum(
                    pair in open_pairs for had, chosen in row.items() for pair in _both_ways(name, choice, had, chosen)))
        made.append(row)
        open_pairs -= {(x, row[x], y, row[y]) for x, y in itertools.combinations(names, 2)}
    return made


def _both_ways(one: str, a: str, other: str, b: str) -> tuple[tuple[str, str, str, str], ...]:
    return (one, a, other, b), (other, b, one, a)


ROWS = pairwise()


def built(row: dict[str, str]) -> ExportTraceServiceRequest:
    """The request a row describes."""
    chosen = {name: PROPERTIES[name][choice] for name, choice in row.items()}
    message = ExportTraceServiceRequest()
    sent = message.resource_spans.add()
    if chosen["resource"] is not None:
        sent.resource.attributes.extend(chosen["resource"])
    scoped = sent.scope_spans.add()
    if chosen["scope"] is not None:
        scoped.scope.name, scoped.scope.version = chosen["scope"]
    scoped.spans.extend(_span(chosen, index) for index in range(chosen["spans"]))
    if chosen["dropped"]:
        sent.schema_url = scoped.schema_url = "https://opentelemetry.io/schemas/1.30.0"
        sent.resource.dropped_attributes_count = scoped.scope.dropped_attributes_count = 3
    return message


def _span(chosen: dict[str, Any], index: int) -> Span:
    start, end = chosen["times"]
    span = a_span(span_id=(index + 1).to_bytes(8, "big"), parent_span_id=chosen["parent"], trace_state=chosen["tracestate"],
                  name=chosen["name"], kind=chosen["kind"], start_time_unix_nano=start, end_time_unix_nano=end,
                  attributes=chosen["attributes"])
    for name, time_ns, attributes in chosen["events"]:
        span.events.add(name=name, time_unix_nano=time_ns, attributes=attributes)
    for trace, linked, state, attributes in chosen["links"]:
        span.links.add(trace_id=trace, span_id=linked, trace_state=state, attributes=attributes)
    if chosen["status"] is not None:
        span.status.code, span.status.message = chosen["status"]
    if chosen["dropped"]:
        span.flags, span.dropped_attributes_count, span.dropped_events_count, span.dropped_links_count = 769, 1, 2, 3
    return span


def _as_json(message: Message) -> bytes:
    return json.dumps(otlp_json(message)).encode()


def test_22_the_golden_set_covers_every_pair() -> None:
    """The claim the other test rests on."""
    for one, other in itertools.combinations(PROPERTIES, 2):
        met = {(row[one], row[other]) for row in ROWS}
        assert met == set(itertools.product(PROPERTIES[one], PROPERTIES[other]))


@pytest.mark.parametrize("road", ["protobuf", "json"])
@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_22_golden_requests_equal_the_protobuf_library(row: dict[str, str], road: Any) -> None:
    """Every upstream column of every span, in both encodings."""
    message = built(row)
    encode: Callable[[Any], bytes] = _as_json if road == "json" else type(message).SerializeToString
    decoded = decode.decode(encode(message), road, received_ns=RECEIVED_NS)
    wanted = expected(message.SerializeToString())
    assert decoded.rejected == 0
    assert len(wanted) == PROPERTIES["spans"][row["spans"]]
    assert [{name: made[name] for name in wanted[0]} for made in rows(decoded.spans)] == wanted
