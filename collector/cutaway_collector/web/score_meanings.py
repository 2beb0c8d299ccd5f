"""What each score of ours says, in one sentence with its unit, whoever computes it: SDK, collector or a judge of texts.

Not the values, and not the scores of others: what a plug-in or a program sends is named as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cutaway import conventions as c
from cutaway_collector.judge import catalogue as texts
from cutaway_collector.score import catalogue as series


@dataclass(frozen=True, slots=True)
class Meaning:
    """One score. giver: the scorer, "SDK" for what spans bring along. unit: "" for a plain number."""

    name: str
    giver: str
    unit: str
    text: str

    @property
    def sentence(self) -> str:
        """As a tooltip has it."""
        return f"{self.text[0].upper()}{self.text[1:]}{f' ({self.unit})' if self.unit else ''}."


_OF_SPANS: Final = {
    "cutaway.perplexity": c.SEQUENCE_PERPLEXITY, "cutaway.nll": c.SEQUENCE_NLL, "cutaway.bits_per_byte": c.SEQUENCE_BITS_PER_BYTE,
    "cutaway.worst_window": c.SEQUENCE_WORST_WINDOW, "cutaway.rauq": c.SEQUENCE_RAUQ, "cutaway.repetition": c.SEQUENCE_REPETITION,
    "cutaway.loop_period": c.SEQUENCE_LOOP_PERIOD, "cutaway.compression_ratio": c.SEQUENCE_COMPRESSION_RATIO,
    "cutaway.surprisal_slope": c.OUTPUT_SURPRISAL_SLOPE,
}
"""Evaluation event of the SDK -> the attribute that says the same."""


def _all() -> Iterator[Meaning]:
    for figure in series.SCORES:
        yield Meaning(figure.name, figure.scorer, figure.unit, figure.meaning.replace("`", ""))
    for judged in texts.SCORES:
        yield Meaning(judged.name, judged.scorer, judged.unit, judged.meaning)
    attributes = {attribute.name: attribute for attribute in c.ATTRIBUTES}
    for name, source in _OF_SPANS.items():
        about = attributes[source]
        yield Meaning(name, "SDK", about.unit.strip("{}"), about.help.replace("`", ""))


MEANINGS: Final = {one.name: one for one in _all()}
"""Score name -> what it says, those of token series first."""
