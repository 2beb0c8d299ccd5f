"""The store that the search bench fills holds what the bench asks for: every question of it is answered, and trees are trees."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from bench import search_filler as filler
from bench import search_scale as scale
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, open_store

pytestmark = pytest.mark.slow
PLAN = filler.Plan(spans=3000, token_rows=200, end_s=int(time.time()))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseStore]:
    opened = open_store(Settings(data=str(tmp_path_factory.mktemp("filled") / "data")))
    filler.fill(opened, PLAN)
    yield opened
    opened.close()


def test_every_question_of_the_bench_is_answered(store: ClickHouseStore) -> None:
    """Pages and twins alike, and each reads rows."""
    asked = scale.questions(store, rounds=2)
    figures = scale.read(store, asked)
    assert {one.name for one in asked} == set(figures)
    assert all(figure["queries"] and figure["rows"] for figure in figures.values())


def test_spans_are_trees_of_their_traces(store: ClickHouseStore) -> None:
    """One root a trace, 5 to 20 spans, every parent in the trace, ids told apart; a growing store keeps its ids."""
    roots, spans, least, most, ids = store.query(
        "SELECT countIf(roots = 1), sum(spans), min(spans), max(spans), sum(ids) FROM (SELECT countIf(ParentSpanId = '') AS roots, "
        "count() AS spans, uniqExact(SpanId) AS ids FROM otel.otel_traces GROUP BY TraceId)").rows[0]
    assert (roots, ids) == (PLAN.traces, spans)
    assert 5 <= least < most <= 20
    assert store.query("SELECT count() FROM otel.otel_traces WHERE ParentSpanId != '' AND (TraceId, ParentSpanId) NOT IN "
                       "(SELECT TraceId, SpanId FROM otel.otel_traces)").rows[0][0] == 0
    assert store.query("SELECT count() FROM otel.otel_traces WHERE TraceId = {trace:String}",
                       {"trace": filler.trace_id(store, 7)}).rows[0][0] >= 5


def test_series_and_scores_belong_to_generations(store: ClickHouseStore) -> None:
    """Token rows are about as many as planned, their arrays as long as they say, and every score is of a stored generation."""
    rows, fit = store.query(
        "SELECT count(), countIf(length(Surprisals) = OutputTokens AND length(TokenTexts) = OutputTokens "
        "AND length(AttentionEntropies) = OutputTokens * AttentionLayers) FROM otel.gen_ai_tokens").rows[0]
    assert 0.6 * PLAN.token_rows < rows == fit < 1.5 * PLAN.token_rows
    for table in ("gen_ai_tokens", "gen_ai_scores"):
        assert store.query(f"SELECT count() FROM otel.{table} WHERE (TraceId, SpanId) NOT IN "
                           "(SELECT TraceId, SpanId FROM otel.otel_traces WHERE GenAiOperation = 'chat')").rows[0][0] == 0
    times = store.query("SELECT count() FROM otel.otel_traces_trace_id_ts").rows[0][0]
    assert times == PLAN.traces
