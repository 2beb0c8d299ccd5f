"""A call of `generate` becomes a span. Runs tap, record, measure, sequences and encode in that order.

Not a stage of its own. On the generating thread stands what must: opening the span, listening, the last work on the device, and
whatever a tokenizer of the host is asked for. The rest runs on the finishing thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

from opentelemetry import trace as otel

from cutaway import configuration, dialect, encode, evaluations, guard, sequences, words
from cutaway import conventions as c
from cutaway.failures import fail
from cutaway.machine import Machine
from cutaway.redaction import Redact, Redaction, Room, inside, valid
from cutaway.settings import Settings
from cutaway.steps import ATTENTION_SIGNALS, Call, Prepared, Recording

_Again = Callable[[Prepared], Any]
"""What was asked -> what the prompt says (prompt.Prompted)."""

_HEADS: Final[dict[str, tuple[str, ...]]] = {
    "heads": (c.ATTENTION_ENTROPY, c.ATTENTION_LAST_KEY),  # RAUQ is made of the last key's mass
    "full": ATTENTION_SIGNALS,
}
"""`attention` -> the signals kept for every head."""

_HEAD_SERIES: Final[dict[str, tuple[str, ...]]] = {
    "heads": (c.ATTENTION_ENTROPY_HEADS, c.CROSS_ATTENTION_ENTROPY_HEADS), "full": c.HEAD_SERIES,
}
"""`attention` -> the series of every head that are sent."""

_REQUEST_FAILED: Final = "request_failed"
"""`error.type` of a batch in which requests failed while the call itself did not."""


@dataclass(slots=True)
class _Ending:
    """A call that is over, on its way to become attributes."""

    span: otel.Span
    call: Call
    recorder: Any
    settings: Settings
    capture: str
    end_ns: int
    known: dict[str, Any]
    """Attributes known by then: what the span began with, the machine's figures, the error."""
    redact: Redact | None
    prompted: Any = None
    """What a second pass over the prompt said, None when nobody asked for one."""
    recording: Recording | None = None
    said: words.Words = field(default_factory=words.Words)
    reasons: list[str] = field(default_factory=list)


def generate(model: Any, arguments: dict[str, Any], run: Callable[[Any], Any]) -> Any:
    """One call of `generate`, run with a listener and made a span. The host's exceptions pass unchanged."""
    return _heard(model, arguments, run, _listener)


def generate_batch(model: Any, arguments: dict[str, Any], run: Callable[[Any], Any]) -> Any:
    """One call of continuous batching, run with a listener and made a span: a sequence for each request."""
    return _heard(model, arguments, run, _batch_listener)


def _heard(
    model: Any, arguments: dict[str, Any], run: Callable[[Any], Any], listener_for: Callable[[Any, dict[str, Any]], Any]
) -> Any:
    span: otel.Span | None = None
    call: Call | None = None
    recorder: Any = None
    machine: Machine | None = None
    again: _Again | None = None
    known: dict[str, Any] = {}
    fault = ""
    try:
        span, call, known = _start(model, arguments)
        if span.is_recording():
            from cutaway import tap

            machine = Machine.begin(tap.devices_of(model))
            again = _again(model, arguments)
            recorder = listener_for(model, arguments)
    except Exception as error:
        fault = guard.reason(error)
        guard.contain("starting a span", error)
    if span is not None and fault:
        return _unheard(span, run, fault)
    if span is None or call is None or recorder is None or machine is None:
        return run(None)
    with otel.use_span(span, end_on_exit=False, record_exception=False, set_status_on_exception=False):
        try:
            result = run(recorder)
        except BaseException as error:
            _end(span, call, recorder, None, error, known, machine)
            raise
        _end(span, call, recorder, result, None, known, machine, again)
    return result


def _unheard(span: otel.Span, run: Callable[[Any], Any], fault: str) -> Any:
    """A call that a fault of ours keeps us from listening to: its span ends with it and says why it holds nothing."""
    try:
        with otel.use_span(span, end_on_exit=False, record_exception=False, set_status_on_exception=False):
            return run(None)
    except BaseException as error:
        with guard.guarded("marking a failed span"):
            fail(span, error, False)
        raise
    finally:
        _mark_fault(span, fault)
        with guard.guarded("ending a span"):
            span.end()


def _mark_fault(span: otel.Span, fault: str) -> None:
    """The span says that its signals are missing because of us. What fails here comes of a fault that is told already."""
    with suppress(Exception):
        span.set_attributes({c.TOKENS_STATUS: c.STATUS_ERROR, c.ATTENTION_STATUS: c.STATUS_ERROR, c.STATUS_REASON: fault})


@contextmanager
def _noted(where: str, reasons: list[str]) -> Iterator[None]:
    """A fault in the block costs what the block was to find, and is one of the reasons the span gives."""
    try:
        yield
    except Exception as fault:
        reasons.append(f"{where}: {guard.reason(fault)}")
        guard.contain(where, fault)


def _start(model: Any, arguments: dict[str, Any]) -> tuple[otel.Span, Call, dict[str, Any]]:
    from cutaway import tap

    around = configuration.scope.get()
    call = tap.call_of(model, arguments, around.seed, around.tokenizer or configuration.tokenizer(), around.messages)
    operation = "chat" if around.messages else "text_completion"
    attributes: dict[str, Any] = {c.OPERATION_NAME: operation, c.PROVIDER_NAME: c.PROVIDER_HUGGINGFACE}
    short, full = names(call.model)
    call = replace(call, model=full)
    if full:
        attributes[c.REQUEST_MODEL] = full
    return begin(operation, short, attributes), call, attributes


def begin(operation: str, model: str, attributes: dict[str, Any]) -> otel.Span:
    """The span of one call, with what encloses it says about it. Adds the conversation, if any, to the attributes."""
    around = configuration.scope.get()
    if around.conversation_id:
        attributes[c.CONVERSATION_ID] = around.conversation_id
    every = {**around.generation_attributes, **attributes}
    return configuration.tracer().start_span(valid(f"{operation} {model}".strip()), kind=otel.SpanKind.INTERNAL, attributes=every)


def names(model: str) -> tuple[str, str]:
    """A model's name for the span and for the attribute. Spans have the last part of a path; absolute paths stay here."""
    path = model.replace("\\", "/")
    absolute = path.startswith(("/", "~")) or path[1:3] == ":/"
    if absolute or path.startswith(".") or path.count("/") > 1:  # a name on the hub is `owner/model`
        last = path.rstrip("/").rpartition("/")[2]
        return last, last if absolute else model
    return model, model


def _listener(model: Any, arguments: dict[str, Any]) -> Any:
    from cutaway import measure, record, tap

    chosen = configuration.settings()
    clock = (configuration.clock() or record.clock_for)(getattr(model, "device", None))
    options = record.Options(
        attention=chosen.attention != "off",
        heads=tuple(ATTENTION_SIGNALS.index(name) for name in _HEADS.get(chosen.attention, ())),
        layers_max=0 if chosen.attention == "full" else chosen.attention_layers_max,
        alternatives=chosen.alternatives, sources=0 if chosen.attention == "off" else chosen.attention_sources,
    )
    return record.Recorder(measure, clock, options, lambda: tap.prepared_from(model, arguments))


def _batch_listener(model: Any, arguments: dict[str, Any]) -> Any:
    from cutaway import record, tap

    wanted = configuration.settings().attention != "off"
    return record.BatchRecorder(wanted, lambda: replace(tap.prepared_from(model, arguments), mode=tap.BATCHES))


def _again(model: Any, arguments: dict[str, Any]) -> _Again | None:
    """The second pass over the prompt, to be run when the call is over; None when nobody asked for one."""
    if not configuration.settings().prompt_surprisal:
        return None
    from cutaway import measure, prompt, tap

    try:
        reason = tap.more_than_ids(model, arguments)
    except Exception as error:
        reason = guard.reason(error)
        guard.contain("looking at a prompt", error)

    def run(asked: Prepared) -> Any:
        if reason:
            return prompt.Prompted(reason)
        try:
            return prompt.measure(model, asked, lambda: tap.fresh_cache(model), measure.sampled_surprisal)
        except Exception as fault:
            guard.contain("measuring a prompt", fault)
            return prompt.Prompted(guard.reason(fault))
    return run


def _end(
    span: otel.Span, call: Call, recorder: Any, result: Any, error: BaseException | None, known: dict[str, Any],
    machine: Machine, again: _Again | None = None,
) -> None:
    """What must be done while the host waits; the rest is handed to the finishing thread, or done here when that is full."""
    end_ns = time.time_ns()
    handed_over = False
    try:
        chosen = configuration.settings()
        capture = "numbers" if inside() else chosen.capture_within(configuration.scope.get().capture)
        ending = _Ending(span, call, recorder, chosen, capture, end_ns, dict(known), configuration.redact())
        with _noted("asking the machine", ending.reasons):
            ending.known |= machine.attributes()
        _stop(ending, result, error is not None)
        if again is not None and recorder.asked is not None:
            ending.prompted = again(recorder.asked)
        if error is not None:
            with guard.guarded("marking a failed span"):
                ending.reasons += fail(span, error, capture == "text", ending.redact)
                ending.known[c.ERROR_TYPE] = (getattr(span, "attributes", None) or {}).get(c.ERROR_TYPE)
        if call.tokenizer is not None or capture == "text":
            _read_texts(ending)
        handed_over = True
        _hand_over(ending)
    except Exception as fault:
        _mark_fault(span, guard.reason(fault))
        guard.contain("finishing a span", fault)
    finally:
        if not handed_over:
            with guard.guarded("ending a span"):
                span.end(end_time=end_ns)


def _stop(ending: _Ending, result: Any, failed: bool) -> None:
    """The recorder's last work on the device; a fault in it is the recording's."""
    from cutaway import tap

    recorder, sequences = ending.recorder, None
    try:
        sequences = None if failed else tap.sequences_of(result)
    except Exception as fault:
        recorder.fail(guard.reason(fault))
        guard.contain("reading the result", fault)
    try:
        recorder.stop(sequences, failed)
    except Exception as fault:
        recorder.fail(guard.reason(fault))
        guard.contain("collecting signals", fault)


def _hand_over(ending: _Ending) -> None:
    """To the finishing thread; where that takes no more, the work is done here."""
    taken = False
    try:
        taken = configuration.finisher.submit(lambda: _finish(ending), _held_bytes(ending))
    except Exception as fault:
        guard.contain("handing a span over", fault)
    finally:
        if not taken:
            _finish(ending)


def _held_bytes(ending: _Ending) -> int:
    held: int = ending.recorder.held_bytes()
    return held + (0 if ending.prompted is None else int(ending.prompted.held_bytes()))


def _read_texts(ending: _Ending) -> None:
    """Answers as text. On the generating thread: a tokenizer belongs to the host, and not every one may be used by two threads."""
    with _noted("reading the answer", ending.reasons):
        ending.recording = recording = ending.recorder.count()
        if ending.call.tokenizer is None:
            guard.once("no tokenizer", words.NO_TOKENIZER)
            ending.reasons.append(words.NO_TOKENIZER)
        redacting = ending.redact is not None
        ending.said = words.read(ending.call, ending.recorder.asked, recording, ending.capture, ending.settings, redacting)


def _finish(ending: _Ending) -> None:
    """Everything that is known goes on the span, and the span ends whatever happens."""
    span, chosen = ending.span, ending.settings
    try:
        recording = _collected(ending)
        series = _series_and_text(ending, recording)
        attributes: dict[str, Any] = encode.request_attributes(ending.call, ending.recorder.asked)
        attributes |= encode.answer_attributes(recording, ending.call)
        with _noted("scoring sequences", recording.reasons):
            attributes |= _sequence_attributes(recording, ending)
        events: list[dict[str, Any]] = []
        with _noted("telling scores as events", recording.reasons):
            events = evaluations.events(attributes) if chosen.evaluations == "span" else events
        if recording.reasons:
            attributes[c.STATUS_REASON] = "; ".join(recording.reasons)
        if recording.failed:
            attributes[c.ERROR_TYPE] = _REQUEST_FAILED
            span.set_status(otel.Status(otel.StatusCode.ERROR, _REQUEST_FAILED))
        attributes = {**ending.known, **attributes}
        with guard.guarded("counting metrics"):
            _count(attributes, recording, ending)
        for event in events:
            span.add_event(c.EVALUATION_EVENT, event, timestamp=ending.end_ns)
        limit = getattr(getattr(span, "_limits", None), "max_span_attributes", None)
        arranged = encode.arranged(attributes, series, getattr(span, "attributes", None) or {}, limit)
        span.set_attributes(dialect.translated(arranged, chosen.latest_conventions))
    except Exception as fault:
        _mark_fault(span, guard.reason(fault))
        guard.contain("finishing a span", fault)
    finally:
        with guard.guarded("ending a span"):
            span.end(end_time=ending.end_ns)


def _collected(ending: _Ending) -> Recording:
    found = _signals(ending)
    if ending.prompted is not None:
        from cutaway import prompt

        with _noted("collecting a prompt", found.reasons):
            prompt.collect(ending.prompted, found)
    return found


def _signals(ending: _Ending) -> Recording:
    """Counts and signals; after a fault the counts alone; where even they fail, nothing but the fault."""
    recorder = ending.recorder
    found: Recording
    try:
        found = recorder.collect(ending.recording or recorder.count())
        return found
    except Exception as fault:
        reason = guard.reason(fault)
        guard.contain("collecting signals", fault)
    with suppress(Exception):  # whatever is broken is told already
        found = recorder.collect(ending.recording or recorder.count(), reason)
        return found
    return Recording(tokens_status=c.STATUS_ERROR, attention_status=c.STATUS_ERROR, reasons=[reason])


def _sequence_attributes(recording: Recording, ending: _Ending) -> dict[str, Any]:
    """What the sequences say as a whole (see sequences.py)."""
    layers = 0 if ending.recorder.asked is None else ending.recorder.asked.layers
    middle = sequences.middle_third(layers)
    columns = [i for i, layer in enumerate(recording.layers) if layer in middle] if recording.layers else None
    last_key = None if recording.layers_left_out else recording.series.get(c.ATTENTION_LAST_KEY_HEADS)  # the formula asks for all
    return sequences.prompt_attributes(recording.series.get(c.PROMPT_SURPRISAL)) | sequences.attributes(
        recording.output_tokens, recording.series.get(c.TOKEN_SURPRISAL), recording.token_ids, None if columns == [] else last_key,
        ending.said.answers, ending.settings.rauq_alpha, columns,
    )


def _count(attributes: dict[str, Any], recording: Recording, ending: _Ending) -> None:
    """Metrics see the time between tokens too; the span's context lets them point back to an example."""
    instruments = configuration.instruments()
    if instruments is not None:
        began_ns = getattr(ending.span, "start_time", None) or ending.end_ns
        seen = {**attributes, c.TOKEN_INTER_TOKEN_TIME: recording.series.get(c.TOKEN_INTER_TOKEN_TIME)}
        instruments.record(seen, max(0, ending.end_ns - began_ns) / 1e9, otel.set_span_in_context(ending.span))


def _series_and_text(ending: _Ending, recording: Recording) -> dict[str, bytes]:
    """Puts the text that may leave on the span and returns the series that may. A fault of ours sends less, never more."""
    span, chosen, redaction = ending.span, ending.settings, Redaction(ending.redact)
    seen = False
    with _noted("redacting text", ending.reasons):
        words.show(ending.said, redaction, recording, ending.capture)
        seen = True
    ids = seen and ending.capture != "numbers"
    packed = encode.series_attributes(recording, ids, _HEAD_SERIES.get(chosen.attention, ()), chosen.series_bytes_max)
    series = {name: values for name, values in packed.items() if name not in redaction.withheld}
    copies = 2 if chosen.content == "SPAN_AND_EVENT" else 1
    value_max = getattr(getattr(span, "_limits", None), "max_span_attribute_length", None)
    room = Room(chosen.text_room_bytes(sum(map(len, series.values()))), copies, value_max)
    if seen and ending.said.messages:
        latest = chosen.latest_conventions
        with _noted("capturing text", ending.reasons):
            text, event = words.send(ending.said, redaction, room, chosen)
            if event:
                span.add_event(c.CONTENT_EVENT, dialect.translated(event, latest))
            span.set_attributes(dialect.translated(text, latest))
    recording.reasons += [*ending.reasons, *redaction.reasons, *room.reasons]
    return series
