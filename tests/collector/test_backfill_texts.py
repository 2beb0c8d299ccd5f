"""Back-fills of texts over a real engine: what live judging missed is judged later, once, and what it judged is left alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from backfill_helpers import DAY_NS, Constant, backfill
from backfill_helpers import sequences as token_series
from cutaway_collector.backfill import Job, Offer, Request, parts
from cutaway_collector.blocks import Block
from cutaway_collector.contracts import Judged, Result, Texts
from cutaway_collector.errors import MissingExtra, SettingsError, StoreError
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, open_store
from judge_helpers import SCORES, Counting, begun, chat, running, scores, stored_spans, wait_until
from search_helpers import START_NS, Span

RANGE = {"start_ns": START_NS - DAY_NS, "end_ns": START_NS + DAY_NS}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseStore]:
    opened = open_store(Settings(data=str(tmp_path_factory.mktemp("again"))))
    yield opened
    opened.close()


@pytest.fixture
def store(engine: ClickHouseStore) -> ClickHouseStore:
    """Empty."""
    for table in ("otel_traces", "gen_ai_scores", "gen_ai_tokens", "cutaway_judging", "cutaway_backfills"):
        engine.command(f"TRUNCATE TABLE otel.{table}")
    return engine


def spans(count: int, first: int = 1) -> list[Span]:
    return [chat(number, f"question {number}", f"answer {number}") for number in range(first, first + count)]


def seen(scorer: Counting) -> list[str]:
    """Answers that a scorer judged, each as often as it did."""
    return sorted(answer for call in scorer.seen for answer in call)


def physical(store: ClickHouseStore) -> int:
    """Rows of scores, those that another replaces counted."""
    return int(store.query("SELECT count() FROM otel.gen_ai_scores").rows[0][0])


def test_history_is_judged_as_live_judging_would_have(store: ClickHouseStore) -> None:
    """The same rows but for their Version: sequences, tenants, words, times and models."""
    said = [chat(1, "q", "one", "three"), chat(2, "q", "fourteen"), chat(3, "", "", operation="execute_tool")]
    begun(store)
    stored_spans(store, said)
    stored_spans(store, spans(3, 11), "team-a")
    whole = SCORES.replace("SELECT ", "SELECT Timestamp, ServiceName, GenAiModel, TraceId, IngestedAt, ")
    with running(store, Counting()):
        wait_until(lambda: len(scores(store)) == 6)
    live = store.query(whole).rows
    store.command("TRUNCATE TABLE otel.gen_ai_scores")
    job = backfill(store, [], texts=[Counting()], **RANGE)
    assert (job.state, job.rows, job.rows_total, job.scores) == ("done", 5, 5, 6)
    assert store.query(whole).rows == live


def test_what_a_failing_scorer_missed_is_all_that_is_judged(store: ClickHouseStore) -> None:
    """With --missing: a scorer that failed live has its spans judged, one that worked sees none of them again."""
    begun(store)
    stored_spans(store, spans(20))
    with running(store, Counting("works"), Counting("broken", raises=RuntimeError("planted")), retry_s=1000.0):
        wait_until(lambda: len(scores(store, "works")) == 20)
    works, broken = Counting("works"), Counting("broken")
    job = backfill(store, [], texts=[works, broken], missing=True, **RANGE)
    assert (job.state, job.scores) == ("done", 20)
    assert seen(works) == []
    assert seen(broken) == sorted(f"answer {number}" for number in range(1, 21))
    assert len(scores(store)) == physical(store) == 40


def test_what_the_sample_left_out_is_judged(store: ClickHouseStore) -> None:
    """A third of the traces was judged live: the others follow, each span once in all."""
    begun(store)
    stored_spans(store, [chat(number, "q", f"answer {number}", trace=number) for number in range(1, 61)])
    live = Counting()
    expected = int(store.query("SELECT countIf(xxHash64(TraceId) % 1000 < 333) FROM otel.otel_traces").rows[0][0])
    with running(store, live, sample_per_mille=333):
        wait_until(lambda: len(scores(store)) == expected)
    assert 0 < expected < 60
    late = Counting()
    assert backfill(store, [], texts=[late], missing=True, **RANGE).state == "done"
    assert sorted([*seen(live), *seen(late)]) == sorted(f"answer {number}" for number in range(1, 61))
    assert len(scores(store)) == physical(store) == 60


def test_an_extra_that_comes_later_fills_what_was_missed(store: ClickHouseStore) -> None:
    """While it is missing the job says so and the other scorers go on; installed, the same command with --missing does the rest."""
    stored_spans(store, spans(10))
    without = backfill(store, [], texts=[Counting("other"), Counting("extra", raises=MissingExtra("pip install it"))], **RANGE)
    assert (without.state, without.scores, set(without.failures)) == ("done", 10, {"extra"})
    other, extra = Counting("other"), Counting("extra")
    assert backfill(store, [], texts=[other, extra], missing=True, **RANGE).failures == {}
    assert (len(seen(other)), len(seen(extra))) == (0, 10)
    assert len(scores(store)) == 20


def test_a_bad_text_costs_its_own_scores_alone(store: ClickHouseStore) -> None:
    """One of thirty cannot be judged: the others are, and the job reports the failure."""
    stored_spans(store, spans(30))
    job = backfill(store, [], texts=[Counting(refuses="answer 7")], rows_max=10, **RANGE)
    assert (job.state, job.scores, job.failures) == ("done", 29, {"length": 1})
    assert not [row for row in scores(store) if row[1] == 7]


def test_another_version_is_another_score(store: ClickHouseStore) -> None:
    """--missing asks for the scorer's present version: after an upgrade every span lacks it."""
    stored_spans(store, spans(4))
    backfill(store, [], texts=[Counting()], **RANGE)
    newer = Counting()
    newer.version = "2"
    assert backfill(store, [], texts=[newer], missing=True, **RANGE).scores == 4


@pytest.mark.parametrize("stop_after", [1, 2, 4])
def test_cut_short_and_gone_on_with_no_span_is_twice_or_none(store: ClickHouseStore, stop_after: int) -> None:
    """Stopped among the token series or among the texts, the same request goes on in that part and from that row."""
    store.insert(token_series(120, start_ns=START_NS), "tokens")
    stored_spans(store, spans(120))
    kernel, text = Constant(), Counting()
    first = backfill(store, [kernel], texts=[text], stop_after=stop_after, **RANGE)
    assert first.state == "stopped"
    assert first.part == ("sequences" if stop_after < 3 else "texts")
    again = backfill(store, [kernel], texts=[text], **RANGE)
    assert (again.id, again.state, again.rows) == (first.id, "done", 240)
    assert kernel.judged == 120
    assert seen(text) == sorted(f"answer {number}" for number in range(1, 121))
    assert physical(store) == 240


@pytest.mark.slow
def test_live_judging_and_a_back_fill_at_once_leave_one_score_a_span(store: ClickHouseStore) -> None:
    """Spans come while both run over the same time: none without its score, none with two."""
    begun(store)
    stored_spans(store, spans(100))
    fresh = iter(range(1000, 1100, 10))

    def come() -> bool:
        number = next(fresh, None)
        if number is not None:
            stored_spans(store, spans(10, number))
        return False

    with running(store, Counting()):
        assert backfill(store, [], texts=[Counting()], rows_max=5, give_way=come, **RANGE).state == "done"
        for _ in range(10):
            come()
        wait_until(lambda: len(scores(store)) == 200)
    keys = [row[:4] for row in scores(store)]
    assert len(set(keys)) == len(keys) == 200


def test_a_range_is_its_times_service_and_model(store: ClickHouseStore) -> None:
    """Spans of other times, of another service or model are not judged."""
    stored_spans(store, spans(6))
    starts = sorted(row[0] for row in store.query("SELECT toUnixTimestamp64Nano(Timestamp) FROM otel.otel_traces").rows)
    assert backfill(store, [], texts=[Counting()], start_ns=starts[1], end_ns=starts[4]).scores == sum(
        starts[1] <= each < starts[4] for each in starts)
    assert backfill(store, [], texts=[Counting()], service="nobody", **RANGE).rows == 0
    assert backfill(store, [], texts=[Counting()], model="nobody", **RANGE).rows == 0
    assert backfill(store, [], texts=[Counting()], service="tests", model="m", **RANGE).rows == 6


def test_one_scorer_may_be_named(store: ClickHouseStore) -> None:
    """Of either kind; a name that there is not is refused with those there are."""
    store.insert(token_series(10, start_ns=START_NS), "tokens")
    stored_spans(store, spans(5))
    kernel, text = Constant(), Counting()
    assert backfill(store, [kernel], texts=[text], scorers=["length"], **RANGE).scores == 5
    assert kernel.judged == 0
    with pytest.raises(SettingsError, match="there are constant, length"):
        backfill(store, [kernel], texts=[text], scorers=["lenght"], **RANGE)


def test_tenants_texts_do_not_meet(store: ClickHouseStore) -> None:
    """Each call of a scorer sees one tenant's texts, and what is there already of one tenant hides nothing of another's."""
    stored_spans(store, spans(5), "team-a", "a")
    assert backfill(store, [], texts=[Counting()], **RANGE).scores == 5
    stored_spans(store, spans(5), "team-b", "b")
    scorer = Counting()
    assert backfill(store, [], texts=[scorer], missing=True, **RANGE).scores == 5
    assert [len(call) for call in scorer.seen if call] == [5]
    assert {row[0] for row in scores(store)} == {"team-a", "team-b"}


def test_a_store_that_is_away_for_a_while_costs_nothing(store: ClickHouseStore) -> None:
    """Reads and inserts that fail are tried again; every span has its score once."""
    stored_spans(store, spans(40))

    class Flaky:
        database = store.database

        def __init__(self) -> None:
            self.calls = 0

        def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Result:
            self._fail()
            return store.query(sql, parameters)

        def insert(self, block: Block, token: str) -> None:
            self._fail()
            store.insert(block, token)

        def _fail(self) -> None:
            self.calls += 1
            if self.calls > 5 and self.calls % 4 == 0:
                raise StoreError("the store is away", retryable=True)

    assert backfill(Flaky(), [], texts=[Counting()], rows_max=10, **RANGE).state == "done"  # type: ignore[arg-type]  # as far as used
    assert len(scores(store)) == physical(store) == 40


def test_a_scorer_that_takes_no_empty_batch_judges_all(store: ClickHouseStore) -> None:
    """It cannot say what its scores are called, so --missing takes every span as lacking; the scores stay one a span."""

    class Strict(Counting):
        def score(self, texts: Texts) -> Mapping[str, Judged]:
            if not len(texts):
                raise ValueError("nothing to judge")
            return {"strict": Judged(np.ones(len(texts)))}

    stored_spans(store, spans(6))
    for _ in range(2):
        assert backfill(store, [], texts=[Strict("strict")], missing=True, **RANGE).scores == 6
    assert len(scores(store)) == 6


def test_parts_without_a_chosen_scorer_are_left_out() -> None:
    """A job of kernels alone does not read a single text."""
    kernel, text = Constant(), Counting()
    made: list[str] = []
    request = Request(start_ns=0, end_ns=1)
    job = Job(id="a", fingerprint="", request=request, started_ms=0)

    def maker(name: str) -> Callable[[Job, Sequence[Any]], Any]:
        return lambda job, chosen: made.append(name)

    parts([Offer([kernel], maker("kernels")), Offer([text], maker("texts"))], job, [kernel])
    assert made == ["kernels"]
