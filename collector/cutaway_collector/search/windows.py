"""Stored window scores as the page and its JSON twin show them: a row a window and group, one bounded SELECT. Judges nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cutaway_collector.columns import WINDOW_SCORES
from cutaway_collector.contracts import Store

FILTERS: Final[Mapping[str, str]] = {
    "service": "ServiceName", "model": "ResponseModel", "route": "Route", "template": "PromptTemplate",
}
"""What rows may be narrowed by -> its column. `label` is one more: windows in which a score has it."""
_SCORE: Final = ("name", "value", "count", "label", "explanation", "examples", "scorer_version")


def windows(store: Store, *, start_ns: int | None, end_ns: int | None, filters: Mapping[str, str], label: str = "",
            limit: int) -> dict[str, Any]:
    """The newest windows first: {"windows", "truncated", "stats"}. Raises StoreError.

    A window begins in start_ns to end_ns, the end excluded, None for open. filters: names of FILTERS with the values that rows have
    exactly. A row is {"start_ns", "seconds", "tenant", "service", "model", "route", "template", "answers", "scores"}, a score
    {"name", "value", "count", "label", "explanation", "examples" (trace ids), "scorer_version"}. truncated: whether there are more
    than `limit` rows.
    """
    database = store.database.replace("\\", "\\\\").replace("`", "\\`")
    bound: dict[str, Any] = {f"f_{name}": value for name, value in filters.items()}
    where = [f"{FILTERS[name]} = {{f_{name}:String}}" for name in filters]
    for name, sign, ns in (("start", ">=", start_ns), ("end", "<", end_ns)):
        if ns is not None:
            where.append(f"toUnixTimestamp(WindowStart) * 1000000000 {sign} {{{name}:UInt64}}")
            bound[name] = ns
    having = ""
    if label:
        having, bound["label"] = " HAVING countIf(Label = {label:String}) > 0", label
    found = store.query(
        "SELECT toUnixTimestamp(WindowStart) AS start_s, WindowSeconds, TenantId, ServiceName, ResponseModel, Route, "
        "PromptTemplate, max(Answers), "
        "arraySort(groupArray((toString(ScoreName), Value, Count, toString(Label), Explanation, Examples, "
        f"toString(ScorerVersion)))) FROM `{database}`.{WINDOW_SCORES.name} FINAL WHERE {' AND '.join(where) or '1'} "
        "GROUP BY TenantId, WindowStart, WindowSeconds, ServiceName, ResponseModel, Route, PromptTemplate"
        f"{having} ORDER BY WindowStart DESC, ServiceName, ResponseModel, Route, PromptTemplate, TenantId LIMIT {int(limit) + 1}",
        bound)
    rows = [
        {"start_ns": int(start_s) * 10**9, "seconds": int(seconds), "tenant": tenant, "service": service, "model": model,
         "route": route, "template": template, "answers": int(answers),
         "scores": [dict(zip(_SCORE, score, strict=True)) for score in scores]}
        for start_s, seconds, tenant, service, model, route, template, answers, scores in found.rows
    ]
    return {"windows": rows[:limit], "truncated": len(rows) > limit,
            "stats": {"elapsed_ms": found.elapsed_s * 1000, "rows_read": found.rows_read}}
