"""The SQL of the dashboards: one text a panel, over the tables of the collector's schema. No Grafana here but its macros.

Macros of the ClickHouse plugin: $__timeFilter(column), $__timeInterval(column), $__interval_s, $__conditionalAll(SQL, $variable).
Tests expand them and run every text on a real engine.
"""

from __future__ import annotations

from typing import Final

DATABASES: Final = "SELECT DISTINCT database FROM system.tables WHERE name = 'otel_traces' ORDER BY database"

SERVICE: Final = "$__conditionalAll(ServiceName IN (${service:singlequote}), $service)"
MODEL: Final = "$__conditionalAll(GenAiModel IN (${model:singlequote}), $model)"
TRACES: Final = "FROM `${database}`.otel_traces\nWHERE $__timeFilter(Timestamp)\n  AND GenAiOperation != ''"
GENERATIONS: Final = f"{TRACES}\n  AND {SERVICE}\n  AND {MODEL}"
"""Generations of the chosen time, services and models: a span with a gen_ai operation is one."""

_TIME: Final = "SELECT $__timeInterval(Timestamp) AS time"
_BY_TIME: Final = "GROUP BY time\nORDER BY time"


def choices(column: str, condition: str = "") -> str:
    """Values of a column for a drop-down. Names with a backslash are left out: Grafana's quoting does not survive them."""
    more = f"\n  AND {condition}" if condition else ""
    return (f"SELECT DISTINCT {column} {TRACES}{more}\n  AND {column} != '' AND position({column}, char(92)) = 0\n"
            f"ORDER BY {column}\nLIMIT 500")


def over_time(*values: str, where: str = "") -> str:
    """One line a value, each "expression AS name"."""
    more = f"\n  AND {where}" if where else ""
    return f"{_TIME},\n  " + ",\n  ".join(values) + f"\n{GENERATIONS}{more}\n{_BY_TIME}"


def over_time_by_model(value: str) -> str:
    """One line a model."""
    return f"{_TIME},\n  GenAiModel AS model,\n  {value}\n{GENERATIONS}\nGROUP BY time, model\nORDER BY time, model"


def single(value: str, where: str = "") -> str:
    """One number."""
    more = f"\n  AND {where}" if where else ""
    return f"SELECT {value}\n{GENERATIONS}{more}"


def quantiles(column: str, *levels: float) -> tuple[str, ...]:
    """"quantile(0.95)(column) AS p95", one a level."""
    return tuple(f"quantile({level})({column}) AS p{level * 100:.0f}" for level in levels)


def top(columns: list[str], order: str, where: str) -> str:
    """The twenty generations that come first, with the ids that the links need."""
    wanted = ["Timestamp AS Started", "ServiceName AS Service", "GenAiModel AS Model", *columns, "TraceId", "SpanId"]
    return ("SELECT\n  " + ",\n  ".join(wanted) + f"\n{GENERATIONS}\n  AND {where}\nORDER BY {order}\nLIMIT 20")


def scores_over_time(name: str) -> str:
    """Quantiles of one score of the collector. FINAL, so that a score computed again counts once."""
    return (f"{_TIME},\n  quantile(0.5)(Value) AS p50,\n  quantile(0.95)(Value) AS p95\n"
            f"FROM `${{database}}`.gen_ai_scores FINAL\nWHERE $__timeFilter(Timestamp)\n  AND ScoreName = '{name}'\n"
            f"  AND {SERVICE}\n  AND {MODEL}\n{_BY_TIME}")
