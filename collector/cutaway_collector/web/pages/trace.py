"""The trace page: a waterfall in nested order, what its end waited for, a filter within it, and one span opened beside it.

Not a flame graph and not live: it shows the spans that are stored now. A trace of more than `trace_spans_max` spans is drawn as
groups of one name and depth, and one of more than GROUPED_SPANS_MAX is cut; the page says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson
from markupsafe import Markup

from cutaway_collector import search as verb
from cutaway_collector.search import skeleton as bones
from cutaway_collector.search.scores import twin as twin_of_score
from cutaway_collector.search.together import both
from cutaway_collector.web import charts, minimap, times, trace_rows, trace_state, urls, waterfall
from cutaway_collector.web.errors import BadParameter, Missing
from cutaway_collector.web.keys import SHORTCUTS, Shortcut
from cutaway_collector.web.pages import span as span_page
from cutaway_collector.web.pages.span import Properties as Properties
from cutaway_collector.web.pages.span import checked_id as checked_id
from cutaway_collector.web.pages.span import properties as properties
from cutaway_collector.web.pages.span import spoken as spoken
from cutaway_collector.web.site import Arguments, Site
from cutaway_collector.web.trace_state import State
from cutaway_collector.web.waterfall import Waterfall

ROWS_WHOLE_MAX: Final = 500
"""A waterfall of so many rows is drawn on the server as a whole..."""
ROWS_A_PAGE: Final = 100
"""...a larger one in pages of these, which the script replaces by one long list."""
GROUPED_SPANS_MAX: Final = 200_000
PATH_NAMES_SHOWN: Final = 5


class Share(NamedTuple):
    """What spans of one name add to the critical path: nanoseconds and percent of it."""

    name: str
    ns: int
    percent: float


class Choice(NamedTuple):
    """One way of showing what a filter does not match."""

    key: str
    label: str
    active: bool


@dataclass(frozen=True, slots=True)
class Filter:
    """The filter of the trace. count: matching spans; warnings: of the query; explanation: the query in a sentence."""

    text: str
    choices: tuple[Choice, ...]
    count: int
    explanation: str
    warnings: tuple[str, ...]
    clear_url: str


@dataclass(frozen=True, slots=True)
class Zoom:
    """The stretch of time shown, in percent, and where the buttons lead."""

    low: float
    high: float
    in_url: str
    out_url: str
    back_url: str
    on_url: str
    all_url: str


@dataclass(frozen=True, slots=True)
class TracePage:
    """Everything the trace template may use. early: spans that begin before their parent. grouped: too large for a row a span.

    path: the critical path by name, the largest share first, with path_ns in all. worst: largest surprisal and its span's address.
    total_ns is what the bars are drawn over, one where duration_ns is none.
    frozen_from, frozen_to: the times of the search as dates, for links that last. edge: "first" or "last" where the search ends
    with this trace, as somebody who steps on is told.
    """

    trace_id: str
    title: str
    start_ns: int
    total_ns: int
    duration_ns: int
    span_count: int
    failures: int
    orphans: int
    rings: int
    early: int
    grouped: bool
    truncated: bool
    services: tuple[tuple[str, int], ...]
    models: tuple[str, ...]
    input_tokens: int | None
    output_tokens: int | None
    worst_surprisal: float | None
    worst_url: str
    energy_j: float | None
    path: tuple[Share, ...]
    path_ns: int
    path_names: int
    lines: tuple[trace_rows.Line, ...]
    row_count: int
    shows_prefill: bool
    shows_surprisal: bool
    shows_path: bool
    shows_events: bool
    first_row: int
    previous_url: str
    next_url: str
    ticks: tuple[charts.Tick, ...]
    map: minimap.MiniMap
    zoom: Zoom
    filter: Filter
    carried: dict[str, str]
    opened: span_page.Opened | None
    search: Mapping[str, str]
    back_url: str
    edge: str
    before_url: str
    after_url: str
    frozen_from: str
    frozen_to: str
    search_url: str
    twin_url: str
    skeleton_url: str
    skeleton: Markup
    keys: tuple[Shortcut, ...]


def twin(site: Site, trace_id: str) -> dict[str, Any]:
    """The JSON twin: trace_id, spans, truncated, scores. Raises BadParameter, Missing, StoreError."""
    trace_id = checked_id(trace_id, 32, "trace")
    found = verb.trace(site.store, trace_id, spans_max=site.settings.trace_spans_max)
    if found is None or not found["spans"]:
        raise _missing(site, trace_id)
    return {**found, "scores": [twin_of_score(score) for score in found["scores"]]}


def _missing(site: Site, trace_id: str) -> Missing:
    days = site.settings.retention_days
    return Missing(
        f"no span of trace {trace_id} is stored",
        hint=f"Spans show up about a second after they are sent, and are kept for {days} days.",
    )


def _tree(site: Site, trace_id: str, state: State) -> tuple[Waterfall, bool]:
    """The waterfall, and whether it is one of groups by name and depth. Raises BadParameter, Missing, StoreError."""
    most = max(GROUPED_SPANS_MAX, site.settings.trace_spans_max)
    found = bones.skeleton(site.store, trace_id, spans_max=most)
    if found is None:
        raise _missing(site, trace_id)
    if len(found) > site.settings.trace_spans_max:
        return waterfall.overview(found, frozenset(state.opened), members_max=site.settings.trace_spans_max), True
    return waterfall.build(found), False


def skeleton_twin(site: Site, trace_id: str, args: Arguments) -> dict[str, Any]:
    """All rows as columns, for the script that draws them. Raises BadParameter, Missing, StoreError."""
    trace_id = checked_id(trace_id, 32, "trace")
    state = trace_state.read(trace_id, args)
    tree, grouped = _tree(site, trace_id, state)
    matched = _places(tree, _matches(site, trace_id, state.f)) if state.f and grouped else frozenset()
    return _skeleton(tree, grouped, _stripes(site, tree), matched)


def _skeleton(
    tree: Waterfall, grouped: bool, stripes: Mapping[str, bones.Stripe], matched: frozenset[int]
) -> dict[str, Any]:
    return {
        "trace_id": tree.skeleton.trace_id, "start_ns": str(tree.start_ns), "total_ns": tree.total_ns, "grouped": grouped,
        "truncated": tree.skeleton.truncated, **trace_rows.columns(tree, stripes, matched),
    }


def _held(
    state: State, tree: Waterfall, grouped: bool, stripes: Mapping[str, bones.Stripe], matched: frozenset[int]
) -> Markup:
    """skeleton.json as text in the page: its script need not ask, and the trace is read once. None where rows are paged through."""
    if state.rows:
        return Markup("")
    text = orjson.dumps(_skeleton(tree, grouped, stripes, matched)).decode()
    return Markup(text.replace("&", "&amp;").replace("<", "&lt;"))  # noqa: S704  escaped here: text content has no quotes to end


def matches_twin(site: Site, trace_id: str, args: Arguments) -> dict[str, Any]:
    """{"f", "span_ids", "explanation", "warnings"}: what the filter `f` finds. Raises BadParameter, QueryError, StoreError."""
    trace_id = checked_id(trace_id, 32, "trace")
    text = args.get("f", "").strip()
    found = _matches(site, trace_id, text)
    return {"f": text, "span_ids": sorted(found.span_ids), "explanation": found.explanation, "warnings": list(found.warnings)}


def _matches(site: Site, trace_id: str, text: str) -> bones.Matches:
    return bones.matches(site.store, trace_id, text, spans_max=max(GROUPED_SPANS_MAX, site.settings.trace_spans_max))


def _places(tree: Waterfall, found: bones.Matches) -> frozenset[int]:
    return frozenset(span for span, span_id in enumerate(tree.skeleton.span_ids) if span_id in found.span_ids)


def _stripes(site: Site, tree: Waterfall) -> Mapping[str, bones.Stripe]:
    spans = tree.skeleton
    generated = any(tokens is not None for tokens in spans.output_tokens)
    return bones.stripes(site.store, spans) if generated else {}


def page(site: Site, trace_id: str, args: Arguments) -> TracePage:
    """The page; see trace_state for its parameters. Raises BadParameter, Missing, QueryError, StoreError."""
    trace_id = checked_id(trace_id, 32, "trace")
    state = trace_state.read(trace_id, args)
    tree, grouped = _tree(site, trace_id, state)
    spans = tree.skeleton
    chosen = _chosen(tree, state.span)
    found = _matches(site, trace_id, state.f) if state.f else None
    matched = None if found is None else _places(tree, found)
    opened = _opened_groups(tree, state, chosen if state.span else -1)
    visible = waterfall.visible(tree, opened, matched, state.show)
    first = _first_row(state, tree, visible, chosen if state.span else -1)
    whole = len(visible) <= ROWS_WHOLE_MAX
    shown = visible if whole else visible[first : first + ROWS_A_PAGE]
    (stripes, energy_j), beside = both(
        lambda: (_stripes(site, tree), bones.energy_j(site.store, spans) if any(spans.models) else None),
        lambda: span_page.read(site, trace_id, spans.span_ids[chosen], start_ns=tree.start_ns, own_ns=spans.starts_ns[chosen]))
    lines = trace_rows.lines(tree, shown, state, selected=spans.span_ids[chosen], opened=opened, first=first,
                             stripes=stripes, matched=matched)
    worst = max((span for span, nats in enumerate(spans.surprisal_maxima) if nats is not None and math.isfinite(nats)),
                key=lambda span: spans.surprisal_maxima[span] or 0.0, default=-1)
    path = _path(tree)
    now_ns = site.now_ns()
    return TracePage(
        trace_id=trace_id, title=spans.names[tree.root], start_ns=tree.start_ns, total_ns=tree.total_ns,
        duration_ns=tree.total_ns if any(spans.durations_ns) else max(spans.starts_ns) - min(spans.starts_ns),
        span_count=len(spans), failures=sum(map(bool, spans.failed)),
        orphans=len(tree.orphans), rings=len(tree.rings), early=len(tree.early), grouped=grouped,
        truncated=spans.truncated,
        services=tuple((service, number % trace_rows.HUES) for number, service in enumerate(tree.services)),
        models=tuple(dict.fromkeys(model for model in spans.models if model)),
        input_tokens=_sum(spans.input_tokens), output_tokens=_sum(spans.output_tokens),
        worst_surprisal=spans.surprisal_maxima[worst] if worst >= 0 else None,
        worst_url=state.url(span=spans.span_ids[worst]) if worst >= 0 else "",
        energy_j=energy_j,
        path=tuple(path[:PATH_NAMES_SHOWN]), path_ns=sum(share.ns for share in path), path_names=len(path),
        lines=lines, row_count=len(visible),
        shows_prefill=any(line.prefill for line in lines), shows_surprisal=any(line.stripe for line in lines),
        shows_path=any(line.path for line in lines), shows_events=any(line.ticks for line in lines),
        first_row=first if not whole else 0,
        previous_url=state.url(rows=max(0, first - ROWS_A_PAGE)) if first and not whole else "",
        next_url=state.url(rows=first + ROWS_A_PAGE) if not whole and first + ROWS_A_PAGE < len(visible) else "",
        ticks=charts.duration_ticks(tree.total_ns) if (state.low, state.high) == (0, 100) else _ticks(tree, state),
        map=minimap.draw(tree), zoom=_zoom(state),
        filter=Filter(
            state.f, _choices(state), 0 if matched is None else len(matched), found.explanation if found else "",
            found.warnings if found else (), state.url(f="", show=""),
        ),
        carried={key: value for key, value in [*state.parameters().items(), ("span", state.span)]
                 if key not in ("f", "show") and value},
        opened=beside,
        search=state.search, back_url=urls.search(state.search) if state.search else "",
        edge=args.get("end", "") if args.get("end") in ("first", "last") and state.search else "",
        before_url=urls.trace(trace_id, part="/previous", **state.search) if state.search else "",
        after_url=urls.trace(trace_id, part="/next", **state.search) if state.search else "",
        frozen_from=_frozen(state.search.get("from", ""), now_ns, "from"),
        frozen_to=_frozen(state.search.get("to", ""), now_ns, "to"),
        search_url=urls.search(q=f"trace:{trace_id}", from_="all"), twin_url=urls.trace(trace_id, part=".json"),
        skeleton_url=urls.trace(trace_id, part="/skeleton.json",
                                **({"open": ",".join(state.opened), "f": state.f} if grouped else {})),
        skeleton=_held(state, tree, grouped, stripes, matched or frozenset()),
        keys=tuple(key for key in SHORTCUTS if key.script == "trace.js"),
    )


def _sum(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _frozen(text: str, now_ns: int, name: str) -> str:
    """A time of the search as a date where it was relative to now; as it was otherwise."""
    moment = times.parse(text, now_ns, name) if text.startswith("-") or text == "now" else None
    return text if moment is None else times.iso(moment)


def _choices(state: State) -> tuple[Choice, ...]:
    labels = {"dim": "Others fade", "with": "Matches and what they stand under", "alone": "Matches alone"}
    return tuple(Choice(key, labels[key], key == state.show) for key in trace_state.SHOWS)


def _path(tree: Waterfall) -> list[Share]:
    total: dict[str, int] = {}
    for span, start_ns, end_ns in tree.path:
        name = tree.skeleton.names[span]
        total[name] = total.get(name, 0) + end_ns - start_ns
    whole = max(1, sum(total.values()))
    return sorted((Share(name, ns, 100 * ns / whole) for name, ns in total.items()), key=lambda share: -share.ns)


def _ticks(tree: Waterfall, state: State) -> tuple[charts.Tick, ...]:
    """Round times from the start of the trace within the stretch shown."""
    share = (state.high - state.low) / 100
    size_ns = charts.duration_step(tree.total_ns * share)
    begin_ns = tree.total_ns * state.low / 100
    marks = range(math.ceil(begin_ns / size_ns), math.floor((begin_ns + tree.total_ns * share) / size_ns) + 1)
    places = ((100 * (mark * size_ns - begin_ns) / (tree.total_ns * share), mark * size_ns) for mark in marks)
    return tuple(charts.Tick(at, charts.duration_label(ns)) for at, ns in places if at <= 96)


def _zoom(state: State) -> Zoom:
    size, middle = state.high - state.low, (state.high + state.low) / 2

    def to(low: float, high: float) -> str:
        width = min(high - low, 100.0)
        low = min(max(low, 0.0), 100.0 - width)
        full = width >= 100.0
        return state.url(zoom="" if full else trace_state.zoom_text(low, low + width))

    least = trace_state.ZOOM_LEAST_PERCENT * 4
    return Zoom(
        state.low, state.high, to(middle - max(size / 4, least), middle + max(size / 4, least)), to(middle - size, middle + size),
        to(state.low - size / 2, state.high - size / 2), to(state.low + size / 2, state.high + size / 2), to(0, 100),
    )


def _chosen(tree: Waterfall, wanted: str) -> int:
    """The span asked for, else the first failed one, else the root: a page that opens on nothing wastes half its width."""
    spans = tree.skeleton
    if wanted:
        if wanted not in spans.span_ids:
            raise Missing(f"span {wanted[:40]!r} is not part of this trace", hint="Open the trace without `span` to see all of it.")
        return spans.span_ids.index(wanted)
    return next((span for span, failed in enumerate(spans.failed) if failed), tree.root)


def _opened_groups(tree: Waterfall, state: State, chosen: int) -> frozenset[int]:
    """Groups that are open: those named in the address, and those around the span that was asked for."""
    named = frozenset(state.opened)
    first = (tree.skeleton.span_ids[group.members[0]] for group in tree.groups)
    opened = {number for number, span_id in enumerate(first) if span_id in named}
    row = tree.entries.index(chosen) if chosen >= 0 and chosen in tree.entries else -1
    while row >= 0:
        if tree.entries[row] < 0:
            opened.add(~tree.entries[row])
        row = tree.parents[row]
    return frozenset(opened)


def _first_row(state: State, tree: Waterfall, visible: Sequence[int], chosen: int) -> int:
    if state.rows:
        text = state.rows
        if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) >= max(1, len(visible)):
            raise BadParameter(
                f"rows is a number below {len(visible)}, it is {text[:20]!r}", hint="leave it out to start at the top"
            )
        return int(text)
    place = next((place for place, row in enumerate(visible) if tree.entries[row] == chosen), 0) if chosen >= 0 else 0
    return place // ROWS_A_PAGE * ROWS_A_PAGE
