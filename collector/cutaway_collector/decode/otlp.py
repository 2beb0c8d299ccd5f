"""ExportTraceServiceRequest on the wire, walked once into tables of positions: compiled, no Python object a span.

Legal protobuf may also come in layouts that no encoder writes: a resource after its spans, a message in two pieces, a value before
its key, two members of a oneof, a group. The walk refuses those as IRREGULAR; the caller has the protobuf library write the message
anew and walks that, so the odd cases follow the library's own merging rules and the common case stays one straight pass.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from cutaway_collector.decode.tables import (
    BAD_SPAN_ID,
    BAD_START,
    BAD_TRACE_ID,
    C_NAME,
    C_NAME_N,
    C_VERSION,
    C_VERSION_N,
    DEEP,
    E_ATTRIBUTE,
    E_ATTRIBUTE_N,
    E_NAME,
    E_NAME_N,
    E_TIME,
    EVENT_ATTRIBUTES,
    EVENTS,
    L_ATTRIBUTE,
    L_ATTRIBUTE_N,
    L_ID,
    L_ID_N,
    L_STATE,
    L_STATE_N,
    L_TRACE,
    L_TRACE_N,
    LINK_ATTRIBUTES,
    LINKS,
    NO_FAULT,
    R_ATTRIBUTE,
    R_ATTRIBUTE_N,
    R_FAULT,
    RESOURCE_ATTRIBUTES,
    RESOURCES,
    S_ATTRIBUTE,
    S_ATTRIBUTE_N,
    S_CODE,
    S_EVENT,
    S_EVENT_N,
    S_FAULT,
    S_ID,
    S_ID_N,
    S_KIND,
    S_LINK,
    S_LINK_N,
    S_MESSAGE,
    S_MESSAGE_N,
    S_NAME,
    S_NAME_N,
    S_PARENT,
    S_PARENT_N,
    S_RESOURCE,
    S_SCOPE,
    S_START,
    S_STATE,
    S_STATE_N,
    S_STOP,
    S_TRACE,
    S_TRACE_N,
    SCOPES,
    SPAN_ATTRIBUTES,
    SPANS,
    TOO_DEEP,
    TOO_MANY_ATTRIBUTES,
)
from cutaway_collector.decode.values import attribute, nested, pair
from cutaway_collector.decode.wire import BYTES, FIXED64, IRREGULAR, VARINT, fault, fixed64, kernel, size, skip, tag, varint

START_MIN_NS: Final = 31_536_000 * 10**9
"""1971-01-01: an earlier start is a clock that was never set."""
START_MAX_NS: Final = 9_214_646_400 * 10**9
"""2262-01-01: DateTime64(9) ends a little later."""
TIME_MAX_NS: Final = 2**63 - 1


@kernel
def _nonzero(data: Any, at: int, length: int, width: int) -> Any:
    if length != width:
        return False
    bits = np.uint8(0)
    for index in range(width):
        bits |= data[at + index]
    return bits != 0


@kernel
def _attribute_fault(count: int, limit: int, counts: Any) -> Any:
    """What is wrong with the attributes just read; clears the mark for the next owner."""
    deep = counts[DEEP] != 0
    counts[DEEP] = 0
    if count > limit:
        return TOO_MANY_ATTRIBUTES
    return TOO_DEEP if deep else NO_FAULT


@kernel
def _status(data: Any, at: int, end: int, record: Any) -> Any:
    while at < end:
        field, wire, at = tag(data, at, end)
        if at < 0:
            return at
        if field == 2 and wire == BYTES:
            length, at = size(data, at, end)
            if at < 0:
                return at
            record[S_MESSAGE], record[S_MESSAGE_N] = at, length
            at += length
        elif field == 3 and wire == VARINT:
            bits, at = varint(data, at, end)
            record[S_CODE] = np.int64(np.int32(bits))
        else:
            at = skip(data, at, end, wire)
        if at < 0:
            return at
    return at


@kernel
def _event(data: Any, at: int, end: int, tables: Any, record: Any, limit: int) -> Any:
    """One event into its row; what is wrong with it is put on its span."""
    event = tables.events[min(tables.counts[EVENTS], tables.events.shape[0] - 1)]
    tables.counts[EVENTS] += 1
    event[:] = 0
    event[E_ATTRIBUTE] = first = tables.counts[EVENT_ATTRIBUTES]
    while at < end:
        field, wire, at = tag(data, at, end)
        if at < 0:
            return at
        if field == 1 and wire == FIXED64:
            bits, at = fixed64(data, at, end)
            event[E_TIME] = np.int64(min(bits, np.uint64(TIME_MAX_NS)))
        elif wire == BYTES and (field == 2 or field == 3):
            length, at = size(data, at, end)
            if at < 0:
                return at
            if field == 2:
                event[E_NAME], event[E_NAME_N] = at, length
                at += length
            else:
                at = attribute(data, at, at + length, tables.event_attributes, EVENT_ATTRIBUTES, tables)
        else:
            at = skip(data, at, end, wire)
        if at < 0:
            return at
    event[E_ATTRIBUTE_N] = tables.counts[EVENT_ATTRIBUTES] - first
    record[S_FAULT] = max(record[S_FAULT], _attribute_fault(event[E_ATTRIBUTE_N], limit, tables.counts))
    return at


@kernel
def _link(data: Any, at: int, end: int, tables: Any, record: Any, limit: int) -> Any:
    """One link into its row; what is wrong with it is put on its span."""
    link = tables.links[min(tables.counts[LINKS], tables.links.shape[0] - 1)]
    tables.counts[LINKS] += 1
    link[:] = 0
    link[L_ATTRIBUTE] = first = tables.counts[LINK_ATTRIBUTES]
    while at < end:
        field, wire, at = tag(data, at, end)
        if at < 0:
            return at
        if wire == BYTES and 1 <= field <= 4:
            length, at = size(data, at, end)
            if at < 0:
                return at
            if field == 4:
                at = attribute(data, at, at + length, tables.link_attributes, LINK_ATTRIBUTES, tables)
            else:
                if field == 1:
                    link[L_TRACE], link[L_TRACE_N] = at, length
                elif field == 2:
                    link[L_ID], link[L_ID_N] = at, length
                else:
                    link[L_STATE], link[L_STATE_N] = at, length
                at += length
        else:
            at = skip(data, at, end, wire)
        if at < 0:
            return at
    link[L_ATTRIBUTE_N] = tables.counts[LINK_ATTRIBUTES] - first
    record[S_FAULT] = max(record[S_FAULT], _attribute_fault(link[L_ATTRIBUTE_N], limit, tables.counts))
    return at


@kernel
def _span_bytes(data: Any, at: int, length: int, field: int, record: Any, tables: Any, limit: int) -> Any:
    """One length-delimited field of Span: `data[at:at + length]`."""
    after = at + length
    if field == 9:
        return attribute(data, at, after, tables.span_attributes, SPAN_ATTRIBUTES, tables)
    if field == 1:
        record[S_TRACE], record[S_TRACE_N] = at, length
    elif field == 2:
        record[S_ID], record[S_ID_N] = at, length
    elif field == 3:
        record[S_STATE], record[S_STATE_N] = at, length
    elif field == 4:
        record[S_PARENT], record[S_PARENT_N] = at, length
    elif field == 5:
        record[S_NAME], record[S_NAME_N] = at, length
    elif field == 11 or field == 13:
        # Attributes of the span itself may lie before and after: its own mark must not be lost to the event's.
        deep = tables.counts[DEEP]
        tables.counts[DEEP] = 0
        after = _event(data, at, after, tables, record, limit) if field == 11 else _link(data, at, after, tables, record, limit)
        tables.counts[DEEP] = deep
    elif field == 15:
        after = _status(data, at, after, record)
    return after


@kernel
def _span(data: Any, at: int, end: int, tables: Any, scope: int, resource: int, inherited: int, limit: int) -> Any:
    record = tables.spans[min(tables.counts[SPANS], tables.spans.shape[0] - 1)]
    counts = tables.counts
    counts[SPANS] += 1
    record[:] = 0
    record[S_SCOPE], record[S_RESOURCE], record[S_FAULT] = scope, resource, inherited
    record[S_ATTRIBUTE], record[S_EVENT], record[S_LINK] = counts[SPAN_ATTRIBUTES], counts[EVENTS], counts[LINKS]
    start = np.uint64(0)
    stop = np.uint64(0)
    while at < end:
        field, wire, at = tag(data, at, end)
        if at < 0:
            return at
        if wire == BYTES:
            length, at = size(data, at, end)
            if at >= 0:
                at = _span_bytes(data, at, length, field, record, tables, limit)
        elif wire == FIXED64 and field == 7:
            start, at = fixed64(data, at, end)
        elif wire == FIXED64 and field == 8:
            stop, at = fixed64(data, at, end)
        elif wire == VARINT and field == 6:
            bits, at = varint(data, at, end)
            record[S_KIND] = np.int64(np.int32(bits))
        else:
            at = skip(data, at, end, wire)
        if at < 0:
            return at
    record[S_ATTRIBUTE_N] = counts[SPAN_ATTRIBUTES] - record[S_ATTRIBUTE]
    record[S_EVENT_N] = counts[EVENTS] - record[S_EVENT]
    record[S_LINK_N] = counts[LINKS] - record[S_LINK]
    record[S_FAULT] = max(record[S_FAULT], _attribute_fault(record[S_ATTRIBUTE_N], limit, counts))
    record[S_START] = np.int64(min(start, np.uint64(TIME_MAX_NS)))
    record[S_STOP] = np.int64(stop)
    if start < np.uint64(START_MIN_NS) or start >= np.uint64(START_MAX_NS):
        record[S_FAULT] = BAD_START
    if not _nonzero(data, record[S_ID], record[S_ID_N], 8):
        record[S_FAULT] = BAD_SPAN_ID
    if not _nonzero(data, record[S_TRACE], record[S_TRACE_N], 16):
        record[S_FAULT] = BAD_TRACE_ID
    return at


@kernel
def _scope(data: Any, at: int, end: int, tables: Any, record: Any) -> Any:
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
                record[C_NAME], record[C_NAME_N] = at, length
            elif field == 2:
                record[C_VERSION], record[C_VERSION_N] = at, length
            else:
                _, _, kind, value, value_length, inside = pair(data, at, at + length)
                if inside >= 0 and (kind == 5 or kind == 6):
                    inside = nested(data, value, value + value_length, kind, tables.numbers, tables.counts, tables.stack, False)
                if inside < 0:
                    return inside
            at += length
        else:
            at = skip(data, at, end, wire)
        if at < 0:
            return at
    tables.counts[DEEP] = 0
    return at


@kernel
def _scope_spans(data: Any, at: int, end: int, tables: Any, resource: int, inherited: int, limit: int) -> Any:
    scope = tables.counts[SCOPES]
    record = tables.scopes[min(scope, tables.scopes.shape[0] - 1)]
    tables.counts[SCOPES] += 1
    record[:] = 0
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
                at = _span(data, at, at + length, tables, scope, resource, inherited, limit)
            elif settled:
                return fault(IRREGULAR, start)
            else:
                at = _scope(data, at, at + length, tables, record)
            settled = True
        else:
            at = skip(data, at, end, wire)
        if at < 0:
            return at
    return at


@kernel
def _resource(data: Any, at: int, end: int, tables: Any, record: Any, limit: int) -> Any:
    while at < end:
        field, wire, at = tag(data, at, end)
        if at < 0:
            return at
        if field == 1 and wire == BYTES:
            length, at = size(data, at, end)
            if at >= 0:
                at = attribute(data, at, at + length, tables.resource_attributes, RESOURCE_ATTRIBUTES, tables)
        else:
            at = skip(data, at, end, wire)
        if at < 0:
            return at
    record[R_ATTRIBUTE_N] = tables.counts[RESOURCE_ATTRIBUTES] - record[R_ATTRIBUTE]
    record[R_FAULT] = _attribute_fault(record[R_ATTRIBUTE_N], limit, tables.counts)
    return at


@kernel
def _resource_spans(data: Any, at: int, end: int, tables: Any, limit: int) -> Any:
    resource = tables.counts[RESOURCES]
    record = tables.resources[min(resource, tables.resources.shape[0] - 1)]
    tables.counts[RESOURCES] += 1
    record[:] = 0
    record[R_ATTRIBUTE] = tables.counts[RESOURCE_ATTRIBUTES]
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
                at = _scope_spans(data, at, at + length, tables, resource, record[R_FAULT], limit)
            elif settled:
                return fault(IRREGULAR, start)
            else:
                at = _resource(data, at, at + length, tables, record, limit)
            settled = True
        else:
            at = skip(data, at, end, wire)
        if at < 0:
            return at
    return at


@kernel
def request(data: Any, tables: Any, attributes_max: int) -> Any:
    """Fills `tables` from one request, uint8 [bytes]. Returns data.size, or a fault (see wire.fault)."""
    at = np.int64(0)
    end = np.int64(data.size)
    tables.counts[:] = 0
    while at < end:
        field, wire, at = tag(data, at, end)
        if at < 0:
            return at
        if field == 1 and wire == BYTES:
            length, at = size(data, at, end)
            if at >= 0:
                at = _resource_spans(data, at, at + length, tables, attributes_max)
        else:
            at = skip(data, at, end, wire)
        if at < 0:
            return at
    return at
