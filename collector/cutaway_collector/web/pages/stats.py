"""The results view of `| stats ...`: a table of figures and, with `every`, a line for each group. Also where `| compare` leads.

Not the figures (the search verb's) and not rows of spans (the search page's).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from cutaway_collector import search as verb
from cutaway_collector.search import language
from cutaway_collector.search.stats import Column, Table
from cutaway_collector.web import charts, figures, query_edit, times, urls
from cutaway_collector.web.errors import BadParameter
from cutaway_collector.web.site import Arguments, Site, Tab

ABSENT: Final = "(missing)"
"""What a group is called whose spans lack the field."""
EXAMPLES: Final = ("| stats count(), p95(duration) by model", "| stats count(), p50(ttft) by service every 1h",
                   "is:error | stats count() by name | sort -count()")
LINE_WIDTH: Final = 240
LINE_HEIGHT: Final = 36


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell. raw: the number in the unit of its column, for its tooltip; "" for text."""

    text: str
    url: str = ""
    raw: str = ""
    figure: bool = False
    time: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One group's figure over time, on a canvas LINE_WIDTH x LINE_HEIGHT.

    path: of an SVG path, broken where there is no value. dots: values without a neighbour. said: the line in words.
    """

    path: str
    dots: tuple[tuple[float, float], ...]
    least: str
    most: str
    said: str


@dataclass(frozen=True, slots=True)
class Group:
    """One row of the lines: the names of the group, a link to its spans, a line a figure."""

    name: str
    url: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class StatsPage:
    """Everything the template may use. headings: name, unit, whether numbers stand below. times: ticks of every line."""

    query: str
    from_text: str
    to_text: str
    ranges: tuple[Tab, ...]
    explanation: str
    warnings: tuple[str, ...]
    headings: tuple[tuple[str, str, bool], ...]
    rows: tuple[tuple[Cell, ...], ...]
    groups: tuple[Group, ...]
    figures: tuple[str, ...]
    ticks: tuple[charts.Tick, ...]
    width: int
    height: int
    cut: str
    matched: int
    exact: bool
    sql: str
    bound: Mapping[str, Any]
    elapsed_ms: float
    rows_read: int
    spans_url: str
    twin_url: str
    examples: tuple[tuple[str, str], ...]


def wanted(args: Arguments) -> bool:
    """Whether the query asks for figures and not for rows. Raises QueryError."""
    return language.read(args.get("q", "")).stats is not None


def compared(args: Arguments, *, json: bool = False) -> str:
    """Where `| compare` leads, "" for a query without it. Raises QueryError."""
    query = language.read(args.get("q", ""))
    if query.compare is None:
        return ""
    kept = {key: args[key] for key in ("from", "to") if args.get(key) not in (None, "", "all")}
    return urls.compare(kept, a=query.text, b=query.compare.other or "", json=json)


def _asked(site: Site, args: Arguments) -> tuple[Table, dict[str, str]]:
    now_ns = site.now_ns()
    start, end = (times.parse(args.get(name, ""), now_ns, name) for name in ("from", "to"))
    if start is not None and end is not None and start >= end:
        raise BadParameter("from lies before to, here it does not", hint="exchange the two")
    query = args.get("q", "").strip()
    kept = {"q": query} | {key: args[key] for key in ("from", "to") if args.get(key) not in (None, "", "all")}
    return verb.stats(site.store, verb.SearchRequest(q=query, start_ns=start, end_ns=end)), kept


def twin(site: Site, args: Arguments) -> dict[str, Any]:
    """The JSON twin: {"columns": [{"name", "kind", "unit"}], "rows": [[...]], "cut", "stats"}. Raises as `page`."""
    found, _ = _asked(site, args)
    whole = asdict(found)
    columns, rows, cut = whole.pop("columns"), whole.pop("rows"), whole.pop("cut")
    return {"columns": columns, "rows": rows, "cut": cut, "stats": whole}


def page(site: Site, args: Arguments) -> StatsPage:
    """The page. Raises BadParameter, QueryError, StoreError."""
    found, kept = _asked(site, args)
    where = language.read(kept["q"]).text
    links = _Links(where, {key: kept[key] for key in ("from", "to") if key in kept}, found.columns)
    first = min((row[0] for row in found.rows), default=0) if found.every_ns else 0
    last = max((row[0] for row in found.rows), default=0) + found.every_ns if found.every_ns else 0
    return StatsPage(
        query=kept["q"], from_text=args.get("from", ""), to_text=kept.get("to", ""),
        ranges=tuple(Tab(label, urls.search(kept, from_=text, to=""), not kept.get("to") and kept.get("from", "") == text)
                     for text, label in times.RANGES),
        explanation=found.explanation, warnings=found.warnings,
        headings=tuple((column.name, _unit(column), column.kind == "figure") for column in found.columns),
        rows=tuple(tuple(links.cell(column, value, row) for column, value in zip(found.columns, row, strict=True))
                   for row in found.rows),
        groups=_groups(found, links, first, last),
        figures=tuple(column.name for column in found.columns if column.kind == "figure"),
        ticks=charts.time_ticks(first, last, 4) if found.every_ns else (), width=LINE_WIDTH, height=LINE_HEIGHT,
        cut=found.cut, matched=found.matched, exact=found.exact, sql=found.sql, bound=found.parameters,
        elapsed_ms=found.elapsed_ms, rows_read=found.rows_read,
        spans_url=urls.search(kept, q=where),
        twin_url=urls.search(kept).replace("/search", "/search.json", 1),
        examples=tuple((example, urls.search(kept, q=f"{where} {example}".strip() if example.startswith("|") else example))
                       for example in EXAMPLES),
    )


def _unit(column: Column) -> str:
    return "" if column.unit in ("ns", "s", "bytes") else column.unit


def _figure(value: Any, unit: str) -> str:
    if unit == "ns":
        return figures.duration(value)
    if unit == "s":
        return figures.seconds(value)
    return figures.number(value)


class _Links:
    """Cells of a table, whose groups lead to their spans."""

    def __init__(self, where: str, kept: Mapping[str, str], columns: Sequence[Column]) -> None:
        # An OR at top level would swallow the term that is added.
        self.where = f"({where})" if "OR" in query_edit.terms(where) else where
        self.kept = kept
        self.columns = columns

    def of(self, row: Sequence[Any]) -> str:
        """The search for the spans of a row's group."""
        terms = [self.where]
        for column, value in zip(self.columns, row, strict=True):
            if column.kind == "group":
                terms.append(f"-has:{column.name}" if value is None else f"{column.name}:{query_edit.quoted(str(value))}")
        return urls.search(self.kept, q=" ".join(filter(None, terms)))

    def cell(self, column: Column, value: Any, row: Sequence[Any]) -> Cell:
        """One cell."""
        if column.kind == "time":
            return Cell(f"{figures.day(value)} {figures.clock(value)[:8]}", time=times.iso(value))
        if column.kind == "group":
            return Cell(ABSENT if value is None else str(value), self.of(row))
        return Cell(_figure(value, column.unit), raw="" if value is None else f"{value} {column.unit}".strip(), figure=True)


def _groups(found: Table, links: _Links, first: int, last: int) -> tuple[Group, ...]:
    """The lines of a table with intervals, in the order in which groups first appear, the largest of the first figure above."""
    if not found.every_ns:
        return ()
    names = [index for index, column in enumerate(found.columns) if column.kind == "group"]
    series: dict[tuple[Any, ...], list[Sequence[Any]]] = {}
    for row in found.rows:
        series.setdefault(tuple(row[index] for index in names), []).append(row)
    figure = len(names) + 1
    ordered = sorted(series.items(), key=lambda item: -sum(row[figure] or 0 for row in item[1]))
    groups = []
    for key, rows in ordered:
        lines = tuple(_line(rows, index, column, first, last, found.every_ns) for index, column in enumerate(found.columns)
                      if column.kind == "figure")
        groups.append(Group(" · ".join(ABSENT if part is None else str(part) for part in key) or "all", links.of(rows[0]), lines))
    return tuple(groups)


def _line(rows: Sequence[Sequence[Any]], index: int, column: Column, first: int, last: int, every_ns: int) -> Line:
    """From 0, or from the smallest where that is below 0, to the largest of its own values."""
    points = [(int(row[0]), float(row[index])) for row in rows if row[index] is not None]
    if not points:
        return Line("", (), "", "", f"{column.name}: nothing")
    low, high = min(0.0, min(value for _, value in points)), max(value for _, value in points)
    scale = (LINE_HEIGHT - 8) / ((high - low) or 1)
    path, dots, before = [], [], None
    for position, (at, value) in enumerate(points):
        x = round((at - first + every_ns / 2) / ((last - first) or 1) * LINE_WIDTH, 1)
        y = round(LINE_HEIGHT - 4 - (value - low) * scale, 1)
        alone = before != at - every_ns and (position + 1 == len(points) or points[position + 1][0] != at + every_ns)
        if alone:
            dots.append((x, y))
        path.append(f"{'L' if before == at - every_ns else 'M'}{x} {y}")
        before = at
    least, most = (_figure(pick(value for _, value in points), column.unit) for pick in (min, max))
    return Line("".join(path), tuple(dots), least, most,
                f"{column.name}: {len(points)} values from {least} to {most}, the last {_figure(points[-1][1], column.unit)}")
