"""The flow of `cutaway.score`: what somebody thinks of an answer, beside the span of that answer.

Not a judge. While the span is recording the score is an event on it; afterwards (a user's feedback the next day) it follows as a
log record that names the span, through a bounded queue and the exporter's own thread. Nothing here waits, and nothing raises.
"""

from __future__ import annotations

import math
import time
from typing import Any, Final

from opentelemetry import trace as otel
from opentelemetry.context import Context

from cutaway import configuration, export, guard
from cutaway import conventions as c
from cutaway.redaction import Redaction, valid

NAME_CHARACTERS_MAX: Final = 200
EXPLANATION_CHARACTERS_MAX: Final = 20_000
_HEX: Final = frozenset("0123456789abcdefABCDEF")
_RECORD_BYTES: Final = 400
"""About the bytes of a score without its texts."""


class _Wrong(Exception):
    """The call cannot mean anything; its text says why, without values."""


def score(
    name: str, value: float | None = None, *, label: str | None = None, explanation: str | None = None,
    span: otel.Span | None = None, trace_id: str | int | None = None, span_id: str | int | None = None,
    sequence: int | None = None, source: str | None = None,
) -> bool:
    """Says what somebody thinks of an answer. Whether it was taken: False, and one line in the log, when it cannot be sent.

    Of `span`, or of the span with these ids (hex digits, or numbers as OpenTelemetry has them; without `span_id` the whole trace is
    judged), or of the current span. value: a finite number, True and False are 1 and 0; label: the verdict in a word; one of them
    is needed. sequence: which answer of the call, from 0. source: who judged, by default the service that sends. Names that begin
    with `cutaway.` are the SDK's own. The redaction hook sees label and explanation.
    """
    try:
        return _score(name, value, label, explanation, span, (trace_id, span_id), sequence, source)
    except _Wrong as rule:
        guard.once(f"score:{rule}", "a score was not taken: %s", rule)
    except Exception as error:
        guard.contain("taking a score", error)
    return False


def _score(
    name: Any, value: Any, label: Any, explanation: Any, span: Any, ids: tuple[Any, Any], sequence: Any, source: Any
) -> bool:
    attributes = _attributes(name, value, label, explanation, sequence, source)
    if configuration.settings().disabled:
        return False
    if ids != (None, None):
        return _later(attributes, _number(ids[0], 32, "trace_id"), 0 if ids[1] is None else _number(ids[1], 16, "span_id"))
    judged = otel.get_current_span() if span is None else span
    if judged.is_recording():
        judged.add_event(c.EVALUATION_EVENT, attributes)
        return True
    context = judged.get_span_context()
    if not context.is_valid:
        raise _Wrong("there is no span here: pass span=, or the trace_id and span_id it had")
    # What was not sampled is not stored: nobody could ever see the score beside it.
    return context.trace_flags.sampled and _later(attributes, context.trace_id, context.span_id)


def _attributes(name: Any, value: Any, label: Any, explanation: Any, sequence: Any, source: Any) -> dict[str, Any]:
    """The attributes of a `gen_ai.evaluation.result` event. Raises _Wrong."""
    for what, text in (("name", name), ("label", label), ("source", source)):
        if text is not None and (not isinstance(text, str) or len(text) > NAME_CHARACTERS_MAX):
            raise _Wrong(f"{what} is a string of at most {NAME_CHARACTERS_MAX} characters")
    if not name or name.startswith(c.EVALUATION_OWN):
        raise _Wrong(f"a score has a name, which does not begin with {c.EVALUATION_OWN!r}")
    if explanation is not None and not isinstance(explanation, str):
        raise _Wrong("explanation is a string")
    if sequence is not None and (isinstance(sequence, bool) or not isinstance(sequence, int) or sequence < 0):
        raise _Wrong("sequence is a whole number from 0")
    redaction = Redaction(configuration.redact())
    found: dict[str, Any] = {c.EVALUATION_NAME: valid(name)}
    if value is not None:
        found[c.EVALUATION_SCORE_VALUE] = _finite(value)
    for key, text in ((c.EVALUATION_SCORE_LABEL, label), (c.EVALUATION_EXPLANATION, explanation)):
        kept = redaction.text(key, text) if text else None
        if kept:
            found[key] = valid(kept[:EXPLANATION_CHARACTERS_MAX])
    if c.EVALUATION_SCORE_VALUE not in found and c.EVALUATION_SCORE_LABEL not in found:
        raise _Wrong("a score has a value or a label")
    if sequence is not None:
        found[c.EVALUATION_SEQUENCE] = sequence
    if source:
        found[c.EVALUATION_SOURCE] = valid(source)
    return found


def _finite(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise _Wrong("value is a number: a word is a label") from None
    if isinstance(value, str) or not math.isfinite(number):
        raise _Wrong("value is a finite number: a word is a label")
    return number


def _number(written: Any, digits: int, what: str) -> int:
    """An id as OpenTelemetry has it. Raises _Wrong."""
    number = 0
    if isinstance(written, int) and not isinstance(written, bool):
        number = written
    elif isinstance(written, str) and len(written) == digits and _HEX.issuperset(written):
        number = int(written, 16)
    if not 0 < number < 16**digits:
        raise _Wrong(f"{what} is {digits} hex digits or that number, not zero")
    return number


def _later(attributes: dict[str, Any], trace_id: int, span_id: int) -> bool:
    queue = configuration.score_queue()
    if queue is None:
        return False
    from opentelemetry._logs import LogRecord
    from opentelemetry.sdk._logs import ReadableLogRecord
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    now_ns = time.time_ns()
    judged = otel.SpanContext(trace_id, span_id, True, otel.TraceFlags(otel.TraceFlags.SAMPLED))
    around = otel.set_span_in_context(otel.NonRecordingSpan(judged), Context())
    record = LogRecord(timestamp=now_ns, observed_timestamp=now_ns, context=around, event_name=c.EVALUATION_EVENT,
                       attributes=attributes)
    sent = ReadableLogRecord(record, configuration.resource(), InstrumentationScope(c.SCOPE_NAME, export.distribution_version()))
    size = _RECORD_BYTES + sum(len(text) for text in attributes.values() if isinstance(text, str))
    queue.put(sent, size)
    return True
