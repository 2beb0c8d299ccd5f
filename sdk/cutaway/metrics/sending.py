"""A MeterProvider of our own, for programs that have none: sends the metrics on, one line an outage, never holding the program.

Not an OTLP implementation: the official exporters encode and send.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource

from cutaway.errors import ConfigurationError
from cutaway.guard import logger
from cutaway.settings import Settings

_NOISY: Final = (
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.proto.http._common",
    "opentelemetry.exporter.otlp.common._http",
    "opentelemetry.exporter.http.transport",
    "urllib3.connectionpool",
)
_sending = threading.local()


class _Silence(logging.Filter):
    """Keeps what an exporter says while it works for us as the reason of an outage; what it says for others passes."""

    def filter(self, record: logging.LogRecord) -> bool:
        exporter: _Exporter | None = getattr(_sending, "exporter", None)
        if exporter is not None:
            exporter.trouble = record.getMessage()
        return exporter is None


_silence: Final = _Silence()


class _Exporter(MetricExporter):
    """An official exporter that tells an outage in one line; in a forked child it is made anew: connections are not shared."""

    def __init__(self, make: Callable[[], MetricExporter]) -> None:
        self._make = make
        self._inner = make()
        self._process = os.getpid()
        self._outage = False
        self.delivered = True
        """Whether the last export went well."""
        self.trouble = ""
        super().__init__(self._inner._preferred_temporality, self._inner._preferred_aggregation)
        for name in _NOISY:
            logging.getLogger(name).addFilter(_silence)

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        _sending.exporter, self.trouble = self, ""
        try:
            if self._process != os.getpid():
                self._inner, self._process = self._make(), os.getpid()
            result = self._inner.export(metrics_data, timeout_millis, **kwargs)
            error = "" if result is MetricExportResult.SUCCESS else self.trouble or "refused"
        except Exception as fault:
            result, error = MetricExportResult.FAILURE, f"{type(fault).__name__}: {fault}"
        finally:
            _sending.exporter = None
        if error:
            self.tell(error)
        elif self._outage:
            self._outage = False
            logger.info("metrics are delivered again")
        self.delivered = not error
        return result

    def tell(self, why: str) -> None:
        """One warning an outage, whoever notices it first."""
        if not self._outage:
            self._outage = True
            logger.warning("metrics cannot be delivered (%s); the program goes on, and this is said once an outage", why[:300])

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return self._inner.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        if self._process == os.getpid():
            self._inner.shutdown(timeout_millis, **kwargs)


class _Reader(PeriodicExportingMetricReader):
    """Sends every OTEL_METRIC_EXPORT_INTERVAL; at the end it waits no longer than the program may be held."""

    def __init__(self, exporter: _Exporter, limit_seconds: float) -> None:
        super().__init__(exporter)
        self._ours = exporter
        self._limit_millis = limit_seconds * 1e3

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """False when the metrics are not delivered within the time: an exporter would go on trying for all of its own."""
        thread = threading.Thread(target=super().force_flush, name="cutaway-metrics-flush", daemon=True)
        thread.start()
        thread.join(max(0.0, min(timeout_millis, self._limit_millis)) / 1e3)
        if thread.is_alive():
            self._ours.tell("no answer in time")
        return not thread.is_alive() and self._ours.delivered

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        super().shutdown(min(timeout_millis, self._limit_millis), **kwargs)
        if self._daemon_thread is not None and self._daemon_thread.is_alive():
            self._ours.tell("no answer in time")


class _Provider(MeterProvider):
    """A provider whose `force_flush` says whether the metrics arrived, where OpenTelemetry's raises or is silent."""

    def __init__(self, reader: _Reader | None, resource: Resource) -> None:
        super().__init__([] if reader is None else [reader], resource)
        self._ours = reader

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return self._ours is None or self._ours.force_flush(timeout_millis)


def provider(settings: Settings, resource: Resource) -> MeterProvider:
    """A MeterProvider of our own, never made global, for `metrics_exporter` `otlp` or `console`; any other has no reader.

    It ends with the program by itself, within `flush_seconds_max`. Raises ConfigurationError.
    """
    make: Callable[[], MetricExporter] | None = None
    if settings.metrics_exporter == "otlp":
        make = partial(_otlp_exporter, settings)
    elif settings.metrics_exporter == "console":
        make = ConsoleMetricExporter
    try:
        return _Provider(None if make is None else _Reader(_Exporter(make), settings.flush_seconds_max), resource)
    except (ValueError, TypeError, OSError) as fault:
        why = f"{type(fault).__name__}: {fault}"
        raise ConfigurationError(f"OpenTelemetry refuses one of its OTEL_* variables ({why}): correct or unset it") from fault


def _otlp_exporter(settings: Settings) -> MetricExporter:
    """The official exporter. OTEL_EXPORTER_OTLP_METRICS_* win; else metrics go where spans go, under their own path."""
    endpoint, named = _endpoint(settings)
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL") or settings.protocol
    protocol = protocol or ("grpc" if urlsplit(endpoint).port == 4317 else "http/protobuf")
    headers = _headers(settings)
    timeout = settings.timeout_seconds
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter

        return GrpcExporter(endpoint=endpoint or None, headers=headers, timeout=timeout)
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpExporter

    if endpoint and not named:
        endpoint = endpoint.rstrip("/").removesuffix("/v1/traces").removesuffix("/v1/metrics") + "/v1/metrics"
    return HttpExporter(endpoint=endpoint or None, headers=headers, timeout=timeout)


def _endpoint(settings: Settings) -> tuple[str, bool]:
    """Where metrics go, with its scheme, and whether a variable of their own named it: that one holds its whole path."""
    named = os.environ.get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "").strip()
    endpoint = named or settings.endpoint
    if not named and endpoint and endpoint == os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        endpoint = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or endpoint  # the one of traces is theirs alone
    return (f"http://{endpoint}" if endpoint and "://" not in endpoint else endpoint), bool(named)


def _headers(settings: Settings) -> dict[str, str] | None:
    """None where a variable of their own names them: the exporter reads it."""
    if os.environ.get("OTEL_EXPORTER_OTLP_METRICS_HEADERS") or not settings.headers:
        return None
    if isinstance(settings.headers, tuple):
        return {name.lower(): value for name, value in settings.headers}
    from opentelemetry.util.re import parse_env_headers

    return dict(parse_env_headers(settings.headers, liberal=True))
