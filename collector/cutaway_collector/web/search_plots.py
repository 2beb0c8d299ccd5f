"""The picture above the results: how many over time, or a measure against time, each part of it a link that narrows the search.

Geometry and links in plain numbers; not markup and not queries. Times are cut at round moments, so that a link reads well, and each
finds exactly what its bar or cell counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final

from cutaway_collector import search as verb
from cutaway_collector.search import counts
from cutaway_collector.search.window import Window
from cutaway_collector.web import charts, figures, query_edit, times
from cutaway_collector.web.search_state import State
from cutaway_collector.web.site import Site, Tab

BARS: Final = 72
COLUMNS: Final = 32
STEPS: Final = 12
"""Each cell is a link, and an address is long: more of them would make the page heavy."""
SHADES: Final = 13
"""Of the sixteen colours of tokens the palest three do not stand out from an empty cell."""
TABS: Final = (
    ("count", "Count", "How many spans, and how many failed"), ("duration", "Duration", "How long spans took"),
    ("ttft", "First token", "Time to the first token"), ("perplexity", "Perplexity", "How unlikely answers were to the model"),
    ("surprisal", "Surprisal", "Mean surprisal of answers, in nats"),
)
"""Name in the address, what the tab says, what it is."""
_MS: Final = 1_000_000
_STEPS_S: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800,
                   2_419_200, 7_257_600)
_STEPS_NS: Final = (*(factor * 10**power for power in range(9) for factor in (1, 2, 5)), *(step * times.NS for step in _STEPS_S))


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the map: its place in steps from the left and the top, its shade 0 to 12, what it counts, and where it leads."""

    column: int
    row: int
    shade: int
    count: int
    where: str
    url: str


@dataclass(frozen=True, slots=True)
class Map:
    """A heat map of columns x rows. levels: what the left axis says at percent of the height. legend: (shade, count from) pairs."""

    columns: int
    rows: int
    cells: tuple[Cell, ...]
    levels: tuple[charts.Tick, ...]
    ticks: tuple[charts.Tick, ...]
    legend: tuple[tuple[int, int], ...]
    total: int
    missing: int
    edges: tuple[str, ...]
    starts: tuple[str, ...]
    name: str


@dataclass(frozen=True, slots=True)
class TableRow:
    """One line of the plot as a table: when or where, how many, how many failed ("" where that is not counted), and its link."""

    where: str
    count: int
    failed: str
    url: str


@dataclass(frozen=True, slots=True)
class Plot:
    """What is drawn: `histogram` with `bar_urls`, or `map`, or neither where nothing matches. start_ns, step_ns: of its columns.

    rows: the same as a table, when that is asked for. selection: hidden fields of the form that compares a selection.
    """

    tabs: tuple[Tab, ...]
    histogram: charts.Histogram | None
    bar_urls: tuple[str, ...]
    map: Map | None
    rows: tuple[TableRow, ...]
    table: bool
    other_form_url: str
    start_ns: int
    step_ns: int
    from_text: str
    to_text: str
    selection: tuple[tuple[str, str], ...]
    cut: bool


def exact(ns: int) -> str:
    """A moment as a link says it: ISO 8601 to the second or millisecond where that says all, else nanoseconds since 1970."""
    if ns % _MS:
        return str(ns)
    text = times.iso(ns)
    return f"{text[:19]}Z" if text.endswith(".000Z") else text


def steps(start_ns: int, end_ns: int, wanted: int) -> tuple[int, int, int]:
    """(start, step, number) of at most `wanted` steps of a round length from a round moment on, that cover the time."""
    for step in _STEPS_NS:
        first = start_ns // step * step
        number = -(-(end_ns - first) // step)
        if number <= wanted:
            return first, step, max(1, number)
    step = -(-(end_ns - start_ns) // (wanted - 1))
    return start_ns // step * step, step, -(-(end_ns - start_ns // step * step) // step)


def _frame(state: State, request: verb.SearchRequest, matches: verb.Extent) -> tuple[int, int, int]:
    """(start, step, number) of the columns: the time of the search, or where it is open or almost empty, that of its matches."""
    start_ns, end_ns = matches.span.start_ns, matches.span.end_ns
    if matches.count:
        first, last = matches.first_ns, matches.last_ns + 1
        # A burst in a long time should not be a single bar.
        near = (last - first) * 4 < end_ns - start_ns
        start_ns = first if near or request.start_ns is None else start_ns
        end_ns = last if near or request.end_ns is None else end_ns
    return steps(start_ns, end_ns, BARS if state.plot == "count" else COLUMNS)


def numbers(site: Site, state: State, request: verb.SearchRequest, matches: verb.Extent, *, seconds_max: float) -> dict[str, Any]:
    """What is drawn, as numbers: start_ns, step_ns, matches, exact, and what the verb counts. Without seconds nothing is counted.

    Raises QueryError, StoreError.
    """
    start_ns, step_ns, number = _frame(state, request, matches)
    limits = replace(request, start_ns=matches.span.start_ns, end_ns=matches.span.end_ns)
    if not matches.count or seconds_max <= 0:
        found: dict[str, Any] = {"counts": [], "cut": bool(matches.count)}
    elif state.plot == "count":
        found = counts.over_time(site.store, limits, matches, start_ns, step_ns, number, seconds_max=seconds_max)
    else:
        found = verb.heat(site.store, limits, state.plot, matches, start_ns=start_ns, step_ns=step_ns, columns=number, steps=STEPS,
                          seconds_max=seconds_max)
    return {"start_ns": start_ns, "step_ns": step_ns, "columns": number, "matches": matches.count, "exact": matches.exact,
            **found, "cut": found["cut"] or matches.cut}


def plot(site: Site, state: State, request: verb.SearchRequest, matches: verb.Extent, *, seconds_max: float) -> Plot:
    """The picture of these matches. Raises QueryError, StoreError."""
    found = numbers(site, state, request, matches, seconds_max=seconds_max)
    start_ns, step_ns, number = found["start_ns"], found["step_ns"], found["columns"]
    bars: charts.Histogram | None = None
    drawn: Map | None = None
    if state.plot == "count" and found["counts"]:
        bars = charts.histogram(start_ns, step_ns, found["counts"], found["errors"])
    elif "edges" in found:
        drawn = _map(state, found, matches.span, start_ns, step_ns)
    ends = [_within(matches.span, at) for at in (start_ns, start_ns + number * step_ns)]
    bar_urls = tuple(_time_url(state, matches.span, bar.start_ns, bar.end_ns) for bar in bars.bars) if bars else ()
    return Plot(
        tabs=tuple(Tab(label, state.url(plot=name), state.plot == name, said) for name, label, said in TABS),
        histogram=bars, bar_urls=bar_urls, map=drawn, rows=_rows(bars, bar_urls, drawn) if state.table else (),
        table=state.table, other_form_url=state.url(table=not state.table), start_ns=start_ns, step_ns=step_ns,
        from_text=exact(ends[0]), to_text=exact(ends[1]),
        selection=(("q", state.q), ("field", state.plot), ("start", exact(ends[0])), ("end", exact(ends[1]))), cut=found["cut"],
    )


def _within(span: Window, ns: int) -> int:
    return min(max(ns, span.start_ns), span.end_ns)


def _time_url(state: State, span: Window, start_ns: int, end_ns: int, query: str | None = None) -> str:
    """The search in this time, cut to what the page shows: a round step may reach beyond it."""
    return state.url(q=state.q if query is None else query, from_=exact(_within(span, start_ns)), to=exact(_within(span, end_ns)))


def _map(state: State, found: dict[str, Any], span: Window, start_ns: int, step_ns: int) -> Map:
    edges, cells, most = found["edges"], [], max((max(column) for column in found["counts"]), default=0)
    rows = len(edges) + 1 if edges else 0
    terms = [_term(state.plot, edges, level, found["unit"]) for level in range(rows)]
    queries = [query_edit.adding(state.q, term) for term in terms]
    for place, column in enumerate(found["counts"]):
        at = start_ns + place * step_ns
        moment = f"{figures.day(at)} {figures.clock(at)[:8]}"
        for level, count in enumerate(column):
            if count:
                where = f"{moment}, {said_of(state.plot, edges, level, found['unit'])}"
                cells.append(Cell(place, rows - 1 - level, shade(count, most), count, where,
                                  _time_url(state, span, at, at + step_ns, queries[level])))
    ticks = charts.time_ticks(start_ns, start_ns + step_ns * len(found["counts"]))
    # An edge lies between two rows; every third is enough to read by.
    levels = tuple(charts.Tick(100 * (rows - 1 - index) / rows, written(edge, found["unit"])) for index, edge in enumerate(edges)
                   if index % 3 == 0)
    # Where no match has the measure there are no cells, and nothing to say of their shades.
    least = sorted({min(most, _from_shade(level, most)) for level in range(0, SHADES, 2)}) if most else []
    legend = tuple((shade(count, most), count) for count in least)
    return Map(len(found["counts"]), rows, tuple(cells), levels, ticks, legend, sum(cell.count for cell in cells), found["missing"],
               tuple(value(edge, found["unit"]) for edge in edges),
               tuple(exact(_within(span, start_ns + place * step_ns)) for place in range(len(found["counts"]) + 1)),
               next(label for name, label, _ in TABS if name == state.plot))


def shade(count: int, most: int) -> int:
    """0 to SHADES - 1 by the logarithm of the count: one span must be seen beside a thousand."""
    return min(SHADES - 1, int((SHADES - 1) * math.log(count) / math.log(most))) if most > 1 else SHADES - 1


def _from_shade(level: int, most: int) -> int:
    return math.ceil(math.exp(math.log(most) * level / (SHADES - 1)) - 1e-9)


def value(edge: float, unit: str) -> str:
    """An edge as the query language reads it back exactly."""
    if unit == "ns":
        size, name = next((size, name) for size, name in ((10**9, "s"), (10**6, "ms"), (10**3, "us"), (1, "ns")) if edge >= size)
        return f"{(Decimal(int(edge)) / size).normalize():f}{name}"
    return f"{edge!r}{'s' if unit == 's' else ''}"


def written(edge: float, unit: str) -> str:
    """An edge for people."""
    return figures.duration(edge) if unit == "ns" else figures.seconds(edge) if unit == "s" else figures.number(edge)


def _term(field: str, edges: Sequence[float], level: int, unit: str) -> str:
    low = f"{field}:>={value(edges[level - 1], unit)}" if level else ""
    high = f"{field}:<{value(edges[level], unit)}" if level < len(edges) else ""
    return f"{low} {high}".strip()


def said_of(field: str, edges: Sequence[float], level: int, unit: str) -> str:
    """A row of the map in words."""
    if not level:
        return f"{field} below {written(edges[0], unit)}"
    if level == len(edges):
        return f"{field} of {written(edges[-1], unit)} or more"
    return f"{field} from {written(edges[level - 1], unit)} to {written(edges[level], unit)}"


def _rows(bars: charts.Histogram | None, bar_urls: Sequence[str], drawn: Map | None) -> tuple[TableRow, ...]:
    if drawn:
        return tuple(TableRow(cell.where, cell.count, "", cell.url) for cell in drawn.cells)
    if bars is None:
        return ()
    out = []
    for bar, url in zip(bars.bars, bar_urls, strict=True):
        if not bar.empty:
            when = f"{figures.day(bar.start_ns)} {figures.clock(bar.start_ns)[:8]}"
            out.append(TableRow(when, bar.count, figures.count(bar.errors), url))
    return tuple(out)
