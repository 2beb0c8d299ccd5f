"""Scores on their way into a real engine: the rows are accepted, found, and replaced when scored again."""

from __future__ import annotations

import pytest

from cutaway_collector.blocks import concat_blocks
from cutaway_collector.score import score_block, scorers
from cutaway_collector.search.scores import scores
from cutaway_collector.settings import Settings
from cutaway_collector.store import open_store
from score_helpers import id_rows, seq_rep_4_oracle, surprisal_rows, token_block, worst_window_oracle
from store_helpers import server


def never(name, error):
    raise AssertionError(f"{name} failed") from error


@pytest.fixture
def store(tmp_path):
    with server(tmp_path) as running:
        opened = open_store(Settings(clickhouse=running.url))
        yield opened
        opened.close()


def test_scores_are_stored_and_scoring_again_replaces_them(store):
    """Every score is read back as an oracle has it; a second scoring of the same sequences leaves one row a score."""
    surprisals, ids = surprisal_rows(8)[:11], id_rows(8)[:11]
    tokens = token_block(surprisals, ids)
    for now_ms in (1_000, 2_000):
        store.insert(score_block(tokens, scorers("cpu"), now_ms=now_ms, on_failure=never), f"scores-{now_ms}")
    sql = "SELECT SpanId, Value, Version FROM otel.gen_ai_scores FINAL WHERE ScoreName = {name:String} ORDER BY SpanId"
    for name, expected in (("worst_window_surprisal", [worst_window_oracle(row) for row in surprisals]),
                           ("seq_rep_4", [seq_rep_4_oracle(row) for row in ids])):
        applies = [(f"{row:016x}", value) for row, value in enumerate(expected) if value == value]
        rows = store.query(sql, {"name": name}).rows
        assert [row[0] for row in rows] == [span for span, _ in applies]
        assert [row[1] for row in rows] == pytest.approx([value for _, value in applies], rel=1e-12)
        assert {row[2] for row in rows} == {2_000}


def test_equal_keys_of_one_insert_are_one_score(store):
    """A score twice in one block, older and newer: whoever reads it finds the newest alone, before any merge of parts."""
    tokens = token_block(surprisal_rows(3)[:4], id_rows(3)[:4])
    older, newer = (score_block(tokens, scorers("cpu"), now_ms=now_ms, on_failure=never) for now_ms in (1_000, 2_000))
    newer.columns["Value"] = newer.columns["Value"] + 1
    store.insert(concat_blocks([newer, older]), "both")
    assert store.query("SELECT count() FROM otel.gen_ai_scores").rows[0][0] == 2 * older.rows
    rows = store.query("SELECT Version, count() FROM otel.gen_ai_scores FINAL GROUP BY Version").rows
    assert [tuple(row) for row in rows] == [(2_000, older.rows)]
    trace_id = next(iter(newer.columns["TraceId"]))
    wanted = {name: value for name, value, trace in zip(
        *(list(newer.columns[column]) for column in ("ScoreName", "Value", "TraceId")), strict=True) if trace == trace_id}
    assert {row["name"]: row["value"] for row in scores(store, _text(trace_id), limit=100)} == {
        _text(name): pytest.approx(value) for name, value in wanted.items()}


def _text(value):
    return value.decode() if isinstance(value, bytes) else value
