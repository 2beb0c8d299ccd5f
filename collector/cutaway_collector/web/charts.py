"""Geometry of the charts that the server draws as SVG: the time histogram and axis ticks, in plain numbers.

Not markup: the templates turn these into rects and labels, with presentation attributes only: the policy forbids inline style.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from cutaway_collector.web import figures, times

BAR_WIDTH: Final = 10
HEIGHT: Final = 100
_STEPS_S: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800)
_OF_A_CLOCK_S: Final = (30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200)
_NONE_OF: Final = re.compile(r" 0\u202f\w+$")


@dataclass(frozen=True, slots=True)
class Bar:
    """One bucket: rect at x, y with height; the errors' rect from error_y down; its time and counts; what it says."""

    x: float
    y: float
    height: float
    error_y: float
    error_height: float
    start_ns: int
    end_ns: int
    label: str
    empty: bool
    count: int
    errors: int


@dataclass(frozen=True, slots=True)
class Tick:
    """A labelled place on an axis; `at` in percent of its length."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Histogram:
    """Spans over time on a canvas width x HEIGHT; `top` is the count at the ceiling."""

    width: int
    bars: tuple[Bar, ...]
    top: int
    total: int
    errors: int
    ticks: tuple[Tick, ...]


def histogram(start_ns: int, bucket_ns: int, counts: Sequence[int], errors: Sequence[int]) -> Histogram:
    """counts, errors [n] -> bars; `errors` are part of `counts` and drawn at the foot of each bar."""
    top = max(counts, default=0)
    bars = []
    for index, (total, bad) in enumerate(zip(counts, errors, strict=True)):
        start = start_ns + index * bucket_ns
        high = max(3.0, total / top * (HEIGHT - 6)) if total else 0.0
        low = max(2.0, bad / top * (HEIGHT - 6)) if bad else 0.0
        said = f"{figures.day(start)} {figures.clock(start)[:8]} UTC: {figures.count(total)} {'span' if total == 1 else 'spans'}"
        said += f", {figures.count(bad)} {'error' if bad == 1 else 'errors'}" if bad else ""
        bars.append(Bar(index * BAR_WIDTH, HEIGHT - high, high, HEIGHT - low, low, start, start + bucket_ns, said, not total,
                        total, bad))
    ticks = time_ticks(start_ns, start_ns + bucket_ns * len(counts))
    return Histogram(len(counts) * BAR_WIDTH, tuple(bars), top, sum(counts), sum(errors), ticks)


def time_ticks(start_ns: int, end_ns: int, wanted: int = 7) -> tuple[Tick, ...]:
    """Round times of day (or dates) between two moments, at most about `wanted` of them."""
    span_ns = end_ns - start_ns
    if span_ns <= 0:
        return ()
    fitting = (step for step in _STEPS_S if span_ns / (step * times.NS) <= wanted)
    step_ns = times.NS * next(fitting, _STEPS_S[-1] * (1 + span_ns // (wanted * _STEPS_S[-1] * times.NS)))
    first = -(-start_ns // step_ns) * step_ns
    places = [(100 * (ns - start_ns) / span_ns, ns) for ns in range(first, end_ns, step_ns)]
    shown = [(at, ns) for at, ns in places if 2 <= at <= 97]
    # What the whole axis shares is left out; what changes is said where it changes.
    before = figures.day(start_ns) if figures.day(start_ns) == figures.day(end_ns - 1) else ""
    year = figures.day(start_ns)[:5] if figures.day(start_ns)[:5] == figures.day(end_ns - 1)[:5] else ""
    ticks = []
    for at, ns in shown:
        ticks.append(Tick(at, _label(ns, step_ns, before, year)))
        before, year = figures.day(ns), figures.day(ns)[:5]
    return tuple(ticks)


def _label(ns: int, step_ns: int, before: str, year: str) -> str:
    """What differs from the tick before: date (with its year where that changes), time to the minute, or to the second.

    before: the date already said, year: the year already said with its hyphen; "" for none.
    """
    day, clock = figures.day(ns), figures.clock(ns)[: 5 if step_ns >= 60 * times.NS else 8]
    if day == before:
        return clock
    date = day.removeprefix(year) if year else day
    return date if step_ns >= 86_400 * times.NS or clock.strip("0:") == "" else f"{date} {clock}"


def duration_ticks(total_ns: int, wanted: int = 5) -> tuple[Tick, ...]:
    """Round durations from 0 towards `total_ns`, `duration_step` apart."""
    if total_ns <= 0:
        return (Tick(0.0, "0"),)
    marks = range(0, total_ns + 1, duration_step(total_ns, wanted))
    return tuple(Tick(100 * ns / total_ns, duration_label(ns)) for ns in marks if ns / total_ns <= 0.96)


def duration_step(total_ns: float, wanted: int = 5) -> int:
    """What at most `wanted` ticks over `total_ns` are apart: the least of `_duration_steps` that is enough."""
    return next(step for step in _duration_steps() if total_ns / step <= wanted)


def _duration_steps() -> Iterator[int]:
    """1, 2 or 5 times a power of ten nanoseconds; from half a minute to half a day what a clock shows; then so many days."""
    tens = [factor * 10**power for power in range(19) for factor in (1, 2, 5)]
    yield from (step for step in tens if step < 30 * times.NS)
    yield from (seconds * times.NS for seconds in _OF_A_CLOCK_S)
    yield from (86_400 * times.NS * days for days in tens)


def duration_label(ns: float) -> str:
    """A round duration without the part that is none: "5 min", not "5 min 0 s"."""
    return _NONE_OF.sub("", figures.duration(ns)) if ns else "0"
