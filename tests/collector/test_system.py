"""The system page: its figures are the store's and the collector's own, and only whoever runs the collector sees them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from prometheus_client import CollectorRegistry, Counter

from cutaway_collector import credentials
from cutaway_collector.columns import TOKENS
from cutaway_collector.credentials import Credentials
from cutaway_collector.pipeline.letters import letter_block
from cutaway_collector.search import storage
from cutaway_collector.settings import Settings
from cutaway_collector.spool import Letter
from cutaway_collector.store import ClickHouseStore
from cutaway_collector.web import create_app
from cutaway_collector.web.gate import Gate, scope_of
from cutaway_collector.web.sessions import Sessions
from search_helpers import MODEL, Span
from web_helpers import get, stored, tokens_block

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseStore]:
    """Five spans and a dead letter."""
    letter = Letter("run", 41, f"refused: {HOSTILE}", 3, encoding="protobuf", received_ns=10**18, nbytes=77)
    with stored(tmp_path_factory.mktemp("system"), [Span(number) for number in range(1, 6)], [letter_block([letter])]) as opened:
        yield opened


def _client(store: ClickHouseStore, status: tuple[bool, dict[str, object]] | None = None, **settings: object) -> FlaskClient:
    registry = CollectorRegistry()
    Counter("cutaway_spans_accepted", "spans", registry=registry).inc(12_345)
    Counter("cutaway_requests", "requests", ["encoding", "outcome"], registry=registry).labels("json", "refused").inc(7)
    chosen = Settings(data="unused", **settings)  # type: ignore[arg-type]
    return create_app(store, chosen, registry=registry, status=(lambda: status) if status else None).test_client()


def test_sizes_are_those_of_the_store(store: ClickHouseStore) -> None:
    """Rows and bytes of each table as the engine counts them; every table of ours is there, also an empty one."""
    sizes = {size.name: size for size in storage.tables(store)}
    ((rows,),) = store.query("SELECT count() FROM otel.otel_traces").rows
    ((nbytes,),) = store.query("SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND table = 'otel_traces'").rows

    assert (rows, nbytes) == (sizes["otel_traces"].rows, sizes["otel_traces"].stored)
    assert 0 == sizes["gen_ai_scores"].rows


def test_columns_of_wide_parts_are_listed(store: ClickHouseStore) -> None:
    """Columns come with their bytes once a part is large enough to keep them apart, the largest first."""
    assert [] == storage.columns(store)
    span = Span(9, attributes={MODEL: "gpt2"})
    store.command("ALTER TABLE otel.gen_ai_tokens MODIFY SETTING min_bytes_for_wide_part = 0")
    store.insert(tokens_block(span, [300], texts=None), "wide")
    own = dict(TOKENS.settings)["min_bytes_for_wide_part"]
    store.command(f"ALTER TABLE otel.gen_ai_tokens MODIFY SETTING min_bytes_for_wide_part = {own}")
    found = storage.columns(store)

    assert {"gen_ai_tokens"} == {column.table for column in found}
    assert "AttentionEntropyHeads" == found[0].name  # 300 tokens x 30 layers x 9 heads of float32
    assert 300 * 30 * 9 * 4 <= found[0].raw < 300 * 30 * 9 * 4 + 100
    assert [column.stored for column in found] == sorted((column.stored for column in found), reverse=True)


def test_spans_are_counted_by_the_minute_in_which_they_were_stored(store: ClickHouseStore) -> None:
    """However long ago they began."""
    start_ns, counts = storage.per_minute(store, 30)

    assert 5 == sum(counts)
    assert 30 == len(counts)
    assert 0 == start_ns % (60 * 10**9)


def test_the_page_says_what_was_refused_and_why(store: ClickHouseStore) -> None:
    """Dead letters with their reasons, refused requests, and no markup out of either."""
    page = get(_client(store), "/system")

    assert f"refused: {HOSTILE}" in page.text
    assert "1 request was acknowledged" in page.text
    assert "12\u202f345" in page.text
    assert "refused" in page.text


def test_landmarks_have_names_of_their_own(store: ClickHouseStore) -> None:
    """A section and the table within it are told apart by whoever jumps from landmark to landmark."""
    markup = _client(store).get("/system").text
    headings = dict(re.findall(r'<h2 id="(\w+)">([^<]+)', markup))
    names = [headings[name].strip() for name in re.findall(r'aria-labelledby="(\w+)"', markup)]
    names += re.findall(r'role="region" aria-label="([^"]+)"', markup)

    assert len(names) > 4
    assert len(names) == len(set(names))


def test_limits_are_shown_against_what_is_used(store: ClickHouseStore) -> None:
    """A spool that is nearly full is a bar that warns, in words too."""
    details: dict[str, object] = {"queue_bytes": 0, "spool_bytes": 950 * 1024, "dead_letter_bytes": 0, "phase": "serving",
                                  "reasons": ["the spool is full"]}
    page = get(_client(store, (False, details), spool_bytes_max=1000 * 1024), "/system")

    assert [True] == ["bad" in str(attrs["class"]) for attrs in page.with_class("level") if attrs["width"] == "95.00%"]
    assert re.search(r"950\u202fKiB\s+of 1\u202f000\u202fKiB, 95 %", page.text)
    assert "the spool is full" in page.text
    assert "not ready" in page.text


def test_the_twin_holds_what_the_page_prints(store: ClickHouseStore) -> None:
    """Sizes, letters, counters, versions, the schema's state; and settings without a password."""
    twin = _client(store, clickhouse="http://user:geheim@db:8123", retention_days=3).get("/system.json")
    body = twin.get_json()

    assert 12_345 == body["metrics"]["cutaway_spans_accepted_total"][0]["value"]
    assert 41 == body["dead_letters"]["newest"][0]["sequence"]
    assert "3" == body["settings_changed"]["retention_days"]
    assert body["versions"]["ClickHouse"]
    assert "geheim" not in twin.text
    assert body["slow_queries"] is None  # the embedded engine keeps no log


def test_a_store_without_a_difference_has_no_finding(store: ClickHouseStore) -> None:
    """Findings are those of `cutaway schema check`: none under the settings that made the store, one for another retention."""
    same, other = (_client(store, **more).get("/system.json").get_json()["schema_findings"] for more in ({}, {"retention_days": 3}))

    assert [] == same
    assert any("otel_traces" in finding for finding in other)


@pytest.mark.parametrize("path", ["/system", "/system.json"])
def test_only_admins_of_no_tenant_are_shown(store: ClickHouseStore, tmp_path: Path, path: str) -> None:
    """It tells of every tenant, so a reader and a tenant's own admin are refused."""
    file = tmp_path / "keys.json"
    reader = credentials.add(file, "reader", ["read"])
    tenant = credentials.add(file, "theirs", ["admin"], tenant="acme")
    admin = credentials.add(file, "ours", ["admin"])
    gate = Gate(Credentials(file), Sessions(b"x" * 32, secure=False))
    client = create_app(store, Settings(data="unused"), gate=gate).test_client()

    def status(key: str) -> int:
        return client.get(path, headers={"Authorization": f"Bearer {key}"}).status_code

    assert "admin" == scope_of("system_page", "GET", path)
    assert [403, 403, 200] == [status(reader), status(tenant), status(admin)]
