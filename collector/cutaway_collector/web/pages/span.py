"""One span in full: what stands beside the waterfall when it is opened, on the page and as the fragment that its script asks for.

Not its token series, which are the generation's page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cutaway_collector import search as verb
from cutaway_collector.search.fields import GENERATION_OPERATIONS
from cutaway_collector.search.scores import twin as twin_of_score
from cutaway_collector.search.trace import span as read_span
from cutaway_collector.web import query_edit, urls
from cutaway_collector.web.errors import BadParameter, Missing
from cutaway_collector.web.pages.score_lines import ScoreLine, lines
from cutaway_collector.web.site import Site

VALUE_CHARS_MAX: Final = 20_000
PROPERTIES_MAX: Final = 500
"""Attributes listed of one span, one group of them or one event; the JSON has all."""
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
class Properties:
    """The attributes that are listed, which one iterates over; the length is that of all there are."""

    listed: tuple[Property, ...]
    count: int

    def __iter__(self) -> Iterator[Property]:
        return iter(self.listed)

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True, slots=True)
class Group:
    """Attributes that belong together."""

    label: str
    properties: Properties


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened inside the span, `after_ns` from its start."""

    name: str
    after_ns: int
    failure: bool
    properties: Properties


@dataclass(frozen=True, slots=True)
class Opened:
    """The span shown in full. after_ns: from the start of the trace. links: trace, span and address of each. twin_url: its JSON."""

    span: Mapping[str, Any]
    failed: bool
    after_ns: int
    groups: tuple[Group, ...]
    resource: Properties
    events: tuple[Event, ...]
    links: tuple[tuple[str, str, str], ...]
    generation_url: str
    scores: tuple[ScoreLine, ...]
    twin_url: str


@dataclass(frozen=True, slots=True)
class SpanPage:
    """What the template of the fragment may use."""

    opened: Opened


def checked_id(text: str, digits: int, what: str) -> str:
    """An id in lower-case hex. Raises BadParameter."""
    lower = text.lower()
    if len(lower) != digits or not _HEX.issuperset(lower):
        raise BadParameter(
            f"a {what} id is {digits} hex digits, this one is {text[:40]!r}", hint="paste the id into the search box"
        )
    return lower


def _found(site: Site, trace_id: str, span_id: str, own_ns: int | None = None) -> dict[str, Any]:
    trace_id, span_id = checked_id(trace_id, 32, "trace"), checked_id(span_id, 16, "span")
    found = read_span(site.store, trace_id, span_id, start_ns=own_ns)
    if found is None:
        raise Missing(f"span {span_id} is not part of this trace", hint="Open the trace without `span` to see all of it.")
    return found


def twin(site: Site, trace_id: str, span_id: str) -> dict[str, Any]:
    """The JSON of one span, as in the twin of its trace, with its scores. Raises BadParameter, Missing, StoreError."""
    found = _found(site, trace_id, span_id)
    return {**found, "scores": [twin_of_score(score) for score in found["scores"]]}


def page(site: Site, trace_id: str, span_id: str, *, start_ns: int) -> SpanPage:
    """The fragment. start_ns: of the trace, 0 when unknown. Raises BadParameter, Missing, StoreError."""
    return SpanPage(opened(_found(site, trace_id, span_id), start_ns=start_ns))


def read(site: Site, trace_id: str, span_id: str, *, start_ns: int, own_ns: int) -> Opened:
    """The span to open. start_ns: of the trace; own_ns: of the span. Raises BadParameter, Missing, StoreError."""
    return opened(_found(site, trace_id, span_id, own_ns), start_ns=start_ns)


def opened(span: Mapping[str, Any], *, start_ns: int) -> Opened:
    """A span as `search.trace.span` gives it, for the page."""
    events = tuple(
        Event(
            event["name"],
            event["time_ns"] - span["start_ns"],
            event["name"] == "exception",
            properties(event["attributes"], linked=False),
        )
        for event in span["events"]
    )
    # Only what generates has an inside: embedding a text or calling a tool is an operation too.
    is_generation = span["operation"] in GENERATION_OPERATIONS or span["output_tokens"] is not None or span.get("diffusion")
    return Opened(
        span=span,
        failed=str(span["status"]).lower() == "error",
        after_ns=span["start_ns"] - (start_ns or span["start_ns"]),
        groups=_said(span) + _groups(span["attributes"]),
        resource=properties(span["resource"], linked=False),
        events=events,
        links=tuple(
            (link["trace_id"], link["span_id"], urls.trace(link["trace_id"], span=link["span_id"])) for link in span["links"]
        ),
        generation_url=urls.generation(span["span_id"]) if is_generation else "",
        scores=lines(span["scores"]),
        twin_url=urls.span_of_trace(span["trace_id"], span["span_id"], json=True),
    )


def _said(span: Mapping[str, Any]) -> tuple[Group, ...]:
    found = spoken(span["attributes"], span["events"])
    return (Group("Messages", found),) if found else ()


def spoken(attributes: Mapping[str, Any], events: Sequence[Mapping[str, Any]] = ()) -> Properties:
    """The span's prompts and answers in whatever dialect, role by role."""
    found = list(verb.messages(attributes, events))
    return Properties(tuple(
        Property(source, role, text[:VALUE_CHARS_MAX], max(0, len(text) - VALUE_CHARS_MAX), "", False)
        for role, text, source in found[:PROPERTIES_MAX]
    ), len(found))


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


def properties(attributes: Mapping[str, Any], *, linked: bool, prefix: str = "") -> Properties:
    """Attributes in alphabetical order, as text; `linked` gives short ones a search for their like."""
    out = []
    for key in sorted(attributes)[:PROPERTIES_MAX]:
        value = str(attributes[key])
        short = linked and len(value) <= 120 and "\n" not in value
        url = urls.search(q=f"{query_edit.field_name(key)}:{query_edit.quoted(value)}", from_="all") if short else ""
        name, cut = key.removeprefix(prefix) or key, max(0, len(value) - VALUE_CHARS_MAX)
        wide = "\n" in value.strip() or key == "exception.stacktrace"
        out.append(Property(key, name, value[:VALUE_CHARS_MAX], cut, url, wide))
    return Properties(tuple(out), len(attributes))
