"""What a check says: fine, worth knowing or bad, in one line, with the remedy. No check of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from cutaway_collector.settings import Settings

Level = Literal["ok", "note", "BAD"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. remedy: what to do, "" when there is nothing to do."""

    level: Level
    what: str
    words: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.level:<4} {self.what}: {self.words}" + (f": {self.remedy}" if self.remedy else "")


Check = Callable[[Settings], Iterator[Finding]]


def ok(what: str, words: str) -> Finding:
    """Nothing to do."""
    return Finding("ok", what, words)


def note(what: str, words: str, remedy: str = "") -> Finding:
    """Worth knowing; not counted as wrong."""
    return Finding("note", what, words, remedy)


def bad(what: str, words: str, remedy: str) -> Finding:
    """Wrong: keeps a collector from starting, or loses or delays spans later."""
    return Finding("BAD", what, words, remedy)
