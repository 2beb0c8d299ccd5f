"""Two tenants in one store: whatever page, twin, id, cursor or saved address one of them tries, nothing of the other is shown."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from cutaway_collector import credentials, search
from cutaway_collector.columns import TABLES
from cutaway_collector.contracts import Result
from cutaway_collector.credentials import Credentials
from cutaway_collector.errors import StoreError
from cutaway_collector.search import FIELDS, SearchRequest
from cutaway_collector.search.tenants import TenantStore, only
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore
from cutaway_collector.web import create_app
from cutaway_collector.web.gate import Gate
from cutaway_collector.web.sessions import Sessions
from tenants_helpers import ACME, SHARED_SPAN, SHARED_TRACE, SPANS, WORDS, ZOO, Ids, two_tenants

_FORM_TOKEN = re.compile(r'name="form_token" value="[^"]*"')
"""Each visitor's own."""


class Told:
    """A store that remembers the SQL it was sent."""

    def __init__(self, store: ClickHouseStore) -> None:
        self.database = store.database
        self.sql: list[str] = []
        self._store = store

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None, **limits: float) -> Result:
        self.sql.append(sql)
        return self._store.query(sql, parameters, **limits)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


World = tuple[ClickHouseStore, dict[str, Ids], Path]
Visit = Callable[[str], FlaskClient]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("tenants")
    with two_tenants(folder / "data") as (store, ids):
        yield store, ids, folder


@pytest.fixture
def told(world: World) -> Told:
    return Told(world[0])


@pytest.fixture
def visit(told: Told, tmp_path: Path) -> Visit:
    """Tenant -> a client with a key of that tenant; "" for a key of none."""
    path = tmp_path / "keys.json"
    keys = {tenant: credentials.add(path, tenant or "all", ["read"], tenant) for tenant in (ACME, ZOO, "")}
    app = create_app(told, Settings(data="unused"), gate=Gate(Credentials(path), Sessions(b"s" * 32, secure=False)))

    def visitor(tenant: str) -> FlaskClient:
        client = app.test_client()
        client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {keys[tenant]}"
        return client

    return visitor


def addresses(ids: Ids, word: str) -> list[str]:
    """Every kind of page and twin, with this tenant's ids, words and filters in them."""
    shared = [f"/trace/{SHARED_TRACE.hex()}", f"/gen/{SHARED_SPAN.hex()}"]
    queries = [
        "", word, f"service:{word}*", f"model:{word}-model", f"name:/{word}/", f"prompt:*{word}*", f"trace:{ids.trace}",
        f"span:{ids.span}", f"NOT service:nobody {word}", "-is:error", f"event:{word}-event OR perplexity:>0", ids.trace, ids.span,
    ]
    sorts = ["", *(field.name for field in FIELDS if field.kind != "list")]
    found = [f"{page}{twin}" for page in (f"/trace/{ids.trace}", f"/gen/{ids.span}", *shared) for twin in ("", ".json")]
    found += [f"/gen/{ids.span}?view={view}" for view in ("table", "numbers")] + [f"/gen/{ids.span}.json?heads=all"]
    found += [f"/trace/{ids.trace}?span={ids.span}"]
    found += [f"/search{twin}?from=all&q={query}" for query in queries for twin in ("", ".json")]
    found += [f"/search.json?from=all&limit=500&sort={sign}{sort}" for sort in sorts for sign in ("", "-") if sort or not sign]
    return [*found, "/", "/help", "/metrics", "/readyz", "/healthz"]


def _text(client: FlaskClient, address: str) -> str:
    answer = client.get(address, follow_redirects=True)
    assert answer.status_code < 500, answer.text[:500]
    return answer.text


@pytest.mark.slow
@pytest.mark.parametrize(("mine", "theirs"), [(ACME, ZOO), (ZOO, ACME)])
def test_no_address_shows_another_tenants_rows(world: World, visit: Visit, mine: str, theirs: str) -> None:
    """All pages and twins, with the other's trace ids, span ids and words: rows, facets, counts and events stay one's own."""
    ids, client = world[1], visit(mine)
    for address in addresses(ids[theirs], "a"):  # a letter of both words, so that a hit needs no echo of the secret one
        text = _text(client, address)
        assert WORDS[theirs] not in text, address


@pytest.mark.parametrize(("mine", "theirs"), [(ACME, ZOO), (ZOO, ACME)])
def test_searching_for_anothers_words_finds_nothing(world: World, visit: Visit, mine: str, theirs: str) -> None:
    """Every way of asking for what only the other has: no row, no facet, no bar of the histogram, no jump."""
    ids, word, client = world[1], WORDS[theirs], visit(mine)
    for query in (word, f"service:{word}*", f"model:{word}*", f"name:/{word}/", f"prompt:*{word}*", f"trace:{ids[theirs].trace}"):
        asked = {"q": query, "from": "all"}
        assert [] == client.get("/search.json", query_string=asked).json["rows"], query
        assert visit(theirs).get("/search.json", query_string=asked).json["rows"], query
    for pasted in (ids[theirs].trace, ids[theirs].span):
        assert 200 == client.get("/search", query_string={"q": pasted}).status_code  # a redirect would say that it is there


@pytest.mark.parametrize("kind", ["trace", "gen"])
def test_anothers_ids_are_as_unknown_as_ids_nobody_has(world: World, visit: Visit, kind: str) -> None:
    """Status and words are those of an id that was never stored, so guessing ids tells nothing."""
    ids = world[1]
    theirs = ids[ZOO].trace if kind == "trace" else ids[ZOO].span
    nobodys = "f" * len(theirs)
    for twin in ("", ".json"):
        guessed, unknown = (visit(ACME).get(f"/{kind}/{identity}{twin}") for identity in (theirs, nobodys))
        assert 404 == guessed.status_code == unknown.status_code
        seen, unseen = (_FORM_TOKEN.sub("", answer.text) for answer in (guessed, unknown))
        assert seen.replace(theirs, nobodys) == unseen
        assert 200 == visit(ZOO).get(f"/{kind}/{theirs}{twin}").status_code


@pytest.mark.parametrize("tenant", [ACME, ZOO])
def test_an_id_that_both_use_shows_each_its_own(visit: Visit, tenant: str) -> None:
    """A trace or span id repeated by another tenant neither mixes two traces nor hides one."""
    spans = visit(tenant).get(f"/trace/{SHARED_TRACE.hex()}.json").json["spans"]
    generation = visit(tenant).get(f"/gen/{SHARED_SPAN.hex()}.json").json

    assert [f"{WORDS[tenant]}-service"] == [span["service"] for span in spans]
    assert f"{WORDS[tenant]}-model" == generation["model"]
    assert 1 == len(generation["sequences"])


def test_anothers_cursor_and_saved_address_lead_through_ones_own_rows(visit: Visit) -> None:
    """A position in another's pages is only a place in time: what follows it is the visitor's."""
    theirs = visit(ZOO).get("/search.json?limit=5&from=all").json
    answer = visit(ACME).get("/search.json", query_string={"limit": "500", "from": "all", "after": theirs["next"]})

    assert 200 == answer.status_code
    assert {f"{WORDS[ACME]}-service"} == {row["service"] for row in answer.json["rows"]}


def test_a_key_of_no_tenant_sees_all(visit: Visit) -> None:
    """The single-tenant use, and the operator's view."""
    rows = visit("").get("/search.json?limit=500&from=all").json["rows"]

    assert {f"{word}-service" for word in WORDS.values()} == {row["service"] for row in rows}
    # Spans are told apart by id, so the one whose ids both use, with the same start, is one row.
    assert 2 * SPANS - 1 <= len(rows) <= 2 * SPANS


def test_figures_of_a_query_do_not_count_others(visit: Visit) -> None:
    """How many rows the engine read would tell how many others have."""
    assert -1 == visit(ACME).get("/search.json?from=all").json["stats"]["rows_read"]


@pytest.mark.slow
def test_every_statement_of_every_route_has_the_condition(world: World, visit: Visit, told: Told) -> None:
    """Walk everything there is, and look at each SQL text that reaches the store."""
    client = visit(ACME)
    for tenant in (ACME, ZOO):
        for address in addresses(world[1][tenant], WORDS[tenant]):
            client.get(address, follow_redirects=True)

    assert len(told.sql) > 200
    for sql in told.sql:
        assert sql.endswith(only("otel", ACME)), sql


def test_every_function_of_the_search_verb_is_filtered(world: World) -> None:
    """Also those no route calls today."""
    store = TenantStore(world[0], lambda: ACME)
    theirs = world[1][ZOO]
    everything = SearchRequest(limit=500)

    assert None is search.trace(store, theirs.trace, spans_max=100)
    assert None is search.generation(store, theirs.span)
    assert None is search.locate(store, theirs.trace)
    assert None is search.locate(store, theirs.span)
    assert SPANS == sum(search.histogram(store, everything, 10)["counts"])
    names = [field.name for field in FIELDS if field.kind != "number"]
    for start in range(0, len(names), 20):
        found = search.facets(store, everything, names[start : start + 20])
        assert WORDS[ZOO] not in json.dumps(found)


def test_the_filter_names_every_table(world: World) -> None:
    """A table that cannot tell tenants apart shows a tenant nothing, and one added later is filtered without being thought of."""
    store = TenantStore(world[0], lambda: ACME)
    for table in TABLES:
        with_tenant = any(column.name == "TenantId" for column in table.columns)
        assert f"'otel.{table.name}'" in only("otel", ACME)
        if with_tenant:
            sql = f"SELECT count() FROM otel.{table.name} WHERE TenantId != '{ACME}'"
        else:
            sql = f"SELECT count() FROM otel.{table.name}"
        assert [(0,)] == list(map(tuple, store.query(sql).rows)), table.name


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count() FROM otel.otel_traces",
        "SELECT count() FROM (SELECT * FROM otel.otel_traces)",
        "WITH t AS (SELECT * FROM `otel`.`otel_traces`) SELECT count() FROM t",
        "SELECT count() FROM otel.otel_traces AS a",
        "SELECT uniqExact(a.SpanId, a.TenantId) FROM otel.otel_traces a LEFT JOIN otel.gen_ai_tokens b ON a.SpanId = b.SpanId",
        "SELECT sum(n) FROM (SELECT count() AS n FROM otel.otel_traces UNION ALL SELECT 0)",
    ],
)
def test_the_engine_filters_wherever_a_table_is_read(world: World, sql: str) -> None:
    """Under aliases, in sub-queries, common table expressions, joins and unions: the count is one tenant's."""
    assert 2 * SPANS == world[0].query(sql).rows[0][0]
    assert SPANS == TenantStore(world[0], lambda: ACME).query(sql).rows[0][0]


@pytest.mark.parametrize("tenant", ["x'", "a\\", "a b", "ü", "x" * 65, "'; DROP TABLE x"])
def test_a_name_that_would_need_quoting_is_refused(tenant: str) -> None:
    """The name is written into SQL, so nothing but plain names gets there."""
    with pytest.raises(StoreError, match="letters, digits"):
        only("otel", tenant)
