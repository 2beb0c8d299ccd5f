"""A trace's flat list of spans -> rows in nested order, with depth, groups of repeated siblings, and the critical path.

Not markup and not the store: spans arrive as the columns of a skeleton. The nested order is worked out here alone; the page and the
script in it only walk the rows and leave out what is closed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from cutaway_collector.search.skeleton import Skeleton
from cutaway_collector.web.critical_path import Segment, critical_path

DEPTH_SHOWN_MAX: Final = 24
"""Deeper rows are indented no further; the true depth is printed."""
GROUP_MEMBERS_MIN: Final = 5
"""Children of one span with one name and service from which on they stand in a row together."""

Show = Literal["dim", "with", "alone"]
"""What becomes of rows that a filter does not match: they fade, stay only above a match, or go."""


@dataclass(frozen=True, slots=True)
class Group:
    """Repeated spans in one row. members: spans by start. p50_ns, p99_ns: nearest-rank percentiles of their durations."""

    name: str
    service: str
    members: tuple[int, ...]
    p50_ns: int
    p99_ns: int
    failures: int
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Waterfall:
    """Rows in nested order over [start_ns, start_ns + total_ns); the row below which all others of a span stand comes first.

    entries: a row's span, or ~n for group n. parents: row of the parent, -1 for roots. ends: the row behind the last one below.
    depths: from 0, groups counted. below: rows directly below. orphans: spans whose parent is not stored; rings: spans that are
    their own ancestors, cut at the earliest; early: spans that begin before their parent, by the clocks of their senders.
    path: the critical path of the span `root`, from the end to the start. services: in the order of their first span.
    """

    skeleton: Skeleton
    entries: tuple[int, ...]
    parents: tuple[int, ...]
    ends: tuple[int, ...]
    depths: tuple[int, ...]
    below: tuple[int, ...]
    groups: tuple[Group, ...]
    start_ns: int
    total_ns: int
    orphans: frozenset[int]
    rings: frozenset[int]
    early: frozenset[int]
    services: tuple[str, ...]
    root: int
    path: tuple[Segment, ...]


def percentile(ordered: Sequence[int], share: float) -> int:
    """The smallest value that is not below `share` of all (nearest rank). ordered: ascending, not empty."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def group(skeleton: Skeleton, members: Sequence[int]) -> Group:
    """What the members have together; they share name and service."""
    durations = sorted(skeleton.durations_ns[span] for span in members)
    return Group(
        skeleton.names[members[0]],
        skeleton.services[members[0]],
        tuple(members),
        percentile(durations, 0.5),
        percentile(durations, 0.99),
        sum(1 for span in members if skeleton.failed[span]),
        min(skeleton.starts_ns[span] for span in members),
        max(skeleton.starts_ns[span] + skeleton.durations_ns[span] for span in members),
    )


def overview(skeleton: Skeleton, opened: Container[str], *, members_max: int) -> Waterfall:
    """For traces too large to be drawn a span a row: a row for the spans of one name and service at one depth, shallow ones first.

    opened: ids of first members, whose groups are followed by their `members_max` earliest spans. There is no critical path.
    """
    tree = _Tree(skeleton)
    together: dict[tuple[int, str, str], list[int]] = {}
    for span, depth in enumerate(tree.depths):
        together.setdefault((depth, skeleton.names[span], skeleton.services[span]), []).append(span)
    groups = [group(skeleton, spans) for _, spans in sorted(together.items(), key=lambda one: (one[0][0], one[1][0]))]
    entries: list[int] = []
    parents: list[int] = []
    ends: list[int] = []
    for number, one in enumerate(groups):
        at = len(entries)
        laid = one.members[:members_max] if skeleton.span_ids[one.members[0]] in opened else ()
        entries += [~number, *laid]
        parents += [-1, *(at for _ in laid)]
        ends += [at + 1 + len(laid), *(at + 2 + place for place in range(len(laid)))]
    start_ns = min(skeleton.starts_ns)
    end_ns = max(one.end_ns for one in groups)
    return Waterfall(
        skeleton, tuple(entries), tuple(parents), tuple(ends), tuple(int(parent >= 0) for parent in parents),
        tuple(len(groups[~entry].members) if entry < 0 else 0 for entry in entries), tuple(groups),
        start_ns=start_ns, total_ns=max(1, end_ns - start_ns), orphans=frozenset(tree.orphans), rings=frozenset(tree.rings),
        early=frozenset(), services=tuple(dict.fromkeys(skeleton.services)), root=tree.roots[0], path=(),
    )


def build(skeleton: Skeleton) -> Waterfall:
    """Children stand under their parent by start; every span has one row, whatever its parent says. skeleton: ordered by start."""
    tree = _Tree(skeleton)
    rows = _Rows(skeleton, tree.children)
    rows.lay(tree.roots)
    starts, durations = skeleton.starts_ns, skeleton.durations_ns
    ends = [start + duration for start, duration in zip(starts, durations, strict=True)]
    start_ns = min(starts)
    root = next((span for span in tree.roots if not skeleton.parent_ids[span]), tree.roots[0])
    behind = [row + 1 for row in range(len(rows.entries))]
    below = [0] * len(rows.entries)
    for row in range(len(rows.entries) - 1, -1, -1):
        parent = rows.parents[row]
        if parent >= 0:
            behind[parent] = max(behind[parent], behind[row])
            below[parent] += 1
    return Waterfall(
        skeleton, tuple(rows.entries), tuple(rows.parents), tuple(behind), tuple(rows.depths), tuple(below), tuple(rows.groups),
        start_ns=start_ns, total_ns=max(1, max(ends) - start_ns),
        orphans=frozenset(tree.orphans), rings=frozenset(tree.rings),
        early=frozenset(span for span, parent in enumerate(tree.parents) if parent >= 0 and starts[span] < starts[parent]),
        services=tuple(dict.fromkeys(skeleton.services)),
        root=root, path=tuple(critical_path(starts, ends, tree.children, root)),
    )


class _Tree:
    """Who stands under whom. parents: span of the parent, -1 for roots. depths: from 0. children, roots: by start."""

    def __init__(self, skeleton: Skeleton) -> None:
        known = {span_id: span for span, span_id in enumerate(skeleton.span_ids)}
        self.parents = [known.get(parent, -1) if parent else -1 for parent in skeleton.parent_ids]
        self.children: list[list[int]] = [[] for _ in self.parents]
        self.depths = [0] * len(self.parents)
        self.rings: list[int] = []
        for span, parent in enumerate(self.parents):
            if parent >= 0:
                self.children[parent].append(span)
        seen = bytearray(len(self.parents))
        for span, parent in enumerate(self.parents):
            if parent < 0:
                self._see(span, seen)
        for span, parent in enumerate(self.parents):  # what hangs from no root hangs from a ring
            if not seen[span]:
                self.children[parent].remove(span)
                self.parents[span] = -1
                self.rings.append(span)
                self._see(span, seen)
        self.roots = [span for span, parent in enumerate(self.parents) if parent < 0]
        rings = set(self.rings)
        self.orphans = [span for span in self.roots if skeleton.parent_ids[span] and span not in rings]

    def _see(self, root: int, seen: bytearray) -> None:
        todo = [root]
        while todo:
            span = todo.pop()
            seen[span] = 1
            for child in self.children[span]:
                self.depths[child] = self.depths[span] + 1
                todo.append(child)


class _Rows:
    """Walks the tree without recursion: a chain of 20 000 spans is a legal trace."""

    def __init__(self, skeleton: Skeleton, children: Sequence[Sequence[int]]) -> None:
        self.skeleton, self.children = skeleton, children
        self.entries: list[int] = []
        self.parents: list[int] = []
        self.depths: list[int] = []
        self.groups: list[Group] = []

    def lay(self, roots: Sequence[int]) -> None:
        """Appends a row for each root and all that stands below it."""
        todo = [(entry, 0, -1) for entry in reversed(self._grouped(roots))]
        while todo:
            entry, depth, parent = todo.pop()
            row = len(self.entries)
            self.entries.append(entry)
            self.depths.append(depth)
            self.parents.append(parent)
            below = self.children[entry] if entry >= 0 else self.groups[~entry].members
            if below:
                inner = self._grouped(below) if entry >= 0 else below
                todo += [(child, depth + 1, row) for child in reversed(inner)]

    def _grouped(self, spans: Sequence[int]) -> Sequence[int]:
        """The spans, those that repeat replaced by their group at the place of the first."""
        if len(spans) < GROUP_MEMBERS_MIN:
            return spans
        names, services = self.skeleton.names, self.skeleton.services
        counts = Counter((names[span], services[span]) for span in spans)
        out: list[int] = []
        members: dict[tuple[str, str], list[int]] = {}
        for span in spans:
            key = names[span], services[span]
            if counts[key] < GROUP_MEMBERS_MIN:
                out.append(span)
            elif key in members:
                members[key].append(span)
            else:
                members[key] = [span]
                out.append(~(len(self.groups) + len(members) - 1))
        self.groups.extend(group(self.skeleton, spans) for spans in members.values())
        return out


def visible(tree: Waterfall, opened: Container[int], matched: Container[int] | None = None, show: Show = "dim") -> list[int]:
    """Rows to show, in order. opened: groups that are open. matched: spans a filter finds, None without a filter.

    A filter that takes rows away opens every group: a match is never hidden behind something closed.
    """
    if matched is not None and show != "dim":
        hits = [row for row, entry in enumerate(tree.entries) if (entry in matched if entry >= 0 else holds(tree, row, matched))]
        if show == "alone":
            return hits
        kept: set[int] = set()
        for row in hits:
            at = row
            while at >= 0 and at not in kept:
                kept.add(at)
                at = tree.parents[at]
        return sorted(kept)
    shown: list[int] = []
    row = 0
    while row < len(tree.entries):
        shown.append(row)
        entry = tree.entries[row]
        row = tree.ends[row] if entry < 0 and ~entry not in opened else row + 1
    return shown


def holds(tree: Waterfall, row: int, matched: Container[int]) -> bool:
    """Whether a row stands for matches that have no rows of their own: a closed group of a trace too large for a row a span."""
    entry = tree.entries[row]
    return entry < 0 and tree.ends[row] == row + 1 and any(span in matched for span in tree.groups[~entry].members)


def guides(depths: Sequence[int]) -> list[tuple[int, bool]]:
    """For rows of these depths: bit n is set where the line of an ancestor at depth n passes by; and whether no sibling follows."""
    out: list[tuple[int, bool]] = []
    following = 0
    for depth in reversed(depths):
        level = min(depth, DEPTH_SHOWN_MAX + 1)
        own = 1 << level
        out.append((following & (own - 1) & ~1, not following & own))
        following = following & (own - 1) | own
    return out[::-1]
