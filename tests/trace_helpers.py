"""Shared by the tests of the trace page: skeletons from plain tuples, and slow, plain ways to say what the page works out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

from cutaway_collector.search.skeleton import Skeleton

Plain = tuple[str, str, int, int]
"""Span id, parent id, start and duration."""


def skeleton(spans: Sequence[Plain], names: Mapping[str, str] | None = None, **columns: Sequence[Any]) -> Skeleton:
    """The spans as the store would give them: by start, then id. names: by span id, else the id itself. columns: in that order."""
    ordered = sorted(spans, key=lambda span: (span[2], span[0]))
    count = len(ordered)
    ids = [span[0] for span in ordered]
    plain: dict[str, Any] = {
        "span_ids": ids, "parent_ids": [span[1] for span in ordered], "names": [(names or {}).get(one, one) for one in ids],
        "kinds": ["Internal"] * count, "services": ["s"] * count, "starts_ns": [span[2] for span in ordered],
        "durations_ns": [span[3] for span in ordered], "failed": [0] * count, "models": [""] * count, "operations": [""] * count,
    }
    numbers = ("input_tokens", "output_tokens", "ttfts_s", "perplexities", "surprisal_means", "surprisal_maxima")
    plain |= {name: [None] * count for name in numbers}
    return Skeleton(trace_id="7" * 32, truncated=False, events={}, **(plain | columns))


def random_spans(most: int = 14, *, names: int = 3) -> st.SearchStrategy[tuple[list[Plain], dict[str, str]]]:
    """Up to `most` spans with any parent, themselves and missing ones included, overlapping as they like; few distinct names."""
    one = st.tuples(st.integers(0, most + 1), st.integers(0, 30), st.integers(0, 20), st.integers(0, names - 1))

    def made(rows: list[tuple[int, int, int, int]]) -> tuple[list[Plain], dict[str, str]]:
        parents = [f"{parent:02}" if parent <= most else "" for parent, *_ in rows]
        spans = [(f"{at:02}", parents[at], start, size) for at, (_, start, size, _) in enumerate(rows)]
        return spans, {f"{at:02}": f"name {name}" for at, (*_, name) in enumerate(rows)}

    return st.lists(one, min_size=1, max_size=most).map(made)


def owner_of_each_tick(
    spans: Mapping[str, tuple[int, int]], children: Mapping[str, Sequence[str]], root: str, low: int, high: int
) -> dict[int, str]:
    """Tick t (the time [t, t + 1)) -> the span on the critical path, by walking back a tick at a time. spans: id -> start, end.

    At each moment: has a child that lies before it just ended? Then that child is what was waited for, back to its start.
    """
    owners: dict[int, str] = {}
    at = high
    while at > low:
        ended = [child for child in children[root] if min(spans[child][1], high) == at and max(spans[child][0], low) < at]
        if not ended:
            at -= 1
            owners[at] = root
            continue
        child = min(ended, key=lambda one: (max(spans[one][0], low), list(spans).index(one)))
        start = max(spans[child][0], low)
        owners |= owner_of_each_tick(spans, children, child, start, at)
        at = start
    return owners
