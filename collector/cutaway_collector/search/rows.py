"""What a span looks like in an answer: the selected columns of a list row, and values made fit for JSON.

Not a query: `find`, `trace` and `generation` write those, around these columns.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from cutaway_collector.columns import TRACES
from cutaway_collector.contracts import Result, Store
from cutaway_collector.errors import QueryError, StoreError
from cutaway_collector.search.language import EVERYTHING, Node, regexes

SUMMARY: Final[tuple[tuple[str, str], ...]] = (
    ("model", "GenAiModel"),
    ("operation", "GenAiOperation"),
    ("input_tokens", "InputTokens"),
    ("output_tokens", "OutputTokens"),
    ("ttft_s", "TimeToFirstTokenS"),
    ("tpot_s", "TimePerOutputTokenS"),
    ("perplexity", "Perplexity"),
    ("surprisal_mean", "SurprisalMean"),
    ("surprisal_max", "SurprisalMax"),
    ("entropy_mean", "EntropyMean"),
    ("attention_entropy_mean", "AttentionEntropyMean"),
    ("attention_entropy_min", "AttentionEntropyMin"),
)
"""Key in the answer, column: the numbers of a generation, None where unknown."""

IDENTITY: Final[tuple[tuple[str, str], ...]] = (
    ("trace_id", "TraceId"),
    ("span_id", "SpanId"),
    ("parent_span_id", "ParentSpanId"),
    ("name", "SpanName"),
    ("kind", "SpanKind"),
    ("service", "ServiceName"),
    ("start_ns", "toUnixTimestamp64Nano(Timestamp)"),
    ("duration_ns", "Duration"),
    ("status", "StatusCode"),
    ("status_message", "StatusMessage"),
)
"""Key in the answer, SQL expression: what every span has."""

ATTRIBUTES: Final[tuple[tuple[str, str], ...]] = (("attributes", "SpanAttributes"), ("numbers", "SpanNumbers"))
"""Key in the answer, column: all attributes of a span; `whole` makes one of the two."""


def whole(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its long arrays of numbers among its other attributes, spelled as JSON like those that are shorter."""
    numbers = row.pop("numbers")
    row["attributes"] = row["attributes"] | {name: orjson.dumps(values).decode() for name, values in numbers.items()}
    return row


_UNKNOWN_WHEN_EMPTY: Final = frozenset({"model", "operation"})


def select(columns: Sequence[tuple[str, str]]) -> str:
    """The SELECT list of (key, expression) pairs."""
    return ", ".join(f"{expression} AS {key}" for key, expression in columns)


_AS_THEY_ARE: Final = frozenset({str, int, bool, type(None)})


def json_safe(value: Any) -> Any:
    """NaN and infinity become None, at any depth; bytes become text; the rest stays."""
    if type(value) in _AS_THEY_ARE:  # most values of a page, and asking whether they are mappings took half of its making
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value


def as_dict(keys: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """One row of a result as a JSON object: empty model and operation are unknown, so None."""
    row = {key: json_safe(value) for key, value in zip(keys, values, strict=True)}
    return {key: None if key in _UNKNOWN_WHEN_EMPTY and value == "" else value for key, value in row.items()}


_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def table(store: Store, name: str = TRACES.name) -> str:
    """`database`.`table`, quoted. The database comes from the settings, never from a request; still, only a plain name passes."""
    if not _IDENTIFIER.fullmatch(store.database):
        raise StoreError(f"a database name has letters, digits and _, it is {store.database[:64]!r}", retryable=False)
    return f"`{store.database}`.`{name}`"


def seconds_left(seconds_max: float | None, taken_s: float) -> float | None:
    """What is left of a limit for the next of several queries: a little even when it is spent. None for no limit."""
    return None if seconds_max is None else max(0.05, seconds_max - taken_s)


def run(
    store: Store, sql: str, parameters: Mapping[str, Any], tree: Node = EVERYTHING, *, seconds_max: float | None = None,
) -> Result:
    """store.query, with what only the engine can find wrong in the query `tree` said as a QueryError at its column."""
    try:
        return store.query(sql, parameters) if seconds_max is None else store.query(sql, parameters, seconds_max=seconds_max)
    except StoreError as error:
        if "Code: 427" in str(error):  # CANNOT_COMPILE_REGEXP
            raise _refused(str(error), tree) from error
        raise


_COMPLAINT: Final = re.compile(r"error: (.{1,120}?)(?:\. Look at |: In scope|$)")


def _refused(message: str, tree: Node) -> QueryError:
    """The engine names the pattern and its trouble, the tree knows where the pattern stands."""
    found = regexes(tree)
    # A pattern within another is named in the other's complaint too: the longest that is named is the one.
    named = max((regex for regex in found if regex.pattern in message), key=lambda regex: len(regex.pattern), default=None)
    at = named or (found[0] if len(found) == 1 else None)
    trouble = _COMPLAINT.search(message)
    said = f": {trouble.group(1).strip()}" if trouble else ""
    hint = "simplify it, or use a glob*"
    if re.search(r"\(\?(?:=|!|<=|<!)|\\[1-9]", at.pattern if at else ""):
        hint = "RE2 has no look-around and no back-references: combine several terms with AND, OR and - instead"
    return QueryError(f"the store's regular expressions (RE2) do not accept {'this one' if at else 'one of this query'}{said}",
                      column=at.at if at else 0, hint=hint)
