"""Queries whose asker has gone are stopped by the engine; those of whoever stays, and requests that change something, are not."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from flask import Flask, Response

from cutaway_collector import ui_server
from cutaway_collector.asker import HAS_GONE
from cutaway_collector.errors import AskerGone, StoreError
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, open_store
from cutaway_collector.store.abandoned import Abandoned
from cutaway_collector.web import create_app
from store_helpers import server

SLOW = "SELECT count() FROM numbers(3000) WHERE sleepEachRow(0.05) = 0 SETTINGS max_block_size = 1"
"""Minutes without work: what ends it is its limit of time, or somebody."""
QUICK = "SELECT sum(number) FROM numbers(20) WHERE sleepEachRow(0.05) = 0 SETTINGS max_block_size = 1"
"""A second, in which whoever asked is looked at several times."""


@pytest.fixture(scope="module", params=["embedded", "server"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseStore]:
    """A store on each road in turn, whose queries may take minutes."""
    folder: Path = tmp_path_factory.mktemp("abandoned")
    with ExitStack() as stack:
        url = stack.enter_context(server(folder)).url if request.param == "server" else ""
        opened = open_store(Settings(clickhouse=url, data="" if url else str(folder / "data"), query_seconds_max=100))
        stack.callback(opened.close)
        yield opened


@contextmanager
def _asked_by(has_gone: Callable[[], bool]) -> Iterator[None]:
    token = HAS_GONE.set(has_gone)
    try:
        yield
    finally:
        HAS_GONE.reset(token)


def test_the_query_of_one_who_leaves_is_stopped(store: ClickHouseStore) -> None:
    """The engine itself ends it, long before its time is up; the store serves others as before."""
    left = threading.Event()
    threading.Timer(0.5, left.set).start()
    with _asked_by(left.is_set), pytest.raises(AskerGone) as stopped:
        store.query(SLOW)
    assert "QUERY_WAS_CANCELLED" in str(stopped.value.__cause__)
    assert store.query(QUICK).rows[0][0] == 190


def test_the_query_of_one_who_stays_is_answered(store: ClickHouseStore) -> None:
    """However often is looked whether they are there, also beside one who leaves."""
    looks: list[int] = []

    def still_here() -> bool:
        looks.append(1)
        return False

    left = threading.Event()

    def leave() -> None:
        with _asked_by(left.is_set), pytest.raises(AskerGone):
            store.query(SLOW)

    with _asked_by(still_here):
        other = threading.Thread(target=leave)
        other.start()
        threading.Timer(0.3, left.set).start()
        assert store.query(QUICK).rows[0][0] == 190
        other.join()
    assert len(looks) > 2


def test_nothing_is_asked_for_one_who_has_left(store: ClickHouseStore) -> None:
    """Before a query begins, it is known already."""
    with _asked_by(lambda: True), pytest.raises(AskerGone):
        store.query("SELECT this is no SQL")


def test_a_user_without_the_right_to_stop_queries_waits_for_them(store: ClickHouseStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be stopped runs to its end, and is answered."""
    def refused(statement: str) -> None:
        raise StoreError("Not enough privileges", retryable=False)

    monkeypatch.setattr(store._abandoned, "_run", refused)
    left = threading.Event()
    threading.Timer(0.2, left.set).start()
    with _asked_by(left.is_set):
        assert store.query(QUICK).rows[0][0] == 190


def test_tables_are_made_to_the_end_for_one_who_leaves(store: ClickHouseStore) -> None:
    """They are everybody's: only the query itself is not asked any more."""
    store._prepared = False
    with _asked_by(lambda: True), pytest.raises(AskerGone):
        store.query("SELECT 1")
    assert store._prepared
    assert store._unprepared == ""


def test_closing_does_not_wait_for_a_server_that_hangs() -> None:
    """Whoever stops queries may be held up for minutes: the store's end is not."""
    begun, over = threading.Event(), threading.Event()

    def hang(statement: str) -> None:
        begun.set()
        over.wait(60)

    watch = Abandoned(hang)
    left = threading.Event()
    with _asked_by(left.is_set), watch.watching():
        left.set()
        assert begun.wait(10)
        watch.close()
        assert not over.is_set()
        over.set()


def test_stopping_is_asked_for_ever_more_seldom() -> None:
    """A query that cannot be stopped is not asked about ten times a second."""
    asked: list[str] = []
    enough, looks = threading.Event(), iter(range(10**6))

    def gone() -> bool:
        look = next(looks)
        if look >= 20:
            enough.set()
        return look > 0

    watch = Abandoned(asked.append)
    with _asked_by(gone), watch.watching():
        assert enough.wait(30)
        assert 3 <= len(asked) <= 6
    watch.close()


def _app(store: ClickHouseStore, ended: dict[str, str], answered: threading.Event) -> Flask:
    """The UI with a page that takes minutes, one that takes a second, and a change that does."""
    app = create_app(store, Settings(data="unused"))

    def work(name: str, sql: str) -> Response:
        try:
            ended[name] = f"answered {store.query(sql).rows[0][0]}"
        except AskerGone as error:
            ended[name] = str(error.__cause__)
        finally:
            answered.set()
        return Response(ended[name])

    app.add_url_rule("/slow", view_func=lambda: work("slow", SLOW), endpoint="slow")
    app.add_url_rule("/quick", view_func=lambda: work("quick", QUICK), endpoint="quick")
    app.add_url_rule("/change", view_func=lambda: work("change", QUICK), endpoint="change", methods=["POST"])
    return app


@pytest.mark.parametrize(("method", "path", "end"), [("GET", "/slow", "QUERY_WAS_CANCELLED"), ("POST", "/change", "answered 190")])
def test_closing_a_page_stops_what_it_asked_and_no_change(store: ClickHouseStore, method: str, path: str, end: str) -> None:
    """Over a real connection: what only looks is stopped when its sender goes, what changes something is done to its end."""
    ended: dict[str, str] = {}
    answered = threading.Event()
    app = _app(store, ended, answered)
    # A form's token has tests of its own.
    app.before_request_funcs[None] = [one for one in app.before_request_funcs[None] if one.__name__ == "asker"]
    with ExitStack() as stack:
        host, port = ui_server.serve(app, "127.0.0.1", 0, threads=1, certificate=None, stack=stack)
        connection = http.client.HTTPConnection(host, port, timeout=60)
        connection.request(method, path)
        assert not answered.wait(0.3)
        connection.close()
        assert answered.wait(60)
        assert end in ended[path[1:]]
        again = http.client.HTTPConnection(host, port, timeout=60)
        again.request("GET", "/quick")
        assert again.getresponse().read() == b"answered 190"
        again.close()
