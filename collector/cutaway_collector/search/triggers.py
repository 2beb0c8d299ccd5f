"""How often scores trigger: of the sequences that a scorer of the collector judged, those it found something in. Counts alone.

A sequence counts once a score, by the newest of its rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from cutaway_collector.columns import SCORES
from cutaway_collector.contracts import Store
from cutaway_collector.search import rows
from cutaway_collector.search.parameters import Parameters

THRESHOLD: Final = 0.5
"""Of a score without a label of its own: a larger value triggers."""
ROWS_MAX: Final = 2000


class Triggers(NamedTuple):
    """Of one score and model: sequences judged, and of them those that triggered."""

    name: str
    model: str
    judged: int
    triggered: int


def triggers(store: Store, kinds: Mapping[str, str], *, start_ns: int | None, end_ns: int | None, service: str = "",
             model: str = "") -> list[Triggers]:
    """By score and model, in this order. kinds: score -> the label that is a trigger, "" where a value above THRESHOLD is one.

    Of spans that began in start_ns to end_ns, the end excluded, None for open; of a service and model, "" for all. Raises
    StoreError.
    """
    parameters = Parameters()
    where = [f"ScoreName IN ({', '.join(map(parameters.text, kinds))})", "Source = 'collector'"]
    where += [f"Timestamp {sign} fromUnixTimestamp64Nano({parameters.bind(ns, 'Int64')})"
              for sign, ns in ((">=", start_ns), ("<", end_ns)) if ns is not None]
    where += [f"{column} = {parameters.text(value)}"
              for column, value in (("ServiceName", service), ("GenAiModel", model)) if value]
    labels = ", ".join(parameters.text(label) for label in sorted({*kinds.values()} - {""})) or "''"
    plain = ", ".join(parameters.text(name) for name, label in kinds.items() if not label) or "''"
    hit = f"(Label IN ({labels}) OR (ScoreName IN ({plain}) AND Value > {THRESHOLD}))"
    found = store.query(
        "SELECT name, model, count(), countIf(newest.1) FROM ("
        "SELECT toString(ScoreName) AS name, toString(any(GenAiModel)) AS model, "
        f"argMax(({hit}, IsDeleted), (Version, ScorerVersion)) AS newest "
        f"FROM {rows.table(store, SCORES.name)} WHERE {' AND '.join(where)} GROUP BY ScoreName, TraceId, SpanId, SeqIndex"
        f") WHERE newest.2 = 0 GROUP BY name, model ORDER BY name, model LIMIT {ROWS_MAX}", parameters.values)
    return [Triggers(str(name), str(of), int(judged), int(count)) for name, of, judged, count in found.rows]
