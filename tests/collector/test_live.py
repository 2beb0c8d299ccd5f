"""The live tail: what is stored is told once, nothing is lost between looks, streams are bounded, and pages always answer."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import numpy as np
import pytest

from cutaway_collector import ui_server
from cutaway_collector.blocks import Block, Strings
from cutaway_collector.contracts import Caller
from cutaway_collector.errors import Overloaded, StoreError
from cutaway_collector.search import live
from cutaway_collector.search.live import Position, Tail
from cutaway_collector.search.tenants import TenantStore
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, open_store
from cutaway_collector.web import create_app
from cutaway_collector.web.live_routes import Streams
from cutaway_collector.web.pages.live import events
from search_helpers import Span, spans_block

NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseStore]:
    """One store; each test follows the service of its own writer."""
    opened = open_store(Settings(data=str(tmp_path_factory.mktemp("live") / "data")))
    yield opened
    opened.close()


class Writer:
    """Stores spans of a service of its own, numbered upwards, each call one insert. q: the query that finds them."""

    def __init__(self, store: ClickHouseStore) -> None:
        self.store = store
        number = next(NUMBERS)
        self.service = f"service-{number}"
        self.q = f"service:{self.service}"
        self.next = number * 10_000

    def __call__(self, count: int = 1, *, stored_ms: int | None = None, **more: object) -> list[str]:
        spans = [replace(Span(self.next + index, service=self.service), **more) for index in range(count)]  # type: ignore[arg-type]
        block = spans_block(spans)
        if stored_ms is not None:
            block = Block(block.table, block.rows, {**block.columns, "StoredAt": np.full(count, stored_ms, np.int64)})
        self.store.insert(block, f"insert-{next(NUMBERS)}")
        self.next += count
        return [span.span_id for span in spans]


def _ids(arrived: live.Arrived) -> list[str]:
    return sorted(row["span_id"] for row in arrived.rows)


def test_each_span_is_told_once_and_in_the_order_of_storing(store: ClickHouseStore) -> None:
    """Look after look gives what was stored since, newest first, and never again."""
    write = Writer(store)
    tail = Tail(store, write.q)
    first = write(3)
    assert first == _ids(tail.poll(50))
    assert [] == tail.poll(50).rows
    older = write(start_ns=Span(1).start_ns - 10**12)
    newer = write()
    assert [*newer, *older] == [row["span_id"] for row in tail.poll(50).rows]


def test_an_insert_that_became_visible_late_is_not_lost(store: ClickHouseStore) -> None:
    """An insert that took seconds has a StoredAt before others that were told long ago, and is told all the same."""
    write = Writer(store)
    tail = Tail(store, write.q)
    write()
    tail.poll(50)
    late = write(2, stored_ms=time.time_ns() // 10**6 - live.OVERLAP_MS + 3000)

    assert late == _ids(tail.poll(50))
    assert [] == tail.poll(50).rows


def test_two_inserts_of_one_millisecond_are_both_told(store: ClickHouseStore) -> None:
    """Inserts of two collectors may share a StoredAt: the second one's rows are told, the first one's not again."""
    write, now_ms = Writer(store), time.time_ns() // 10**6
    tail = Tail(store, write.q)
    first = write(2, stored_ms=now_ms)
    assert first == _ids(tail.poll(50))
    second = write(2, stored_ms=now_ms)

    arrived = tail.poll(50)
    assert second == _ids(arrived)
    assert 0 == arrived.skipped


def test_what_the_limit_leaves_out_is_counted(store: ClickHouseStore) -> None:
    """Told and skipped add up to what was stored."""
    write = Writer(store)
    tail = Tail(store, write.q)
    write(30)
    write(32)
    arrived = tail.poll(50)

    assert (50, 12) == (len(arrived.rows), arrived.skipped)
    assert live.Arrived([], 0) == tail.poll(50)


def test_only_what_matches_is_told(store: ClickHouseStore) -> None:
    """The query is the search's; a sender's repetition of a span is told once."""
    write = Writer(store)
    tail = Tail(store, f"{write.q} status:error")
    write(4)
    failed = write(2, status="Error")
    write.next -= 2
    write(status="Error")
    arrived = tail.poll(50)

    assert failed == _ids(arrived)
    assert 0 == arrived.skipped


def test_a_position_goes_on_where_it_was(store: ClickHouseStore) -> None:
    """Written into an event id and read back, it tells what came meanwhile and nothing from before."""
    write = Writer(store)
    tail = Tail(store, write.q)
    write(5)
    tail.poll(50)
    text = str(tail.position)
    missed = write(3)

    assert missed == _ids(Tail(store, write.q, Position.read(text)).poll(50))


@pytest.mark.parametrize("text", ["", "x", "-1", "1.2", "1.2-3.", "1" * 16, "1.2-3\n", "١", "1" + ".1-1" * (live.COUNTS_MAX + 1)])
def test_what_is_no_position_is_refused(text: str) -> None:
    """A Last-Event-ID is a stranger's text."""
    assert Position.read(text) is None


@dataclass
class _Clock:
    """Seconds that pass only in pauses."""

    now_s: float = 0.0
    pauses_left: int = 5

    def __call__(self) -> float:
        return self.now_s

    def wait(self, seconds: float) -> bool:
        self.now_s += seconds
        self.pauses_left -= 1
        return self.pauses_left < 0


def _parsed(message: bytes) -> dict[str, object]:
    fields = dict(line.split(": ", 1) for line in message.decode().strip().split("\n"))
    return {**fields, "data": json.loads(fields["data"])} if "data" in fields else fields


def test_no_more_than_fifty_rows_a_second_are_shown(store: ClickHouseStore) -> None:
    """Of a flood, as many lines as the seconds allow; the rest is the number of skipped ones, and both add up."""
    write, clock = Writer(store), _Clock(pauses_left=4)
    stored = 0
    shown = skipped = 0
    for message in events(Tail(store, write.q), wait=clock.wait, gone=lambda: False, clock_s=clock):
        if b"event: rows" in message:
            data = _parsed(message)["data"]
            assert isinstance(data, dict)
            shown, skipped = shown + len(data["lines"]), skipped + data["skipped"]
        if clock.pauses_left > 1:
            write(200)
            stored += 200

    assert stored == shown + skipped
    assert 50 < shown <= 50 * (clock.now_s + 1)


def test_a_silent_stream_shows_that_it_lives(store: ClickHouseStore) -> None:
    """With nothing to tell there is a comment every fifteen seconds."""
    clock, write = _Clock(pauses_left=31), Writer(store)
    told = list(events(Tail(store, write.q), wait=clock.wait, gone=lambda: False, clock_s=clock))

    assert 2 == sum(message.startswith(b":") for message in told)


def test_a_stream_ends_and_may_be_taken_up_again(store: ClickHouseStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its time the browser has to ask again, with a key that is still good."""
    monkeypatch.setattr("cutaway_collector.web.pages.live.STREAM_SECONDS_MAX", 20)
    clock, write = _Clock(pauses_left=10_000), Writer(store)
    messages = list(events(Tail(store, write.q), wait=clock.wait, gone=lambda: False, clock_s=clock))

    assert 19 < clock.now_s < 25
    assert b"stop" not in messages[-1]


def test_a_store_that_is_away_is_told_and_outlived(store: ClickHouseStore) -> None:
    """The stream says what is wrong, and goes on when it is over."""
    clock, write = _Clock(pauses_left=2), Writer(store)

    class Flaky(TenantStore):
        def query(self, sql, parameters=None):  # type: ignore[no-untyped-def]
            if clock.pauses_left == 2:
                raise StoreError("the store is away", retryable=True)
            return super().query(sql, parameters)

    write()
    told = [_parsed(message) for message in events(Tail(Flaky(store, lambda: ""), write.q), wait=clock.wait, gone=lambda: False,
                                                   clock_s=clock)]

    assert ["trouble", "rows", "stop"] == [message["event"] for message in told if "event" in message]
    assert {"message": "the store is away"} == told[1]["data"]


# --- over HTTP, with the server that serves the UI ---------------------------------------------------------------------------


@contextmanager
def _served(store: ClickHouseStore, streams: Streams, places: int) -> Iterator[str]:
    """The pages behind waitress, with the threads that the wiring would give it: two for the pages."""
    settings = Settings(data="unused", ui_threads=2, live_clients_max=places)
    app = create_app(store, settings, streams=streams)
    with ExitStack() as stack:
        host, port = ui_server.serve(app, "127.0.0.1", 0, threads=2 + places, certificate=None, stack=stack)
        stack.callback(streams.close)
        yield f"http://{host}:{port}"


class Stream:
    """One open stream."""

    def __init__(self, url: str, path: str = "/live/events", **headers: str) -> None:
        self.connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
        self.connection.request("GET", path, headers=headers)
        self.answer = self.connection.getresponse()

    def event(self, name: str) -> dict[str, object]:
        """The next event of that name."""
        while True:
            block = b""
            while not block.endswith(b"\n\n"):
                line = self.answer.readline()
                assert line, "the stream has ended"
                block += line
            found = _parsed(block)
            if found.get("event") == name:
                return found

    def close(self) -> None:
        self.connection.close()


def test_a_stream_tells_what_is_stored_and_a_reconnection_what_was_missed(store: ClickHouseStore) -> None:
    """Lines arrive while the connection stays open; Last-Event-ID goes on where it broke."""
    write = Writer(store)
    write(2)
    with _served(store, Streams(2), 2) as url:
        path = f"/live/events?q={write.q}"
        stream = Stream(url, path, Accept="text/event-stream")
        assert 200 == stream.answer.status
        assert "text/event-stream" in str(stream.answer.getheader("Content-Type"))
        assert "no-store" == stream.answer.getheader("Cache-Control")
        (new,) = write()
        told = stream.event("rows")
        stream.close()
        missed = write(3)
        again = Stream(url, path, **{"Last-Event-ID": str(told["id"])})
        came = again.event("rows")
        again.close()

    assert [f"/trace/{1:032x}?span={new}"] == [line["url"] for line in told["data"]["lines"]]  # type: ignore[index]
    assert {f"{1:032x}-{span}" for span in missed} == {line["key"] for line in came["data"]["lines"]}  # type: ignore[index]


def test_pages_answer_while_every_place_is_taken_and_one_more_is_asked_to_wait(store: ClickHouseStore) -> None:
    """A stream has a thread of its own: with all open, searches go on; another stream gets 503 and when to come back."""
    Writer(store)(1)
    with _served(store, Streams(3), 3) as url:
        streams = [Stream(url) for _ in range(3)]
        assert [200] * 3 == [stream.answer.status for stream in streams]
        refused = Stream(url)
        pages = [Stream(url, "/search") for _ in range(4)]

        assert 503 == refused.answer.status
        assert "10" == refused.answer.getheader("Retry-After")
        assert b"live_clients_max allows 3" in refused.answer.read()
        assert [200] * 4 == [page.answer.status for page in pages]
        for stream in (*streams, refused, *pages):
            stream.close()


def test_who_leaves_gives_the_place_back(store: ClickHouseStore) -> None:
    """A closed connection is noticed though nothing is stored, and its place is free again."""
    streams = Streams(1)
    with _served(store, streams, 1) as url:
        Stream(url).close()
        leave = _entered(streams)
        leave()


def _entered(streams: Streams):  # type: ignore[no-untyped-def]
    """Waits for a place."""
    for _ in range(200):
        try:
            return streams.enter()
        except Overloaded:
            threading.Event().wait(0.05)
    pytest.fail("the place was not given back in ten seconds")


def test_streams_end_when_the_collector_stops(store: ClickHouseStore) -> None:
    """Closing ends each stream with a word and gives no new place."""
    streams = Streams(2)
    with _served(store, streams, 2) as url:
        stream = Stream(url)
        streams.close()
        assert "stop" == stream.event("stop")["event"]
        assert b"" == stream.answer.read()
        with pytest.raises(Overloaded, match="stopping"):
            streams.enter()


def test_a_place_is_given_back_once() -> None:
    """A server may close a response twice."""
    streams = Streams(2)
    leave, _ = streams.enter(), streams.enter()
    leave()
    leave()
    streams.enter()
    with pytest.raises(Overloaded):
        streams.enter()


def test_a_query_that_cannot_be_read_is_an_error_and_takes_no_place(store: ClickHouseStore) -> None:
    """A stream that cannot begin says why, with the status of a search."""
    client = create_app(store, Settings(), streams=(streams := Streams(1))).test_client()
    assert 400 == client.get("/live/events?q=(").status_code
    assert 400 == client.get("/live?q=(").status_code
    streams.enter()


def test_the_twin_is_asked_again_with_its_next(store: ClickHouseStore) -> None:
    """Programs follow without a stream."""
    write = Writer(store)
    client = create_app(store, Settings()).test_client()
    write(2)
    first = client.get("/live.json", query_string={"q": write.q}).get_json()
    new = write(1)
    second = client.get("/live.json", query_string={"q": write.q, "after": first["next"]}).get_json()

    assert 2 == len(first["rows"])
    assert new == [row["span_id"] for row in second["rows"]]
    assert 400 == client.get("/live.json?after=nonsense").status_code


def test_a_tenant_follows_its_own_spans_alone(store: ClickHouseStore) -> None:
    """Rows and counts of others are not there, in the stream either."""
    write = Writer(store)
    for tenant in ("acme", "globex"):
        block = spans_block([Span(write.next, name=tenant, service=write.service)])
        store.insert(Block(block.table, 1, {**block.columns, "TenantId": Strings.of([tenant])}), tenant)
        write.next += 1
    caller = Caller("acme", frozenset({"read"}))
    tail = Tail(TenantStore(store, lambda: caller.tenant), write.q)
    arrived = tail.poll(50)

    assert ["acme"] == [row["name"] for row in arrived.rows]
    assert 0 == arrived.skipped
    assert {1} == set(tail.position.counts.values())


def test_the_page_works_without_script(store: ClickHouseStore) -> None:
    """The newest rows stand in the page, a link looks again, and a reload by itself is there for whoever asks for it."""
    write = Writer(store)
    write(2)
    client = create_app(store, Settings()).test_client()
    page = client.get("/live", query_string={"q": write.q}).text

    assert page.count("data-key=") == 3  # two rows and the template's
    assert 'http-equiv="refresh"' not in page
    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in client.get("/live?refresh=5").text
    assert 400 == client.get("/live?refresh=1").status_code
