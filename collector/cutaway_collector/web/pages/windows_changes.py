"""Where the scores of windows change, and which deployment that was: a step of each group's series, among the windows shown.

Not the drift of single generations, which has a pinned reference: these series are judged by themselves.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cutaway_collector.baselines import changes
from cutaway_collector.baselines.changes import Deployment
from cutaway_collector.drift import rule, significance, streams
from cutaway_collector.web.site import Site

GROUPS_MAX: Final = 20
"""The groups with the most windows; the others are not looked at."""
_NS: Final = 1_000_000_000
_GROUP: Final = ("tenant", "service", "model", "route", "template", "seconds")


@dataclass(frozen=True, slots=True)
class Turn:
    """A score whose level changes with this window. before, since: means of the windows shown; version: deployed then, or ""."""

    name: str
    before: float
    since: float
    q: float
    version: str

    def shown(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"name": self.name, "before": self.before, "since": self.since, "q": self.q, "service_version": self.version}


@dataclass(frozen=True, slots=True)
class Marks:
    """By place of the row: what changes there, and which version took over in that window."""

    turns: Mapping[int, Sequence[Turn]]
    deployed: Mapping[int, Deployment]


def find(site: Site, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Marks:
    """rows: as `search.windows` gives them, newest first; names: of scores. Raises StoreError."""
    if not rows:
        return Marks({}, {})
    step_ns = min(row["seconds"] for row in rows) * _NS
    start_ns = min(row["start_ns"] for row in rows) - step_ns
    end_ns = max(row["start_ns"] + row["seconds"] * _NS for row in rows)
    deployments = changes.deployments_of_services(site.store, sorted({row["service"] for row in rows}), start_ns, end_ns, step_ns)
    deployed = {place: last for place, row in enumerate(rows) if (last := _within(deployments, row, 0)) is not None}
    found: list[tuple[int, str, float, float, float]] = []
    for places in _groups(rows):
        for name in names:
            found += _step([(place, values[name]) for place in places
                            if name in (values := {score["name"]: float(score["value"]) for score in rows[place]["scores"]})], name)
    turns: defaultdict[int, list[Turn]] = defaultdict(list)
    q_values = significance.benjamini_hochberg([each[-1] for each in found])
    for (place, name, before, since, _), q in zip(found, q_values, strict=True):
        if q < rule.ALPHA:
            # A window that was half of each version may count to either side of the step.
            near = _within(deployments, rows[place], rows[place]["seconds"] * _NS)
            turns[place].append(Turn(name, before, since, q, near.version if near else ""))
    return Marks(turns, deployed)


def _groups(rows: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Places of the rows of each group, oldest first; the largest groups."""
    groups: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
    for place in range(len(rows) - 1, -1, -1):
        groups[tuple(rows[place][name] for name in _GROUP)].append(place)
    return sorted(groups.values(), key=len, reverse=True)[:GROUPS_MAX]


def _step(series: Sequence[tuple[int, float]], name: str) -> list[tuple[int, str, float, float, float]]:
    """(place, value), oldest first -> [(place, name, mean before, mean since, p)]; nothing where there are too few to say."""
    values = [value for _, value in series]
    if len(values) < 2 * streams.STEP_MIN:
        return []
    index, p = streams.step(values)
    if not index:
        return []
    return [(series[index][0], name, sum(values[:index]) / index, sum(values[index:]) / (len(values) - index), p)]


def _within(deployments: Mapping[tuple[str, str], Sequence[Deployment]], row: Mapping[str, Any],
            before_ns: int) -> Deployment | None:
    """The last deployment within the row's window, or up to before_ns before it."""
    start_ns, end_ns = row["start_ns"] - before_ns, row["start_ns"] + row["seconds"] * _NS
    of_service = deployments.get((row["tenant"], row["service"]), ())
    return next((one for one in reversed(of_service) if start_ns <= one.ns < end_ns), None)
