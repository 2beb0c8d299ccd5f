"""What two sides of generations look like inside: surprisal by position, attention entropy by layer and head, striking tokens.

Not the comparing, as in `compare`. Series are taken apart and averaged by the store; a page gets tens of numbers, not millions. A
generation counts once, however long: its tokens are no independent observations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from cutaway_collector.columns import TOKENS
from cutaway_collector.contracts import Store
from cutaway_collector.search import rows
from cutaway_collector.search.compare import GENERATES, Count, Sides, sampled
from cutaway_collector.search.parameters import Parameters
from cutaway_collector.search.window import Window

GENERATIONS_SAMPLED: Final = 1000
TOKENS_SAMPLED: Final = 500_000
"""Of each side, whichever is reached first."""
ATTENTION_VALUES_MAX: Final = 6_000_000
"""Attention values of a side that are averaged; more generations are left out."""
BINS: Final = 20
WORDS_MAX: Final = 20_000
STRIKING: Final = 0.95
"""Tokens above this share of all surprisals of both sides are striking."""


class Shape(NamedTuple):
    """Generations of a side with the same series. by_head: whether every head was kept, else the mean over them (heads is 1)."""

    layers: int
    heads: int
    by_head: bool
    generations: int
    attention_values: int


class Inside(NamedTuple):
    """One side: generations with surprisal, how many of these have texts and ids, and the shapes of their attention."""

    generations: int
    with_text: int
    with_ids: int
    shapes: tuple[Shape, ...]


class Cell(NamedTuple):
    """A mean over generations: how many, mean and standard deviation of the generations' means."""

    n: int
    mean: float
    sd: float


class Word(NamedTuple):
    """A token: striking ones of A and of B, all of both; and a generation of either side where it strikes, "" for none."""

    text: str
    a: int
    b: int
    total: int
    a_example: str
    b_example: str


def drawn(asked: Sides, a: Count, b: Count) -> Sides:
    """The sides cut to as many generations and tokens as are read."""
    shares = [min(GENERATIONS_SAMPLED / max(1, side.generations), TOKENS_SAMPLED / max(1, side.tokens)) for side in (a, b)]
    return sampled(asked, shares[0], shares[1])


def _series(store: Store, asked: Sides, columns: Mapping[str, str], where: str, parameters: Parameters) -> str:
    """SELECT of side, generation (a number), span_id and the columns, a row a sequence of the sampled spans. columns: name -> SQL.

    Expressions are computed where the table is read: the engine then reads of an array whose length is asked its length alone.
    """
    spans = asked.relation(store, "TraceId, SpanId", parameters, where=GENERATES)
    times = Window(min(asked.a_window.start_ns, asked.b_window.start_ns), max(asked.a_window.end_ns, asked.b_window.end_ns))
    # The hash is asked of the series too, so that the engine reads the arrays of the sample alone.
    most = parameters.bind(max(asked.a_keep, asked.b_keep), "UInt64")
    named = "".join(f", {expression} AS {name}" for name, expression in columns.items())
    return (
        f"SELECT side, cityHash64(TraceId, SpanId, SeqIndex) AS generation, SpanId AS span_id, {', '.join(columns)} FROM ("
        f"SELECT TraceId, SpanId, SeqIndex{named} FROM {rows.table(store, TOKENS.name)} "
        f"WHERE {times.condition(parameters)} AND cityHash64(SpanId) <= {most} AND {where}) AS series "
        f"INNER JOIN ({spans}) AS spans USING (TraceId, SpanId)"
    )


def inside(store: Store, asked: Sides) -> tuple[Inside, Inside]:
    """What series each side has. Raises QueryError, StoreError."""
    parameters = Parameters(database=store.database)
    by_head = "notEmpty(AttentionEntropyHeads)"
    columns = {
        "by_head": by_head, "layers": "AttentionLayers", "heads": f"if({by_head}, AttentionHeads, 1)",
        "text": "length(TokenTexts) = length(Surprisals)", "ids": "length(TokenIds) = length(Surprisals)",
        "size": f"if({by_head}, length(AttentionEntropyHeads), length(AttentionEntropies))",
    }
    text = (f"SELECT side, layers, heads, by_head, count(), countIf(text), countIf(ids), sum(size) FROM "
            f"({_series(store, asked, columns, 'notEmpty(Surprisals)', parameters)}) GROUP BY side, layers, heads, by_head "
            "ORDER BY side, count() DESC, layers, heads LIMIT 200")
    totals = [[0, 0, 0], [0, 0, 0]]
    shapes: tuple[list[Shape], list[Shape]] = ([], [])
    for side, layers, heads, by_head, count, with_text, with_ids, size in asked.run(store, text, parameters).rows:
        for place, value in enumerate((count, with_text, with_ids)):
            totals[side][place] += int(value)
        if size:
            shapes[side].append(Shape(int(layers), int(heads), bool(by_head), int(count), int(size)))
    a, b = (Inside(total[0], total[1], total[2], tuple(shape)) for total, shape in zip(totals, shapes, strict=True))
    return a, b


def positions(store: Store, asked: Sides) -> dict[tuple[int, int], Cell]:
    """(side, twentieth of the answer) -> mean surprisal in nats. Raises QueryError, StoreError."""
    parameters = Parameters(database=store.database)
    series = _series(store, asked, {"surprisals": "Surprisals"}, "notEmpty(Surprisals)", parameters)
    taken_apart = (f"SELECT side, generation, intDiv((place - 1) * {BINS}, length(surprisals)) AS part, surprisal AS value "
                   f"FROM ({series}) ARRAY JOIN surprisals AS surprisal, arrayEnumerate(surprisals) AS place")
    return _means(store, asked, taken_apart, parameters)


def _means(store: Store, asked: Sides, taken_apart: str, parameters: Parameters) -> dict[tuple[int, int], Cell]:
    """(side, part) -> mean over the generations' means. taken_apart: SELECT of side, generation, part, value."""
    text = (f"SELECT side, part, count(), avg(mean), stddevSamp(mean) FROM (SELECT side, generation, part, avg(value) AS mean "
            f"FROM ({taken_apart}) WHERE isFinite(value) GROUP BY side, generation, part) GROUP BY side, part ORDER BY side, part")
    return {(int(side), int(part)): Cell(int(n), float(mean), float(sd))
            for side, part, n, mean, sd in asked.run(store, text, parameters).rows}


def heads(store: Store, asked: Sides, shape: Shape, a_values: int, b_values: int) -> dict[tuple[int, int], Cell]:
    """(side, layer * heads + head) -> mean attention entropy in nats, of generations of this shape; fewer of them where a side has
    more than ATTENTION_VALUES_MAX values. Raises QueryError, StoreError."""
    shares = [ATTENTION_VALUES_MAX / max(1, size) * keep / 2**64
              for size, keep in ((a_values, asked.a_keep), (b_values, asked.b_keep))]
    drawn = sampled(asked, *(min(share, (keep + 1) / 2**64)
                             for share, keep in zip(shares, (asked.a_keep, asked.b_keep), strict=True)))
    parameters = Parameters(database=store.database)
    column = "AttentionEntropyHeads" if shape.by_head else "AttentionEntropies"
    where = f"AttentionLayers = {parameters.bind(shape.layers, 'UInt16')} AND notEmpty({column})"
    if shape.by_head:
        where += f" AND AttentionHeads = {parameters.bind(shape.heads, 'UInt16')}"
    else:
        where += " AND empty(AttentionEntropyHeads)"
    series = _series(store, drawn, {"cells": column}, where, parameters)
    size = parameters.bind(shape.layers * shape.heads, "UInt32")
    taken_apart = (f"SELECT side, generation, (place - 1) % {size} AS part, value FROM ({series}) "
                   "ARRAY JOIN cells AS value, arrayEnumerate(cells) AS place")
    return _means(store, asked, taken_apart, parameters)


def words(store: Store, asked: Sides, *, by_text: bool) -> tuple[float, list[Word]]:
    """(surprisal at which a token begins to strike, the tokens that do, the most frequent first). Raises QueryError, StoreError."""
    parameters = Parameters(database=store.database)
    column = "TokenTexts" if by_text else "TokenIds"
    pieces = _series(store, asked, {"surprisals": "Surprisals", "words": column},
                     f"notEmpty(Surprisals) AND length({column}) = length(Surprisals)", parameters)
    series = (f"SELECT side, span_id, surprisal, word FROM ({pieces}) ARRAY JOIN surprisals AS surprisal, words AS word "
              "WHERE isFinite(surprisal)")
    found = asked.run(store, f"SELECT quantile({STRIKING})(surprisal) FROM ({series})", parameters).rows
    limit = float(found[0][0]) if found else 0.0
    strikes = f"surprisal >= {parameters.bind(limit, 'Float64')}"
    text = (f"SELECT toString(word), countIf(side = 0 AND {strikes}) AS a, countIf(side = 1 AND {strikes}) AS b, count() AS total, "
            f"anyIf(span_id, side = 0 AND {strikes}), anyIf(span_id, side = 1 AND {strikes}) FROM ({series}) "
            f"GROUP BY word HAVING a + b > 0 ORDER BY a + b DESC, word LIMIT {WORDS_MAX}")
    return limit, [Word(str(word), int(a), int(b), int(total), str(a_span), str(b_span))
                   for word, a, b, total, a_span, b_span in asked.run(store, text, parameters).rows]
