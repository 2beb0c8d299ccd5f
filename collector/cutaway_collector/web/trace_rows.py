"""The rows of a waterfall as they are drawn: places in percent of the stretch of time shown, marks and what they say.

Not the order of rows, which is the waterfall's. `lines` is for the template; `columns` is the same for the script, for all rows at
once and before closing and zooming, which the script does itself.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cutaway_collector.search.skeleton import Stripe
from cutaway_collector.web import figures
from cutaway_collector.web.trace_state import State
from cutaway_collector.web.waterfall import DEPTH_SHOWN_MAX, Waterfall, guides, holds

STRIPE_FULL_NATS: Final = 6.0
"""Surprisal at the end of the stripe's colours; fixed, so that generations compare."""
HUES: Final = 8
THINNEST_PERCENT: Final = 0.25
_HEAT_DIGITS: Final = "0123456789abcdef"


@dataclass(frozen=True, slots=True)
class Place:
    """From x on, `width` wide, both in percent of the lane. kind: colour class of a stripe's cell."""

    x: float
    width: float
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Tick:
    """An event at x percent of the lane."""

    x: float
    failure: bool


@dataclass(frozen=True, slots=True)
class Line:
    """One row. depth: true one, `shown_depth` is how far it is indented. rails, last: see waterfall.guides. members: of a group, 0
    for a span. expanded: None where nothing stands below. bar, prefill: None outside of the time shown. path_ns: time it spends on
    the critical path. state: "matched", "dimmed" or "".
    """

    name: str
    url: str
    identity: str
    depth: int
    shown_depth: int
    rails: tuple[int, ...]
    last: bool
    selected: bool
    failed: int
    orphan: str
    ring: bool
    early: bool
    below: int
    members: int
    p50_ns: int
    p99_ns: int
    expanded: bool | None
    hue: int
    duration_ns: int
    bar: Place | None
    prefill: Place | None
    stripe: tuple[Place, ...]
    ticks: tuple[Tick, ...]
    path: tuple[Place, ...]
    path_ns: int
    ttft_s: float | None
    state: str


class Lane:
    """The stretch of time that is shown, as the width of every row."""

    def __init__(self, tree: Waterfall, low: float, high: float) -> None:
        self.origin_ns, self.start_ns = tree.start_ns, tree.total_ns * low / 100
        self.width_ns = tree.total_ns * (high - low) / 100

    def at(self, ns: int) -> float:
        """Percent of the lane."""
        # From the trace's start first: nanoseconds since 1970 have more digits than a float.
        return 100 * (ns - self.origin_ns - self.start_ns) / self.width_ns

    def place(self, start_ns: int, end_ns: int, *, kind: str = "", thinnest: float = 0.0) -> Place | None:
        """None outside. Cut a little beyond the edges, so that an end that is not shown has no corner."""
        low, high = self.at(start_ns), self.at(end_ns)
        if high < 0 or low > 100:
            return None
        x = max(low, -2.0)
        return Place(x, max(min(high, 102.0) - x, thinnest), kind)


def heat(stripe: Stripe) -> str:
    """One hex digit a bin, the class of its colour; "." where no token falls."""
    return "".join(
        "." if nats is None else _HEAT_DIGITS[figures.shade(nats, STRIPE_FULL_NATS)]
        for nats in stripe.bins
    )


def lines(
    tree: Waterfall, rows: Sequence[int], state: State, *, selected: str, opened: Container[int], first: int,
    stripes: Mapping[str, Stripe], matched: Container[int] | None,
) -> tuple[Line, ...]:
    """The lines of these rows. opened: groups that are open; first: of the page of rows, for their addresses."""
    flat = matched is not None and state.show == "alone"
    depths = [0 if flat else tree.depths[row] for row in rows]
    maker = _Maker(tree, state, selected, opened, first, stripes, matched)
    return tuple(maker.line(row, depth, *guide) for row, depth, guide in zip(rows, depths, guides(depths), strict=True))


class _Maker:
    def __init__(
        self, tree: Waterfall, state: State, selected: str, opened: Container[int], first: int, stripes: Mapping[str, Stripe],
        matched: Container[int] | None,
    ) -> None:
        self.tree, self.state, self.selected, self.opened, self.first = tree, state, selected, opened, first
        self.stripes, self.matched = stripes, matched
        self.lane = Lane(tree, state.low, state.high)
        self.hues = {service: index % HUES for index, service in enumerate(tree.services)}
        self.path: dict[int, list[tuple[int, int]]] = {}
        for span, start_ns, end_ns in tree.path:
            self.path.setdefault(span, []).append((start_ns, end_ns))

    def line(self, row: int, depth: int, rails: int, last: bool) -> Line:
        entry = self.tree.entries[row]
        common: dict[str, Any] = {
            "depth": depth, "shown_depth": min(depth, DEPTH_SHOWN_MAX), "last": last, "below": self.tree.below[row],
            "rails": tuple(level for level in range(1, DEPTH_SHOWN_MAX + 1) if rails >> level & 1),
        }
        return self._span(entry, common) if entry >= 0 else self._group(~entry, common)

    def _group(self, number: int, common: Mapping[str, Any]) -> Line:
        group, spans = self.tree.groups[number], self.tree.skeleton
        key, is_open = spans.span_ids[group.members[0]], number in self.opened
        others = tuple(one for one in self.state.opened if one != key)
        path = [part for span in group.members for part in self.path.get(span, ())] if self.path else []
        toggled = ",".join(others if is_open else (*others, key))
        return Line(
            name=group.name, url=self.state.url(rows=self.first, open=toggled), identity=key,
            selected=False, failed=group.failures, orphan="", ring=False, early=False, members=len(group.members),
            p50_ns=group.p50_ns, p99_ns=group.p99_ns, expanded=is_open, hue=self.hues[group.service],
            duration_ns=group.end_ns - group.start_ns, prefill=None, stripe=(), ticks=(), ttft_s=None,
            bar=self.lane.place(group.start_ns, group.end_ns, thinnest=THINNEST_PERCENT), path=self._places(path),
            path_ns=sum(end - start for start, end in path), state=self._state(group.members), **common,
        )

    def _span(self, span: int, common: Mapping[str, Any]) -> Line:
        tree, spans, place = self.tree, self.tree.skeleton, self.lane.place
        start, duration, span_id = spans.starts_ns[span], spans.durations_ns[span], spans.span_ids[span]
        first_token_ns = round(min((spans.ttfts_s[span] or 0.0) * 1e9, duration))
        stripe, path = self.stripes.get(span_id), self.path.get(span, [])
        events = zip(*spans.events.get(span, ((), ())), strict=True)
        ticks = ((self.lane.at(start + offset), bool(failure)) for offset, failure in events)
        return Line(
            name=spans.names[span], url=self.state.url(span=span_id, rows=self.first), identity=span_id,
            selected=span_id == self.selected, failed=int(spans.failed[span]), ring=span in tree.rings, early=span in tree.early,
            orphan=spans.parent_ids[span] if span in tree.orphans else "", members=0, p50_ns=0, p99_ns=0,
            expanded=True if common["below"] else None, hue=self.hues[spans.services[span]], duration_ns=duration,
            bar=place(start, start + duration, thinnest=THINNEST_PERCENT),
            prefill=place(start, start + first_token_ns) if first_token_ns else None, stripe=self._cells(stripe, start, duration),
            ticks=tuple(Tick(at, failure) for at, failure in ticks if 0 <= at <= 100), path=self._places(path),
            path_ns=sum(end - begin for begin, end in path), ttft_s=spans.ttfts_s[span], state=self._state((span,)), **common,
        )

    def _state(self, members: Sequence[int]) -> str:
        if self.matched is None:
            return ""
        return "matched" if any(span in self.matched for span in members) else "dimmed"

    def _places(self, parts: Sequence[tuple[int, int]]) -> tuple[Place, ...]:
        """Where these stretches of time lie; those too close to be told apart are one, so that a row never has thousands."""
        least_ns = self.lane.width_ns * THINNEST_PERCENT / 100
        joined: list[tuple[int, int]] = []
        for start, end in sorted(parts):
            if joined and start - joined[-1][1] < least_ns:
                joined[-1] = joined[-1][0], max(joined[-1][1], end)
            else:
                joined.append((start, end))
        found = (self.lane.place(start, end, thinnest=THINNEST_PERCENT) for start, end in joined)
        return tuple(place for place in found if place is not None)

    def _cells(self, stripe: Stripe | None, start_ns: int, duration_ns: int) -> tuple[Place, ...]:
        """Where a sender's tokens go on after its span has ended, the stripe ends with the span."""
        if stripe is None:
            return ()
        size_s = (stripe.last_s - stripe.first_s) / len(stripe.bins)
        edges = [start_ns + round((stripe.first_s + number * size_s) * 1e9) for number in range(len(stripe.bins) + 1)]
        found = (
            self.lane.place(edges[number], edges[number + 1], kind=str(int(digit, 16) or 1))
            for number, digit in enumerate(heat(stripe))
            if digit != "." and edges[number] < start_ns + duration_ns
        )
        return tuple(place for place in found if place is not None)


def _sparse(values: Iterable[tuple[int, Any]]) -> dict[str, Any]:
    return {str(row): value for row, value in values}


def columns(tree: Waterfall, stripes: Mapping[str, Stripe], matched: Container[int]) -> dict[str, Any]:
    """All rows for the script. Arrays hold a value a row; objects have the few rows that have one, by row.

    Times in nanoseconds from the start of the trace. holds: groups that stand for matches without rows of their own.
    """
    spans, entries = tree.skeleton, tree.entries
    names = {name: index for index, name in enumerate(dict.fromkeys(spans.names))}
    services = {service: index for index, service in enumerate(tree.services)}
    rows = {entry: row for row, entry in enumerate(entries) if entry >= 0}
    groups = {row: tree.groups[~entry] for row, entry in enumerate(entries) if entry < 0}
    heads = [entry if entry >= 0 else tree.groups[~entry].members[0] for entry in entries]
    numbers = (spans.input_tokens, spans.output_tokens, spans.ttfts_s, spans.perplexities, spans.surprisal_means,
               spans.surprisal_maxima)
    starts = [spans.starts_ns[span] - tree.start_ns for span in heads]
    durations = [spans.durations_ns[span] for span in heads]
    for row, group in groups.items():
        starts[row], durations[row] = group.start_ns - tree.start_ns, group.end_ns - group.start_ns
    return {
        "names": list(names), "services": list(services),
        "ids": [spans.span_ids[span] for span in heads],
        "parents": tree.parents, "ends": tree.ends, "depths": tree.depths,
        "name": [names[spans.names[span]] for span in heads], "service": [services[spans.services[span]] for span in heads],
        "start": starts, "duration": durations,
        "holds": [row for row in groups if holds(tree, row, matched)],
        "failed": [row for row, entry in enumerate(entries) if entry >= 0 and spans.failed[entry]],
        "orphans": _sparse((rows[span], spans.parent_ids[span]) for span in tree.orphans if span in rows),
        "rings": [rows[span] for span in tree.rings if span in rows],
        "early": [rows[span] for span in tree.early if span in rows],
        "groups": _sparse((row, [len(group.members), group.p50_ns, group.p99_ns, group.failures]) for row, group in groups.items()),
        "numbers": _sparse((row, [column[span] for column in numbers]) for span, row in rows.items()
                           if any(column[span] is not None for column in numbers)),
        "events": _sparse((rows[span], events) for span, events in spans.events.items() if span in rows),
        "stripes": _sparse((row, [one.first_s, one.last_s, heat(one)]) for span, row in rows.items()
                           if (one := stripes.get(spans.span_ids[span]))),
        "path": [[rows[span], start - tree.start_ns, end - start] for span, start, end in tree.path if span in rows],
    }
