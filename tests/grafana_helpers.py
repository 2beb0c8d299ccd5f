"""Grafana's part, as much as the dashboards use: variable formats and the ClickHouse plugin's macros, expanded to plain SQL.

After the plugin's own definitions (pkg/macros/macros.go, and $__conditionalAll of its frontend). An unknown macro or variable is an
error, where Grafana would silently send it on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

ALL = "$__all"


@dataclass(frozen=True)
class View:
    """What the person looks at: a time range in unix seconds, an interval, and the variables (a list where several are chosen)."""

    start_s: int
    end_s: int
    interval_s: int
    variables: Mapping[str, str | list[str]]


def expand(sql: str, view: View) -> str:
    """The SQL that the plugin would send. Raises ValueError for a macro or variable that does not exist."""
    sql = _conditional_all(sql, view)
    sql = re.sub(r"\$\{(\w+)(?::(\w+))?\}", lambda found: _variable(found[1], found[2] or "", view), sql)
    sql = re.sub(r"\$__timeFilter\((\w+)\)",
                 rf"\1 >= toDateTime({view.start_s}) AND \1 <= toDateTime({view.end_s})", sql)
    sql = re.sub(r"\$__timeInterval\((\w+)\)", rf"toStartOfInterval(toDateTime(\1), INTERVAL {view.interval_s} second)", sql)
    sql = re.sub(r"\$__interval_s\b", str(view.interval_s), sql)
    if "$" in sql:
        raise ValueError(f"a macro or variable that nobody expands: {sql[sql.index('$'):][:40]}")
    return sql


def _conditional_all(sql: str, view: View) -> str:
    """$__conditionalAll(condition, $variable): the condition, or 1=1 while the variable says All."""
    start = sql.find("$__conditionalAll(")
    if start < 0:
        return sql
    depth, at = 0, sql.index("(", start)
    for end in range(at, len(sql)):
        depth += {"(": 1, ")": -1}.get(sql[end], 0)
        if depth == 0:
            break
    else:
        raise ValueError("a parenthesis of $__conditionalAll is not closed")
    condition, _, name = sql[at + 1 : end].rpartition(",")
    chosen = view.variables[name.strip().removeprefix("$")]
    kept = "1=1" if chosen in (ALL, [ALL], "") else condition
    return _conditional_all(sql[:start] + kept + sql[end + 1 :], view)


def _variable(name: str, format: str, view: View) -> str:
    if name not in view.variables:
        raise ValueError(f"the dashboard has no variable {name}")
    value = view.variables[name]
    values = [value] if isinstance(value, str) else list(value)
    if format == "singlequote":
        return ",".join("'" + one.replace("'", "\\'") + "'" for one in values)
    if format in ("", "raw") and len(values) == 1:
        return values[0]
    raise ValueError(f"the format {format!r} of {name} with {len(values)} values is not one that we use")
