"""Questions about the other spans of a trace, as SQL: `any{...}`, `all{...}`, `none{...}`, `parent{...}`, `child{...}`,
`ancestor{...}`, `descendant{...}`.

Not the condition within the braces, which is written elsewhere and comes in as a function. A span is told by 64 bits of a hash of
its ids, which is four times cheaper than the ids and wrong once in ten million searches of a million spans.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cutaway_collector.search.parameters import Parameters

SLACK_S: Final = 3600
"""How long before and after the time range of a search other spans of the trace are looked for: a trace is not cut by its edges."""
LEVELS_MAX: Final = 100
"""How far up or down a trace `ancestor` and `descendant` look."""

MEANINGS: Final[dict[str, str]] = {
    "any": "spans of traces in which at least one span matches, itself perhaps",
    "all": "spans of traces in which every span matches; one that lacks the field does not",
    "none": "spans of traces in which no span matches",
    "parent": "spans whose parent matches",
    "child": "spans of which a child matches",
    "ancestor": "spans below one that matches, at any depth",
    "descendant": "spans above one that matches, at any depth",
}
"""Kind, see language.KINDS -> what it finds."""

SELF: Final = "cityHash64(TraceId, SpanId)"
"""SQL expression: which span a row is."""
PARENT: Final = "cityHash64(TraceId, ParentSpanId)"
"""SQL expression: which span its parent is."""
_HAS_PARENT: Final = "ParentSpanId != ''"


def where(kind: str, matches: Callable[[], str], parameters: Parameters) -> str:
    """SQL condition over otel_traces. kind: one of language.KINDS. matches: writes the condition of the spans in the braces.

    A trace has what is stored of it in the time range and SLACK_S around it. `any` and `none` count the span itself; `all` is true
    of the spans of a trace of which none fails to match.
    """
    with parameters.around(SLACK_S * 10**9):
        condition = f"ifNull({matches()}, 0)"
        if kind in ("any", "none", "all"):
            wanted = f"NOT {condition}" if kind == "all" else condition
            found = f"TraceId IN ({_spans('TraceId', wanted, parameters)})"
            return f"({found})" if kind == "any" else f"(NOT {found})"
        if kind == "parent":
            return f"({_HAS_PARENT} AND {PARENT} IN ({_spans(SELF, condition, parameters)}))"
        if kind == "child":
            return f"({SELF} IN ({_spans(PARENT, f'{_HAS_PARENT} AND {condition}', parameters)}))"
        if kind == "ancestor":
            return f"({_HAS_PARENT} AND {PARENT} IN ({_reached(SELF, condition, PARENT, SELF, parameters)}))"
        start = f"{_HAS_PARENT} AND {condition}"
        return f"({SELF} IN ({_reached(PARENT, start, SELF, PARENT, parameters)}))"


def _spans(what: str, condition: str, parameters: Parameters) -> str:
    return f"SELECT {what} FROM {parameters.table()} WHERE {parameters.within()} AND {condition}"


def _reached(first: str, condition: str, here: str, there: str, parameters: Parameters) -> str:
    """SELECT of the spans that are reached from the first ones by going from `here` to `there`, level by level.

    DISTINCT at each level: a span with a thousand children is reached once, not a thousand times.
    """
    begin = _spans(f"DISTINCT {first} AS node, toUInt16(1) AS level", condition, parameters)
    edges = _spans(f"{here} AS here, {there} AS there", f"{_HAS_PARENT} AND ParentSpanId != SpanId", parameters)
    step = (f"SELECT DISTINCT edges.there AS node, toUInt16(reached.level + 1) AS level FROM ({edges}) AS edges "
            f"INNER JOIN reached ON edges.here = reached.node WHERE reached.level < {LEVELS_MAX}")
    return f"WITH RECURSIVE reached AS ({begin} UNION ALL {step}) SELECT node FROM reached"
