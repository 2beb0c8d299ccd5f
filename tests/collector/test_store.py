"""The store against the real engine, embedded and over HTTP: the same promises on both roads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cutaway_collector.blocks import Block, Strings
from cutaway_collector.errors import SettingsError, StoreError
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, check, open_store
from store_helpers import NOW_NS, Server, server, spans_block, tokens_block

DAY_NS = 86_400_000_000_000
_NEXT = iter(range(1, 1_000_000_000, 1_000_000))


@pytest.fixture(scope="module", params=["embedded", "server"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseStore]:
    """A store with the schema created, on each road in turn."""
    folder = tmp_path_factory.mktemp("store")
    if request.param == "embedded":
        opened = open_store(Settings(data=str(folder / "data")))
        yield opened
        opened.close()
        return
    with server(folder) as running:
        opened = open_store(Settings(clickhouse=running.url))
        yield opened
        opened.close()


@pytest.fixture
def first() -> int:
    """A span number no other test of this module uses."""
    return next(_NEXT)


def count(store: ClickHouseStore, table: str, first: int, width: int = 1_000_000) -> int:
    answer = store.query(
        f"SELECT count() FROM otel.{table} WHERE SpanId >= {{low:String}} AND SpanId < {{high:String}}",
        {"low": f"{first:016x}", "high": f"{first + width:016x}"})
    return int(answer.rows[0][0])


def test_inserted_rows_come_back(store: ClickHouseStore, first: int) -> None:
    """What a block holds is what a query finds, down to nanoseconds, maps and NULLs."""
    start_ns = NOW_NS // 1_000_000_000 * 1_000_000_000 + 123_456_789
    block = spans_block(3, first=first, start_ns=start_ns, step_ns=1)
    store.insert(block, f"rows-{first}")
    rows = store.query("SELECT toUnixTimestamp64Nano(Timestamp), SpanName, SpanAttributes['i'], Perplexity, Duration, StatusCode "
                       "FROM otel.otel_traces WHERE TraceId = {trace:String}", {"trace": f"{first + 1:016x}" * 2}).rows
    assert [tuple(row) for row in rows] == [(start_ns + 1, "generate", f"{first + 1:016x}", None, 5, "Ok")]


def test_token_series_come_back(store: ClickHouseStore, first: int) -> None:
    """Arrays keep their values and their borders."""
    store.insert(tokens_block(2, first=first, length=3), f"tokens-{first}")
    rows = store.query("SELECT TokenIds, Surprisals, Entropies FROM otel.gen_ai_tokens WHERE SpanId = {span:String}",
                       {"span": f"{first + 1:016x}"}).rows
    assert list(rows[0][0]) == [3, 4, 5]
    assert np.allclose(rows[0][1], np.linspace(0, 3, 6, dtype=np.float32)[3:])
    assert list(rows[0][2]) == []


def test_same_token_twice_stores_once(store: ClickHouseStore, first: int) -> None:
    """A repeated insert changes neither the table nor its materialised view."""
    block = spans_block(4, first=first)
    for _ in range(3):
        store.insert(block, f"twice-{first}")
    assert count(store, "otel_traces", first) == 4
    views = store.query("SELECT count() FROM otel.otel_traces_trace_id_ts WHERE TraceId = {trace:String}",
                        {"trace": f"{first:016x}" * 2})
    assert views.rows[0][0] == 1


def test_another_token_stores_again(store: ClickHouseStore, first: int) -> None:
    """The token alone decides: equal rows under another token are rows of another request."""
    block = spans_block(2, first=first)
    store.insert(block, f"a-{first}")
    store.insert(block, f"b-{first}")
    assert count(store, "otel_traces", first) == 4


def test_token_covers_every_day_of_an_insert(store: ClickHouseStore, first: int) -> None:
    """An insert over several partitions is repeated without doubling any of them."""
    block = spans_block(5, first=first, start_ns=time.time_ns() - 4 * DAY_NS, step_ns=DAY_NS)
    for _ in range(2):
        store.insert(block, f"days-{first}")
    assert count(store, "otel_traces", first) == 5


def test_too_many_days_are_refused_for_good(store: ClickHouseStore, first: int) -> None:
    """Rows strewn over many days would make as many parts: refused, and trying the same again cannot help."""
    with pytest.raises(StoreError) as caught:
        store.insert(spans_block(110, first=first, start_ns=0, step_ns=DAY_NS), f"strewn-{first}")
    assert not caught.value.retryable
    assert count(store, "otel_traces", first) == 0


def test_an_empty_block_is_no_insert(store: ClickHouseStore) -> None:
    """No rows, no request to the engine, no error."""
    store.insert(spans_block(0), "empty")


def test_columns_left_out_are_filled_by_their_defaults(store: ClickHouseStore, first: int) -> None:
    """A block that names only upstream columns still fills ours from the attributes."""
    store.insert(spans_block(1, first=first), f"defaults-{first}")
    row = store.query("SELECT GenAiModel, InputTokens, IngestedAt > now() - 60 FROM otel.otel_traces WHERE SpanId = {s:String}",
                      {"s": f"{first:016x}"}).rows[0]
    assert tuple(row) == ("m", None, 1)


@given(text=st.text(max_size=40))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_survives_binding(store: ClickHouseStore, text: str) -> None:
    """A bound string reaches the engine as it is: quotes, backslashes, newlines, NUL, other scripts."""
    row = store.query("SELECT {text:String} AS t, hex({text:String})", {"text": text}).rows[0]
    assert row == (text, text.encode().hex().upper())


@given(texts=st.lists(st.text(max_size=12), max_size=5))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_list_of_text_survives_binding(store: ClickHouseStore, texts: list[str]) -> None:
    """The same inside an array."""
    assert list(store.query("SELECT {texts:Array(String)}", {"texts": texts}).rows[0][0]) == texts


@pytest.mark.parametrize("text", ["\\N", "'; DROP TABLE otel.otel_traces; --", "{x:String}", "\ud800", "\r\n\b\f\0\v",
                                  "`\"'\\", "x" * 200_000])
def test_hostile_text_stays_data(store: ClickHouseStore, text: str) -> None:
    """Text that looks like syntax is compared as text; half a surrogate pair, which no UTF-8 has, becomes a question mark."""
    expected = text.encode("utf-8", "replace").decode()
    assert store.query("SELECT {text:String}", {"text": text}).rows[0][0] == expected


@pytest.mark.parametrize(("type", "value"), [("UInt64", 2**64 - 1), ("Int64", -(2**63)), ("Float64", 1.5e-300), ("Bool", True)])
def test_numbers_survive_binding(store: ClickHouseStore, type: str, value: float) -> None:
    """Numbers at the edge of their types arrive exactly."""
    assert store.query(f"SELECT {{value:{type}}}", {"value": value}).rows[0][0] == value


@pytest.mark.parametrize("sql", ["DROP TABLE otel.otel_traces", "INSERT INTO otel.cutaway_migrations (Version) VALUES ('x')",
                                 "CREATE TABLE otel.mine (a UInt8) ENGINE = Memory", "ALTER TABLE otel.otel_traces DELETE WHERE 1"])
def test_a_query_cannot_change_anything(store: ClickHouseStore, sql: str) -> None:
    """The reading side is read-only, whatever it is given."""
    with pytest.raises(StoreError):
        store.query(sql)
    assert store.query("EXISTS otel.otel_traces").rows[0][0] == 1


def test_a_query_says_what_it_read(store: ClickHouseStore) -> None:
    """The rows taken from tables are told, be the answer as short as it may."""
    assert store.query("SELECT sum(number) FROM numbers(1000)").rows_read == 1000


def test_a_query_may_give_what_it_found_in_time(store: ClickHouseStore) -> None:
    """With a limit of its own a query ends there instead of failing, and says that it was cut; a quick one is whole."""
    slow = "SELECT count() FROM numbers(190000000) WHERE sipHash128(number) = sipHash128(7)"
    cut = store.query(slow, seconds_max=0.2)
    assert cut.cut
    whole = store.query("SELECT 1", seconds_max=5)
    assert (False, 1) == (whole.cut, whole.rows[0][0])


def test_a_mistaken_query_is_not_retryable(store: ClickHouseStore) -> None:
    """Asking the same nonsense again cannot help."""
    with pytest.raises(StoreError, match="nonsense") as caught:
        store.query("SELECT nonsense FROM otel.otel_traces")
    assert not caught.value.retryable


def test_readers_do_not_wait_for_a_slow_query(store: ClickHouseStore) -> None:
    """Two queries run at once: the short one is back while the long one still runs."""
    done = threading.Event()
    slow = threading.Thread(target=lambda: (store.query("SELECT sleep(1.5)"), done.set()))
    slow.start()
    assert store.query("SELECT 1").rows[0][0] == 1
    assert not done.is_set()
    slow.join()


def test_many_threads_insert_and_read_at_once(store: ClickHouseStore, first: int) -> None:
    """Every row of every thread is there afterwards, and no reader saw an error."""
    failures: list[BaseException] = []

    def work(part: int) -> None:
        try:
            for turn in range(3):
                store.insert(spans_block(5, first=first + part * 100 + turn * 10), f"threads-{first}-{part}-{turn}")
                count(store, "otel_traces", first)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert count(store, "otel_traces", first) == 60


def test_a_refused_statement_is_called_one(store: ClickHouseStore) -> None:
    """A failing DDL statement is not passed off as an insert, and what the engine says about it is kept."""
    with pytest.raises(StoreError, match=r"schema statement.*nonsense") as caught:
        store.command("ALTER TABLE otel.otel_traces ADD INDEX broken nonsense TYPE minmax")
    assert "insert" not in str(caught.value)
    assert not caught.value.retryable


def test_a_block_of_the_wrong_shape_is_a_programming_error(store: ClickHouseStore) -> None:
    """The store is not asked to make sense of columns that do not belong together."""
    with pytest.raises(ValueError, match="rows"):
        store.insert(Block("otel_traces", 2, {"SpanId": Strings.of(["a"])}), "shape")


def test_exactly_one_place_is_needed() -> None:
    """Neither or both of data and clickhouse is a question back to the user."""
    with pytest.raises(SettingsError, match="exactly one"):
        open_store(Settings())
    with pytest.raises(SettingsError, match="exactly one"):
        open_store(Settings(data="x", clickhouse="http://localhost:8123"))


def test_an_unreachable_server_is_worth_another_try(tmp_path: Path) -> None:
    """Down, then up: errors say retryable meanwhile, and the same store object works again without being reopened."""
    running = Server(tmp_path).start()
    store = open_store(Settings(clickhouse=running.url))
    try:
        running.stop()
        for call in (lambda: store.query("SELECT 1"), lambda: store.insert(spans_block(1), "down")):
            with pytest.raises(StoreError, match="cannot be reached") as caught:
                call()
            assert caught.value.retryable
        running.start()
        store.insert(spans_block(1), "down")
        assert count(store, "otel_traces", 0) == 1
    finally:
        store.close()
        running.stop()


def test_a_server_that_is_not_there_at_the_start_may_come(tmp_path: Path) -> None:
    """A store opens without its server; until the server is there calls fail for the time being, then the tables are made first."""
    running = Server(tmp_path).start()
    running.stop()
    store = open_store(Settings(clickhouse=running.url))
    try:
        for call in (store.prepare, lambda: store.query("SELECT 1"), lambda: store.insert(spans_block(1), "early")):
            with pytest.raises(StoreError, match="cannot be reached") as caught:
                call()
            assert caught.value.retryable
        running.start()
        store.insert(spans_block(1), "early")
        assert count(store, "otel_traces", 0) == 1
        assert check(store, Settings()) == []
    finally:
        store.close()
        running.stop()


def test_a_command_that_needs_the_server_now_is_told(tmp_path: Path) -> None:
    """Where no tables are to be made, an absent server is an error at once: one sentence with the place and the reason."""
    running = Server(tmp_path).start()
    running.stop()
    url = running.url.replace("default:@", "bob:hunter2@")
    with pytest.raises(StoreError) as caught:
        open_store(Settings(clickhouse=url), create=False)
    assert str(caught.value) == f"the store at 127.0.0.1:{running.port} cannot be reached: Connection refused"


@pytest.mark.parametrize("url", ["http://bob:hunter2@db:99999", "http://bob:hunter2@db:port"])
def test_a_port_that_is_none_is_a_setting_to_mend(url: str) -> None:
    """A malformed URL is a question back to the user, who is not shown the password."""
    with pytest.raises(SettingsError, match="port") as caught:
        open_store(Settings(clickhouse=url))
    assert "hunter2" not in str(caught.value)


def test_an_outage_logs_nothing_of_the_driver(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The libraries below do not comment on every attempt: whoever calls says it once."""
    running = Server(tmp_path).start()
    running.stop()
    store = open_store(Settings(clickhouse=running.url))
    with pytest.raises(StoreError):
        store.query("SELECT 1")
    store.close()
    assert caplog.records == []


class Refusing(BaseHTTPRequestHandler):
    """A ClickHouse server that knows nobody."""

    def do_POST(self) -> None:
        text = b"Code: 516. DB::Exception: bob: Authentication failed: password is incorrect. (AUTHENTICATION_FAILED)"
        self.send_response(403)
        self.send_header("X-ClickHouse-Exception-Code", "516")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST

    def log_message(self, format: str, *args: object) -> None:
        """Silence: the test's own output matters."""


def test_a_refused_password_ends_the_start() -> None:
    """Waiting does not make a wrong password right: one line names the place and the remedy, and does not repeat the password."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        try:
            with pytest.raises(StoreError) as caught:
                open_store(Settings(clickhouse=f"http://bob:hunter2@127.0.0.1:{http.server_port}"))
        finally:
            http.shutdown()
            thread.join()
    words = str(caught.value)
    assert words.startswith(f"the store at 127.0.0.1:{http.server_port} refuses the user or the password")
    assert "hunter2" not in words
    assert "\n" not in words
    assert not caught.value.retryable
