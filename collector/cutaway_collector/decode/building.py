"""Requests that were checked, as rows: one walk and one block of each table for all of them together.

Requests are joined before they are read, which protobuf allows: one message after another is one message with the spans of both.
What a request costs by itself (some hundred calls from Python into compiled code) is then paid once a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from cutaway_collector.blocks import Strings
from cutaway_collector.contracts import Checked, Rows
from cutaway_collector.decode import numbers, series, walk
from cutaway_collector.decode import tables as t
from cutaway_collector.decode.limits import Limits
from cutaway_collector.decode.rows import Arrival, keep, span_block
from cutaway_collector.decode.strings import pick

_NONE: Final = Checked(b"", (), 0, 0, "", 0, 0, "")


def build(requests: Sequence[Checked], limits: Limits) -> Rows:
    """The rows of the spans of all requests, in their order. Raises TooLarge when one column would outgrow its limit."""
    requests = requests or [_NONE]
    spans = np.array([request.spans for request in requests], np.int64)
    ends = np.cumsum(spans)
    payload = requests[0].wire if len(requests) == 1 else b"".join([request.wire for request in requests])
    counts = np.sum([request.counts or [0] * t.TABLES for request in requests], axis=0).tolist()
    tables = walk.fill(payload, counts, limits)
    data = walk.bytes_of(payload)
    kept = keep(tables)
    if len(kept.records) != ends[-1]:
        raise AssertionError("two walks over the same bytes must keep the same spans")
    spelled = numbers.spell(tables.numbers[: int(tables.counts[t.NUMBERS])].view(np.float64))
    block = span_block(data, tables, spelled, kept, _arrival(requests, spans))
    plan = series.sound(series.plan(data, tables.span_attributes, kept.found, kept.marks, limits))
    tokens = series.token_block(data, tables.span_attributes, kept.found, plan, block)
    owners = np.searchsorted(ends, plan.carriers, side="right")
    token_rows = np.zeros(len(requests), np.int64)
    np.add.at(token_rows, owners, plan.shape[:, series.K_SEQUENCES])
    return Rows(block, tokens, token_rows)


def _arrival(requests: Sequence[Checked], spans: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Arrival:
    """Tenant and time of arrival of every span."""
    received_ms = np.repeat(np.array([request.received_ns // 1_000_000 for request in requests], np.int64), spans)
    tenants = list(dict.fromkeys(request.tenant for request in requests))
    if len(tenants) == 1:
        return Arrival(received_ms, Strings.repeat(tenants[0], received_ms.size))
    places = {tenant: place for place, tenant in enumerate(tenants)}
    owners = np.repeat(np.array([places[request.tenant] for request in requests], np.int64), spans)
    return Arrival(received_ms, pick(Strings.of(tenants), owners))
