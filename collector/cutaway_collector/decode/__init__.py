"""One OTLP trace request, protobuf or JSON, as columnar blocks: from wire bytes straight into columns by compiled code.

It neither receives nor stores. The road: otlp.py walks the bytes; `check` only counts on that walk, and says before a request is
acknowledged what of it is turned away; `build` walks many checked requests at once into tables of positions, which rows.py and
series.py turn into columns. otlp_json.py writes JSON as protobuf and takes the same road, so both encodings give the same rows.

Policies, each with a test:
- A span is turned away alone (counted, explained, neighbours kept) for a trace or span id of the wrong length or all zero, a start
  outside 1971..2105, more attributes than allowed on it, its resource, an event or a link, or a value nested too deep. Below the
  allowed depth a value is not looked into.
- Text that is not valid UTF-8 is stored as it came. (The regularising road of otlp.py refuses it, as the protobuf library does.)
- Repeated attribute keys are all kept, in order; a lifted column takes the first, which is what the map's look-up gives.
- A parent or link id of the wrong length or all zero is "". An end before the start gives duration 0. An unknown span kind or
  status is Unspecified or Unset.
- Not stored, for the exporter's schema has no place: flags, dropped counts, schema URLs, scope attributes, entity references.
"""

from __future__ import annotations

from typing import Final

import orjson

from cutaway_collector.contracts import Decoded, Encoding
from cutaway_collector.decode.building import build
from cutaway_collector.decode.checking import check
from cutaway_collector.decode.limits import Limits

__all__ = ["Limits", "build", "check", "decode", "decode_json", "decode_protobuf", "warm_up"]

_DEFAULTS: Final = Limits()


def decode(payload: bytes, encoding: Encoding, *, received_ns: int, tenant: str = "", limits: Limits = _DEFAULTS) -> Decoded:
    """One request at once: `check`, then `build`. Raises what they raise."""
    checked = check(payload, encoding, received_ns=received_ns, tenant=tenant, limits=limits)
    rows = build([checked], limits)
    return Decoded(rows.spans, rows.tokens, checked.rejected, checked.message, checked.scores)


def decode_protobuf(payload: bytes, *, received_ns: int, tenant: str = "", limits: Limits = _DEFAULTS) -> Decoded:
    """An ExportTraceServiceRequest as bytes."""
    return decode(payload, "protobuf", received_ns=received_ns, tenant=tenant, limits=limits)


def decode_json(payload: bytes, *, received_ns: int, tenant: str = "", limits: Limits = _DEFAULTS) -> Decoded:
    """The same as OTLP/JSON. MalformedRequest gives the JSON path."""
    return decode(payload, "json", received_ns=received_ns, tenant=tenant, limits=limits)


def warm_up() -> None:
    """Compiles every kernel, or loads it from the cache on disk, so that no request waits for it."""
    decode_json(_SAMPLE, received_ns=0)
    decode_json(_SAMPLE.replace(b"warm-up", b"long" * 5_000), received_ns=0)
    decode_protobuf(b"", received_ns=0)


_SAMPLE: Final = orjson.dumps({"resourceSpans": [{
    "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "warm-up"}}]},
    "scopeSpans": [{"scope": {"name": "warm-up"}, "spans": [{
        "traceId": "01" * 16, "spanId": "01" * 8, "name": "warm-up", "kind": 1,
        "startTimeUnixNano": "1700000000000000000", "endTimeUnixNano": "1700000000000000001",
        "events": [{"name": "gen_ai.evaluation.result", "attributes": [
            {"key": "gen_ai.evaluation.name", "value": {"stringValue": "a"}},
            {"key": "gen_ai.evaluation.score.value", "value": {"doubleValue": 1}},
        ]}],
        "attributes": [
            {"key": "cutaway.output.perplexity", "value": {"doubleValue": 1.5}},
            {"key": "gen_ai.request.model", "value": {"stringValue": "warm-up"}},
            {"key": "cutaway.token.entropy", "value": {"arrayValue": {"values": [{"doubleValue": 0.5}]}}},
            {"key": "cutaway.token.text", "value": {"arrayValue": {"values": [{"stringValue": "a"}]}}},
        ],
    }]}],
}]})
"""A request that takes every road of the compiled code once."""
