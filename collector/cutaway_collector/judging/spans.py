"""Reads stored spans with text, in the order in which the store took them, page by page. Judges and writes nothing.

StoredAt and not IngestedAt: what waited in the spool for hours has an early IngestedAt and comes late. StoredAt is the moment at
which an insert begins, so a span counts as there only once it has had `settle_ms` to end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from cutaway import conventions as c
from cutaway_collector.columns import TRACES
from cutaway_collector.contracts import Store
from cutaway_collector.judging.conversation import Said, sequences
from cutaway_collector.messages import ATTRIBUTES

OPERATIONS: Final = ("chat", "text_completion", "generate_content")
"""Calls of a model. Agents and chains around them say the same again."""
PAGE_SPANS: Final = 2000
CHARACTERS_MAX: Final = 1_000_000
"""Bytes of text of one span; a span with more is not read, and counted."""
_NAMES: Final = ATTRIBUTES.removesuffix("$") + f"$|^{c.REFERENCE_TEXT.replace('.', chr(92) + '.')}$"
_SMALL: Final = " SETTINGS max_threads = 1, priority = 10"
"""Leaves the other threads of the engine, and the turn, to searches."""
_KEY: Final = "StoredAt, Timestamp, TenantId, ServiceName, TraceId, SpanId"
_PLACE: Final = ("toUnixTimestamp64Milli(StoredAt), toUnixTimestamp64Nano(Timestamp), hex(TenantId), hex(ServiceName), "
                 "hex(TraceId), hex(SpanId)")
_TIME_KEY: Final = "Timestamp, TenantId, ServiceName, TraceId, SpanId"
_TIMES: Final = ("Timestamp >= fromUnixTimestamp64Nano({start:Int64}) AND Timestamp < fromUnixTimestamp64Nano({end:Int64}) "
                 "AND ({service:String} = '' OR ServiceName = {service:String}) "
                 "AND ({model:String} = '' OR GenAiModel = {model:String})")
_SPOKEN: Final = ("GenAiOperation IN {operations:Array(String)} "
                  "AND (arrayExists(name -> match(name, {names:String}), mapKeys(SpanAttributes)) OR notEmpty(`Events.Name`))")
_BOUND: Final[dict[str, Any]] = {"operations": list(OPERATIONS), "names": _NAMES}


class Place(NamedTuple):
    """What names a span, in the order in which they are read. The texts are hex of the stored bytes."""

    stored_ms: int
    timestamp_ns: int
    tenant: str = ""
    service: str = ""
    trace_id: str = ""
    span_id: str = ""


class Found(NamedTuple):
    """A span that may be judged. model: hex of GenAiModel. ingested_ms: when the collector received it."""

    place: Place
    model: str
    ingested_ms: int


class Spans:
    """Spans of model calls that carry text. sample_per_mille: of a thousand traces, always the same ones. Raises StoreError."""

    def __init__(self, store: Store, *, sample_per_mille: int = 1000, settle_ms: int = 10_000) -> None:
        self._store = store
        self._table = f"`{store.database.replace(chr(96), chr(92) + chr(96))}`.{TRACES.name}"
        self._sample = sample_per_mille
        self._settle_ms = settle_ms

    def now_ms(self) -> int:
        """Milliseconds since 1970 by the store's clock."""
        return int(self._store.query("SELECT toUnixTimestamp64Milli(now64(3))").rows[0][0])

    def page(self, after: Place, *, began_ms: int, upto: Place | None = None, limit: int = PAGE_SPANS) -> list[Found]:
        """The next spans behind `after`, up to and with `upto`. began_ms: older ones, by IngestedAt, are a back-fill's matter."""
        behind, bound = _bound("after", after)
        clauses = ""
        more: dict[str, Any] = {}
        if upto is not None:
            until, more = _bound("upto", upto)
            clauses = f" AND ({_KEY}) <= {until} AND StoredAt <= fromUnixTimestamp64Milli({{upto_0:Int64}})"
        rows = self._store.query(
            f"SELECT {_PLACE}, hex(GenAiModel), toUnixTimestamp64Milli(IngestedAt) FROM {self._table} "
            "WHERE StoredAt >= fromUnixTimestamp64Milli({after_0:Int64}) "
            "AND StoredAt <= now64(3) - toIntervalMillisecond({settle:Int64}) "
            f"AND ({_KEY}) > {behind}{clauses} AND IngestedAt >= fromUnixTimestamp64Milli({{began:Int64}}) "
            f"AND xxHash64(TraceId) % 1000 < {{sample:UInt64}} AND {_SPOKEN} "
            f"ORDER BY {_KEY} LIMIT 1 BY {_KEY} LIMIT {limit}{_SMALL}",
            {**bound, **more, "settle": self._settle_ms, "began": began_ms, "sample": self._sample, **_BOUND}).rows
        return [Found(Place(*row[:6]), row[6], int(row[7])) for row in rows]

    def counts(self, unit_ns: int, start_ns: int, end_ns: int, *, service: str, model: str) -> list[tuple[int, int]]:
        """(units since 1970, spans with text) of a time, ascending; of one service and one model unless ""."""
        rows = self._store.query(
            f"SELECT intDiv(toUnixTimestamp64Nano(Timestamp), {unit_ns}) AS unit, count() FROM {self._table} "
            f"WHERE {_TIMES} AND {_SPOKEN} GROUP BY unit ORDER BY unit{_SMALL}",
            {"start": start_ns, "end": end_ns, "service": service, "model": model, **_BOUND}).rows
        return [(int(unit), int(count)) for unit, count in rows]

    def within(self, start_ns: int, end_ns: int, after: Sequence[Any], *, service: str, model: str, limit: int) -> list[Found]:
        """The next spans with text of a time, by time and not by when they were stored, whatever the sample is.

        after: (nanoseconds, tenant, service, trace id, span id) of the last one, texts as hex; () for the first.
        """
        behind, bound = "", {}
        if after:
            words = ["fromUnixTimestamp64Nano({after_0:Int64})", *(f"unhex({{after_{place}:String}})" for place in range(1, 5))]
            behind = f" AND ({_TIME_KEY}) > ({', '.join(words)})"
            bound = {f"after_{place}": value for place, value in enumerate(after[:5])}
        rows = self._store.query(
            f"SELECT {_PLACE}, hex(GenAiModel), toUnixTimestamp64Milli(IngestedAt) FROM {self._table} "
            f"WHERE {_TIMES} AND {_SPOKEN}{behind} ORDER BY {_TIME_KEY} LIMIT 1 BY {_TIME_KEY} LIMIT {limit}{_SMALL}",
            {"start": start_ns, "end": end_ns, "service": service, "model": model, **bound, **_BOUND}).rows
        return [Found(Place(*row[:6]), row[6], int(row[7])) for row in rows]

    def texts(self, page: Sequence[Found]) -> Mapping[Place, list[Said]]:
        """What these spans say. A span with too much text, or deleted meanwhile, is not among them."""
        if not page:
            return {}
        times = [found.place.timestamp_ns for found in page]
        rows = self._store.query(
            f"SELECT {_PLACE}, mapFilter((name, value) -> match(name, {{names:String}}), SpanAttributes) AS said, "
            f"`Events.Name`, `Events.Attributes` FROM {self._table} "
            "WHERE Timestamp >= fromUnixTimestamp64Nano({first:Int64}) AND Timestamp <= fromUnixTimestamp64Nano({last:Int64}) "
            "AND SpanId IN (SELECT unhex(arrayJoin({spans:Array(String)}))) "
            "AND arraySum(value -> length(value), mapValues(said)) "
            "+ arraySum(held -> arraySum(value -> length(value), mapValues(held)), `Events.Attributes`) <= {most:UInt64}" + _SMALL,
            {"first": min(times), "last": max(times), "spans": [found.place.span_id for found in page], "names": _NAMES,
             "most": CHARACTERS_MAX}).rows
        wanted = {found.place for found in page}
        told: dict[Place, list[Said]] = {}
        for *key, attributes, names, held in rows:
            place = Place(*key)
            if place in wanted and place not in told:
                events = [{"name": name, "attributes": given} for name, given in zip(names, held, strict=True)]
                told[place] = sequences(attributes, events)
        return told


def _bound(name: str, place: Place) -> tuple[str, dict[str, Any]]:
    """A place as a tuple of bound parameters, and their values."""
    words = [f"fromUnixTimestamp64Milli({{{name}_0:Int64}})", f"fromUnixTimestamp64Nano({{{name}_1:Int64}})",
             *(f"unhex({{{name}_{number}:String}})" for number in range(2, 6))]
    return f"({', '.join(words)})", {f"{name}_{number}": value for number, value in enumerate(place)}
