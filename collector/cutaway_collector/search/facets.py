"""Facets: how the matches of a search divide by one field or attribute, the ones that lack it included.

Not their links, which are the page's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from cutaway_collector.contracts import Store
from cutaway_collector.errors import QueryError
from cutaway_collector.search import counts, language, rows, sql
from cutaway_collector.search.counts import Extent
from cutaway_collector.search.parameters import Parameters
from cutaway_collector.search.request import SearchRequest
from cutaway_collector.search.scores import Score
from cutaway_collector.search.sql import Key

FACETS_MAX: Final = 20
VALUES_MAX: Final = 10
CHARACTERS_MAX: Final = 200
"""Values are told apart by this many characters: a prompt is not a value to choose by."""


def facets(store: Store, request: SearchRequest, names: Sequence[str] = ("model", "service", "status", "name")) -> dict[str, Any]:
    """{name: what `facet` says of it}. Raises QueryError, StoreError."""
    if len(names) > FACETS_MAX:
        raise QueryError(f"at most {FACETS_MAX} facets at once, {len(names)} were asked for")
    matches = counts.extent(store, request)
    return {name: facet(store, request, name, matches) for name in names}


def facet(store: Store, request: SearchRequest, name: str, matches: Extent, *, seconds_max: float | None = None) -> dict[str, Any]:
    """{"values": [{"value", "count"}], "other", "other_values", "missing", "cut"} of the matching spans.

    name: a field of the registry with text values, or an attribute. values: the ten most frequent, largest first. other: spans
    with other_values further values; of a field with lists a span may count for several values. missing: spans without any.
    cut: time was up, so every number may be too small. Raises QueryError, StoreError.
    """
    tree = request.tree()
    parameters = Parameters(database=store.database)
    value = _value(name, parameters)
    where = f"{matches.span.condition(parameters)} AND {sql.condition(tree, parameters)}"
    text = (
        f"SELECT value, spans, count() OVER () AS different, sum(spans) OVER () AS total FROM "
        f"(SELECT {value} AS value, {matches.tally()} AS spans FROM {rows.table(store)} WHERE {where} GROUP BY value) "
        f"ORDER BY isNull(value) DESC, spans DESC, value ASC LIMIT {parameters.bind(VALUES_MAX + 1, 'UInt64')}"
    )
    found = rows.run(store, text, parameters.values, tree, seconds_max=seconds_max)
    missing = sum(int(row[1]) for row in found.rows if row[0] is None)
    top = [{"value": row[0], "count": int(row[1])} for row in found.rows if row[0] is not None][:VALUES_MAX]
    different, total = (int(found.rows[0][2]) - bool(missing), int(found.rows[0][3])) if found.rows else (0, 0)
    return {
        "values": top, "other": total - missing - sum(entry["count"] for entry in top), "other_values": different - len(top),
        "missing": missing, "cut": found.cut,
    }


def _value(name: str, parameters: Parameters) -> str:
    """SQL Nullable(String) expression, NULL where the span lacks it."""
    scope, key = language.split_scope(name)
    target = sql.resolve(key, scope)
    if isinstance(target, Score):
        raise QueryError(f"{target.name} is a score, a facet lists text values", hint=f"try sort=-{target.name}")
    if isinstance(target, Key):
        return f"if({target.present(parameters)}, substringUTF8({target.expression(parameters)}, 1, {CHARACTERS_MAX}), NULL)"
    if target.kind == "number":
        raise QueryError(f"{target.name} is a number, a facet lists text values", hint=f"try {target.name}:>0 as a query")
    if target.kind == "list":
        items = f"arrayMap(item -> toNullable(toString(item)), arrayDistinct({target.expression}))"
        return f"arrayJoin(if(empty({target.expression}), [CAST(NULL, 'Nullable(String)')], {items}))"
    return f"nullIf(substringUTF8(toString({target.expression}), 1, {CHARACTERS_MAX}), '')"
