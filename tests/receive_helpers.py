"""A `submit` that remembers, and OTLP requests made by the official classes."""

from __future__ import annotations

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from cutaway_collector.contracts import Encoding, Receipt


class Recorder:
    """Stands in for the pipeline: keeps payloads, answers `receipt`, or raises `error`."""

    def __init__(self) -> None:
        self.payloads: list[tuple[bytes, str]] = []
        self.receipt = Receipt(1, 0, "")
        self.error: Exception | None = None

    def __call__(self, payload: bytes, encoding: Encoding, tenant: str = "") -> Receipt:
        if self.error is not None:
            raise self.error
        self.payloads.append((payload, encoding))
        return self.receipt


def request(spans: int = 1) -> ExportTraceServiceRequest:
    """A request of `spans` spans with valid ids."""
    message = ExportTraceServiceRequest()
    made = message.resource_spans.add().scope_spans.add().spans
    for index in range(spans):
        made.add(trace_id=bytes([1] * 16), span_id=(index + 1).to_bytes(8, "big"), name="work",
                 start_time_unix_nano=1_700_000_000_000_000_000, end_time_unix_nano=1_700_000_000_001_000_000)
    return message
