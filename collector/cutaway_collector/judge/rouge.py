"""How much of the reference does the answer repeat? ROUGE-1, ROUGE-2, ROUGE-L and exact match. Applies where a reference travels.

C.-Y. Lin, ROUGE, 2004: F1 of shared word n-grams, and of the longest common subsequence over words, letter case aside, without
stemming.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from cutaway_collector.contracts import Judged, Texts
from cutaway_collector.judge.values import NONE, Verdict, judged
from cutaway_collector.judge.words import cut, words

_EDGES: Final = " \t\r\n.,;:!?\"'`“”‘’*"


class Rouge:
    """rouge_1, rouge_2, rouge_l: 0 to 1. exact_match: 1 where the texts are equal, but for case, white space and marks at
    the ends.
    """

    name = "rouge"
    version = "1"

    def score(self, texts: Texts) -> Mapping[str, Judged]:
        """contracts.TextScorer.score of answers against references."""
        pairs = list(zip(texts.answer, texts.reference, strict=True))
        folded = [([word.casefold() for word in words(cut(answer))], [word.casefold() for word in words(cut(reference))])
                  for answer, reference in pairs]
        return {
            "rouge_1": judged([_shared(*pair, 1) for pair in folded]),
            "rouge_2": judged([_shared(*pair, 2) for pair in folded]),
            "rouge_l": judged([_f1(longest_common_subsequence(*pair), *map(len, pair)) for pair in folded]),
            "exact_match": judged([_equal(*pair) for pair in pairs]),
        }


def longest_common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """Its length, a column of the table in one big integer (H. Hyyrö, Bit-parallel LCS-length computation revisited, 2004)."""
    places: dict[str, int] = {}
    for place, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << place
    every = (1 << len(one)) - 1
    row = every
    for word in other:
        matches = row & places.get(word, 0)
        row = ((row + matches) | (row - matches)) & every
    return len(one) - row.bit_count()


def _shared(answer: Sequence[str], reference: Sequence[str], n: int) -> Verdict:
    said, wanted = (Counter(zip(*(text[start:] for start in range(n)), strict=False)) for text in (answer, reference))
    return _f1(sum((said & wanted).values()), said.total(), wanted.total())


def _f1(common: int, answered: int, wanted: int) -> Verdict:
    if not wanted:
        return NONE
    return Verdict(2 * common / (answered + wanted))


def _equal(answer: str, reference: str) -> Verdict:
    if not reference.strip():
        return NONE
    said, wanted = (" ".join(text.casefold().split()).strip(_EDGES) for text in (answer, reference))
    return Verdict(float(said == wanted))
