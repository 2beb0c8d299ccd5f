"""What is new since a day ago, model by model: the top of a comparison of this window with the same one before.

Not an alert: nobody is told, and nothing is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cutaway_collector.comparison.attributes import Card
from cutaway_collector.comparison.metrics import METRICS, Metric
from cutaway_collector.comparison.sides import Comparison, compare
from cutaway_collector.contracts import Store
from cutaway_collector.drift.rule import VALUES_MIN
from cutaway_collector.search.compare import CompareRequest
from cutaway_collector.search.window import Window

DAY_NS: Final = 86_400 * 10**9
DISTANCE_MIN: Final = 0.1
"""Among many spans every difference is significant: below this distance it does not matter either. As the drift verb has it."""
CARDS_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class Changes:
    """One model. then_n, now_n: spans of both windows. metrics, cards: what differs and matters. query: of both sides."""

    model: str
    query: str
    then_n: int
    now_n: int
    metrics: tuple[Metric, ...]
    cards: tuple[Card, ...]

    @property
    def comparable(self) -> bool:
        """Whether both windows have spans enough to claim anything."""
        return min(self.then_n, self.now_n) >= VALUES_MIN


def before(span: Window) -> Window:
    """The same window a day earlier; of one that is longer than a day the one that ends where it begins."""
    shift = max(DAY_NS, span.end_ns - span.start_ns)
    return Window(max(0, span.start_ns - shift), max(1, span.end_ns - shift))


def changes(store: Store, span: Window, model: str, query: str) -> Changes:
    """One model; `query` finds its spans. Raises QueryError, StoreError."""
    then = before(span)
    result = compare(store, CompareRequest(
        a=query, start_ns=then.start_ns, end_ns=span.end_ns, a_start_ns=then.start_ns, a_end_ns=then.end_ns,
        b_start_ns=span.start_ns, b_end_ns=span.end_ns), look_inside=False)
    metrics = tuple(one for one in result.metrics if one.differs and _matters(one, result))
    # Numbers of the header are said there.
    cards = tuple(card for card in result.cards if card.differs and card.score >= DISTANCE_MIN
                  and not (card.kind == "number" and not card.key.scope and card.key.name in METRICS))
    return Changes(model, query, result.a.spans, result.b.spans, metrics, cards[:CARDS_MAX])


def _matters(metric: Metric, result: Comparison) -> bool:
    """Shares of errors are compared by their test alone; medians where the whole distributions are apart as well."""
    distance = next((card.score for card in result.cards if not card.key.scope and card.key.name == metric.name), None)
    return metric.name not in METRICS or (distance is not None and distance >= DISTANCE_MIN)
