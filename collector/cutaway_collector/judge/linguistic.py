"""Does the answer read like finished prose? Counts that need no model. Not grammar: nothing is parsed."""

from __future__ import annotations

from collections.abc import Mapping

from cutaway_collector.contracts import Judged, Texts
from cutaway_collector.judge.values import NONE, Verdict, each
from cutaway_collector.judge.words import cut, sentences, words

_PAIRS = {")": "(", "]": "[", "}": "{", "”": "“", "»": "«"}
_WORDS_MIN = 20
_ENDS = ".!?…。！？:;\"'”’»)]}`*|>"


class Linguistic:
    """sentence_count; words_per_sentence; type_token_ratio of the first 200 words (from 20 words up: it falls with length);
    unclosed_marks, the brackets, quotes and code fences left open or closed without being opened; ends_mid_sentence, 1 where the
    last character ends nothing.
    """

    name = "linguistic"
    version = "1"

    def score(self, texts: Texts) -> Mapping[str, Judged]:
        """contracts.TextScorer.score of the answers."""
        answers = [cut(text) for text in texts.answer]
        whole = [text if len(text) == len(given) else "" for text, given in zip(answers, texts.answer, strict=True)]
        return {
            "sentence_count": each(answers, lambda text: Verdict(len(sentences(text)))),
            "words_per_sentence": each(answers, _length),
            "type_token_ratio": each(answers, _variety),
            "unclosed_marks": each(whole, _unclosed),
            "ends_mid_sentence": each(whole, _ending),
        }


def _length(text: str) -> Verdict:
    count = len(sentences(text))
    return Verdict(len(words(text)) / count) if count else NONE


def _variety(text: str) -> Verdict:
    found = [word.casefold() for word in words(text)[:200]]
    return Verdict(len(set(found)) / len(found)) if len(found) >= _WORDS_MIN else NONE


def _unclosed(text: str) -> Verdict:
    plain, fences = text.split("```")[::2], text.count("```")
    stack: list[str] = []
    stray = fences % 2
    for mark in "".join(plain):
        if mark in _PAIRS.values():
            stack.append(mark)
        elif mark in _PAIRS:
            if stack and stack[-1] == _PAIRS[mark]:
                stack.pop()
            elif mark != ")":  # "a)" numbers a list
                stray += 1
    stray += len(stack) + "".join(plain).count('"') % 2
    return Verdict(stray, explanation=f"{stray} without a partner" if stray else "")


def _ending(text: str) -> Verdict:
    last = text.rstrip()[-1]
    ends = last in _ENDS or not (last.isalnum() or last in ",-–—(") or len(words(text)) < 4
    return Verdict(0.0 if ends else 1.0, "" if ends else "cut off")
