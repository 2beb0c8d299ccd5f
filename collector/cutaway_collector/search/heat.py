"""A measure against time, as counts in cells: how slow, how perplexed, how surprised the matching generations were, and when.

Not a drawing. The steps of the measure are logarithmic between its first and its ninety-ninth hundredth, so that a few extreme
values do not squeeze the others into one row; the lowest and the highest row are open, so that every value is counted.
"""

from __future__ import annotations

import math
from typing import Any, Final

from cutaway_collector.contracts import Store
from cutaway_collector.errors import QueryError
from cutaway_collector.search import fields, rows, sql
from cutaway_collector.search.counts import Extent
from cutaway_collector.search.fields import Field
from cutaway_collector.search.parameters import Parameters
from cutaway_collector.search.request import SearchRequest
from cutaway_collector.search.window import Window

MEASURES: Final = ("duration", "ttft", "perplexity", "surprisal")
"""Fields of the registry that can be drawn."""
COLUMNS_MAX: Final = 200
ROWS_MAX: Final = 40
_LOW, _HIGH = 0.01, 0.99


def heat(
    store: Store, request: SearchRequest, measure: str, matches: Extent, *, start_ns: int, step_ns: int, columns: int, steps: int,
    seconds_max: float | None = None,
) -> dict[str, Any]:
    """{"unit", "edges", "counts", "missing", "cut"}: counts[column][row], one row more than there are edges.

    Column i holds starts in [start_ns + i * step_ns, + step_ns); row j values in [edges[j-1], edges[j]), in the unit of the field.
    missing: matches in that time without a finite value. No edges, no counts: nothing to draw. Raises QueryError, StoreError.
    """
    field = _field(measure)
    if not (1 <= columns <= COLUMNS_MAX and 2 <= steps <= ROWS_MAX and step_ns > 0):
        raise QueryError(f"a heat map has 1 to {COLUMNS_MAX} columns and 2 to {ROWS_MAX} rows")
    tree = request.tree()
    span = Window(max(start_ns, matches.span.start_ns), min(start_ns + columns * step_ns, matches.span.end_ns))
    present = f"isFinite({field.expression})"
    parameters = Parameters(database=store.database)
    where = f"{span.condition(parameters)} AND {sql.condition(tree, parameters)}"
    positive = f"{present} AND {field.expression} > 0"
    text = (
        f"SELECT quantilesIf({_LOW}, {_HIGH})({field.expression}, {positive}), countIf({positive}), "
        f"{matches.tally(f'NOT ifNull({present}, 0)')} FROM {rows.table(store)} WHERE {where}"
    )
    ends = rows.run(store, text, parameters.values, tree, seconds_max=seconds_max)
    if ends.cut or not ends.rows or not ends.rows[0][1]:
        missing = int(ends.rows[0][2]) if ends.rows else 0
        return {"unit": field.unit, "edges": [], "counts": [], "missing": missing, "cut": ends.cut}
    (low, high), _, missing = ends.rows[0]
    edges = steps_between(float(low), float(high), steps - 1, whole=field.unit in fields.WHOLE_UNITS)
    parameters = Parameters(database=store.database)
    where = f"{span.condition(parameters)} AND {sql.condition(tree, parameters)} AND {present}"
    start, step = parameters.bind(start_ns, "Int64"), parameters.bind(step_ns, "Int64")
    bound = ", ".join(parameters.number(edge, field.unit) for edge in edges)
    text = (
        f"SELECT intDiv(toUnixTimestamp64Nano(Timestamp) - {start}, {step}) AS place, "
        f"arrayCount(edge -> {field.expression} >= edge, [{bound}]) AS level, {matches.tally()} "
        f"FROM {rows.table(store)} WHERE {where} GROUP BY place, level"
    )
    counts = [[0] * (len(edges) + 1) for _ in range(columns)]
    found = rows.run(store, text, parameters.values, tree, seconds_max=seconds_max)
    for place, level, count in found.rows:
        counts[int(place)][int(level)] = int(count)
    return {"unit": field.unit, "edges": edges, "counts": counts, "missing": int(missing), "cut": found.cut}


def _field(measure: str) -> Field:
    field = fields.lookup(measure) if measure in MEASURES else None
    if field is None:
        raise QueryError(f"{measure[:40]!r} is not drawn against time", hint=f"try one of {', '.join(MEASURES)}")
    return field


def steps_between(low: float, high: float, wanted: int, *, whole: bool) -> list[float] | list[int]:
    """At most `wanted` rising edges, equally far apart in logarithm, the first near `low` and the last near `high`, both above 0.

    Rounded to as few digits as keep them apart, two at least, so that a person can read them and a query can say them exactly.
    """
    if high <= low * (1 + 1e-9):
        return [max(1, round(low))] if whole else [float(f"{low:.2g}")]
    ratio = math.log(high / low) / max(1, wanted - 1)
    exact = [low * math.exp(ratio * index) for index in range(wanted)]
    for digits in range(2, 16):
        rounded = [float(f"{value:.{digits}g}") for value in exact]
        if whole:
            rounded = [float(max(1, round(value))) for value in rounded]
        if len(set(rounded)) == wanted or digits == 15:
            break
    distinct = sorted(set(rounded))
    return [int(value) for value in distinct] if whole else distinct
