"""What a query binds: values by placeholder, and where and since when its sub-queries look. Not SQL, and never user text in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cutaway_collector.search import fields


@dataclass(slots=True)
class Parameters:
    """Values bound to placeholders, in the order of their use.

    database: of the tables that sub-queries read, "" for the engine's current one. start_ns: start of the search's time range, 0
    for none; whoever applies a range says so (see `window`), before conditions are written.
    """

    values: dict[str, Any] = field(default_factory=dict)
    database: str = ""
    start_ns: int = 0

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
