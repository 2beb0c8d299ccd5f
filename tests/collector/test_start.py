"""The first run: addresses that are so, snippets that work, sample data that comes by the road of all spans and goes again."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread, Timer

import numpy as np
import pytest
from flask.testing import FlaskClient

from cutaway_collector import credentials, decode
from cutaway_collector.contracts import Encoding, Receipt, Submit
from cutaway_collector.credentials import Credentials
from cutaway_collector.search import sample as stored_sample
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, open_store
from cutaway_collector.web import create_app, sample
from cutaway_collector.web.gate import Gate
from cutaway_collector.web.pages.first_run import Intake
from cutaway_collector.web.sessions import Sessions
from search_helpers import Span, spans_block
from web_helpers import Page, get, with_token


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ClickHouseStore]:
    """An empty store."""
    opened = open_store(Settings(data=str(tmp_path / "data")))
    yield opened
    opened.close()


class Road:
    """A submit that decodes and stores at once, as the pipeline does later."""

    def __init__(self, store: ClickHouseStore) -> None:
        self.store = store
        self.tenants: list[str] = []

    def __call__(self, payload: bytes, encoding: Encoding, tenant: str = "") -> Receipt:
        limits = decode.Limits()
        checked = decode.check(payload, encoding, received_ns=time.time_ns(), tenant=tenant, limits=limits)
        rows = decode.build([checked], limits)
        self.store.insert(rows.spans, f"spans-{len(self.tenants)}")
        self.store.insert(rows.tokens, f"tokens-{len(self.tenants)}")
        self.tenants.append(tenant)
        return Receipt(checked.spans, checked.rejected, checked.message)


def _client(store: ClickHouseStore, road: Submit | None = None, *, gate: Gate | None = None, grpc: str = "127.0.0.1:4317",
            http: str = "127.0.0.1:4318", **settings: object) -> FlaskClient:
    intake = Intake(road or Road(store), lambda: (grpc, http))
    app = create_app(store, Settings(data="unused", **settings), intake=intake, gate=gate)  # type: ignore[arg-type]
    return app.test_client()


def test_every_made_up_span_is_sound_and_says_that_it_is_made_up() -> None:
    """The decoder takes all of it; each span is of the sample's service and carries the words."""
    body = sample.request(10**18, seed=1)
    decoded = decode.check(body, "json", received_ns=0, tenant="", limits=decode.Limits())
    spans = [span for scope in json.loads(body)["resourceSpans"][0]["scopeSpans"] for span in scope["spans"]]

    assert (0, "") == (decoded.rejected, decoded.message)
    assert decoded.spans == len(spans) > 3 * len(sample.TALKS)
    attributes = json.loads(body)["resourceSpans"][0]["resource"]["attributes"]
    resource = {item["key"]: item["value"]["stringValue"] for item in attributes}
    assert (stored_sample.SERVICE, sample.SAYS_SO) == (resource["service.name"], resource["cutaway.sample"])
    assert body == sample.request(10**18, seed=1)
    assert body != sample.request(10**18)


def test_made_up_answers_read_as_they_were_written(store: ClickHouseStore) -> None:
    """The pieces of each answer join to its text, and every token has its signals."""
    Road(store)(sample.request(Span(1).start_ns), "json")
    found = store.query("SELECT arrayStringConcat(TokenTexts), length(TokenTexts), length(Surprisals), length(AttentionEntropies), "
                        "AttentionLayers, OutputTokens FROM otel.gen_ai_tokens").rows

    assert {row[0] for row in found} == {answer for _, _, _, answer in sample.TALKS}
    assert all(count == signals == tokens and matrix == count * sample.LAYERS == count * layers
               for _, count, signals, matrix, layers, tokens in found)


def test_the_form_answers_when_the_sample_is_stored(store: ClickHouseStore) -> None:
    """Spans are stored a moment after they are taken; the page that follows the click has them all the same."""
    road, later = Road(store), []

    def slow(payload: bytes, encoding: Encoding, tenant: str = "") -> Receipt:
        later.append(Timer(0.5, road, (payload, encoding, tenant)))
        later[0].start()
        return Receipt(1, 0, "")

    client = with_token(_client(store, slow))
    client.post("/start/sample", data={"do": "load"})

    assert "Sample data is loaded" in client.get("/start").text
    later[0].join()


def test_made_up_choices_are_sorted_and_hold_the_chosen_token_at_its_rank(store: ClickHouseStore) -> None:
    """The likeliest come first, they share one probability, and a token of rank 2 is the third choice with its own surprisal."""
    Road(store)(sample.request(Span(1).start_ns), "json")
    rows = store.query("SELECT TokenIds, Surprisals, Ranks, AlternativeIds, AlternativeSurprisals FROM otel.gen_ai_tokens").rows
    assert len(rows) == len(sample.TALKS)
    for tokens, surprisals, ranks, ids, nats in rows:
        choices, their = np.reshape(ids, (len(tokens), -1)), np.reshape(nats, (len(tokens), -1))
        assert (np.diff(their, axis=1) >= -1e-5).all()
        assert (np.exp(-their).sum(axis=1) <= 1.001).all()
        known = np.flatnonzero(np.array(ranks) < sample.CHOICES)
        places = np.array(ranks)[known].astype(int)
        assert (choices[known, places] == np.array(tokens)[known]).all()
        np.testing.assert_allclose(their[known, places], np.array(surprisals)[known], atol=1e-4)


def test_sample_data_is_loaded_and_removed_by_a_form(store: ClickHouseStore) -> None:
    """One click brings it, another takes every row of it away; other spans stay."""
    store.insert(spans_block([Span(1)]), "own")
    client = with_token(_client(store))
    assert "Load sample data" in client.get("/start").text
    assert "/start" == client.post("/start/sample", data={"do": "load"}).headers["Location"]
    assert client.get("/start.json").get_json()["sample_loaded"]
    assert "Remove sample data" in client.get("/start").text
    assert 50 < len(client.get(f"/search.json?q=service:{stored_sample.SERVICE}&limit=500").get_json()["rows"])
    client.post("/start/sample", data={"do": "remove"})

    counts = store.query("SELECT (SELECT count() FROM otel.otel_traces), (SELECT count() FROM otel.gen_ai_tokens)").rows
    assert (1, 0) == tuple(counts[0])
    assert 400 == client.post("/start/sample", data={"do": "more"}).status_code


def test_it_lands_with_the_tenant_who_asked_and_only_theirs_is_removed(store: ClickHouseStore, tmp_path: Path) -> None:
    """An admin of a tenant loads for it; a reader may not; removing leaves the sample of others alone."""
    file = tmp_path / "keys.json"
    keys = {name: credentials.add(file, name, [scope], tenant=tenant)
            for name, scope, tenant in (("acme", "admin", "acme"), ("zoo", "admin", "zoo"), ("reader", "read", "acme"))}
    road = Road(store)
    client = _client(store, road, gate=Gate(Credentials(file), Sessions(b"x" * 32, secure=False)))

    def post(name: str, what: str) -> int:
        return client.post("/start/sample", data={"do": what}, headers={"Authorization": f"Bearer {keys[name]}"}).status_code

    assert [403, 303, 303] == [post("reader", "load"), post("acme", "load"), post("zoo", "load")]
    assert ["acme", "zoo"] == road.tenants
    post("acme", "remove")
    assert [["zoo"]] == [list(row) for row in store.query("SELECT DISTINCT TenantId FROM otel.otel_traces").rows]
    reading = client.get("/start", headers={"Authorization": f"Bearer {keys['reader']}"}).text
    assert "/start/sample" not in reading
    assert client.get("/start.json", headers={"Authorization": f"Bearer {keys['reader']}"}).get_json()["arrived"] is None


def test_another_site_cannot_load_it(store: ClickHouseStore) -> None:
    """The form is refused when a page elsewhere sends it."""
    client = _client(store)
    assert 403 == client.post("/start/sample", data={"do": "load"}, headers={"Origin": "https://evil.example"}).status_code
    assert 403 == client.post("/start/sample", data={"do": "load"}, headers={"Sec-Fetch-Site": "cross-site"}).status_code


def _snippets(client: FlaskClient, **headers: str) -> str:
    return Page(client.get("/start", headers=headers).text).text


def test_addresses_are_those_that_listen(store: ClickHouseStore) -> None:
    """The ports that were bound, not those that were asked for; a listener on every address by the name that reached the page."""
    text = _snippets(_client(store, grpc="127.0.0.1:50001", http="127.0.0.1:50002", otlp_grpc="127.0.0.1:0"))
    assert 'endpoint="http://127.0.0.1:50001"' in text
    assert "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:50002" in text

    text = _snippets(_client(store, grpc="0.0.0.0:4317", ui="0.0.0.0:8088", insecure_bind=True), Host="box.example:8088")
    assert 'endpoint="http://box.example:4317"' in text


def test_keys_stand_in_the_snippets_where_they_are_demanded(store: ClickHouseStore) -> None:
    """And nowhere else; a key of anybody's is never in them."""
    assert "YOUR-KEY" not in _snippets(_client(store))
    assert 3 == _snippets(_client(store, auth="required")).count("Bearer YOUR-KEY")


def test_the_curl_snippet_sends_a_span(store: ClickHouseStore) -> None:
    """Run in a shell as it stands, it posts a request that the decoder takes."""
    bodies: list[bytes] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    Thread(target=server.serve_forever, daemon=True).start()
    text = _snippets(_client(store, http=f"127.0.0.1:{server.server_port}"))
    command = text[text.index("curl http"):].split("]}]}'")[0] + "]}]}'"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    server.shutdown()

    assert 0 == done.returncode, done.stderr
    checked = decode.check(bodies[0], "json", received_ns=0, tenant="", limits=decode.Limits())
    assert (1, 0) == (checked.spans, checked.rejected)


def test_an_empty_search_shows_the_first_run(store: ClickHouseStore) -> None:
    """Until something has arrived; then it is a search again, and the first run keeps its own address."""
    client = _client(store)
    assert "Nothing has arrived yet" in client.get("/search").text
    store.insert(spans_block([Span(1, name="<b>hello</b>")]), "one")
    assert "Nothing has arrived yet" not in client.get("/search").text
    page = get(client, "/start")

    assert "Spans are arriving" in page.text
    assert "<b>hello</b>" in page.text
    assert [f"/trace/{1:032x}?span={1:016x}"] == page.links("/trace/")


def test_an_application_without_receivers_offers_no_sample(store: ClickHouseStore) -> None:
    """Pages over a store that somebody else fills have nowhere to send it."""
    client = with_token(create_app(store, Settings(data="unused")).test_client())
    assert "/start/sample" not in client.get("/start").text
    assert 404 == client.post("/start/sample", data={"do": "load"}).status_code
