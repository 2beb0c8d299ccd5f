"""Scores as lines of a page's table: who judged what, and a search for spans judged alike.

Not the look-up, which is the search's: what comes in is the newest score of each span, sequence, name and source.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cutaway_collector.search.scores import Score
from cutaway_collector.web import urls
from cutaway_collector.web.score_meanings import MEANINGS

EXPLANATION_CHARS_MAX: Final = 2000
LINES_MAX: Final = 500


@dataclass(frozen=True, slots=True)
class ScoreLine:
    """One score. meaning: a sentence, "" for one that is not ours. sequence: from 1, 0 where the whole trace is judged. cut:
    characters of the explanation that are left out.
    """

    name: str
    meaning: str
    sequence: int
    value: float | None
    label: str
    explanation: str
    cut: int
    source: str
    version: str
    url: str


def lines(scores: Iterable[Mapping[str, Any]]) -> tuple[ScoreLine, ...]:
    """Scores as the search answers them -> lines, at most LINES_MAX, those of the whole trace first."""
    ordered = sorted(scores, key=lambda score: (score["span_id"] != "", score["sequence"], score["name"], score["source"]))
    return tuple(_line(score) for score in ordered[:LINES_MAX])


def _line(score: Mapping[str, Any]) -> ScoreLine:
    name = Score(score["name"]).name
    explanation = score["explanation"]
    meaning = MEANINGS.get(score["name"])
    return ScoreLine(
        score["name"], meaning.sentence if meaning else "",
        score["sequence"] + 1 if score["span_id"] else 0, score["value"], score["label"],
        explanation[:EXPLANATION_CHARS_MAX], max(0, len(explanation) - EXPLANATION_CHARS_MAX), score["source"],
        score["scorer_version"],
        urls.search(q=f"{name}:*", sort=f"-{name}", from_="all"),
    )
