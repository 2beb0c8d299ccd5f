"""Scores as lines of a page's table: who judged what, and a search for spans judged alike.

Not the look-up, which is the search's: what comes in is the newest score of each span, sequence, name and source.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from cutaway_collector.search.scores import Score
from cutaway_collector.web import urls
from cutaway_collector.web.score_meanings import MEANINGS

EXPLANATION_CHARS_MAX: Final = 2000
LINES_MAX: Final = 500
UNFOLDED_MAX: Final = 8
"""So many scores are listed as they are; of more, those that say something in words stand before the fold."""
AHEAD_AT_LEAST: Final = 5


@dataclass(frozen=True, slots=True)
class ScoreLine:
    """One score. meaning: a sentence, "" for one that is not ours. sequence: from 1, 0 where the whole trace is judged. cut:
    characters of the explanation that are left out. ahead: whether it stands before the fold.
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
    ahead: bool


def lines(scores: Iterable[Mapping[str, Any]]) -> tuple[ScoreLine, ...]:
    """Scores as the search answers them -> lines, at most LINES_MAX, those of the whole trace first.

    Judgements of others, of the whole trace, and with a label or an explanation stand before the fold; where there are none, and
    where there are few scores, the first ones do.
    """
    ordered = sorted(scores, key=lambda score: (score["span_id"] != "", score["sequence"], score["name"], score["source"]))
    made = [_line(score) for score in ordered[:LINES_MAX]]
    if len(made) <= UNFOLDED_MAX or not any(line.ahead for line in made):
        first = len(made) if len(made) <= UNFOLDED_MAX else AHEAD_AT_LEAST
        return tuple(replace(line, ahead=place < first) for place, line in enumerate(made))
    return tuple(made)


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
        bool(score["label"] or explanation or meaning is None or not score["span_id"]),
    )
