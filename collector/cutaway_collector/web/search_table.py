"""The table of results: its columns, what each cell says, and where rows and headings lead.

Not markup and not a query: rows come as the search verb answers them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cutaway_collector.errors import QueryError
from cutaway_collector.search import fields
from cutaway_collector.search.aggregates import Measure
from cutaway_collector.search.fields import Field
from cutaway_collector.search.language import split_scope
from cutaway_collector.search.request import COLUMNS_MAX, VIEWS
from cutaway_collector.search.scores import SCOPE
from cutaway_collector.search.sql import Target, resolve
from cutaway_collector.web import figures, query_edit, urls
from cutaway_collector.web.search_state import OWN_COLUMNS, USUAL_COLUMNS, State

SURPRISAL_FULL_NATS: Final = 4.0
"""Mean surprisal at which a row's colour chip is at its end: above it a model hardly knows what it says."""
SPARK_HEIGHT: Final = 20
SPARK_STEP: Final = 3
_OWN: Final[Mapping[str, tuple[str, str, str]]] = {
    "model": ("model", "Model", "model"), "duration": ("duration", "Duration", "num"), "tokens": ("tokens.out", "Tokens", "num"),
    "ttft": ("ttft", "First token", "num"), "tps": ("", "Tokens/s", "num"), "perplexity": ("perplexity", "Perplexity", "num"),
    "surprisal": ("surprisal", "Surprisal", "num"),
}
"""Column -> sort key ("" for not sortable), heading, class."""
Row = Mapping[str, Any]
OFTEN_WANTED: Final = ("entropy", "finish", "env", "operation")
"""Columns the picker offers besides those that rows bring along."""
_NOTES: Final = {
    "tokens": "input tokens → output tokens; below, output tokens a second while decoding",
    "ttft": "time to the first token",
    "tps": "output tokens a second while decoding, as tps: in a query; by the duration of the span where no token has a time",
    "surprisal": "mean surprisal / that of the least expected token, in nats; below, from the first token to the last",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: which column, what it says ("–" for nothing known), and its title."""

    column: str
    text: str
    known: bool
    css: str
    title: str


@dataclass(frozen=True, slots=True)
class Spark:
    """Surprisal over the tokens of a row as a curve in a box of `width` x SPARK_HEIGHT, and in words."""

    path: str
    width: int
    said: str


@dataclass(frozen=True, slots=True)
class Hit:
    """One row of the table: the stored values, the name without the model that has a column of its own, where the row leads, its
    duration bar in percent, its colour class (-1: none), its date ("" for today), and what a comparison calls it."""

    row: Mapping[str, Any]
    name: str
    url: str
    trace_url: str
    more_url: str
    bar: float
    heat: int
    ago: str
    date: str
    cells: tuple[Cell, ...]
    spark: Spark | None
    pick: str


@dataclass(frozen=True, slots=True)
class Heading:
    """One column heading. url: sorts by it, "" when that cannot be. direction: "ascending", "descending" or "". note: its title."""

    label: str
    css: str
    url: str
    direction: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """A column that may be shown."""

    name: str
    label: str
    shown: bool


def shown(state: State) -> tuple[str, ...]:
    """The columns of the table besides time and name; that of what it is sorted by, if it is none of them, stands first."""
    chosen = state.cols or USUAL_COLUMNS
    key = _sort_key(state.order.removeprefix("-"))
    own = next((name for name, (its_key, *_) in _OWN.items() if its_key == key), key)
    return chosen if key in ("", "start", "name") or {key, own} & {*map(_sort_key, chosen), *chosen} else (own, *chosen)


def asked(state: State) -> tuple[str, ...]:
    """What rows are wanted with besides what they bring along: chosen columns, and what they are sorted by."""
    if state.view == "traces":
        return state.cols  # which is refused
    wanted = (name for name in shown(state) if name not in OWN_COLUMNS)
    ordered_by = state.order.removeprefix("-")  # a score or an aggregate that rows are sorted by comes with them
    return tuple(name for name in wanted if name != ordered_by or _field(name))[:COLUMNS_MAX]


def _sort_key(name: str) -> str:
    """One name for all that an order may be called: of a field its first, "start" for time, others as they are."""
    if name in fields.TIME_SORTS:
        return "start"
    field = _field(name)
    return field.name if field else name


def choices(state: State) -> tuple[Choice, ...]:
    """The columns the picker offers, and the chosen ones it does not know of itself."""
    chosen = shown(state)
    known = (*OWN_COLUMNS, *OFTEN_WANTED)
    offered = (*known, *(name for name in chosen if name not in known))
    return tuple(Choice(name, label_of(name), name in chosen) for name in offered)


def label_of(name: str) -> str:
    """The heading of a column."""
    if name in _OWN:
        return _OWN[name][1]
    scope, key = split_scope(name)
    field = None if scope else fields.lookup(key)
    return field.phrase.capitalize() if field else key if scope == SCOPE else name


def _target_of(name: str) -> Target | None:
    """What the language takes the name for; None for what it cannot read."""
    scope, key = split_scope(name)
    try:
        return resolve(key, scope)
    except QueryError:
        return None


def _field(name: str) -> Field | None:
    target = _target_of(name)
    return target if isinstance(target, Field) else None


def headings(state: State) -> tuple[Heading, ...]:
    """Of every column: time, span, and the shown ones."""
    columns = [("start", "Time", "", ""), ("name", "Span", "", "")]
    for name in shown(state):
        if name in _OWN:
            key, label, css = _OWN[name]
            columns.append((key, label, css, _NOTES.get(name, "")))
            continue
        scope, _ = split_scope(name)
        field = _field(name)
        measured = isinstance(_target_of(name), Measure)
        sortable = scope == SCOPE or measured or (field is not None and field.kind != "list")
        numeric = scope == SCOPE or measured or (field is not None and field.kind == "number")
        columns.append((name if sortable else "", label_of(name), "num" if numeric else "", field.description if field else name))
    return tuple(_heading(state, *column) for column in columns)


def _heading(state: State, key: str, label: str, css: str, note: str) -> Heading:
    current = state.order or "-start"
    active = bool(key) and _sort_key(current.removeprefix("-")) == _sort_key(key)
    descending = active and current.startswith("-")
    flipped = key if descending else f"-{key}"
    direction = "" if not active else "descending" if descending else "ascending"
    # An order that the query names goes before that of the address: it gives way to the one that is asked for now.
    searched = query_edit.without_stage(state.q, "sort")
    return Heading(label, css, state.url(q=searched, sort="" if flipped == "-start" else flipped) if key else "", direction, note)


def hits(state: State, rows: Sequence[Row], sparks: Mapping[tuple[str, str], Row], now_ns: int) -> tuple[Hit, ...]:
    """The rows of a page of spans."""
    full, top, columns = _full([row["duration_ns"] for row in rows]), spark_top(sparks), shown(state)
    led = _led(state)
    out = []
    for row in rows:
        ids = row["trace_id"], row["span_id"]
        out.append(Hit(
            row, str(row["name"]).removesuffix(f" {row['model']}"), _target(row, led), urls.trace(ids[0], span=ids[1], **led),
            urls.search_row(*ids, row["start_ns"]) if ids[1] else "", _bar(row["duration_ns"], full),
            figures.shade(row["surprisal_mean"], SURPRISAL_FULL_NATS), figures.ago(row["start_ns"], now_ns),
            figures.day_unless_today(row["start_ns"], now_ns),
            tuple(_cell(name, row) for name in columns), _spark(sparks.get(ids), top), f"span:{ids[1]}",
        ))
    return tuple(out)


@dataclass(frozen=True, slots=True)
class TraceHit:
    """One row of the table of traces; as `Hit`."""

    row: Mapping[str, Any]
    url: str
    bar: float
    heat: int
    ago: str
    date: str
    pick: str


def trace_hits(state: State, rows: Sequence[Row], now_ns: int) -> tuple[TraceHit, ...]:
    """The rows of a page of traces."""
    full, led = _full([row["duration_ns"] for row in rows]), _led(state)
    return tuple(
        TraceHit(row, urls.trace(row["trace_id"], **led), _bar(row["duration_ns"], full),
                 figures.shade(row["surprisal_mean"], SURPRISAL_FULL_NATS), figures.ago(row["start_ns"], now_ns),
                 figures.day_unless_today(row["start_ns"], now_ns),
                 f"trace:{row['trace_id']}")
        for row in rows
    )


def _full(durations: Sequence[int]) -> float:
    """A bar as long as the table's third quartile is three quarters full: one straggler must not shrink all others to dots."""
    ordered = sorted(durations)
    return ordered[len(ordered) * 3 // 4] * 4 / 3 if ordered else 0


def _bar(duration_ns: int, full: float) -> float:
    return min(100.0, max(1.5, 100 * duration_ns / (full or 1)))


def _target(row: Mapping[str, Any], led: Mapping[str, Any]) -> str:
    """A generation opens on its tokens, any other span in its trace."""
    if row["output_tokens"] is not None and row["span_id"]:
        return urls.generation(row["span_id"])
    return urls.trace(row["trace_id"], span=row["span_id"], **led)


def _led(state: State) -> dict[str, Any]:
    """What the address of a trace says of the search, so that one can step on from it to the next trace."""
    view = "" if state.view == VIEWS[0] else state.view
    return {"q": state.q, "from_": state.from_, "to": state.to, "sort": state.sort, "view": view}


def _cell(name: str, row: Mapping[str, Any]) -> Cell:
    """A cell of a column that the template has no picture for says its value."""
    if name in OWN_COLUMNS:
        return Cell(name, "", True, "", "")
    columns, measured = row.get("columns", {}), isinstance(_target_of(name), Measure)
    # What rows are sorted by comes with them, under a name of its own.
    value = columns[name] if name in columns else row.get("measured" if measured else "score")
    field = _field(name)
    text = said(value, field)
    numeric = isinstance(value, int | float)
    numbers = measured or split_scope(name)[0] == SCOPE or (field is not None and field.kind == "number")
    css = "num" if numeric or numbers else "other"
    return Cell(name, text, text != figures.ABSENT, css, "" if numeric else text)


def said(value: Any, field: Field | None) -> str:
    """A stored value as the page prints it, in the unit of its field."""
    if value is None or value == "" or value == []:
        return figures.ABSENT
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if not isinstance(value, int | float):
        return str(value)
    if field is not None and field.unit == "ns":
        return figures.duration(value)
    return figures.seconds(value) if field is not None and field.unit == "s" else figures.number(value)


def spark_top(sparks: Mapping[tuple[str, str], Row]) -> float:
    """The surprisal in nats at the top of every curve of a page: one scale for all, and at least a nat, so that calm looks calm."""
    parts = sorted(part for spark in sparks.values() for part in spark["parts"] if part is not None)
    return max(1.0, parts[min(len(parts) - 1, len(parts) * 98 // 100)]) if parts else 1.0


def _spark(spark: Mapping[str, Any] | None, top: float) -> Spark | None:
    if spark is None or not any(part is not None for part in spark["parts"]):
        return None
    steps, before = [], None
    for index, part in enumerate(spark["parts"]):
        if part is None:
            before = None
            continue
        y = SPARK_HEIGHT - 1 - round(min(1.0, part / top) * (SPARK_HEIGHT - 2))
        # A part is a level stretch, so that one token is as visible as many.
        steps.append(f"M{index * SPARK_STEP} {y}h{SPARK_STEP}" if before is None else f"v{y - before}h{SPARK_STEP}")
        before = y
    known = [part for part in spark["parts"] if part is not None]
    place = spark["at"] + 1
    largest = "" if spark["largest"] is None else f", at most {figures.number(spark['largest'])} at token {place}"
    parts = f"{figures.number(min(known))} to {figures.number(max(known))} nats in {len(spark['parts'])} parts"
    return Spark("".join(steps), len(spark["parts"]) * SPARK_STEP,
                 f"Surprisal over {figures.count(spark['tokens'])} tokens: {parts}{largest}")
