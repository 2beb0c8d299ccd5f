"""The comparison page: two sides of spans, what tells them apart, and where to look next.

Not the comparing, which is the comparison flow's; this page says it in words, links and bars. Its parts stand in compare_cards,
compare_inside, compare_pair and compare_attributes, its JSON twin in compare_twin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan
from typing import Final

from cutaway_collector import search as verb
from cutaway_collector.comparison import Comparison, compare
from cutaway_collector.comparison.metrics import ERRORS, Metric
from cutaway_collector.search import fields
from cutaway_collector.search.compare import CompareRequest, Count, SideError
from cutaway_collector.search.trace import span as read_span
from cutaway_collector.search.window import Window
from cutaway_collector.web import figures, query_edit, times, urls
from cutaway_collector.web.errors import BadParameter
from cutaway_collector.web.pages import compare_attributes, compare_cards, compare_inside, compare_pair
from cutaway_collector.web.pages.compare_attributes import Own
from cutaway_collector.web.pages.compare_cards import Cards
from cutaway_collector.web.pages.compare_inside import InsideView
from cutaway_collector.web.pages.compare_pair import Pair
from cutaway_collector.web.pages.compare_words import measured, percent, q_text, signed
from cutaway_collector.web.site import Arguments, Site, Tab

QUERIES: Final = ("a", "b", "q")
TIMES: Final = ("from", "to", "afrom", "ato", "bfrom", "bto")
QUERY_CHARS_MAX: Final = 4096
PRESETS: Final[tuple[tuple[str, Mapping[str, str]], ...]] = (
    ("Errors against the rest", {"a": "is:error"}),
    ("Slow first tokens against the rest", {"a": "ttft:>1s", "q": "is:generation"}),
    ("The last day against the day before", {"afrom": "-24h", "bfrom": "-48h", "bto": "-24h"}),
    ("Two models", {"by": "model", "q": "is:generation"}),
    ("Two versions", {"by": "service.version"}),
)
"""What it says, parameters."""
METHODS: Final = {"bootstrap": "median", "newcombe": "share"}


@dataclass(frozen=True, slots=True)
class SideView:
    """One side. said: its query in English and its times. url: a search for it. sampled: spans that were read, "" for all."""

    letter: str
    query: str
    said: str
    when: str
    spans: int
    sampled: str
    url: str


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One metric as printed. tone: "", "a" or "b", the side that is larger where chance would hardly do that. help: what it is."""

    name: str
    a: str
    b: str
    a_p95: str
    b_p95: str
    difference: str
    interval: str
    q: str
    n: str
    tone: str
    method: str
    help: str


class Alone(BadParameter):
    """A field whose two most frequent values are asked for has no two."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A query that cannot be read: which, why, and what would help. side: "by" where there are no two values to compare."""

    side: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class ComparePage:
    """Everything the template may use; sides is () while nothing is asked for, and where a query cannot be read."""

    values: Mapping[str, str]
    presets: tuple[Tab, ...]
    ranges: tuple[Tab, ...]
    own_times: bool
    fault: Fault | None
    sides: tuple[SideView, ...] = ()
    notes: tuple[str, ...] = ()
    offers: tuple[Tab, ...] = ()
    metrics: tuple[MetricRow, ...] = ()
    cards: Cards | None = None
    inside: InsideView | None = None
    pair: Pair | None = None
    swap_url: str = ""
    twin_url: str = ""


def asked(args: Arguments) -> bool:
    """Whether there is a side to compare: without one the page explains itself."""
    return any(args.get(name, "").strip() for name in ("a", "b", "afrom", "ato", "bfrom", "bto"))


def request_from(args: Arguments, now_ns: int) -> CompareRequest:
    """The URL's parameters as the search verb takes them. Raises BadParameter."""
    for name in QUERIES:
        if len(args.get(name, "")) > QUERY_CHARS_MAX:
            raise BadParameter(f"{name} has at most {QUERY_CHARS_MAX} characters, it has {len(args[name])}",
                               hint="compare by fewer terms")
    moments = {name: times.parse(args.get(name, ""), now_ns, name) for name in TIMES}
    for first, last in (("from", "to"), ("afrom", "ato"), ("bfrom", "bto")):
        start, end = moments[first], moments[last]
        if start is not None and end is not None and start >= end:
            raise BadParameter(f"{first} lies before {last}, here it does not", hint="exchange the two")
    a, b, q = (args.get(name, "").strip() for name in QUERIES)
    return CompareRequest(a, b, q, *(moments[name] for name in TIMES))


def by(site: Site, args: Arguments) -> str:
    """Where `by=` leads: the comparison of the two most frequent values of that field. Raises BadParameter (Alone where there are
    no two), QueryError."""
    name, now_ns = args["by"].strip(), site.now_ns()
    wanted = request_from(args, now_ns)
    searched = verb.SearchRequest(q=wanted.q, start_ns=wanted.start_ns, end_ns=wanted.end_ns)
    field = fields.lookup(name)
    key = name if field or name.startswith(("span.", "resource.")) else query_edit.field_name(name)
    found = [str(one["value"]) for one in verb.facets(site.store, searched, [key])[key]["values"] if one["value"]]
    if len(found) < 2:
        said = f"no span here has a {name[:40]}"
        if found:
            said = f"all spans here that have a {name[:40]} have the same: {found[0][:80]}"
        raise Alone(f"There are no two to compare: {said}.", hint="widen the time range, or name the sides by queries of your own")
    kept = {key: args[key] for key in ("q", "from", "to") if args.get(key)}
    return urls.compare(kept, **{side: f"{key}:{query_edit.quoted(value)}" for side, value in zip("ab", found, strict=False)})


def page(site: Site, args: Arguments, fault: Alone | None = None) -> ComparePage:
    """The page. fault: why what was asked for cannot be compared. Raises BadParameter, StoreError; a query that cannot be read is a
    fault of the page, beside its field."""
    now_ns = site.now_ns()
    kept = {name: args[name].strip() for name in (*QUERIES, *TIMES) if args.get(name, "").strip() not in ("", "all")}
    values = {name: kept.get(name, "") for name in (*QUERIES, *TIMES)}
    presets = tuple(Tab(label, urls.compare({key: kept[key] for key in ("from", "to") if key in kept}, **parameters), False)
                    for label, parameters in PRESETS)
    own = any(values[name] for name in ("afrom", "ato", "bfrom", "bto"))
    ranges = tuple(Tab(label, urls.compare(kept, from_=text, to=""), not values["to"] and values["from"] == text)
                   for text, label in times.RANGES)
    if fault is not None:
        return ComparePage(values, presets, ranges, own, Fault("by", str(fault), fault.hint))
    request = request_from(args, now_ns)
    try:
        found = compare(site.store, request) if asked(args) else None
    except SideError as error:
        said = {"a": "A", "b": "B", "q": "What both match"}[error.side]
        return ComparePage(values, presets, ranges, own, Fault(error.side, f"{said}: {error}", error.hint))
    if found is None:
        return ComparePage(values, presets, ranges, own, None)
    pair = compare_pair.view(found, _own(site, found))
    return ComparePage(
        values, presets, ranges, own, None, _sides(found, request, kept), _notes(found), _offers(found, kept),
        tuple(map(metric_row, found.metrics)), compare_cards.view(found, kept), compare_inside.view(found), pair,
        _swapped(kept, found), urls.compare(kept, json=True))


def _own(site: Site, found: Comparison) -> Own | None:
    """What two generations say of themselves; None for other sides. Raises StoreError."""
    spans = [read_span(site.store, side.trace_id, side.span_id) for side in (found.a, found.b)] if found.tokens else []
    first, second = spans or (None, None)
    return compare_attributes.view(first, second) if first and second else None


def _swapped(kept: Mapping[str, str], found: Comparison) -> str:
    """The same with the sides exchanged; "" where B is what A leaves over."""
    if found.mode != "queries":
        return ""
    other = {"a": "b", "b": "a", "afrom": "bfrom", "bfrom": "afrom", "ato": "bto", "bto": "ato"}
    return urls.compare({other.get(key, key): value for key, value in kept.items()})


def _sides(found: Comparison, request: CompareRequest, kept: Mapping[str, str]) -> tuple[SideView, SideView]:
    b_query = {"queries": request.b, "times": request.a, "rest": ""}[found.mode]
    said = {"a": verb.explain(request.a),
            "b": "Everything else in the time range." if found.mode == "rest" else verb.explain(b_query)}
    rest = f"NOT ({request.a})" if request.a and "afrom" not in kept and "ato" not in kept else ""
    queries = {"a": request.a, "b": rest if found.mode == "rest" else b_query}
    out = []
    for letter, count, sampled, window in (("a", found.a, found.a_sampled, found.sides.a_window),
                                           ("b", found.b, found.b_sampled, found.sides.b_window)):
        whole = _both(queries[letter], request.q)
        known = letter == "a" or found.mode != "rest" or bool(rest)
        out.append(SideView(
            letter.upper(), queries[letter], said[letter], _when(window), count.spans,
            figures.count(sampled) if sampled < count.spans else "",
            urls.search(q=whole, from_=times.iso(window.start_ns), to=times.iso(window.end_ns)) if known else ""))
    return out[0], out[1]


def _both(first: str, second: str) -> str:
    """The query of what matches two queries."""
    return f"({first}) ({second})" if first and second else first or second


def _when(window: Window) -> str:
    if window.end_ns <= 1:  # no range was asked for, and nothing is stored that would give it ends
        return "all that is stored, which is nothing yet"
    first, last = ((figures.day(ns), figures.clock(ns)[:5]) for ns in (window.start_ns, window.end_ns))
    return f"{first[0]} {first[1]} to {last[1] if last[0] == first[0] else ' '.join(last)} UTC"


def _notes(found: Comparison) -> tuple[str, ...]:
    notes = []
    if found.both:
        notes.append(f"{figures.count(found.both)} spans are on both sides, which makes differences look smaller than they are.")
    few = [letter for letter, count in (("A", found.a), ("B", found.b)) if 0 < count.spans < compare_cards.VALUES_MIN]
    if few and found.tokens is None and found.spans is None:
        notes.append(f"{' and '.join(few)} {'have' if len(few) > 1 else 'has'} fewer than {compare_cards.VALUES_MIN} spans: "
                     "differences are shown, and no claim is made that they are more than chance.")
    if found.white is None and found.tokens is None and found.spans is None and found.a.generations and found.b.generations:
        notes.append("There was no time left to look into the models: choose a shorter time range.")
    return tuple(notes)


def _offers(found: Comparison, kept: Mapping[str, str]) -> tuple[Tab, ...]:
    """Generations against all kinds of spans say no more than that: offer the question that was probably meant."""

    def mixed(one: Count) -> bool:
        return one.generations * 10 < one.spans * 9

    if found.a.generations and found.b.generations and mixed(found.b) != mixed(found.a):
        query = query_edit.toggled(kept.get("q", ""), "is:generation")
        return (Tab("Compare generations alone", urls.compare(kept, q=query), False),)
    return ()


def metric_row(one: Metric) -> MetricRow:
    """A metric as printed."""
    field = fields.lookup(one.name)
    unit, name = (field.unit, field.phrase) if field else ("", "errors")

    def shown(value: float | None) -> str:
        return percent(value) if one.name == ERRORS else measured(value, unit)

    def apart(value: float) -> str:
        return f"{figures.number(100 * value)}\u202fpoints" if one.name == ERRORS else measured(value, unit)

    tone = "" if one.interval is None or not one.differs else "b" if one.interval.value > 0 else "a"
    return MetricRow(
        name, shown(one.a), shown(one.b), shown(one.a_p95) if one.a_p95 is not None else "",
        shown(one.b_p95) if one.b_p95 is not None else "", signed(one.interval.value, apart) if one.interval else figures.ABSENT,
        f"{signed(one.interval.low, apart)} to {signed(one.interval.high, apart)}" if one.interval and not isnan(one.interval.low)
        else figures.ABSENT, q_text(one.q),
        f"{figures.count(one.a_n)} and {figures.count(one.b_n)}", tone if one.interval and one.interval.value else "",
        METHODS[one.method], field.description if field else "")
