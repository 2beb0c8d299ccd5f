"""One chart over one stream, value by value, its memory plain numbers: CUSUM, EWMA or ADWIN goes on after a restart as before.

Not the limits and run lengths, which `streams` solves for, and not where the values come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Final, Literal, NamedTuple

from cutaway_collector.drift import streams
from cutaway_collector.drift.streams import Cusum, Ewma

Kind = Literal["cusum", "ewma", "adwin"]
KINDS: Final[tuple[Kind, ...]] = ("cusum", "ewma", "adwin")
TITLES: Final[dict[Kind, str]] = {"cusum": "CUSUM", "ewma": "EWMA", "adwin": "ADWIN"}
RUN_LENGTHS: Final = (10.0, 1e6)
"""Smallest and largest that may be asked for."""
ADWIN_VALUES_MAX: Final = 1000
"""Values that ADWIN remembers; when there are more, it begins anew with the newer half."""
_CAP: Final = 1.1
"""Of the limit: no chart goes further, or it would take as long to come back as it was away."""


class Reading(NamedTuple):
    """A chart after a value. value: the larger sum (CUSUM, with the sign of its side), the average (EWMA), the mean since the
    last cut (ADWIN). limit: it alarms beyond +- this; None for ADWIN. calm: it is back within half of its limit.
    """

    memory: tuple[float, ...]
    value: float
    limit: float | None
    alarm: bool
    calm: bool


def follow(kind: Kind, memory: Sequence[float], z: float, run_length: float) -> Reading:
    """The chart after one more value z, in standard errors from what is normal. memory: of the Reading before, () at first.

    run_length: mean values to a false alarm (ADWIN: at least). Raises SettingsError where ADWIN's river is missing.
    """
    if kind == "cusum":
        sums = Cusum(run_length=run_length)
        sums.high, sums.low = (*memory, 0.0, 0.0)[:2]
        alarm, most = sums.update(z), _CAP * sums.limit
        high, low = min(sums.high, most), min(sums.low, most)
        return Reading((high, low), high if high >= low else -low, sums.limit, alarm, max(high, low) <= sums.limit / 2)
    if kind == "ewma":
        average = Ewma(run_length=run_length)
        average.level = memory[0] if memory else 0.0
        alarm, most = average.update(z), _CAP * average.limit
        level = min(most, max(-most, average.level))
        return Reading((level,), level, average.limit, alarm, abs(level) <= average.limit / 2)
    values = [*memory, z] if len(memory) < ADWIN_VALUES_MAX else [*memory[ADWIN_VALUES_MAX // 2:], z]
    kept = streams.adwin_width(values, delta=adwin_delta(run_length))
    after = tuple(values[len(values) - kept:])
    cut = kept < len(values)
    return Reading(after, sum(after) / kept, None, cut, not cut)


def adwin_delta(run_length: float) -> float:
    """ADWIN's delta for a mean run length of at least this.

    A look cuts falsely with probability delta at most (Bifet, Gavalda 2007, theorem 3.1), so within n looks with n delta at most:
    the mean is then at least the sum of 1 - n delta over n < 1 / delta, which is 1 / (2 delta).
    """
    return 1 / (2 * run_length)


def words(kind: Kind, run_length: float) -> str:
    """What the chart is and how often it is wrong, as a person says it."""
    least = "at least " if kind == "adwin" else ""
    return f"{TITLES[kind]}, a false alarm every {least}{run_length:,.0f} windows on average"


def missing(kind: Kind) -> str:
    """What to install before this chart can be drawn, "" for nothing."""
    return "ADWIN needs river: pip install 'cutaway[drift]'" if kind == "adwin" and find_spec("river") is None else ""
