"""Questions about the other spans of a trace, as SQL: `any{...}`, `all{...}`, `none{...}`, `parent{...}`, `child{...}`,
`ancestor{...}`, `descendant{...}`.

Not the condition within the braces, which is written elsewhere and comes in as a function. A span is told by 64 bits of a hash of
its ids, which is four times cheaper than the ids and wrong once in ten million searches of a million spans. Trees are climbed by
doubling: who knows what is one level up and what is there learns what is two levels up, then four. Every span is read twice at
most, however deep the trees are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cutaway_collector.search.parameters import Parameters

SLACK_S: Final = 3600
"""How long before and after the time range of a search other spans of the trace are looked for: a trace is not cut by its edges."""
_DOUBLINGS: Final = 7
LEVELS_MAX: Final = 2**_DOUBLINGS
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
_IS_CHILD: Final = 1 << 32
"""Bit of a packed number, which ends in a place of 32 bits: the place is a child's, who looks for its parent."""


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
            return f"({_HAS_PARENT} AND {SELF} IN ({_below(condition, parameters)}))"
        # One without a parent is below nobody: saying so spares climbing the trees of all the roots that match.
        return f"({SELF} IN ({_above(f'({_HAS_PARENT} AND {condition})', parameters)}))"


def _spans(what: str, condition: str, parameters: Parameters) -> str:
    return f"SELECT {what} FROM {parameters.table()} WHERE {parameters.within()} AND {condition}"


def _below(condition: str, parameters: Parameters) -> str:
    """SELECT of the spans that have an ancestor which matches."""
    found = f"SELECT here, up0, arrayMap(place -> matching[place], up0) AS found0 FROM ({_trees(condition, parameters)})"
    for step in range(_DOUBLINGS):
        further = f"arrayMap((one, place) -> one OR found{step}[place], found{step}, up{step})"
        found = f"SELECT here, {_further_up(step)}, {further} AS found{step + 1} FROM ({found})"
    return f"SELECT arrayJoin(arrayFilter((span, one) -> one, here, found{_DOUBLINGS})) FROM ({found})"


def _above(condition: str, parameters: Parameters) -> str:
    """SELECT of the spans that have a descendant which matches."""
    parents = "arrayDistinct(arrayFilter(place -> place > 0, arrayMap((one, place) -> if(one, place, 0), matching, up0)))"
    found = f"SELECT here, up0, {parents} AS found0 FROM ({_trees(condition, parameters)})"
    for step in range(_DOUBLINGS):
        further = f"arrayConcat(found{step}, arrayFilter(place -> place > 0, arrayMap(place -> up{step}[place], found{step})))"
        found = f"SELECT here, {_further_up(step)}, arrayDistinct({further}) AS found{step + 1} FROM ({found})"
    return f"SELECT arrayJoin(arrayMap(place -> here[place], found{_DOUBLINGS})) FROM ({found})"


def _further_up(step: int) -> str:
    """Where one comes from each place by going up twice as far as by the step before.

    Each step is a SELECT around the last: names for expressions of one SELECT are written out wherever they are used, and planning
    them took ten times as long as running them.
    """
    return f"arrayMap(place -> up{step}[place], up{step}) AS up{step + 1}"


def _trees(condition: str, parameters: Parameters) -> str:
    """SELECT of each trace in which a span matches, as arrays in the order of its spans: `here`, which span, `matching`, and
    `up0`, the place of its parent, 0 for none.

    Parents are found by sorting: spans and children that look for their parent stand in one array, each child behind the span it
    looks for. Looking each up in the array of spans would take the square of their number, of which a sender decides.
    """
    own = f"bitShiftLeft(toUInt128({SELF}), 64) + {condition}"
    parent = f"if({_HAS_PARENT}, {PARENT}, 0)"
    of_them = f"TraceId IN ({_spans('TraceId', condition, parameters)})"
    traces = _spans(f"groupArray({own}) AS owns, groupArray({parent}) AS parents", f"{of_them} GROUP BY TraceId", parameters)
    ordered = f"SELECT arraySort(owns) AS packed, arraySort((parent, one) -> one, parents, owns) AS over FROM ({traces})"
    told_apart = (
        "SELECT arrayMap(one -> toUInt64(bitShiftRight(one, 64)), packed) AS here, "
        f"arrayMap(one -> toUInt8(bitAnd(toUInt64(one), 1)), packed) AS matching, over FROM ({ordered})"
    )
    sorted_together = (
        "SELECT here, matching, arraySort(arrayConcat("
        "arrayMap((one, place) -> bitShiftLeft(toUInt128(one), 64) + place, here, arrayEnumerate(here)), "
        f"arrayMap((one, place) -> bitShiftLeft(toUInt128(one), 64) + {_IS_CHILD} + place, over, arrayEnumerate(over)))) AS met "
        f"FROM ({told_apart})"
    )
    nearest = f"arrayFill(one -> bitAnd(toUInt64(one), {_IS_CHILD}) = 0, met) AS spans"
    sought = f"SELECT here, matching, met, {nearest} FROM ({sorted_together})"
    child = f"bitShiftLeft(bitAnd(toUInt64(one), {_IS_CHILD - 1}), 32)"
    known = f"bitShiftRight(one, 64) = bitShiftRight(span, 64) AND bitAnd(toUInt64(span), {_IS_CHILD}) = 0"
    found = f"if({known}, bitAnd(toUInt64(span), {_IS_CHILD - 1}), 0)"
    pairs = f"arrayMap((one, span) -> if(bitAnd(toUInt64(one), {_IS_CHILD}) = 0, 0, {child} + {found}), met, spans)"
    return (
        f"SELECT here, matching, arrayMap(pair -> toUInt32(bitAnd(pair, {_IS_CHILD - 1})), "
        f"arraySort(arrayFilter(pair -> pair > 0, {pairs}))) AS up0 FROM ({sought})"
    )
