"""Judging beside ingest: real chDB, planted scorers. What is stored is judged once, whatever fails, stops or comes late."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from cutaway_collector.blocks import Block
from cutaway_collector.contracts import Judged, Result, Texts
from cutaway_collector.errors import MissingExtra, StoreError
from cutaway_collector.judging import notes
from cutaway_collector.judging.budget import Budget
from cutaway_collector.judging.rows import WORDS_MAX
from cutaway_collector.judging.spans import Place
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, open_store
from judge_helpers import Counting, begun, chat, notes_of, running, scores, stored_spans, wait_until
from search_helpers import START_NS, Event, Span, spans_block


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseStore]:
    opened = open_store(Settings(data=str(tmp_path_factory.mktemp("judging"))))
    opened.prepare()
    yield opened
    opened.close()


@pytest.fixture
def store(engine: ClickHouseStore) -> ClickHouseStore:
    """A store in which judging has begun and nothing is stored."""
    for table in ("otel_traces", "gen_ai_scores", "cutaway_judging"):
        engine.command(f"TRUNCATE TABLE otel.{table}")
    begun(engine)
    return engine


def spans(count: int, first: int = 1) -> list[Span]:
    return [chat(number, f"question {number}", f"answer {number}") for number in range(first, first + count)]


def test_every_sequence_is_judged(store: ClickHouseStore) -> None:
    """Each answer has its scores, found beside the span by its own time, model and service; the scorer's words are kept."""

    class Wordy(Counting):
        def score(self, texts: Texts) -> Mapping[str, Judged]:
            count = len(texts)
            return {"wordy": Judged(np.ones(count), ["yes"] * count, ["because"] * count), "never": Judged(np.full(count, np.nan))}

    stored_spans(store, [chat(1, "q", "one", "three"), chat(2, "q", "fourteen")])
    with running(store, Counting(), Wordy("wordy")):
        wait_until(lambda: len(scores(store)) == 6)
    assert scores(store, "length") == [("", 1, 0, "length", 3.0), ("", 1, 1, "length", 5.0), ("", 2, 0, "length", 8.0)]
    rows = store.query(
        "SELECT s.Label, s.Explanation, s.ScorerVersion, s.Source, s.ServiceName, s.GenAiModel, s.TraceId = t.TraceId, "
        "s.Timestamp = t.Timestamp, s.IngestedAt = t.IngestedAt FROM otel.gen_ai_scores AS s JOIN otel.otel_traces AS t "
        "ON t.SpanId = s.SpanId WHERE s.ScoreName = 'wordy'").rows
    assert [tuple(row) for row in rows] == [("yes", "because", "1", "collector", "tests", "m", 1, 1, 1)] * 3


def test_one_call_sees_one_tenant(store: ClickHouseStore) -> None:
    """Texts of two tenants never meet in a scorer, and the scores carry their tenant."""
    stored_spans(store, spans(5), "team-a")
    stored_spans(store, spans(5, 11), "team-b")
    scorer = Counting()
    with running(store, scorer):
        wait_until(lambda: len(scores(store)) == 10)
    assert {row[0] for row in scores(store) if row[1] < 10} == {"team-a"}
    assert {row[0] for row in scores(store) if row[1] > 10} == {"team-b"}
    assert all(len({int(answer.split()[1]) > 10 for answer in call}) == 1 for call in scorer.seen)


def test_what_comes_late_is_judged(store: ClickHouseStore) -> None:
    """A span that waited in the spool was received long before others that are judged already: it is not passed over."""
    late = spans_block([chat(7, "q", "late")])
    late.columns["IngestedAt"] = np.array([time.time_ns() // 1_000_000], np.int64)
    with running(store, Counting()):
        stored_spans(store, spans(3))
        wait_until(lambda: len(scores(store)) == 3)
        store.insert(late, "late")
        wait_until(lambda: len(scores(store)) == 4)


def test_what_was_there_before_is_not_judged(engine: ClickHouseStore) -> None:
    """Judging begins with what comes after it was first switched on."""
    for table in ("otel_traces", "gen_ai_scores", "cutaway_judging"):
        engine.command(f"TRUNCATE TABLE otel.{table}")
    stored_spans(engine, spans(3))
    begun(engine)
    stored_spans(engine, spans(2, 11))
    with running(engine, Counting()):
        wait_until(lambda: len(scores(engine)) == 2)
    assert {row[1] for row in scores(engine)} == {11, 12}


def test_spans_that_are_no_calls_of_a_model_are_left(store: ClickHouseStore) -> None:
    """Agents repeat what their calls said, plain spans say nothing: only calls are read, with or without the newest names."""
    old = Event("gen_ai.choice", {"gen_ai.event.content": '{"message": {"content": "by event"}, "content": "by event"}'})
    stored_spans(store, [
        chat(1, "q", "call"), chat(2, "q", "agent", operation="invoke_agent"), Span(3, attributes={"http.route": "/"}),
        Span(4, start_ns=START_NS, attributes={"gen_ai.operation.name": "chat"}, events=[old]),
        Span(5, start_ns=START_NS, attributes={"openinference.span.kind": "LLM", "llm.output_messages.0.message.role": "assistant",
                                               "llm.output_messages.0.message.content": "by index"}),
        Span(6, start_ns=START_NS, attributes={"gen_ai.operation.name": "chat", "gen_ai.usage.output_tokens": "3"}),
    ])
    scorer = Counting()
    with running(store, scorer):
        wait_until(lambda: len(scores(store)) == 3)
    assert sorted(answer for call in scorer.seen for answer in call) == ["by event", "by index", "call"]


def test_a_restart_goes_on_and_doubles_nothing(store: ClickHouseStore) -> None:
    """What the first run judged the second does not see; the table holds each row once without FINAL."""
    stored_spans(store, spans(10))
    with running(store, Counting(), batch_rows_max=3):
        wait_until(lambda: len(scores(store)) == 10)
    stored_spans(store, spans(5, 21))
    second = Counting()
    with running(store, second):
        wait_until(lambda: len(scores(store)) == 15)
    assert sorted(answer for call in second.seen for answer in call) == sorted(f"answer {n}" for n in range(21, 26))
    assert store.query("SELECT count() FROM otel.gen_ai_scores").rows[0][0] == 15


def test_a_span_sent_twice_has_its_scores_once(store: ClickHouseStore) -> None:
    """A second copy of a span, in an insert of its own, adds no score."""
    stored_spans(store, spans(4))
    with running(store, Counting()):
        wait_until(lambda: len(scores(store)) == 4)
        stored_spans(store, [*spans(4), *spans(1, 31)])
        wait_until(lambda: len(scores(store)) == 5)


def test_a_failing_scorer_holds_up_nobody(store: ClickHouseStore, caplog: pytest.LogCaptureFixture) -> None:
    """The others judge what comes; once it works it judges what it missed, and its failure is told in the log once."""
    bad = Counting("bad", raises=ValueError("secret text"))
    with caplog.at_level(logging.INFO), running(store, bad, Counting(), batch_rows_max=2, retry_s=0.001) as run:
        for first in (1, 11, 21):
            stored_spans(store, spans(5, first))
            wait_until(lambda count=first // 10 + 1: len(scores(store, "length")) == 5 * count)
        assert run.judging.status()["trouble"] == {"bad": "ValueError"}
        assert run.sample("cutaway_judging_scorer_behind", scorer="bad") == 1
        assert scores(store, "bad") == []
        bad.raises = None
        wait_until(lambda: run.judging.status()["trouble"] == {})
    assert [row[1] for row in scores(store, "bad")] == [row[1] for row in scores(store, "length")]
    assert run.sample("cutaway_judging_scorer_behind", scorer="bad") == 0
    assert [record.getMessage() for record in caplog.records if " bad " in record.getMessage()] == [
        "the text scorer bad is left out until it works again: ValueError", "the text scorer bad has caught up"]
    assert "secret" not in caplog.text


def test_what_was_missed_survives_a_restart(store: ClickHouseStore) -> None:
    """A scorer that failed until the collector stopped judges all of it after the start."""
    stored_spans(store, spans(9))
    with running(store, Counting("bad", raises=MissingExtra("install it")), Counting(), batch_rows_max=2):
        wait_until(lambda: len(scores(store)) == 9)
    assert list(notes_of(store).behind) == ["bad"]
    good = Counting("bad")
    with running(store, good, Counting("unseen")) as run:
        wait_until(lambda: len(scores(store, "bad")) == 9)
        wait_until(lambda: run.judging.status()["trouble"] == {})
    assert notes_of(store).behind == {}


def test_one_bad_text_costs_its_own_scores_alone(store: ClickHouseStore) -> None:
    """The scorer that cannot take it judges everything else, and the span is counted."""
    picky = Counting("picky", refuses="answer 4")
    stored_spans(store, spans(8))
    with running(store, picky, Counting(), batch_rows_max=8) as run:
        wait_until(lambda: len(scores(store)) == 15 and run.judging.status()["trouble"] == {})
    assert [row[1] for row in scores(store, "picky")] == [1, 2, 3, 5, 6, 7, 8]
    assert run.sample("cutaway_judging_left_out_spans_total", scorer="picky") == 1


def test_a_batch_of_bad_texts_does_not_stop_a_scorer(store: ClickHouseStore) -> None:
    """A text that fills its batch alone is tried again until the scorer is seen to judge what comes behind it."""
    picky = Counting("picky", refuses="answer 4")
    with running(store, picky, batch_rows_max=1, retry_s=0.001) as run:
        stored_spans(store, spans(1, 4))
        wait_until(lambda: run.sample("cutaway_judging_failures_total", scorer="picky") > 3)
        assert run.sample("cutaway_judging_left_out_spans_total", scorer="picky") == 0
        stored_spans(store, spans(2, 5))
        wait_until(lambda: len(scores(store)) == 2 and run.judging.status()["trouble"] == {})
        assert run.sample("cutaway_judging_left_out_spans_total", scorer="picky") == 1


def test_a_missing_package_is_told_once_and_judged_later(store: ClickHouseStore, caplog: pytest.LogCaptureFixture
                                                                 ) -> None:
    """Log and status say what to install; when it is there, what was missed is judged; nothing is ever given up."""
    lacking = Counting("lacking", raises=MissingExtra("the scorer lacking needs x: pip install 'cutaway[judge]'"))
    with caplog.at_level(logging.WARNING), running(store, lacking, Counting(), retry_s=0.001) as run:
        stored_spans(store, spans(3))
        wait_until(lambda: run.sample("cutaway_judging_failures_total", scorer="lacking") > 8)
        assert run.judging.status()["trouble"] == {"lacking": "the scorer lacking needs x: pip install 'cutaway[judge]'"}
        assert caplog.text.count("pip install") == 1
        lacking.raises = None
        wait_until(lambda: len(scores(store, "lacking")) == 3)
    assert run.sample("cutaway_judging_left_out_spans_total", scorer="lacking") == 0


@pytest.mark.parametrize("answer", [
    {"x": Judged(np.zeros(5))}, {"x": Judged(np.full(2, np.inf))}, {"x": [1.0, 2.0]}, {"x": Judged(np.zeros(2), labels=["a"])},
    None,
    {"length": Judged(np.zeros(2))},
], ids=["too many", "infinite", "a list", "labels", "nothing", "another's name"])
def test_a_wrong_answer_is_a_failure(store: ClickHouseStore, answer: Any) -> None:
    """None of it is stored, and the other scorer's scores are."""

    class Wrong(Counting):
        def score(self, texts: Texts) -> Any:
            return answer

    stored_spans(store, spans(2))
    with running(store, Counting(), Wrong("wrong")) as run:
        wait_until(lambda: run.sample("cutaway_judging_failures_total", scorer="wrong") > 1)
        wait_until(lambda: len(scores(store)) == 2)
    assert {row[3] for row in scores(store)} == {"length"}
    assert {row[4] for row in scores(store)} == {8.0}


def test_words_of_a_scorer_are_bounded(store: ClickHouseStore) -> None:
    """A label or an explanation without end is cut."""

    class Endless(Counting):
        def score(self, texts: Texts) -> Mapping[str, Judged]:
            return {self.name: Judged(np.ones(len(texts)), ["l" * 10**6] * len(texts), ["e" * 10**6] * len(texts))}

    stored_spans(store, spans(1))
    with running(store, Endless()):
        wait_until(lambda: len(scores(store)) == 1)
    assert store.query("SELECT length(Label), length(Explanation) FROM otel.gen_ai_scores").rows[0] == (WORDS_MAX // 10, WORDS_MAX)


class Away:
    """A store that is away while `down` is set."""

    def __init__(self, store: ClickHouseStore) -> None:
        self.database = store.database
        self.store = store
        self.down = threading.Event()

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Result:
        self._reach()
        return self.store.query(sql, parameters)

    def insert(self, block: Block, deduplication_token: str) -> None:
        self._reach()
        self.store.insert(block, deduplication_token)

    def _reach(self) -> None:
        if self.down.is_set():
            raise StoreError("the store is away", retryable=True)

    def prepare(self) -> None: ...
    def command(self, sql: str) -> None: ...
    def close(self) -> None: ...


def test_a_store_that_is_away(store: ClickHouseStore, caplog: pytest.LogCaptureFixture) -> None:
    """Judging waits, says so once, and goes on by itself; scores that could not be stored are made again."""
    away = Away(store)

    class Cutting(Counting):
        def score(self, texts: Texts) -> Mapping[str, Judged]:
            if not self.seen:
                away.down.set()  # between reading and storing
            return super().score(texts)

    stored_spans(store, spans(4))
    with caplog.at_level(logging.WARNING), running(away, Cutting()) as run:
        wait_until(lambda: run.judging.status()["store"] == "the store is away")
        assert scores(store) == []
        away.down.clear()
        wait_until(lambda: len(scores(store)) == 4)
        wait_until(lambda: run.judging.status()["store"] == "")
    assert caplog.text.count("the store is away") == 1


def test_fresh_spans_come_first(store: ClickHouseStore) -> None:
    """Nothing is read or judged while ingest needs the store."""
    pressed = threading.Event()
    pressed.set()
    asked: list[bool] = []
    stored_spans(store, spans(3))
    with running(store, Counting(), give_way=lambda: asked.append(True) or pressed.is_set()):
        wait_until(lambda: len(asked) > 3)
        assert scores(store) == []
        pressed.clear()
        wait_until(lambda: len(scores(store)) == 3)


def test_a_sample_is_whole_traces_and_always_the_same(store: ClickHouseStore) -> None:
    """Half of the traces, each with all its spans; a second scorer on another day samples the same ones."""
    stored_spans(store, [chat(2 * trace + half, "q", "a", trace=trace) for trace in range(1, 301) for half in (0, 1)])
    with running(store, Counting(), sample_per_mille=500) as run:
        wait_until(lambda: notes_of(store).position.span_id != "" and len(scores(store)) > 0)
        wait_until(lambda: run.sample("cutaway_judging_sequences_total") == 2 * expected(store))
    judged = [row[1] for row in scores(store)]
    assert len(judged) == 2 * expected(store)
    assert {number ^ 1 for number in judged} == set(judged)
    assert 100 < len(judged) // 2 < 200


def expected(store: ClickHouseStore) -> int:
    return int(store.query("SELECT uniqExact(TraceId) FROM otel.otel_traces WHERE xxHash64(TraceId) % 1000 < 500").rows[0][0])


def test_a_span_with_too_much_text_is_passed_over(store: ClickHouseStore) -> None:
    """A megabyte of text is not read; its neighbours are judged, and it is counted."""
    stored_spans(store, [chat(1, "q", "a"), chat(2, "q", "long " * 300_000), chat(3, "q", "b")])
    with running(store, Counting()) as run:
        wait_until(lambda: len(scores(store)) == 2)
    assert [row[1] for row in scores(store)] == [1, 3]
    assert run.sample("cutaway_judging_unread_spans_total") == 1


@pytest.mark.parametrize(("silent_s", "judges"), [(0, False), (120, True)])
def test_one_collector_judges_for_all(store: ClickHouseStore, silent_s: int, judges: bool) -> None:
    """While another machine's collector notes that it is at it this one waits; when it has been silent it takes over."""
    held = notes_of(store)
    store.command(
        "INSERT INTO otel.cutaway_judging (Name, Position, Behind, Owner, UpdatedAt, Version) SELECT 'texts', Position, '{}', "
        f"'elsewhere/1/x', now64(3) - {silent_s}, {held.version + 1} FROM otel.cutaway_judging FINAL")
    stored_spans(store, spans(2))
    turns: list[int] = []
    with running(store, Counting(), give_way=lambda: turns.append(1) is not None):
        wait_until(lambda: len(turns) > 3 if not judges else len(scores(store)) == 2)
    assert len(scores(store)) == (2 if judges else 0)


def test_a_note_comes_back_as_written(store: ClickHouseStore) -> None:
    """Places with any bytes in their names, and who owns it."""
    place = Place(5, START_NS, "74", "ff00", "27", "5C")
    note = notes.Note(3, place, {"it's": place}, version=1000)
    notes.write(store, note)
    assert notes_of(store) == notes.Note(3, place, {"it's": place}, version=1001, busy=False)


def test_the_budget_holds_over_any_mix_of_work() -> None:
    """With a fake clock: work and the rest it asks for together take 1 / share of the work's time; pauses are not saved up."""
    now = [100.0]
    budget = Budget(0.25, clock=lambda: now[0])
    for work_s in (0.5, 0.01, 2.0, 0.0, 1.0):
        began = now[0]
        assert budget.rest_s() == 0
        now[0] += work_s
        budget.spend(work_s)
        now[0] += budget.rest_s()
        assert now[0] - began == pytest.approx(work_s / 0.25)
    now[0] += 1000  # idle time is no credit
    now[0] += 1.0
    budget.spend(1.0)
    assert budget.rest_s() == pytest.approx(3.0)


def test_a_whole_core_needs_no_rest() -> None:
    """At 100 % only work that ran beside the clock asks for rest."""
    now = [0.0]
    budget = Budget(1.0, clock=lambda: now[0])
    now[0] += 2.0
    budget.spend(2.0)
    assert budget.rest_s() == 0


def test_the_thread_rests(store: ClickHouseStore) -> None:
    """Processor time of judging, as /metrics tells it, stays within its share of the time that passed."""

    class Busy(Counting):
        def score(self, texts: Texts) -> Mapping[str, Judged]:
            until_s = time.thread_time() + 0.05
            while time.thread_time() < until_s:
                pass
            return super().score(texts)

    stored_spans(store, spans(6))
    began_s = time.monotonic()
    with running(store, Busy(), batch_rows_max=1, core_percent=50) as run:
        wait_until(lambda: len(scores(store)) == 6)
    spent_s = run.sample("cutaway_judging_cpu_seconds_total")
    assert 0.3 <= spent_s <= 0.5 * (time.monotonic() - began_s) + 0.15
