"""The live tail: spans as the store takes them, newest first, as a page, as a stream of events and as JSON to ask again and again.

Not the question put to the store (that is `search.live`) and not the routes: they decide who may hold a stream open.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from cutaway_collector import search as verb
from cutaway_collector.errors import CutawayError, QueryError
from cutaway_collector.search.language import QUERY_CHARACTERS_MAX
from cutaway_collector.search.live import Arrived, Position, Tail
from cutaway_collector.web import figures, urls
from cutaway_collector.web.errors import BadParameter
from cutaway_collector.web.search_table import SURPRISAL_FULL_NATS
from cutaway_collector.web.site import Arguments, Site

ROWS_S_MAX: Final = 50
"""Rows a second that are shown: more nobody reads. The others are counted."""
ROWS_FIRST: Final = 50
POLL_SECONDS: Final = 1.0
BUSY_FACTOR: Final = 4
"""A stream rests at least this many times as long as its look took: a slow query does not keep the store busy."""
HEARTBEAT_SECONDS: Final = 15.0
STREAM_SECONDS_MAX: Final = 600.0
"""Then the browser asks again, where it stopped: whoever may no longer read is found out by then."""
RETRY_MS: Final = 2000
REFRESH_SECONDS: Final = ("5", "15", "60")


@dataclass(frozen=True, slots=True)
class Line:
    """One span as printed. key: trace and span id. heat: colour class of the perplexity, "" for none."""

    key: str
    url: str
    at: str
    clock: str
    name: str
    service: str
    model: str
    failed: bool
    why: str
    duration: str
    tokens: str
    ttft: str
    rate: str
    perplexity: str
    heat: str


@dataclass(frozen=True, slots=True)
class LivePage:
    """Everything the template may use. refresh: seconds between reloads without script, "" for none."""

    query: str
    explanation: str
    lines: tuple[Line, ...]
    earlier: int
    events_url: str
    after: str
    refresh: str
    refresh_urls: tuple[tuple[str, str], ...]
    again_url: str
    search_url: str
    twin_url: str
    rows_s_max: int


def query_of(arguments: Arguments) -> str:
    """The query. Raises BadParameter."""
    query = arguments.get("q", "").strip()
    if len(query) > QUERY_CHARACTERS_MAX:
        raise BadParameter(f"q has at most {QUERY_CHARACTERS_MAX} characters, it has {len(query)}",
                           hint="follow fewer terms at once")
    return query


def page(site: Site, arguments: Arguments) -> LivePage:
    """The page, with what was stored lately. Raises BadParameter, QueryError, StoreError."""
    query = query_of(arguments)
    refresh = arguments.get("refresh", "")
    if refresh and refresh not in REFRESH_SECONDS:
        raise BadParameter(f"refresh is {', '.join(REFRESH_SECONDS)} seconds, it is {refresh[:20]!r}", hint="leave it out")
    tail = Tail(site.store, query)
    arrived = tail.poll(ROWS_FIRST)
    return LivePage(
        query, verb.explain(query), lines(arrived), arrived.skipped, urls.live(q=query, events=True), str(tail.position), refresh,
        tuple((seconds, urls.live(q=query, refresh=seconds)) for seconds in REFRESH_SECONDS), urls.live(q=query),
        urls.search(q=query, from_="-15m"), urls.live(q=query, json=True), ROWS_S_MAX)


def twin(site: Site, arguments: Arguments) -> dict[str, Any]:
    """{"rows", "skipped", "next"}: asked again with after=next, what was stored meanwhile. Raises BadParameter, QueryError,
    StoreError."""
    text = arguments.get("after", "")
    position = Position.read(text) if text else None
    if text and position is None:
        raise BadParameter("after is the `next` of an answer of this page", hint="leave it out for what was stored lately")
    tail = Tail(site.store, query_of(arguments), position)
    arrived = tail.poll(ROWS_FIRST)
    return {"rows": arrived.rows, "skipped": arrived.skipped, "next": str(tail.position)}


def opened(site: Site, arguments: Arguments, last_event_id: str) -> Tail:
    """A tail for a stream: behind the last event, behind `after`, or from now on. Raises BadParameter, QueryError, StoreError."""
    position = Position.read(last_event_id or arguments.get("after", ""))
    tail = Tail(site.store, query_of(arguments), position)
    if position is None:
        tail.skip_to_now()
    return tail


def events(tail: Tail, *, wait: Callable[[float], bool], gone: Callable[[], bool],
           clock_s: Callable[[], float] = time.monotonic) -> Iterator[bytes]:
    """Server-sent events until STREAM_SECONDS_MAX, `gone()` or `wait` says that it is time to stop.

    rows: {"lines": [Line], "skipped"}, with the position as id; trouble: {"message"}; stop: the collector is stopping. wait: pauses
    for so many seconds, true when the pause was cut short.
    """
    began_s = said_s = looked_s = clock_s()
    allowance = float(ROWS_S_MAX)
    yield b"retry: %d\n\n" % RETRY_MS
    while not gone() and (now_s := clock_s()) < began_s + STREAM_SECONDS_MAX:
        allowance, looked_s = min(ROWS_S_MAX * 2.0, allowance + ROWS_S_MAX * (now_s - looked_s)), now_s
        message = b""
        try:
            arrived = tail.poll(max(1, int(allowance)))
            if arrived.rows or arrived.skipped:
                allowance -= len(arrived.rows)
                message = _event("rows", {"lines": lines(arrived), "skipped": arrived.skipped}, str(tail.position))
        except CutawayError as error:
            message = _event("trouble", {"message": str(error)})
            if isinstance(error, QueryError):
                yield message
                return
        if message or now_s - said_s >= HEARTBEAT_SECONDS:
            yield message or b": nothing new\n\n"
            said_s = now_s
        if wait(max(POLL_SECONDS, BUSY_FACTOR * (clock_s() - now_s))):
            yield _event("stop", {})
            return


def _event(name: str, data: Mapping[str, Any], position: str = "") -> bytes:
    """One event. JSON has no line breaks, so a text cannot end it."""
    head = f"id: {position}\n" if position else ""
    return f"{head}event: {name}\ndata: ".encode() + orjson.dumps(data) + b"\n\n"


def lines(arrived: Arrived) -> tuple[Line, ...]:
    """Rows as printed."""
    return tuple(_line(row) for row in arrived.rows)


def _line(row: Mapping[str, Any]) -> Line:
    def said(text: Any) -> str:
        return str(figures.contained(text or ""))

    tokens = row["output_tokens"]
    generation = tokens is not None and row["span_id"]
    mean = row["surprisal_mean"]
    return Line(
        key=f"{row['trace_id']}-{row['span_id']}",
        url=urls.generation(row["span_id"]) if generation else urls.trace(row["trace_id"], span=row["span_id"]),
        at=figures.FILTERS["iso"](row["start_ns"]), clock=figures.clock(row["start_ns"]),
        name=said(str(row["name"]).removesuffix(f" {row['model']}")) or "(no name)", service=said(row["service"]),
        model=said(row["model"]) or figures.ABSENT, failed=str(row["status"]).lower() == "error", why=said(row["status_message"]),
        duration=figures.duration(row["duration_ns"]),
        tokens=figures.ABSENT if tokens is None else f"{figures.count(row['input_tokens'] or 0)} → {figures.count(tokens)}",
        ttft=figures.seconds(row["ttft_s"]), rate=figures.number(figures.tokens_a_second(row)),
        perplexity=figures.number(row["perplexity"]),
        heat="" if mean is None else f"q{figures.shade(mean, SURPRISAL_FULL_NATS)}")
