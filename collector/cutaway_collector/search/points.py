"""The generations of a search as points for a map: a stable sample, their numbers, and what they say.

Not the map: where a point lies is the latent verb's arithmetic. Texts are read apart, for those that are not known yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from cutaway_collector import messages
from cutaway_collector.columns import TOKENS
from cutaway_collector.contracts import Store
from cutaway_collector.errors import QueryError
from cutaway_collector.search import fields, language, rows, sql, window
from cutaway_collector.search.fields import Field
from cutaway_collector.search.parameters import Parameters

TEXT_BYTES_MAX: Final = 64 * 1024
"""Bytes of texts of one span that are read; a span with more has no place among texts."""
TOKENS_MAX: Final = 512
"""Tokens of an answer that are read: an embedder looks at no more."""
FEATURES: Final[tuple[tuple[str, str], ...]] = (
    ("mean surprisal", "SurprisalMean"), ("largest surprisal", "SurprisalMax"), ("mean entropy", "EntropyMean"),
    ("surprisal slope", "SurprisalSlope"), ("mean attention entropy", "AttentionEntropyMean"),
    ("narrowest attention", "AttentionEntropyMin"), ("sink mass", "AttentionSinkMean"), ("lookback ratio", "AttentionLookbackMean"),
    ("repetition", "Repetition"), ("compression ratio", "CompressionRatio"),
    ("log of output tokens", "log(nullIf(OutputTokens, 0))"), ("log of time to first token", "log(nullIf(TimeToFirstTokenS, 0))"),
    ("log of time per token", "log(nullIf(TimePerOutputTokenS, 0))"),
)
"""What it is called, SQL expression: the numbers of a generation by which it is placed where there is no text."""


class Key(NamedTuple):
    """What names a span."""

    trace_id: str
    span_id: str
    start_ns: int


@dataclass(frozen=True, slots=True)
class Point:
    """One generation. value: of the field to colour by, "" or None for none. numbers: of FEATURES, None where not known."""

    key: Key
    service: str
    model: str
    value: Any
    numbers: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Points:
    """points: a sample in the order of a hash of their ids, the same for the same spans. total: generations that match."""

    points: list[Point]
    total: int


def colour_field(name: str) -> Field:
    """The field to colour by. Raises QueryError for one that is none, or a list."""
    field = fields.lookup(name)
    if field is None:
        near = fields.nearest(name)
        raise QueryError(f"points cannot be coloured by {name[:40]!r}: it is not a field", hint=f"did you mean {near}?" if near else
                         "try perplexity or model")
    if field.kind == "list":
        raise QueryError(f"points cannot be coloured by {field.name}: it is a list", hint="try perplexity or model")
    return field


def points(store: Store, q: str, start_ns: int | None, end_ns: int | None, colour: Field, limit: int) -> Points:
    """Raises QueryError, StoreError."""
    tree = language.parse(q)
    span = window.choose(store, start_ns, end_ns)
    flag = fields.flag("generation")
    assert flag is not None

    def where(parameters: Parameters) -> str:
        return f"{span.condition(parameters)} AND {flag.condition} AND {sql.condition(tree, parameters)}"

    counting = Parameters(database=store.database)
    count = f"SELECT uniqExact(TraceId, SpanId) FROM {rows.table(store)} WHERE {where(counting)}"
    total = int(rows.run(store, count, counting.values, tree).rows[0][0])
    parameters = Parameters(database=store.database)
    numbers = ", ".join(f"toFloat64({expression})" for _, expression in FEATURES)
    text = (
        f"SELECT TraceId, SpanId, toUnixTimestamp64Nano(Timestamp), ServiceName, GenAiModel, {colour.expression} AS value, "
        f"[{numbers}] FROM {rows.table(store)} WHERE {where(parameters)} ORDER BY cityHash64(TraceId, SpanId) "
        f"LIMIT 1 BY TraceId, SpanId LIMIT {parameters.bind(limit, 'UInt64')}"
    )
    found = [Point(Key(trace, one, int(at)), service, model, rows.json_safe(value), rows.json_safe(values))
             for trace, one, at, service, model, value, values in rows.run(store, text, parameters.values, tree).rows]
    return Points(found, total)


class Said(NamedTuple):
    """The texts of a generation, of its first sequence; "" for what is not known."""

    prompt: str
    answer: str


def texts(store: Store, keys: Sequence[Key]) -> Mapping[Key, Said]:
    """What these generations say, as far as it was captured. Raises StoreError."""
    if not keys:
        return {}
    times = [key.start_ns for key in keys]
    bound = {"first": min(times), "last": max(times), "spans": [key.span_id for key in keys], "names": messages.ATTRIBUTES,
             "most": TEXT_BYTES_MAX, "tokens": TOKENS_MAX}
    within = ("Timestamp >= fromUnixTimestamp64Nano({first:Int64}) AND Timestamp <= fromUnixTimestamp64Nano({last:Int64}) "
              "AND SpanId IN {spans:Array(String)}")
    spans = store.query(
        "SELECT TraceId, SpanId, toUnixTimestamp64Nano(Timestamp), "
        "mapFilter((name, value) -> match(name, {names:String}), SpanAttributes) AS said, `Events.Name`, `Events.Attributes` "
        f"FROM {rows.table(store)} WHERE {within} AND arraySum(value -> length(value), mapValues(said)) "
        "+ arraySum(held -> arraySum(value -> length(value), mapValues(held)), `Events.Attributes`) <= {most:UInt64}", bound).rows
    tokens = store.query(
        "SELECT TraceId, SpanId, toUnixTimestamp64Nano(Timestamp), arrayStringConcat(arraySlice(TokenTexts, 1, {tokens:UInt64})) "
        f"FROM {rows.table(store, TOKENS.name)} WHERE {within} AND SeqIndex = 0", bound).rows
    wanted, pieces = set(keys), {Key(*row[:3]): str(row[3]) for row in tokens}
    found: dict[Key, Said] = {}
    for *ids, attributes, names, held in spans:
        key = Key(*ids)
        if key in wanted:
            events = [{"name": name, "attributes": given} for name, given in zip(names, held, strict=True)]
            asked, answered = messages.asked(attributes, events), messages.answered(attributes, events)
            last = next((message.text for message in reversed(asked) if message.role in ("user", "input", "human")), "")
            found[key] = Said(last or (asked[-1].text if asked else ""), answered[0].text if answered else pieces.get(key, ""))
    return found
