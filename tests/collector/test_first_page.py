"""What the first page of a collector would wait for is there before the collector is ready."""

from __future__ import annotations

import threading

import pytest
from jinja2 import Environment

from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore
from cutaway_collector.web import create_app, warm_up


def test_templates_are_compiled_once_and_before(store: ClickHouseStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the warm-up, pages are rendered and no template is compiled."""
    app = create_app(store, Settings(data="unused"))
    warm_up(app)
    compiled: list[object] = []
    monkeypatch.setattr(Environment, "compile", lambda self, *arguments, **named: compiled.append(arguments))
    client = app.test_client()
    answers = [client.get(path).status_code for path in ("/", "/search", "/help", "/system", "/search?q=(")]
    assert answers == [200, 200, 200, 200, 400]
    assert compiled == []


def test_the_first_queries_find_connections(store: ClickHouseStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at once, without opening one; a third opens its own."""
    opened: list[int] = []
    connect = store._connect
    store.open_readers(2)

    def counted() -> object:
        opened.append(1)
        return connect()

    monkeypatch.setattr(store, "_connect", counted)

    def ask(count: int) -> int:
        meet = threading.Barrier(count)
        before = len(opened)

        def one() -> None:
            with store._reader() as client:
                meet.wait(10)
                assert client.query("SELECT 1").result_rows == [(1,)]

        threads = [threading.Thread(target=one) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(opened) - before

    idle = len(store._idle)
    assert idle >= 2
    assert ask(2) == 0
    assert ask(idle + 1) == 1
