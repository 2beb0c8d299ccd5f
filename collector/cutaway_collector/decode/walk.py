"""A request's bytes into tables of positions: sized right, and regularised by the protobuf library where no encoder laid them out.

The walk itself is otlp.py's; what the tables mean is for checking.py and building.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from cutaway_collector.amplification import check_parsed
from cutaway_collector.decode import names, otlp, wire
from cutaway_collector.decode import tables as t
from cutaway_collector.decode.limits import Limits
from cutaway_collector.decode.tables import Tables
from cutaway_collector.errors import MalformedRequest


def count(payload: bytes, limits: Limits) -> tuple[bytes, Any]:
    """(the request as an encoder would lay it out, the arena of tables that hold nothing but their counts): every byte is looked
    at, none kept.

    Raises MalformedRequest with the reason and the byte offset.
    """
    work, end = _count(payload, limits)
    if end < 0 and wire.explain(end)[0] == wire.IRREGULAR:
        payload = _regular(payload)
        work, end = _count(payload, limits)
    if end < 0:
        reason, offset = wire.explain(end)
        raise MalformedRequest(f"the body is not an ExportTraceServiceRequest: at byte {offset} {wire.REASONS[reason]}")
    return payload, work


def fill(payload: bytes, counts: Sequence[int], limits: Limits) -> Tables:
    """The tables of bytes that `count` took, of as many rows as it counted.

    How large they may be is settled before: each request is checked alone, and a batch is bounded by the row_bytes of its requests.
    """
    tables = t.allocate(counts, limits.attribute_depth_max, names.PACKED)
    end = otlp.request(bytes_of(payload), tables.work, limits.attributes_max)
    if end < 0 or tables.counts[: len(counts)].tolist() != list(counts):
        raise AssertionError("two walks over the same bytes must count the same")
    return tables


@cache
def _empty(depth_max: int) -> Any:
    """The arena of tables without rows: every request is counted in a copy."""
    return t.allocate([0] * t.TABLES, depth_max, names.PACKED).work


def _count(payload: bytes, limits: Limits) -> tuple[Any, int]:
    work = _empty(limits.attribute_depth_max).copy()
    return work, otlp.request(bytes_of(payload), work, limits.attributes_max)


def _regular(payload: bytes) -> bytes:
    """The same message as an encoder would have laid it out, by the protobuf library. Raises MalformedRequest, TooLarge."""
    # Not at the top: most collectors never meet such bytes, and the JSON road does without the library.
    from google.protobuf.message import DecodeError, EncodeError
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    check_parsed(payload, "a request with fields out of order or in pieces")
    message = ExportTraceServiceRequest()
    try:
        message.ParseFromString(payload)
        message.DiscardUnknownFields()
        return message.SerializeToString()
    except (DecodeError, EncodeError):
        raise MalformedRequest(
            "the body is not an ExportTraceServiceRequest: the protobuf library cannot read it. Fields out of order or in "
            "pieces are only accepted when every text is UTF-8 and messages nest less than 100 deep"
        ) from None


def bytes_of(payload: bytes) -> Any:
    """uint8 [bytes], read-only."""
    return np.frombuffer(payload, np.uint8)
