"""The page of window scores and its JSON twin: what is shown, what narrows it, and that a tenant sees its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from urllib.parse import urlencode

import pytest
import yaml
from flask.testing import FlaskClient
from prometheus_client import CollectorRegistry

import window_helpers as made
from cutaway_collector import credentials
from cutaway_collector.alerts.rules import parse_rule
from cutaway_collector.blocks import Strings
from cutaway_collector.credentials import Credentials
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, open_store
from cutaway_collector.web import create_app
from cutaway_collector.web.gate import Gate
from cutaway_collector.web.sessions import Sessions
from cutaway_collector.windowing import LATENESS_SECONDS, Windows
from search_helpers import START_NS, spans_block
from web_helpers import XSS

MINUTES = 15
NS = 10**9
FIRST_S = START_NS // NS // (60 * MINUTES) * (60 * MINUTES)


def _fill(store: ClickHouseStore, folder: Path) -> None:
    """A sick service of one tenant, a healthy one with hostile names of another, an hour apart."""
    sets = (("acme", "sick", made.collapsed(20), {"template": "greet", "http.route": "/hello"}, 1, FIRST_S),
            ("zoo", "well", made.healthy(20), {"template": XSS[0], "http.route": XSS[1]}, 100, FIRST_S - 3600))
    for tenant, service, texts, about, first, start_s in sets:
        spans = [made.generation(first + place, start_s * NS, service=service, **about) for place in range(len(texts))]  # type: ignore[arg-type]  # names and words
        block = spans_block(spans)
        block.columns["TenantId"] = Strings.of([tenant] * len(spans))
        store.insert(block, tenant)
        store.insert(made.tokens_block(spans, texts, tenant=tenant), f"tokens {tenant}")
    Windows(store, minutes=MINUTES, answers_max=50, groups_max=5, folder=folder, registry=CollectorRegistry(),
            now_s=lambda: FIRST_S + 60 * MINUTES + LATENESS_SECONDS).catch_up()


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, FlaskClient]]:
    """One client a tenant and one for everybody, named "", over one store."""
    folder = tmp_path_factory.mktemp("web_windows")
    store = open_store(Settings(data=str(folder / "data")))
    _fill(store, folder)
    path = folder / "keys.json"
    keys = {tenant: credentials.add(path, tenant, ["read"], tenant) for tenant in ("acme", "zoo")}
    def now() -> int:
        return (FIRST_S + 3600) * NS

    settings = Settings(data=str(folder / "data"))
    found = {"": create_app(store, settings, now_ns=now).test_client()}
    gated = create_app(store, settings, now_ns=now, gate=Gate(Credentials(path), Sessions(b"secret" * 8, secure=False)))
    for tenant, key in keys.items():
        found[tenant] = gated.test_client()
        found[tenant].environ_base["HTTP_AUTHORIZATION"] = f"Bearer {key}"
    yield found
    store.close()


def _services(client: FlaskClient, query: str = "") -> list[str]:
    answer = client.get(f"/windows.json{query}")
    assert answer.status_code == 200, answer.text
    return [row["service"] for row in answer.json["windows"]]


def test_the_twin_holds_every_score_of_a_window(clients: dict[str, FlaskClient]) -> None:
    """Newest window first; a score with its value, label, explanation and examples."""
    rows = clients[""].get("/windows.json").json["windows"]
    assert [row["service"] for row in rows] == ["sick", "well"]
    assert (rows[0]["start_ns"], rows[0]["seconds"], rows[0]["answers"]) == (FIRST_S * NS, 60 * MINUTES, 20)
    assert (rows[0]["model"], rows[0]["route"], rows[0]["template"]) == ("m", "/hello", "greet")
    scores = {score["name"]: score for score in rows[0]["scores"]}
    assert scores["pairwise_cosine"]["label"] == "collapsed"
    assert scores["duplicate_cluster_1"]["value"] == 20
    assert set(scores["duplicate_cluster_1"]["examples"]) <= {f"{number:032x}" for number in range(1, 21)}
    assert {"vendi", "vendi_share", "self_bleu", "distinct_1", "distinct_2", "surprisal_rise"} <= set(scores)


def test_the_page_shows_labels_and_links_to_examples(clients: dict[str, FlaskClient]) -> None:
    """What the twin says, with a link to each example trace."""
    answer = clients[""].get("/windows")
    html = answer.text
    assert answer.status_code == 200
    assert ">collapsed</b>" in html
    assert f'href="/trace/{1:032x}"' in html or any(f'href="/trace/{number:032x}"' in html for number in range(1, 21))
    assert "script-src" in answer.headers["Content-Security-Policy"] or "default-src" in answer.headers["Content-Security-Policy"]
    assert 'href="/windows.json"' in html


@pytest.mark.parametrize(
    ("query", "expected"),
    [("?service=sick", ["sick"]), ("?route=/hello", ["sick"]), ("?template=greet&model=m", ["sick"]), ("?model=none", []),
     ("?label=collapsed", ["sick"]), ("?label=memorised", []), ("?limit=1", ["sick"]),
     (f"?from={FIRST_S}", ["sick"]), (f"?to={FIRST_S}", ["well"]), ("?from=-1d&to=now", ["sick", "well"])],
)
def test_filters_narrow_it(clients: dict[str, FlaskClient], query: str, expected: list[str]) -> None:
    """By any part of the group, by a label, by time, by number; page and twin alike."""
    assert _services(clients[""], query) == expected
    page = clients[""].get(f"/windows{query}")
    assert page.status_code == 200
    assert ("No window was judged here" in page.text) is (not expected)


@pytest.mark.parametrize(
    "query", ["?limit=0", "?limit=x", "?from=yesterday", "?from=now&to=-1h", "?label=bad", f"?service={'x' * 1001}"]
)
def test_what_makes_no_sense_is_told(clients: dict[str, FlaskClient], query: str) -> None:
    """400 with words, on the page and in the twin."""
    assert clients[""].get(f"/windows{query}").status_code == 400
    assert clients[""].get(f"/windows.json{query}").json["error"]["message"]


def test_hostile_names_are_text(clients: dict[str, FlaskClient]) -> None:
    """Routes and templates come from senders: shown, never markup, also in the links that filter by them."""
    html = clients[""].get("/windows?service=well").text
    assert "<script>alert" not in html
    assert "<img src=x" not in html
    assert "&lt;script&gt;alert(1)" in html


def test_a_tenant_sees_its_own_windows(clients: dict[str, FlaskClient]) -> None:
    """Neither rows nor names of another's, on the page or in the twin; without a key nothing at all."""
    assert (_services(clients["acme"]), _services(clients["zoo"])) == (["sick"], ["well"])
    assert "well" not in clients["acme"].get("/windows").text
    assert _services(clients["acme"], "?service=well") == []
    assert clients["acme"].application.test_client().get("/windows.json").status_code == 401


@pytest.mark.parametrize(("asked", "score", "query"), [
    ("", "pairwise_cosine", ""), ("label=duplicates&service=sick", "duplicate_share", "service:sick"),
    ("label=rising&template=", "surprisal_rise", "-has:template"), ("label=memorised", "memorised_share", ""),
    (urlencode({"route": XSS[1], "template": 'a "b" \\ c: {d}'}), "pairwise_cosine",
     f'''route:"{XSS[1].replace(chr(92), 2 * chr(92)).replace('"', chr(92) + '"')}" template:"a \\"b\\" \\\\ c: {{d}}"''')])
def test_the_page_writes_the_rule_that_watches_what_it_shows(clients: dict[str, FlaskClient], asked: str, score: str,
                                                             query: str) -> None:
    """As a file has it, whatever a group is called: it can be read, and watches the chosen score of the chosen group."""
    page = clients[""].get(f"/windows?{asked}").text
    (snippet,) = re.findall(r'<pre class="snippet"><code>(.*?)</code>', page, re.DOTALL)
    (rule,) = yaml.safe_load(unescape(snippet))["rules"]
    assert parse_rule(rule).score == score
    assert rule.get("query", "") == query
