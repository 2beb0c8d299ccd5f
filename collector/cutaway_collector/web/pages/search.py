"""The search page: what matched, when it happened, and one-click ways to narrow it.

Not the query language, which is the search verb's; this page only edits the text that goes into it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from cutaway_collector import search as verb
from cutaway_collector.search.language import split_scope
from cutaway_collector.search.scores import SCOPE
from cutaway_collector.web import charts, figures, query_edit, times, urls
from cutaway_collector.web.errors import BadParameter
from cutaway_collector.web.site import Arguments, Site, Tab

DEFAULT_FROM: Final = "all"
"""Everything stored: a link says all it needs, and nobody wonders where yesterday's demo went."""
LIMIT_DEFAULT: Final = 50
QUERY_CHARS_MAX: Final = 4096
BUCKETS: Final = 72
CLOSER_LOOKS_MAX: Final = 3
FACETS: Final[tuple[tuple[str, str], ...]] = (("model", "Model"), ("service", "Service"), ("status", "Status"), ("name", "Name"))
FACET_VALUES_MAX: Final = 8
THRESHOLDS: Final[tuple[tuple[str, str], ...]] = (
    ("perplexity:>20", "perplexity > 20"),
    ("ttft:>500ms", "first token > 500 ms"),
    ("surprisal.max:>8", "a token > 8 nats"),
    ("status:error", "errors"),
)
"""Term of the language, what the chip says."""
COLUMNS: Final[tuple[tuple[str, str, str], ...]] = (
    ("start", "Time", ""),
    ("", "Span", ""),
    ("", "Model", ""),
    ("duration", "Duration", "num"),
    ("tokens.out", "Tokens", "num"),
    ("ttft", "First token", "num"),
    ("", "Tokens/s", "num"),
    ("perplexity", "Perplexity", "num"),
    ("surprisal", "Surprisal", "num"),
)
"""Sort key ("" for not sortable), heading, class."""
SURPRISAL_FULL_NATS: Final = 4.0
"""Mean surprisal at which a row's colour chip is at its end: above it a model hardly knows what it says."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One row of the table: the stored values, the name without the model that has a column of its own, where the row leads, its
    duration bar in percent, its colour class (-1: none), and its date ("" for today)."""

    row: Mapping[str, Any]
    name: str
    url: str
    trace_url: str
    bar: float
    heat: int
    ago: str
    date: str


@dataclass(frozen=True, slots=True)
class FacetValue:
    """One value of a facet: `share` is percent of the largest; the links put the term in, or its opposite, or take it out."""

    value: str
    count: int
    share: float
    included: bool
    excluded: bool
    include_url: str
    exclude_url: str


@dataclass(frozen=True, slots=True)
class Facet:
    """One group of the rail."""

    name: str
    label: str
    values: tuple[FacetValue, ...]


@dataclass(frozen=True, slots=True)
class Heading:
    """One column heading; `url` sorts by it ("" when it cannot), `direction` is "ascending", "descending" or ""."""

    label: str
    css: str
    url: str
    direction: str


@dataclass(frozen=True, slots=True)
class SearchPage:
    """Everything the search template may use. `hidden` are parameters the form must carry along."""

    query: str
    from_text: str
    to_text: str
    hits: tuple[Hit, ...]
    headings: tuple[Heading, ...]
    facets: tuple[Facet, ...]
    thresholds: tuple[Tab, ...]
    ranges: tuple[Tab, ...]
    histogram: charts.Histogram
    bar_urls: tuple[str, ...]
    explanation: str
    warnings: tuple[str, ...]
    sql: str
    elapsed_ms: float
    rows_read: int
    next_url: str
    first_url: str
    all_time_url: str
    clear_url: str
    twin_url: str
    store_empty: bool
    hidden: Mapping[str, str]
    otlp_grpc: str
    otlp_http: str


def request_from(site: Site, args: Arguments, now_ns: int) -> tuple[Any, dict[str, str]]:
    """The URL's parameters -> the verb's SearchRequest and the cleaned parameters. Raises BadParameter."""
    query = args.get("q", "").strip()
    if len(query) > QUERY_CHARS_MAX:
        raise BadParameter(
            f"q has at most {QUERY_CHARS_MAX} characters, it has {len(query)}", hint="search for fewer terms at once"
        )
    from_text = args.get("from", DEFAULT_FROM)
    start = times.parse(from_text, now_ns, "from")
    end = times.parse(args.get("to", ""), now_ns, "to")
    if start is not None and end is not None and start >= end:
        raise BadParameter("from lies before to, here it does not", hint="exchange the two")
    limit = _limit(args.get("limit", ""), site.settings.page_rows_max)
    kept = {key: args[key] for key in ("q", "from", "to", "limit", "sort") if args.get(key)}
    if kept.get("to") == "all":  # says what its absence says
        del kept["to"]
    kept["q"] = query
    request = verb.SearchRequest(
        q=query, start_ns=start, end_ns=end, limit=limit, after=args.get("after") or None, sort=args.get("sort", "")
    )
    return request, {key: value for key, value in kept.items() if value}


def _limit(text: str, rows_max: int) -> int:
    if not text:
        return min(LIMIT_DEFAULT, rows_max)
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not 1 <= int(text) <= rows_max:
        raise BadParameter(f"limit is a number from 1 to {rows_max}, it is {text[:20]!r}", hint="page through with `after` instead")
    return int(text)


def twin(site: Site, args: Arguments) -> dict[str, Any]:
    """The JSON twin: rows, next, stats. Raises BadParameter, QueryError, StoreError."""
    request, _ = request_from(site, args, site.now_ns())
    return verb.find(site.store, request, rows_max=site.settings.page_rows_max)


def page(site: Site, args: Arguments) -> SearchPage:
    """The page. Raises BadParameter, QueryError, StoreError."""
    now_ns = site.now_ns()
    request, kept = request_from(site, args, now_ns)
    found = verb.find(site.store, request, rows_max=site.settings.page_rows_max)
    drawn = _drawn(site, request)
    facets = verb.facets(site.store, request, [name for name, _ in FACETS])
    stats = found["stats"]
    histogram = charts.histogram(drawn["start_ns"], drawn["bucket_ns"], drawn["counts"], drawn["errors"])
    query = kept.get("q", "")
    return SearchPage(
        query=query,
        from_text=args.get("from", DEFAULT_FROM),
        to_text=kept.get("to", ""),
        hits=_hits(found["rows"], now_ns),
        headings=_headings(kept),
        facets=_facets(facets, kept),
        thresholds=tuple(
            Tab(label, urls.search(kept, q=query_edit.toggled(query, term)), query_edit.has(query, term), term)
            for term, label in THRESHOLDS
        ),
        ranges=_ranges(kept),
        histogram=histogram,
        bar_urls=tuple(urls.search(kept, from_=times.iso(bar.start_ns), to=times.iso(bar.end_ns)) for bar in histogram.bars),
        explanation=stats["explanation"],
        warnings=tuple(stats["warnings"]),
        sql=stats["sql"],
        elapsed_ms=stats["elapsed_ms"],
        rows_read=stats["rows_read"],
        next_url=urls.search(kept, after=found["next"]) if found["next"] else "",
        first_url=urls.search(kept) if args.get("after") else "",
        all_time_url=urls.search(kept, from_="all", to=""),
        clear_url=urls.search(kept, q=""),
        twin_url=urls.search(kept, after=args.get("after")).replace("/search", "/search.json", 1),
        store_empty=not found["rows"] and _store_empty(site),
        hidden={key: kept[key] for key in ("limit", "sort") if key in kept},
        otlp_grpc=site.settings.otlp_grpc,
        otlp_http=site.settings.otlp_http,
    )


def _drawn(site: Site, request: Any) -> dict[str, Any]:
    """The histogram, drawn again closer when the matches fill less than a quarter of it: a burst should not be a single bar."""
    drawn = verb.histogram(site.store, request, BUCKETS)
    for _ in range(CLOSER_LOOKS_MAX):
        filled = [index for index, count in enumerate(drawn["counts"]) if count]
        if not filled or (filled[-1] - filled[0] + 1) * 4 > BUCKETS or drawn["bucket_ns"] < 1000:
            break
        first = drawn["start_ns"] + filled[0] * drawn["bucket_ns"]
        behind = drawn["start_ns"] + (filled[-1] + 1) * drawn["bucket_ns"]
        drawn = verb.histogram(site.store, replace(request, start_ns=first, end_ns=behind), BUCKETS)
    return drawn


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
    anything = verb.SearchRequest(q="", start_ns=None, end_ns=None, limit=1, after=None, sort="")
    return not verb.find(site.store, anything, rows_max=1)["rows"]


def _hits(rows: list[dict[str, Any]], now_ns: int) -> tuple[Hit, ...]:
    # A bar as long as the table's third quartile is three quarters full: one straggler must not shrink all others to dots.
    durations = sorted(row["duration_ns"] for row in rows)
    full = durations[len(durations) * 3 // 4] * 4 / 3 if durations else 0
    return tuple(
        Hit(
            row,
            str(row["name"]).removesuffix(f" {row['model']}"),
            _target(row),
            urls.trace(row["trace_id"], span=row["span_id"]),
            min(100.0, max(1.5, 100 * row["duration_ns"] / (full or 1))),
            _heat(row["surprisal_mean"]),
            figures.ago(row["start_ns"], now_ns),
            figures.day_unless_today(row["start_ns"], now_ns),
        )
        for row in rows
    )


def _target(row: Mapping[str, Any]) -> str:
    """A generation opens on its tokens, any other span in its trace."""
    if row["output_tokens"] is not None and row["span_id"]:
        return urls.generation(row["span_id"])
    return urls.trace(row["trace_id"], span=row["span_id"])


def _heat(surprisal_mean: float | None) -> int:
    if surprisal_mean is None or surprisal_mean != surprisal_mean:
        return -1
    return max(0, min(15, int(surprisal_mean / SURPRISAL_FULL_NATS * 16)))


def _headings(kept: Mapping[str, str]) -> tuple[Heading, ...]:
    current = kept.get("sort", "") or "-start"
    out = []
    sorted_by = current.removeprefix("-")
    scope, score = split_scope(sorted_by)
    for key, label, css in (*COLUMNS, *([(sorted_by, score, "num")] if scope == SCOPE else [])):
        active = key and current.lstrip("-") == key
        flipped = key if current == f"-{key}" else f"-{key}"
        direction = "" if not active else "descending" if current.startswith("-") else "ascending"
        url = urls.search(kept, sort="" if flipped == "-start" else flipped) if key else ""
        out.append(Heading(label, css, url, direction))
    return tuple(out)


def _facets(found: Mapping[str, dict[str, Any]], kept: Mapping[str, str]) -> tuple[Facet, ...]:
    query = kept.get("q", "")
    out = []
    for name, label in FACETS:
        entries = [entry for entry in found[name]["values"]][:FACET_VALUES_MAX]
        most = max((entry["count"] for entry in entries), default=0) or 1
        values = []
        for entry in entries:
            term = f"{name}:{query_edit.quoted(str(entry['value']))}"
            values.append(
                FacetValue(
                    str(entry["value"]),
                    entry["count"],
                    100 * entry["count"] / most,
                    query_edit.has(query, term),
                    query_edit.has(query, f"-{term}"),
                    urls.search(kept, q=query_edit.toggled(query, term)),
                    urls.search(kept, q=query_edit.toggled(query, f"-{term}")),
                )
            )
        if values:
            out.append(Facet(name, label, tuple(values)))
    return tuple(out)


def _ranges(kept: Mapping[str, str]) -> tuple[Tab, ...]:
    current = "" if kept.get("to") else kept.get("from", DEFAULT_FROM)
    return tuple(
        Tab(label, urls.search(kept, from_="" if (text or "all") == DEFAULT_FROM else text, to=""), current == (text or "all"))
        for text, label in times.RANGES
    )
