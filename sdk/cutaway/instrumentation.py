"""The flow of the SDK: a call of `generate` becomes a span. Runs tap, record, measure, encode and export in that order.

Not a stage of its own: it holds the process's one configuration and hands each stage what it needs.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar, Token
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate
from typing import Any, Final

from opentelemetry import trace as otel
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter

from cutaway import content, encode, export, guard
from cutaway import conventions as c
from cutaway import settings as settings_module
from cutaway.errors import ConfigurationError, MissingDependency
from cutaway.settings import Settings
from cutaway.steps import Call, Clock, Prepared, Recording, Scope

_MESSAGE_CHARACTERS_MAX: Final = 1000
_STACK_CHARACTERS_MAX: Final = 16_000
_NOWHERE: Final = Scope()
scope: Final[ContextVar[Scope]] = ContextVar("cutaway_scope", default=_NOWHERE)
"""What the enclosing `@trace` or pipeline says about generations."""


@dataclass(frozen=True, slots=True)
class _State:
    """The configuration as one value that is replaced as a whole: whoever reads it needs no lock."""

    settings: Settings | None = None
    provider: otel.TracerProvider | None = None
    owned: TracerProvider | None = None
    tracer: otel.Tracer | None = None
    tokenizer: Any = None
    clock: Callable[[Any], Clock] | None = None


_state = _State()
_lock = threading.RLock()
"""Held by those who replace the configuration."""


def _begin_in_child() -> None:
    """After a fork: the locks may have been held by threads that do not live in the child."""
    global _lock
    _lock = threading.RLock()
    tap = sys.modules.get("cutaway.tap")
    if tap is not None:
        tap.__dict__["_lock"] = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_in_child)


def configure(
    *,
    endpoint: str | None = None,
    protocol: str | None = None,
    headers: Mapping[str, str] | str | None = None,
    service_name: str | None = None,
    resource_attributes: Mapping[str, Any] | None = None,
    tracer_provider: otel.TracerProvider | None = None,
    exporter: SpanExporter | None = None,
    span_processor: SpanProcessor | None = None,
    capture: str | None = None,
    attention: str | None = None,
    series_bytes_max: int | None = None,
    tokenizer: Any = None,
    clock: Callable[[Any], Clock] | None = None,
    **more: Any,
) -> None:
    """Says where spans go and what they hold. Optional: without it the environment and the defaults decide at the first span.

    `tracer_provider`: spans go to your provider and its processors; otherwise cutaway makes one of its own, and never touches the
    global one. `exporter` and `span_processor` replace the OTLP exporter of our own provider. `tokenizer` is the fallback for
    text capture. `clock` (device -> Clock) replaces the clock in tests. `more`: any name of the settings table.
    A second call replaces the first, after sending what is queued. Raises ConfigurationError.
    """
    named = {
        "endpoint": endpoint, "protocol": protocol, "headers": headers, "service_name": service_name, "capture": capture,
        "attention": attention, "series_bytes_max": series_bytes_max,
    }
    chosen = settings_module.load({**named, **more})
    _check_objects(tracer_provider, exporter, span_processor, clock, resource_attributes)
    owned = None
    provider: otel.TracerProvider
    if chosen.disabled:
        provider = otel.NoOpTracerProvider()
    elif tracer_provider is not None:
        provider = tracer_provider
    else:
        provider = owned = export.provider(chosen, resource_attributes or {}, exporter, span_processor)
    made = provider.get_tracer(c.SCOPE_NAME, _version(), schema_url=c.SCHEMA_URL)
    global _state
    with _lock:
        previous = _state.owned
        _state = _State(chosen, provider, owned, made, _state.tokenizer if tokenizer is None else tokenizer, clock)
    if previous is not None:
        with guard.guarded("closing the previous exporter"):
            previous.shutdown()


def _check_objects(provider: Any, exporter: Any, processor: Any, clock: Any, resource_attributes: Any) -> None:
    """By what they can do, not by their class: tests and wrappers bring their own."""
    asked: tuple[tuple[str, Any, tuple[str, ...]], ...] = (
        ("tracer_provider", provider, ("get_tracer",)), ("exporter", exporter, ("export", "shutdown")),
        ("span_processor", processor, ("on_start", "on_end", "shutdown", "force_flush")), ("clock", clock, ("__call__",)),
        ("resource_attributes", resource_attributes, ("keys", "items")),
    )
    for name, value, methods in asked:
        a_class = isinstance(value, type) and name != "clock"
        if value is not None and (a_class or not all(callable(getattr(value, method, None)) for method in methods)):
            what = f"the class {value.__name__}" if a_class else f"of type {type(value).__name__}"
            rule = f"{name} is an object with {', '.join(methods)}"
            raise ConfigurationError(f"{rule}; it is {what}: pass such an object or leave it out")


def settings() -> Settings:
    """The settings in force; configures from the environment when nobody has."""
    return _state.settings or _from_environment()[0]


def tracer() -> otel.Tracer:
    """Our tracer: scope `cutaway` with its version and schema URL."""
    return _state.tracer or _from_environment()[1]


def _from_environment() -> tuple[Settings, otel.Tracer]:
    """Configures unless another thread has just done so. A malformed variable is told in one line and turns tracing off."""
    global _state
    with _lock:
        if _state.settings is None:
            try:
                configure()
            except ConfigurationError as error:
                guard.once("environment", "nothing is traced: %s", error)
                off = otel.NoOpTracerProvider()
                _state = replace(_state, settings=Settings(disabled=True), provider=off, tracer=off.get_tracer(c.SCOPE_NAME))
        now = _state
    assert now.settings is not None
    assert now.tracer is not None
    return now.settings, now.tracer


def _version() -> str:
    try:
        return version("cutaway")
    except PackageNotFoundError:
        return "0"


def flush(timeout_seconds: float | None = None) -> bool:
    """Waits until finished spans have been sent, at most `flush_seconds_max`. False when they could not be."""
    now = _state
    force = getattr(now.provider, "force_flush", None)
    if now.settings is None or force is None:
        return True
    limit = now.settings.flush_seconds_max if timeout_seconds is None else timeout_seconds
    with guard.guarded("flushing"):
        return bool(force(int(limit * 1000)))
    return False


def shutdown() -> None:
    """Sends what is queued within `flush_seconds_max` and forgets the configuration; a provider that was given stays open."""
    global _state
    with _lock:
        owned, _state = _state.owned, _State()
    if owned is not None:
        with guard.guarded("shutting down"):
            owned.shutdown()


def instrument(tokenizer: Any = None) -> None:
    """Makes every `model.generate` of this process a span. A second call changes nothing but the tokenizer.

    Raises MissingDependency without transformers and torch.
    """
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependency("cutaway.instrument()", package, "pip install 'cutaway[hf]'")
    from cutaway import tap

    global _state
    if tokenizer is not None:
        with _lock:
            _state = replace(_state, tokenizer=tokenizer)
    tap.install(_generate, pipeline_scope)


def uninstrument() -> None:
    """Puts transformers' own methods back."""
    if "cutaway.tap" in sys.modules:
        from cutaway import tap

        tap.remove()


@contextmanager
def pipeline_scope(tokenizer: Any, messages: Any) -> Iterator[None]:
    """While a pipeline generates: its tokenizer, and the conversation it was given."""
    outer = scope.get()
    token = scope.set(replace(outer, tokenizer=outer.tokenizer or tokenizer, messages=messages))
    try:
        yield
    finally:
        leave(token)


def leave(token: Token[Scope]) -> bool:
    """Puts the scope back. False when the block ends in another Context than it began in: that one never had our scope."""
    try:
        scope.reset(token)
    except ValueError:
        return False
    return True


def _generate(model: Any, arguments: dict[str, Any], run: Callable[[Any], Any]) -> Any:
    """One call of `generate`, run with a listener and made a span. The host's exceptions pass unchanged."""
    span: otel.Span | None = None
    call: Call | None = None
    recorder: Any = None
    with guard.guarded("starting a span"):
        span, call = _start(model, arguments)
        if span.is_recording():
            recorder = _listener(model, call, arguments)
    if span is None or call is None or recorder is None:
        return run(None)
    with otel.use_span(span, end_on_exit=False, record_exception=False, set_status_on_exception=False):
        try:
            result = run(recorder)
        except BaseException as error:
            with guard.guarded("finishing a span"):
                _finish(span, call, recorder, recorder.last_ids, error)
            raise
        with guard.guarded("finishing a span"):
            from cutaway import tap

            _finish(span, call, recorder, tap.sequences_of(result), None)
    return result


def _start(model: Any, arguments: dict[str, Any]) -> tuple[otel.Span, Call]:
    from cutaway import tap

    around = scope.get()
    call = tap.call_of(model, arguments, around.seed, around.tokenizer or _state.tokenizer, around.messages)
    operation = "chat" if around.messages else "text_completion"
    attributes: dict[str, Any] = {c.OPERATION_NAME: operation, c.PROVIDER_NAME: c.PROVIDER_HUGGINGFACE}
    short, full = _names(call.model)
    call = replace(call, model=full)
    if full:
        attributes[c.REQUEST_MODEL] = full
    if around.conversation_id:
        attributes[c.CONVERSATION_ID] = around.conversation_id
    return tracer().start_span(f"{operation} {short}".strip(), kind=otel.SpanKind.INTERNAL, attributes=attributes), call


def _names(model: str) -> tuple[str, str]:
    """A model's name for the span and for the attribute. Spans have the last part of a path; absolute paths stay here."""
    path = model.replace("\\", "/")
    absolute = path.startswith(("/", "~")) or path[1:3] == ":/"
    if absolute or path.startswith(".") or path.count("/") > 1:  # a name on the hub is `owner/model`
        last = path.rstrip("/").rpartition("/")[2]
        return last, last if absolute else model
    return model, model


def _listener(model: Any, call: Call, arguments: dict[str, Any]) -> Any:
    from cutaway import measure, record, tap

    clock = (_state.clock or record.clock_for)(getattr(model, "device", None))
    wanted = None if settings().attention == "off" else ""
    return record.Recorder(measure, clock, call.silence, wanted, lambda: tap.prepared_from(model, arguments))


def _finish(span: otel.Span, call: Call, recorder: Any, sequences: Any, error: BaseException | None) -> None:
    """Everything that is known goes on the span, and the span ends whatever happens."""
    chosen = settings()
    capture = chosen.capture_within(scope.get().capture)
    failed = error is not None
    try:
        try:
            recording: Recording = recorder.finish(sequences, failed)
        except Exception as fault:
            guard.contain("collecting signals", fault)
            recording = recorder.finish(sequences, failed, guard.reason(fault))
        series = encode.series_attributes(recording, capture != "numbers", chosen.attention == "heads", chosen.series_bytes_max)
        if capture == "text":
            with guard.guarded("capturing text"):
                _capture_text(span, call, recorder.asked, recording, chosen)
        attributes: dict[str, Any] = encode.request_attributes(call, recorder.asked)
        attributes |= encode.answer_attributes(recording, call)
        if recording.reasons:
            attributes[c.STATUS_REASON] = "; ".join(recording.reasons)
        limit = getattr(getattr(span, "_limits", None), "max_span_attributes", None)
        span.set_attributes(encode.arranged(attributes, series, getattr(span, "attributes", None) or {}, limit))
    finally:
        if error is not None:
            with guard.guarded("marking a failed span"):
                fail(span, error, capture == "text")
        span.end()


def _capture_text(span: otel.Span, call: Call, asked: Prepared | None, recording: Recording, chosen: Settings) -> None:
    """Prompts, answers and token texts, on the span, on an event, or both."""
    if call.tokenizer is None:
        message = "text was asked for but no tokenizer is known: pass one to configure, instrument, trace or generate"
        guard.once("no tokenizer", message)
        recording.reasons.append(message)
        return
    if recording.token_ids is None:
        return
    ends = list(accumulate(recording.output_tokens))
    answers = [recording.token_ids[end - length:end].tolist() for end, length in zip(ends, recording.output_tokens, strict=True)]
    texts = [content.decode(call.tokenizer, ids) for ids in answers]
    messages: dict[str, Any] = {}
    if call.messages:
        messages[c.INPUT_MESSAGES] = content.chat_messages(call.messages)
    elif asked is not None and asked.input_ids is not None:
        asked_texts = content.prompts(call.tokenizer, asked.input_ids, asked.input_mask, asked.rows)
        messages[c.INPUT_MESSAGES] = [encode.text_message("user", text) for text in asked_texts]
    messages[c.OUTPUT_MESSAGES] = [
        encode.text_message("assistant", text, reason) for text, reason in zip(texts, recording.finish_reasons, strict=False)
    ]
    attributes: dict[str, Any] = {}
    for name, value in messages.items():
        limited, cut = encode.messages_json(value, chosen.text_characters_max)
        attributes[name] = limited
        if cut:
            recording.reasons.append(f"{name} cut to text_characters_max = {chosen.text_characters_max}")
    if chosen.content in ("EVENT_ONLY", "SPAN_AND_EVENT"):
        span.add_event(c.CONTENT_EVENT, attributes)
    if chosen.content != "EVENT_ONLY":
        if sum(map(len, texts)) <= chosen.text_characters_max:
            attributes[c.TOKEN_TEXT] = [piece for ids in answers for piece in content.pieces(call.tokenizer, ids)]
        span.set_attributes(attributes)


def fail(span: otel.Span, error: BaseException, text: bool) -> None:
    """Marks a span as ended by the host's exception: its class and its frames, and what it says where `text` may leave.

    A cancelled task has not failed: somebody stopped waiting for it.
    """
    if isinstance(error, asyncio.CancelledError):
        return
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    said = name
    event = {"exception.type": name}
    if text:
        with suppress(Exception):  # a host's own __str__ may fail
            said = event["exception.message"] = str(error)[:_MESSAGE_CHARACTERS_MAX]
        event["exception.stacktrace"] = "".join(traceback.format_exception(error))[-_STACK_CHARACTERS_MAX:]
    else:
        found = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
        frames = [f"{code.co_filename}:{line} in {code.co_name}" for code, line in found]
        event["exception.stacktrace"] = "\n".join(frames)[-_STACK_CHARACTERS_MAX:]
    span.set_attribute(c.ERROR_TYPE, name)
    span.add_event("exception", event)
    span.set_status(otel.Status(otel.StatusCode.ERROR, said or name))
