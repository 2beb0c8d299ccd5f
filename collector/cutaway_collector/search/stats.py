"""Figures over the spans of a search: `| stats count(), p95(duration) by model every 1h` as a table with names and units.

Not rows of spans, which are `find`'s, and not a drawing. A span that was sent twice counts once, as far as `counts` can tell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from cutaway_collector.contracts import Result, Store
from cutaway_collector.errors import QueryError
from cutaway_collector.search import aggregates, counts, english, fields, language, rows, scores, sql, values
from cutaway_collector.search.aggregates import Measure
from cutaway_collector.search.counts import Extent
from cutaway_collector.search.fields import Field
from cutaway_collector.search.parameters import Parameters
from cutaway_collector.search.request import SearchRequest
from cutaway_collector.search.scores import Score
from cutaway_collector.search.tree import Aggregate, Name, Node, Query, Stats

FUNCTIONS: Final[dict[str, tuple[str, str]]] = {
    "count": ("countIf({0} IS NOT NULL)", "how many spans, or how many of them have the field"),
    "distinct": ("uniqExact({0})", "how many different values"),
    "sum": ("sum({0})", "all values together"),
    "mean": ("avg({0})", "the mean"),
    "min": ("min({0})", "the smallest"),
    "max": ("max({0})", "the largest"),
    "p50": ("quantileExactInclusive(0.5)({0})", "the median"),
    "p90": ("quantileExactInclusive(0.9)({0})", "what nine in ten do not exceed"),
    "p95": ("quantileExactInclusive(0.95)({0})", "what 19 in 20 do not exceed"),
    "p99": ("quantileExactInclusive(0.99)({0})", "what 99 in 100 do not exceed"),
    "std": ("stddevPop({0})", "the standard deviation"),
}
"""Name -> ClickHouse aggregate over a column of numbers or NULL, what it is. Percentiles lie between the two nearest values."""
_ELSEWHERE: Final = {"avg": "mean", "average": "mean", "median": "p50", "stddev": "std", "stdev": "std", "uniq": "distinct",
                     "unique": "distinct", "nunique": "distinct", "count_distinct": "distinct", "total": "sum"}
"""What other languages call a function of ours, for "did you mean"."""
OF_ANYTHING: Final = ("count", "distinct")
"""Functions of fields that need not be numbers."""
GROUPS_MAX: Final = 100
"""Groups of a table without `every`."""
LINES_MAX: Final = 12
"""Groups of a table with `every`: more cannot be told apart in a drawing."""
POINTS_MAX: Final = 500
"""Intervals of a table with `every`."""
TEXT_CHARACTERS_MAX: Final = 200
_NS: Final = 10**9
_NICE_S: Final = (1, 10, 60, 300, 900, 3600, 21_600, 86_400, 604_800)


@dataclass(frozen=True, slots=True)
class Column:
    """One column. kind: "time" holds nanoseconds since 1970 UTC (the start of an interval), "group" text or None, "figure" a number
    or None. unit: as `fields.Field.unit`."""

    name: str
    kind: Literal["time", "group", "figure"]
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """The figures. rows: in the order of columns. cut: a sentence when there are more groups than rows, "" when all are here.

    matched: spans. exact: False when repetitions of spans may be among them. every_ns: 0 without intervals. rows_read: -1 when the
    engine did not tell.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    sql: str
    parameters: dict[str, Any]
    elapsed_ms: float
    rows_read: int
    start_ns: int
    end_ns: int
    every_ns: int
    matched: int
    exact: bool
    cut: str
    explanation: str
    warnings: tuple[str, ...]


def stats(store: Store, request: SearchRequest) -> Table:
    """The table that the query of a request asks for with `| stats`. Raises QueryError, StoreError."""
    asked = language.read(request.q)
    if asked.stats is None:
        raise QueryError("figures are asked for with a stage", hint="try | stats count() by model")
    wanted = _Wanted(asked.stats)
    order, descending = _order(asked, wanted)
    found = counts.extent(store, replace(request, q=asked.text, view="spans"))
    every_ns = _every(asked.stats, found)
    most = LINES_MAX if every_ns else GROUPS_MAX
    limit = min(most, asked.limit.count) if asked.limit is not None else most
    groups: list[Any] = []
    cut, results = False, list[Result]()
    if wanted.by or not every_ns:
        by = f"isNull({order}) ASC, {order} {'DESC' if descending else 'ASC'}"
        text, parameters = _query(store, asked.where, found, wanted, by, limit)
        results.append(rows.run(store, text, parameters, asked.where))
        groups, cut = [row[: len(wanted.by)] for row in results[0].rows[:limit]], len(results[0].rows) > limit
    if every_ns:
        text, parameters = _query(store, asked.where, found, wanted, "bucket ASC", POINTS_MAX * LINES_MAX, every_ns, groups)
        results.append(rows.run(store, text, parameters, asked.where))
    shown = results[-1].rows if every_ns else results[-1].rows[:limit]
    named = scores.named(asked.where) + [target.key for target in wanted.targets if isinstance(target, Score)]
    return Table(
        columns=wanted.columns(timed=bool(every_ns)), rows=tuple(_row(row, len(wanted.by), every_ns) for row in shown),
        sql=text, parameters=parameters, elapsed_ms=round(sum(one.elapsed_s for one in results) * 1000, 3),
        rows_read=sum(one.rows_read for one in results) if all(one.rows_read >= 0 for one in results) else -1,
        start_ns=found.span.start_ns, end_ns=found.span.end_ns, every_ns=every_ns, matched=found.count, exact=found.exact,
        cut=f"There are more groups: these are the first {limit}." if cut else "", explanation=english.explain(request.q),
        warnings=(*english.warnings(asked.where), *scores.warnings(store, named, found.span.start_ns)),
    )


def _row(row: Any, groups: int, every_ns: int) -> tuple[Any, ...]:
    time = (int(row[0]) * every_ns,) if every_ns else ()
    rest = row[1:] if every_ns else row
    return (*time, *(value or None for value in rest[:groups]), *(rows.json_safe(value) for value in rest[groups:]))


class _Wanted:
    """What a `stats` stage asks for, resolved. Raises QueryError for what cannot be counted or grouped by."""

    def __init__(self, stage: Stats) -> None:
        self.by = stage.by
        self.groups = [_group(name) for name in stage.by]
        self.aggregates = stage.aggregates
        self.targets = [_target(one) for one in stage.aggregates]

    def columns(self, *, timed: bool) -> tuple[Column, ...]:
        """Those of the table."""
        time = (Column("time", "time", "ns"),) if timed else ()
        figures = zip(self.aggregates, self.targets, strict=True)
        return (*time, *(Column(name.text, "group") for name in self.by),
                *(Column(one.text, "figure", _unit(one, target)) for one, target in figures))

    def names(self) -> dict[str, str]:
        """Name of a column as written -> SQL name of it."""
        by = {name.text.lower(): f"group{index}" for index, name in enumerate(self.by)}
        return by | {one.text.replace(" ", "").lower(): f"figure{index}" for index, one in enumerate(self.aggregates)}


def _group(name: Name) -> sql.Key | Field:
    scope, key = language.split_scope(name.text)
    target = sql.resolve(key, scope, at=name.at)
    if isinstance(target, Score | Measure) or (isinstance(target, Field) and target.kind == "number"):
        raise QueryError(f"groups are made by texts, {target.name} is a number", column=name.at,
                         hint="try by model, by service, by name")
    if isinstance(target, sql.Key) and not scope and (near := fields.nearest(name.text)):
        raise QueryError(f"`{name.text[:40]}` is no field", column=name.at,
                         hint=f"did you mean {near}? An attribute of that name is written span.{name.text[:40]}")
    return target


def _target(one: Aggregate) -> sql.Target | None:
    """What a figure is about, None for `count()`."""
    if one.function not in FUNCTIONS:
        near = _ELSEWHERE.get(one.function) or fields.nearest(one.function, tuple(FUNCTIONS))
        raise QueryError(f"there is no figure `{one.function[:20]}`: there are {', '.join(FUNCTIONS)}", column=one.at,
                         hint=f"did you mean {near}({one.field[:40]})?" if near else "try count()")
    if not one.field:
        if one.function == "count":
            return None
        raise QueryError(f"{one.function}() is of a field", column=one.at, hint=f"try {one.function}(duration)")
    scope, key = language.split_scope(one.field)
    target = sql.resolve(key, scope, at=one.field_at)
    if isinstance(target, Field) and target.kind != "number" and one.function not in OF_ANYTHING:
        raise QueryError(f"{target.name} is {target.kind}, it has no {one.function}", column=one.field_at,
                         hint=f"try distinct({target.name}), or by {target.name}")
    if isinstance(target, sql.Key) and not scope and (near := aggregates.nearest(one.field)):
        raise QueryError(f"`{one.field[:40]}` is no field", column=one.field_at,
                         hint=f"did you mean {near}? An attribute of that name is written span.{one.field[:40]}")
    return target


def _unit(one: Aggregate, target: sql.Target | None) -> str:
    return target.unit if isinstance(target, Field | Measure) and one.function not in OF_ANYTHING else ""


def _order(asked: Query, wanted: _Wanted) -> tuple[str, bool]:
    """(SQL name of the column that groups are ordered by, whether it descends): the first figure, unless `sort` says another."""
    if asked.sort is None:
        return "figure0", True
    names = wanted.names()
    written = asked.sort.text.removeprefix("-").replace(" ", "").lower()
    if written not in names:
        near = fields.nearest(written, tuple(names))
        raise QueryError("behind stats, rows are sorted by a figure or a field of it", column=asked.sort.key_at,
                         hint=f"did you mean {near or next(iter(names))}?")
    return names[written], asked.sort.text.startswith("-")


def _every(stage: Stats, found: Extent) -> int:
    """Nanoseconds of an interval, 0 for none. Raises QueryError where it is no time or there are too many of them."""
    if stage.every is None:
        return 0
    every_ns = int(values.number(stage.every, "ns", "every"))
    if every_ns < 1_000_000:
        raise QueryError("an interval is at least a millisecond", column=stage.every.at, hint="try every 1h")
    points = (found.last_ns // every_ns - found.first_ns // every_ns + 1) if found.count else 0
    if points > POINTS_MAX:
        fit = next((step for step in _NICE_S if (found.last_ns - found.first_ns) / (step * _NS) < POINTS_MAX), 31 * 86_400)
        raise QueryError(f"{points} intervals are asked for, at most {POINTS_MAX} are drawn", column=stage.every.at,
                         hint=f"try every {_spelt(fit)}, or a shorter time range")
    return every_ns


def _spelt(seconds: int) -> str:
    unit, size = next((unit, size) for unit, size in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)) if seconds % size == 0)
    return f"{seconds // size}{unit}"


def _query(
    store: Store, where: Node, found: Extent, wanted: _Wanted, order: str, limit: int, every_ns: int = 0, groups: Any = (),
) -> tuple[str, dict[str, Any]]:
    """SELECT of group0.., figure0.. and values; with every_ns of bucket before them, for these groups alone."""
    parameters = Parameters(database=store.database)
    condition = f"{found.span.condition(parameters)} AND {sql.condition(where, parameters)}"
    read, joins = [_text(target, parameters) + f" AS group{index}" for index, target in enumerate(wanted.groups)], ""
    for index, (one, target) in enumerate(zip(wanted.aggregates, wanted.targets, strict=True)):
        value, join = _value(one, target, f"joined{index}", parameters)
        read.append(f"{value} AS value{index}")
        joins += join
    if every_ns:
        read.append(f"intDiv(toUnixTimestamp64Nano(Timestamp), {parameters.bind(every_ns, 'Int64')}) AS bucket")
    once = " LIMIT 1 BY Timestamp, SpanId, TraceId" if found.repeated else ""
    inner = f"SELECT {', '.join(read)} FROM {rows.table(store)}{joins} WHERE {condition}{once}"
    names = [*(["bucket"] if every_ns else []), *(f"group{index}" for index in range(len(wanted.groups)))]
    figures = [f"{FUNCTIONS[one.function][0].format(f'value{index}')} AS figure{index}"
               for index, one in enumerate(wanted.aggregates)]
    among = ""
    if every_ns and wanted.groups:
        keys = (f"({', '.join(parameters.text(str(value)) for value in group)})" for group in groups)
        among = f" WHERE ({', '.join(names[1:])}) IN ({', '.join(keys)})" if groups else " WHERE 0"
    grouped = f" GROUP BY {', '.join(names)}" if names else ""
    ties = "".join(f", {name} ASC" for name in names)
    text = (f"SELECT {', '.join([*names, *figures])} FROM ({inner}){among}{grouped} ORDER BY {order}{ties} "
            f"LIMIT {parameters.bind(limit + 1, 'UInt64')}")
    return text, parameters.values


def _text(target: sql.Key | Field, parameters: Parameters) -> str:
    """SQL String expression to group by; of a list each of its values."""
    if isinstance(target, sql.Key):
        return f"substringUTF8({target.expression(parameters)}, 1, {TEXT_CHARACTERS_MAX})"
    if target.kind == "list":
        texts = f"arrayMap(item -> substringUTF8(toString(item), 1, {TEXT_CHARACTERS_MAX}), arrayDistinct({target.expression}))"
        return f"arrayJoin(if(empty({target.expression}), [''], {texts}))"
    return f"substringUTF8(toString({target.expression}), 1, {TEXT_CHARACTERS_MAX})"


def _value(one: Aggregate, target: sql.Target | None, alias: str, parameters: Parameters) -> tuple[str, str]:
    """(SQL expression of what is counted, NULL where it is absent; what is joined for it)."""
    if target is None:
        return "toNullable(1)", ""
    if isinstance(target, Measure):
        return alias, target.join(parameters, alias)
    if isinstance(target, Score):
        return alias, scores.join(target.key, parameters, largest=True, alias=alias)
    if one.function in OF_ANYTHING:
        if isinstance(target, sql.Key):
            return f"if({target.present(parameters)}, {target.expression(parameters)}, NULL)", ""
        return f"if({target.present}, toString({target.expression}), NULL)", ""
    number = f"toFloat64({target.expression})" if isinstance(target, Field) else f"toFloat64OrNull({target.expression(parameters)})"
    return f"if(isFinite({number}), {number}, NULL)", ""
