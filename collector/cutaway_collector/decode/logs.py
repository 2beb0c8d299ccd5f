"""One OTLP logs request as rows of gen_ai_scores: the log records that carry an evaluation result. Other logs are not kept.

Logs are few beside spans, so the protobuf library reads them, one Python object a record.

Policies, each with a test:
- A record is an evaluation result when its event name (or the attribute event.name of older senders) is gen_ai.evaluation.result.
- It is turned away alone, counted and explained, without a trace id of 16 bytes, a span id of 8 (or none: the whole trace is
  judged), a name, a time in 1971..2105, or a finite value or a label.
- `Source` is what the record says (cutaway.evaluation.source), else the sender's service.name, else its scope;
  `ScorerVersion` is the scope's. `ServiceName` and `Timestamp` are the
  sender's and the record's own, for a record does not say those of the span it judges. A label without a value has Value NaN.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from cutaway import conventions as c
from cutaway_collector.amplification import RECORDS_MAX, at_most, check_parsed
from cutaway_collector.blocks import Block
from cutaway_collector.decode.limits import Limits
from cutaway_collector.decode.scores import EARLIEST_NS, LATEST_NS, Rejected, Row, block, named
from cutaway_collector.errors import MalformedRequest

_OTHER: Final = "this collector stores traces and evaluation results, not other logs"


def scores_of(payload: bytes, *, received_ns: int, tenant: str, limits: Limits) -> tuple[Block | None, int, str]:
    """ExportLogsServiceRequest bytes -> (gen_ai_scores block or None, records not kept, why in English).

    received_ns: nanoseconds since 1970. Raises MalformedRequest, TooLarge.
    """
    check_parsed(payload, "a request of logs")
    message = ExportLogsServiceRequest()
    try:
        message.ParseFromString(payload)
    except DecodeError:
        raise MalformedRequest("the body is not an ExportLogsServiceRequest: the protobuf library cannot read it") from None
    sent = message.resource_logs
    at_most(len(sent), RECORDS_MAX, "resources of logs")
    at_most(sum(len(one.scope_logs) for one in sent), RECORDS_MAX, "scopes of logs")
    at_most(sum(len(scoped.log_records) for one in sent for scoped in one.scope_logs), RECORDS_MAX, "log records")
    rows: list[Row] = []
    refused: Counter[str] = Counter()
    for record, resource, scope in _records(message):
        try:
            rows.append(_row(record, resource, scope, limits))
        except Rejected as rule:
            refused[str(rule)] += 1
    said = "; ".join(f"{count} log record(s) were not kept: {rule}" for rule, count in refused.items())
    return (block(rows, received_ns, tenant) if rows else None), refused.total(), said


def _records(message: ExportLogsServiceRequest) -> Iterator[tuple[Any, dict[str, Any], Any]]:
    for sent in message.resource_logs:
        resource = _attributes(sent.resource.attributes)
        for scoped in sent.scope_logs:
            for record in scoped.log_records:
                yield record, resource, scoped.scope


def _attributes(pairs: Iterable[Any]) -> dict[str, Any]:
    """Attributes that are a string or a number, as Python values; of a repeated key the first counts, as in the spans' columns."""
    found: dict[str, Any] = {}
    for pair in pairs:
        kind = pair.value.WhichOneof("value")
        if kind in ("string_value", "int_value", "double_value"):
            found.setdefault(pair.key, getattr(pair.value, kind))
    return found


def _row(record: Any, resource: dict[str, Any], scope: Any, limits: Limits) -> Row:
    if len(record.attributes) > limits.attributes_max:
        raise Rejected(f"a log record may hold {limits.attributes_max} attributes")
    said = _attributes(record.attributes)
    if c.EVALUATION_EVENT not in (record.event_name, said.get("event.name")):
        raise Rejected(_OTHER)
    time_ns = record.time_unix_nano or record.observed_time_unix_nano
    name, label = _text(said, c.EVALUATION_NAME), _text(said, c.EVALUATION_SCORE_LABEL)
    sequence = said.get(c.EVALUATION_SEQUENCE, 0)
    if not name:
        raise Rejected(f"an evaluation result has a name, the attribute {c.EVALUATION_NAME}")
    if len(record.trace_id) != 16 or not any(record.trace_id) or len(record.span_id) not in (0, 8):
        raise Rejected("an evaluation result names what it judges: a trace_id of 16 bytes and a span_id of 8, or none")
    if not EARLIEST_NS <= time_ns < LATEST_NS:
        raise Rejected("time_unix_nano must lie from 1971 to 2105")
    if not isinstance(sequence, int) or not 0 <= sequence < limits.sequences_max:
        raise Rejected(f"{c.EVALUATION_SEQUENCE} must be a whole number from 0 to {limits.sequences_max - 1}")
    source = _text(said, c.EVALUATION_SOURCE) or _text(resource, "service.name") or scope.name or "unknown"
    return Row(
        time_ns=time_ns, service=_text(resource, "service.name"), model=_text(said, c.REQUEST_MODEL),
        trace=record.trace_id.hex(), span=record.span_id.hex() if any(record.span_id) else "", sequence=sequence, name=name,
        version=scope.version, source=named(source),
        value=_value(said, label), label=label, explanation=_text(said, c.EVALUATION_EXPLANATION),
    )


def _text(said: dict[str, Any], key: str) -> str:
    value = said.get(key, "")
    return value if isinstance(value, str) else ""


def _value(said: dict[str, Any], label: str) -> float:
    value = said.get(c.EVALUATION_SCORE_VALUE)
    if value is None and label:
        return math.nan
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise Rejected(f"an evaluation result has a finite number as {c.EVALUATION_SCORE_VALUE}, or a {c.EVALUATION_SCORE_LABEL}")
    return float(value)

