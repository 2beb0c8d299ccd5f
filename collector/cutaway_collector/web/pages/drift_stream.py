"""The stream of one attribute on the drift page: its windows against the reference, and a chart that says when they left it.

Not the page around it and not the charts' arithmetic: the same `drift.chart` judges alerts, so both say the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

import numpy as np

from cutaway_collector.baselines import attributes, stored
from cutaway_collector.baselines.compare import Drift
from cutaway_collector.baselines.pins import Baseline
from cutaway_collector.drift import chart, streams
from cutaway_collector.drift.chart import Kind, Reading
from cutaway_collector.web import drift_charts, figures, urls
from cutaway_collector.web.errors import BadParameter
from cutaway_collector.web.site import Arguments, Site

WINDOWS_MAX: Final = 500
"""The chart begins at rest with the oldest of these; an alert's began when its rule was applied."""
RUN_LENGTHS: Final = (100, 370, 1000, 10_000)
SAYS: Final[dict[Kind, str]] = {
    "cusum": "the quickest to see a lasting shift of one standard error", "ewma": "quicker for a smaller one that stays",
    "adwin": "a step between any two levels, whatever the reference says",
}


@dataclass(frozen=True, slots=True)
class Choice:
    """One entry of a menu."""

    value: str
    label: str
    chosen: bool


@dataclass(frozen=True, slots=True)
class Alarm:
    """Windows in a row in which the chart alarms: words, and the address of the first."""

    words: str
    url: str


@dataclass(frozen=True, slots=True)
class Drawn:
    """The stream as printed. levels: path of the windows' means; reference: of what they are compared with; values: of the chart;
    limits: heights of its limits; bands: (x, width) of alarms. All in a view box of drift_charts.STREAM_WIDTH and _HEIGHT.
    """

    title: str
    unit: str
    attributes: tuple[Choice, ...]
    charts: tuple[Choice, ...]
    run_lengths: tuple[Choice, ...]
    words: str
    says: str
    levels: str
    reference: str
    values: str
    limits: tuple[float, ...]
    bands: tuple[tuple[float, float], ...]
    level_ends: tuple[str, str]
    value_ends: tuple[str, str]
    limit: str
    alarms: tuple[Alarm, ...]
    label: str
    windows: int


@dataclass(frozen=True, slots=True)
class Stream:
    """One attribute under one chart: windows [n], oldest first, and the chart after each."""

    attribute: str
    kind: Kind
    run_length: float
    rows: Sequence[Drift]
    readings: Sequence[Reading]
    choices: tuple[str, ...]

    @property
    def axis(self) -> tuple[int, int]:
        """First and last moment, nanoseconds since 1970."""
        return self.rows[0].start_ns, self.rows[-1].end_ns

    def shown(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "attribute": self.attribute, "chart": self.kind, "run_length": self.run_length,
            "limit": self.readings[-1].limit, "says": chart.words(self.kind, self.run_length),
            "windows": [{"start_ns": row.start_ns, "end_ns": row.end_ns, "level": row.level, "reference_level": row.reference_level,
                         "deviation": row.deviation, "value": reading.value, "alarm": reading.alarm}
                        for row, reading in zip(self.rows, self.readings, strict=True)],
        }


def find(site: Site, one: Baseline, history: Sequence[Drift], args: Arguments, before_ns: int) -> Stream | None:
    """The stream asked for by `of`, `chart` and `run_length`, else the one that matters most; None where no window can be followed.

    Raises BadParameter, StoreError.
    """
    kind = next((kind for kind in chart.KINDS if kind == args.get("chart", "cusum")), None)
    if kind is None:
        raise BadParameter(f"chart is one of {', '.join(chart.KINDS)}, it is {args['chart'][:40]!r}")
    if chart.missing(kind):
        raise BadParameter(chart.missing(kind))
    run_length = _run_length(args.get("run_length", ""))
    shifted = [row.attribute for row in history if row.label == "shifted"]
    followed = {row.attribute for row in history if row.deviation is not None}
    order = list(attributes.TITLES)
    choices = tuple(sorted(followed, key=lambda name: (order.index(name) if name in order else len(order), name)))
    wanted = args.get("of", "")
    if wanted and wanted not in choices:
        raise BadParameter(f"no window of {wanted[:60]!r} can be followed by a chart", hint=(
            f"there are {', '.join(choices)}" if choices else
            "numbers can, once a reference of 12 hours is pinned and a window is over"))
    if not choices:
        return None
    name = wanted or max(choices, key=lambda each: (shifted.count(each), -choices.index(each)))
    rows = [row for row in stored.read(site.store, one, windows=WINDOWS_MAX, before_ns=before_ns, attribute=name)
            if row.deviation is not None]
    readings: list[Reading] = []
    for row in rows:
        assert row.deviation is not None
        readings.append(chart.follow(kind, readings[-1].memory if readings else (), row.deviation, run_length))
    return Stream(name, kind, run_length, rows, readings, choices) if rows else None


def _run_length(text: str) -> float:
    if not text:
        return streams.RUN_LENGTH
    least, most = chart.RUN_LENGTHS
    if not (text.isascii() and text.isdigit() and len(text) < 9 and least <= int(text) <= most):
        raise BadParameter(f"run_length is a whole number of windows from {least:g} to {most:.0f}, it is {text[:20]!r}")
    return float(text)


def drawn(found: Stream, one: Baseline) -> Drawn:
    """What the template shows."""
    title, unit = attributes.title(found.attribute)
    levels, references = (np.array([getattr(row, name) for row in found.rows], np.float64) for name in ("level", "reference_level"))
    values = np.array([reading.value for reading in found.readings], np.float64)
    limit = found.readings[-1].limit
    places = [(row.start_ns + row.end_ns) // 2 for row in found.rows]
    start_ns, end_ns = found.axis
    low, high = float(min(levels.min(), references.min())), float(max(levels.max(), references.max()))
    reach = max(float(np.abs(values).max()), 1.2 * limit if limit is not None else 1.0)
    alarms = _alarms(found)
    latest = f"now {figures.number(float(values[-1]))}, {'alarming' if found.readings[-1].alarm else 'calm'}"
    return Drawn(
        title=title, unit=unit,
        attributes=tuple(Choice(name, attributes.title(name)[0], name == found.attribute) for name in found.choices),
        charts=tuple(Choice(kind, chart.TITLES[kind], kind == found.kind) for kind in chart.KINDS if not chart.missing(kind)),
        run_lengths=tuple(Choice(str(each), figures.count(each), each == found.run_length)
                          for each in sorted({*RUN_LENGTHS, int(found.run_length)})),
        words=chart.words(found.kind, found.run_length), says=SAYS[found.kind],
        levels=drift_charts.stream_path(places, levels, (start_ns, end_ns), low, high),
        reference=drift_charts.stream_path(places, references, (start_ns, end_ns), low, high),
        values=drift_charts.stream_path(places, values, (start_ns, end_ns), -reach, reach),
        limits=tuple(drift_charts.stream_height(each, -reach, reach) for each in ((limit, -limit) if limit is not None else ())),
        bands=tuple(drift_charts.stream_band(rows[0].start_ns, rows[-1].end_ns, (start_ns, end_ns)) for rows in alarms),
        level_ends=(figures.number(low), figures.number(high)), value_ends=(figures.number(-reach), figures.number(reach)),
        limit=figures.number(limit) if limit is not None else "",
        alarms=tuple(Alarm(_moments(rows), urls.drift(baseline=one.id, at=rows[0].end_ns, of=found.attribute, chart=found.kind,
                                                      run_length=int(found.run_length))) for rows in alarms),
        label=f"{chart.TITLES[found.kind]} of {title}: {len(found.rows)} windows, {latest}, "
              f"{len(alarms) or 'no'} {'alarm' if len(alarms) == 1 else 'alarms'}", windows=len(found.rows))


def _alarms(found: Stream) -> list[list[Drift]]:
    """Windows in a row in which the chart alarms."""
    pairs = zip(found.rows, found.readings, strict=True)
    return [[row for row, _ in group] for alarm, group in groupby(pairs, key=lambda pair: pair[1].alarm) if alarm]


def _moments(rows: Sequence[Drift]) -> str:
    first, last = rows[0], rows[-1]
    words = f"{figures.day(first.end_ns)} {figures.clock(first.end_ns)[:5]}"
    return words if first is last else f"{words} to {figures.day(last.end_ns)} {figures.clock(last.end_ns)[:5]}"
