"""The help page: the query language, made from the registry of fields that the language itself reads.

Not a manual: what a field means is written once, in the registry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cutaway_collector.search import FIELDS
from cutaway_collector.web import tokens, urls

EXAMPLES: Final[tuple[tuple[str, str], ...]] = (
    ("perplexity:>20", "answers the model was unsure of"),
    ("ttft:>500ms -service:batch", "slow first tokens, but not of the batch service"),
    ("model:smollm2* status:error", "failed calls of one family of models"),
    ("surprisal.max:>8 tokens.out:>100", "long answers with at least one very unexpected token"),
    ("score.toxicity:>0.5", "spans with this score, whoever gave it; a word finds its label"),
    ('"out of memory"', "spans that mention these words"),
)
KEYS: Final[tuple[tuple[str, str], ...]] = (
    ("/", "go to the search box"),
    ("j  k", "next, previous row"),
    ("Enter", "open the row"),
    ("←  →", "previous, next token, once the tokens have the focus"),
    ("↑  ↓", "layer, once the attention map has the focus"),
    ("n  p", "next, previous striking token"),
    ("Esc", "leave the search box"),
)


@dataclass(frozen=True, slots=True)
class FieldRow:
    """One searchable field."""

    name: str
    aliases: str
    kind: str
    unit: str
    phrase: str
    description: str


@dataclass(frozen=True, slots=True)
class Example:
    """A query, what it finds, and its address."""

    query: str
    meaning: str
    url: str


@dataclass(frozen=True, slots=True)
class GuidePage:
    """Everything the help template may use."""

    fields: tuple[FieldRow, ...]
    examples: tuple[Example, ...]
    signals: tuple[tokens.Signal, ...]
    maps: tuple[tokens.Map, ...]
    keys: tuple[tuple[str, str], ...]


def page() -> GuidePage:
    """The page."""
    rows = tuple(FieldRow(f.name, ", ".join(f.aliases), f.kind, f.unit, f.phrase, f.description) for f in FIELDS)
    return GuidePage(rows, tuple(Example(q, m, urls.search(q=q)) for q, m in EXAMPLES), tokens.SIGNALS, tokens.MAPS, KEYS)
