"""What the store has taken lately, in the order in which it took it: the question a live tail asks again and again.

Not a search by time: a span counts when it is stored, whenever it began. StoredAt is the moment at which an insert begins, so rows
appear behind ones that were read before; a look therefore goes back OVERLAP_MS and counts rows by their StoredAt, which an insert
shares among its rows. What was counted is remembered, so a row is told once and none that comes late is missed.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Final

from cutaway_collector.contracts import Store
from cutaway_collector.search import language, rows, sql
from cutaway_collector.search.parameters import Parameters

OVERLAP_MS: Final = 10_000
"""How long an insert may take and still be told: as long as judging waits for one to settle."""
BACK_MINUTES_MAX: Final = 15
"""How far back a position may lie: what was stored before that is for a search."""
COUNTS_MAX: Final = 512
"""Moments of StoredAt that are remembered; with more inserts within OVERLAP_MS it goes back less far."""
TOLD_MAX: Final = 5000
"""Spans remembered as told, so that one which its sender repeats is told once."""
_SUBQUERIES_BACK_NS: Final = 3_600_000_000_000
"""Where a query looks at other spans of a trace or at scores, it looks back an hour."""
_POSITION: Final = re.compile(rf"([0-9]{{1,15}})((?:\.[0-9]{{1,7}}-[0-9]{{1,12}}){{0,{COUNTS_MAX}}})")
_KEYS: Final = (*rows.IDENTITY, *rows.SUMMARY, ("stored_ms", "toUnixTimestamp64Milli(StoredAt)"))


@dataclass(frozen=True, slots=True)
class Position:
    """Where a tail has come to. Nothing stored at or before `horizon_ms` is looked at again; counts: milliseconds of StoredAt
    behind it -> matching rows that were counted. Milliseconds since 1970, by the store's clock."""

    horizon_ms: int
    counts: dict[int, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return str(self.horizon_ms) + "".join(f".{at - self.horizon_ms}-{count}" for at, count in sorted(self.counts.items()))

    @classmethod
    def read(cls, text: str) -> Position | None:
        """What `str` wrote, as a URL or a Last-Event-ID brings it back; None for anything else."""
        found = _POSITION.fullmatch(text) if text.isascii() else None
        if found is None:
            return None
        horizon = int(found[1])
        pairs = (part.split("-") for part in found[2].split(".")[1:])
        return cls(horizon, {horizon + int(after): int(count) for after, count in pairs})


@dataclass(frozen=True, slots=True)
class Arrived:
    """rows: newest first, as `find` has them, with `stored_ms`. skipped: matching spans stored meanwhile that are not."""

    rows: list[dict[str, Any]]
    skipped: int


class Tail:
    """One follower of a query. position: where it goes on; None for the last BACK_MINUTES_MAX minutes.

    Raises QueryError for a query that cannot be understood. One thread at a time.
    """

    def __init__(self, store: Store, q: str, position: Position | None = None) -> None:
        self._store = store
        self._tree = language.parse(q)
        sql.condition(self._tree, Parameters())
        self.position = position or Position(0)
        self._told: OrderedDict[tuple[str, str, int], None] = OrderedDict()

    def skip_to_now(self) -> None:
        """What is stored by now is not told. Raises StoreError."""
        self._count()

    def poll(self, rows_max: int) -> Arrived:
        """What was stored since the last call, at most rows_max rows of it. Raises QueryError, StoreError."""
        before = self.position
        total, counts = self._count()
        fresh = [at for at, count in counts.items() if count > before.counts.get(at, 0)]
        arrived = total - sum(before.counts.values())
        if not fresh or arrived <= 0:
            return Arrived([], 0)
        found = self._rows(before.horizon_ms, fresh, rows_max)
        page: list[dict[str, Any]] = []
        known = 0
        for row in found:
            key = (row["trace_id"], row["span_id"], row["start_ns"])
            if key in self._told:
                known += 1
            elif len(page) < rows_max:
                self._told[key] = None
                page.append(row)
        while len(self._told) > TOLD_MAX:
            self._told.popitem(last=False)
        return Arrived(page, max(0, arrived - len(page) - known))

    def _count(self) -> tuple[int, dict[int, int]]:
        """(matching rows behind the horizon, by their newest moments); the position is then behind them."""
        parameters = self._parameters()
        where = self._where(parameters, self.position.horizon_ms)
        text = (
            "SELECT toUnixTimestamp64Milli(now64(3)), sum(stored), "
            f"arraySlice(arrayReverseSort(groupArray((at, stored))), 1, {COUNTS_MAX}) FROM "
            "(SELECT toUnixTimestamp64Milli(StoredAt) AS at, count() AS stored "
            f"FROM {rows.table(self._store)} WHERE {where} GROUP BY at)"
        )
        now_ms, total, pairs = rows.run(self._store, text, parameters.values, self._tree).rows[0]
        counts = {int(at): int(count) for at, count in pairs}
        horizon = max(self.position.horizon_ms, int(now_ms) - OVERLAP_MS)
        if len(counts) == COUNTS_MAX:
            horizon = max(horizon, min(counts))
        self.position = Position(horizon, {at: count for at, count in counts.items() if at > horizon})
        return int(total), counts

    def _rows(self, horizon_ms: int, moments: list[int], rows_max: int) -> list[dict[str, Any]]:
        parameters = self._parameters()
        where = self._where(parameters, horizon_ms)
        text = (
            f"SELECT {rows.select(_KEYS)} FROM {rows.table(self._store)} WHERE {where} "
            f"AND toUnixTimestamp64Milli(StoredAt) IN ({', '.join(parameters.bind(at, 'Int64') for at in moments)}) "
            f"ORDER BY StoredAt DESC, Timestamp DESC, SpanId DESC LIMIT {parameters.bind(2 * rows_max, 'UInt64')}"
        )
        keys = [key for key, _ in _KEYS]
        return [rows.as_dict(keys, row) for row in rows.run(self._store, text, parameters.values, self._tree).rows]

    def _parameters(self) -> Parameters:
        parameters = Parameters(database=self._store.database)
        parameters.start_ns = max(0, self.position.horizon_ms * 1_000_000 - _SUBQUERIES_BACK_NS)
        return parameters

    def _where(self, parameters: Parameters, horizon_ms: int) -> str:
        horizon = parameters.bind(horizon_ms, "Int64")
        return (
            f"StoredAt > greatest(fromUnixTimestamp64Milli({horizon}), now64(3) - toIntervalMinute({BACK_MINUTES_MAX})) "
            f"AND {sql.condition(self._tree, parameters)}"
        )
