"""Brings finished spans to a collector without ever troubling the host: bounded queue, bounded waits, one line an outage.

Not an OTLP implementation: the official exporters encode and send. Around them stand a queue bounded in spans and bytes, requests
kept under a size, and silence for the log lines they repeat at every retry.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, Context, attach, detach, set_value
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter, SpanExportResult

from cutaway.errors import ConfigurationError
from cutaway.guard import logger
from cutaway.settings import Settings

_NOISY: Final = (
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.proto.http._common",
    "opentelemetry.exporter.otlp.common._http",
    "opentelemetry.exporter.http.transport",
    "urllib3.connectionpool",
)
_sending = threading.local()


class _Silence(logging.Filter):
    """Drops what an exporter says while it works for us; what it says for others passes."""

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(_sending, "active", False):
            _sending.last = record.getMessage()
            return False
        return True


_silence: Final = _Silence()


class BoundedProcessor(SpanProcessor):
    """Sends spans from one background thread; the host only appends to a queue.

    When the queue is full the oldest spans are dropped. An outage is logged once, its end once with what was lost (level INFO).
    """

    def __init__(self, exporter: SpanExporter, settings: Settings) -> None:
        self._exporter = exporter
        self._settings = settings
        self._queue: deque[tuple[ReadableSpan, int]] = deque()
        self._bytes = 0
        self._sent = self._accepted = self._lost = 0
        self._outage = self._closed = False
        self._urgent = False
        self._changed = threading.Condition()
        self._worker: threading.Thread | None = None
        self._pid = os.getpid()
        for name in _NOISY:
            logging.getLogger(name).addFilter(_silence)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing: spans are of interest when they end."""

    def on_end(self, span: ReadableSpan) -> None:
        """Queues a sampled span; never waits."""
        if span.context is None or not span.context.trace_flags.sampled:
            return
        size = estimated_bytes(span)
        if self._pid != os.getpid():
            self._start_again_after_fork()
        with self._changed:
            if self._closed:
                return
            self._queue.append((span, size))
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
        limit = self._settings.flush_seconds_max if timeout_millis is None else timeout_millis / 1e3
        deadline = time.monotonic() + limit
        with self._changed:
            goal, lost = self._accepted, self._lost
            self._urgent = True
            self._changed.notify_all()
            while self._sent < goal:
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    return False
            return self._lost == lost

    def shutdown(self) -> None:
        """Sends what is queued within the limit, then stops for good."""
        if self._closed:
            return
        if self._pid == os.getpid():
            self.force_flush()
        with self._changed:
            self._closed = True
            self._queue.clear()
            self._changed.notify_all()
        _sending.active = True
        try:
            self._exporter.shutdown()
        finally:
            _sending.active = False

    def _start_again_after_fork(self) -> None:
        """The worker lives in the parent, and so do the spans it was about to send."""
        self._changed = threading.Condition()
        self._queue.clear()
        self._bytes = self._sent = self._accepted = 0
        self._worker, self._pid = None, os.getpid()

    def _work(self) -> None:
        _sending.active = True
        while True:
            with self._changed:
                while not self._queue and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                if not self._urgent and len(self._queue) < self._settings.batch_spans_max:
                    self._changed.wait_for(self._is_due, self._settings.delay_ms / 1e3)
                batch = self._next_batch()
            error = self._send(batch) if batch else ""
            with self._changed:
                self._sent += len(batch)
                if error:
                    self._lost += len(batch)
                if not self._queue:
                    self._urgent = False
                self._changed.notify_all()

    def _is_due(self) -> bool:
        return self._closed or self._urgent or len(self._queue) >= self._settings.batch_spans_max

    def _next_batch(self) -> list[ReadableSpan]:
        batch: list[ReadableSpan] = []
        size = 0
        while self._queue and len(batch) < max(1, self._settings.batch_spans_max):
            if batch and size + self._queue[0][1] > self._settings.request_bytes_max:
                break
            span, span_bytes = self._queue.popleft()
            batch.append(span)
            size += span_bytes
            self._bytes -= span_bytes
        return batch

    def _send(self, batch: list[ReadableSpan]) -> str:
        token = attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
        _sending.last = ""
        try:
            error = "" if self._exporter.export(batch) is SpanExportResult.SUCCESS else getattr(_sending, "last", "") or "refused"
        except Exception as fault:
            error = f"{type(fault).__name__}: {fault}"
        finally:
            detach(token)
        if error and not self._outage:
            self._outage = True
            logger.warning("spans cannot be delivered (%s); the program goes on, and this is said once an outage", error[:300])
        elif not error and self._outage:
            self._outage = False
            logger.info("spans are delivered again; %d were lost", self._lost)
        return error


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


def otlp_exporter(settings: Settings) -> SpanExporter:
    """The official exporter for the endpoint and protocol. Raises ConfigurationError for an endpoint without a host."""
    endpoint = settings.endpoint
    if endpoint and "://" not in endpoint:
        endpoint = f"http://{endpoint}"
    parts = urlsplit(endpoint)
    if endpoint and not parts.netloc:
        raise ConfigurationError(f"endpoint has a host, it is {settings.endpoint!r}: try http://localhost:4318")
    protocol = settings.protocol or ("grpc" if parts.port == 4317 else "http/protobuf")
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        return GrpcExporter(endpoint=endpoint or None, headers=settings.headers or None, timeout=settings.timeout_seconds)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

    if endpoint and endpoint != os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") and not parts.path.endswith("/v1/traces"):
        endpoint = endpoint.rstrip("/") + "/v1/traces"
    return HttpExporter(endpoint=endpoint or None, headers=_pairs(settings.headers) or None, timeout=settings.timeout_seconds)


def _pairs(headers: str) -> dict[str, str]:
    from opentelemetry.util.re import parse_env_headers

    return dict(parse_env_headers(headers, liberal=True)) if headers else {}


def provider(
    settings: Settings, resource: Mapping[str, Any], exporter: SpanExporter | None, processor: SpanProcessor | None
) -> TracerProvider:
    """A TracerProvider of our own, never made global. Samplers and limits follow the OTEL_* variables by themselves.

    A given `processor` replaces ours; a given `exporter` is put behind ours.
    """
    attributes = dict(resource)
    if settings.service_name:
        attributes["service.name"] = settings.service_name
    made = TracerProvider(resource=Resource.create(attributes))
    if processor is None and exporter is None:
        if settings.exporter == "otlp":
            exporter = otlp_exporter(settings)
        elif settings.exporter == "console":
            exporter = ConsoleSpanExporter()
    if processor is not None:
        made.add_span_processor(processor)
    elif exporter is not None:
        made.add_span_processor(BoundedProcessor(exporter, settings))
    return made
