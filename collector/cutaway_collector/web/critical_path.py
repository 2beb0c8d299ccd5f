"""The critical path of a trace: the chain of spans that its end waited for. To end sooner, one of these has to.

Not a profile: what ran beside the path is not on it, however long it took. After CRISP (Zhang et al., "CRISP: Critical Path
Analysis of Large-Scale Microservice Architectures", USENIX ATC 2022), as Jaeger draws it: from the end of the root backwards, the
child that ended last is what the span waited for; before that child began, the one that ended last before it; and so on, within
each child the same. What no such child covers is the span's own. Children are cut to their parent's time: what goes on after the
parent has ended did not hold it up. Of children that end at once the one that began first counts, then the one that stands first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Segment(NamedTuple):
    """[start_ns, end_ns) of the trace waited for the span itself, not for a child of it."""

    span: int
    start_ns: int
    end_ns: int


def critical_path(
    starts_ns: Sequence[int], ends_ns: Sequence[int], children: Sequence[Sequence[int]], root: int
) -> list[Segment]:
    """The path below `root`, from its end to its start; the segments fill the root's time exactly. children: a tree."""
    found: list[Segment] = []
    todo = [(root, starts_ns[root], ends_ns[root])]
    while todo:
        span, low, high = todo.pop()
        at = high
        clipped = [(min(ends_ns[child], high), max(starts_ns[child], low), child) for child in children[span]]
        for end, start, child in sorted(clipped, key=lambda one: (-one[0], one[1], one[2])):
            if not start < end <= at:
                continue
            if end < at:
                found.append(Segment(span, end, at))
            todo.append((child, start, end))
            at = start
        if low < at:
            found.append(Segment(span, low, at))
    return sorted(found, key=lambda segment: -segment.end_ns)
