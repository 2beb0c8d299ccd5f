"""The search page: what matched, when it happened, and one-click ways to narrow it.

Not the query language, which is the search verb's; this page only edits the text that goes into it. Its parts stand in search_state
(the address), search_picture (counts), search_rail (facets) and search_table (rows).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from cutaway_collector import search as verb
from cutaway_collector.search.window import Window
from cutaway_collector.web import figures, query_edit, search_rail, search_table, times, urls
from cutaway_collector.web.errors import BadParameter, Missing
from cutaway_collector.web.pages import search_picture
from cutaway_collector.web.pages.search_picture import COUNT_ALL, Picture
from cutaway_collector.web.search_rail import Facet
from cutaway_collector.web.search_state import DEFAULT_FROM, State, read, unknown
from cutaway_collector.web.search_table import Choice, Heading, Hit, TraceHit
from cutaway_collector.web.site import Arguments, Site, Tab

PAGE_SECONDS: Final = 0.4
"""What rows, counts, picture and facets may take together: counts that come later, in a request of their own, are better than rows
that come late. Rows themselves may take as long as a query may."""
COUNT_SECONDS: Final = 0.15
"""What counting all matches may take of it. What takes longer mostly takes longer than all of it, and comes afterwards anyway."""
FACET_EXTENT_SECONDS: Final = 1.0
"""What a facet that is counted alone may spend on how many match in all, which tells whether repetitions have to be minded."""
VIEWS: Final = (("spans", "Spans", "Every matching span"), ("generations", "Generations", "Only spans in which a model generates"),
                ("traces", "Traces", "The traces that matching spans belong to"))
THRESHOLDS: Final[tuple[tuple[str, str], ...]] = (
    ("perplexity:>20", "perplexity > 20"),
    ("ttft:>500ms", "first token > 500 ms"),
    ("surprisal.max:>8", "a token > 8 nats"),
    ("status:Error", "errors"),
)
"""Term of the language, what the chip says."""
ATTRIBUTES_MAX: Final = 60
VALUE_CHARS_MAX: Final = 400


@dataclass(frozen=True, slots=True)
class SearchPage:
    """Everything the search template may use. `hidden` are parameters the forms must carry along.

    picture: of all matches. partial: which rows are missing and what helps, "" when none are. spark_top: nats at the top of the
    rows' curves, 0 where there are none.

    traces: rows of the view of that name, `hits` of the others.
    """

    query: str
    from_text: str
    to_text: str
    view: str
    views: tuple[Tab, ...]
    hits: tuple[Hit, ...]
    traces: tuple[TraceHit, ...]
    headings: tuple[Heading, ...]
    choices: tuple[Choice, ...]
    facets: tuple[Facet, ...]
    thresholds: tuple[Tab, ...]
    ranges: tuple[Tab, ...]
    picture: Picture
    spark_top: float
    explanation: str
    warnings: tuple[str, ...]
    partial: str
    sql: str
    bound: Mapping[str, Any]
    elapsed_ms: float
    rows_read: int
    next_url: str
    previous_url: str
    first_url: str
    all_time_url: str
    clear_url: str
    twin_url: str
    export_url: str
    store_empty: bool
    hidden: Mapping[str, str]


def request_from(site: Site, args: Arguments, now_ns: int) -> tuple[verb.SearchRequest, dict[str, str]]:
    """The URL's parameters -> the verb's SearchRequest, and those that say what is searched and how it is sorted.

    Parameters of other pages are not looked at. Raises BadParameter.
    """
    state = read(site, args)
    return state.request(now_ns), _kept(state)


def _kept(state: State) -> dict[str, str]:
    searched = ("q", "from", "to", "limit", "sort", "view", "cols")
    return {name: value for name, value in state.parameters().items() if name in searched}


def twin(site: Site, args: Arguments) -> dict[str, Any]:
    """The JSON twin: rows, next, previous, stats. Raises BadParameter, QueryError, StoreError."""
    state = read(site, args)
    request = replace(state.request(site.now_ns()), columns=search_table.asked(state))
    found = verb.find(site.store, request, rows_max=site.settings.page_rows_max, seconds_max=site.settings.query_seconds_max)
    return {**found, "stats": {**found["stats"], "warnings": [*found["stats"]["warnings"], *unknown(args)]}}


def page(site: Site, args: Arguments) -> SearchPage:
    """The page. Raises BadParameter, QueryError, StoreError."""
    now_ns, began = site.now_ns(), time.monotonic()
    state = read(site, args)
    request = state.request(now_ns)
    found = verb.find(site.store, replace(request, columns=search_table.asked(state)), rows_max=site.settings.page_rows_max,
                      seconds_max=site.settings.query_seconds_max)
    stats, rows = found["stats"], found["rows"]
    of_traces = state.view == "traces"
    sparks = {} if of_traces or "surprisal" not in search_table.shown(state) else verb.sparklines(site.store, rows)
    until = began + (site.settings.query_seconds_max if state.count == COUNT_ALL else PAGE_SECONDS)
    # A page in the middle keeps the time range of the first one: everything on it is of that range.
    whole = replace(request, start_ns=stats["start_ns"], end_ns=stats["end_ns"])
    left = until - time.monotonic()
    uncounted = verb.Extent(Window(stats["start_ns"], stats["end_ns"]), 0, 0, 0, exact=False, cut=True)
    counting = left if state.count == COUNT_ALL else min(left, COUNT_SECONDS)
    matches = verb.extent(site.store, whole, seconds_max=counting) if left >= search_rail.SECONDS_MIN else uncounted
    picture = search_picture.make(site, state, request, matches, len(rows), seconds=until - time.monotonic(), again=True)
    return SearchPage(
        query=state.q,
        from_text=state.from_,
        to_text=state.to,
        view=state.view,
        views=tuple(Tab(label, _view_url(state, name), state.view == name, said) for name, label, said in VIEWS),
        hits=() if of_traces else search_table.hits(state, rows, sparks, now_ns),
        traces=search_table.trace_hits(state, rows, now_ns) if of_traces else (),
        headings=search_table.headings(state),
        choices=search_table.choices(state),
        facets=search_rail.rail(site, state, request, matches, seconds=until - time.monotonic()),
        thresholds=tuple(
            Tab(label, state.url(q=query_edit.toggled(state.q, term)), query_edit.has(state.q, term), term)
            for term, label in THRESHOLDS
        ),
        ranges=_ranges(state),
        picture=picture,
        spark_top=search_table.spark_top(sparks) if sparks else 0.0,
        explanation=stats["explanation"] + (" Generations only." if state.view == "generations" else ""),
        warnings=(*stats["warnings"], *unknown(args)),
        partial=_partial(site, found=bool(rows)) if stats["cut"] else "",
        sql=stats["sql"],
        bound=stats["parameters"],
        elapsed_ms=stats["elapsed_ms"],
        rows_read=stats["rows_read"],
        next_url=state.url(after=found["next"], before="") if found["next"] else "",
        previous_url=state.url(before=found["previous"], after="") if found["previous"] else "",
        first_url=state.url(after="", before="") if found["previous"] else "",
        all_time_url=state.url(from_=DEFAULT_FROM, to=""),
        clear_url=state.url(q=""),
        twin_url=urls.search(state.parameters()).replace("/search", "/search.json", 1),
        export_url=urls.export(_kept(state)),
        store_empty=not rows and _store_empty(site),
        hidden={name: value for name, value in replace(state, after="", before="", count="").parameters().items()
                if name not in ("q", "from", "to")},
    )


def _view_url(state: State, view: str) -> str:
    """Traces are sorted by time and have columns of their own."""
    return state.url(view=view, sort="", cols=()) if view == "traces" else state.url(view=view)


def _partial(site: Site, *, found: bool) -> str:
    rows = "these rows match, but others are missing" if found else "nothing was found until then, but there may be matches"
    return (f"The search was stopped after {site.settings.query_seconds_max} s (query_seconds_max): {rows}. "
            "Narrow the time range, or add a term such as service:NAME.")


def facet_fragment(site: Site, args: Arguments) -> Facet:
    """One facet with its links, given a while to count. Raises BadParameter, QueryError, StoreError."""
    state, name, counted = _facet(site, args)
    return search_rail.drawn(state, name, search_rail.label_of(name), counted)


def facet_twin(site: Site, args: Arguments) -> dict[str, Any]:
    """The JSON twin of a facet. Raises BadParameter, QueryError, StoreError."""
    _, name, counted = _facet(site, args)
    return {"name": name, **counted}


def _facet(site: Site, args: Arguments) -> tuple[State, str, dict[str, Any]]:
    name = args.get("name", "").strip()
    if not name:
        raise BadParameter("a facet has a name", hint="try name=model")
    state = read(site, args)
    request = state.request(site.now_ns())
    matches = verb.extent(site.store, request, seconds_max=FACET_EXTENT_SECONDS)
    return state, name, search_rail.count(site, request, name, matches, search_rail.ALONE_SECONDS)


@dataclass(frozen=True, slots=True)
class RowPage:
    """A closer look at one row. attributes: (key, value, was cut) of the first ones; more: how many others there are."""

    attributes: tuple[tuple[str, str, bool], ...]
    more: int
    scores: tuple[Mapping[str, Any], ...]
    tokens: tuple[tuple[str, int, str], ...]
    trace_url: str


def row_page(site: Site, trace_id: str, span_id: str, args: Arguments) -> RowPage:
    """Raises BadParameter, Missing, StoreError."""
    found = row_twin(site, trace_id, span_id, args)
    attributes = sorted({**found["resource"], **found["attributes"]}.items())
    tokens = []
    for token in found["tokens"]:
        text = token["text"] if token["text"] is not None else f"#{token['id']}"
        surprisal = token["surprisal"]
        shade = figures.shade(surprisal, 2 * search_table.SURPRISAL_FULL_NATS)
        tokens.append((text, shade, "" if surprisal is None else f"{figures.number(surprisal)} nats"))
    return RowPage(
        tuple((key, value[:VALUE_CHARS_MAX], len(value) > VALUE_CHARS_MAX) for key, value in attributes[:ATTRIBUTES_MAX]),
        max(0, len(attributes) - ATTRIBUTES_MAX), tuple(found["scores"]), tuple(tokens), urls.trace(trace_id, span=span_id),
    )


def row_twin(site: Site, trace_id: str, span_id: str, args: Arguments) -> dict[str, Any]:
    """The JSON twin. Raises BadParameter, Missing, StoreError."""
    at = args.get("at", "")
    if not (at.isascii() and at.isdigit() and len(at) <= 19):
        raise BadParameter(f"at is the start of the span in nanoseconds since 1970, it is {at[:40]!r}")
    found = verb.glance(site.store, trace_id, span_id, int(at))
    if found is None:
        raise Missing("no span of these ids starts at that time", hint="open the trace instead")
    return found


def jump(site: Site, text: str) -> str:
    """Where a pasted trace id, span id or traceparent leads; "" when the text is none of these, or of nothing stored."""
    found = verb.locate(site.store, text)
    if found is None:
        return ""
    kind, *ids = found
    if kind == "gen":
        return urls.generation(ids[0])
    return urls.trace(ids[0], span=ids[1] if kind == "span" else "")


def _store_empty(site: Site) -> bool:
    return not verb.find(site.store, verb.SearchRequest(limit=1), rows_max=1)["rows"]


def _ranges(state: State) -> tuple[Tab, ...]:
    current = "" if state.to else state.from_
    return tuple(Tab(label, state.url(from_=text or DEFAULT_FROM, to=""), current == (text or DEFAULT_FROM))
                 for text, label in times.RANGES)
