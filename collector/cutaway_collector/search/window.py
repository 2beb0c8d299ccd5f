"""The time range of a search: every query has one, so no page reads all partitions.

Not a clock of the UI: relative ranges ("last hour") are made absolute by the caller. Without an end, a search ends just after the
newest stored span; without a start it begins 24 hours before its end. So yesterday's demo is still found today. Spans dated more
than a day ahead of this machine's clock do not move the end.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from cutaway_collector.contracts import Store
from cutaway_collector.errors import QueryError
from cutaway_collector.search import rows
from cutaway_collector.search.sql import Parameters

DAY_NS: Final = 86_400 * 10**9
_NEWEST_NS: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Window:
    """Nanoseconds since 1970 UTC, the end excluded. `open_start` and `open_end` tell which ends were chosen here."""

    start_ns: int
    end_ns: int
    open_start: bool = False
    open_end: bool = False

    def condition(self, parameters: Parameters) -> str:
        """SQL condition on Timestamp."""
        start, end = parameters.bind(self.start_ns, "Int64"), parameters.bind(self.end_ns, "Int64")
        return f"Timestamp >= fromUnixTimestamp64Nano({start}) AND Timestamp < fromUnixTimestamp64Nano({end})"


def choose(store: Store, start_ns: int | None, end_ns: int | None) -> Window:
    """The window of a request. Raises QueryError when it ends before it starts."""
    start = None if start_ns is None else min(max(start_ns, 0), _NEWEST_NS - 1)
    end = min(max(end_ns, 1), _NEWEST_NS) if end_ns is not None else newest_ns(store) + 1
    if start is not None and end_ns is None:
        end = max(end, start + 1)
    if start is None:
        start = max(end - DAY_NS, 0)
    if start >= end:
        raise QueryError(f"a time range starts before it ends: it starts at {start} ns and ends at {end} ns",
                         hint="exchange the two, or leave one out")
    return Window(start, end, start_ns is None, end_ns is None)


def newest_ns(store: Store) -> int:
    """Start of the newest span in nanoseconds since 1970, or the present when nothing is stored."""
    now = time.time_ns()
    found = store.query(f"SELECT toUnixTimestamp64Nano(max(Timestamp)), count() FROM {rows.table(store)}")
    newest = int(found.rows[0][0]) if found.rows and found.rows[0][1] else now
    return newest if newest <= now + DAY_NS else now
