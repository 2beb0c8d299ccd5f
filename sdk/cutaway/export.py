"""Brings finished spans to a collector without ever troubling the host: bounded queue, bounded waits, one line an outage.

Not an OTLP implementation: the official exporters encode and send. Around them stand a queue bounded in spans and bytes, requests
kept under a size, and silence for the log lines they repeat at every retry.
"""

from __future__ import annotations

import logging
import os
import platform
import socket
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final
from urllib.parse import urlsplit

from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, Context, attach, detach, set_value
from opentelemetry.sdk.resources import OsResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter, SpanExportResult

from cutaway.errors import ConfigurationError
from cutaway.guard import logger
from cutaway.settings import Settings

_NOISY: Final = (
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.proto.http._log_exporter",
    "opentelemetry.exporter.otlp.proto.http._common",
    "opentelemetry.exporter.otlp.common._http",
    "opentelemetry.exporter.http.transport",
    "urllib3.connectionpool",
)
_PID: Final = "process.pid"
_COMMAND_LINE: Final = ("process.command_args", "process.command_line")
"""Arguments of a program may be secrets."""
_sending = threading.local()


class _Silence(logging.Filter):
    """Keeps what an exporter says while it works for us as the reason of an outage; what it says for others passes."""

    def filter(self, record: logging.LogRecord) -> bool:
        processor: BoundedProcessor | None = getattr(_sending, "processor", None)
        if processor is not None:
            processor.trouble = record.getMessage()
        return processor is None


_silence: Final = _Silence()


class BoundedProcessor(SpanProcessor):
    """Sends spans, or scores, from one background thread; the host only appends to a queue.

    When the queue is full the oldest are dropped. An outage is logged once, its end once with what was lost (level INFO).
    In a forked child the queue is empty and the thread is new; `remake` makes it an exporter of its own, because two processes
    cannot share a connection. Without an exporter the first one, too, is made by `remake`, on the thread. what: for the log.
    """

    def __init__(self, exporter: Any, settings: Settings, remake: Callable[[], Any] | None = None, what: str = "spans") -> None:
        self._exporter = exporter
        self._settings = settings
        self._remake = remake
        self._what = what
        self._closed = False
        self._inherited = exporter is None
        self._lost = self._lost_before = 0
        self.trouble = ""
        """What the exporter said last."""
        for name in _NOISY:
            logging.getLogger(name).addFilter(_silence)
        self._begin()
        _processors[:] = [known for known in _processors if known() is not None]
        _processors.append(weakref.ref(self))

    def _begin(self) -> None:
        """Nothing queued, nothing told, no thread."""
        self._queue: deque[tuple[Any, int]] = deque()
        self._bytes = self._sent = self._accepted = 0
        self._outage = self._urgent = False
        self._waited_seconds = 0.0
        self._changed = threading.Condition()
        self._worker: threading.Thread | None = None

    def begin_in_child(self) -> None:
        """After a fork: the worker lives in the parent, and so do the spans it is about to send, the lock and the connection."""
        self._begin()
        self._inherited, self._lost_before, self.trouble = True, self._lost, ""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing: spans are of interest when they end."""

    def on_end(self, span: ReadableSpan) -> None:
        """Queues a sampled span; never waits."""
        if span.context is None or not span.context.trace_flags.sampled:
            return
        self.put(span, estimated_bytes(span))

    def put(self, item: Any, size: int) -> None:
        """Queues what the exporter takes, of about `size` bytes; never waits."""
        with self._changed:
            if self._closed:
                return
            self._queue.append((item, size))
            self._bytes += size
            self._accepted += 1
            while len(self._queue) > max(1, self._settings.queue_spans_max) or (
                self._bytes > self._settings.queue_bytes_max and len(self._queue) > 1
            ):
                self._bytes -= self._queue.popleft()[1]
                self._sent += 1
                self._lost += 1
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="cutaway-export", daemon=True)
                self._worker.start()
            self._changed.notify_all()

    def force_flush(self, timeout_millis: int | None = None) -> bool:
        """Waits until what was queued before has been sent or given up; False when that takes longer than allowed."""
        return self._wait(self._settings.flush_seconds_max if timeout_millis is None else timeout_millis / 1e3, "not sent so far")

    def _wait(self, limit_seconds: float, fate: str) -> bool:
        deadline = time.monotonic() + limit_seconds
        with self._changed:
            goal, lost = self._accepted, self._lost
            self._urgent = self._sent < goal
            self._changed.notify_all()
            while self._sent < goal and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            missing = goal - self._sent
            if missing <= 0:
                return self._lost == lost
            self._waited_seconds += limit_seconds
            missing += self._lost - self._lost_before
        self._tell(self.trouble or f"no answer within {limit_seconds:.1f} s", missing, fate)
        return False

    def shutdown(self) -> None:
        """Sends what is queued within the limit, then stops for good. A flush that has just waited in vain is part of the limit."""
        if self._closed:
            return
        self._wait(max(0.0, self._settings.flush_seconds_max - self._waited_seconds), "lost")
        with self._changed:
            self._closed = True
            self._queue.clear()
            self._changed.notify_all()
        if self._inherited and (self._remake is not None or self._accepted == 0):
            return  # the connection is the parent's
        _sending.processor = self
        try:
            self._exporter.shutdown()
        finally:
            _sending.processor = None

    def _work(self) -> None:
        _sending.processor = self
        while True:
            with self._changed:
                while not self._queue and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                if not self._urgent and len(self._queue) < self._settings.batch_spans_max:
                    self._changed.wait_for(self._is_due, self._settings.delay_ms / 1e3)
                batch = self._next_batch()
            delivered = not batch or self._send(batch)
            with self._changed:
                self._sent += len(batch)
                self._lost += 0 if delivered else len(batch)
                if not self._queue:
                    self._urgent = False
                self._changed.notify_all()

    def _is_due(self) -> bool:
        return self._closed or self._urgent or len(self._queue) >= self._settings.batch_spans_max

    def _next_batch(self) -> list[Any]:
        batch: list[Any] = []
        size = 0
        while self._queue and len(batch) < max(1, self._settings.batch_spans_max):
            if batch and size + self._queue[0][1] > self._settings.request_bytes_max:
                break
            span, span_bytes = self._queue.popleft()
            batch.append(span)
            size += span_bytes
            self._bytes -= span_bytes
        return batch

    def _send(self, batch: list[Any]) -> bool:
        token = attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
        self.trouble = ""
        try:
            if self._inherited and self._remake is not None:
                self._exporter, self._inherited = self._remake(), False
            done = self._exporter.export(batch).name == SpanExportResult.SUCCESS.name  # logs have an enum of their own
            error = "" if done else self.trouble or "refused"
        except Exception as fault:
            error = f"{type(fault).__name__}: {fault}"
        finally:
            detach(token)
        if error:
            self._tell(error, len(batch) + self._lost - self._lost_before, "lost so far")
            return False
        self.trouble, self._waited_seconds = "", 0.0
        if self._outage:
            self._outage = False
            logger.info("%s are delivered again; %d were lost", self._what, self._lost - self._lost_before)
        self._lost_before = self._lost
        return True

    def _tell(self, why: str, spans: int, fate: str) -> None:
        """One warning an outage, whoever notices it first: the worker, a flush or the end of the program."""
        with self._changed:
            if self._outage or self._closed:
                return
            self._outage = True
        logger.warning("%s cannot be delivered (%s): %d %s; the program goes on, and this is said once an outage",
                       self._what, why[:300], spans, fate)


_processors: Final[list[weakref.ref[BoundedProcessor]]] = []
_providers: Final[list[weakref.ref[TracerProvider]]] = []


def _begin_in_child() -> None:
    for known in _processors:
        processor = known()
        if processor is not None:
            processor.begin_in_child()
    for known_provider in _providers:
        made = known_provider()
        update = getattr(made, "_update_resource", None)  # what OpenTelemetry itself calls after a fork
        if made is not None and update is not None and _PID in made.resource.attributes:
            update(Resource({_PID: os.getpid()}))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_in_child)


def estimated_bytes(span: ReadableSpan) -> int:
    """About the bytes of a span on the wire: exact for what is large (bytes and text), rough for the rest."""
    total = 256 + len(span.name) + 200 * (len(span.events) + len(span.links))
    for attributes in (span.attributes, *(event.attributes for event in span.events)):
        for name, value in (attributes or {}).items():
            total += len(name) + 12 + _value_bytes(value)
    return total


def _value_bytes(value: Any) -> int:
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, str):
        return len(value) if value.isascii() else 4 * len(value)
    if isinstance(value, tuple | list):
        return sum(4 + _value_bytes(item) for item in value)
    return 11


def _endpoint(settings: Settings) -> tuple[str, str]:
    """(endpoint with its scheme or "", protocol)."""
    endpoint = settings.endpoint
    if endpoint and "://" not in endpoint:
        endpoint = f"http://{endpoint}"
    return endpoint, settings.protocol or ("grpc" if urlsplit(endpoint).port == 4317 else "http/protobuf")


def otlp_log_exporter(settings: Settings) -> Any:
    """The official exporter of log records, to where spans go unless OTEL_EXPORTER_OTLP_LOGS_ENDPOINT says otherwise."""
    endpoint, protocol = _endpoint(settings)
    elsewhere = bool(os.environ.get("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"))
    headers = _pairs(settings.headers)
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcExporter

        chosen = None if elsewhere else endpoint or None
        return GrpcExporter(endpoint=chosen, headers=headers or None, timeout=settings.timeout_seconds)
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpExporter

    whole = f"{endpoint.rstrip('/').removesuffix('/v1/traces')}/v1/logs" if endpoint and not elsewhere else None
    return HttpExporter(endpoint=whole, headers=headers or None, timeout=settings.timeout_seconds)


def score_queue(settings: Settings, exporter: Any) -> BoundedProcessor | None:
    """Where scores that come after their span wait to be sent as log records; None where nothing is sent. exporter: or None."""
    if exporter is not None:
        return BoundedProcessor(exporter, settings, None, "scores")
    if settings.disabled or settings.exporter == "none":
        return None
    if settings.exporter == "console":
        from opentelemetry.sdk._logs.export import ConsoleLogRecordExporter

        return BoundedProcessor(ConsoleLogRecordExporter(), settings, None, "scores")
    return BoundedProcessor(None, settings, partial(otlp_log_exporter, settings), "scores")


def otlp_exporter(settings: Settings) -> SpanExporter:
    """The official exporter for the endpoint and protocol."""
    endpoint, protocol = _endpoint(settings)
    headers = _pairs(settings.headers)
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        return GrpcExporter(endpoint=endpoint or None, headers=headers or None, timeout=settings.timeout_seconds)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

    given = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if endpoint and endpoint != given and not urlsplit(endpoint).path.endswith("/v1/traces"):
        endpoint = endpoint.rstrip("/") + "/v1/traces"
    return HttpExporter(endpoint=endpoint or None, headers=headers or None, timeout=settings.timeout_seconds)


def _pairs(headers: str | tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Names in small letters, as gRPC asks."""
    from opentelemetry.util.re import parse_env_headers

    if isinstance(headers, tuple):
        return {name.lower(): value for name, value in headers}
    return dict(parse_env_headers(headers, liberal=True)) if headers else {}


def provider(
    settings: Settings, attributes: Mapping[str, Any], exporter: SpanExporter | None, processor: SpanProcessor | None
) -> TracerProvider:
    """A TracerProvider of our own, never made global; `attributes` go on its resource. Samplers and limits follow OTEL_*.

    A given `processor` replaces ours; a given `exporter` is put behind ours. Raises ConfigurationError.
    """
    try:
        return _provider(settings, attributes, exporter, processor)
    except (ValueError, TypeError, OSError) as fault:
        why = f"{type(fault).__name__}: {fault}"
        raise ConfigurationError(f"OpenTelemetry refuses one of its OTEL_* variables ({why}): correct or unset it") from fault


def resource(settings: Settings, attributes: Mapping[str, Any]) -> Resource:
    """Who sends, for our providers: the process and the machine, below what OTEL_* variables and the program itself say.

    `service.name`, `service.instance.id`, `telemetry.sdk.*` and the detectors of OTEL_EXPERIMENTAL_RESOURCE_DETECTORS are
    OpenTelemetry's own work. The command line stays here unless `attributes` hold it.
    """
    own = {**attributes, **({"service.name": settings.service_name} if settings.service_name else {})}
    found = Resource(_detected()).merge(Resource.create(own))
    if not any(name in found.attributes and name not in own for name in _COMMAND_LINE):
        return found
    kept = {name: value for name, value in found.attributes.items() if name not in _COMMAND_LINE or name in own}
    return Resource(kept, found.schema_url)


def _detected() -> dict[str, Any]:
    """What the standard library tells without a subprocess or a file, under the names of the resource conventions."""
    system = OsResourceDetector().detect().attributes
    runtime = ".".join(map(str, sys.version_info[:3] if sys.version_info.releaselevel == "final" else sys.version_info))
    found: dict[str, Any] = {
        _PID: os.getpid(), "process.executable.name": os.path.basename(sys.executable or ""),
        "process.runtime.name": sys.implementation.name, "process.runtime.version": runtime,
        "process.runtime.description": sys.version,
        "host.name": socket.gethostname(), "host.arch": platform.machine(),
        "os.type": system.get("os.type"), "os.version": system.get("os.version"),
        "telemetry.distro.name": "cutaway", "telemetry.distro.version": distribution_version(),
    }
    return {name: value for name, value in found.items() if value}


def distribution_version() -> str:
    """Version of the installed distribution; "0" where cutaway is only a folder on the path."""
    try:
        return version("cutaway")
    except PackageNotFoundError:
        return "0"


def _printed(span: ReadableSpan) -> str:
    """The JSON OpenTelemetry prints of a span; it has none for bytes, so of a packed series only the size is told."""
    attributes = {
        name: f"<{len(value)} bytes>" if isinstance(value, bytes) else value for name, value in (span.attributes or {}).items()
    }
    told = ReadableSpan(
        span.name, span.context, span.parent, span.resource, attributes, span.events, span.links, span.kind,
        status=span.status, start_time=span.start_time, end_time=span.end_time, instrumentation_scope=span.instrumentation_scope,
    )
    return f"{told.to_json()}{os.linesep}"


def _provider(
    settings: Settings, attributes: Mapping[str, Any], exporter: SpanExporter | None, processor: SpanProcessor | None
) -> TracerProvider:
    made = TracerProvider(resource=resource(settings, attributes))
    _providers[:] = [known for known in _providers if known() is not None]
    _providers.append(weakref.ref(made))
    remake: Callable[[], SpanExporter] | None = None
    if processor is None and exporter is None:
        if settings.exporter == "otlp":
            exporter = otlp_exporter(settings)
            remake = partial(otlp_exporter, settings)
        elif settings.exporter == "console":
            exporter = ConsoleSpanExporter(formatter=_printed)
    if processor is not None:
        made.add_span_processor(processor)
    elif exporter is not None:
        made.add_span_processor(BoundedProcessor(exporter, settings, remake))
    return made
