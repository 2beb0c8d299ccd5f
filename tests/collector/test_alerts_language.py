"""Saved searches of alerts take the whole language of conditions, and say what they do not take."""

from __future__ import annotations

import pytest

from alerts_helpers import T0_S, put_scores, put_spans, rule
from cutaway_collector.alerts.observe import SEARCHES_PER_STATEMENT, UNGROUPED, batch_of, observe
from cutaway_collector.alerts.rules import RuleError
from cutaway_collector.contracts import Store
from token_series_helpers import Row, tokens

COUNT = {"aggregate": "count", "of": None, "window": "1m", "condition": {"kind": "threshold", "above": 3}}


@pytest.fixture
def store(alerts_store: Store) -> Store:
    return alerts_store


@pytest.mark.parametrize(("query", "count"), [
    ("any{repetition:>0.5}", 5), ("none{repetition:>0.5}", 15), ("-ancestor{is:error}", 20), ("-child{}", 20),
    ("surprisal.p95:>2", 7), ("surprisal.count(>1):>=2", 7), ("score.taste:>0.5", 9), ("any{score.taste:>0.5} repetition:>0.5", 4),
])
def test_a_rule_counts_what_a_search_finds(store: Store, query: str, count: int) -> None:
    """Braces, aggregates of token series and scores, within the window: 5 repeat themselves, 7 are surprising, 9 have the score."""
    ids = put_spans(store, T0_S, [0.9] * 5 + [0.1] * 15, every_s=2)
    store.insert(tokens([
        Row(int(span, 16), (1.0, 1.5, 2.5) if place < 7 else (1.0,), trace=int(span * 2, 16), start_ns=(T0_S + 2 * place) * 10**9)
        for place, span in enumerate(ids)]), f"tokens-{ids[0]}")
    put_scores(store, ids[1:10], T0_S + 2, "taste", [0.9] * 9, every_s=2)
    watched = rule(query=query, **COUNT)
    step = (T0_S + 60) // watched.every_s

    seen = observe(store, batch_of(watched, 30), [watched], step, step, late=True)[watched.key].steps[step][UNGROUPED]

    assert seen.value == count


def test_rules_of_more_searches_than_a_statement_holds_are_each_answered(store: Store) -> None:
    """Two rules a search, in whatever order they come: every rule has the count of its own search."""
    put_spans(store, T0_S, [number / 100 for number in range(100)], every_s=0.5)
    searches = SEARCHES_PER_STATEMENT + 10
    watched = [rule(f"r{number}", **COUNT, query=f"repetition:>={number % searches / 100}") for number in range(2 * searches)]
    step = (T0_S + 60) // watched[0].every_s

    seen = observe(store, batch_of(watched[0], 30), watched, step, step, late=True)

    found = [seen[one.key].steps[step][UNGROUPED].value for one in watched]
    assert found == [100 - number % searches for number in range(2 * searches)]


@pytest.mark.parametrize(("query", "said"), [
    ("is:error | limit 3", "belongs to the search page"), ("any{any{any{any{a}}}}", "at most 3 deep"),
    ("attn[layer=x].mean:>1", "a layer is a whole number")])
def test_what_a_rule_cannot_ask_is_told_when_it_is_written(query: str, said: str) -> None:
    """A stage is for a page, and every limit of the language holds."""
    with pytest.raises(RuleError, match=said):
        rule(query=query)


def test_a_number_made_of_series_is_refused_with_a_field_instead() -> None:
    """A rule's number is a column, an attribute or a score."""
    with pytest.raises(RuleError, match="made from token series"):
        rule(aggregate="mean", of=None, field="surprisal.p95")
