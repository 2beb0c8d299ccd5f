"""Questions about the other spans of a trace, against a plain Python reading of the same trees."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cutaway_collector.blocks import Block, Strings
from cutaway_collector.contracts import Store
from cutaway_collector.errors import QueryError
from cutaway_collector.search import SearchRequest, explain, find, histogram, parse
from cutaway_collector.search.language import KINDS
from cutaway_collector.search.spansets import LEVELS_MAX, SLACK_S
from cutaway_collector.search.tenants import TenantStore
from search_helpers import START_NS, Span, spans_block, stored

MINUTE = 60 * 10**9
Test = Callable[[Span], bool]
LEAVES: dict[str, Test] = {
    "is:error": lambda span: span.status == "Error",
    "name:tool": lambda span: span.name == "tool",
    "-service:api": lambda span: span.service != "api",
    "duration:>2s": lambda span: span.duration_ns > 2 * 10**9,
    "user.id:7": lambda span: span.attributes.get("user.id") == "7",
    "nobody": lambda span: False,
    "": lambda span: True,
}


def _trees() -> list[Span]:
    """Traces of every shape: chains, fans, orphans, several roots, a span that is its own parent, two that are each other's."""
    dice = random.Random(11)
    spans: list[Span] = []
    for trace in range(1, 41):
        first = len(spans) + 1
        for place in range(dice.randint(1, 9)):
            number = first + place
            parent = 0 if not place else dice.choice([number - 1, first, dice.randint(first, number - 1), 90_000 + trace, 0])
            spans.append(Span(
                number, dice.choice(["tool", "chat", "plan"]), trace, parent, dice.choice(["api", "web"]),
                start_ns=START_NS + trace * MINUTE // 10 + place, duration_ns=dice.choice([1, 3]) * 10**9,
                status="Error" if dice.random() < 0.2 else "Ok", attributes={"user.id": "7"} if dice.random() < 0.2 else {}))
    spans += [Span(800, "tool", 80, 800, status="Error"), Span(801, "chat", 80, 800)]
    spans += [Span(810, "tool", 81, 811), Span(811, "chat", 81, 810, status="Error"), Span(812, "plan", 81, 811)]
    # The same ids in two traces are two spans.
    spans += [Span(820, "tool", 82), Span(820, "chat", 83), Span(821, "plan", 82, 820), Span(821, "plan", 83, 820)]
    return spans


SPANS = _trees()
Identity = tuple[str, str]


def identity(span: Span) -> Identity:
    return span.trace_id, span.span_id


BY_ID = {identity(span): span for span in SPANS}


def parent_of(span: Span) -> Span | None:
    return BY_ID.get((span.trace_id, f"{span.parent:016x}")) if span.parent else None


def above(span: Span) -> list[Span]:
    """All that are reached upwards, each once; of a ring all of it, the span itself included. Its own parent a span is not."""
    found: list[Span] = []
    following = parent_of(span)
    while following is not None and following not in found:
        found.append(following)
        following = None if following.parent == following.number else parent_of(following)
    return found


def oracle(kind: str, test: Test) -> Test:
    """What `kind{test}` says of a span."""
    def others(span: Span) -> list[Span]:
        return [other for other in SPANS if other.trace == span.trace]

    def holds(span: Span) -> bool:
        if kind in ("any", "none", "all"):
            passed = [test(other) for other in others(span)]
            return any(passed) if kind == "any" else not any(passed) if kind == "none" else all(passed)
        if kind == "parent":
            parent = parent_of(span)
            return parent is not None and test(parent)
        if kind == "child":
            return any(test(other) and parent_of(other) is span for other in others(span))
        if kind == "ancestor":
            return any(test(other) for other in above(span))
        return any(test(other) and span in above(other) for other in others(span))

    return holds


HOUR = 60 * MINUTE
EDGES_NS, CHAIN_NS, TENANTS_NS = (START_NS - hours * HOUR for hours in (8, 14, 20))
"""When other worlds of the same store happen: further apart than the slack."""
NEAR, FAR = SLACK_S * 10**9 // 2, SLACK_S * 10**9 * 2
EDGES = [Span(1, "root", 901, status="Error", start_ns=EDGES_NS - NEAR), Span(2, "leaf", 901, 1, start_ns=EDGES_NS),
         Span(3, "root", 902, status="Error", start_ns=EDGES_NS - FAR), Span(4, "leaf", 902, 3, start_ns=EDGES_NS)]
CHAIN = [Span(number, "deep", 903, number - 1, start_ns=CHAIN_NS, status="Error" if number == 1 else "Unset")
         for number in range(1, LEVELS_MAX + 20)]
CHAIN.append(Span(LEVELS_MAX + 20, "deep", 903, LEVELS_MAX + 19, start_ns=CHAIN_NS, status="Ok"))
THEIRS = [Span(1, "root", 904, status="Error"), Span(2, "mid", 904, 1), Span(9, "low", 904, 3, status="Error")]
MINE = [Span(3, "leaf", 904, 2), Span(4, "leaf", 904, 3)]


LONG_NS, LONG_HOURS = START_NS - 900 * HOUR, 300
LONG = [Span(1, "root", 906, status="Error", start_ns=LONG_NS), Span(2, "leaf", 906, 1, start_ns=LONG_NS + LONG_HOURS * HOUR)]


def _of(tenant: str, spans: list[Span], at_ns: int = TENANTS_NS) -> Block:
    block = spans_block([replace(span, start_ns=at_ns or span.start_ns) for span in spans])
    block.columns["TenantId"] = Strings.of([tenant] * len(spans))
    return block


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    worlds = [*SPANS, *EDGES, *CHAIN]
    tenants = _of("zoo", THEIRS), _of("acme", MINE), _of("acme", LONG, 0)
    with stored(Path(tmp_path_factory.mktemp("search-spansets")), worlds, *tenants) as opened:
        yield opened


def found(store: Store, query: str, at_ns: int = START_NS) -> set[Identity]:
    """Of one world."""
    request = SearchRequest(q=query, start_ns=at_ns, end_ns=at_ns + 10 * MINUTE, limit=500)
    return {(row["trace_id"], row["span_id"]) for row in find(store, request, rows_max=500)["rows"]}


def wanted(test: Test) -> set[Identity]:
    return {identity(span) for span in SPANS if test(span)}


@pytest.mark.parametrize("leaf", LEAVES)
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_asks_what_it_says(store: Store, kind: str, leaf: str) -> None:
    """Of every shape of trace; the negation is the rest."""
    test = oracle(kind, LEAVES[leaf])
    assert found(store, f"{kind}{{{leaf}}}") == wanted(test)
    assert found(store, f"-{kind}{{{leaf}}}") == wanted(lambda span: not test(span))


def test_the_cases_tell_good_from_bad() -> None:
    """Each kind finds some spans and leaves some out, and depth makes a difference."""
    for kind in KINDS:
        assert 0 < len(wanted(oracle(kind, LEAVES["name:tool"]))) < len(SPANS)
    assert wanted(oracle("ancestor", LEAVES["is:error"])) > wanted(oracle("parent", LEAVES["is:error"]))
    assert wanted(oracle("descendant", LEAVES["is:error"])) > wanted(oracle("child", LEAVES["is:error"]))


@st.composite
def questions(draw: st.DrawFn, braces: int = 0, depth: int = 0) -> tuple[str, Test]:
    """A query and what it means, braces within braces and beside other terms."""
    form = draw(st.sampled_from(["leaf", "set", "not", "and", "or"] if depth < 3 else ["leaf"]))
    if form == "leaf":
        leaf = draw(st.sampled_from([leaf for leaf in LEAVES if leaf]))
        return leaf, LEAVES[leaf]
    if form == "set" and braces < 3:
        kind = draw(st.sampled_from(KINDS))
        text, test = draw(questions(braces + 1, depth + 1))
        return f"{kind}{{{text}}}", oracle(kind, test)
    text, test = draw(questions(braces, depth + 1))
    if form in ("not", "set"):
        return f"-({text})", lambda span: not test(span)
    other_text, other = draw(questions(braces, depth + 1))
    if form == "and":
        return f"({text} {other_text})", lambda span: test(span) and other(span)
    return f"({text} OR {other_text})", lambda span: test(span) or other(span)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(question=questions())
def test_any_combination_means_what_its_parts_mean(store: Store, question: tuple[str, Test]) -> None:
    """Nested, negated, and joined with AND and OR."""
    text, test = question
    try:
        parse(text)
    except QueryError as error:
        assert "braces" in str(error)  # noqa: PT017  only too many of them are refused
        return
    assert found(store, text) == wanted(test)


def test_other_spans_of_a_trace_are_found_beyond_the_time_range(store: Store) -> None:
    """A range does not cut a trace in two, up to the slack; what lies further away is as if it were not there."""
    for kind in ("any", "parent", "ancestor"):
        assert found(store, f"{kind}{{is:error}}", EDGES_NS) == {identity(EDGES[1])}


@pytest.mark.parametrize("tenant", ["", "acme"])
def test_a_trace_that_runs_for_days_is_seen_whole_from_its_newest_span(store: Store, tenant: str) -> None:
    """The newest stretch of a long range holds its last span alone; what it is asked about happened twelve days before."""
    seen = TenantStore(store, lambda: tenant)
    asked = SearchRequest(start_ns=LONG_NS, end_ns=LONG_NS + (LONG_HOURS + 1) * HOUR, limit=1)
    for kind in ("any", "parent", "ancestor"):
        rows = find(seen, replace(asked, q=f"{kind}{{is:error}}"), rows_max=1)["rows"]
        assert [row["name"] for row in rows] == ["leaf"]
    assert find(seen, replace(asked, q="none{is:error}"), rows_max=1)["rows"] == []


def test_a_tenant_sees_no_others_through_braces(store: Store) -> None:
    """Ids come from senders: another tenant's spans under the same trace id answer nothing, at any level."""
    acme = TenantStore(store, lambda: "acme")
    for kind in ("any", "parent", "child", "ancestor", "descendant"):
        expected = {"any": 5, "parent": 1, "child": 1, "ancestor": 4, "descendant": 3}[kind]
        assert len(found(store, f"{kind}{{is:error}}", TENANTS_NS)) == expected
        assert found(acme, f"{kind}{{is:error}}", TENANTS_NS) == set()
    assert found(acme, "none{is:error}", TENANTS_NS) == {identity(span) for span in MINE}


def test_levels_are_limited(store: Store) -> None:
    """A chain deeper than the limit is followed that far, up and down, and no further."""
    below = found(store, "ancestor{is:error}", CHAIN_NS)
    assert {int(span_id, 16) for _, span_id in below} == set(range(2, LEVELS_MAX + 2))
    over = found(store, "descendant{is:ok}", CHAIN_NS)
    assert {int(span_id, 16) for _, span_id in over} == set(range(20, LEVELS_MAX + 20))


def test_a_histogram_counts_the_same_spans(store: Store) -> None:
    """Braces work in every query of the page."""
    counted = histogram(store, SearchRequest(q="child{is:error}", start_ns=START_NS, end_ns=START_NS + 10 * MINUTE), 10)
    assert sum(counted["counts"]) == len(found(store, "child{is:error}"))


@pytest.mark.parametrize(("query", "column", "said", "hint"), [
    ("any{any{any{any{a}}}}", 12, "at most 3 deep", "search of its own"),
    (" ".join(["any{a}"] * 9), 56, "at most 8 pairs", "leave some out"),
    ("anny{name:x is:error}", 4, "braces hold", "did you mean any{...}?"),
    ("any{name:x", 10, "the end of the query", "close it with }"),
    ("a}", 1, "does not fit", "quotes"),
    ("zzzzz{a b}", 5, "braces hold", "quotes"),
])
def test_wrong_braces_are_told_with_their_place(query: str, column: int, said: str, hint: str) -> None:
    """The rule, the place and a remedy."""
    with pytest.raises(QueryError) as caught:
        parse(query)
    assert (caught.value.column, said in str(caught.value), hint in caught.value.hint) == (column, True, True), caught.value


@pytest.mark.parametrize(("query", "sentence"), [
    ("any{name:tool.call is:error} duration:>2s",
     "Spans in a trace that has a span (whose span name is tool.call and that ended in an error) and whose duration is above 2s."),
    ("-child{}", "Spans without a child."), ("all{-is:error}", "Spans in a trace that has no span that ended in an error."),
    ("-all{is:error}", "Spans in a trace that has a span that did not end in an error."),
    ("-ancestor{model:x}", "Spans not below a span whose model is x."),
    ("parent{model:x}", "Spans with a parent whose model is x."),
    ("descendant{is:error}", "Spans above a span that ended in an error."),
])
def test_braces_are_said_in_english(query: str, sentence: str) -> None:
    """Negation included."""
    assert explain(query) == sentence


@pytest.mark.parametrize("word", ["/users/{id}", "{{7+7}}", "a{1}", "{}"])
def test_braces_within_a_word_belong_to_it(word: str) -> None:
    """A route with a placeholder is a value like any other, also within braces."""
    assert parse(f"any{{route:{word}}}") == parse(f'any{{route:{word} }}')
    assert explain(f"route:{word}") == f"Spans whose attribute route is {word}."
