"""Deliveries, definitions, the page and the command line of alerts, over a real store and real sockets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client import CollectorRegistry, generate_latest

from alerts_helpers import MINUTE, T0_S, Bench, document, hook, put_minutes
from cutaway_collector import cli, credentials
from cutaway_collector.alerts import Alerts, Desk, RuleError
from cutaway_collector.alerts.book import Book, Delivery
from cutaway_collector.alerts.channels import Channel
from cutaway_collector.alerts.deliveries import Deliveries, pause_s
from cutaway_collector.alerts.egress import Failed
from cutaway_collector.alerts.fields import NS
from cutaway_collector.alerts.rules import parse_rule
from cutaway_collector.contracts import Store
from cutaway_collector.credentials import Credentials
from cutaway_collector.settings import Settings
from cutaway_collector.web import create_app
from cutaway_collector.web.gate import Gate
from cutaway_collector.web.pages import alerts as alerts_page
from cutaway_collector.web.sessions import Sessions
from flask_serving import serving
from store_helpers import wait_until

NOW_NS = (T0_S + 30 * MINUTE) * NS


@pytest.fixture
def store(alerts_store: Store) -> Store:
    return alerts_store


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "key").write_text("secret")
    return Settings(data="unused", alerts_secrets=str(tmp_path), alerts_networks="127.0.0.0/8", alerts_interval_seconds=1)


# --- deliveries


@pytest.fixture
def delivering(store: Store) -> Iterator[Callable[..., Deliveries]]:
    """Makes deliveries that are closed at the end."""
    made: list[Deliveries] = []

    def make(send: Any, **changes: Any) -> Deliveries:
        known = {name: Channel(name, "log") for name in ("a", "b")}
        made.append(Deliveries(Book(store), send, lambda: known, **{"attempts_max": 3, "pause": lambda attempts: 0.01, **changes}))
        return made[-1]

    yield make
    for one in made:
        one.close()


def _stored(store: Store, event: str = "e") -> dict[str, tuple[str, int, str]]:
    return {one.channel: (one.state, one.attempts, one.error) for one in Book(store).deliveries_of([event]).get(event, ())}


def test_a_delivery_is_tried_again_and_each_try_is_noted(store: Store, delivering: Callable[..., Deliveries]) -> None:
    """Two failures, then success: delivered at the third try, and sent no more."""
    tries: list[str] = []

    def send(channel: Channel, message: Mapping[str, Any]) -> None:
        tries.append(message["said"])
        if len(tries) < 3:
            raise Failed("it answered 503")

    Book(store).save_deliveries([Delivery("", "e", "a", '{"said": "x"}')])
    outcomes: list[bool] = []
    one = delivering(send, on_outcome=lambda channel, fine: outcomes.append(fine))
    one.take_up()
    one.start()

    wait_until(lambda: _stored(store) == {"a": ("delivered", 3, "")})
    assert ["x"] * 3 == tries
    assert [False, False, True] == outcomes


def test_a_delivery_is_given_up_after_so_many_tries(store: Store, delivering: Callable[..., Deliveries]) -> None:
    """And at once where trying again cannot help, or where the channel is gone."""
    counts = {"a": 0, "b": 0}

    def send(channel: Channel, message: Mapping[str, Any]) -> None:
        counts[channel.name] += 1
        raise Failed("no", lasting=channel.name == "b")

    Book(store).save_deliveries([Delivery("", "e", name, "{}") for name in ("a", "b", "gone")])
    one = delivering(send)
    one.take_up()
    one.start()

    wait_until(lambda: one.waiting == 0)
    assert {"a": ("failed", 3, "no"), "b": ("failed", 1, "no"),
            "gone": ("failed", 1, "there is no such channel any more")} == _stored(store)
    assert {"a": 3, "b": 1} == counts


def test_what_an_earlier_run_left_is_delivered_by_the_next(store: Store, delivering: Callable[..., Deliveries]) -> None:
    """What is pending in the store is taken up; what was delivered is not sent again."""
    Book(store).save_deliveries([Delivery("", "e", "a", "{}", attempts=1, version=2),
                                 Delivery("", "e", "b", "{}", state="delivered", attempts=1, version=2)])
    sent: list[str] = []
    one = delivering(lambda channel, message: sent.append(channel.name))
    one.take_up()
    one.start()

    wait_until(lambda: _stored(store)["a"] == ("delivered", 2, ""))
    assert ["a"] == sent


def test_a_channel_that_hangs_holds_up_nobody_else(store: Store, delivering: Callable[..., Deliveries]) -> None:
    """One delivery at a time a channel; the others go on."""
    import threading

    release, sent = threading.Event(), []

    def send(channel: Channel, message: Mapping[str, Any]) -> None:
        if channel.name == "a":
            assert release.wait(30)
        sent.append(channel.name)

    waiting = [Delivery("", f"e{number}", name, "{}") for number in range(6) for name in ("a", "b")]
    one = delivering(send)
    one.start()
    one.add(waiting)

    wait_until(lambda: sent == ["b"] * 6)
    release.set()
    wait_until(lambda: one.waiting == 0)


def test_an_end_never_overtakes_its_beginning(store: Store, delivering: Callable[..., Deliveries]) -> None:
    """A beginning that is to be tried again holds up its own end on that channel, and no other alert, whoever was first in line."""
    told: list[str] = []
    down = {"first": 3}

    def send(channel: Channel, message: Mapping[str, Any]) -> None:
        if message["kind"] == "firing" and message["rule"] == "r" and down["first"]:
            down["first"] -= 1
            raise Failed("refused")
        told.append(f"{message['rule']} {message['kind']}")

    def said(kind: str, minute: int, rule: str = "r") -> Delivery:
        body = {"rule": rule, "group": {"service": "chat"}, "kind": kind, "window_end": f"2026-01-01T00:{minute:02}:00Z"}
        return Delivery("", f"{rule}-{kind}-{minute}", "a", json.dumps(body))

    one = delivering(send, attempts_max=9, pause=lambda attempts: 0.05)
    one.add([said("resolved", 2), said("firing", 1), said("firing", 1, "other"), said("firing", 3)])
    one.start()

    wait_until(lambda: one.waiting == 0)
    assert "other firing" == told[0]
    assert ["r firing", "r resolved", "r firing"] == told[1:]


def test_a_fault_of_ours_is_a_try_that_is_noted(store: Store, delivering: Callable[..., Deliveries]) -> None:
    """It ends, and the store says why: nothing is tried for ever in silence."""
    def send(channel: Channel, message: Mapping[str, Any]) -> None:
        raise ValueError("a header of two lines")

    one = delivering(send)
    Book(store).save_deliveries([Delivery("", "e", "a", "{}")])
    one.take_up()
    one.start()

    wait_until(lambda: one.waiting == 0)
    assert {"a": ("failed", 3, "the collector itself broke: ValueError")} == _stored(store)


def test_what_is_noted_of_a_delivery_is_kept(store: Store, delivering: Callable[..., Deliveries]) -> None:
    """It arrived, though not everywhere."""
    Book(store).save_deliveries([Delivery("", "e", "a", "{}")])
    one = delivering(lambda channel, message: "not b@example.org (550)")
    one.take_up()
    one.start()

    wait_until(lambda: one.waiting == 0)
    assert {"a": ("delivered", 1, "not b@example.org (550)")} == _stored(store)


def test_pauses_grow_to_a_quarter_of_an_hour() -> None:
    """Twelve tries last about an hour."""
    pauses = [pause_s(attempts) for attempts in range(1, 12)]
    assert [5, 10, 20] == pauses[:3]
    assert 900 == pauses[-1]
    assert 3600 < sum(pauses) < 7200


# --- the whole service


def test_an_alert_reaches_a_webhook_and_is_shown(store: Store, settings: Settings) -> None:
    """From rows to a POST on a socket, once; /metrics tells the same."""
    put_minutes(store, [0.5] * 30)
    registry = CollectorRegistry()
    with hook() as server:
        Desk(store, settings).apply({
            "rules": [document(channels=["ops"])],
            "channels": [{"name": "ops", "kind": "webhook", "url": server.url, "secret_file": "key"}]})
        clock = [T0_S * NS]
        alerts = Alerts(store, settings, registry=registry, now_ns=lambda: clock[0])
        alerts.deliveries.start()
        for minute in range(20):
            clock[0] = (T0_S + minute * MINUTE) * NS
            alerts.look()
        wait_until(lambda: bool(server.got) and alerts.deliveries.waiting == 0)
        figures = generate_latest(registry).decode()
        alerts.close()

    assert ["firing"] == [json.loads(body)["kind"] for _, _, body in server.got]
    assert 'cutaway_alerts_firing{rule="loops",tenant=""} 1.0' in figures
    assert 'cutaway_alerts_deliveries_total{channel="ops",outcome="delivered"} 1.0' in figures
    assert 'cutaway_alerts_events_total{kind="firing"} 1.0' in figures
    assert "cutaway_alerts_lag_seconds 0.0" in figures


def test_judging_waits_until_what_arrived_is_stored(store: Store, settings: Settings) -> None:
    """While the store is behind, nothing is judged: no alert of silence for what waits in the spool."""
    Desk(store, settings).apply({"rules": [document()]})
    behind, asked = [True], []

    def caught_up() -> bool:
        asked.append(True)
        return not behind[0]

    alerts = Alerts(store, settings, registry=CollectorRegistry(), caught_up=caught_up, now_ns=lambda: NOW_NS)
    alerts.start()
    try:
        wait_until(lambda: len(asked) > 1)
        assert {} == Book(store).states()
        behind[0] = False
        wait_until(lambda: bool(Book(store).states()))
    finally:
        alerts.close()


def test_what_a_killed_collector_left_is_delivered_though_nothing_is_judged_yet(store: Store, settings: Settings) -> None:
    """The next start knows the channels before it tries: the alert is told once, and not given up for want of its channel."""
    with hook() as server:
        channel = {"name": "ops", "kind": "webhook", "url": server.url, "secret_file": "key"}
        Desk(store, settings).apply({"rules": [document(channels=["ops"])], "channels": [channel]})
        Book(store).save_deliveries([Delivery("", "e", "ops", '{"event": "e"}', attempts=1, version=2)])
        alerts = Alerts(store, settings, registry=CollectorRegistry(), caught_up=lambda: False)
        alerts.start()
        try:
            wait_until(lambda: bool(server.got) and alerts.deliveries.waiting == 0)
        finally:
            alerts.close()

    assert 1 == len(server.got)
    assert {"ops": ("delivered", 2, "")} == _stored(store)


# --- definitions


def _desk(store: Store) -> Desk:
    return Desk(store, Settings(data="unused", alerts_rules_max=3))


FILE: dict[str, Any] = {"rules": [document(channels=["log"]), document("other")], "channels": [{"name": "log", "kind": "log"}]}


def test_the_same_file_again_changes_nothing(store: Store) -> None:
    """Applying is declarative: the first time adds, the second finds everything the same and writes nothing."""
    first = _desk(store).apply(FILE)
    stamp = Book(store).stamp()
    second = _desk(store).apply(FILE)

    assert ["added"] * 3 == [change["action"] for change in first["changes"]]
    assert ["same"] * 3 == [change["action"] for change in second["changes"]]
    assert (True, False) == (first["applied"], second["applied"])
    assert stamp == Book(store).stamp()


def test_a_change_is_shown_key_by_key_and_pruning_removes(store: Store) -> None:
    """Old and new of each key; a dry run changes nothing; what the file does not name stays unless it is pruned."""
    _desk(store).apply(FILE)
    changed = {"rules": [document(channels=["log"], severity="critical")], "channels": FILE["channels"]}

    dry = _desk(store).apply(changed, dry_run=True)
    assert {"loops": ["+ severity: \"critical\""], "log": []} == {change["name"]: change["diff"] for change in dry["changes"]}
    assert "warning" == Book(store).definitions().rules["", "loops"].severity
    _desk(store).apply(changed)
    assert {("", "loops"), ("", "other")} == set(Book(store).definitions().rules)
    pruned = _desk(store).apply(changed, prune=True)
    assert [("other", "removed")] == [(one["name"], one["action"]) for one in pruned["changes"] if one["action"] != "same"]
    assert {("", "loops")} == set(Book(store).definitions().rules)


@pytest.mark.parametrize(("changes", "name", "near"), [
    ({"query": "is:generation perplexty:>3"}, "perplexty", "perplexity"), ({"of": "has:repetitoin"}, "repetitoin", "repetition"),
    ({"group_by": ["modle"]}, "modle", "model"), ({"aggregate": "mean", "of": None, "field": "entrpy"}, "entrpy", "entropy"),
])
def test_a_name_that_is_nearly_a_field_is_told(store: Store, changes: dict[str, Any], name: str, near: str) -> None:
    """An attribute may be called anything, so the rule is taken; but a slip would be judged for ever and never fire."""
    answer = _desk(store).apply({"rules": [document(**changes)]}, dry_run=True)
    (doubt,) = answer["doubts"]
    assert f"no field is called {name}" in doubt
    assert f"did you mean {near}?" in doubt
    scoped = json.loads(json.dumps(changes).replace(name, f"span.{name}"))
    assert [] == _desk(store).apply({"rules": [document(**scoped)]}, dry_run=True)["doubts"]


def test_what_is_meant_as_it_stands_raises_no_doubt(store: Store) -> None:
    """The example rules, and attributes like no field."""
    example = yaml.safe_load((Path(__file__).parents[2] / "examples" / "alerts.yaml").read_text())
    desk = Desk(store, Settings(data="unused"))
    assert [] == desk.apply(example, dry_run=True)["doubts"]
    assert [] == desk.apply({"rules": [document(query="my.team.colour:red", group_by=["prompt_name"])]}, dry_run=True)["doubts"]


@pytest.mark.parametrize(("change", "said"), [
    ({"agregate": "share"}, "rule loops has no 'agregate': did you mean 'aggregate'"),
    ({"aggregate": "shares"}, "did you mean share"),
    ({"query": "repetitoin:>"}, "rule loops: the query cannot be read"), ({"of": "ttft:>5parsec"}, "no unit `parsec`"),
    ({"condition": {"above": 0.2, "clear": 0.3}}, "clear lies below"),
    ({"condition": {"kind": "treshold", "above": 1}}, "did you mean threshold"),
    ({"condition": {"above": 1, "below": 2}}, "either above or below"), ({"condition": {"above": True}}, "above is a number"),
    ({"window": "90s"}, "multiple of every"), ({"every": "5 parsecs"}, "such as 90s, 5m or 2h"),
    ({"field": "ttft"}, "leave it out"),
    ({"aggregate": "mean", "of": None}, "needs field"), ({"group_by": ["ttft"]}, "groups are made by texts"),
    ({"aggregate": "mean", "of": None, "field": "service"}, "has no mean"), ({"channels": ["pagr"]}, "no channel 'pagr'"),
    ({"name": "a b"}, "letters, digits"), ({"tenant": "x'"}, "letters, digits"), ({"least": 0}, "from 1 to"),
    ({"condition": {"kind": "e_process", "above": 2}}, "within the range"), ({"groups_max": 10**6}, "from 1 to 500"),
    ({"condition": {"kind": "e_process", "above": 0.2}, "window": "5m"}, "looks at each span once"),
    ({"mute_until": "tomorrow"}, "a time such as"), ({"condition": None}, "condition is missing"),
    ({"condition": {"kind": "drift", "attribute": "prompts"}, "aggregate": None, "of": None, "query": None}, "score.NAME"),
])
def test_a_rule_that_is_wrong_is_refused_in_words(store: Store, change: dict[str, Any], said: str) -> None:
    """What is wrong, where it stands, and what would be right; nothing is stored."""
    with pytest.raises(RuleError, match=said):
        _desk(store).apply({"rules": [document(**change)]})
    assert {} == Book(store).definitions().rules


def test_rules_are_bounded_and_of_different_names(store: Store) -> None:
    """More than the setting allows, or two of a name, are refused as a whole."""
    with pytest.raises(RuleError, match="at most 3 rules"):
        _desk(store).apply({"rules": [document(f"r{number}") for number in range(4)]})
    with pytest.raises(RuleError, match="two rules of the name 'loops'"):
        _desk(store).apply({"rules": [document(), document()]})
    with pytest.raises(RuleError, match="has no 'rule'"):
        _desk(store).apply({"rule": []})


def test_a_channel_in_use_is_not_removed(store: Store) -> None:
    """A rule must not lose its voice silently."""
    _desk(store).apply(FILE)
    with pytest.raises(RuleError, match="told by the rule loops"):
        _desk(store).remove("", ["log"])
    _desk(store).remove("", ["loops", "log"])
    assert {} == Book(store).definitions().channels


def test_a_definition_that_cannot_be_read_is_told_and_the_rest_goes_on(store: Store) -> None:
    """A row of another version, say: named on the page, not fatal."""
    from cutaway_collector.alerts.book import Entry

    _desk(store).apply(FILE)
    Book(store).define([Entry("rule", "", "strange", '{"name": "strange", "new_key": 1}')])

    found = Book(store).definitions()
    assert {("", "loops"), ("", "other")} == set(found.rules)
    (said,) = found.trouble
    assert "strange" in said


# --- page and routes


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "keys.json"
    made = {scope: credentials.add(path, scope, [scope]) for scope in ("read", "admin")}
    return made | {"acme": credentials.add(path, "acme", ["admin"], "acme")}


@pytest.fixture
def client(store: Store, settings: Settings, keys: dict[str, str], tmp_path: Path) -> FlaskClient:
    gate = Gate(Credentials(tmp_path / "keys.json"), Sessions(b"s" * 32, secure=False))
    return create_app(store, settings, now_ns=lambda: NOW_NS, gate=gate).test_client()


def _as(key: str, **headers: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}", **headers}


def _world(store: Store, settings: Settings) -> None:
    """A firing rule of everybody's and a quiet one of a tenant, as a collector leaves them."""
    Desk(store, settings).apply({
        "rules": [document(channels=["log"], owner="<b>ml</b>", runbook="<script>alert(1)</script>"),
                  document("acmes", tenant="acme")],
        "channels": [{"name": "log", "kind": "log"}, {"name": "s", "kind": "slack", "url_file": "key"}]})
    put_minutes(store, [0.5] * 5)
    bench = Bench(store)
    bench.run(T0_S, 5)


def test_the_page_shows_what_fires_and_escapes_it(store: Store, settings: Settings, client: FlaskClient,
                                                  keys: dict[str, str]) -> None:
    """State, value, window, event and advice; texts of definitions are texts."""
    _world(store, settings)
    page = client.get("/alerts", headers=_as(keys["admin"])).text

    assert "1 rule firing" in page
    assert "Open some of the spans: a loop shows" in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert(1)" not in page
    assert 'action="/alerts/mute"' in page
    assert "/search?from=2027" in page or "/search?q=" in page


@pytest.mark.parametrize(("counts", "said"), [
    ({"firing": 2, "ok": 1}, "2 rules firing"), ({"firing": 1, "no_data": 3}, "1 rule firing"),
    ({"ok": 2, "pending": 1, "muted": 1}, "All quiet"), ({"no_data": 3}, "No rule has data to judge"),
    ({"ok": 1, "no_data": 1}, "Quiet, but 1 of 2 rules has no data"),
    ({"ok": 1, "no_data": 2}, "Quiet, but 2 of 3 rules have no data"),
])
def test_rules_without_data_are_not_called_quiet(counts: dict[str, int], said: str) -> None:
    """The headline of the page calls quiet what was judged and found so, and nothing else."""
    assert alerts_page.headline(dict.fromkeys(alerts_page.STATES, 0) | counts) == said


def test_a_rule_that_was_never_judged_is_not_called_quiet(store: Store, settings: Settings, client: FlaskClient,
                                                          keys: dict[str, str]) -> None:
    """Where nothing is stored yet the page says that no rule has data."""
    Desk(store, settings).apply({"rules": [document()]})

    assert "<h1>No rule has data to judge</h1>" in client.get("/alerts", headers=_as(keys["admin"])).text


def test_the_twin_says_the_same_as_json(store: Store, settings: Settings, client: FlaskClient, keys: dict[str, str]) -> None:
    """Rules, events and deliveries; neither channel's place nor its secret."""
    _world(store, settings)
    twin = client.get("/alerts.json?state=firing", headers=_as(keys["read"])).json

    assert ["loops"] == [rule["name"] for rule in twin["rules"]]
    assert 0.5 == twin["rules"][0]["groups"][0]["value"]
    assert [("firing", [("log", "pending")])] == [
        (event["kind"], [(one["channel"], one["state"]) for one in event["deliveries"]]) for event in twin["events"]]
    assert [{"name": "log", "kind": "log"}, {"name": "s", "kind": "slack"}] == twin["channels"]
    assert 400 == client.get("/alerts.json?state=burning", headers=_as(keys["read"])).status_code


def test_a_link_of_an_alert_finds_what_was_judged(store: Store, settings: Settings, client: FlaskClient,
                                                  keys: dict[str, str]) -> None:
    """The search of the window holds the spans that loop."""
    _world(store, settings)
    link = client.get("/alerts.json", headers=_as(keys["read"])).json["events"][0]["link"]

    assert 10 == len(client.get(link.replace("/search?", "/search.json?"), headers=_as(keys["read"])).json["rows"])


def test_reading_does_not_mute(store: Store, settings: Settings, client: FlaskClient, keys: dict[str, str]) -> None:
    """Muting needs admin, the page without it shows no form, and other sites cannot send one."""
    _world(store, settings)
    form = {"rule": "loops", "tenant": "", "for": "8h"}

    assert "/alerts/mute" not in client.get("/alerts", headers=_as(keys["read"])).text
    assert 403 == client.post("/alerts/mute", data=form, headers=_as(keys["read"])).status_code
    foreign = _as(keys["admin"], **{"Sec-Fetch-Site": "cross-site"})
    assert 403 == client.post("/alerts/mute", data=form, headers=foreign).status_code
    assert {} == Book(store).definitions().mutes
    assert 303 == client.post("/alerts/mute", data=form, headers=_as(keys["admin"])).status_code
    assert "muted until" in client.get("/alerts", headers=_as(keys["read"])).text
    client.post("/alerts/mute", data={**form, "for": "off"}, headers=_as(keys["admin"]))
    assert "muted until" not in client.get("/alerts", headers=_as(keys["read"])).text


def test_a_tenant_sees_and_mutes_its_own_rules_alone(store: Store, settings: Settings, client: FlaskClient,
                                                     keys: dict[str, str]) -> None:
    """Nor may it change definitions, which can watch everybody."""
    _world(store, settings)
    mine = _as(keys["acme"])

    assert ["acmes"] == [rule["name"] for rule in client.get("/alerts.json", headers=mine).json["rules"]]
    assert [] == client.get("/alerts.json", headers=mine).json["events"]
    assert 403 == client.post("/alerts/mute", data={"rule": "loops", "tenant": "", "for": "1h"}, headers=mine).status_code
    assert 303 == client.post("/alerts/mute", data={"rule": "acmes", "tenant": "acme", "for": "1h"}, headers=mine).status_code
    assert 403 == client.get("/admin/alerts.json", headers=mine).status_code
    for route in ("apply", "remove", "mute", "test"):
        assert 403 == client.post(f"/admin/alerts-{route}.json", json={}, headers=mine).status_code


@pytest.mark.parametrize(("route", "body"), [
    ("apply", {"document": []}), ("apply", {"document": {"rules": [{}]}}), ("apply", {"file": 1}), ("remove", {"names": [1]}),
    ("remove", {"names": ["none"]}), ("mute", {"rule": "none", "until_ns": 1}), ("mute", {"rule": "loops", "until_ns": -1}),
    ("mute", {"rule": "loops", "until_ns": True}), ("test", {"rule": "none", "start_ns": 1, "end_ns": 2}), ("test", {"rule": 5}),
    ("test", {"rule": document(), "start_ns": 0, "end_ns": 2**62}),
])
def test_a_body_that_is_wrong_is_a_bad_request(client: FlaskClient, keys: dict[str, str], route: str, body: dict[str, Any]) -> None:
    """Never an error of ours."""
    answer = client.post(f"/admin/alerts-{route}.json", json=body, headers=_as(keys["admin"]))
    assert 400 == answer.status_code
    assert answer.json["error"]["message"]


def test_an_empty_page_says_how_to_begin(client: FlaskClient, keys: dict[str, str]) -> None:
    """Nothing is watched yet."""
    assert "Nothing is watched yet" in client.get("/alerts", headers=_as(keys["read"])).text


# --- the command line


YAML = """
rules:
  - name: loops
    query: is:generation
    aggregate: share
    of: repetition:>0.5
    group_by: [service]
    condition: {above: 0.2, clear: 0.1, for: 2m}
    mute_until: 2027-01-15 08:00:00
    channels: [log]
channels:
  - {name: log, kind: log}
"""


@pytest.fixture
def cutaway(store: Store, settings: Settings, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """`cutaway alerts ...` against a running collector: exit code, stdout, stderr."""
    app: Flask = create_app(store, settings)
    with serving(app) as url:
        def run(*words: str) -> tuple[int, str, str]:
            code = cli.main(["alerts", *words, "--url", url])
            return code, *capsys.readouterr()

        yield run


def test_the_command_line_applies_lists_mutes_and_removes(store: Store, cutaway: Callable[..., tuple[int, str, str]],
                                                          tmp_path: Path) -> None:
    """One file through its life."""
    path = tmp_path / "rules.yaml"
    path.write_text(YAML)

    assert (0, "+ channel log\n+ rule loops\n2 added\n", "") == cutaway("apply", str(path))
    assert "2 same\n" == cutaway("apply", str(path))[1]
    assert Book(store).definitions().rules["", "loops"].mute_until_ns == 1_800_000_000 * NS
    path.write_text(YAML.replace("above: 0.2", "above: 0.3"))
    code, out, _ = cutaway("apply", str(path), "--dry-run")
    assert (0, True) == (code, '    + condition: {"above": 0.3' in out and "--dry-run" in out)
    assert "no_data  loops: share of repetition:>0.5 above 0.2 for 2m" in cutaway("list")[1]
    assert "muted until" in cutaway("mute", "loops", "--for", "2h")[1]
    assert "is not muted" in cutaway("unmute", "loops")[1]
    assert "removed loops, log\n" == cutaway("remove", "loops", "log")[1]
    assert "no rules" in cutaway("list")[1]


def test_the_command_line_tests_a_file_over_history(store: Store, cutaway: Callable[..., tuple[int, str, str]],
                                                    tmp_path: Path) -> None:
    """Nothing is applied; what would have fired is printed, and the exit code says so."""
    path = tmp_path / "rules.yaml"
    path.write_text(YAML)
    put_minutes(store, [0, 0.5, 0.5, 0.5, 0, 0])
    span = ("--since", str(T0_S), "--until", str(T0_S + 6 * MINUTE))

    code, out, _ = cutaway("test", str(path), *span)
    assert 1 == code
    lines = out.splitlines()
    assert [["firing", "loops", "[chat]"], ["resolved", "loops", "[chat]"]] == [line.split()[1:4] for line in lines[:2]]
    assert "loops: 6 windows judged, above 0.2 for 2m fired 1 times" == lines[2]
    assert {} == Book(store).definitions().rules
    assert 0 == cutaway("test", str(path), "--since", str(T0_S), "--until", str(T0_S + MINUTE))[0]


@pytest.mark.parametrize(("text", "said"), [
    ("rules: [", "is no YAML, line "), ("- a", "the keys rules and channels"), ("rules:\n - {nam: x}", "did you mean 'name'"),
    ("", "the keys rules and channels"),
    ("!!python/object/apply:os.system [id]", "is no YAML"),
])
def test_a_file_that_is_wrong_is_refused(cutaway: Callable[..., tuple[int, str, str]], tmp_path: Path, text: str,
                                         said: str) -> None:
    """With the file's own line where it is no YAML; no YAML makes Python objects."""
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    code, _, words = cutaway("apply", str(path))
    assert 1 == code
    assert said in words


def test_the_schema_names_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    """What the reader of a file takes, the command tells; the example of the page is a rule."""
    from cutaway_collector.alerts.rules import CONDITIONS, SCHEMA

    assert 0 == cli.main(["alerts", "schema"])
    out = capsys.readouterr().out
    assert [key for key in (*SCHEMA, *CONDITIONS, "webhook", "secret_file") if f"{key}:" not in out and key not in out] == []
    assert parse_rule(document()).name == "loops"




# --- the page of a back-test


def test_a_tenant_tests_its_own_rules_alone(client: FlaskClient, store: Store, settings: Settings, keys: dict[str, str]) -> None:
    """Another tenant's rule, or everybody's, is not there; its own is judged on its own rows."""
    _world(store, settings)
    own = next(rule["name"] for rule in Desk(store, settings).listing()["rules"] if rule["tenant"] == "acme")
    mine = client.get("/alerts/test.json", query_string={"rule": own}, headers=_as(keys["acme"]))
    assert 200 == mine.status_code, mine.text
    for asked in ({"rule": "loops"}, {"rule": own, "tenant": "other"}):
        assert 400 == client.get("/alerts/test.json", query_string=asked, headers=_as(keys["acme"])).status_code


@pytest.mark.parametrize("since", ["", "-1h", "-7d"])
def test_the_page_of_a_back_test_says_what_live_judging_said(client: FlaskClient, store: Store, settings: Settings,
                                                            keys: dict[str, str], since: str) -> None:
    """The same events as were recorded, whatever part of the past holds them."""
    _world(store, settings)
    found = client.get("/alerts/test.json", query_string={"rule": "loops", "since": since}, headers=_as(keys["read"])).json
    assert found is not None
    live = {event["event"] for event in Desk(store, settings).listing()["events"] if event["rule"] == "loops"}
    assert live == {event["event"] for event in found["events"]}
    assert b"would have" in client.get("/alerts/test?rule=loops", headers=_as(keys["read"])).data


@pytest.mark.parametrize("asked", ["", "?rule=nobody", "?rule=loops&since=never", "?rule=loops&since=1971-01-01"])
def test_a_back_test_that_cannot_be_is_refused(client: FlaskClient, store: Store, settings: Settings, keys: dict[str, str],
                                               asked: str) -> None:
    """In words, with 400, on the page and in its twin."""
    _world(store, settings)
    for twin in ("", ".json"):
        assert 400 == client.get(f"/alerts/test{twin}{asked}", headers=_as(keys["read"])).status_code
