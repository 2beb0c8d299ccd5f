"""ExportTraceServiceRequest on the wire, walked once into tables of positions: compiled, no Python object a span.

Legal protobuf may also come in layouts that no encoder writes: a resource after its spans, a message in two pieces, a value before
its key, two members of a oneof, a group. The walk refuses those as IRREGULAR; the caller has the protobuf library write the message
anew and walks that, so the odd cases follow the library's own merging rules and the common case stays one straight pass.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from cutaway_collector.decode import tables as t
from cutaway_collector.decode.values import attribute, claim, nested, pair
from cutaway_collector.decode.wire import (
    BYTES,
    FIXED64,
    IRREGULAR,
    VARINT,
    entry,
    fault,
    fixed64,
    kernel,
    raw,
    size,
    skip,
    tag,
    varint,
)

START_MIN_NS: Final = 31_536_000 * 10**9
"""1971-01-01: an earlier start is a clock that was never set."""
START_MAX_NS: Final = 4_291_747_200 * 10**9
"""2106-01-01: the 32-bit seconds of the keys and of the trace times end a month later, and a later start would wrap to 1970."""
TIME_MAX_NS: Final = 2**63 - 1


@kernel
def _new(work: Any, slot: int, width: int) -> Any:
    row = claim(work, slot, width)
    for column in range(width):
        work[row + column] = 0
    return row


@kernel
def _nonzero(data: Any, at: int, length: int, width: int) -> Any:
    if length != width:
        return False
    bits = np.uint8(0)
    for index in range(width):
        bits |= data[at + index]
    return bits != 0


@kernel
def _attribute_fault(count: int, limit: int, work: Any) -> Any:
    """What is wrong with the attributes just read; clears the mark for the next owner."""
    deep = work[t.DEEP] != 0
    work[t.DEEP] = 0
    if count > limit:
        return t.TOO_MANY_ATTRIBUTES
    return t.TOO_DEEP if deep else t.NO_FAULT


@kernel
def _status(data: Any, at: int, end: int, work: Any, record: int) -> Any:
    while at < end:
        field, wire, at = tag(data, at, end)
        if at < 0:
            return at
        if field == 2 and wire == BYTES:
            length, at = size(data, at, end)
            if at < 0:
                return at
            work[record + t.S_MESSAGE], work[record + t.S_MESSAGE_N] = at, length
            at += length
        elif field == 3 and wire == VARINT:
            bits, at = varint(data, at, end)
            work[record + t.S_CODE] = np.int64(np.int32(bits))
        else:
            at = skip(data, at, end, wire)
        if at < 0:
            return at
    return at


@kernel
def _event(data: Any, at: int, end: int, work: Any, record: int, limit: int) -> Any:
    """One event into its row; what is wrong with it is put on its span."""
    event = _new(work, t.EVENTS, t.E_WIDTH)
    work[event + t.E_ATTRIBUTE] = first = work[t.EVENT_ATTRIBUTES]
    while at < end:
        field, wire, at = tag(data, at, end)
        if at < 0:
            return at
        if field == 1 and wire == FIXED64:
            bits, at = fixed64(data, at, end)
            work[event + t.E_TIME] = np.int64(min(bits, np.uint64(TIME_MAX_NS)))
        elif wire == BYTES and (field == 2 or field == 3):
            length, at = size(data, at, end)
            if at < 0:
                return at
            if field == 2:
                work[event + t.E_NAME], work[event + t.E_NAME_N] = at, length
                at += length
            else:
                at = attribute(data, at, at + length, work, t.EVENT_ATTRIBUTES)
        else:
            at = skip(data, at, end, wire)
        if at < 0:
            return at
    work[event + t.E_ATTRIBUTE_N] = work[t.EVENT_ATTRIBUTES] - first
    work[record + t.S_FAULT] = max(work[record + t.S_FAULT], _attribute_fault(work[event + t.E_ATTRIBUTE_N], limit, work))
    return at


@kernel
def _link(data: Any, at: int, end: int, work: Any, record: int, limit: int) -> Any:
    """One link into its row; what is wrong with it is put on its span."""
    link = _new(work, t.LINKS, t.L_WIDTH)
    work[link + t.L_ATTRIBUTE] = first = work[t.LINK_ATTRIBUTES]
    while at < end:
        field, wire, at = tag(data, at, end)
        if at < 0:
            return at
        if wire == BYTES and 1 <= field <= 4:
            length, at = size(data, at, end)
            if at < 0:
                return at
            if field == 4:
                at = attribute(data, at, at + length, work, t.LINK_ATTRIBUTES)
            else:
                if field == 1:
                    work[link + t.L_TRACE], work[link + t.L_TRACE_N] = at, length
                elif field == 2:
                    work[link + t.L_ID], work[link + t.L_ID_N] = at, length
                else:
                    work[link + t.L_STATE], work[link + t.L_STATE_N] = at, length
                at += length
        else:
            at = skip(data, at, end, wire)
        if at < 0:
            return at
    work[link + t.L_ATTRIBUTE_N] = work[t.LINK_ATTRIBUTES] - first
    work[record + t.S_FAULT] = max(work[record + t.S_FAULT], _attribute_fault(work[link + t.L_ATTRIBUTE_N], limit, work))
    return at


@kernel
def _span_bytes(data: Any, at: int, length: int, field: int, record: int, work: Any, limit: int) -> Any:
    """One length-delimited field of Span: `data[at:at + length]`."""
    after = at + length
    if field == 9:
        return attribute(data, at, after, work, t.SPAN_ATTRIBUTES)
    if field == 1:
        work[record + t.S_TRACE], work[record + t.S_TRACE_N] = at, length
    elif field == 2:
        work[record + t.S_ID], work[record + t.S_ID_N] = at, length
    elif field == 3:
        work[record + t.S_STATE], work[record + t.S_STATE_N] = at, length
    elif field == 4:
        work[record + t.S_PARENT], work[record + t.S_PARENT_N] = at, length
    elif field == 5:
        work[record + t.S_NAME], work[record + t.S_NAME_N] = at, length
    elif field == 11 or field == 13:
        # Attributes of the span itself may lie before and after: its own mark must not be lost to the event's.
        deep = work[t.DEEP]
        work[t.DEEP] = 0
        after = _event(data, at, after, work, record, limit) if field == 11 else _link(data, at, after, work, record, limit)
        work[t.DEEP] = deep
    elif field == 15:
        after = _status(data, at, after, work, record)
    return after


@kernel
def _span(data: Any, at: int, end: int, work: Any, scope: int, resource: int, inherited: int, limit: int) -> Any:
    record = _new(work, t.SPANS, t.S_WIDTH)
    work[record + t.S_SCOPE], work[record + t.S_RESOURCE], work[record + t.S_FAULT] = scope, resource, inherited
    work[record + t.S_ATTRIBUTE] = work[t.SPAN_ATTRIBUTES]
    work[record + t.S_EVENT], work[record + t.S_LINK] = work[t.EVENTS], work[t.LINKS]
    work[t.ROW_BYTES] += t.ROW_BYTES_LEAST + end - at + work[t.SHARED] + work[t.SHARED + 1]
    start = np.uint64(0)
    stop = np.uint64(0)
    while at < end:
        field, wire, at = tag(data, at, end)
        if at < 0:
            return at
        if wire == BYTES:
            length, at = size(data, at, end)
            if at >= 0:
                at = _span_bytes(data, at, length, field, record, work, limit)
        elif wire == FIXED64 and field == 7:
            start, at = fixed64(data, at, end)
        elif wire == FIXED64 and field == 8:
            stop, at = fixed64(data, at, end)
        elif wire == VARINT and field == 6:
            bits, at = varint(data, at, end)
            work[record + t.S_KIND] = np.int64(np.int32(bits))
        else:
            at = skip(data, at, end, wire)
        if at < 0:
            return at
    work[record + t.S_ATTRIBUTE_N] = work[t.SPAN_ATTRIBUTES] - work[record + t.S_ATTRIBUTE]
    work[record + t.S_EVENT_N] = work[t.EVENTS] - work[record + t.S_EVENT]
    work[record + t.S_LINK_N] = work[t.LINKS] - work[record + t.S_LINK]
    work[record + t.S_FAULT] = max(work[record + t.S_FAULT], _attribute_fault(work[record + t.S_ATTRIBUTE_N], limit, work))
    work[record + t.S_START] = np.int64(min(start, np.uint64(TIME_MAX_NS)))
    work[record + t.S_STOP] = np.int64(stop)
    if start < np.uint64(START_MIN_NS) or start >= np.uint64(START_MAX_NS):
        work[record + t.S_FAULT] = t.BAD_START
    if not _nonzero(data, work[record + t.S_ID], work[record + t.S_ID_N], 8):
        work[record + t.S_FAULT] = t.BAD_SPAN_ID
    if not _nonzero(data, work[record + t.S_TRACE], work[record + t.S_TRACE_N], 16):
        work[record + t.S_FAULT] = t.BAD_TRACE_ID
    work[t.REJECTED + work[record + t.S_FAULT]] += 1
    return at


@kernel
def _scope(data: Any, at: int, end: int, work: Any, record: int) -> Any:
    """Name and version; attributes are checked and dropped, for the exporter's schema has no column for them."""
    while at < end:
        field, wire, at = tag(data, at, end)
        if at < 0:
            return at
        if wire == BYTES and 1 <= field <= 3:
            length, at = size(data, at, end)
            if at < 0:
                return at
            if field == 1:
                work[record + t.C_NAME], work[record + t.C_NAME_N] = at, length
            elif field == 2:
                work[record + t.C_VERSION], work[record + t.C_VERSION_N] = at, length
            else:
                _, _, kind, value, value_length, inside = pair(data, at, at + length)
                if inside >= 0 and (kind == 5 or kind == 6):
                    inside = nested(data, value, value + value_length, kind, work, False)
                if inside < 0:
                    return inside
            at += length
        else:
            at = skip(data, at, end, wire)
        if at < 0:
            return at
    work[t.DEEP] = 0
    return at


@kernel
def _scope_spans(data: Any, at: int, end: int, work: Any, resource: int, inherited: int, limit: int) -> Any:
    scope = work[t.SCOPES]
    record = _new(work, t.SCOPES, t.C_WIDTH)
    work[t.SHARED + 1] = 0
    settled = False  # a scope may come once, and only before the first span
    while at < end:
        start = at
        field, wire, at = tag(data, at, end)
        if at < 0:
            return at
        if wire == BYTES and (field == 1 or field == 2):
            length, at = size(data, at, end)
            if at < 0:
                return at
            if field == 2:
                at = _span(data, at, at + length, work, scope, resource, inherited, limit)
            elif settled:
                return fault(IRREGULAR, start)
            else:
                work[t.SHARED + 1] = length
                at = _scope(data, at, at + length, work, record)
            settled = True
        else:
            at = skip(data, at, end, wire)
        if at < 0:
            return at
    return at


@kernel
def _resource(data: Any, at: int, end: int, work: Any, record: int, limit: int) -> Any:
    while at < end:
        field, wire, at = tag(data, at, end)
        if at < 0:
            return at
        if field == 1 and wire == BYTES:
            length, at = size(data, at, end)
            if at >= 0:
                at = attribute(data, at, at + length, work, t.RESOURCE_ATTRIBUTES)
        else:
            at = skip(data, at, end, wire)
        if at < 0:
            return at
    work[record + t.R_ATTRIBUTE_N] = work[t.RESOURCE_ATTRIBUTES] - work[record + t.R_ATTRIBUTE]
    work[record + t.R_FAULT] = _attribute_fault(work[record + t.R_ATTRIBUTE_N], limit, work)
    return at


@kernel
def _resource_spans(data: Any, at: int, end: int, work: Any, limit: int) -> Any:
    resource = work[t.RESOURCES]
    record = _new(work, t.RESOURCES, t.R_WIDTH)
    work[record + t.R_ATTRIBUTE] = work[t.RESOURCE_ATTRIBUTES]
    work[t.SHARED] = 0
    settled = False  # a resource may come once, and only before the first scope
    while at < end:
        start = at
        field, wire, at = tag(data, at, end)
        if at < 0:
            return at
        if wire == BYTES and (field == 1 or field == 2):
            length, at = size(data, at, end)
            if at < 0:
                return at
            if field == 2:
                at = _scope_spans(data, at, at + length, work, resource, work[record + t.R_FAULT], limit)
            elif settled:
                return fault(IRREGULAR, start)
            else:
                work[t.SHARED] = length
                at = _resource(data, at, at + length, work, record, limit)
            settled = True
        else:
            at = skip(data, at, end, wire)
        if at < 0:
            return at
    return at


@entry
def request(data: Any, work: Any, attributes_max: int) -> Any:
    """Fills the tables of `work` from one request, uint8 [bytes]. Returns data.size, or a fault (see wire.fault)."""
    work[:t.COUNTS] = 0
    work[t.REJECTED:t.HEAD] = 0
    return _request(raw(data), np.int64(data.size), raw(work), attributes_max)


@kernel
def _request(data: Any, end: int, work: Any, attributes_max: int) -> Any:
    at = np.int64(0)
    while at < end:
        field, wire, at = tag(data, at, end)
        if at < 0:
            return at
        if field == 1 and wire == BYTES:
            length, at = size(data, at, end)
            if at >= 0:
                at = _resource_spans(data, at, at + length, work, attributes_max)
        else:
            at = skip(data, at, end, wire)
        if at < 0:
            return at
    return at
