"""The rail beside the results: how the matches divide by a few fields and any attribute, each value a link in, out or alone.

Not the counting, which is the search verb's. Counts are those of the present search. A facet that is not counted within the time
that the page may take is counted when it comes into view, or by its link.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from cutaway_collector import search as verb
from cutaway_collector.errors import QueryError
from cutaway_collector.search.facets import CHARACTERS_MAX
from cutaway_collector.search.language import split_scope
from cutaway_collector.web import query_edit, urls
from cutaway_collector.web.search_state import State
from cutaway_collector.web.site import Site

PINNED: Final[tuple[tuple[str, str], ...]] = (
    ("model", "Model"), ("service", "Service"), ("status", "Status"), ("name", "Name"), ("operation", "Operation"),
    ("env", "Environment"), ("finish", "Finish reason"), ("error", "Error type"),
)
"""Field, heading; the ones that are columns of their own first, since they are quickly counted."""
WHEN_PRESENT: Final[tuple[tuple[str, str], ...]] = (("prompt.template", "Prompt template"), ("dataset", "Dataset"))
"""Attributes that have a place here when any match carries them."""
SECONDS_MIN: Final = 0.25
"""With less than this left no counting is begun: a sub-query that has begun is not stopped halfway."""
ALONE_SECONDS: Final = 5.0
"""What a facet may take that was asked for alone."""


@dataclass(frozen=True, slots=True)
class FacetValue:
    """One value of a facet: `share` is percent of the largest; the links let it in, keep it out, or leave nothing else.

    value: "" is the absence of any. The links are "" where the value is too long to be searched by.
    """

    value: str
    count: int
    share: float
    included: bool
    excluded: bool
    include_url: str
    exclude_url: str
    only_url: str


@dataclass(frozen=True, slots=True)
class Facet:
    """One group of the rail. counted: False while its values are not known; count_url and fragment_url then ask for them.

    other: spans with other_values values that are not listed. cut: every number may be too small. remove_url: "" for the pinned.
    fault: why it cannot be counted, "" when it can.
    """

    name: str
    label: str
    values: tuple[FacetValue, ...]
    other: int
    other_values: int
    counted: bool
    cut: bool
    count_url: str
    fragment_url: str
    remove_url: str
    fault: str = ""


def term_field(name: str) -> str:
    """The name of a facet as the query language takes it on the left of a colon."""
    scope, key = split_scope(name)
    return f"{scope}.{query_edit.field_name(key)}" if scope else query_edit.field_name(key)


def rail(site: Site, state: State, request: verb.SearchRequest, matches: verb.Extent, *, seconds: float) -> tuple[Facet, ...]:
    """The facets of a page. seconds: what all may take together before the rest is left for later. Raises StoreError."""
    present = dict(WHEN_PRESENT)
    wanted = [*PINNED, *((name, name) for name in state.facets if name not in dict(PINNED)), *WHEN_PRESENT]
    found: dict[str, Facet] = {}
    deadline = time.monotonic() + seconds
    for name, label in sorted(wanted, key=lambda entry: entry[0] != state.count):
        left = ALONE_SECONDS if name == state.count else deadline - time.monotonic()
        counted = count(site, request, name, matches, left) if left >= SECONDS_MIN else None
        # What was cut short here has another chance, with more time.
        counted = None if counted and counted["cut"] and name != state.count else counted
        if counted and name in present and not counted["values"] and name not in state.facets:
            continue
        found[name] = drawn(state, name, label, counted)
    return tuple(found[name] for name, _ in wanted if name in found)


def label_of(name: str) -> str:
    """The heading of a facet."""
    return dict((*PINNED, *WHEN_PRESENT)).get(name, name)


def count(site: Site, request: verb.SearchRequest, name: str, matches: verb.Extent, seconds: float) -> dict[str, Any]:
    """What the verb says of one facet, or {"fault": why it cannot be one}. Raises StoreError.

    matches: of the request. Where the query chooses among the values of this field, they are counted as if it did not: otherwise
    no second value could be let in, and none that is kept out could be seen.
    """
    limits = replace(request, start_ns=matches.span.start_ns, end_ns=matches.span.end_ns)
    nothing = {"values": [], "other": 0, "other_values": 0, "missing": 0, "cut": False}
    try:
        freed = query_edit.unchosen(request.q, term_field(name))
        if freed != request.q:
            limits, begun = replace(limits, q=freed), time.monotonic()
            matches = verb.extent(site.store, limits, seconds_max=seconds)
            seconds -= time.monotonic() - begun
        if not matches.count and not matches.cut:
            return nothing
        return verb.facet(site.store, limits, name, matches, seconds_max=seconds) if seconds > 0 else nothing | {"cut": True}
    except QueryError as error:
        return nothing | {"fault": f"{error}. {error.hint}".strip()}


def drawn(state: State, name: str, label: str, counted: Mapping[str, Any] | None) -> Facet:
    """One facet with its links."""
    field = term_field(name)
    values: list[FacetValue] = []
    if counted:
        most = max([entry["count"] for entry in counted["values"]] + [counted["missing"], 1])
        values = [_value(state, field, str(entry["value"]), entry["count"], most) for entry in counted["values"]]
        if counted["missing"] and counted["values"]:
            values.append(_missing(state, field, counted["missing"], most))
    remove = tuple(one for one in state.facets if one != name)
    known = counted or {"other": 0, "other_values": 0, "cut": False}
    return Facet(
        name, label, tuple(values), known["other"], known["other_values"], counted is not None, known["cut"], state.url(count=name),
        urls.search_facet(state.parameters(), name=name), state.url(facets=remove, count="") if name in state.facets else "",
        known.get("fault", ""),
    )


def _value(state: State, field: str, value: str, count: int, most: int) -> FacetValue:
    if len(value) >= CHARACTERS_MAX:
        return FacetValue(value, count, 100 * count / most, False, False, "", "", "")
    text = query_edit.quoted(value)
    return FacetValue(
        value, count, 100 * count / most, text in query_edit.values(state.q, field), query_edit.has(state.q, f"-{field}:{text}"),
        state.url(q=query_edit.including(state.q, field, text)),
        state.url(q=query_edit.toggled(query_edit.dropping(state.q, field, text), f"-{field}:{text}")),
        state.url(q=query_edit.only(state.q, field, text)),
    )


def _missing(state: State, field: str, count: int, most: int) -> FacetValue:
    there, lacking = f"has:{field}", f"-has:{field}"
    # No span has one of the values and none: the absence takes the place of a choice among them.
    let_in = query_edit.lacking(state.q, field) if query_edit.values(state.q, field) else query_edit.toggled(state.q, lacking)
    return FacetValue(
        "", count, 100 * count / most, query_edit.has(state.q, lacking), query_edit.has(state.q, there),
        state.url(q=let_in), state.url(q=query_edit.toggled(state.q, there)),
        state.url(q=query_edit.lacking(state.q, field)),
    )
