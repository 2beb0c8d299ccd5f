"""Cuts texts into words and sentences, the same way for every scorer. Not a tokenizer of a language model."""

from __future__ import annotations

import re
from typing import Final

CHARACTERS_MAX: Final = 20_000
"""Characters of one text that are judged, from its beginning: a scorer's time is bounded, whatever is sent."""

_WORD: Final = re.compile(r"[^\W_]+(?:['’][^\W\d_]+)?")
_END: Final = re.compile(r"(?<=[.!?。！？])[\"'”’)\]]{0,3}(?:\s+|(?<=[。！？]))|\n\s*\n")
_ABBREVIATION: Final = re.compile(r"(?:^|[\s(])(?:[A-Z]|[Mm]rs?|[Dd]r|[Pp]rof|[Ss]t|vs|etc|e\.g|i\.e|[Nn]o|[Ff]ig"
                             r"|approx|[ap]\.m)\.$")


def cut(text: str) -> str:
    """What of a text is judged. Halves of surrogate pairs, which are no text, become question marks."""
    return text[:CHARACTERS_MAX].encode("utf-8", "replace").decode()


def words(text: str) -> list[str]:
    """Words as written: runs of letters and digits, with an apostrophe inside; no punctuation."""
    return _WORD.findall(text)


def sentences(text: str) -> list[str]:
    """Sentences: cut behind . ! ? (also Chinese and Japanese ones) and at blank lines, but not behind a known abbreviation."""
    found: list[str] = []
    begin = 0
    for end in _END.finditer(text):
        piece = text[begin:end.end()]
        if _ABBREVIATION.search(piece.rstrip()[-12:]):
            continue
        found.append(piece.strip())
        begin = end.end()
    found.append(text[begin:].strip())
    return [sentence for sentence in found if _WORD.search(sentence)]
