"""A call of a diffusion pipeline becomes a span. Runs diffusion, encode and words in that order.

Not a stage of its own. On the calling thread stands what must: opening the span, listening, and one copy from the device at the
end. The rest runs on the finishing thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from opentelemetry import trace as otel

from cutaway import configuration, dialect, encode, generation, guard, words
from cutaway import conventions as c
from cutaway.failures import fail
from cutaway.machine import Machine
from cutaway.redaction import Redact, Redaction, Room, inside
from cutaway.settings import Settings
from cutaway.steps import Scope

OPERATION = "generate_content"
"""`gen_ai.operation.name` of these spans: the conventions' word for what is not text alone."""


@dataclass(slots=True)
class _Ending:
    """A call that is over, on its way to become attributes."""

    span: otel.Span
    asked: Any
    denoising: Any
    output_type: str
    settings: Settings
    capture: str
    end_ns: int
    known: dict[str, Any]
    """Attributes known by then: what the span began with, the machine's figures, the error."""
    redact: Redact | None


def denoise(pipe: Any, arguments: dict[str, Any], run: Callable[[Any], Any]) -> Any:
    """One call of a pipeline, run with a listener and made a span. The host's exceptions pass unchanged.

    `arguments`: of the call, by name; `run`: calls the pipeline with a recorder or None.
    """
    span: otel.Span | None = None
    recorder: Any = None
    machine: Machine | None = None
    known: dict[str, Any] = {}
    with guard.guarded("starting a span"):
        span, known = _start(pipe, arguments)
        if span.is_recording():
            machine, recorder = _listener(pipe)
    if span is None or recorder is None or machine is None:
        return run(None)
    around = configuration.scope.get()
    with otel.use_span(span, end_on_exit=False, record_exception=False, set_status_on_exception=False):
        try:
            result = run(recorder)
        except BaseException as error:
            _end(span, pipe, arguments, recorder, None, error, known, machine, around)
            raise
        _end(span, pipe, arguments, recorder, result, None, known, machine, around)
    return result


def _start(pipe: Any, arguments: dict[str, Any]) -> tuple[otel.Span, dict[str, Any]]:
    from cutaway import diffusion

    asked = diffusion.asked_of(pipe, arguments)
    short, full = generation.names(asked.model)
    attributes: dict[str, Any] = {
        c.OPERATION_NAME: OPERATION, c.PROVIDER_NAME: c.PROVIDER_HUGGINGFACE, c.DIFFUSION_PIPELINE: asked.pipeline,
    }
    if full:
        attributes[c.REQUEST_MODEL] = full
    return generation.begin(OPERATION, short, attributes), attributes


def _listener(pipe: Any) -> tuple[Machine, Any]:
    from cutaway import diffusion, record

    device = diffusion.device_of(pipe)
    clock = (configuration.clock() or record.clock_for)(device)
    return Machine.begin([str(device)] if device is not None else []), diffusion.Recorder(clock)


def _end(
    span: otel.Span, pipe: Any, arguments: dict[str, Any], recorder: Any, result: Any, error: BaseException | None,
    known: dict[str, Any], machine: Machine, around: Scope,
) -> None:
    """What must be done while the host waits; the rest is handed to the finishing thread, or done here when that is full."""
    end_ns = time.time_ns()
    handed_over = False
    try:
        with guard.guarded("finishing a span"):
            from cutaway import diffusion

            chosen = configuration.settings()
            capture = "numbers" if inside() else chosen.capture_within(around.capture)
            try:
                denoising = recorder.finish(error is not None)
            except Exception as fault:
                recorder.fail(guard.reason(fault))
                denoising = recorder.finish(True)
                guard.contain("collecting the steps", fault)
            asked = diffusion.asked_of(pipe, recorder.arguments or arguments)
            ending = _Ending(span, asked, denoising, diffusion.output_type_of(pipe, result), chosen, capture, end_ns,
                             {**known, **machine.attributes()}, configuration.redact())
            if asked.seed is None and around.seed is not None:
                ending.known[c.REQUEST_SEED] = around.seed
            if error is not None:
                with guard.guarded("marking a failed span"):
                    ending.denoising.reasons += fail(span, error, capture == "text", ending.redact)
                    ending.known[c.ERROR_TYPE] = (getattr(span, "attributes", None) or {}).get(c.ERROR_TYPE)
            handed_over = configuration.finisher.submit(lambda: _finish(ending), sum(map(len, asked.prompts)))
            if not handed_over:
                handed_over = True
                _finish(ending)
    finally:
        if not handed_over:
            span.end(end_time=end_ns)


def _finish(ending: _Ending) -> None:
    """Everything that is known goes on the span, and the span ends whatever happens."""
    span, chosen, denoising = ending.span, ending.settings, ending.denoising
    try:
        series = _packed(denoising, chosen.series_bytes_max)
        if ending.capture == "text" and ending.asked.prompts:
            with guard.guarded("capturing text"):
                _capture_text(ending, sum(map(len, series.values())))
        attributes = ending.known | _attributes(ending)
        with guard.guarded("counting metrics"):
            instruments = configuration.instruments()
            if instruments is not None:
                began_ns = getattr(span, "start_time", None) or ending.end_ns
                instruments.record(attributes, max(0, ending.end_ns - began_ns) / 1e9)
        limit = getattr(getattr(span, "_limits", None), "max_span_attributes", None)
        arranged = encode.arranged(attributes, series, getattr(span, "attributes", None) or {}, limit)
        if not series.keys() <= arranged.keys() and arranged.get(c.DIFFUSION_STATUS) == c.STATUS_RECORDED:
            arranged[c.DIFFUSION_STATUS] = c.STATUS_TRUNCATED
        span.set_attributes(dialect.translated(arranged, chosen.latest_conventions))
    finally:
        span.end(end_time=ending.end_ns)


def _attributes(ending: _Ending) -> dict[str, Any]:
    """What was asked and what the steps said, without the series."""
    asked, denoising = ending.asked, ending.denoising
    found: dict[str, Any] = {
        c.RESPONSE_MODEL: ending.known.get(c.REQUEST_MODEL), c.REQUEST_SEED: asked.seed,
        c.REQUEST_CHOICE_COUNT: asked.choices if asked.choices != 1 else None,
        c.OUTPUT_TYPE: ending.output_type or None, c.DIFFUSION_GUIDANCE_SCALE: asked.guidance_scale,
        c.DIFFUSION_STEPS: denoising.steps, c.DIFFUSION_NONFINITE_STEP: denoising.nonfinite_step,
        c.DIFFUSION_STATUS: denoising.status, c.STATUS_REASON: "; ".join(denoising.reasons) or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _packed(denoising: Any, bytes_max: int) -> dict[str, bytes]:
    """Step series within `bytes_max`. What does not fit changes the status and the reasons."""
    found: dict[str, bytes] = {}
    room, left_out = bytes_max, list[str]()
    for name in c.DIFFUSION_SERIES:
        values = denoising.series.get(name)
        if values is None or not values.size:
            continue
        packed = encode.pack(values)
        if len(packed) > room:
            left_out.append(name)
            continue
        found[name] = packed
        room -= len(packed)
    if left_out:
        denoising.status = c.STATUS_TRUNCATED
        denoising.reasons.append(f"left out for want of room, series_bytes_max = {bytes_max}: {', '.join(left_out)}")
    return found


def _capture_text(ending: _Ending, series_bytes: int) -> None:
    """The prompts, as the redaction hook leaves them, on the span, on an event, or both."""
    span, chosen, redaction = ending.span, ending.settings, Redaction(ending.redact)
    prompts = redaction.messages(c.INPUT_MESSAGES, [encode.text_message("user", prompt) for prompt in ending.asked.prompts])
    copies = 2 if chosen.content == "SPAN_AND_EVENT" else 1
    value_max = getattr(getattr(span, "_limits", None), "max_span_attribute_length", None)
    room = Room(chosen.text_room_bytes(series_bytes), copies, value_max)
    text, event = words.send(words.Words(messages={c.INPUT_MESSAGES: prompts}), redaction, room, chosen)
    if event:
        span.add_event(c.CONTENT_EVENT, event)
    span.set_attributes(text)
    of_text = [reason for reason in redaction.reasons if "token ids" not in reason]  # there are none here to leave out
    ending.denoising.reasons += [*of_text, *room.reasons]
