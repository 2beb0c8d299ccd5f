"""The thread that compares windows: every window once, across restarts and failures, and what /metrics says of the newest."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest

import drift_helpers as made
from cutaway_collector.baselines import Baseline, Watch, pin, remove, stored
from cutaway_collector.baselines.attributes import Scope
from cutaway_collector.baselines.compare import compare
from cutaway_collector.blocks import Block
from cutaway_collector.contracts import Result
from cutaway_collector.errors import StoreError
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, open_store
from drift_helpers import HOUR_NS, MODEL, START_NS

DAYS = (START_NS, START_NS + 24 * HOUR_NS)
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseStore]:
    """An empty engine that keeps what is old."""
    opened = open_store(Settings(data=str(tmp_path_factory.mktemp("watch")), retention_days=0, scores_retention_days=0))
    yield opened
    opened.close()


class Failing:
    """A store whose next inserts fail."""

    def __init__(self, store: ClickHouseStore) -> None:
        self._store = store
        self.database = store.database
        self.failures = 0

    def insert(self, block: Block, deduplication_token: str) -> None:
        if self.failures:
            self.failures -= 1
            raise StoreError("the store is away", retryable=True)
        self._store.insert(block, deduplication_token)

    def query(self, sql: str, parameters: dict[str, object] | None = None) -> Result:
        return self._store.query(sql, parameters)


def watch(store: object, now_ns: int) -> tuple[Watch, CollectorRegistry]:
    """A watch whose thread does not run: tests take its turns."""
    registry = CollectorRegistry()
    taken = Watch(store, interval_minutes=0, registry=registry, now_ns=lambda: now_ns)  # type: ignore[arg-type]  # as far as it is used
    taken._length_ns = HOUR_NS
    return taken, registry


@pytest.fixture
def watched(store: ClickHouseStore) -> Iterator[tuple[Baseline, int]]:
    """A baseline pinned at the beginning of three hours of generations, of which the last is cold; and the end of the third."""
    number = next(NUMBERS)
    service, first, rng = f"watched-{number}", number * 100_000, np.random.default_rng(13)
    store.insert(made.block(made.healthy(rng, 2000), made.moments(rng, 2000, *DAYS), first=first, service=service), service)
    one = pin(store, Scope("", service, MODEL, *DAYS))
    start = -(-one.pinned_ns // HOUR_NS) * HOUR_NS
    for hour in range(3):
        numbers = made.healthy(rng, 200)
        store.insert(made.block(made.cold(numbers) if hour == 2 else numbers,
                                made.moments(rng, 200, start + hour * HOUR_NS, start + (hour + 1) * HOUR_NS),
                                first=first + 3000 + 200 * hour, service=service), f"{service} {hour}")
    yield one, start + 3 * HOUR_NS
    remove(store, one.id)


def rows_of(store: ClickHouseStore, one: Baseline) -> int:
    """Stored rows, repeated ones counted."""
    return int(store.query("SELECT count() FROM otel.gen_ai_drift WHERE BaselineId = {id:String}", {"id": one.id}).rows[0][0])


def test_every_window_is_compared_once(store: ClickHouseStore, watched: tuple[Baseline, int]) -> None:
    """A second turn, and a new process, find nothing to do; a repeated write is the same insert."""
    one, end = watched
    now = end + 2 * 60 * 10**9
    assert watch(store, now)[0].turn() == 3
    count = rows_of(store, one)
    again, _ = watch(store, now)
    assert (again.turn(), again.turn()) == (0, 0)
    stored.write(store, stored.read(store, one, windows=1))
    assert rows_of(store, one) == count
    assert sorted({row.end_ns for row in stored.read(store, one, windows=9)}) == [end - 2 * HOUR_NS, end - HOUR_NS, end]


def test_a_window_waits_for_its_end_and_its_grace(store: ClickHouseStore, watched: tuple[Baseline, int]) -> None:
    """A second before the grace is over, the last window is not compared."""
    assert watch(store, watched[1] + 59 * 10**9)[0].turn() == 2


def test_a_window_whose_store_was_away_is_compared_later(store: ClickHouseStore, watched: tuple[Baseline, int]) -> None:
    """What could not be stored is done again at the next turn, and the windows after it."""
    one, end = watched
    failing = Failing(store)
    taken, _ = watch(failing, end + 2 * 60 * 10**9)
    failing.failures = 1
    with pytest.raises(StoreError):
        taken.turn()
    assert (taken.turn(), taken.turn()) == (3, 0)
    assert len({row.end_ns for row in stored.read(store, one, windows=9)}) == 3


def test_what_is_stored_is_what_was_found(store: ClickHouseStore, watched: tuple[Baseline, int]) -> None:
    """Rows read back equal the rows compared."""
    one, end = watched
    found = compare(store, one, end - HOUR_NS, end)
    stored.write(store, found)
    assert stored.read(store, one, windows=1) == found


def test_metrics_tell_the_newest_window(store: ClickHouseStore, watched: tuple[Baseline, int]) -> None:
    """A gauge an attribute, also after a restart; the labels are the baseline's, and gone with it."""
    one, end = watched
    watch(store, end + 2 * 60 * 10**9)[0].turn()
    restarted, registry = watch(store, end + 2 * 60 * 10**9)
    restarted.turn()
    text = generate_latest(registry).decode()
    labels = f'model="{MODEL}",service="{one.service}",service_version="",tenant=""'
    assert f'cutaway_drift_shifted{{attribute="entropy",{labels}}} 1.0' in text
    assert f'cutaway_drift_shifted{{attribute="attn",{labels}}} 0.0' in text
    restarted._show([])
    assert one.service not in generate_latest(registry).decode()


def test_the_thread_ends_when_told(store: ClickHouseStore) -> None:
    """Off means no thread; on means one, which close ends."""
    before = threading.active_count()
    for minutes, threads in ((0, 0), (60, 1)):
        running = Watch(store, interval_minutes=minutes, registry=CollectorRegistry())
        assert threading.active_count() - before == threads
        running.close()
        assert threading.active_count() == before
