"""Exports: each file holds what the pages list, says when it does not, and costs no more than it may."""

from __future__ import annotations

import csv
import io
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from flask.testing import FlaskClient

import search_helpers
import web_helpers as world
from cutaway_collector import credentials, ui_server
from cutaway_collector.contracts import Result
from cutaway_collector.credentials import Credentials
from cutaway_collector.errors import StoreError
from cutaway_collector.search import export as verb
from cutaway_collector.search.request import SearchRequest
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore
from cutaway_collector.web import create_app
from cutaway_collector.web.export_formats import CUT_OFF, Csv
from cutaway_collector.web.gate import Gate
from cutaway_collector.web.sessions import Sessions
from search_helpers import Span

FORMATS = ("csv", "jsonl", "parquet")
FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'quoted", 'a,"b"', "two\nlines", "ü 名 😀", "-", ""]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseStore]:
    spans, blocks = world.world()
    more = [Span(5000 + index, f"formula {index}", 5000, service="formulas", message=text, start_ns=search_helpers.START_NS + index)
            for index, text in enumerate(FORMULAS)]
    with world.stored(tmp_path_factory.mktemp("export") / "data", [*spans, *more], blocks) as opened:
        yield opened


def _app(store: Any, **settings: Any) -> FlaskClient:
    return create_app(store, Settings(data="unused", **settings), now_ns=lambda: world.NOW_NS).test_client()


@pytest.fixture
def client(store: ClickHouseStore) -> FlaskClient:
    return _app(store)


def _listed(client: FlaskClient, **parameters: str) -> list[dict[str, Any]]:
    """What the pages of a search list, page by page."""
    rows: list[dict[str, Any]] = []
    after = ""
    while True:
        page = client.get("/search.json", query_string={**parameters, "limit": "97", "after": after}).json
        rows += page["rows"]
        after = page["next"]
        if not after:
            return rows


def _exported(client: FlaskClient, format: str, **parameters: str) -> list[dict[str, Any]]:
    """The rows of a file, read by a reader of its format that is not ours; the types of CSV taken from the twin's."""
    answer = client.get("/export", query_string={"format": format, **parameters}, buffered=True)
    assert 200 == answer.status_code, answer.text[:500]
    if format == "parquet":
        return pyarrow.parquet.read_table(io.BytesIO(answer.data)).to_pylist()
    if format == "jsonl":
        return [json.loads(line) for line in answer.data.splitlines()]
    return list(csv.DictReader(io.StringIO(answer.data.decode(), newline="")))


def _as_csv(row: Mapping[str, Any]) -> dict[str, str]:
    """What a row should read as from a CSV file."""
    def cell(value: Any) -> str:
        if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r", "\n"):
            return "'" + value
        return "" if value is None else str(value)
    return {key: cell(value) for key, value in row.items()}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("parameters", [
    {}, {"q": "is:generation"}, {"q": "service:formulas"}, {"q": "is:generation", "sort": "-perplexity"},
    {"q": "model:gpt2", "sort": "name"}, {"sort": "-score.repetition", "q": "is:generation"},
], ids=str)
def test_a_file_holds_what_the_pages_list(client: FlaskClient, format: str, parameters: dict[str, str]) -> None:
    """The same rows, in the same order, with the same values, in every format."""
    expected = _listed(client, **parameters)

    found = _exported(client, format, **parameters)
    assert ([_as_csv(row) for row in expected] if format == "csv" else expected) == found


@pytest.mark.parametrize("format", FORMATS)
def test_many_pages_are_one_file(client: FlaskClient, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read a few rows at a time, the file is the same as read at once."""
    whole = _exported(client, format, sort="duration")
    monkeypatch.setattr(verb, "PAGE_ROWS", 7)

    assert whole == _exported(client, format, sort="duration")


@pytest.mark.parametrize("format", FORMATS)
def test_these_rows_are_those_of_the_page(client: FlaskClient, format: str) -> None:
    """`rows=these` gives the page one came from, with its limit and its place, and no word of rows behind it."""
    first = client.get("/search.json?limit=10").json
    second = client.get("/search.json", query_string={"limit": "10", "after": first["next"]}).json

    found = _exported(client, format, rows="these", limit="10", after=first["next"])
    assert [row["span_id"] for row in second["rows"]] == [row["span_id"] for row in found]


@pytest.mark.parametrize("format", FORMATS)
def test_chosen_columns_are_columns_of_the_file(client: FlaskClient, format: str) -> None:
    """What the search was asked for besides its own columns stands in columns of these names, lists as lists."""
    names = ("finish", "gen_ai.request.temperature", "attn.min", "score.repetition", "env")
    parameters = {"q": "is:generation", "cols": ",".join(names)}
    expected = [row["columns"] for row in _listed(client, **parameters)]

    found = _exported(client, format, **parameters)
    if format == "csv":
        expected = [_as_csv(row | {"finish": json.dumps(row["finish"], separators=(",", ":"))}) for row in expected]
    assert expected == [{name: row[name] for name in names} for row in found]


@pytest.mark.parametrize("format", FORMATS)
def test_a_limit_in_the_query_is_kept(client: FlaskClient, format: str) -> None:
    """`| limit` ends the file without a word of a cut, and the page counts as many."""
    query = "is:generation | sort -tokens.out | limit 12"
    listed = client.get("/search.json", query_string={"q": query}).json["rows"]

    assert [row["span_id"] for row in listed] == [row["span_id"] for row in _exported(client, format, q=query)]
    assert 12 == client.get("/export.json", query_string={"q": query}).json["rows"]


@pytest.mark.parametrize("format", FORMATS)
def test_all_rows_begin_at_the_first(client: FlaskClient, format: str) -> None:
    """`rows=all` from a later page gives the pages before it too."""
    after = client.get("/search.json?limit=10").json["next"]

    assert len(_listed(client)) == len(_exported(client, format, rows="all", limit="10", after=after))


def test_the_number_is_said_beforehand(client: FlaskClient) -> None:
    """The page and its twin say how many rows the file will have."""
    expected = len(_listed(client, q="is:generation"))

    said = client.get("/export.json?q=is:generation").json
    assert (expected, False) == (said["rows"], said["more"])
    assert f"Export all {expected} matching spans" in world.get(client, "/export?q=is:generation").text


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_is_cut_says_so(store: ClickHouseStore, format: str) -> None:
    """Beyond the limit the file ends with how many rows it holds and why; the page warns of it before."""
    client = _app(store, export_rows_max=20)
    answer = client.get(f"/export?format={format}", buffered=True)

    if format == "parquet":
        file = pyarrow.parquet.ParquetFile(io.BytesIO(answer.data))
        rows, said = file.metadata.num_rows, file.metadata.metadata[CUT_OFF.encode()].decode()
    elif format == "jsonl":
        *lines, last = answer.data.splitlines()
        rows, said = len(lines), json.loads(last)["cut_off"]
    else:
        lines = list(csv.reader(io.StringIO(answer.data.decode(), newline="")))
        rows, (said,) = len(lines) - 2, lines[-1]
    assert 20 == rows
    assert "cut off after 20 rows" in said
    assert "export_rows_max" in said
    assert "Export the first 20 matching spans" in world.get(client, "/export").text


@pytest.mark.parametrize("format", FORMATS)
def test_exactly_as_many_as_allowed_is_not_cut(store: ClickHouseStore, client: FlaskClient, format: str) -> None:
    """A file that holds all of exactly as many rows says nothing of a cut."""
    count = len(_listed(client, q="service:formulas"))
    limited = _app(store, export_rows_max=count)

    assert count == len(_exported(limited, format, q="service:formulas"))
    assert f"Export all {count} matching" in world.get(limited, "/export?q=service:formulas").text


@pytest.mark.parametrize("format", FORMATS)
def test_arrays_are_there_on_request(client: FlaskClient, format: str) -> None:
    """With arrays=1 each row has its sequences' values as the generation's twin gives them; without, none."""
    twin = client.get(f"{world.gen(world.BATCH)}.json").json["sequences"]
    query = f"span:{world.BATCH:016x}"
    (row,) = _exported(client, format, q=query, arrays="1")
    (bare,) = _exported(client, format, q=query)

    lists = {key: json.loads(value) if format == "csv" else value for key, value in row.items() if key in verb.ARRAYS}
    assert [one["index"] for one in twin] == lists["sequence_index"]
    assert [one["token_ids"] for one in twin] == lists["token_ids"]
    assert [one["tokens"] for one in twin] == lists["tokens"]
    for name in ("surprisal", "entropy", "rank", "inter_token_s"):
        np.testing.assert_array_equal(np.concatenate([np.float32(one["signals"][name]) for one in twin]),
                                      np.concatenate([np.float32(one) for one in lists[name]]))
        assert [len(one["signals"][name]) for one in twin] == [len(one) for one in lists[name]]
    assert not set(verb.ARRAYS) & set(bare)


def test_arrays_of_many_rows_are_read_in_parts(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few tokens are held at a time, the file is the same."""
    whole = _exported(client, "jsonl", arrays="1", q="is:generation")
    monkeypatch.setattr(verb, "ARRAY_TOKENS", 100)

    assert whole == _exported(client, "jsonl", arrays="1", q="is:generation")


def test_text_that_a_spreadsheet_would_run_is_disarmed() -> None:
    """No cell of CSV begins with what begins a formula, unless it is a number."""
    columns = {"text": verb.Kind("text"), "number": verb.Kind("number")}
    written = Csv(columns).rows([{"text": text, "number": -1.5} for text in FORMULAS])

    _, *lines = csv.reader(io.StringIO(written.decode(), newline=""))
    assert not [text for text, _ in lines if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))]
    assert {"-1.5"} == {number for _, number in lines}


@pytest.mark.parametrize("format", FORMATS)
def test_nothing_found_is_an_empty_file(client: FlaskClient, format: str) -> None:
    """No rows, yet a file of its format: with names of columns where the format has them."""
    assert [] == _exported(client, format, q="service:nobody")


@pytest.mark.parametrize("parameters", ["format=xml", "format=csv&rows=some", "format=csv&arrays=2", "format=csv&q=(", "q=("])
def test_what_cannot_be_exported_is_a_page_that_says_why(client: FlaskClient, parameters: str) -> None:
    """The refusal comes before the first byte of a file; a program is told in JSON, where it asked for a file."""
    answer = client.get(f"/export?{parameters}", headers={"Accept": "text/html,*/*"})
    told = client.get(f"/export?{parameters}")

    assert (400, "text/html") == (answer.status_code, answer.mimetype)
    assert (400, "application/json" if "format" in parameters else "text/html") == (told.status_code, told.mimetype)


def test_a_tenant_exports_its_own_rows_alone(store: ClickHouseStore, tmp_path: Path) -> None:
    """Also while the file streams, every query keeps to the visitor's tenant."""
    key = credentials.add(tmp_path / "keys.json", "reader", ["read"], "acme")
    spans = [Span(7000 + index, "theirs", 7000, service="tenants") for index in range(12)]
    block = search_helpers.spans_block(spans)
    tenants = search_helpers.Strings.of(["acme"] * 5 + ["other"] * 7)
    store.insert(replace(block, columns={**block.columns, "TenantId": tenants}), "tenants")
    gate = Gate(Credentials(tmp_path / "keys.json"), Sessions(b"s" * 32, secure=False))
    client = create_app(store, Settings(data="unused"), now_ns=lambda: world.NOW_NS, gate=gate).test_client()

    for arrays in "01":
        answer = client.get("/export", query_string={"format": "jsonl", "q": "service:tenants", "arrays": arrays},
                            headers={"Authorization": f"Bearer {key}"}, buffered=True)
        assert 5 == len(answer.data.splitlines())


class _Counting:
    """A store that counts what it is asked, and refuses after so many queries."""

    def __init__(self, store: ClickHouseStore, least: int = 10**9) -> None:
        self.database = store.database
        self.asked = 0
        self._store, self._least = store, least

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None, *, seconds_max: float | None = None) -> Result:
        self.asked += 1
        if self.asked > self._least:
            raise StoreError("the store went away", retryable=True)
        return self._store.query(sql, parameters, seconds_max=seconds_max)

    def prepare(self) -> None:
        self._store.prepare()


def _rows_until_it_broke(store: ClickHouseStore, format: str) -> bytes:
    counting = _Counting(store)
    list(verb.pages(counting, SearchRequest(), 14))  # type: ignore[arg-type]  # all that is asked of it is to answer queries
    client = _app(_Counting(store, counting.asked))
    return bytes(client.get(f"/export?format={format}", buffered=True).data)


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_a_store_that_goes_away_is_said_at_the_end(store: ClickHouseStore, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read is in the file, and its last line says what went wrong."""
    monkeypatch.setattr(verb, "PAGE_ROWS", 7)

    *_, last = _rows_until_it_broke(store, format).splitlines()
    assert b"cut off after 14 rows: the store went away" in last


def test_a_parquet_file_without_its_end_is_not_one(store: ClickHouseStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It breaks off instead of pretending to be whole: no reader takes it."""
    monkeypatch.setattr(verb, "PAGE_ROWS", 7)

    with pytest.raises(StoreError, match="went away"):
        _rows_until_it_broke(store, "parquet")


def test_no_more_are_under_way_than_allowed(store: ClickHouseStore) -> None:
    """One more than the setting allows is asked to come back; when one has ended, or its client has gone, there is room."""
    client = _app(store, exports_max=1)
    running = client.get("/export?format=csv")
    refused = client.get("/export?format=csv")
    running.close()
    broken = client.get("/export?format=csv&q=(")
    after = client.get("/export?format=csv", buffered=True)

    assert (429, 400, 200) == (refused.status_code, broken.status_code, after.status_code)
    assert 0 < int(refused.headers["Retry-After"])


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
def test_an_export_nobody_reads_ends_without_a_word(store: ClickHouseStore, monkeypatch: pytest.MonkeyPatch, format: str) -> None:
    """The rows that came are what there is: no failure, and none of the rows that nobody would see."""
    monkeypatch.setattr(verb, "PAGE_ROWS", 1)
    app = _app(store)
    whole = app.get(f"/export?format={format}", buffered=True).data
    looks = iter(range(1000))
    part = app.get(f"/export?format={format}", buffered=True,
                   environ_overrides={"waitress.client_disconnected": lambda: next(looks) >= 6})
    app.get("/help")  # the next request of this thread, whose asker is another
    assert part.status_code == 200
    assert 0 < len(part.data) < len(whole)
    assert b"cut off" not in part.data


@pytest.mark.slow
def test_a_client_that_goes_away_stops_the_reading(store: ClickHouseStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a real connection: once it is closed, the export ends long before its last page, and its place is free."""
    monkeypatch.setattr(verb, "PAGE_ROWS", 1)
    full = _Counting(store)
    _app(full).get("/export?format=jsonl&arrays=1", buffered=True)
    counting = _Counting(store)
    app = create_app(counting, Settings(data="unused", exports_max=1), now_ns=lambda: world.NOW_NS)  # type: ignore[arg-type]  # as above
    with ExitStack() as stack:
        host, port = ui_server.serve(app, "127.0.0.1", 0, threads=2, certificate=None, stack=stack)
        with socket.create_connection((host, port), timeout=30) as connection:
            connection.sendall(b"GET /export?format=jsonl&arrays=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        again = b"GET /export?format=jsonl&q=service:nobody HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        # The place is free again only when the file has ended: asking for it waits for that, and for nothing else.
        while True:
            with socket.create_connection((host, port), timeout=30) as connection:
                connection.sendall(again)
                if connection.recv(4096).startswith(b"HTTP/1.1 200"):
                    break

    assert counting.asked < full.asked
