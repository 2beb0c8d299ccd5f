"""The trace page: a waterfall in nested order, and one span opened beside it.

Not a flame graph and not live: it shows the spans that are stored now, at most `trace_spans_max`, and says when there are more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from cutaway_collector import search as verb
from cutaway_collector.search.scores import twin as twin_of_score
from cutaway_collector.web import charts, query_edit, tokens, urls, waterfall
from cutaway_collector.web.errors import BadParameter, Missing
from cutaway_collector.web.pages.score_lines import ScoreLine, lines
from cutaway_collector.web.site import Arguments, Site

ROWS_SHOWN_MAX: Final = 1000
"""Rows drawn at once: what a browser lays out without a pause. Further rows are a link away."""
STRIPES_MAX: Final = 8
STRIPE_TOKENS_MAX: Final = 2048
STRIPE_CELLS: Final = 80
STRIPE_FULL_NATS: Final = 6.0
"""Surprisal at the end of the stripe's colours; fixed, so that the generations of a trace compare."""
VALUE_CHARS_MAX: Final = 20_000
_HEX: Final = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class Property:
    """One attribute.

    short: the key without the prefix its group shares. cut: how many characters of the value were left out. url: searches for
    spans that share the value, "" for long ones. wide: the value has lines of its own and takes the whole width.
    """

    key: str
    short: str
    value: str
    cut: int
    url: str
    wide: bool


@dataclass(frozen=True, slots=True)
class Group:
    """Attributes that belong together."""

    label: str
    properties: tuple[Property, ...]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened inside the span, `after_ns` from its start."""

    name: str
    after_ns: int
    failure: bool
    properties: tuple[Property, ...]


@dataclass(frozen=True, slots=True)
class Opened:
    """The span shown in full."""

    span: Mapping[str, Any]
    failed: bool
    after_ns: int
    groups: tuple[Group, ...]
    resource: tuple[Property, ...]
    events: tuple[Event, ...]
    links: tuple[tuple[str, str, str], ...]
    generation_url: str
    scores: tuple[ScoreLine, ...]


@dataclass(frozen=True, slots=True)
class Stripe:
    """A stretch of a generation's bar: place and width in percent of the bar, colour class of its largest surprisal."""

    x: float
    width: float
    heat: int


@dataclass(frozen=True, slots=True)
class Line:
    """A waterfall row and where it leads."""

    row: waterfall.Row
    url: str
    selected: bool
    stripe: tuple[Stripe, ...]


@dataclass(frozen=True, slots=True)
class TracePage:
    """Everything the trace template may use. `summary` is label, value pairs for the header."""

    trace_id: str
    title: str
    start_ns: int
    total_ns: int
    span_count: int
    failures: int
    orphans: int
    truncated: bool
    services: tuple[tuple[str, int], ...]
    models: tuple[str, ...]
    output_tokens: int | None
    worst_perplexity: float | None
    lines: tuple[Line, ...]
    shows_prefill: bool
    shows_surprisal: bool
    first_row: int
    previous_url: str
    next_url: str
    ticks: tuple[charts.Tick, ...]
    opened: Opened | None
    search_url: str
    twin_url: str


def checked_id(text: str, digits: int, what: str) -> str:
    """An id in lower-case hex. Raises BadParameter."""
    lower = text.lower()
    if len(lower) != digits or not _HEX.issuperset(lower):
        raise BadParameter(
            f"a {what} id is {digits} hex digits, this one is {text[:40]!r}", hint="paste the id into the search box"
        )
    return lower


def twin(site: Site, trace_id: str) -> dict[str, Any]:
    """The JSON twin: trace_id, spans, truncated, scores. Raises BadParameter, Missing, StoreError."""
    found = _fetch(site, trace_id)
    return {**found, "scores": [twin_of_score(score) for score in found["scores"]]}


def _fetch(site: Site, trace_id: str) -> dict[str, Any]:
    trace_id = checked_id(trace_id, 32, "trace")
    found = verb.trace(site.store, trace_id, spans_max=site.settings.trace_spans_max)
    if found is None or not found["spans"]:
        days = site.settings.retention_days
        raise Missing(
            f"no span of trace {trace_id} is stored",
            hint=f"Spans show up about a second after they are sent, and are kept for {days} days.",
        )
    return found


def page(site: Site, trace_id: str, args: Arguments) -> TracePage:
    """The page; `span` opens a span, `rows` starts the waterfall further down. Raises BadParameter, Missing, StoreError."""
    found = _fetch(site, trace_id)
    tree = waterfall.build(found["spans"])
    chosen = _chosen(tree, args.get("span", "").lower())
    first = _first_row(args.get("rows", ""), tree, chosen if args.get("span") else "")
    shown = tree.rows[first : first + ROWS_SHOWN_MAX]
    spans = [row.span for row in tree.rows]
    stripes = _stripes(site, shown)
    produced = [span["output_tokens"] for span in spans if span["output_tokens"] is not None]
    perplexities = [span["perplexity"] for span in spans if span["perplexity"] is not None]
    identity = found["trace_id"]
    behind = first + ROWS_SHOWN_MAX
    return TracePage(
        trace_id=identity,
        title=tree.rows[0].span["name"],
        start_ns=tree.start_ns,
        total_ns=tree.total_ns,
        span_count=len(spans),
        failures=sum(row.failed for row in tree.rows),
        orphans=tree.orphans,
        truncated=found["truncated"],
        services=tuple((service, index % 8) for index, service in enumerate(tree.services)),
        models=tuple(dict.fromkeys(span["model"] for span in spans if span["model"])),
        output_tokens=sum(produced) if produced else None,
        worst_perplexity=max(perplexities) if perplexities else None,
        lines=tuple(
            Line(
                row,
                urls.trace(identity, span=row.span["span_id"], rows=first),
                row.span["span_id"] == chosen,
                stripes.get(row.span["span_id"], ()),
            )
            for row in shown
        ),
        shows_prefill=any(row.prefill > 0 for row in shown),
        shows_surprisal=any(stripes.get(row.span["span_id"]) for row in shown),
        first_row=first,
        previous_url=urls.trace(identity, rows=max(0, first - ROWS_SHOWN_MAX)) if first else "",
        next_url=urls.trace(identity, rows=behind) if behind < len(tree.rows) else "",
        ticks=charts.duration_ticks(tree.total_ns),
        opened=_opened(tree, chosen, found["scores"]),
        search_url=urls.search(q=f"trace:{identity}", from_="all"),
        twin_url=f"/trace/{identity}.json",
    )


def _stripes(site: Site, rows: Sequence[waterfall.Row]) -> dict[str, tuple[Stripe, ...]]:
    """Surprisal along the decoding of the first few generations: where in time the model hesitated. Span id -> stripe."""
    wanted = [
        row.span
        for row in rows
        if 1 < (row.span["output_tokens"] or 0) <= STRIPE_TOKENS_MAX and row.span["surprisal_mean"] is not None
    ]
    out = {}
    for span in wanted[:STRIPES_MAX]:
        found = verb.generation(site.store, span["span_id"], attention="none", details=False)
        sequence = found["sequences"][0] if found and found["sequences"] else None
        if sequence and sequence["signals"]["surprisal"] and sequence["signals"]["inter_token_s"]:
            out[span["span_id"]] = _stripe(
                sequence["signals"]["surprisal"], sequence["signals"]["inter_token_s"], span["duration_ns"]
            )
    return out


def _stripe(surprisal: Sequence[float | None], gaps_s: Sequence[float | None], duration_ns: int) -> tuple[Stripe, ...]:
    """A token fills the time since the one before it; each of STRIPE_CELLS cells shows the largest surprisal that touches it.

    The first token is left out: its time is the prefill, which the bar shows in a colour of its own.
    """
    length = min(len(surprisal), len(gaps_s))
    values = np.nan_to_num(tokens.as_array(surprisal, length))
    ends = np.nancumsum(tokens.as_array(gaps_s, length)) * 1e9 / max(duration_ns, 1)
    edges = np.clip((ends * STRIPE_CELLS).astype(np.int64), 0, STRIPE_CELLS - 1)
    cells = np.full(STRIPE_CELLS, -1.0)
    for token in range(1, length):
        touched = slice(edges[token - 1], edges[token] + 1)
        cells[touched] = np.maximum(cells[touched], values[token])
    heat = np.minimum(cells / STRIPE_FULL_NATS * tokens.CLASSES, tokens.CLASSES - 1).astype(np.int64)
    size = 100 / STRIPE_CELLS
    return tuple(Stripe(index * size, size, int(heat[index])) for index in range(STRIPE_CELLS) if cells[index] >= 0)


def _chosen(tree: waterfall.Waterfall, wanted: str) -> str:
    """The span asked for, else the first failed one, else the first: a page that opens on nothing wastes half its width."""
    by_id = {row.span["span_id"]: row for row in tree.rows}
    if wanted:
        if wanted not in by_id:
            raise Missing(f"span {wanted[:40]!r} is not part of this trace", hint="Open the trace without `span` to see all of it.")
        return wanted
    failed = next((row for row in tree.rows if row.failed), tree.rows[0])
    return str(failed.span["span_id"])


def _first_row(text: str, tree: waterfall.Waterfall, chosen: str) -> int:
    if text:
        if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) >= len(tree.rows):
            raise BadParameter(
                f"rows is a number below {len(tree.rows)}, it is {text[:20]!r}", hint="leave it out to start at the top"
            )
        return int(text)
    position = next((index for index, row in enumerate(tree.rows) if row.span["span_id"] == chosen), 0)
    return position // ROWS_SHOWN_MAX * ROWS_SHOWN_MAX


def _opened(tree: waterfall.Waterfall, chosen: str, scores: Sequence[Mapping[str, Any]]) -> Opened | None:
    row = next((row for row in tree.rows if row.span["span_id"] == chosen), None)
    if row is None:
        return None
    span = row.span
    events = tuple(
        Event(
            event["name"],
            event["time_ns"] - span["start_ns"],
            event["name"] == "exception",
            properties(event["attributes"], linked=False),
        )
        for event in span["events"]
    )
    judged = {span["span_id"]} if span["parent_span_id"] else {span["span_id"], ""}
    is_generation = span["output_tokens"] is not None or "gen_ai.operation.name" in span["attributes"] or span.get("diffusion")
    return Opened(
        span=span,
        failed=row.failed,
        after_ns=span["start_ns"] - tree.start_ns,
        groups=_said(span) + _groups(span["attributes"]),
        resource=properties(span["resource"], linked=False),
        events=events,
        links=tuple(
            (link["trace_id"], link["span_id"], urls.trace(link["trace_id"], span=link["span_id"])) for link in span["links"]
        ),
        generation_url=urls.generation(span["span_id"]) if is_generation else "",
        scores=lines(score for score in scores if score["span_id"] in judged),
    )


def _said(span: Mapping[str, Any]) -> tuple[Group, ...]:
    found = spoken(span["attributes"], span["events"])
    return (Group("Messages", found),) if found else ()


def spoken(attributes: Mapping[str, Any], events: Sequence[Mapping[str, Any]] = ()) -> tuple[Property, ...]:
    """The span's prompts and answers in whatever dialect, role by role."""
    return tuple(
        Property(source, role, text[:VALUE_CHARS_MAX], max(0, len(text) - VALUE_CHARS_MAX), "", False)
        for role, text, source in verb.messages(attributes, events)
    )


def _groups(attributes: Mapping[str, Any]) -> tuple[Group, ...]:
    """cutaway.* first (what only we have), then gen_ai.*, then the sender's own."""
    kinds = (("What the model felt", "cutaway."), ("Generation", "gen_ai."), ("Attributes", ""))
    left = dict(attributes)
    out = []
    for label, prefix in kinds:
        mine = {key: left.pop(key) for key in sorted(left) if key.startswith(prefix)}
        if mine:
            out.append(Group(label, properties(mine, linked=True, prefix=prefix)))
    return tuple(out)


def properties(attributes: Mapping[str, Any], *, linked: bool, prefix: str = "") -> tuple[Property, ...]:
    """Attributes in alphabetical order, as text; `linked` gives short ones a search for their like."""
    out = []
    for key in sorted(attributes):
        value = str(attributes[key])
        short = linked and len(value) <= 120 and "\n" not in value
        url = urls.search(q=f"{query_edit.field_name(key)}:{query_edit.quoted(value)}", from_="all") if short else ""
        name, cut = key.removeprefix(prefix) or key, max(0, len(value) - VALUE_CHARS_MAX)
        wide = "\n" in value.strip() or key == "exception.stacktrace"
        out.append(Property(key, name, value[:VALUE_CHARS_MAX], cut, url, wide))
    return tuple(out)
