"""One against one on the comparison page: two generations token by token, two traces span by span.

Not what single spans say of themselves (compare_attributes), and not the alignment, which is the comparison flow's. Marks and words
carry what colours carry: nothing is said by colour alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cutaway_collector.comparison import Comparison
from cutaway_collector.comparison.pairs import TOKENS_MAX, Spans, Tokens, TokenStep, summary
from cutaway_collector.search.compare import Outlined
from cutaway_collector.web import figures, tokens, urls
from cutaway_collector.web.pages.compare_attributes import Own
from cutaway_collector.web.pages.compare_inside import limit_of, steps
from cutaway_collector.web.pages.compare_words import signed

TABLE_ROWS_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class TokenView:
    """One token: kind "same", "a" or "b" of its run; begins: whether a run of one side begins here, ends: whether it ends."""

    kind: str
    begins: bool
    ends: bool
    breaks: bool
    text: str
    css: str
    title: str


@dataclass(frozen=True, slots=True)
class TokensView:
    """The alignment. rows: (place in A, place in B, token, A, B, difference) as printed. said: what it all says, in sentences."""

    tokens: tuple[TokenView, ...]
    said: tuple[str, ...]
    limit: str
    rows: tuple[tuple[str, str, str, str, str, str], ...]
    by_text: bool
    a_url: str
    b_url: str


@dataclass(frozen=True, slots=True)
class SpanRow:
    """One span of both traces, or of one: bars in percent of the longest span, durations as printed, links; "" for none."""

    kind: str
    name: str
    depth: int
    a: str
    b: str
    a_bar: float
    b_bar: float
    difference: str
    a_url: str
    b_url: str
    failed: str


@dataclass(frozen=True, slots=True)
class Pair:
    """own: what two generations say of themselves."""

    tokens: TokensView | None
    spans: tuple[SpanRow, ...]
    spans_cut: bool
    own: Own | None


def view(found: Comparison, own: Own | None) -> Pair | None:
    """The pair, or None where the sides are more than one span or trace each."""
    if found.tokens is None and found.spans is None:
        return None
    return Pair(_tokens(found.tokens, found) if found.tokens else None, _spans(found.spans, found) if found.spans else (),
                bool(found.spans and found.spans.cut), own)


def _tokens(pair: Tokens, found: Comparison) -> TokensView:
    differences = [step.difference for step in pair.steps]
    limit = limit_of(differences)
    views = []
    for index, step in enumerate(pair.steps):
        first = index == 0 or pair.steps[index - 1].kind != step.kind
        last = index + 1 == len(pair.steps) or pair.steps[index + 1].kind != step.kind
        shown = tokens.printed(step.text) if pair.by_text else step.text
        views.append(TokenView(step.kind, first and step.kind != "same", last and step.kind != "same",
                               pair.by_text and step.text.endswith("\n"), shown,
                               steps(step.difference, limit) if step.kind == "same" else "", _title(step)))
    rows = tuple((
        _index(step.a_index), _index(step.b_index), views[index].text, figures.number(step.a), figures.number(step.b),
        figures.ABSENT if step.difference is None else signed(step.difference, figures.number))
        for index, step in enumerate(pair.steps[:TABLE_ROWS_MAX]))
    return TokensView(tuple(views), _said(pair), figures.number(limit), rows, pair.by_text, urls.generation(found.a.span_id),
                      urls.generation(found.b.span_id))


def _index(index: int | None) -> str:
    return figures.ABSENT if index is None else figures.count(index)


def _title(step: TokenStep) -> str:
    if step.kind != "same":
        value = step.a if step.kind == "a" else step.b
        return f"only {step.kind.upper()}: surprisal {figures.number(value)} nats"
    difference = "" if step.difference is None else f", {signed(step.difference, figures.number)}"
    return f"surprisal A {figures.number(step.a)}, B {figures.number(step.b)} nats{difference}"


def _said(pair: Tokens) -> tuple[str, ...]:
    whole = summary(pair)
    said = [f"{figures.count(whole['same'])} tokens in common, {figures.count(whole['a_only'])} of A alone, "
            f"{figures.count(whole['b_only'])} of B alone."]
    if whole["parts_at"] is None:
        said.append("Both say the same, token by token.")
    elif whole["same"]:
        said.append(f"They part at token {figures.count(whole['parts_at'])}.")
    if whole["mean_difference"] is not None:
        said.append(f"On tokens in common the surprisal of B differs from that of A by "
                    f"{signed(whole['mean_difference'], figures.number)} nats on average.")
    if not pair.by_text and pair.models[0] != pair.models[1]:
        said.append("Texts were not captured, so token ids are compared: those of different models may mean different things.")
    if max(pair.sequences) > 1:
        said.append("Of several sequences the first is shown.")
    if pair.cut:
        said.append(f"What comes behind token {figures.count(TOKENS_MAX)} is left out.")
    return tuple(said)


def _spans(pair: Spans, found: Comparison) -> tuple[SpanRow, ...]:
    longest = max((span.duration_ns for step in pair.steps for span in (step.a, step.b) if span), default=0) or 1

    def bar(span: Outlined | None) -> float:
        return max(0.5, 100 * span.duration_ns / longest) if span else 0.0

    return tuple(SpanRow(
        step.kind, step.name, min(step.depth, 12), figures.duration(step.a.duration_ns) if step.a else "",
        figures.duration(step.b.duration_ns) if step.b else "", bar(step.a), bar(step.b),
        signed(step.b.duration_ns - step.a.duration_ns, figures.duration) if step.a and step.b else "",
        urls.trace(found.a.trace_id, span=step.a.span_id) if step.a else "",
        urls.trace(found.b.trace_id, span=step.b.span_id) if step.b else "",
        " and ".join(letter for letter, span in (("A", step.a), ("B", step.b)) if span and span.failed)) for step in pair.steps)
