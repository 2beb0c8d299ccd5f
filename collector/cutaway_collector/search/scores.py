"""Scores of spans: `score.name` as a part of a search, the order of rows by a score, and the scores a page shows.

Not the judging. A span, sequence, score name and source has one score, the newest (by Version; the store may still hold the older
ones), and none when the newest is deleted. Rows are found by the ids of trace and span. A score without a span judges the whole
trace: a search finds the trace's root span by it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cutaway_collector.columns import SCORES
from cutaway_collector.contracts import Store
from cutaway_collector.errors import QueryError
from cutaway_collector.search import rows
from cutaway_collector.search.language import And, Has, Node, Not, Or, Term
from cutaway_collector.search.parameters import Parameters

SCOPE: Final = "score"
VALUE: Final = "scored_value"
NAMES_MAX: Final = 1000
CLOCK_SLACK_S: Final = 3600
"""How long before its span a score may be dated: a judge's clock may be slow."""
_NS: Final = 10**9
_ORDER: Final = "(Version, cityHash64(Value, Label))"
"""What is newest. Of scores that came in the same millisecond always the same one, whatever the order of the rows."""
_PLAIN: Final = re.compile(r"[^\W\d][\w.@$/-]*")

KEYS: Final[tuple[tuple[str, str], ...]] = (
    ("span_id", "SpanId"), ("sequence", "SeqIndex"), ("name", "ScoreName"), ("value", "Value"), ("label", "Label"),
    ("scorer_version", "ScorerVersion"), ("source", "Source"), ("explanation", "Explanation"),
)
"""Key in the answer, column."""


@dataclass(frozen=True, slots=True)
class Score:
    """A score name in a query, as the user wrote it."""

    key: str

    @property
    def name(self) -> str:
        """As the user may write it."""
        if _PLAIN.fullmatch(self.key):
            return f"{SCOPE}.{self.key}"
        escaped = self.key.replace("\\", "\\\\").replace('"', '\\"')
        return f'{SCOPE}."{escaped}"'

    def where(self, parameters: Parameters, condition: str) -> str:
        """SQL condition over otel_traces: some sequence of the span has a score whose `newest` fulfils the condition.

        newest: Tuple(value Float64, label String, deleted UInt8), the value NaN for a label alone.
        """
        name = parameters.text(self.key)
        own = f"SELECT TraceId, SpanId FROM ({_newest(parameters, name)}) WHERE newest.3 = 0 AND {condition}"
        whole = f"SELECT TraceId FROM ({_newest(parameters, name, whole=True)}) WHERE newest.3 = 0 AND {condition}"
        return f"((TraceId, SpanId) IN ({own}) OR (ParentSpanId = '' AND TraceId IN ({whole})))"

    def present(self, parameters: Parameters) -> str:
        """SQL condition: the span has it."""
        return self.where(parameters, "1")

    def expression(self, parameters: Parameters) -> str:
        """A score is no column of a span. Raises QueryError."""
        raise QueryError(f"{self.name} is a score, which is no field of a span here", hint="search by it, or sort by it")


def _table(parameters: Parameters) -> str:
    return f"`{parameters.database}`.`{SCORES.name}`" if parameters.database else f"`{SCORES.name}`"


def _newest(parameters: Parameters, name: str, *, whole: bool = False) -> str:
    """SELECT of TraceId, SpanId, newest: a row a span, sequence and source. whole: of the scores without a span alone."""
    where = f"ScoreName = {name}" + (" AND SpanId = ''" if whole else " AND SpanId != ''")
    if parameters.start_ns:
        since = parameters.bind(max(0, parameters.start_ns - CLOCK_SLACK_S * _NS), "Int64")
        where += f" AND Timestamp >= fromUnixTimestamp64Nano({since})"
    return (
        f"SELECT TraceId, SpanId, argMax((Value, Label, IsDeleted), {_ORDER}) AS newest "
        f"FROM {_table(parameters)} WHERE {where} GROUP BY TraceId, SpanId, SeqIndex, Source"
    )


def join(key: str, parameters: Parameters, *, largest: bool) -> str:
    """JOIN clause behind otel_traces that gives each span its score as `VALUE`, NULL where it has none or only a label.

    Of several sequences and sources the largest value counts, or the smallest. Scores of whole traces are not looked at.
    """
    text = (
        f"SELECT TraceId AS scored_trace, SpanId AS scored_span, toNullable({'max' if largest else 'min'}(newest.1)) AS {VALUE} "
        f"FROM ({_newest(parameters, parameters.text(key))}) WHERE newest.3 = 0 AND isFinite(newest.1) "
        "GROUP BY scored_trace, scored_span"
    )
    return f" LEFT ANY JOIN ({text}) AS scored ON TraceId = scored_trace AND SpanId = scored_span"


def named(tree: Node) -> list[str]:
    """Score names in a query, in the order of the text, each once."""
    found: list[str] = []
    todo: list[Node] = [tree]
    while todo:
        node = todo.pop(0)
        if isinstance(node, And | Or):
            todo[:0] = node.parts
        elif isinstance(node, Not):
            todo.insert(0, node.part)
        elif isinstance(node, Term | Has) and node.scope == SCOPE:
            found.append(node.field)
    return list(dict.fromkeys(found))


def warnings(store: Store, wanted: Sequence[str], start_ns: int) -> list[str]:
    """One sentence for each of these score names that nothing stored since `start_ns` has. Raises StoreError."""
    if not wanted:
        return []
    parameters = Parameters()
    since = parameters.bind(max(0, start_ns - CLOCK_SLACK_S * _NS), "Int64")
    text = (
        f"SELECT DISTINCT ScoreName FROM {rows.table(store, SCORES.name)} WHERE Timestamp >= fromUnixTimestamp64Nano({since}) "
        f"LIMIT {parameters.bind(NAMES_MAX, 'UInt64')}"
    )
    known = sorted(str(row[0]) for row in store.query(text, parameters.values).rows)
    return [_unknown(name, known) for name in wanted if name not in known and len(known) < NAMES_MAX]


def _unknown(name: str, known: Sequence[str]) -> str:
    lower = {other.lower(): other for other in known}
    near = difflib.get_close_matches(name.lower(), list(lower), n=1, cutoff=0.5)
    if near:
        return f"No score is named `{name[:50]}`. Did you mean `{Score(lower[near[0]]).name}`?"
    if known:
        return f"No score is named `{name[:50]}`. There are {', '.join(f'`{Score(other).name}`' for other in known[:8])}."
    return f"No score is named `{name[:50]}`: no scores are stored yet."


def scores(store: Store, trace_id: str, *, span_id: str = "", start_ns: int = 0, limit: int) -> list[dict[str, Any]]:
    """The newest score of each span, sequence, name and source: of one span, or without `span_id` of the trace.

    A score of the whole trace has the span id "". start_ns: start of the span or trace, 0 when unknown. In the order of span,
    sequence and name. Raises StoreError.
    """
    parameters = Parameters()
    where = f"TraceId = {parameters.text(trace_id)}"
    if span_id:
        where += f" AND SpanId = {parameters.text(span_id)}"
    if start_ns:
        where += f" AND Timestamp >= fromUnixTimestamp64Nano({parameters.bind(max(0, start_ns - CLOCK_SLACK_S * _NS), 'Int64')})"
    columns = ", ".join(column for _, column in KEYS)
    text = (
        f"SELECT {columns} FROM (SELECT {columns}, IsDeleted FROM {rows.table(store, SCORES.name)} WHERE {where} "
        f"ORDER BY {_ORDER} DESC LIMIT 1 BY SpanId, SeqIndex, ScoreName, Source) WHERE IsDeleted = 0 "
        f"ORDER BY SpanId, SeqIndex, ScoreName, Source LIMIT {parameters.bind(limit, 'UInt64')}"
    )
    keys = [key for key, _ in KEYS]
    return [rows.as_dict(keys, row) for row in store.query(text, parameters.values).rows]


def twin(score: Mapping[str, Any]) -> dict[str, Any]:
    """A score as the JSON of a trace has it: without its explanation, which may be long."""
    return {key: score[key] for key, _ in KEYS if key != "explanation"}
