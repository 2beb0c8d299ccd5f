"""One against one: two generations token by token, or two traces span by span, laid side by side.

Not statistics: of two things nothing general can be said, so each difference is shown as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cutaway_collector.align import Kind, Run, aligned
from cutaway_collector.contracts import Store
from cutaway_collector.search import compare as samples
from cutaway_collector.search import generation
from cutaway_collector.search.compare import Count, Outlined, Sides

TOKENS_MAX: Final = 2000
SPANS_MAX: Final = 1000
"""Of each side; what comes later is left out, and the answer says so."""


@dataclass(frozen=True, slots=True)
class TokenStep:
    """One place of the alignment. Indices and surprisals (nats) of both sides, None where a side has no token there.

    text: as captured, else the token id.
    """

    kind: Kind
    text: str
    a_index: int | None
    b_index: int | None
    a: float | None
    b: float | None

    @property
    def difference(self) -> float | None:
        """Surprisal of B less that of A, nats."""
        return None if self.a is None or self.b is None else self.b - self.a


@dataclass(frozen=True, slots=True)
class Tokens:
    """Two generations. by_text: whether texts were aligned, else ids. a_n, b_n: tokens of their first sequences, all of them."""

    steps: tuple[TokenStep, ...]
    by_text: bool
    a_n: int
    b_n: int
    sequences: tuple[int, int]
    models: tuple[str, str]

    @property
    def cut(self) -> bool:
        """Whether tokens behind TOKENS_MAX were left out."""
        return max(self.a_n, self.b_n) > TOKENS_MAX


@dataclass(frozen=True, slots=True)
class SpanStep:
    """One place of two traces laid side by side; durations in nanoseconds, None where a side has no such span."""

    kind: Kind
    name: str
    depth: int
    a: Outlined | None
    b: Outlined | None


@dataclass(frozen=True, slots=True)
class Spans:
    """Two traces, depth first. cut: whether spans behind SPANS_MAX were left out."""

    steps: tuple[SpanStep, ...]
    cut: bool


def tokens(store: Store, a: Count, b: Count) -> Tokens | None:
    """Both generations where each side is one span with token series, else None. Raises StoreError."""
    if not a.span_id or not b.span_id or a.span_id == b.span_id:
        return None
    found = [generation(store, side.span_id, attention="none", details=False) for side in (a, b)]
    if any(one is None or not one["sequences"] for one in found):
        return None
    first, second = (one["sequences"][0] for one in found if one is not None)
    by_text = bool(first.get("tokens")) and bool(second.get("tokens"))
    words = [[str(item) for item in (one["tokens"] if by_text else one["token_ids"])] for one in (first, second)]
    if not all(words):
        return None
    surprisals = [one["signals"].get("surprisal") or [] for one in (first, second)]
    runs = aligned(words[0][:TOKENS_MAX], words[1][:TOKENS_MAX])
    steps = tuple(step for run in runs for step in _tokens(run, words, surprisals))
    models = [str(one["model"] or "") for one in found if one is not None]
    sequences = [len(one["sequences"]) for one in found if one is not None]
    return Tokens(steps, by_text, len(words[0]), len(words[1]), (sequences[0], sequences[1]), (models[0], models[1]))


def _tokens(run: Run, words: Sequence[Sequence[str]], surprisals: Sequence[Sequence[float | None]]) -> list[TokenStep]:
    def at(side: int, index: int | None) -> float | None:
        return None if index is None or index >= len(surprisals[side]) else surprisals[side][index]

    return [TokenStep(run.kind, words[0][i] if i is not None else words[1][j or 0], i, j, at(0, i), at(1, j))
            for i, j in _indices(run)]


def _indices(run: Run) -> list[tuple[int | None, int | None]]:
    a, b = range(run.a_start, run.a_end), range(run.b_start, run.b_end)
    if run.kind == "same":
        return list(zip(a, b, strict=True))
    return [(i, None) for i in a] if run.kind == "a" else [(None, j) for j in b]


def spans(store: Store, asked: Sides, a: Count, b: Count) -> Spans | None:
    """Both traces where each side lies in one trace and has more than one span on a side, else None. Raises StoreError."""
    if not a.trace_id or not b.trace_id or asked.mode == "rest" or max(a.spans, b.spans) < 2:
        return None
    found = samples.outline(store, asked, SPANS_MAX)
    ordered = [_depth_first(side) for side in found]
    steps: list[SpanStep] = []
    # A name at another depth is another place: a retry inside a tool is not the call itself.
    for run in aligned(*([(depth, span.name) for depth, span in side] for side in ordered)):
        for i, j in _indices(run):
            first, second = (None if index is None else side[index] for side, index in zip(ordered, (i, j), strict=True))
            depth, known = first or second or (0, found[0][0])
            steps.append(SpanStep(run.kind, known.name, depth, first[1] if first else None, second[1] if second else None))
    return Spans(tuple(steps), max(a.spans, b.spans) > SPANS_MAX)


def _depth_first(side: Sequence[Outlined]) -> list[tuple[int, Outlined]]:
    """(depth, span), children behind their parent by start; a span whose parent is not there counts as a root."""
    known = {span.span_id for span in side}
    children: dict[str, list[Outlined]] = {}
    for span in side:
        children.setdefault(span.parent_id if span.parent_id in known and span.parent_id != span.span_id else "", []).append(span)
    out: list[tuple[int, Outlined]] = []
    seen: set[str] = set()
    todo = [(0, span) for span in reversed(children.get("", []))]
    while todo:
        depth, span = todo.pop()
        if span.span_id in seen:
            continue
        seen.add(span.span_id)
        out.append((depth, span))
        todo += [(depth + 1, child) for child in reversed(children.get(span.span_id, []))]
    # Spans that name each other as parents hang from no root.
    return out + [(0, span) for span in side if span.span_id not in seen]


def summary(found: Tokens) -> Mapping[str, Any]:
    """What the whole alignment says: tokens in common, of A alone, of B alone, mean difference in nats, where it first parts."""
    same = [step for step in found.steps if step.kind == "same"]
    differences = [step.difference for step in same if step.difference is not None]
    parted = next((index for index, step in enumerate(found.steps) if step.kind != "same"), None)
    return {
        "same": len(same), **{f"{side}_only": sum(step.kind == side for step in found.steps) for side in ("a", "b")},
        "mean_difference": sum(differences) / len(differences) if differences else None, "parts_at": parted,
    }
