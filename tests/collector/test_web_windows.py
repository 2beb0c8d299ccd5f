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
from cutaway_collector.alerts import Desk
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
from web_helpers import XSS, with_token

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
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseStore]:
    folder = tmp_path_factory.mktemp("web_windows")
    opened = open_store(Settings(data=str(folder / "data")))
    _fill(opened, folder)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def clients(store: ClickHouseStore, tmp_path_factory: pytest.TempPathFactory) -> dict[str, FlaskClient]:
    """One client a tenant and one for everybody, named "", over one store; "editor" has a key of acme's that may change what is
    shared."""
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    keys = {tenant: credentials.add(path, tenant, ["read"], tenant) for tenant in ("acme", "zoo")}
    keys["editor"] = credentials.add(path, "editor", ["edit"], "acme")

    def now() -> int:
        return (FIRST_S + 3600) * NS

    settings = Settings(data="unused")
    found = {"": with_token(create_app(store, settings, now_ns=now).test_client())}
    gated = create_app(store, settings, now_ns=now, gate=Gate(Credentials(path), Sessions(b"secret" * 8, secure=False)))
    for tenant, key in keys.items():
        found[tenant] = gated.test_client()
        found[tenant].environ_base["HTTP_AUTHORIZATION"] = f"Bearer {key}"
    return found


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


CHANNELS = {"channels": [{"name": "ops", "kind": "log"}, {"name": "other", "kind": "log"}]}
FORM = {"do": "make", "rule": "", "name": "all-alike", "score": "pairwise_cosine", "side": "above", "than": "0.5", "lasting": "2",
        "by": "service,model,route,template", "query": "", "least": "8", "severity": "warning", "channel": "ops"}
FILE = {"name": "all-alike", "aggregate": "window_score", "score": "pairwise_cosine", "every": "15m", "least": 8,
        "group_by": ["service", "model", "route", "template"], "condition": {"above": 0.5, "for": "30m"},
        "labels": {"made_on": "windows"}, "channels": ["ops"]}


@pytest.fixture
def desk(store: ClickHouseStore) -> Desk:
    """No rule stands; two channels do."""
    found = Desk(store, Settings(data="unused"))
    found.apply(CHANNELS, prune=True)
    return found


def _filled(page: str) -> dict[str, str]:
    """What the alert form of the page holds."""
    text = page.split('class="alert-form"')[1].split("</form>")[0]
    inputs = dict(re.findall(r'<input[^>]* name="(\w+)" value="([^"]*)"', text))
    chosen = {name: re.search(r'<option(?: value="([^"]*)")? selected>([^<]*)', options)
              for name, options in re.findall(r'<select name="(\w+)">(.*?)</select>', text)}
    selects = {name: found[1] if found[1] is not None else found[2] for name, found in chosen.items() if found}
    return {name: unescape(value) for name, value in (inputs | selects).items()}


@pytest.mark.parametrize(("said", "expected"), [
    ({}, {}),
    ({"score": "vendi_share", "side": "below", "than": "20%", "lasting": "1", "by": "service", "channel": ""},
     {"score": "vendi_share", "condition": {"below": 0.2, "for": "15m"}, "group_by": ["service"], "channels": None}),
    ({"score": "surprisal_rise", "than": "2bits", "query": "service:sick -route:/hello", "severity": "critical", "least": "40"},
     {"score": "surprisal_rise", "condition": {"above": 1.3862943611198906, "for": "30m"}, "query": "service:sick -route:/hello",
      "severity": "critical", "least": 40}),
    ({"score": "silence", "lasting": "4", "by": "", "than": "", "least": ""},
     {"score": "distinct_1", "condition": {"kind": "no_data", "for": "1h"}, "group_by": [], "least": None}),
])
def test_the_form_makes_the_rule_that_a_file_can_say(clients: dict[str, FlaskClient], desk: Desk, said: dict[str, str],
                                                     expected: dict[str, object]) -> None:
    """As a file would have it; the form shows what stands, and sent again as it is shown it changes nothing."""
    made_ = clients[""].post("/windows/alert", data=FORM | said)
    assert (made_.status_code, made_.location) == (303, "/alerts?rule=all-alike"), made_.text
    file = {"rules": [{key: value for key, value in (FILE | expected).items() if value is not None}]}
    assert ["same"] == [change["action"] for change in desk.apply(file, dry_run=True)["changes"]]
    assert 'href="/windows?rule=all-alike#alert"' in clients[""].get("/alerts").text

    filled = _filled(clients[""].get("/windows?rule=all-alike").text)
    assert filled.items() >= {"score": said.get("score", "pairwise_cosine"), "rule": "all-alike"}.items()
    assert clients[""].post("/windows/alert", data=filled | {"do": "make"}).status_code == 303
    assert ["same"] == [change["action"] for change in desk.apply(file, dry_run=True)["changes"]]

    assert clients[""].post("/windows/alert", data={"rule": "all-alike", "do": "remove"}).location == "/alerts"
    assert desk.listing()["rules"] == []


def test_the_form_begins_with_what_is_shown(clients: dict[str, FlaskClient], desk: Desk) -> None:
    """The chosen label's score with its threshold, and the group that the page is narrowed to."""
    filled = _filled(clients[""].get("/windows?label=duplicates&service=sick").text)
    assert (filled["name"], filled["score"], filled["than"], filled["query"]) == (
        "answers-duplicates", "duplicate_share", "0.2", "service:sick")


def test_a_rule_of_the_form_fires_on_the_window_that_it_was_made_for(clients: dict[str, FlaskClient], desk: Desk) -> None:
    """Its back-test over the hour finds the collapsed group of the sick service, and no other."""
    clients[""].post("/windows/alert", data=FORM | {"lasting": "1"})
    found = desk.test("all-alike", (FIRST_S - 7200) * NS, (FIRST_S + 3600) * NS)
    assert [event["group"]["service"] for event in found["events"] if event["kind"] == "firing"] == ["sick"]


@pytest.mark.parametrize(("said", "status", "words"), [
    ({"score": "perplexity"}, 400, "score is one of"), ({"side": "beside"}, 400, "side is one of"),
    ({"than": "much"}, 400, "number"), ({"than": "nan"}, 400, "number"), ({"than": "3 bananas"}, 400, "no unit"),
    ({"lasting": "3"}, 400, "length is one of"), ({"by": "user.id"}, 400, "group is one of"),
    ({"query": "is:error"}, 400, "exact values"), ({"query": "service:ab*"}, 400, "exact values"),
    ({"least": "0"}, 400, "whole one"), ({"least": "\u00b2"}, 400, "whole one"), ({"severity": "grave"}, 400, "severity is one of"),
    ({"channel": "nowhere"}, 400, "no channel"), ({"name": ""}, 400, "name of a rule"), ({"name": "a b"}, 400, "name of a rule"),
    ({"name": "x" * 101}, 400, "name of a rule"), ({"name": "of-a-file"}, 409, "already"),
    ({"rule": "of-a-file"}, 409, "not made on"), ({"rule": "of-a-file", "do": "remove"}, 409, "not made on"),
    ({"rule": "unheard"}, 400, "no rule"), ({"do": "remove"}, 400, "no rule"),
])
def test_a_form_that_is_wrong_changes_nothing(clients: dict[str, FlaskClient], desk: Desk, said: dict[str, str], status: int,
                                              words: str) -> None:
    """Each is refused in words; what stands in a file stays."""
    desk.apply({"rules": [{"name": "of-a-file", "condition": {"above": 5}}]})
    before = desk.listing()["rules"]
    answer = clients[""].post("/windows/alert", data=FORM | said)
    assert (answer.status_code, words in answer.text) == (status, True), answer.text
    assert desk.listing()["rules"] == before


def test_a_tenants_editor_watches_its_own_windows_alone(clients: dict[str, FlaskClient], desk: Desk) -> None:
    """The rule is the tenant's; channels are those its rules tell already; a reader sees the file alone."""
    desk.apply({"rules": [{"name": "given", "tenant": "acme", "condition": {"above": 1}, "channels": ["other"]}]})
    assert "/windows/alert" not in clients["acme"].get("/windows").text
    assert "cutaway alerts apply" in clients["acme"].get("/windows").text
    assert clients["acme"].post("/windows/alert", data=FORM).status_code == 403
    assert clients["editor"].post("/windows/alert", data=FORM).status_code == 400
    assert clients["editor"].post("/windows/alert", data=FORM | {"channel": "other"}).status_code == 303
    assert {("acme", "given"), ("acme", "all-alike")} == {(rule["tenant"], rule["name"]) for rule in desk.listing()["rules"]}
    assert clients[""].get("/windows?rule=all-alike").status_code == 400
    assert "/windows?rule=all-alike" not in clients[""].get("/alerts").text
