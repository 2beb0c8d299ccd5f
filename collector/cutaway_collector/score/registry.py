"""Which scorers there are: ours, and those that installed packages offer. Not the place that runs them (see `rows`).

A package adds one by an entry point in the group `cutaway.scorers`; its value is called without arguments and returns a
`contracts.Scorer`:

    [project.entry-points."cutaway.scorers"]
    politeness = "my_package.politeness:Politeness"
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, Final

import numpy as np

from cutaway_collector.contracts import Scorer
from cutaway_collector.score import quarters, repetition, worst_window
from cutaway_collector.score.device import Choice, Device
from cutaway_collector.score.ragged import read_only

ENTRY_POINT_GROUP: Final = "cutaway.scorers"

_log = logging.getLogger(__name__)


def log_failure(name: str, error: Exception) -> None:
    """What happens to a failure when nobody else listens: one line."""
    _log.warning("the scorer %s is left out: %s: %s", name, type(error).__name__, error)


def scorers(device: Choice = "auto", *, on_failure: Callable[[str, Exception], None] = log_failure) -> list[Scorer]:
    """Our scorers on the chosen device, then the plug-ins, looked up now and not at import.

    A plug-in that cannot be loaded or is no Scorer goes to on_failure(entry point name, exception) and is left out. Raises
    SettingsError for device "cuda" without a GPU.
    """
    place = Device(device)
    found: list[Scorer] = [worst_window.WorstWindow(place), repetition.Repetition(place), quarters.Quarters(place)]
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name):
        try:
            found.append(_checked(point.load()(), point.value))
        except Exception as error:
            on_failure(point.name, error)
    return found


def _checked(candidate: Any, origin: str) -> Scorer:
    for attribute in ("name", "version"):
        if not isinstance(getattr(candidate, attribute, None), str):
            raise TypeError(f"a scorer has a `{attribute}` of type str, {origin} made a {type(candidate).__name__} without: add it")
    if not callable(getattr(candidate, "score", None)):
        raise TypeError(f"a scorer has a method `score`, {origin} made a {type(candidate).__name__} without: add it")
    scorer: Scorer = candidate
    return scorer


def warm_up() -> None:
    """Compiles the CPU kernels (seconds the first time, then read from numba's cache), so that no request waits for it."""
    offsets = read_only(np.array([0, 5]), np.int64)
    place = Device("cpu")
    surprisals = read_only(np.ones(5), np.float32)
    place.run(worst_window.on_cpu, worst_window.on_cuda, surprisals, offsets)
    place.run(quarters.on_cpu, quarters.on_cuda, surprisals, offsets)
    place.run(repetition.on_cpu, repetition.on_cuda, read_only(np.ones(5), np.uint32), offsets)
