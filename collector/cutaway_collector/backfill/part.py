"""What a back-fill goes through: a part of it counts its rows, hands them out piece by piece, and scores a piece. Runs nothing.

Token series are one part (`sequences`), texts another (the flow `judging` brings it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from cutaway_collector.backfill.notes import Job, Named
from cutaway_collector.backfill.reader import Key
from cutaway_collector.blocks import Block

OnFailure = Callable[[str, Exception], None]
"""Called with the name of a scorer that failed on a piece."""


@dataclass(frozen=True, slots=True)
class Todo:
    """Keys of some rows, rising, not empty, and `scores`, which gives what is to be stored of them: a gen_ai_scores block."""

    keys: Sequence[Key]
    scores: Callable[[OnFailure], Block]


class Offer(NamedTuple):
    """Scorers of one kind, and what makes the part of a job that some of them do."""

    scorers: Sequence[Named]
    part: Callable[[Job, Sequence[Any]], Part]


def parts(offers: Iterable[Offer], job: Job, chosen: Sequence[Named]) -> list[Part]:
    """The parts of a job that the chosen scorers do."""
    kept = [(offer, [one for one in offer.scorers if any(one is wanted for wanted in chosen)]) for offer in offers]
    return [offer.part(job, scorers) for offer, scorers in kept if scorers]


class Part(Protocol):
    """name: kept with a job that is cut short, so that it goes on in this part. Raises StoreError from every call."""

    name: str

    def count(self) -> int:
        """Rows in the range, those stored twice included."""

    def pieces(self, after: Key | None) -> Iterator[Todo]:
        """Every row behind `after` once, oldest first."""
