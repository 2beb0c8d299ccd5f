"""The otel_traces block out of the tables: every column of columns.TRACES for the spans that are kept.

Columns only; which spans are kept and what the payload meant was settled when the tables were filled.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from cutaway_collector import columns
from cutaway_collector.blocks import Block, Column, Lists, MapLists, Maps, NumberMaps, Strings
from cutaway_collector.decode import doubles, lift, names, text
from cutaway_collector.decode import tables as t
from cutaway_collector.decode.strings import gather, hex_ids, pick, repeat, run_ends, runs
from cutaway_collector.decode.tables import Tables

_KINDS: Final = Strings.of(["Unspecified", "Internal", "Server", "Client", "Producer", "Consumer"])
_STATUSES: Final = Strings.of(["Unset", "Ok", "Error"])
_SERVICE: Final = np.array([names.index("service.name")])


_NOTHING: Final = Strings.of([])
_NO_MAPS: Final = Maps(np.zeros(1, np.int64), _NOTHING, _NOTHING)
_NO_EVENTS: Final[dict[str, Column]] = {
    "Events.Timestamp": np.zeros(0, np.int64), "Events.Name": _NOTHING, "Events.Attributes": _NO_MAPS}
_NO_LINKS: Final[dict[str, Column]] = {
    "Links.TraceId": _NOTHING, "Links.SpanId": _NOTHING, "Links.TraceState": _NOTHING, "Links.Attributes": _NO_MAPS}


class Kept(NamedTuple):
    """The spans that become rows: their rows of the span table, int64 [rows, S_WIDTH], and their attributes by name.

    found: int32 [rows, names], rows of the span-attribute table; marks: uint8 [rows], which kinds there are; present: bool [names],
    which any of them has (see lift.find).
    """

    records: Any
    found: Any
    marks: Any
    present: Any


class Arrival(NamedTuple):
    """How each kept span came. received_ms: int64 [rows], since 1970; tenants: from the credential."""

    received_ms: Any
    tenants: Strings


def _enumeration(words: Strings, values: Any) -> Strings:
    """A number the protocol does not know reads as 0, the unspecified value."""
    return pick(words, np.where((values >= 0) & (values < len(words)), values, 0))


def _times(nanoseconds: Any) -> Any:
    return np.ascontiguousarray(nanoseconds)


def _resource_columns(data: Any, tables: Tables, numbers: Strings, resource: Any) -> tuple[Maps, Strings]:
    """Attributes and service name of every span's resource: spelled once a resource, then repeated."""
    table = tables.resource_attributes
    count = int(tables.counts[t.RESOURCES])
    first, length = tables.resources[:count, t.R_ATTRIBUTE], tables.resources[:count, t.R_ATTRIBUTE_N]
    rows = np.arange(tables.counts[t.RESOURCE_ATTRIBUTES])
    keys, values = text.attributes(data, table, rows, numbers, tables.stack)
    found, _, _ = lift.find(table, first, length)
    services = lift.texts(found, _SERVICE, rows, values)
    ends = run_ends(length[resource])
    repeated = (repeat(strings, first, length, resource, int(ends[-1])) for strings in (keys, values))
    return Maps(ends, *repeated), pick(services, resource)


def _maps(data: Any, table: Any, first: Any, count: Any, numbers: Strings, stack: Any) -> Maps:
    rows, ends = runs(first, count)
    return Maps(ends, *text.attributes(data, table, rows, numbers, stack))


def _none_of(nothing: dict[str, Column], count: int) -> dict[str, Column]:
    """List columns of `count` spans that have nothing in them, which is what most requests bring."""
    ends = np.zeros(count + 1, np.int64)
    return {name: MapLists(ends, inner) if isinstance(inner, Maps) else Lists(ends, inner) for name, inner in nothing.items()}


def _event_columns(data: Any, tables: Tables, numbers: Strings, records: Any) -> dict[str, Column]:
    if not tables.counts[t.EVENTS]:
        return _none_of(_NO_EVENTS, len(records))
    rows, ends = runs(records[:, t.S_EVENT], records[:, t.S_EVENT_N])
    events = tables.events[rows]
    maps = _maps(data, tables.event_attributes, events[:, t.E_ATTRIBUTE], events[:, t.E_ATTRIBUTE_N], numbers, tables.stack)
    return {
        "Events.Timestamp": Lists(ends, _times(events[:, t.E_TIME])),
        "Events.Name": Lists(ends, gather(data, events[:, t.E_NAME], events[:, t.E_NAME_N])),
        "Events.Attributes": MapLists(ends, maps),
    }


def _link_columns(data: Any, tables: Tables, numbers: Strings, records: Any) -> dict[str, Column]:
    if not tables.counts[t.LINKS]:
        return _none_of(_NO_LINKS, len(records))
    rows, ends = runs(records[:, t.S_LINK], records[:, t.S_LINK_N])
    links = tables.links[rows]
    maps = _maps(data, tables.link_attributes, links[:, t.L_ATTRIBUTE], links[:, t.L_ATTRIBUTE_N], numbers, tables.stack)
    return {
        "Links.TraceId": Lists(ends, hex_ids(data, links[:, t.L_TRACE], links[:, t.L_TRACE_N], 16)),
        "Links.SpanId": Lists(ends, hex_ids(data, links[:, t.L_ID], links[:, t.L_ID_N], 8)),
        "Links.TraceState": Lists(ends, gather(data, links[:, t.L_STATE], links[:, t.L_STATE_N])),
        "Links.Attributes": MapLists(ends, maps),
    }


def _span_attributes(data: Any, tables: Tables, numbers: Strings, kept: Kept) -> tuple[Maps, NumberMaps, dict[str, Column]]:
    """SpanAttributes without token series and long arrays of numbers; those arrays; and the columns lifted from attributes."""
    table = tables.span_attributes
    first, count = np.ascontiguousarray(kept.records[:, t.S_ATTRIBUTE]), np.ascontiguousarray(kept.records[:, t.S_ATTRIBUTE_N])
    rows, ends, arrays, array_ends = doubles.split(first, count, table, names.SERIES_FROM)
    keys, values = text.cut(data, table, rows, numbers, tables.stack)
    positions = np.full(table.shape[0], -1, np.int64)
    positions[rows] = np.arange(rows.size)
    lifted = lift.lifted(data, table, kept.found, kept.marks, kept.present, positions, values)
    stay = tables.values[: int(tables.counts[t.VALUES])]
    if 2 * stay.nbytes < tables.work.nbytes:
        stay = stay.copy()  # a piece of the arena holds all of it for as long as the rows are there
    return Maps(ends, keys, values), doubles.number_maps(data, table, arrays, array_ends, stay), lifted


def keep(tables: Tables) -> Kept:
    """The spans nothing is wrong with, in the sender's order."""
    records = tables.spans[: int(tables.counts[t.SPANS])]
    sound = records[:, t.S_FAULT] == t.NO_FAULT
    if not sound.all():
        records = records[sound]
    return Kept(records, *lift.find(tables.span_attributes, records[:, t.S_ATTRIBUTE], records[:, t.S_ATTRIBUTE_N]))


def span_block(data: Any, tables: Tables, numbers: Strings, kept: Kept, arrival: Arrival) -> Block:
    """One otel_traces row a kept span."""
    records = kept.records
    count = len(records)
    scopes = tables.scopes[records[:, t.S_SCOPE]]
    resources, services = _resource_columns(data, tables, numbers, records[:, t.S_RESOURCE])
    attributes, arrays, lifted = _span_attributes(data, tables, numbers, kept)
    starts, stops = records[:, t.S_START].astype(np.uint64), records[:, t.S_STOP].view(np.uint64)
    made: dict[str, Column] = {
        "Timestamp": _times(records[:, t.S_START]),
        "TraceId": hex_ids(data, records[:, t.S_TRACE], records[:, t.S_TRACE_N], 16),
        "SpanId": hex_ids(data, records[:, t.S_ID], records[:, t.S_ID_N], 8),
        "ParentSpanId": hex_ids(data, records[:, t.S_PARENT], records[:, t.S_PARENT_N], 8),
        "TraceState": gather(data, records[:, t.S_STATE], records[:, t.S_STATE_N]),
        "SpanName": gather(data, records[:, t.S_NAME], records[:, t.S_NAME_N]),
        "SpanKind": _enumeration(_KINDS, records[:, t.S_KIND]),
        "ServiceName": services,
        "ResourceAttributes": resources,
        "ScopeName": gather(data, scopes[:, t.C_NAME], scopes[:, t.C_NAME_N]),
        "ScopeVersion": gather(data, scopes[:, t.C_VERSION], scopes[:, t.C_VERSION_N]),
        "SpanAttributes": attributes,
        "SpanNumbers": arrays,
        "Duration": np.where(stops > starts, stops - starts, np.uint64(0)),
        "StatusCode": _enumeration(_STATUSES, records[:, t.S_CODE]),
        "StatusMessage": gather(data, records[:, t.S_MESSAGE], records[:, t.S_MESSAGE_N]),
        "TenantId": arrival.tenants,
        "IngestedAt": arrival.received_ms,
        **_event_columns(data, tables, numbers, records),
        **_link_columns(data, tables, numbers, records),
        **lifted,
    }
    return Block(columns.TRACES.name, count, {column.name: made[column.name] for column in columns.TRACES.columns
                                              if column.name in made})  # StoredAt is the store's to say
