"""Columns of scores out of single answers: what the scorers by rule share. Judges nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import nan
from typing import NamedTuple

import numpy as np

from cutaway_collector.contracts import Judged


class Verdict(NamedTuple):
    """One value with its words; `NONE` where a score does not apply."""

    value: float
    label: str = ""
    explanation: str = ""


NONE = Verdict(nan)


def judged(verdicts: Sequence[Verdict]) -> Judged:
    """One column of n verdicts."""
    return Judged(np.array([verdict.value for verdict in verdicts], np.float64), [verdict.label for verdict in verdicts],
                  [verdict.explanation for verdict in verdicts])


def each(texts: Sequence[str], judge: Callable[[str], Verdict]) -> Judged:
    """A column of one verdict a text; an empty text has none."""
    return judged([judge(text) if text.strip() else NONE for text in texts])
