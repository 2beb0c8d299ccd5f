"""From rules to SQL and back: what each rule measures in each window, many rules and many windows in one statement.

A statement covers rules of one tenant that look at windows of one length, at one pace, grouped alike; a span is copied to each
window that holds it, and each rule is a few `-If` aggregates. The past is judged by the very statements of the present, only over
more windows: a back-test and a live evaluation cannot differ. What arrived after a window was due is left out of it, in both.

Not the judging: an `Observation` says what was seen, not what that means.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from cutaway_collector.alerts import evidence, windowed
from cutaway_collector.alerts.fields import NS
from cutaway_collector.alerts.rules import SHARES, Rule, group_expression, number_of
from cutaway_collector.columns import DRIFT, SCORES, TRACES, WINDOW_SCORES
from cutaway_collector.contracts import Store
from cutaway_collector.errors import StoreError
from cutaway_collector.search import language, rows, sql
from cutaway_collector.search.parameters import Parameters
from cutaway_collector.search.tenants import TenantStore
from cutaway_collector.search.tree import Node

RULES_PER_STATEMENT: Final = 250
SEARCHES_PER_STATEMENT: Final = 50
"""Different ones: they, and not the rules, are what a statement costs, and it must keep within the time that a query has."""
GROUPS_READ_MAX: Final = 1000
"""Groups a window, the largest first: more are not watched, and said to be so."""
STEPS_PER_STATEMENT: Final = 240
GROUP_CHARS_MAX: Final = 200
WINDOW_SECONDS_MAX: Final = 86_400
"""Of window scores: they are found by when their window began."""
_TABLES: Final = {"spans": TRACES.name, "scores": SCORES.name, "windows": WINDOW_SCORES.name, "drift": DRIFT.name}
_WINDOW_END: Final = "(toUnixTimestamp(WindowStart) + WindowSeconds)"
UNGROUPED: Final = "[]"
_SEARCHES_KEPT: Final = 4096
"""Read once, though each is asked every minute: twice the searches of as many rules as are usual."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What a rule saw in one window of one group. value: None where there is none. logs: growth of evidence, of an e-process; of a
    chart the deviations it follows, in order.

    opposite: growth of the evidence that the alert is over.
    """

    count: int
    value: float | None
    logs: tuple[float, ...] = ()
    opposite: tuple[float, ...] = ()


NOTHING: Final = Observation(0, None)


class Seen(NamedTuple):
    """All that a rule saw in the windows asked for: window number -> group -> observation; too_many: groups were left out."""

    steps: Mapping[int, Mapping[str, Observation]]
    too_many: bool


class Batch(NamedTuple):
    """What rules of one statement share."""

    tenant: str
    source: str
    every_s: int
    window_s: int
    lateness_s: int
    group_by: tuple[str, ...]


@functools.lru_cache(maxsize=_SEARCHES_KEPT)
def _tree(query: str) -> Node:
    return language.parse(query)


def batch_of(rule: Rule, lateness_s: int) -> Batch:
    """The batch a rule belongs to."""
    return Batch(rule.tenant, rule.source, rule.every_s, rule.window_s, rule.lateness(lateness_s), rule.group_by)


def observe(store: Store, batch: Batch, rules: Sequence[Rule], first: int, last: int, *, late: bool = False,
            apart: bool = False,
            on_failure: Callable[[Rule, str], None] = lambda rule, message: None) -> dict[tuple[str, str], Seen]:
    """What the rules of a batch see in the windows that end at `first` to `last` times `every`: rule key -> Seen.

    A rule whose statement fails is asked alone; if it fails again on_failure hears of it and it is left out. late: what arrived
    after a window was due counts too. apart: each rule has a statement of its own. Raises StoreError when the store is away.
    """
    seen: dict[tuple[str, str], Seen] = {}
    for chunk in [[rule] for rule in rules] if apart else _chunks(rules):
        try:
            seen.update(_measure(store, batch, chunk, first, last, late=late))
        except Exception as error:  # whatever one rule breaks by, the others are judged
            if len(chunk) == 1:
                on_failure(chunk[0], _said(error))
                continue
            _said(error)
            for rule in chunk:
                try:
                    seen.update(_measure(store, batch, [rule], first, last, late=late))
                except Exception as failure:
                    on_failure(rule, _said(failure))
    return seen


def _said(error: Exception) -> str:
    """Why a statement failed. Raises the error itself when the store is away, which is no rule's fault."""
    if isinstance(error, StoreError):
        if error.retryable:
            raise error
        return str(error)
    return f"{type(error).__name__}: {error}"


def _chunks(rules: Sequence[Rule]) -> Iterator[Sequence[Rule]]:
    """Rules with the same search side by side, so that a statement asks each search once."""
    chunk: list[Rule] = []
    searches: set[tuple[str, str]] = set()
    for rule in sorted(rules, key=lambda rule: (rule.query, rule.of)):
        searches.add((rule.query, rule.of))
        if len(chunk) >= RULES_PER_STATEMENT or len(searches) > SEARCHES_PER_STATEMENT:
            yield chunk
            chunk, searches = [], {(rule.query, rule.of)}
        chunk.append(rule)
    if chunk:
        yield chunk


def _measure(store: Store, batch: Batch, rules: Sequence[Rule], first: int, last: int, *,
             late: bool) -> dict[tuple[str, str], Seen]:
    statement = _Statement(store, batch, first, last, late=late)
    parts = [statement.of(rule) for rule in rules]
    mine = TenantStore(store, lambda: batch.tenant)
    found = mine.query(statement.text(), statement.parameters.values).rows
    steps: list[dict[int, dict[str, Observation]]] = [{} for _ in rules]
    counts: dict[int, int] = {}
    for step, group, *values in found:
        counts[step] = counts.get(step, 0) + 1
        key = json.dumps([_text(part) for part in group], ensure_ascii=False)
        for index, rule in enumerate(rules):
            observation = _observation(rule, batch, [values[position] for position in parts[index]])
            if observation.count:
                steps[index].setdefault(int(step), {})[key] = observation
    too_many = any(count >= GROUPS_READ_MAX for count in counts.values())
    return {rule.key: Seen(steps[index], too_many) for index, rule in enumerate(rules)}


def _text(value: Any) -> str:
    """A group's name, from a stranger's attribute: without what would move a terminal's cursor or break a line."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


def _observation(rule: Rule, batch: Batch, values: Sequence[Any]) -> Observation:
    count = int(values[0])
    if rule.condition.kind == "chart":
        return Observation(count, None, nearest(values[1]))
    if rule.condition.kind in ("no_data", "drift"):
        value = values[1] if rule.condition.kind == "drift" else count
        return Observation(count, _finite(value))
    if rule.aggregate in ("count", "rate"):
        return Observation(count, count / (batch.window_s if rule.aggregate == "rate" else 1))
    if count < rule.least and rule.condition.kind != "e_process" and rule.source != "windows":
        return Observation(count, None)
    condition = rule.condition
    if rule.aggregate in SHARES:
        hits = int(values[1])
        value = hits / count if count else None
        if condition.kind != "e_process":
            return Observation(count, value)
        against, back = (hits, count - hits) if condition.up else (count - hits, hits)
        mean = condition.threshold if condition.up else 1 - condition.threshold
        return Observation(count, value, tuple(evidence.of_rate(count, against, mean).tolist()),
                           tuple(evidence.of_rate(count, back, 1 - mean).tolist()))
    if condition.kind == "e_process":
        return Observation(count, _finite(values[1]), tuple(values[2]), tuple(values[3]))
    return Observation(count, _finite(values[1]))


def nearest(found: Iterable[tuple[int, float]]) -> tuple[float, ...]:
    """(end of a drift window, deviation) -> deviations in order. Where several versions are pinned the nearest counts: what is as
    one of them was is as it should be.
    """
    nearest: dict[int, float] = {}
    for end_ns, deviation in found:
        if end_ns not in nearest or abs(deviation) < abs(nearest[end_ns]):
            nearest[end_ns] = deviation
    return tuple(nearest[end_ns] for end_ns in sorted(nearest))


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


class _Statement:
    """One SELECT in the making. `of` adds a rule and says at which places of a row its numbers stand."""

    def __init__(self, store: Store, batch: Batch, first: int, last: int, *, late: bool) -> None:
        self._store = store
        self._batch = batch
        self._first, self._last = first, last
        self._late = late or batch.source != "spans"
        self._inner: dict[str, str] = {}
        self._outer: dict[str, int] = {}
        self._asked: dict[tuple[str, str], str] = {}
        self._searches: set[str] = set()
        self._start_ns = first * batch.every_s * NS - batch.window_s * NS
        self._end_ns = last * batch.every_s * NS
        self.parameters = Parameters(database=store.database, start_ns=self._start_ns)

    def of(self, rule: Rule) -> list[int]:
        """Adds the rule's aggregates."""
        if self._batch.source == "drift":
            return self._of_drift(rule)
        if self._batch.source == "scores":
            return self._of_scores(rule)
        if self._batch.source == "windows":
            return self._of_windows(rule)
        found = self._search(rule.query)
        self._searches.add(found)
        if rule.condition.kind == "no_data" or rule.aggregate in ("count", "rate"):
            return [self._place(f"countIf({found})")]
        if rule.aggregate == "share":
            return [self._place(f"countIf({found})"), self._place(f"countIf({found} AND {self._search(rule.of)})")]
        value = self._once("field", rule.field, lambda: f"toFloat64({number_of(rule.field, self.parameters)})")
        return self._of_numbers(rule, value, f"{found} AND isNotNull({value}) AND isFinite(ifNull({value}, nan))")

    def _of_numbers(self, rule: Rule, value: str, condition: str) -> list[int]:
        number = f"assumeNotNull({value})"
        places = [self._place(f"countIf({condition})")]
        if rule.aggregate == "quantile":
            return [*places, self._place(f"quantileExactIf({rule.quantile!r})({number}, {condition})")]
        places.append(self._place(f"avgIf({number}, {condition})"))
        if rule.condition.kind == "e_process":
            against = rule.condition
            width = against.high - against.low
            unit = f"least(1., greatest(0., ({number} - {against.low!r}) / {width!r}))"
            mean = (against.threshold - against.low) / width
            up, down = (unit, f"(1 - {unit})") if against.up else (f"(1 - {unit})", unit)
            mean = mean if against.up else 1 - mean
            places.append(self._place(f"sumForEachIf({evidence.sql_sums(up, mean)}, {condition})"))
            places.append(self._place(f"sumForEachIf({evidence.sql_sums(down, 1 - mean)}, {condition})"))
        return places

    def _of_scores(self, rule: Rule) -> list[int]:
        condition = self._once("score", rule.score, lambda: f"(ScoreName = {self.parameters.text(rule.score)})")
        if rule.query:
            condition += f" AND {self._once('of spans', rule.query, lambda: self._of_spans(rule.query))}"
        self._searches.add(f"({condition})")
        if rule.aggregate == "score_share":
            over = self.parameters.bind(rule.over, "Float64")
            return [self._place(f"countIf({condition})"), self._place(f"countIf({condition} AND score_value > {over})")]
        return self._of_numbers(rule, "score_value", f"{condition} AND isFinite(score_value)")

    def _of_windows(self, rule: Rule) -> list[int]:
        condition = self._once("score", rule.score, lambda: f"(ScoreName = {self.parameters.text(rule.score)} AND isFinite(Value))")
        if rule.query:
            condition += " AND " + self._once("windows", rule.query,
                                              lambda: windowed.condition(_tree(rule.query), self.parameters))
        condition += f" AND answers >= {rule.least}"
        self._searches.add(f"({condition})")
        if rule.condition.kind == "e_process":
            return self._of_numbers(rule, "score_value", condition)
        worst = "maxIf" if rule.condition.up else "minIf"
        return [self._place(f"countIf({condition})"), self._place(f"{worst}(score_value, {condition})")]

    def _of_drift(self, rule: Rule) -> list[int]:
        about, below = rule.condition.attribute, rule.condition.q_below
        if rule.condition.kind == "chart":
            known = self._once("chart", about, lambda: (
                f"(Attribute = {self.parameters.text(about)} AND isNotNull(Deviation) AND isFinite(assumeNotNull(Deviation)))"))
            self._searches.add(known)
            pair = self._once("deviation", "", lambda: "(toUnixTimestamp64Nano(WindowEnd), ifNull(Deviation, 0))")
            return [self._place(f"countIf({known})"), self._place(f"groupArrayIf({pair}, {known})")]
        name = self._once("attribute", about, lambda: f"(Attribute = {self.parameters.text(about)} AND Label != 'few')")
        self._searches.add(name)
        moved = self._once("below", repr(below), lambda: (
            f"(Label = 'shifted' AND ifNull(Q, 0) <= {self.parameters.bind(below, 'Float64')})"))
        return [self._place(f"countIf({name})"), self._place(f"maxIf(toFloat64({moved}), {name})")]

    def _search(self, query: str) -> str:
        return self._once("search", query, lambda: f"ifNull({sql.condition(_tree(query), self.parameters)}, 0)")

    def _of_spans(self, query: str) -> str:
        found = sql.condition(_tree(query), self.parameters)
        return f"(TraceId, SpanId) IN (SELECT TraceId, SpanId FROM {rows.table(self._store)} WHERE {self._within()} AND {found})"

    def _once(self, kind: str, about: str, expression: Callable[[], str]) -> str:
        """The name of an expression over rows: the same search or field is written, bound and computed once."""
        if (kind, about) not in self._asked:
            name = self._asked[kind, about] = f"x{len(self._inner)}"
            self._inner[name] = expression()
        return self._asked[kind, about]

    def _place(self, aggregate: str) -> int:
        return self._outer.setdefault(aggregate, len(self._outer))

    def _within(self) -> str:
        return (f"Timestamp >= fromUnixTimestamp64Nano({self._start_ns}) AND "
                f"Timestamp < fromUnixTimestamp64Nano({self._end_ns})")

    def _when(self) -> tuple[str, str]:
        """The moment that a row belongs to, nanoseconds since 1970, and the condition that it lies in time.

        What was made of a window of its own belongs to the bucket that the end of this window closes.
        """
        if self._batch.source == "drift":
            return "toUnixTimestamp64Nano(WindowEnd) - 1", (f"WindowEnd > fromUnixTimestamp64Nano({self._start_ns}) AND "
                                                            f"WindowEnd <= fromUnixTimestamp64Nano({self._end_ns})")
        if self._batch.source == "windows":
            first_s, end_s = self._start_ns // NS, self._end_ns // NS
            return f"{_WINDOW_END} * {NS} - 1", (
                f"WindowStart >= toDateTime({max(0, first_s - WINDOW_SECONDS_MAX)}) AND WindowStart < toDateTime({end_s}) AND "
                f"{_WINDOW_END} > {first_s} AND {_WINDOW_END} <= {end_s}")
        return "toUnixTimestamp64Nano(Timestamp)", self._within()

    def text(self) -> str:
        """The SELECT: step, group, then the aggregates in the order of their places."""
        batch = self._batch
        every_ns, windows = batch.every_s * NS, batch.window_s // batch.every_s
        moment, within = self._when()
        bucket = f"intDiv({moment}, {every_ns})"
        steps = f"arrayJoin(range(greatest({bucket} + 1, {self._first}), least({bucket} + {windows}, {self._last}) + 1)) AS step"
        names = [group_expression(name, self.parameters, source=batch.source) for name in batch.group_by]
        group = f"[{', '.join(f'substringUTF8(toString({name}), 1, {GROUP_CHARS_MAX})' for name in names)}] AS grp"
        group = group if names else "CAST([], 'Array(String)') AS grp"
        inner = [steps, group, *(["Value AS score_value"] if batch.source in ("scores", "windows") else [])]
        inner += ["Count AS answers"] if batch.source == "windows" else []
        inner += [] if self._late else ["toUnixTimestamp64Milli(IngestedAt) AS arrived_ms"]
        inner += [f"{expression} AS {name}" for name, expression in self._inner.items()]
        table = rows.table(self._store, _TABLES[batch.source])
        due_ms = f"step * {batch.every_s * 1000} + {batch.lateness_s * 1000}"
        outer = ", ".join(self._outer)
        asked = " OR ".join(sorted(self._searches))
        final = "" if batch.source == "spans" else " FINAL"
        # One window is little to read: more threads cost more than they save, and searches need them.
        threads = " SETTINGS max_threads = 1" if self._first == self._last else ""
        return (
            f"SELECT step, grp, {outer} FROM (SELECT {', '.join(inner)} FROM {table}{final} WHERE {within}{threads}) "
            f"WHERE ({asked}){'' if self._late else f' AND arrived_ms < {due_ms}'} "
            f"GROUP BY step, grp ORDER BY step, count() DESC, grp LIMIT {GROUPS_READ_MAX} BY step"
        )


def steps_of(rule: Rule, lateness_s: int, now_ns: int) -> int:
    """Number of the last window that is due: windows end at multiples of `every`."""
    return (now_ns // NS - rule.lateness(lateness_s)) // rule.every_s


def spans_of_steps(first: int, last: int, size: int = STEPS_PER_STATEMENT) -> Iterable[tuple[int, int]]:
    """Ranges of at most `size` windows."""
    for start in range(first, last + 1, size):
        yield start, min(start + size - 1, last)
