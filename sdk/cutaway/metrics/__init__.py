"""Metrics of generations: what is counted (instruments.py) and, only when asked for, a provider that sends it (sending.py).

Not where metrics go by default: the program's own MeterProvider gets them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cutaway.metrics.instruments import METRICS, Instruments, Metric

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.resources import Resource

    from cutaway.settings import Settings

__all__ = ["METRICS", "Instruments", "Metric", "provider"]


def provider(settings: Settings, resource: Resource) -> MeterProvider:
    """See `sending.provider`; OpenTelemetry's SDK of metrics is imported only here, because most programs need its API alone."""
    from cutaway.metrics import sending

    return sending.provider(settings, resource)
