"""What the results page asks of the search: pages backwards, exact counts, heat maps, traces, columns and sparklines."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import web_helpers
from cutaway_collector.blocks import Block, Strings
from cutaway_collector.contracts import Result, Store
from cutaway_collector.errors import QueryError
from cutaway_collector.search import SearchRequest, extent, facet, find, glance, heat, histogram, sparklines
from cutaway_collector.search.heat import steps_between
from search_helpers import INPUT, MODEL, OUTPUT, PERPLEXITY, START_NS, TTFT, Span, stored

SECOND = 10**9
SURPRISAL = "cutaway.output.surprisal.mean"
TWICE = (3, 4, 20)


def _spans() -> list[Span]:
    """120 spans in traces of up to four; a third generates; sort keys that are equal and missing."""
    dice = random.Random(5)
    out = []
    for number in range(1, 121):
        attributes = {"user.id": f"user {number % 7}", 'odd, "key"': str(number)}
        if number % 3 == 0:
            attributes |= {"gen_ai.operation.name": "chat", MODEL: dice.choice(["gpt2", "llama"]), INPUT: "10",
                           OUTPUT: str(dice.randrange(1, 90)), TTFT: str(dice.choice([0.1, 0.2, 0.4, 3.0]))}
            if number % 2:
                attributes |= {PERPLEXITY: str(dice.choice([1.5, 4.0, 40.0])), SURPRISAL: str(dice.choice([0.0, 0.4, 1.3, 3.6]))}
        out.append(Span(
            number, name=dice.choice(["a", "b"]), trace=1 + number // 4, parent=number - 1 if number % 4 else 0,
            service=dice.choice(["api", "batch"]), start_ns=START_NS + (number // 2) * SECOND,
            duration_ns=int(10 ** dice.uniform(6, 10)), status="Error" if number % 10 == 0 else "Ok", attributes=attributes,
        ))
    return out


SPANS = _spans()
SERIES = [span for span in SPANS if OUTPUT in span.attributes][:6]
LENGTHS = [1, 7, 32, 33, 100, 500]


def _scores() -> Block:
    count = len(SERIES)
    return Block("gen_ai_scores", count, {
        "Timestamp": np.array([s.start_ns for s in SERIES], np.int64), "ServiceName": Strings.of([s.service for s in SERIES]),
        "GenAiModel": Strings.of([s.attributes[MODEL] for s in SERIES]), "TraceId": Strings.of([s.trace_id for s in SERIES]),
        "SpanId": Strings.of([s.span_id for s in SERIES]), "SeqIndex": np.zeros(count, np.uint16),
        "ScoreName": Strings.of(["faith"] * count), "ScorerVersion": Strings.of(["1"] * count), "Source": Strings.of(["t"] * count),
        "Value": np.arange(count) / 10,
    })


TOKENS = [web_helpers.tokens_block(span, [length], texts=web_helpers.PIECES, attention=False)
          for span, length in zip(SERIES, LENGTHS, strict=True)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    sent = SPANS + [span for span in SPANS if span.number in TWICE]
    with stored(Path(tmp_path_factory.mktemp("search-results")), sent, *TOKENS, _scores()) as opened:
        yield opened


def _ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row.get("span_id") or row["trace_id"] for row in rows]


@pytest.mark.parametrize("limit", [3, 40])
@pytest.mark.parametrize(("view", "sort"), [("spans", ""), ("spans", "time"), ("spans", "-perplexity"), ("spans", "ttft"),
                                            ("spans", "name"), ("spans", "-score.faith"), ("spans", "score.faith"),
                                            ("generations", "-duration"), ("traces", ""), ("traces", "time")])
def test_pages_go_back_the_way_they_came(store: Store, view: str, sort: str, limit: int) -> None:
    """From any page `previous` leads to the page before it, to the first one, which has none; in every view and sort."""
    request = SearchRequest(view=view, sort=sort, limit=limit)
    forward = [find(store, request, rows_max=500)]
    while forward[-1]["next"] and len(forward) < 9:
        forward.append(find(store, replace(request, after=forward[-1]["next"]), rows_max=500))
    back = [forward[-1]]
    while back[-1]["previous"]:
        back.append(find(store, replace(request, before=back[-1]["previous"]), rows_max=500))

    assert [_ids(page["rows"]) for page in back[::-1]] == [_ids(page["rows"]) for page in forward]


def test_a_page_is_on_one_side_of_one_position(store: Store) -> None:
    """A page after one row and before another is refused."""
    after = find(store, SearchRequest(limit=3), rows_max=500)["next"]
    with pytest.raises(QueryError, match="not both"):
        find(store, SearchRequest(limit=3, after=after, before=after), rows_max=500)


def test_a_span_sent_twice_counts_once_everywhere(store: Store) -> None:
    """Count, histogram, facets and heat map agree with the rows."""
    rows = find(store, SearchRequest(limit=500), rows_max=500)["rows"]
    matches = extent(store, SearchRequest())
    drawn = histogram(store, SearchRequest(), 10)
    services = facet(store, SearchRequest(), "service", matches)["values"]
    cells = heat(store, SearchRequest(), "duration", matches, start_ns=matches.first_ns, step_ns=SECOND * 10, columns=7, steps=5)

    assert len(SPANS) == len(rows) == matches.count == sum(drawn["counts"])
    assert (True, True) == (matches.exact, matches.repeated)
    assert Counter(span.service for span in SPANS) == {entry["value"]: entry["count"] for entry in services}
    assert len(SPANS) == sum(map(sum, cells["counts"]))
    assert sum(span.status == "Error" for span in SPANS) == sum(drawn["errors"])


class _Slow:
    """A store whose queries, where they may be cut, are."""

    def __init__(self, store: Store) -> None:
        self.database, self._store = store.database, store

    def query(self, sql: str, parameters: Any = None, *, seconds_max: float | None = None) -> Result:
        found = self._store.query(sql, parameters)
        return replace(found, rows=found.rows[:3], cut=True) if seconds_max is not None else found


def test_what_was_cut_says_so(store: Store) -> None:
    """Rows, counts, facets and maps that ran out of time carry the mark that they did."""
    slow = _Slow(store)
    matches = extent(slow, SearchRequest(), seconds_max=1)  # type: ignore[arg-type]

    assert find(slow, SearchRequest(), rows_max=500, seconds_max=1)["stats"]["cut"]  # type: ignore[arg-type]
    assert (True, False) == (matches.cut, matches.exact)
    assert facet(slow, SearchRequest(), "service", matches, seconds_max=1)["cut"]  # type: ignore[arg-type]
    assert not find(store, SearchRequest(), rows_max=500, seconds_max=60)["stats"]["cut"]


@pytest.mark.parametrize(("measure", "attribute"), [("ttft", TTFT), ("perplexity", PERPLEXITY), ("surprisal", SURPRISAL)])
def test_a_heat_map_counts_every_value_in_its_cell(store: Store, measure: str, attribute: str) -> None:
    """Each cell equals a plain count between its edges; values of zero are in the lowest row; the rest is said to be missing."""
    matches = extent(store, SearchRequest(q="-service:nowhere"))
    start, step = START_NS // SECOND * SECOND, 15 * SECOND
    drawn = heat(store, SearchRequest(q="-service:nowhere"), measure, matches, start_ns=start, step_ns=step, columns=6, steps=8)
    expected: Counter[tuple[int, int]] = Counter()
    for span in SPANS:
        if attribute in span.attributes:
            value = float(span.attributes[attribute])
            expected[(span.start_ns - start) // step, sum(value >= edge for edge in drawn["edges"])] += 1

    found = {(x, y): n for x, column in enumerate(drawn["counts"]) for y, n in enumerate(column) if n}
    assert expected == found
    assert len(SPANS) - sum(expected.values()) == drawn["missing"]
    assert drawn["edges"] == sorted(set(drawn["edges"]))


@pytest.mark.parametrize(("low", "high", "wanted"),
                         [(0.001, 900.0, 13), (1.0, 1.05, 13), (3.0, 3.0, 13), (1e6, 4e10, 13), (5, 6, 9)])
def test_steps_are_even_in_logarithm_and_readable(low: float, high: float, wanted: int) -> None:
    """Edges rise from the low end to the high one; neighbours differ by about one factor, but for rounding."""
    edges = steps_between(low, high, wanted, whole=False)
    assert edges == sorted(set(edges))
    assert edges[0] == pytest.approx(low, rel=0.06)
    assert edges[-1] == pytest.approx(high, rel=0.06)
    if len(edges) > 2:
        factors = [math.log(b / a) for a, b in itertools.pairwise(edges)]
        assert max(factors) < 3 * min(factors) + 0.02


def test_traces_sum_up_all_of_their_spans(store: Store) -> None:
    """A row of the traces view says what a plain reading of the whole trace says, whichever of its spans matched."""
    found = find(store, SearchRequest(q="is:error", view="traces", limit=100), rows_max=500)["rows"]
    traces: defaultdict[str, list[Span]] = defaultdict(list)
    for span in SPANS:
        traces[span.trace_id].append(span)

    hit = {identity for identity, spans in traces.items() if any(span.status == "Error" for span in spans)}
    assert hit == {row["trace_id"] for row in found}
    for row in found:
        spans = traces[row["trace_id"]]
        root = min(spans, key=lambda span: (span.parent != 0, span.start_ns))
        end = max(span.start_ns + span.duration_ns for span in spans)
        tokens = [int(span.attributes[OUTPUT]) for span in spans if OUTPUT in span.attributes]
        surprisals = [float(span.attributes[SURPRISAL]) for span in spans if SURPRISAL in span.attributes]
        assert (len(spans), sum(span.status == "Error" for span in spans)) == (row["spans"], row["errors"])
        assert (root.name, min(span.start_ns for span in spans)) == (row["name"], row["start_ns"])
        assert end - row["start_ns"] == row["duration_ns"]
        assert (sum(tokens) if tokens else None) == row["output_tokens"]
        assert (max(surprisals) if surprisals else None) == row["surprisal_mean"]
        assert sum(span.status == "Error" for span in spans) == row["matched"]


def test_traces_have_one_order(store: Store) -> None:
    """A sort by anything but time is refused in the view of traces, with the way out."""
    with pytest.raises(QueryError) as refused:
        find(store, SearchRequest(view="traces", sort="-perplexity"), rows_max=500)
    assert "view=spans" in refused.value.hint


def test_generations_are_a_view(store: Store) -> None:
    """The view keeps spans in which a model generates, on top of the query."""
    found = find(store, SearchRequest(q="service:api OR service:batch", view="generations", limit=500), rows_max=500)["rows"]
    assert {span.span_id for span in SPANS if MODEL in span.attributes} == set(_ids(found))


def test_columns_are_what_was_asked_for(store: Store) -> None:
    """A column may be a field, a list, a score or any attribute, whatever its key; None where the span lacks it."""
    names = ("ttft", "finish", "score.faith", "user.id", 'span."odd, \\"key\\""', "no.such")
    rows = find(store, SearchRequest(limit=500, columns=names), rows_max=500)["rows"]
    by_id = {span.span_id: span for span in SPANS}
    faith = {span.span_id: index / 10 for index, span in enumerate(SERIES)}

    for row in rows:
        span = by_id[row["span_id"]]
        ttft = float(span.attributes[TTFT]) if TTFT in span.attributes else None
        expected = [ttft, [], faith.get(span.span_id), span.attributes["user.id"], str(span.number), None]
        assert expected == list(row["columns"].values())


def test_a_sparkline_is_the_mean_of_equal_parts(store: Store) -> None:
    """32 parts, or one a token where there are fewer; each the mean of its tokens; nothing for spans without a series."""
    rows = find(store, SearchRequest(q="is:generation", limit=500), rows_max=500)["rows"]
    drawn = sparklines(store, rows)

    assert {(span.trace_id, span.span_id) for span in SERIES} == set(drawn)
    for span, block, length in zip(SERIES, TOKENS, LENGTHS, strict=True):
        values = np.asarray(block.columns["Surprisals"].values, np.float64)  # type: ignore[union-attr]
        parts = min(32, length)
        cuts = [index * length // parts for index in range(parts + 1)]
        expected = [values[low:high].mean() for low, high in itertools.pairwise(cuts)]
        one = drawn[span.trace_id, span.span_id]
        assert one["parts"] == pytest.approx(expected, rel=1e-5)
        assert (length, int(values.argmax())) == (one["tokens"], one["at"])
        assert one["largest"] == pytest.approx(values.max(), rel=1e-5)


def test_the_sparklines_of_a_page_are_one_query(store: Store) -> None:
    """However many rows a page has, their series are asked for once."""
    asked: list[str] = []

    class Counting:
        database = store.database

        def query(self, sql: str, parameters: Any = None) -> Result:
            asked.append(sql)
            return store.query(sql, parameters)

    rows = find(store, SearchRequest(q="is:generation", limit=500), rows_max=500)["rows"]
    sparklines(Counting(), rows)  # type: ignore[arg-type]
    assert 1 == len(asked)


def test_a_closer_look_holds_the_span(store: Store) -> None:
    """Attributes, first tokens and scores of one row; None for a span that is not there."""
    span = SERIES[4]
    found = glance(store, span.trace_id, span.span_id, span.start_ns)
    assert found is not None
    assert dict(span.attributes) == found["attributes"]
    assert web_helpers.PIECES[:80] == [token["text"] for token in found["tokens"]]
    assert [("faith", 0.4)] == [(score["name"], score["value"]) for score in found["scores"]]
    assert None is glance(store, span.trace_id, "f" * 16, span.start_ns)
