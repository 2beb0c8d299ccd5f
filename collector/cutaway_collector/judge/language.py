"""In which language is the answer, and is it the prompt's? By py3langid, 97 languages. Not a translation quality score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cutaway_collector.contracts import Judged, Texts
from cutaway_collector.judge.extras import need
from cutaway_collector.judge.values import NONE, Verdict, judged
from cutaway_collector.judge.words import cut

LETTERS_MIN: Final = 20
"""Letters below which a language is a guess; a quarter of it for scripts without an alphabet."""
SURE: Final = 0.9
_SAMPLE_CHARACTERS: Final = 2000


class Identifier:
    """Names the language of a text. Loaded at the first call."""

    def __init__(self, scorer: str) -> None:
        self._scorer = scorer
        self._model: Any = None

    def __call__(self, text: str) -> tuple[str, float]:
        """(ISO 639-1 code, probability); ("", 0.0) for a text too short to tell. Raises MissingExtra."""
        if self._model is None:
            langid = need("py3langid.langid", self._scorer)
            self._model = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
        sample = text[:_SAMPLE_CHARACTERS]
        if sum(4 if "\u3040" <= letter <= "\ud7a3" else 1 for letter in sample if letter.isalpha()) < LETTERS_MIN:
            return "", 0.0
        code, chance = self._model.classify(sample)
        return str(code), float(chance)


class Language:
    """language: probability of the answer's language, label its code. language_match: 1 where the prompt's is the same, else 0,
    where both are at least 0.9 sure.
    """

    name = "language"
    version = "1"

    def __init__(self) -> None:
        self._identify = Identifier(self.name)

    def score(self, texts: Texts) -> Mapping[str, Judged]:
        """contracts.TextScorer.score of answers and prompts. Raises MissingExtra."""
        found = [self._identify(cut(text)) for text in texts.answer]
        asked = [self._identify(cut(text)) for text in texts.prompt]
        return {
            "language": judged([Verdict(chance, code) if code else NONE for code, chance in found]),
            "language_match": judged([_same(*pair) for pair in zip(found, asked, strict=True)]),
        }


def _same(one: tuple[str, float], other: tuple[str, float]) -> Verdict:
    if min(one[1], other[1]) < SURE:
        return NONE
    same = one[0] == other[0]
    return Verdict(float(same), explanation="" if same else f"{other[0]} asked, {one[0]} answered")
