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
from cutaway_collector.search.parameters import Parameters
from cutaway_collector.search.spansets import SELF
from cutaway_collector.search.tree import Has, Node, Term, walk

SCOPE: Final = "score"
VALUE: Final = "scored_value"
NAMES_MAX: Final = 1000
CLOCK_SLACK_S: Final = 3600
"""How long before its span a score may be dated: a judge's clock may be slow."""
_NS: Final = 10**9
_ORDER: Final = "(Version, cityHash64(Value, Label))"
"""What is newest. Of scores that came in the same millisecond always the same one, whatever the order of the rows."""
_NUMBER: Final = "bitShiftLeft(toUInt128(Version), 64) + cityHash64(Value, Label)"
"""The same order as one number, which the engine compares four times faster than a pair."""
_TRACE: Final = "cityHash64(TraceId, '')"
"""SQL expression: which trace a span belongs to, as SELF says it of the rows of a score that judges a whole trace."""
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
        """SQL condition over otel_traces: of some sequence and source of the span the newest score fulfils the condition.

        condition: over Value (NaN for a label alone) and Label.
        """
        # Numbers alone are grouped and kept, and the rows are read once: the engine knows the two lists for one and the same.
        each = _each(parameters, parameters.text(self.key), f"IsDeleted = 0 AND ({condition})")
        found = f"SELECT scored FROM ({each}) WHERE newest"
        return f"({SELF} IN ({found}) OR (ParentSpanId = '' AND {_TRACE} IN ({found})))"

    def present(self, parameters: Parameters) -> str:
        """SQL condition: the span has it."""
        return self.where(parameters, "1")

    def expression(self, parameters: Parameters) -> str:
        """A score is no column of a span. Raises QueryError."""
        raise QueryError(f"{self.name} is a score, which is no field of a span here", hint="search by it, or sort by it")


def _each(parameters: Parameters, name: str, newest: str, more: str = "") -> str:
    """SELECT of `scored`, the span (or trace, see _TRACE), and `newest`, the expression of the row that counts.

    A row a span, sequence and source. more: a condition on rows.
    """
    where = f"ScoreName = {name}{more}"
    if parameters.start_ns:
        since = parameters.bind(max(0, parameters.start_ns - CLOCK_SLACK_S * _NS), "Int64")
        where += f" AND Timestamp >= fromUnixTimestamp64Nano({since})"
    return (
        f"SELECT {SELF} AS scored, argMax({newest}, {_NUMBER}) AS newest "
        f"FROM {parameters.table(SCORES.name)} WHERE {where} GROUP BY scored, SeqIndex, Source"
    )


def join(key: str, parameters: Parameters, *, largest: bool, alias: str = VALUE) -> str:
    """JOIN clause behind otel_traces that gives each span its score as `alias`, NULL where it has none or only a label.

    Of several sequences and sources the largest value counts, or the smallest. Scores of whole traces are not looked at.
    """
    each = _each(parameters, parameters.text(key), "if(IsDeleted = 0, Value, nan)", " AND SpanId != ''")
    text = (
        f"SELECT scored AS {alias}_span, toNullable({'max' if largest else 'min'}(newest)) AS {alias} FROM ({each}) "
        f"WHERE isFinite(newest) GROUP BY {alias}_span"
    )
    return f" LEFT ANY JOIN ({text}) AS {alias}_join ON {SELF} = {alias}_span"


def named(tree: Node) -> list[str]:
    """Score names in a query, in the order of the text, each once."""
    found = (node.field for node in walk(tree) if isinstance(node, Term | Has) and node.scope == SCOPE)
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


def scores(store: Store, trace_id: str, *, span_ids: Sequence[str] = (), start_ns: int = 0, limit: int) -> list[dict[str, Any]]:
    """The newest score of each span, sequence, name and source: of these spans, or of all of the trace.

    A score of the whole trace has the span id "". start_ns: start of the span or trace, 0 when unknown. In the order of span,
    sequence and name. Raises StoreError.
    """
    parameters = Parameters()
    where = f"TraceId = {parameters.text(trace_id)}"
    if span_ids:
        where += f" AND SpanId IN ({', '.join(map(parameters.text, span_ids))})"
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
