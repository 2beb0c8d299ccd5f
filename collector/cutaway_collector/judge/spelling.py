"""How many words of the answer are in no word list? By pyspellchecker's lists. Not a grammar check.

Names, code and new words are in no list either: the share moves when the model's words do, and says little about one answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from cutaway_collector.contracts import Judged, Texts
from cutaway_collector.judge.extras import need
from cutaway_collector.judge.language import SURE, Identifier
from cutaway_collector.judge.values import NONE, Verdict, each
from cutaway_collector.judge.words import cut, words

LANGUAGES: Final = ("ar", "de", "en", "es", "eu", "fa", "fr", "it", "lv", "nl", "pt", "ru")
_WORDS_MIN: Final = 10
_CODE: Final = re.compile(r"```.*?(?:```|$)|`[^`\n]*`|https?://\S+", re.DOTALL)


class Spelling:
    """misspelt_share: words in no list over words, of lower-case words of three letters and more outside code, at least ten of
    them; label the language of the list. Applies to the twelve languages that have one.
    """

    name = "spelling"
    version = "1"

    def __init__(self) -> None:
        self._identify = Identifier(self.name)
        self._lists: dict[str, Any] = {}

    def score(self, texts: Texts) -> Mapping[str, Judged]:
        """contracts.TextScorer.score of the answers. Raises MissingExtra."""
        need("spellchecker", self.name)
        return {"misspelt_share": each(texts.answer, self._judge)}

    def _judge(self, text: str) -> Verdict:
        text = _CODE.sub(" ", cut(text))
        code, chance = self._identify(text)
        if code not in LANGUAGES or chance < SURE:
            return NONE
        # German writes every noun large.
        plain = [word for word in words(text) if len(word) > 2 and word.isalpha() and (word.islower() or code == "de")]
        if len(plain) < _WORDS_MIN:
            return NONE
        known = self._lists.get(code)
        if known is None:
            known = self._lists[code] = need("spellchecker", self.name).SpellChecker(language=code, distance=1)
        unknown = sum(word.lower() not in known.word_frequency for word in plain)
        return Verdict(unknown / len(plain), code, f"{unknown} of {len(plain)} words")
