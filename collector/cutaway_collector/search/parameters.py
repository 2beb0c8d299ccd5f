"""What a query binds: values by placeholder, and where and when its sub-queries look. Not SQL, and never user text in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from cutaway_collector.columns import TRACES
from cutaway_collector.search import fields


@dataclass(slots=True)
class Parameters:
    """Values bound to placeholders, in the order of their use.

    database: of the tables that sub-queries read, "" for the engine's current one. start_ns, end_ns: the search's time range, the
    end excluded, 0 for none; whoever applies a range says so (see `window`), before conditions are written. of: SQL condition on
    the ids and times of the only spans that sub-queries need to look at, "" for all.
    """

    values: dict[str, Any] = field(default_factory=dict)
    database: str = ""
    start_ns: int = 0
    end_ns: int = 0
    of: str = ""

    def bind(self, value: str | int | float | list[str] | list[int], type: str) -> str:
        """The placeholder, `{p0:Type}`."""
        name = f"p{len(self.values)}"
        self.values[name] = value
        return f"{{{name}:{type}}}"

    def text(self, value: str) -> str:
        """Binds a string."""
        return self.bind(value, "String")

    def number(self, value: int | float, unit: str) -> str:
        """Binds a number in the type of a column of that unit: only then do the minmax indexes skip granules."""
        whole = unit in fields.WHOLE_UNITS and isinstance(value, int)
        return self.bind(value, "Int64") if whole else self.bind(float(value), "Float64")

    def table(self, name: str = TRACES.name) -> str:
        """The name of a table that a sub-query reads."""
        return f"`{self.database}`.`{name}`" if self.database else f"`{name}`"

    def within(self) -> str:
        """SQL condition of a sub-query over rows that have a span's ids and Timestamp: those of the time range; "1" without one."""
        ends = [f"Timestamp {operator} fromUnixTimestamp64Nano({self.bind(ns, 'Int64')})"
                for operator, ns in ((">=", self.start_ns), ("<", self.end_ns)) if ns]
        return " AND ".join([*ends, *filter(None, [self.of])]) or "1"

    @contextmanager
    def around(self, slack_ns: int) -> Iterator[None]:
        """Within it, sub-queries look that much earlier and later."""
        range_ns = self.start_ns, self.end_ns
        self.start_ns = max(1, self.start_ns - slack_ns) if self.start_ns else 0
        self.end_ns = min(2**63 - 1, self.end_ns + slack_ns) if self.end_ns else 0
        yield
        self.start_ns, self.end_ns = range_ns
