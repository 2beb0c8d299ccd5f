"""What a page of rows shows besides the rows themselves: surprisal in 32 parts, and values of columns somebody asked for.

Not the search: these are read for the rows of one page alone, by their ids and the keys of their table, one query a table and never
one a row.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cutaway_collector.columns import SCORES, TOKENS
from cutaway_collector.contracts import Store
from cutaway_collector.search import language, rows, scores, sql
from cutaway_collector.search.aggregates import Measure
from cutaway_collector.search.fields import Field
from cutaway_collector.search.parameters import Parameters
from cutaway_collector.search.scores import Score
from cutaway_collector.search.sql import Key

PARTS: Final = 32
TEXT_CHARACTERS_MAX: Final = 200
TOKENS_MAX: Final = 80
SCORES_MAX: Final = 50
_Row = Mapping[str, Any]


def sparklines(store: Store, page: Sequence[_Row]) -> dict[tuple[str, str], dict[str, Any]]:
    """(trace id, span id) -> {"parts": [at most 32 means in nats], "tokens", "largest", "at"} of its first sequence.

    parts: the sequence in equal parts, one a token where it is shorter, None where no value is finite. largest, at: the
    least expected token's surprisal and index. Spans without a stored series are not in it. Raises StoreError.
    """
    wanted = [row for row in page if row["output_tokens"] and row["span_id"]]
    if not wanted:
        return {}
    parameters = Parameters()
    where = _of(wanted, parameters, "ServiceName", "service") + f" AND {_among('GenAiModel', 'model', wanted, parameters)}"
    parts = parameters.bind(PARTS, "UInt64")
    # Part i of p begins at token i * n / p, cut to a whole number, so that no token is in two of them and none in none.
    cut = "intDiv(part * n, p)"
    mean = f"arrayAvg(arrayFilter(x -> isFinite(x), arraySlice(Surprisals, {cut} + 1, intDiv((part + 1) * n, p) - {cut})))"
    text = (
        f"SELECT TraceId, SpanId, n, arrayMap(part -> {mean}, range(p)) AS parts, "
        "arrayMax(arrayMap(x -> if(isFinite(x), x, -inf), Surprisals)) AS largest, indexOf(Surprisals, largest) AS place "
        f"FROM (SELECT TraceId, SpanId, SeqIndex, Surprisals, length(Surprisals) AS n, least(n, {parts}) AS p "
        f"FROM {rows.table(store, TOKENS.name)} WHERE {where} AND n > 0 ORDER BY SeqIndex LIMIT 1 BY TraceId, SpanId)"
    )
    found = rows.run(store, text, parameters.values)
    return {
        (trace_id, span_id): {"parts": rows.json_safe(list(values)), "tokens": int(tokens), "largest": rows.json_safe(largest),
                              "at": int(at) - 1}
        for trace_id, span_id, tokens, values, largest, at in found.rows
    }


def glance(store: Store, trace_id: str, span_id: str, start_ns: int) -> dict[str, Any] | None:
    """A closer look at one row: {"attributes", "resource", "tokens", "scores"}, None for a span that is not stored.

    tokens: the first of its first sequence, [{"text" or None, "id" or None, "surprisal"}]. start_ns: its start. Raises StoreError.
    """
    parameters = Parameters()
    at = f"Timestamp = fromUnixTimestamp64Nano({parameters.bind(start_ns, 'Int64')})"
    where = f"{at} AND SpanId = {parameters.text(span_id)} AND TraceId = {parameters.text(trace_id)}"
    most = parameters.bind(TOKENS_MAX, "UInt64")
    attributes = rows.select((*rows.ATTRIBUTES, ("resource", "ResourceAttributes")))
    found = rows.run(store, f"SELECT {attributes} FROM {rows.table(store)} WHERE {where} LIMIT 1", parameters.values).rows
    if not found:
        return None
    span = rows.whole(rows.as_dict(("attributes", "numbers", "resource"), found[0]))
    series = ", ".join(f"arraySlice({column}, 1, {most})" for column in ("TokenTexts", "TokenIds", "Surprisals"))
    text = f"SELECT {series} FROM {rows.table(store, TOKENS.name)} WHERE {where} ORDER BY SeqIndex LIMIT 1"
    tokens = rows.run(store, text, parameters.values).rows
    texts, ids, surprisals = map(rows.json_safe, tokens[0]) if tokens else ([], [], [])
    one = itertools.zip_longest(texts, ids, surprisals)
    return {
        **span, "tokens": [{"text": text, "id": number, "surprisal": value} for text, number, value in one],
        "scores": scores.scores(store, trace_id, span_ids=(span_id,), start_ns=start_ns, limit=SCORES_MAX),
    }


def columns(store: Store, page: Sequence[_Row], names: Sequence[str]) -> list[dict[str, Any]]:
    """For each row {name: value}: of fields and attributes as stored, text cut to 200 characters; of scores the largest value; of
    an aggregate of a series its figure.

    None where the span lacks it. Raises QueryError for what cannot be shown, StoreError.
    """
    targets = {name: sql.resolve(*reversed(language.split_scope(name))) for name in names}
    judged = [target.key for target in targets.values() if isinstance(target, Score)]
    plain = {name: target for name, target in targets.items() if not isinstance(target, Score)}
    out: dict[tuple[str, str], dict[str, Any]] = {}
    if not page:
        return []
    if plain:
        parameters = Parameters(database=store.database)
        # The tables of spans and of tokens have these in common, so sub-queries read the rows of this page alone, too.
        parameters.of = _of(page, parameters, "ServiceName", "service")
        where = f"{parameters.of} AND {_among('SpanName', 'name', page, parameters)}"
        expressions, joined = [], ""
        for place, target in enumerate(plain.values()):
            if isinstance(target, Measure):
                expressions.append(f"figure_{place}")
                joined += target.join(parameters, expressions[-1])
            else:
                expressions.append(_value(target, parameters))
        text = (f"SELECT TraceId, SpanId, {', '.join(expressions)} FROM {rows.table(store)}{joined} WHERE {where} "
                "LIMIT 1 BY TraceId, SpanId")
        for trace_id, span_id, *values in rows.run(store, text, parameters.values).rows:
            out[trace_id, span_id] = dict(zip(plain, rows.json_safe(values), strict=True))
    marks = _scores(store, page, judged) if judged else {}
    found = []
    for row in page:
        identity = row["trace_id"], row["span_id"]
        stored = out.get(identity, {})
        found.append({name: marks.get((*identity, target.key)) if isinstance(target, Score) else stored.get(name)
                      for name, target in targets.items()})
    return found


def _value(target: Field | Key, parameters: Parameters) -> str:
    if isinstance(target, Key):
        text = f"substringUTF8({target.expression(parameters)}, 1, {TEXT_CHARACTERS_MAX})"
        return f"if({target.present(parameters)}, {text}, NULL)"
    if target.kind == "text":
        return f"nullIf(substringUTF8(toString({target.expression}), 1, {TEXT_CHARACTERS_MAX}), '')"
    return target.expression


def _scores(store: Store, page: Sequence[_Row], names: Sequence[str]) -> dict[tuple[str, str, str], float]:
    parameters = Parameters()
    wanted = [parameters.text(name) for name in names]
    starts = [int(row["start_ns"]) for row in page]
    since = parameters.bind(max(0, min(starts) - scores.CLOCK_SLACK_S * 10**9), "Int64")
    text = (
        f"SELECT TraceId, SpanId, ScoreName, max(newest.1) FROM (SELECT TraceId, SpanId, ScoreName, "
        f"argMax((Value, Label, IsDeleted), (Version, cityHash64(Value, Label))) AS newest FROM {rows.table(store, SCORES.name)} "
        f"WHERE ScoreName IN ({', '.join(wanted)}) AND Timestamp >= fromUnixTimestamp64Nano({since}) "
        f"AND {_among('ServiceName', 'service', page, parameters)} AND {_among('SpanId', 'span_id', page, parameters)} "
        f"AND {_among('TraceId', 'trace_id', page, parameters)} GROUP BY TraceId, SpanId, ScoreName, SeqIndex, Source) "
        "WHERE newest.3 = 0 AND isFinite(newest.1) GROUP BY TraceId, SpanId, ScoreName"
    )
    return {(trace, span, name): float(value) for trace, span, name, value in rows.run(store, text, parameters.values).rows}


def _of(page: Sequence[_Row], parameters: Parameters, column: str, key: str) -> str:
    """SQL condition: the rows of these spans, in terms of the keys and indexes of their table."""
    starts = sorted({int(row["start_ns"]) for row in page})
    first, last = (f"fromUnixTimestamp64Nano({parameters.bind(at, 'Int64')})" for at in (starts[0], starts[-1]))
    times = f"arrayMap(at -> fromUnixTimestamp64Nano(at), {parameters.bind(starts, 'Array(Int64)')})"
    return (
        f"{_among(column, key, page, parameters)} AND Timestamp >= {first} AND Timestamp <= {last} AND Timestamp IN {times} "
        f"AND {_among('SpanId', 'span_id', page, parameters)} AND {_among('TraceId', 'trace_id', page, parameters)}"
    )


def _among(column: str, key: str, page: Sequence[_Row], parameters: Parameters) -> str:
    values = sorted({str(row[key] or "") for row in page})
    return f"{column} IN {parameters.bind(values, 'Array(String)')}"
