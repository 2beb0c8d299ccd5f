"""The process's one configuration: which settings hold, where spans and metrics go, and what enclosing scopes say.

Not a stage: stages get what they need of it from the flows.
"""

from __future__ import annotations

import atexit
import inspect
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass, replace
from typing import Any, Final

from opentelemetry import metrics as otel_metrics
from opentelemetry import trace as otel
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter

from cutaway import conventions as c
from cutaway import dialect, export, guard, metrics
from cutaway import settings as settings_module
from cutaway.errors import ConfigurationError
from cutaway.redaction import Redact
from cutaway.settings import Settings
from cutaway.steps import Clock, Scope
from cutaway.worker import Worker

_NOWHERE: Final = Scope()
scope: Final[ContextVar[Scope]] = ContextVar("cutaway_scope", default=_NOWHERE)
"""What the enclosing `@trace` or pipeline says about generations."""

finisher: Final = Worker("cutaway-finish")
"""Where spans are finished, off the generating thread."""


@dataclass(frozen=True, slots=True)
class _State:
    """The configuration as one value that is replaced as a whole: whoever reads it needs no lock."""

    settings: Settings | None = None
    provider: otel.TracerProvider | None = None
    owned: TracerProvider | None = None
    tracer: otel.Tracer | None = None
    tokenizer: Any = None
    clock: Callable[[Any], Clock] | None = None
    redact: Redact | None = None
    instruments: metrics.Instruments | None = None
    owned_meters: Any = None
    log_exporter: Any = None
    scores: export.BoundedProcessor | None = None


_state = _State()
_lock = threading.RLock()
"""Held by those who replace the configuration."""


def _begin_in_child() -> None:
    """After a fork: the locks may have been held by threads that do not live in the child."""
    global _lock
    _lock = threading.RLock()
    tap = sys.modules.get("cutaway.tap.patches")
    if tap is not None:
        tap.begin_in_child()


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
    meter_provider: otel_metrics.MeterProvider | None = None,
    exporter: SpanExporter | None = None,
    span_processor: SpanProcessor | None = None,
    log_exporter: Any = None,
    capture: str | None = None,
    attention: str | None = None,
    series_bytes_max: int | None = None,
    tokenizer: Any = None,
    redact: Redact | None = None,
    clock: Callable[[Any], Clock] | None = None,
    **more: Any,
) -> None:
    """Says where spans go and what they hold. Optional: without it the environment and the defaults decide at the first span.

    `tracer_provider`: spans go to your provider and its processors; otherwise cutaway makes one of its own, and never touches the
    global one. `meter_provider`: where metrics go instead of the global one. `exporter` and `span_processor` replace the OTLP
    exporter of our own provider, `log_exporter` the one that brings scores of spans which have ended. `tokenizer` is the fallback
    for text capture. `clock` (device -> Clock) replaces the clock in tests. `more`: any name of the settings table.
    `redact` (attribute, text) -> text or None is asked about every text before it leaves; it and the tokenizer stay in force until
    others are given or `shutdown`. A second call replaces the first, after sending what is queued. Raises ConfigurationError.
    """
    named = {
        "endpoint": endpoint, "protocol": protocol, "headers": headers, "service_name": service_name, "capture": capture,
        "attention": attention, "series_bytes_max": series_bytes_max,
    }
    chosen = settings_module.load({**named, **more})
    _check_objects(tracer_provider, meter_provider, exporter, span_processor, log_exporter, clock, resource_attributes)
    _check_hook(redact)
    owned = None
    provider: otel.TracerProvider
    if chosen.disabled:
        provider = otel.NoOpTracerProvider()
    elif tracer_provider is not None:
        provider = tracer_provider
    else:
        provider = owned = export.provider(chosen, resource_attributes or {}, exporter, span_processor)
    schema = dialect.schema_url(chosen.latest_conventions)
    made = provider.get_tracer(c.SCOPE_NAME, export.distribution_version(), schema_url=schema)
    instruments, owned_meters = _meters(chosen, meter_provider, owned, schema)
    finisher.drain_first_at_exit()
    global _state
    with _lock:
        previous = _state
        tokenizer = previous.tokenizer if tokenizer is None else tokenizer
        redact = previous.redact if redact is None else redact
        _state = _State(chosen, provider, owned, made, tokenizer, clock, redact, instruments, owned_meters, log_exporter)
    _close(previous)


def _meters(chosen: Settings, given: Any, owned: TracerProvider | None, schema: str) -> tuple[metrics.Instruments | None, Any]:
    """Instruments on the given, our own, or the program's own MeterProvider; and ours, to be closed."""
    if chosen.disabled:
        return None, None
    made = None
    if given is None and chosen.metrics_exporter in ("otlp", "console"):
        resource = owned.resource if owned is not None else export.resource(chosen, {})
        given = made = metrics.provider(chosen, resource)
    provider = otel_metrics.get_meter_provider() if given is None else given
    meter = provider.get_meter(c.SCOPE_NAME, export.distribution_version(), schema)
    return metrics.Instruments(meter, chosen.latest_conventions), made


def _close(state: _State) -> None:
    """Sends what a configuration that is no longer in force still holds."""
    if state.settings is not None:
        finisher.drain(state.settings.flush_seconds_max)
    for owned in (state.owned, state.owned_meters, state.scores):
        if owned is not None:
            with guard.guarded("closing the previous exporter"):
                owned.shutdown()


def _check_objects(
    provider: Any, meters: Any, exporter: Any, processor: Any, logs: Any, clock: Any, resource_attributes: Any,
) -> None:
    """By what they can do, not by their class: tests and wrappers bring their own."""
    asked: tuple[tuple[str, Any, tuple[str, ...]], ...] = (
        ("tracer_provider", provider, ("get_tracer",)), ("meter_provider", meters, ("get_meter",)),
        ("exporter", exporter, ("export", "shutdown")), ("log_exporter", logs, ("export", "shutdown")),
        ("span_processor", processor, ("on_start", "on_end", "shutdown", "force_flush")), ("clock", clock, ("__call__",)),
        ("resource_attributes", resource_attributes, ("keys", "items")),
    )
    for name, value, methods in asked:
        a_class = isinstance(value, type) and name != "clock"
        if value is not None and (a_class or not all(callable(getattr(value, method, None)) for method in methods)):
            what = f"the class {value.__name__}" if a_class else f"of type {type(value).__name__}"
            rule = f"{name} is an object with {', '.join(methods)}"
            raise ConfigurationError(f"{rule}; it is {what}: pass such an object or leave it out")


def _check_hook(redact: Any) -> None:
    rule = "redact is a function of attribute and text that returns the text to send or None"
    if redact is not None and not callable(redact):
        raise ConfigurationError(f"{rule}; it is of type {type(redact).__name__}: pass a function or leave it out")
    if any(map(inspect.iscoroutinefunction, (redact, type(redact).__call__ if callable(redact) else None))):
        raise ConfigurationError(f"{rule}; it is a coroutine function: nobody awaits it, so pass a plain one")


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


def flush(timeout_seconds: float | None = None) -> bool:
    """Waits until finished spans have been sent, at most `flush_seconds_max`. False when they could not be."""
    now = _state
    if now.settings is None:
        return True
    limit = now.settings.flush_seconds_max if timeout_seconds is None else timeout_seconds
    deadline = time.monotonic() + limit
    drained = finisher.drain(limit)
    sent = [drained]
    for provider in filter(None, (now.provider, now.owned_meters, now.scores)):
        force = getattr(provider, "force_flush", None)
        if force is not None:
            with guard.guarded("flushing"):
                sent.append(bool(force(max(0, int((deadline - time.monotonic()) * 1000)))))
                continue
            sent.append(False)
    return all(sent)


def shutdown() -> None:
    """Sends what is queued within `flush_seconds_max` and forgets the configuration; a provider that was given stays open."""
    global _state
    with _lock:
        previous, _state = _state, _State()
    _close(previous)


def remember_tokenizer(tokenizer: Any) -> None:
    """The fallback for calls that bring no tokenizer of their own."""
    global _state
    with _lock:
        _state = replace(_state, tokenizer=tokenizer)


def tokenizer() -> Any:
    """See `remember_tokenizer`."""
    return _state.tokenizer


def clock() -> Callable[[Any], Clock] | None:
    """The clock given to `configure`, or None."""
    return _state.clock


def redact() -> Redact | None:
    """The redaction hook in force, or None."""
    return _state.redact


def score_queue() -> export.BoundedProcessor | None:
    """Where scores of spans that have ended wait to be sent, made at the first; None where nothing is sent."""
    global _state
    chosen = settings()
    with _lock:
        if _state.scores is None and _state.settings is chosen:
            made = export.score_queue(chosen, _state.log_exporter)
            if made is not None:
                _state = replace(_state, scores=made)
                atexit.register(made.shutdown)
        return _state.scores


def resource() -> Any:
    """Who sends, as our spans say it."""
    found = getattr(_state.provider, "resource", None)
    return export.resource(settings(), {}) if found is None else found


def instruments() -> metrics.Instruments | None:
    """What counts generations; None while tracing is off."""
    return _state.instruments


def leave(token: Token[Scope]) -> bool:
    """Puts the scope back. False when the block ends in another Context than it began in: that one never had our scope."""
    try:
        scope.reset(token)
    except ValueError:
        return False
    return True
