"""Back-fills over a real engine: the same scores as at ingestion, no sequence twice, none forgotten, whatever cuts them short."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backfill_helpers
from backfill_helpers import DAY_NS, FOREVER, KEY, READ, START_NS, Constant, backfill, sequences
from cutaway_collector import score
from cutaway_collector.backfill import Request, begin
from cutaway_collector.backfill.reader import Range, Reader
from cutaway_collector.blocks import Block, Lists, Strings, concat_blocks
from cutaway_collector.columns import TOKENS
from cutaway_collector.contracts import Result
from cutaway_collector.errors import Conflict, SettingsError, StoreError
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, open_store
from pipeline_helpers import BrokenScorer, Tampered, request, running
from store_helpers import wait_until


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def store(data: Path) -> Iterator[ClickHouseStore]:
    opened = open_store(Settings(data=str(data)))
    yield opened
    opened.close()


def never(name: str, error: Exception) -> None:
    raise AssertionError(f"{name} failed") from error


def everything(column: Any) -> Any:
    """A column as Python values."""
    if isinstance(column, Lists):
        values = everything(column.values)
        return [values[a:b] for a, b in zip(column.offsets[:-1], column.offsets[1:], strict=True)]
    return list(column) if isinstance(column, Strings) else np.asarray(column).tolist()


def rows_of(block: Block) -> list[tuple[Any, ...]]:
    return sorted(zip(*(everything(column) for column in block.columns.values()), strict=True), key=repr)


@pytest.mark.parametrize("packs", [True, False])
def test_what_is_read_is_what_was_stored(store: ClickHouseStore, packs: bool) -> None:
    """Every column of every sequence once, over slices, pieces and days, with and without the engine's packed arrays."""
    blocks = [sequences(300), sequences(120, first=300, start_ns=START_NS + 3 * DAY_NS)]
    for number, block in enumerate(blocks):
        store.insert(block, f"tokens-{number}")
    reader = Reader(store, Range(start_ns=0, end_ns=START_NS + 9 * DAY_NS), [column.name for column in TOKENS.columns], rows_max=37)
    reader._packs = packs
    read = concat_blocks([piece.read() for piece in reader.pieces()])
    names = list(blocks[0].columns)
    assert set(read.columns) == {column.name for column in TOKENS.columns}
    assert reader.count() == read.rows == 420
    assert rows_of(Block("", 420, {name: read.columns[name] for name in names})) == rows_of(concat_blocks(blocks))


def test_pieces_are_bounded_by_bytes(store: ClickHouseStore) -> None:
    """No piece holds more series than it may, but a sequence longer than that, which is a piece of its own."""
    store.insert(sequences(60), "tokens")
    reader = Reader(store, Range(start_ns=0, end_ns=START_NS + DAY_NS), ["Surprisals"], bytes_max=400)
    sizes = [(piece.read().columns["Surprisals"].values.nbytes, len(piece.keys)) for piece in reader.pieces()]  # type: ignore[union-attr]
    assert sum(count for _, count in sizes) == 60
    assert all(nbytes <= 400 or count == 1 for nbytes, count in sizes)
    assert len(sizes) > 5


def test_a_range_is_its_times_service_and_model(store: ClickHouseStore) -> None:
    """From `start` up to but without `end`, of the service and the model that were asked for."""
    store.insert(sequences(200), "tokens")
    start, end = START_NS + 70_000_000_000, START_NS + 210_000_000_000
    wanted = Range(start_ns=start, end_ns=end, service="service-3", model="model-1")
    read = concat_blocks([piece.read() for piece in Reader(store, wanted, []).pieces()])
    numbers = [n for n in range(200) if start <= START_NS + n // 4 * 7_000_000_000 < end and n % 5 == 3 and n % 2 == 1]
    assert sorted(np.asarray(read.columns["IngestedAt"]) - START_NS // 1_000_000) == numbers
    assert numbers


def test_scores_are_those_of_ingestion(store: ClickHouseStore) -> None:
    """Scored behind the insert or later by a back-fill: the same rows, but for when."""
    tokens = sequences(300)
    store.insert(tokens, "tokens")
    store.insert(score.score_block(tokens, score.scorers("cpu"), now_ms=1, on_failure=never), "scores")
    at_ingestion = store.query(READ).rows
    store.command("TRUNCATE TABLE otel.gen_ai_scores")
    job = backfill(store, score.scorers("cpu"))
    assert (job.state, job.rows, job.rows_total, job.failures) == ("done", 300, 300, {})
    assert store.query(READ).rows == at_ingestion
    assert job.scores == len(at_ingestion) > 900


def test_scoring_again_replaces(store: ClickHouseStore) -> None:
    """The newer score of the same version wins; another version stands beside it."""
    store.insert(sequences(40), "tokens")
    old, new = Constant(), Constant()
    backfill(store, [old])
    new.score = lambda tokens: {"constant": np.full(tokens.rows, 9.0)}  # type: ignore[method-assign]  # another value, the same version
    backfill(store, [new])
    backfill(store, [Constant(version="2")])
    found = store.query("SELECT ScorerVersion, Value, count() FROM otel.gen_ai_scores FINAL GROUP BY 1, 2 ORDER BY 1").rows
    assert [tuple(row) for row in found] == [("1", 9.0, 40), ("2", 2.0, 40)]


def test_a_stopped_job_goes_on_where_it_stopped(store: ClickHouseStore) -> None:
    """The same request again scores the rest and nothing twice; so does a resume without saying what."""
    store.insert(sequences(200), "tokens")
    scorer = Constant()
    first = backfill(store, [scorer], stop_after=2)
    assert (first.state, first.rows) == ("stopped", 100)
    second = backfill(store, [scorer], stop_after=1, resume=True)
    assert (second.id, second.state, second.rows) == (first.id, "stopped", 150)
    third = backfill(store, [scorer])
    assert (third.id, third.state, third.rows, scorer.judged) == (first.id, "done", 200, 200)
    assert store.query("SELECT count() FROM otel.gen_ai_scores").rows[0][0] == 200
    assert backfill(store, [scorer], stop_after=1).id != first.id, "a job that is done is not gone on with"


def test_another_version_does_not_go_on_with_an_older_ones_job(store: ClickHouseStore) -> None:
    """What was scored before the stop would lack the new version: it begins at the start."""
    store.insert(sequences(100), "tokens")
    backfill(store, [Constant()], stop_after=1)
    assert backfill(store, [Constant(version="2")], resume=True).rows == 100
    assert store.query("SELECT count() FROM otel.gen_ai_scores FINAL WHERE ScorerVersion = '2'").rows[0][0] == 100


@pytest.mark.slow
def test_killed_in_the_middle_and_run_again(data: Path) -> None:
    """Killed twice with SIGKILL: the last run goes on, every score is there, and no row is stored twice."""
    opened = open_store(Settings(data=str(data)))
    opened.insert(sequences(400), "tokens")
    opened.close()
    begun = []
    for wanted in (3, 6):
        child = subprocess.Popen([sys.executable, backfill_helpers.__file__, str(data)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        begun.append(int(child.stdout.readline().split()[-1]))
        for _ in range(wanted):
            assert child.stdout.readline().startswith("running")
        child.kill()
        child.stdout.close()
        child.wait()
    opened = open_store(Settings(data=str(data)))
    try:
        job = backfill(opened, score.scorers("cpu"), rows_max=20)
        assert (job.state, job.rows) == ("done", 400)
        assert begun[0] == 0
        stored = opened.query("SELECT count() FROM otel.gen_ai_scores").rows[0][0]
        keys = f"SELECT DISTINCT {KEY}, ScoreName FROM otel.gen_ai_scores"
        assert stored == opened.query(f"SELECT count() FROM ({keys})").rows[0][0], "a score was stored twice"
        found = opened.query(READ).rows
        opened.command("TRUNCATE TABLE otel.gen_ai_scores")
        tokens = sequences(400)
        opened.insert(score.score_block(tokens, score.scorers("cpu"), now_ms=1, on_failure=never), "scores")
        assert found == opened.query(READ).rows
    finally:
        opened.close()


def test_a_lost_answer_stores_nothing_twice(store: ClickHouseStore) -> None:
    """Inserts that were done and reported as failed are repeated under their token, and the job says nothing went wrong."""
    store.insert(sequences(120), "tokens")
    gate = Tampered(store, lose_answers=3)
    job = backfill(gate, [Constant()])
    assert (job.state, job.message, job.scores) == ("done", "", 120)
    assert store.query("SELECT count() FROM otel.gen_ai_scores").rows[0][0] == 120


def test_a_store_that_refuses_ends_the_job_with_its_words(store: ClickHouseStore) -> None:
    """What waiting does not cure is not waited for; the job can be gone on with."""
    store.insert(sequences(20), "tokens")

    class Refusing(Tampered):
        def insert(self, block: Block, deduplication_token: str) -> None:
            if block.table == "gen_ai_scores":
                raise StoreError("the store refuses this value", retryable=False)
            super().insert(block, deduplication_token)

    job = backfill(Refusing(store), [Constant()])
    assert (job.state, job.message, job.rows) == ("stopped", "the store refuses this value", 0)
    assert backfill(store, [Constant()], resume=True).id == job.id


def test_a_failing_scorer_is_counted_and_the_others_go_on(store: ClickHouseStore) -> None:
    """One failure a piece, under the scorer's name; the other scorer's scores are all there."""
    store.insert(sequences(120), "tokens")
    job = backfill(store, [BrokenScorer(), Constant()])
    assert (job.state, job.failures, job.scores) == ("done", {"broken": 3}, 120)


def test_missing_scores_only_what_lacks_them(store: ClickHouseStore) -> None:
    """Sequences that have every score of these versions are not judged again; scores that are there keep their row."""
    store.insert(sequences(100), "tokens")
    backfill(store, [Constant()])
    store.insert(sequences(60, first=100), "more")
    scorer = Constant()
    job = backfill(store, [scorer], missing=True)
    assert (job.state, job.scores, scorer.judged) == ("done", 60, 60)
    assert store.query("SELECT count() FROM otel.gen_ai_scores").rows[0][0] == 160
    newer = Constant(version="2")
    assert (backfill(store, [newer], missing=True).scores, newer.judged) == (160, 160)


def test_missing_adds_the_other_scores_alone(store: ClickHouseStore) -> None:
    """A sequence that has one of two scores gets the other; the one it has is not stored again."""
    store.insert(sequences(30), "tokens")
    backfill(store, [Constant("a")])
    job = backfill(store, [Constant("a"), Constant("b")], missing=True)
    assert job.scores == 30
    rows = store.query("SELECT ScoreName, count() FROM otel.gen_ai_scores GROUP BY 1 ORDER BY 1").rows
    assert [tuple(row) for row in rows] == [("a", 30), ("b", 30)]


def test_only_the_scorers_asked_for(store: ClickHouseStore) -> None:
    """Named scorers run alone; a name that nobody has is refused with those there are."""
    store.insert(sequences(10), "tokens")
    assert backfill(store, [Constant("a"), Constant("b")], scorers=("b",)).scores == 10
    assert store.query("SELECT DISTINCT ScoreName FROM otel.gen_ai_scores").rows[0][0] == "b"
    with pytest.raises(SettingsError, match="there are a, b"):
        backfill(store, [Constant("a"), Constant("b")], scorers=("c",))


def test_columns_nobody_reads_are_not_read(store: ClickHouseStore) -> None:
    """Scorers that say what they read cost no more than that; one that does not is given everything."""
    store.insert(sequences(10), "tokens")
    seen: list[set[str]] = []

    class Curious(Constant):
        def score(self, tokens: Block) -> Mapping[str, Any]:
            seen.append(set(tokens.columns))
            return super().score(tokens)

    class Silent(Curious):
        columns = None  # type: ignore[assignment]  # a scorer that does not say what it reads

    backfill(store, [Curious()])
    backfill(store, [Silent()])
    assert {"OutputTokens", "SpanId"} <= seen[0]
    assert "Surprisals" not in seen[0]
    assert seen[1] == {column.name for column in TOKENS.columns}


def test_sequences_sent_twice_are_scored_once(store: ClickHouseStore) -> None:
    """A sender's duplicate is one sequence."""
    store.insert(sequences(30), "tokens")
    store.insert(sequences(30), "the same again")
    job = backfill(store, [Constant()])
    assert (job.state, job.rows, job.scores) == ("done", 30, 30)


def test_two_at_once_are_refused(store: ClickHouseStore) -> None:
    """While a living process works on a job, another one does not begin; a process that died leaves the way free."""
    store.insert(sequences(10), "tokens")
    backfill(store, [Constant()], stop_after=1, rows_max=5)
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, text=True)
    try:
        here = store.query("SELECT Owner FROM otel.cutaway_backfills").rows[0][0].split("/")[0]
        store.command("INSERT INTO otel.cutaway_backfills (JobId, State, Owner, Counts, StartedMs, Version) "
                      f"VALUES ('another', 'running', '{here}/{other.pid}/x', '', 1, 1)")
        with pytest.raises(Conflict, match="job another"):
            begin(store, Request.of(FOREVER), [Constant()])
    finally:
        other.communicate("\n")
    assert backfill(store, [Constant()]).state == "done"


def test_fresh_spans_go_first(store: ClickHouseStore) -> None:
    """While there is pressure no further piece is read; afterwards the job goes on by itself."""
    store.insert(sequences(100), "tokens")
    pressure, asked = threading.Event(), threading.Event()
    pressure.set()
    found: list[Any] = []

    def give_way() -> bool:
        asked.set()
        return pressure.is_set()

    thread = threading.Thread(target=lambda: found.append(backfill(store, [Constant()], give_way=give_way)))
    thread.start()
    assert asked.wait(30)
    asked.clear()
    assert asked.wait(30)
    assert store.query("SELECT count() FROM otel.gen_ai_scores").rows[0][0] == 50
    pressure.clear()
    thread.join(60)
    assert (found[0].state, found[0].rows) == ("done", 100)


def test_ingestion_goes_on_meanwhile(store: ClickHouseStore, data: Path) -> None:
    """Spans that arrive during a back-fill are acknowledged, stored and scored; the back-fill still covers its range."""
    store.insert(sequences(300), "tokens")
    settings = Settings(data=str(data), batch_age_ms_max=10)
    with running(store, settings, scorers=[Constant("fresh")]) as pipeline:
        found: list[Any] = []
        asked = {"end_ns": START_NS + 100 * DAY_NS}
        thread = threading.Thread(target=lambda: found.append(backfill(store, [Constant("old")], rows_max=10, **asked)))
        thread.start()
        for number in range(20):
            pipeline.submit(request(number * 10, tokens=3), "protobuf")
        thread.join(60)
        wait_until(lambda: pipeline.status()[1]["waiting_requests"] == 0)
    assert (found[0].state, found[0].scores >= 300) == ("done", True)
    counted = {row[0]: row[1] for row in store.query("SELECT ScoreName, count() FROM otel.gen_ai_scores FINAL GROUP BY 1").rows}
    assert counted["fresh"] == 200
    assert counted["old"] >= 300


def test_a_query_that_fails_for_a_moment_is_asked_again(store: ClickHouseStore) -> None:
    """A store that is away between two pieces: the job waits and loses nothing."""
    store.insert(sequences(100), "tokens")

    class Flaky(Tampered):
        failures = 0

        def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Result:
            if "Surprisals" in sql or "LIMIT 1 BY" in sql:
                self.failures += 1
                if self.failures % 2:
                    raise StoreError("the store is away", retryable=True)
            return super().query(sql, parameters)

    job = backfill(Flaky(store), [Constant()])
    assert (job.state, job.rows, job.scores) == ("done", 100, 100)
