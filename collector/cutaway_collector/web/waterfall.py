"""A trace's flat list of spans -> rows in nested order, with depth, tree guides and bar positions in percent.

Not markup and not the store: spans arrive as the dictionaries of the search verb, at most `trace_spans_max` of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

DEPTH_SHOWN_MAX: Final = 24
"""Deeper rows are indented no further; the true depth is printed."""


@dataclass(frozen=True, slots=True)
class Row:
    """One span. start, width, prefill: percent of the trace's time. rails: levels at which an ancestor's line passes by."""

    span: Mapping[str, Any]
    depth: int
    rails: tuple[int, ...]
    last: bool
    children: int
    orphan: bool
    start: float
    width: float
    prefill: float
    hue: int

    @property
    def failed(self) -> bool:
        """True when the sender set the status to Error."""
        return str(self.span["status"]).lower() == "error"


@dataclass(frozen=True, slots=True)
class Waterfall:
    """Rows in nested order over [start_ns, start_ns + total_ns). `orphans` counts spans whose parent is not in the trace."""

    rows: tuple[Row, ...]
    start_ns: int
    total_ns: int
    orphans: int
    services: tuple[str, ...]


def build(spans: Sequence[Mapping[str, Any]]) -> Waterfall:
    """Nested order: children under their parent by start time. Cycles and missing parents become roots, so every span has a row."""
    ids = {span["span_id"] for span in spans}
    children: dict[str, list[Mapping[str, Any]]] = {}
    for span in sorted(spans, key=lambda s: (s["start_ns"], s["span_id"])):
        parent = span["parent_span_id"]
        children.setdefault(parent if parent in ids and parent != span["span_id"] else "", []).append(span)
    start_ns = min((span["start_ns"] for span in spans), default=0)
    end_ns = max((span["start_ns"] + span["duration_ns"] for span in spans), default=0)
    services = tuple(dict.fromkeys(span["service"] for span in sorted(spans, key=lambda s: s["start_ns"])))
    layout = _Layout(start_ns, max(1, end_ns - start_ns), services, children)
    roots = children.get("", [])
    layout.walk(roots)
    if len(layout.rows) < len(spans):  # spans that are each other's ancestors hang from no root: cut the ring at its earliest span
        for span in sorted(spans, key=lambda s: (s["start_ns"], s["span_id"])):
            if span["span_id"] not in layout.seen:
                layout.walk([span])
    orphans = sum(row.orphan for row in layout.rows)
    return Waterfall(tuple(layout.rows), start_ns, layout.total_ns, orphans, services)


class _Layout:
    """Walks the tree without recursion: a chain of 20 000 spans is a legal trace."""

    def __init__(
        self, start_ns: int, total_ns: int, services: tuple[str, ...], children: dict[str, list[Mapping[str, Any]]]
    ) -> None:
        self.start_ns, self.total_ns, self.children = start_ns, total_ns, children
        self.hues = {service: index % 8 for index, service in enumerate(services)}
        self.rows: list[Row] = []
        self.seen: set[str] = set()

    def walk(self, roots: Sequence[Mapping[str, Any]]) -> None:
        stack: list[tuple[Mapping[str, Any], int, tuple[int, ...], bool]] = [(s, 0, (), True) for s in reversed(roots)]
        while stack:
            span, depth, rails, last = stack.pop()
            if span["span_id"] in self.seen:
                continue
            self.seen.add(span["span_id"])
            below = [child for child in self.children.get(span["span_id"], []) if child["span_id"] not in self.seen]
            self.rows.append(self._row(span, depth, rails, last, len(below)))
            passing = rails if last or depth == 0 else (*rails, depth)
            passing = tuple(level for level in passing if level <= DEPTH_SHOWN_MAX)
            for position, child in enumerate(reversed(below)):
                stack.append((child, depth + 1, passing, position == 0))

    def _row(self, span: Mapping[str, Any], depth: int, rails: tuple[int, ...], last: bool, children: int) -> Row:
        duration = max(0, span["duration_ns"])
        prefill_ns = min((span.get("ttft_s") or 0.0) * 1e9, duration)
        orphan = depth == 0 and bool(span["parent_span_id"])
        return Row(
            span,
            depth,
            rails,
            last,
            children,
            orphan,
            100 * (span["start_ns"] - self.start_ns) / self.total_ns,
            100 * duration / self.total_ns,
            100 * prefill_ns / self.total_ns,
            self.hues[span["service"]],
        )
