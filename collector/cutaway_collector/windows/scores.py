"""The window scores of one group of answers, as values with words and examples. Reads no store and makes no rows.

Every score is defined in KINDS, with what it means and which way is worse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from cutaway_collector.rates import wilson
from cutaway_collector.windows.answers import Answer, Floats, grams, units
from cutaway_collector.windows.diversity import distinct, mean_pairwise_cosine, self_bleu, unit, vectors, vendi
from cutaway_collector.windows.duplicates import clusters
from cutaway_collector.windows.memory import RUN_WORDS, Index, Match, longest_run
from cutaway_collector.windows.slope import slope

VERSION: Final = "1"
"""Of every score here; it changes when a value would."""
ANSWERS_MIN: Final = 8
"""Answers that measures of diversity need."""
UNITS_MIN: Final = 8
"""Units of an answer that counts for them: a label or a `yes` is rightly said again and again."""
COLLAPSED_COSINE: Final = 0.5
"""Mean cosine of the answers' word pairs from which a window is `collapsed`: two answers share half of what they say."""
DUPLICATES_SHARE: Final = 0.2
"""Share of answers with a near-equal one in the same window from which it says `duplicates`."""
EXAMPLES_MAX: Final = 5
CLUSTERS_MAX: Final = 3

SEMANTIC_ANSWERS_MAX: Final = 50
"""Answers that a sentence model reads: tens of milliseconds each on a processor."""

Embed = Callable[[Sequence[str]], Floats | None]
"""Texts -> one vector each, [n, d]: a sentence model, where somebody has one; None when it cannot say."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a score is. worse: whether large or small values are the bad ones. label: the word for a bad one, "" for none."""

    name: str
    unit: str
    worse: Literal["high", "low"]
    label: str
    help: str


KINDS: Final[tuple[Kind, ...]] = (
    Kind("distinct_1", "", "low", "", "different units over units of all answers"),
    Kind("distinct_2", "", "low", "", "different pairs of units in a row over such pairs"),
    Kind("self_bleu", "", "high", "", "mean BLEU-4 of each answer against all the others"),
    Kind("pairwise_cosine", "", "high", "collapsed", "mean cosine of two answers, by their pairs of units"),
    Kind("vendi", "{answer}", "low", "", "effective number of different answers"),
    Kind("vendi_share", "", "low", "", "the same by the number of answers"),
    Kind("semantic_cosine", "", "high", "", "mean cosine of two answers, by a sentence model"),
    Kind("semantic_vendi_share", "", "low", "", "share of answers that differ, by a sentence model"),
    Kind("duplicate_share", "", "high", "duplicates", "share of answers that another one nearly equals"),
    *(Kind(f"duplicate_cluster_{place}", "{answer}", "high", "", f"answers in cluster {place} of near-equal ones, by size")
      for place in range(1, CLUSTERS_MAX + 1)),
    Kind("surprisal_rise", "nats", "high", "rising", "rise of surprisal along an answer: a sign of exposure bias"),
    Kind("memorised_share", "", "high", "memorised", f"share of answers with {RUN_WORDS} words in a row of a registered document"),
    Kind("memorised_words", "{word}", "high", "", "the longest such run of the window"),
)
"""Units are token ids, or words where the sender captured none."""


@dataclass(frozen=True, slots=True)
class WindowScore:
    """One value. count: answers it was computed from. examples: trace ids. explanation: in words, where there is more to say."""

    name: str
    value: float
    count: int
    label: str = ""
    explanation: str = ""
    examples: tuple[str, ...] = ()


def window_scores(answers: Sequence[Answer], *, corpora: Sequence[Index] = (), embed: Embed | None = None) -> list[WindowScore]:
    """All that applies to these answers, in the order of KINDS; nothing for none."""
    return [*_diversity(answers, embed), *_slope(answers), *_memory(answers, corpora)]


def _diversity(answers: Sequence[Answer], embed: Embed | None) -> list[WindowScore]:
    kept = [(answer, row) for answer, row in zip(answers, units(answers), strict=True) if row.size >= UNITS_MIN]
    count = len(kept)
    if count < ANSWERS_MIN:
        return []
    judged, rows = [answer for answer, _ in kept], [row for _, row in kept]
    one, two = grams(rows, 2)
    found = vectors(rows)
    near = found @ found.T
    cosine, different = mean_pairwise_cosine(found), vendi(near)
    alike = clusters(near)
    examples = _traces(judged[place] for place in alike[0]) if alike else ()
    collapsed = cosine >= COLLAPSED_COSINE
    out = [
        WindowScore("distinct_1", distinct(one), count),
        WindowScore("distinct_2", distinct(two), count),
        WindowScore("self_bleu", self_bleu(rows), count),
        WindowScore("pairwise_cosine", cosine, count, "collapsed" if collapsed else "",
                    f"{different:.1f} different answers of {count}" if collapsed else "", examples if collapsed else ()),
        WindowScore("vendi", different, count),
        WindowScore("vendi_share", different / count, count),
    ]
    return [*out, *_semantic(judged, embed), *_duplicates(judged, alike)]


def _semantic(judged: Sequence[Answer], embed: Embed | None) -> list[WindowScore]:
    texts = [answer.text for answer in judged if answer.text][:SEMANTIC_ANSWERS_MAX]
    found = embed(texts) if embed is not None and len(texts) >= ANSWERS_MIN else None
    if found is None:
        return []
    meant = unit(found)
    cosines = meant @ meant.T
    return [WindowScore("semantic_cosine", mean_pairwise_cosine(meant), len(texts)),
            WindowScore("semantic_vendi_share", vendi(cosines) / len(texts), len(texts))]


def _duplicates(judged: Sequence[Answer], alike: Sequence[Sequence[int]]) -> list[WindowScore]:
    hits, count = sum(map(len, alike)), len(judged)
    share = hits / count
    out = [WindowScore("duplicate_share", share, count, "duplicates" if share >= DUPLICATES_SHARE else "", _sure(hits, count),
                       _traces(judged[place] for members in alike[:1] for place in members))]
    for place, members in enumerate(alike[:CLUSTERS_MAX], 1):
        out.append(WindowScore(f"duplicate_cluster_{place}", float(len(members)), count, "", "",
                               _traces(judged[member] for member in members)))
    return out


def _slope(answers: Sequence[Answer]) -> list[WindowScore]:
    found = slope(answer.surprisals for answer in answers)
    if not found.answers:
        return []
    said = f"{found.value:+.3f} ± {found.error:.3f} nats, one standard error" if math.isfinite(found.error) else "of one answer"
    examples = _traces(answers[place] for place in found.steepest) if found.rising else ()
    return [WindowScore("surprisal_rise", found.value, found.answers, "rising" if found.rising else "", said, examples)]


def _memory(answers: Sequence[Answer], corpora: Sequence[Index]) -> list[WindowScore]:
    read = [answer for answer in answers if answer.text]
    if not corpora or not read:
        return []
    runs: list[tuple[Match, Answer]] = []
    for answer in read:
        seen = [match for match in (longest_run(answer.text, index) for index in corpora) if match is not None]
        if seen:
            runs.append((max(seen, key=lambda match: match.words), answer))
    runs.sort(key=lambda run: (-run[0].words, run[1].trace_id))
    long = [run for run in runs if run[0].words >= RUN_WORDS]
    share = len(long) / len(read)
    longest = runs[0] if runs else None
    where = ""
    if longest is not None:
        match = longest[0]
        where = f"{match.words} words or more of {match.document} in the corpus {match.corpus}, from word {match.position + 1} on"
    return [
        WindowScore("memorised_share", share, len(read), "memorised" if long else "", _sure(len(long), len(read)),
                    _traces(answer for _, answer in long)),
        WindowScore("memorised_words", float(longest[0].words if longest else 0), len(read), "", where,
                    (longest[1].trace_id,) if longest else ()),
    ]


def _sure(hits: int, count: int) -> str:
    rate = wilson(hits, count)
    return f"{hits} of {count}; 95 % interval {rate.low:.3f} to {rate.high:.3f}"


def _traces(answers: Iterable[Answer]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(answer.trace_id for answer in answers))[:EXAMPLES_MAX]
