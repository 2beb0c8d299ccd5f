"""One OTLP trace request, protobuf or JSON, as columnar blocks: from wire bytes straight into columns by compiled code.

It neither receives nor stores. The road: otlp.py walks the bytes once into tables of positions, rows.py and series.py turn the
tables into columns; otlp_json.py writes JSON as protobuf and takes the same road, so both encodings give the same rows.

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

from dataclasses import asdict
from typing import Any, Final

import numpy as np
import orjson

from cutaway_collector.contracts import Decoded, Encoding
from cutaway_collector.decode import logs, names, numbers, otlp, otlp_json, series, wire
from cutaway_collector.decode import tables as t
from cutaway_collector.decode.limits import Limits
from cutaway_collector.decode.rows import keep, span_block
from cutaway_collector.decode.tables import Tables
from cutaway_collector.errors import MalformedRequest

__all__ = ["Limits", "decode", "decode_json", "decode_logs", "decode_protobuf", "warm_up"]

_REJECTED: Final[dict[int, str]] = {
    t.BAD_TRACE_ID: "trace_id must be 16 bytes, not all zero",
    t.BAD_SPAN_ID: "span_id must be 8 bytes, not all zero",
    t.BAD_START: "start_time_unix_nano must lie from 1971 to 2105",
    t.TOO_MANY_ATTRIBUTES: "a span, its resource, an event or a link may hold {attributes_max} attributes",
    t.TOO_DEEP: "attribute values may nest {attribute_depth_max} deep",
}
_DEFAULTS: Final = Limits()


def _fill(payload: bytes, limits: Limits) -> tuple[Any, Tables, int]:
    """(bytes, tables, end or fault): walks once with guessed sizes, once more with exact ones if the guess was small."""
    data = np.frombuffer(payload, np.uint8)
    capacities = t.guess(data.size)
    tables = t.allocate(capacities, limits.attribute_depth_max, names.PACKED)
    end = otlp.request(data, tables.work, limits.attributes_max)
    wanted = tables.counts[: len(capacities)].tolist()
    if end >= 0 and any(want > held for want, held in zip(wanted, capacities, strict=True)):
        t.check_affordable(wanted, limits.working_bytes_max)
        tables = t.allocate(wanted, limits.attribute_depth_max, names.PACKED)
        end = otlp.request(data, tables.work, limits.attributes_max)
        if end < 0 or tables.counts[: len(capacities)].tolist() != wanted:
            raise AssertionError("two walks over the same bytes must count the same")
    return data, tables, end


def _regular(payload: bytes) -> bytes:
    """The same message as an encoder would have laid it out, by the protobuf library. Raises MalformedRequest."""
    # Not at the top: most collectors never meet such bytes, and the JSON road does without the library.
    from google.protobuf.message import DecodeError, EncodeError
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    message = ExportTraceServiceRequest()
    try:
        message.ParseFromString(payload)
        message.DiscardUnknownFields()
        return message.SerializeToString()
    except (DecodeError, EncodeError):
        raise MalformedRequest(
            "the body is not an ExportTraceServiceRequest: the protobuf library cannot read it. Fields out of order or in "
            "pieces are only accepted when every text is UTF-8 and messages nest less than 100 deep"
        ) from None


def _words(tables: Tables, limits: Limits, plan: series.Plan) -> tuple[int, str]:
    """(spans turned away, what to tell the sender)."""
    faults = np.bincount(tables.spans[: int(tables.counts[t.SPANS]), t.S_FAULT], minlength=len(_REJECTED) + 1)
    rejected = int(faults[1:].sum())
    if not rejected and not plan.shape[:, series.K_FAULT].any():
        return 0, ""
    maxima = asdict(limits)
    said = [f"{faults[code]} span(s) rejected: {rule.format_map(maxima)}" for code, rule in _REJECTED.items() if faults[code]]
    left_out = np.bincount(plan.shape[:, series.K_FAULT], minlength=len(series.REASONS) + 1)
    said += [
        f"token series of {left_out[code]} span(s) left out, the spans are kept: {reason}"
        for code, reason in series.REASONS.items() if left_out[code]
    ]
    return rejected, "; ".join(said)


def decode_protobuf(payload: bytes, *, received_ns: int, tenant: str = "", limits: Limits = _DEFAULTS) -> Decoded:
    """An ExportTraceServiceRequest as bytes -> rows. received_ns: nanoseconds since 1970, the IngestedAt of every row.

    Raises MalformedRequest with the reason and the byte offset when the bytes are not the message, and TooLarge when its rows would
    take more than `limits.working_bytes_max` of memory (a large resource repeats in the row of each of its spans).
    """
    data, tables, end = _fill(payload, limits)
    if end < 0 and wire.explain(end)[0] == wire.IRREGULAR:
        data, tables, end = _fill(_regular(payload), limits)
    if end < 0:
        reason, offset = wire.explain(end)
        raise MalformedRequest(f"the body is not an ExportTraceServiceRequest: at byte {offset} {wire.REASONS[reason]}")
    kept = keep(tables)
    spelled = numbers.spell(tables.numbers[: int(tables.counts[t.NUMBERS])].view(np.float64))
    spans = span_block(data, tables, spelled, kept, received_ns=received_ns, tenant=tenant)
    plan = series.plan(data, tables.span_attributes, kept.found, kept.marks, limits)
    tokens = series.token_block(data, tables.span_attributes, kept.found, series.sound(plan), spans)
    rejected, message = _words(tables, limits, plan)
    return Decoded(spans, tokens, rejected, message)


def decode_json(payload: bytes, *, received_ns: int, tenant: str = "", limits: Limits = _DEFAULTS) -> Decoded:
    """As `decode_protobuf`, for OTLP/JSON. MalformedRequest gives the JSON path."""
    return decode_protobuf(otlp_json.to_protobuf(payload), received_ns=received_ns, tenant=tenant, limits=limits)


def decode_logs(payload: bytes, encoding: Encoding, *, received_ns: int, tenant: str = "", limits: Limits = _DEFAULTS) -> Decoded:
    """An ExportLogsServiceRequest -> no spans, and the scores in it (see logs.py). Raises MalformedRequest."""
    wire_bytes = otlp_json.logs_to_protobuf(payload) if encoding == "logs/json" else payload
    scores, rejected, message = logs.scores_of(wire_bytes, received_ns=received_ns, tenant=tenant, limits=limits)
    nothing = decode_protobuf(b"", received_ns=received_ns, tenant=tenant, limits=limits)
    return Decoded(nothing.spans, nothing.tokens, rejected, message, scores)


def decode(payload: bytes, encoding: Encoding, *, received_ns: int, tenant: str = "", limits: Limits = _DEFAULTS) -> Decoded:
    """`decode_protobuf`, `decode_json` or `decode_logs`, by the encoding the sender named."""
    if encoding in ("logs/protobuf", "logs/json"):
        return decode_logs(payload, encoding, received_ns=received_ns, tenant=tenant, limits=limits)
    road = decode_json if encoding == "json" else decode_protobuf
    return road(payload, received_ns=received_ns, tenant=tenant, limits=limits)


def warm_up() -> None:
    """Compiles every kernel, or loads it from the cache on disk, so that no request waits for it."""
    decode_json(_SAMPLE, received_ns=0)
    decode_protobuf(b"", received_ns=0)


_SAMPLE: Final = orjson.dumps({"resourceSpans": [{
    "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "warm-up"}}]},
    "scopeSpans": [{"scope": {"name": "warm-up"}, "spans": [{
        "traceId": "01" * 16, "spanId": "01" * 8, "name": "warm-up", "kind": 1,
        "startTimeUnixNano": "1700000000000000000", "endTimeUnixNano": "1700000000000000001",
        "attributes": [
            {"key": "cutaway.output.perplexity", "value": {"doubleValue": 1.5}},
            {"key": "cutaway.token.entropy", "value": {"arrayValue": {"values": [{"doubleValue": 0.5}]}}},
            {"key": "cutaway.token.text", "value": {"arrayValue": {"values": [{"stringValue": "a"}]}}},
        ],
    }]}],
}]})
"""A request that takes every road of the compiled code once."""
