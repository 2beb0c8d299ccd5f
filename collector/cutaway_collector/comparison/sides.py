"""Two sides compared: counts, metrics, ranked attributes and, where asked for, the look inside; one answer for page and twin.

Not the statistics, which are in the drift verb, and not the queries, which are in the search verb: this joins them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cutaway_collector.comparison import attributes, inside, metrics, pairs
from cutaway_collector.comparison.attributes import Card, Left
from cutaway_collector.comparison.inside import White
from cutaway_collector.comparison.metrics import Metric
from cutaway_collector.comparison.pairs import Spans, Tokens
from cutaway_collector.contracts import Store
from cutaway_collector.search import compare as samples
from cutaway_collector.search import fields
from cutaway_collector.search.compare import SPANS_SAMPLED, CompareRequest, Count, Mode, Sides
from cutaway_collector.search.language import And, Has, Is, Node, Not, Or, Term

INSIDE_BEFORE_S: Final = 8.0
"""A comparison that took longer than this does not read the series as well: half a page is better than none."""
_FLAGS: Final[dict[str, tuple[str, ...]]] = {
    "error": ("status",), "ok": ("status",), "root": ("parent",), "generation": ("operation",)}
"""Field that an `is:` word looks at: it tells the sides apart because it was asked to."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """a_sampled, b_sampled: spans that were read of a.spans and b.spans. both: spans that are on both sides.

    white: None where it was not asked for, or there was no time left for it, or the sides are single spans, which `tokens` lays
    side by side, or single traces, as `spans` does.
    """

    mode: Mode
    sides: Sides
    a: Count
    b: Count
    both: int
    a_sampled: int
    b_sampled: int
    metrics: tuple[Metric, ...]
    cards: tuple[Card, ...]
    left: Left
    white: White | None
    tokens: Tokens | None = None
    spans: Spans | None = None


def compare(store: Store, request: CompareRequest, *, look_inside: bool = True) -> Comparison:
    """Both sides against each other. Raises SideError, QueryError, StoreError."""
    began = time.monotonic()
    asked = samples.sides(store, request)
    a, b, both = samples.counts(store, asked)
    drawn = samples.sampled(asked, SPANS_SAMPLED / max(1, a.spans), SPANS_SAMPLED / max(1, b.spans))
    if not a.spans or not b.spans:
        return Comparison(asked.mode, asked, a, b, both, 0, 0, (), (), Left((), (), ()), None)
    named = frozenset(_named((asked.a, asked.b)))
    found = samples.values(store, drawn)
    # The number fields know how many spans the sample has; attributes are read again with them where they turn out to be numbers.
    as_numbers = attributes.sort(found, named, 0)[1]
    first, second = samples.numbers(store, drawn, [one.key for one in as_numbers])
    words, _, left = attributes.sort(found, named, len(first.ids) + len(second.ids))
    tokens = pairs.tokens(store, a, b) if look_inside else None
    spans = pairs.spans(store, asked, a, b) if look_inside else None
    in_time = time.monotonic() - began < INSIDE_BEFORE_S
    return Comparison(
        asked.mode, asked, a, b, both, len(first.ids), len(second.ids), tuple(metrics.metrics(first, second, a, b)),
        tuple(attributes.rank(words, first, second, named)), left,
        inside.look(store, asked, a, b) if look_inside and in_time and tokens is None and spans is None else None,
        tokens, spans)


def _named(trees: Iterable[Node]) -> Iterable[str]:
    todo = list(trees)
    while todo:
        node = todo.pop()
        if isinstance(node, And | Or):
            todo.extend(node.parts)
        elif isinstance(node, Not):
            todo.append(node.part)
        elif isinstance(node, Is):
            yield from _FLAGS.get(node.flag, ())
        elif isinstance(node, Term | Has):
            field = None if node.scope else fields.lookup(node.field)
            yield field.name if field else node.field
