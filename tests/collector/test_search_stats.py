"""Figures over the spans of a search, and the other stages, against a plain Python reading of the same spans."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutaway_collector.blocks import Strings
from cutaway_collector.contracts import Store
from cutaway_collector.errors import QueryError
from cutaway_collector.search import SearchRequest, explain, find, stats
from cutaway_collector.search.stats import FUNCTIONS, GROUPS_MAX, LINES_MAX, POINTS_MAX
from cutaway_collector.search.tenants import TenantStore
from scores_helpers import score_of, scores_block
from search_helpers import MODEL, PERPLEXITY, START_NS, Span, spans_block, stored
from token_series_helpers import Row, tokens

SECOND = 10**9
HOSTILE = '<b>"x" OR 1=1 | stats\\'


def _spans() -> list[Span]:
    dice = random.Random(3)
    spans = []
    for number in range(1, 161):
        attributes = {"user.id": f"u{number % 130}"}
        if number % 3:
            attributes |= {MODEL: dice.choice(["a", "b", "c"]), PERPLEXITY: dice.choice(["1.5", "2.25", "40", "nan"])}
        attributes |= {"weight": dice.choice(["3", "4.5", "heavy"])} if number % 4 else {}
        spans.append(Span(number, dice.choice(["tool", "chat"]), number // 4, service=dice.choice(["api", "web", HOSTILE]),
                          start_ns=START_NS + dice.randrange(600) * SECOND, duration_ns=dice.randrange(1, 4000) * 10**6,
                          status=dice.choice(["Ok", "Error"]), attributes=attributes))
    return spans


SPANS = _spans()
ACME = replace(Span(900, "theirs", 900), start_ns=START_NS)
WITH_TOKENS = {number: tuple(float(value) for value in range(number % 7 + 1)) for number in range(1, 60)}
SCORED = {number: number / 160 for number in range(1, 161, 2)}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    acme = spans_block([ACME])
    acme.columns["TenantId"] = Strings.of(["acme"])
    rows = tokens([Row(number, values, trace=SPANS[number - 1].trace, start_ns=SPANS[number - 1].start_ns)
                   for number, values in WITH_TOKENS.items()])
    scored = scores_block([score_of(SPANS[number - 1], "taste", value) for number, value in SCORED.items()])
    # Every second span was sent twice.
    with stored(Path(tmp_path_factory.mktemp("search-stats")), SPANS, spans_block(SPANS[::2]), acme, rows, scored) as opened:
        yield opened


def table(store: Store, query: str) -> Any:
    return stats(store, SearchRequest(q=query, start_ns=START_NS, end_ns=START_NS + 600 * SECOND))


def numbers(read: Callable[[Span], Any], spans: list[Span]) -> list[float]:
    values = [read(span) for span in spans]
    return [float(value) for value in values if value is not None and math.isfinite(float(value))]


def attribute(name: str) -> Callable[[Span], Any]:
    def read(span: Span) -> Any:
        try:
            return float(span.attributes[name])
        except (KeyError, ValueError):
            return None
    return read


FIELDS: dict[str, Callable[[Span], Any]] = {
    "duration": lambda span: span.duration_ns, "perplexity": attribute(PERPLEXITY), "weight": attribute("weight"),
    "score.taste": lambda span: SCORED.get(span.number),
    "surprisal.p50": lambda span: float(np.median(WITH_TOKENS[span.number])) if span.number in WITH_TOKENS else None,
}
ORACLE: dict[str, Callable[[list[float]], float]] = {
    "sum": np.sum, "mean": np.mean, "min": np.min, "max": np.max, "std": np.std,
    **{f"p{n}": lambda values, n=n: np.percentile(values, n) for n in (50, 90, 95, 99)},  # type: ignore[misc]  # a default binds n
}


@pytest.mark.parametrize("field", FIELDS)
def test_each_figure_is_over_the_finite_values_of_a_group(store: Store, field: str) -> None:
    """Of columns, attributes, scores and token series; a span that was sent twice counts once."""
    figures = [f"{name}({field})" for name in ORACLE] + ["count()"]
    found = table(store, f"-name:theirs | stats {', '.join(figures[:5])} by model, name")
    more = table(store, f"-name:theirs | stats {', '.join(figures[5:])} by model, name")
    groups: dict[tuple[Any, ...], list[Span]] = defaultdict(list)
    for span in SPANS:
        groups[span.attributes.get(MODEL), span.name].append(span)
    seen = {row[:2]: row[2:] for row in found.rows}
    rest = {row[:2]: row[2:] for row in more.rows}
    assert set(seen) == set(rest) == set(groups)
    for key, spans in groups.items():
        values = numbers(FIELDS[field], spans)
        wanted = [ORACLE[name](values) if values else None for name in ORACLE] + [len(spans)]
        for got, expected in zip([*seen[key], *rest[key]], wanted, strict=True):
            assert got == (None if expected is None else pytest.approx(float(expected), rel=1e-9))


@pytest.mark.parametrize(("figure", "count"), [
    ("count()", lambda spans: len(spans)), ("count(model)", lambda spans: sum(MODEL in span.attributes for span in spans)),
    ("distinct(user.id)", lambda spans: len({span.attributes["user.id"] for span in spans})),
    ("distinct(weight)", lambda spans: len({span.attributes["weight"] for span in spans if "weight" in span.attributes})),
    ("count(weight)", lambda spans: sum("weight" in span.attributes for span in spans)),
    ("distinct(name)", lambda spans: len({span.name for span in spans})),
])
def test_counts_of_anything(store: Store, figure: str, count: Callable[[list[Span]], int]) -> None:
    """Presence and different values, of text too."""
    failed = [span for span in SPANS if span.status == "Error"]
    assert table(store, f"is:error | stats {figure}").rows == ((count(failed),),)


def test_groups_come_largest_first_unless_sorted(store: Store) -> None:
    """By the first figure; `sort` takes another, or a field; `limit` cuts, and says so."""
    counts: dict[str, int] = defaultdict(int)
    for span in SPANS:
        counts[span.service] += 1
    by_count = sorted(counts, key=lambda service: (-counts[service], service))
    query = "-name:theirs | stats count(), max(duration) by service"
    assert [row[0] for row in table(store, query).rows] == by_count
    assert [row[0] for row in table(store, f"{query} | sort service").rows] == sorted(counts)
    assert [row[2] for row in table(store, f"{query} | sort -max(duration)").rows] == sorted(
        (row[2] for row in table(store, query).rows), reverse=True)
    cut = table(store, f"{query} | limit 2")
    assert [row[0] for row in cut.rows] == by_count[:2]
    assert cut.cut == "There are more groups: these are the first 2."
    assert table(store, query).cut == ""


def test_too_many_groups_are_said_to_be(store: Store) -> None:
    """A hundred are shown, the largest, and the cut is told."""
    found = table(store, "has:user.id | stats count() by user.id")
    assert [row[1] for row in found.rows] == [2] * 30 + [1] * (GROUPS_MAX - 30)
    assert "first 100" in found.cut
    counted = table(store, "| stats count() by span.user.id every 10m")
    assert len({row[1] for row in counted.rows}) == LINES_MAX
    assert "first 12" in counted.cut


def test_intervals_are_whole_and_in_order(store: Store) -> None:
    """`every` gives a row an interval and group, from the clock's full minutes on; nothing is made up where nothing is."""
    found = table(store, "-name:theirs | stats count(), mean(duration) by name every 1m")
    wanted: dict[tuple[int, str], list[Span]] = defaultdict(list)
    for span in SPANS:
        wanted[span.start_ns // (60 * SECOND) * 60 * SECOND, span.name].append(span)
    assert [row[:2] for row in found.rows] == sorted(wanted)
    for at, name, count, mean in found.rows:
        assert count == len(wanted[at, name])
        assert mean == pytest.approx(np.mean([span.duration_ns for span in wanted[at, name]]))
    assert [(column.name, column.kind, column.unit) for column in found.columns] == [
        ("time", "time", "ns"), ("name", "group", ""), ("count()", "figure", ""), ("mean(duration)", "figure", "ns")]


def test_nothing_matches_nothing(store: Store) -> None:
    """No rows by a group, and one row of nothing without."""
    assert table(store, "nothing:x | stats count(), max(duration) by model").rows == ()
    assert table(store, "nothing:x | stats count() every 1s").rows == ()
    assert table(store, "nothing:x | stats count(), max(duration)").rows == ((0, None),)


def test_a_tenant_counts_its_own(store: Store) -> None:
    """As in every other query."""
    assert table(TenantStore(store, lambda: "acme"), "| stats count() by name").rows == (("theirs", 1),)


@pytest.mark.parametrize(("query", "column", "hint"), [
    ("| stats p59(duration)", 8, "did you mean p99(duration)?"), ("| stats sum()", 8, "try sum(duration)"),
    ("| stats avg(duration)", 8, "did you mean mean(duration)?"), ("| stats median(ttft)", 8, "did you mean p50(ttft)?"),
    ("time:>1h | stats count()", 6, "choose the time range"),
    ("| stats mean(model)", 13, "by model"), ("| stats count() by modle", 19, "did you mean model?"),
    ("| stats mean(durtion)", 13, "did you mean duration?"), ("| stats count() by duration", 19, "try by model"),
    ("| stats count() by score.x", 19, "try by model"), ("| stats count() by model | sort -p95(duration)", 32, "did you mean"),
    ("| stats count() every 1ms", 22, "try every"), ("| stats count() every soon", 22, "500ms"),
    ("| stats count() every 1us", 22, "try every 1h"), ("| stats", 0, "try | stats"), ("| stats count", 8, "count()"),
    ("| stats count() by a b", 21, "`,`"), ("| sort -duration | stats count()", 17, "stats first"),
    ("| stats count() | stats count()", 16, "leave one out"), ("a | compare | limit 3", 12, "leave out"),
    ("a | limit 0", 10, "limit 20"), ("a | limt 3", 2, "did you mean | limit?"), ("a | (b)", 2, "stages are"),
    ("| stats " + ", ".join(["count()"] * 9), 0, ""), ("| stats count() by a, b, c, d, e", 0, ""),
    ("| stats p95(attn[layer=x].mean)", 17, "[layer=3]"),
])
def test_what_cannot_be_figured_is_told_with_its_place(store: Store, query: str, column: int, hint: str) -> None:
    """Where, why, and what to write instead."""
    with pytest.raises(QueryError) as caught:
        stats(store, SearchRequest(q=query))
    assert (caught.value.column, hint in caught.value.hint) == (column, True), (caught.value, caught.value.hint)


def test_rows_are_not_asked_of_figures(store: Store) -> None:
    """A search for rows says that the stage makes none, and where it stands."""
    for query in ("is:error | stats count()", "is:error | compare"):
        with pytest.raises(QueryError, match="makes no rows") as caught:
            find(store, SearchRequest(q=query), rows_max=5)
        assert caught.value.column == 9


def test_sort_and_limit_are_stages_of_rows(store: Store) -> None:
    """They win over the address; after the last row there is no next page."""
    request = SearchRequest(q="-name:theirs | sort -duration | limit 3", sort="name", limit=50)
    found = find(store, request, rows_max=500)
    assert [row["duration_ns"] for row in found["rows"]] == sorted((span.duration_ns for span in SPANS), reverse=True)[:3]
    assert found["next"] is None
    with pytest.raises(QueryError, match="at most 500 rows"):
        find(store, SearchRequest(q="| limit 501"), rows_max=500)
    with pytest.raises(QueryError) as caught:
        find(store, SearchRequest(q="a | sort -durtion"), rows_max=500)
    assert (caught.value.column, caught.value.hint) == (9, "did you mean duration?")


@pytest.mark.parametrize(("query", "sentence"), [
    ("| stats count()", "Count of all spans."),
    ("is:error | stats count(), p95(duration) by model, service every 1h",
     "Count and 95th percentile of duration of spans that ended in an error by model and service, every 1h."),
    ("is:error | sort -duration | limit 20",
     "Spans that ended in an error, sorted by duration, largest first, 20 of them at most."),
    ("a | compare", "Spans that mention “a” compared with all other spans."),
    ("a | compare (is:ok)", "Spans that mention “a” compared with spans that say they ended well."),
])
def test_stages_are_said_in_english(query: str, sentence: str) -> None:
    """The whole query in one sentence."""
    assert explain(query) == sentence


def test_every_figure_is_tried() -> None:
    """No function without an oracle."""
    assert {*ORACLE, "count", "distinct"} == set(FUNCTIONS)
    assert POINTS_MAX * LINES_MAX < 10_000
