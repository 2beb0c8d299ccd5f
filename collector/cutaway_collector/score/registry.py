"""Which scorers there are: ours, and those that installed packages offer. Not the place that runs them (see `rows`).

A package adds one by an entry point in the group `cutaway.scorers`; its value is called without arguments and returns a
`contracts.Scorer`:

    [project.entry-points."cutaway.scorers"]
    politeness = "my_package.politeness:Politeness"

A plug-in may hang, and ingest waits for scores: it is asked in a thread of its own, and left out where it does not come back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cutaway_collector.blocks import Block, Column, Lists
from cutaway_collector.columns import TOKENS
from cutaway_collector.contracts import Scorer
from cutaway_collector.patience import Patience
from cutaway_collector.score import attention, embedding, histogram, length, rauq, repetition, surprisal, tdigest, trend
from cutaway_collector.score.device import Choice, Device

ENTRY_POINT_GROUP: Final = "cutaway.scorers"
PLUG_IN_SECONDS_MAX: Final = 10.0
"""For a block: fresh spans wait behind it."""
BACKFILL_SECONDS_MAX: Final = 120.0
"""For a piece of a back-fill: nobody waits."""
Scores = Mapping[str, npt.NDArray[np.float64]]

_log = logging.getLogger(__name__)


def log_failure(name: str, error: Exception) -> None:
    """What happens to a failure when nobody else listens: one line."""
    _log.warning("the scorer %s is left out: %s: %s", name, type(error).__name__, error)


class PlugIn:
    """A plug-in as a scorer that always comes back. columns: as `contracts.Scorer`, where it says so."""

    def __init__(self, scorer: Scorer, seconds_max: float) -> None:
        self.name, self.version = scorer.name, scorer.version
        self.columns: tuple[str, ...] | None = getattr(scorer, "columns", None)
        self._scorer = scorer
        self._patience = Patience[Scores](seconds_max)

    def score(self, tokens: Block) -> Scores:
        """As the plug-in. Raises NoAnswer where it hangs."""
        return self._patience.call(lambda: self._scorer.score(tokens))


def scorers(device: Choice = "auto", *, on_failure: Callable[[str, Exception], None] = log_failure,
            seconds_max: float = PLUG_IN_SECONDS_MAX) -> list[Scorer]:
    """Our scorers on the chosen device, then the plug-ins, looked up now and not at import.

    seconds_max: what a plug-in may take for a block. One that cannot be loaded or is no Scorer goes to on_failure(entry point
    name, exception) and is left out. Raises SettingsError for device "cuda" without a GPU.
    """
    place = Device(device)
    found = _ours(place)
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name):
        try:
            found.append(PlugIn(_checked(point.load()(), point.value), seconds_max))
        except Exception as error:
            on_failure(point.name, error)
    return found


def _ours(place: Device) -> list[Scorer]:
    return [surprisal.Surprisal(place), trend.Trend(place), repetition.Repetition(place), attention.Attention(place),
            rauq.Rauq(place)]


def _checked(candidate: Any, origin: str) -> Scorer:
    for attribute in ("name", "version"):
        if not isinstance(getattr(candidate, attribute, None), str):
            raise TypeError(f"a scorer has a `{attribute}` of type str, {origin} made a {type(candidate).__name__} without: add it")
    if not callable(getattr(candidate, "score", None)):
        raise TypeError(f"a scorer has a method `score`, {origin} made a {type(candidate).__name__} without: add it")
    scorer: Scorer = candidate
    return scorer


def warm_up(device: Choice = "auto") -> None:
    """Compiles every kernel (half a minute the first time on the CPU, then read from numba's cache), so that no request waits.

    device: as in the settings; the CPU's kernels are compiled in any case, for a GPU may be lost.
    """
    for place in {found.name: found for found in (Device("cpu"), Device(device))}.values():
        block = _small_block()
        for scorer in _ours(place):
            scorer.score(block)
        vectors = np.eye(3)
        embedding.pairwise_cosine(vectors, vectors, place)
        embedding.rbf_mmd2(vectors, vectors, 1.0, place)
        embedding.rbf(vectors, 1.0, place)
        histogram.histogram(vectors, [0.0, 1.0], place)
        tdigest.digest([0.0, 1.0], place)
        length.length_adjusted([0.0, 1.0], [1, 2], [0, 2], place)


def _small_block() -> Block:
    """One sequence with every series that a scorer of ours reads: 9 tokens, 3 layers, 1 head."""
    tokens, layers = 9, 3
    made: dict[str, Column] = {}
    for column in TOKENS.columns:
        count = tokens * (layers if column.axes and column.axes.layers else 1)
        if column.type in ("Array(Float32)", "Array(UInt32)"):
            dtype = np.float32 if column.type == "Array(Float32)" else np.uint32
            made[column.name] = Lists(np.array([0, count], np.int64), np.ones(count, dtype))
        elif column.type == "UInt16":
            made[column.name] = np.array([1 if column.name.endswith("Heads") else layers], np.uint16)
    return Block(TOKENS.name, 1, made)
