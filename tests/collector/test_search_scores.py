"""Searching and sorting by scores, against a plain Python reading of the same rows."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cutaway_collector.blocks import Strings
from cutaway_collector.contracts import Store
from cutaway_collector.errors import QueryError
from cutaway_collector.search import SearchRequest, explain, facets, find, histogram, parse
from cutaway_collector.search.scores import scores
from cutaway_collector.search.sql import Parameters, condition
from cutaway_collector.search.tenants import TenantStore
from scores_helpers import ScoreRow, score_of, scores_block
from search_helpers import START_NS, Span, spans_block, stored

HOUR = 3600 * 10**9
NAMES = ("toxicity", "tone", "answer relevance", "Score-7")


def _spans() -> list[Span]:
    return [Span(number, trace=1 + number // 3, parent=number - 1 if number % 3 else 0, start_ns=START_NS + number // 2 * 10**9,
                 service="api" if number % 2 else "batch") for number in range(1, 61)]


def _rows(spans: list[Span]) -> list[ScoreRow]:
    """Several versions, sequences, sources and hours of a score, deletions, labels alone, scores of whole traces."""
    dice = random.Random(5)
    rows = []
    for arrived in range(1, 900):
        span, name = dice.choice(spans), dice.choice(NAMES)
        if name == "tone":
            value, label = dice.choice([(math.nan, "toxic"), (math.nan, "kind"), (0.5, "kind"), (0.9, "toxic"), (1.0, "7")])
        else:
            value, label = dice.choice([0.0, 0.25, 0.5, 0.75, 1.0, -2.0, 7.0]), ""
        rows.append(score_of(
            span, name, value, label=label, sequence=dice.randrange(2), source=dice.choice(["collector", "user"]),
            version=dice.choice(["1", "2"]), arrived_ms=arrived, deleted=dice.random() < 0.15,
            time_ns=span.start_ns + dice.choice([0, HOUR, 30 * HOUR])))
    rows += [ScoreRow(trace, None, "whole", trace / 10, arrived_ms=arrived) for arrived, trace in enumerate(range(1, 12), 1)]
    rows.append(ScoreRow(2, None, "whole", 5.0, arrived_ms=99))
    dice.shuffle(rows)
    return rows


ACME = Span(900, trace=900, start_ns=START_NS)
"""A tenant's."""
SPANS = [*_spans(), ACME]
ROWS = [*_rows(SPANS[:-1]), score_of(ACME, "mine", 1.0, tenant="acme"), score_of(ACME, "theirs", 9.0, tenant="zoo")]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    acme = spans_block([ACME])
    acme.columns["TenantId"] = Strings.of(["acme"])
    blocks = [acme, *(scores_block(ROWS[start::7]) for start in range(7))]
    with stored(Path(tmp_path_factory.mktemp("search-scores")), SPANS[:-1], *blocks) as opened:
        yield opened


def newest(rows: list[ScoreRow]) -> list[ScoreRow]:
    """What counts of them."""
    found: dict[Any, ScoreRow] = {}
    for row in sorted(rows, key=lambda row: row.arrived_ms):
        found[row.trace_id, row.span_id, row.sequence, row.name, row.source] = row
    return [row for row in found.values() if not row.deleted]


def holds(test: Callable[[ScoreRow], bool]) -> set[str]:
    """Ids of the spans of which a current score passes."""
    good = [row for row in newest(ROWS) if test(row)]
    spans = {row.span_id for row in good if row.span is not None}
    traces = {row.trace_id for row in good if row.span is None}
    return spans | {span.span_id for span in SPANS if not span.parent and span.trace_id in traces}


def named(name: str, test: Callable[[ScoreRow], bool] = lambda row: True) -> set[str]:
    """The same, of one name."""
    return holds(lambda row: row.name == name and test(row))


EVERY = {span.span_id for span in SPANS}
CASES: dict[str, Callable[[], set[str]]] = {
    "score.toxicity:>0.5": lambda: named("toxicity", lambda row: row.value > 0.5),
    "score.toxicity>=0.5": lambda: named("toxicity", lambda row: row.value >= 0.5),
    "score.toxicity:<0": lambda: named("toxicity", lambda row: row.value < 0),
    "score.toxicity:<=50%": lambda: named("toxicity", lambda row: row.value <= 0.5),
    "score.toxicity:0.25": lambda: named("toxicity", lambda row: row.value == 0.25),
    "score.toxicity:[0.25 TO 0.75]": lambda: named("toxicity", lambda row: 0.25 <= row.value <= 0.75),
    "score.toxicity:[* TO 0]": lambda: named("toxicity", lambda row: row.value <= 0),
    "score.toxicity:[* TO *]": lambda: named("toxicity"),
    "score.toxicity:(0.25, 1)": lambda: named("toxicity", lambda row: row.value in (0.25, 1.0)),
    "score.toxicity:*": lambda: named("toxicity"),
    "has:score.toxicity": lambda: named("toxicity"),
    "-has:score.toxicity": lambda: EVERY - named("toxicity"),
    "-score.toxicity:>0.5": lambda: EVERY - named("toxicity", lambda row: row.value > 0.5),
    "score.toxicity:!=0.5": lambda: named("toxicity") - named("toxicity", lambda row: row.value == 0.5),
    "score.tone:toxic": lambda: named("tone", lambda row: row.label == "toxic"),
    'score.tone:"toxic"': lambda: named("tone", lambda row: row.label == "toxic"),
    "score.tone:to*": lambda: named("tone", lambda row: row.label.startswith("to")),
    "score.tone:/^k/": lambda: named("tone", lambda row: row.label.startswith("k")),
    "score.tone:(kind, 7)": lambda: named("tone", lambda row: row.label in ("kind", "7")),
    "score.tone:7": lambda: named("tone", lambda row: row.label == "7"),
    "score.tone:>0.6": lambda: named("tone", lambda row: row.value > 0.6),
    "score.tone:TOXIC": lambda: set(),
    'score."answer relevance":>0.5': lambda: named("answer relevance", lambda row: row.value > 0.5),
    "score.Score-7:7": lambda: named("Score-7", lambda row: row.value == 7),
    "score.whole:>=1": lambda: named("whole", lambda row: row.value >= 1),
    "score.nothing:>0": lambda: set(),
    "service:api (score.toxicity:>0.5 OR score.tone:kind)": lambda: (
        {span.span_id for span in SPANS if span.service == "api"}
        & (named("toxicity", lambda row: row.value > 0.5) | named("tone", lambda row: row.label == "kind"))),
}


@pytest.mark.parametrize("query", CASES)
def test_a_search_finds_what_the_current_scores_say(store: Store, query: str) -> None:
    """Newest version, not deleted, any sequence and source, a whole trace's at its root."""
    found = find(store, SearchRequest(q=query, limit=500), rows_max=500)
    assert {row["span_id"] for row in found["rows"]} == CASES[query]()
    counted = histogram(store, SearchRequest(q=query), 10)
    assert sum(counted["counts"]) == len(found["rows"])


def test_the_cases_tell_good_from_bad(store: Store) -> None:
    """The rows hold what the rules are about: deletions that bite, old versions, spans with and without."""
    assert 0 < len(named("toxicity")) < len(SPANS)
    assert len(newest(ROWS)) < len(ROWS) - 100
    assert named("whole")


@pytest.mark.parametrize("sort", ["score.toxicity", "-score.toxicity", '-score."answer relevance"', "-score.tone"])
def test_rows_are_sorted_by_a_score(store: Store, sort: str) -> None:
    """Page by page: the largest of a span's values downwards, the smallest upwards; spans without a number come last."""
    name, pick = sort.removeprefix("-").removeprefix("score.").strip('"'), (max if sort.startswith("-") else min)
    values: dict[str, float] = {}
    for row in newest(ROWS):
        if row.name == name and math.isfinite(row.value):
            values[row.span_id] = pick(values.get(row.span_id, row.value), row.value)
    ids: list[str] = []
    after: str | None = ""
    while after is not None:
        page = find(store, SearchRequest(limit=7, sort=sort, after=after), rows_max=500)
        ids += [row["span_id"] for row in page["rows"]]
        after = page["next"]
    assert sorted(ids) == sorted(EVERY)
    seen = [values.get(span_id) for span_id in ids]
    numbers = [value for value in seen if value is not None]
    assert seen == numbers + [None] * (len(seen) - len(numbers))
    assert numbers == sorted(numbers, reverse=sort.startswith("-"))
    assert len(numbers) == len(values)


def test_a_range_of_time_leaves_scores_of_earlier_spans_unread(store: Store) -> None:
    """The rows of the sub-query are bounded by the range, and the search stays right."""
    request = SearchRequest(q="score.toxicity:>0.5", start_ns=SPANS[40].start_ns, end_ns=START_NS + 10**12, limit=500)
    found = find(store, request, rows_max=500)
    late = {span.span_id for span in SPANS if span.start_ns >= SPANS[40].start_ns}
    assert {row["span_id"] for row in found["rows"]} == named("toxicity", lambda row: row.value > 0.5) & late
    bounded = r"ScoreName = \{p\d+:String\} AND Timestamp >= fromUnixTimestamp64Nano"
    assert re.search(bounded, found["stats"]["sql"])


@pytest.mark.parametrize("name", ["x'; DROP TABLE otel_traces; --", "`", "{p0:Identifier}", "\\", "日本", "a.b.c"])
def test_names_and_labels_travel_as_parameters(store: Store, name: str) -> None:
    """Nothing typed stands in the SQL."""
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    parameters = Parameters(database=store.database)
    written = condition(parse(f'score."{escaped}":"{escaped}"'), parameters)
    assert name not in written.replace("`otel`", "").replace("`gen_ai_scores`", "") or name == "`"
    assert list(parameters.values.values()).count(name) == 2
    assert find(store, SearchRequest(q=f'score."{escaped}":"{escaped}"'), rows_max=5)["rows"] == []


@pytest.mark.parametrize(("query", "sort", "said"), [
    ("score.toxicty:>1", "", "Did you mean `score.toxicity`?"), ("has:score.TOXICITY", "", "Did you mean `score.toxicity`?"),
    ("score.zzz:1", "", 'There are `score.Score-7`, `score."answer relevance"`, `score.mine`'),
    ("", "-score.relevance", "No score is named"),
])
def test_unknown_names_are_told_with_known_ones(store: Store, query: str, sort: str, said: str) -> None:
    """A warning beside the rows, for tomorrow the score may be there."""
    warnings = find(store, SearchRequest(q=query, sort=sort), rows_max=5)["stats"]["warnings"]
    assert len(warnings) == 1
    assert said in warnings[0]
    assert find(store, SearchRequest(q="score.tone:kind"), rows_max=5)["stats"]["warnings"] == []


@pytest.mark.parametrize(("query", "sentence"), [
    ("score.toxicity:>0.5", "Spans whose score toxicity is above 0.5."), ("-has:score.tone", "Spans that lack score tone."),
    ('score."a b":[1 TO 2]', "Spans whose score a b is from 1 to 2."), ("score.tone:toxic", "Spans whose score tone is toxic."),
])
def test_a_query_is_said_in_english(query: str, sentence: str) -> None:
    """From the same tree as the SQL."""
    assert explain(query) == sentence


@pytest.mark.parametrize("query", ["score.x:>high", "score.x:>[1 TO 2]", "score.x:>3furlongs"])
def test_what_is_no_number_is_told(store: Store, query: str) -> None:
    """As with any other number."""
    with pytest.raises(QueryError):
        find(store, SearchRequest(q=query), rows_max=5)


def test_a_score_is_no_facet(store: Store) -> None:
    """Nor is it a table full of numbers."""
    with pytest.raises(QueryError, match="is a score"):
        facets(store, SearchRequest(), ["score.tone"])


def test_scores_of_a_trace_are_the_current_ones(store: Store) -> None:
    """Of all its spans and of itself, each once, and of one span alone."""
    for trace in (1, 2, 7):
        trace_id = f"{trace:032x}"
        wanted = {(row.span_id, row.sequence, row.name, row.source, row.label, row.version, repr(row.value))
                  for row in newest(ROWS) if row.trace_id == trace_id}
        found = scores(store, trace_id, start_ns=START_NS, limit=1000)
        assert {(row["span_id"], row["sequence"], row["name"], row["source"], row["label"], row["scorer_version"],
                 repr(math.nan if row["value"] is None else row["value"])) for row in found} == wanted
        assert len(found) == len(wanted)
    alone = scores(store, SPANS[3].trace_id, span_ids=(SPANS[3].span_id,), limit=1000)
    assert {row["span_id"] for row in alone} == {SPANS[3].span_id}


def test_a_tenant_is_found_by_its_own_scores_alone(store: Store) -> None:
    """Ids come from senders: another tenant's score of the same span neither finds nor shows nor sorts."""
    acme = TenantStore(store, lambda: "acme")
    assert find(acme, SearchRequest(q="has:score.theirs"), rows_max=5)["rows"] == []
    assert len(find(acme, SearchRequest(q="has:score.mine"), rows_max=5)["rows"]) == 1
    assert len(find(acme, SearchRequest(sort="-score.theirs"), rows_max=5)["rows"]) == 1
    assert find(acme, SearchRequest(q="score.min:1"), rows_max=5)["stats"]["warnings"] == [
        "No score is named `min`. Did you mean `score.mine`?"]
    assert [row["name"] for row in scores(acme, ACME.trace_id, limit=9)] == ["mine"]
