"""Saved searches: what is kept comes back, to its own tenant alone, within limits, by forms that work without script."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from flask.testing import FlaskClient
from hypothesis import example, given, settings
from hypothesis import strategies as st

import web_helpers as world
from cutaway_collector import credentials
from cutaway_collector.alerts import Desk
from cutaway_collector.alerts.rules import parse_rule
from cutaway_collector.credentials import Credentials
from cutaway_collector.errors import MalformedRequest
from cutaway_collector.search.saved import CHARACTERS_MAX, SAVED_MAX, SavedSearch, SavedSearches
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore
from cutaway_collector.web import create_app
from cutaway_collector.web.gate import Gate
from cutaway_collector.web.pages import saved
from cutaway_collector.web.sessions import Sessions


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseStore]:
    with world.stored(tmp_path_factory.mktemp("saved") / "data", (), ()) as opened:
        yield opened


@pytest.fixture
def client(store: ClickHouseStore) -> FlaskClient:
    """Everybody is let in; what other tests saved is gone."""
    searches = SavedSearches(store)
    for search in searches.all(""):
        searches.delete("", search.name)
    return world.with_token(create_app(store, Settings(data="unused"), now_ns=lambda: world.NOW_NS).test_client())


def _names(client: FlaskClient) -> list[str]:
    return [search["name"] for search in client.get("/saved.json").json["searches"]]


def test_a_saved_search_leads_back_to_the_same_page(client: FlaskClient) -> None:
    """Query, time range, order, columns and view of the address come back in the link of the page and of its twin."""
    form = {"name": "slow", "q": 'ttft:>1s -env:"a b"', "from": "-6h", "to": "now", "sort": "-ttft"}
    form |= {"cols": "error", "view": "traces"}
    answer = client.post("/saved", data=form)

    (search,) = client.get("/saved.json").json["searches"]
    assert (303, "/saved") == (answer.status_code, answer.location)
    assert "/search?cols=error&from=-6h&q=ttft%3A%3E1s%20-env%3A%22a%20b%22&sort=-ttft&to=now&view=traces" == search["url"]
    assert search["url"] in world.get(client, "/saved").links("/search")


@pytest.mark.parametrize(("start", "moves"), [("-1h", True), ("", True), ("2026-01-31T18:00", False), ("1769880000", False)])
def test_a_time_range_says_whether_it_moves(client: FlaskClient, start: str, moves: bool) -> None:
    """Counted back from now it moves with the clock, between dates it stays: as saved, so it comes back."""
    client.post("/saved", data={"name": "range", "from": start})

    (search,) = client.get("/saved.json").json["searches"]
    assert (start, moves) == (search["time_from"], search["moves"])


def test_the_same_name_replaces(client: FlaskClient) -> None:
    """One name, one search: the newest."""
    for query in ("model:a", "model:b"):
        client.post("/saved", data={"name": "one", "q": query})

    assert ["model:b"] == [search["query"] for search in client.get("/saved.json").json["searches"]]


def test_renaming_keeps_the_search_and_frees_the_name(client: FlaskClient) -> None:
    """The new name leads where the old one led; the old one is gone."""
    client.post("/saved", data={"name": "old", "q": "is:error", "sort": "-ttft"})
    client.post("/saved/rename", data={"name": "old", "new": "new"})

    (search,) = client.get("/saved.json").json["searches"]
    assert ("new", "is:error", "-ttft") == (search["name"], search["query"], search["sort"])


def test_renaming_never_replaces_another(client: FlaskClient) -> None:
    """A name that is taken is refused, and both searches stay."""
    for name in ("one", "two"):
        client.post("/saved", data={"name": name, "q": name})
    answer = client.post("/saved/rename", data={"name": "one", "new": "two"})

    assert 400 == answer.status_code
    assert ["one", "two"] == _names(client)


def test_deleted_then_saved_again_is_there(client: FlaskClient) -> None:
    """A tombstone hides what was before it, not what comes after."""
    client.post("/saved", data={"name": "again", "q": "a"})
    client.post("/saved/delete", data={"name": "again"})
    gone = _names(client)
    client.post("/saved", data={"name": "again", "q": "b"})

    assert ([], ["again"]) == (gone, _names(client))


@pytest.mark.parametrize("form", [
    {"name": ""}, {"name": "   "}, {"name": "n" * (CHARACTERS_MAX["name"] + 1)}, {"name": "a\nb"},
    {"name": "n", "q": "q" * (CHARACTERS_MAX["query"] + 1)}, {"name": "n", "from": "f" * (CHARACTERS_MAX["time_from"] + 1)},
    {"name": "n", "q": "a\0b"},
])
def test_what_does_not_fit_is_refused_in_words(client: FlaskClient, form: dict[str, str]) -> None:
    """No name, too long, not text: a page that says the rule, and nothing is kept."""
    answer = client.post("/saved", data=form)

    assert 400 == answer.status_code
    assert "saved search" in answer.text
    assert [] == _names(client)


def test_a_tenant_keeps_so_many_and_no_more(store: ClickHouseStore) -> None:
    """The one above the limit is refused, replacing one of them is not, and another tenant has room of its own."""
    searches = SavedSearches(store)
    searches._write("full", [(SavedSearch(f"search {number}"), False) for number in range(SAVED_MAX)])
    with pytest.raises(MalformedRequest, match=str(SAVED_MAX)):
        searches.save("full", SavedSearch("one more"))
    searches.save("full", SavedSearch("search 7", "model:x"))
    searches.save("other", SavedSearch("one more"))

    assert SAVED_MAX == len(searches.all("full"))
    assert ["one more"] == [search.name for search in searches.all("other")]


def test_tenants_do_not_see_each_others_searches(store: ClickHouseStore, tmp_path: Path) -> None:
    """Each key reads, renames and deletes what its own tenant saved; the same name of another tenant stays as it was."""
    keys = {tenant: credentials.add(tmp_path / "keys.json", tenant, ["admin"], tenant) for tenant in ("red", "blue")}
    gate = Gate(Credentials(tmp_path / "keys.json"), Sessions(b"s" * 32, secure=False))
    client = create_app(store, Settings(data="unused"), now_ns=lambda: world.NOW_NS, gate=gate).test_client()
    as_of = {tenant: {"Authorization": f"Bearer {key}"} for tenant, key in keys.items()}
    for tenant in keys:
        client.post("/saved", data={"name": "mine", "q": f"service:{tenant}"}, headers=as_of[tenant])
    client.post("/saved/delete", data={"name": "mine"}, headers=as_of["red"])

    assert [] == client.get("/saved.json", headers=as_of["red"]).json["searches"]
    (left,) = client.get("/saved.json", headers=as_of["blue"]).json["searches"]
    assert ("service:blue", "blue") == (left["query"], left["owner"])
    assert "mine" not in [one["label"] for one in client.get("/palette.json", headers=as_of["red"]).json["saved"]]


def test_a_key_that_reads_may_not_change(store: ClickHouseStore, tmp_path: Path) -> None:
    """With the scope read the list is there, and neither its forms nor what they would ask for."""
    key = credentials.add(tmp_path / "keys.json", "reader", ["read"], "readers")
    SavedSearches(store).save("readers", SavedSearch("theirs"))
    gate = Gate(Credentials(tmp_path / "keys.json"), Sessions(b"s" * 32, secure=False))
    client = create_app(store, Settings(data="unused"), now_ns=lambda: world.NOW_NS, gate=gate).test_client()
    reading = {"Authorization": f"Bearer {key}"}

    page = client.get("/saved", headers=reading)
    assert "theirs" in page.text
    assert "/saved/delete" not in page.text
    assert 403 == client.post("/saved/delete", data={"name": "theirs"}, headers=reading).status_code


@pytest.mark.parametrize("path", ["/saved", "/saved/rename", "/saved/delete"])
def test_forms_of_other_sites_are_refused(client: FlaskClient, path: str) -> None:
    """What a browser sends on behalf of another site changes nothing."""
    client.post("/saved", data={"name": "kept"})
    answer = client.post(path, data={"name": "kept", "new": "stolen"}, headers={"Sec-Fetch-Site": "cross-site"})

    assert 403 == answer.status_code
    assert ["kept"] == _names(client)


def test_the_filter_wants_every_word(client: FlaskClient) -> None:
    """Words stand in the name or the query, in any case."""
    for name, query in (("Slow answers", "ttft:>1s"), ("slow tools", "kind:client"), ("errors", "is:error")):
        client.post("/saved", data={"name": name, "q": query})

    found = client.get("/saved.json?filter=SLOW+ttft").json["searches"]
    assert ["Slow answers"] == [search["name"] for search in found]


@pytest.mark.parametrize("text", [text for text in world.XSS if "\x00" not in text])
def test_what_was_typed_is_text(client: FlaskClient, text: str) -> None:
    """Hostile names and queries make no markup: the page has the kinds of tags it has for plain ones, and no handlers."""
    client.post("/saved", data={"name": "plain", "q": "plain"})
    plain = {tag for tag, _ in world.get(client, "/saved").tags}
    client.post("/saved", data={"name": text if text.isprintable() else "plain", "q": text})
    tags = world.get(client, "/saved").tags

    assert plain == {tag for tag, _ in tags}
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]


@given(name=st.text(max_size=60), query=st.text(max_size=200))
@example(name="", query="\x85")
@example(name="", query="a\u2028b\u2029\ufeff")
@settings(max_examples=60, deadline=None)
def test_the_rule_to_start_from_can_be_read(name: str, query: str) -> None:
    """Whatever the search is called and asks for, its alert rule is YAML that says the same query, under a name rules may have."""
    document = yaml.safe_load(saved.rule(SavedSearch(name, query)))

    (rule,) = document["rules"]
    assert query == rule["query"]
    assert rule["name"] == parse_rule({**rule, "query": "is:error"}).name


CHANNELS = {"channels": [{"name": "log", "kind": "log"}, {"name": "other", "kind": "log"}]}


@pytest.fixture
def desk(store: ClickHouseStore) -> Desk:
    """No rule stands; two channels do."""
    made = Desk(store, Settings(data="unused"))
    made.apply(CHANNELS, prune=True)
    return made


def _form(**said: str) -> dict[str, str]:
    return {"name": "failing chats", "do": "make", "than": "3", "window": "1h", "channel": "log", **said}


def test_an_editor_makes_changes_and_removes_the_rule_of_a_search_by_a_form(client: FlaskClient, desk: Desk) -> None:
    """What stands then is what the same definition in a file would be; the form shows it; gone is gone."""
    client.post("/saved", data={"name": "failing chats", "q": "is:error operation:chat"})
    made = client.post("/saved/alert", data=_form())
    assert (303, "/alerts?rule=failing-chats") == (made.status_code, made.location)
    file = {"name": "failing-chats", "query": "is:error operation:chat", "aggregate": "count", "window": "1h", "every": "5m",
            "condition": {"above": 3}, "labels": {"saved_search": "failing chats"}, "channels": ["log"]}
    assert ["same"] == [change["action"] for change in desk.apply({"rules": [file]}, dry_run=True)["changes"]]

    client.post("/saved/alert", data=_form(than="12", window="1d", channel=""))
    (rule,) = desk.listing()["rules"]
    assert ("above 12", []) == (rule["condition"].split(" for")[0], rule["channels"])
    page = world.get(client, "/saved")
    assert ["12"] == [attrs["value"] for _, attrs in page.tags if attrs.get("name") == "than"]
    assert "above 12" in page.text

    client.post("/saved/alert", data=_form(do="remove"))
    assert [] == desk.listing()["rules"]


@pytest.mark.parametrize(("said", "expected", "shown"), [
    ({"number": "share", "of": "is:error", "than": "20%"},
     {"aggregate": "share", "of": "is:error", "window": "1h", "every": "5m", "condition": {"above": 0.2}}, "20%"),
    ({"number": "mean", "field": "ttft", "side": "below", "than": "500ms", "by": "service,model"},
     {"aggregate": "mean", "field": "ttft", "window": "1h", "every": "5m", "condition": {"below": 0.5},
      "group_by": ["service", "model"]}, "0.5s"),
    ({"number": "p95", "field": "duration", "than": "2", "severity": "critical"},
     {"aggregate": "quantile", "quantile": 0.95, "field": "duration", "window": "1h", "every": "5m",
      "condition": {"above": 2_000_000_000}, "severity": "critical"}, "2s"),
    ({"number": "p95", "field": "surprisal.max", "than": "3.5", "window": "6h"},
     {"aggregate": "quantile", "quantile": 0.95, "field": "surprisal.max", "window": "6h", "every": "15m",
      "condition": {"above": 3.5}}, "3.5nats"),
    ({"number": "silence", "by": "service", "than": ""},
     {"every": "1h", "condition": {"kind": "no_data", "for": "1h"}, "group_by": ["service"]}, None),
])
def test_the_form_makes_what_a_file_can_say(
    client: FlaskClient, desk: Desk, said: dict[str, str], expected: dict[str, object], shown: str | None,
) -> None:
    """Thresholds are read in the unit of their field; and the form shows what stands, so that sending it again changes nothing."""
    client.post("/saved", data={"name": "failing chats", "q": "operation:chat"})
    client.post("/saved/alert", data=_form(**said))
    file = {"name": "failing-chats", "query": "operation:chat", "labels": {"saved_search": "failing chats"}, "channels": ["log"]}
    assert ["same"] == [change["action"] for change in desk.apply({"rules": [file | expected]}, dry_run=True)["changes"]]

    form = _filled(client)
    assert shown is None or shown == form["than"]
    assert form.items() >= {key: value for key, value in said.items() if key != "than"}.items()
    before = desk.listing()["rules"]
    client.post("/saved/alert", data={"name": "failing chats", "do": "make", **form})
    assert before == desk.listing()["rules"]


def _filled(client: FlaskClient) -> dict[str, str]:
    """What the one alert form of the page holds."""
    text = client.get("/saved").text.split('class="alert-form"')[1].split("</form>")[0]
    inputs = dict(re.findall(r'<input(?: class="short")? name="(\w+)" value="([^"]*)"', text))
    selects = {name: re.search(r'<option(?: value="([^"]*)")? selected>([^<]*)', options)
               for name, options in re.findall(r'<select name="(\w+)">(.*?)</select>', text)}
    assert {"of", "field", "than"} == set(inputs)
    return inputs | {name: chosen[1] if chosen[1] is not None else chosen[2] for name, chosen in selects.items() if chosen}


def test_a_rule_follows_its_search_to_another_name(client: FlaskClient, desk: Desk) -> None:
    """It goes on under its own name with the new label, and the form knows it; a search that takes the old name gets another."""
    client.post("/saved", data={"name": "failing chats", "q": "is:error"})
    client.post("/saved/alert", data=_form())
    (before,) = desk.listing()["rules"]
    client.post("/saved/rename", data={"name": "failing chats", "new": "Chats that fail"})
    (after,) = desk.listing()["rules"]
    assert before | {"labels": {"saved_search": "Chats that fail"}} == after
    client.post("/saved/alert", data=_form(name="Chats that fail", than="7"))
    assert ["failing-chats"] == [rule["name"] for rule in desk.listing()["rules"]]

    client.post("/saved", data={"name": "failing chats", "q": "is:error model:other"})
    made = client.post("/saved/alert", data=_form())
    assert "/alerts?rule=failing-chats-2" == made.location
    assert {("failing-chats", "Chats that fail"), ("failing-chats-2", "failing chats")} == {
        (rule["name"], rule["labels"]["saved_search"]) for rule in desk.listing()["rules"]}


def test_a_search_that_was_changed_says_what_its_rule_watches(client: FlaskClient, desk: Desk) -> None:
    """Until the rule is changed it watches what the search was; then nothing is left to say."""
    client.post("/saved", data={"name": "failing chats", "q": "is:error"})
    client.post("/saved/alert", data=_form())
    client.post("/saved", data={"name": "failing chats", "q": "is:error model:m"})
    assert "It watches <code>is:error</code>" in client.get("/saved").text

    client.post("/saved/alert", data=_form())
    assert "It watches" not in client.get("/saved").text
    assert ["is:error model:m"] == [rule["query"] for rule in desk.listing()["rules"]]


def test_with_a_search_goes_the_rule_of_its_form(client: FlaskClient, desk: Desk) -> None:
    """There would be no form left to remove it by; a rule of a file stays."""
    client.post("/saved", data={"name": "failing chats", "q": "is:error"})
    client.post("/saved/alert", data=_form())
    desk.apply({"rules": [{"name": "own", "query": "is:error", "condition": {"above": 5}}]})
    assert "and its alert rule" in client.get("/saved").text
    client.post("/saved/delete", data={"name": "failing chats"})

    assert ["own"] == [rule["name"] for rule in desk.listing()["rules"]]


@pytest.mark.parametrize(("said", "words"), [
    ({"than": "-1"}, "whole one"), ({"than": "1e9"}, "whole one"), ({"than": "9" * 400}, "whole one"),
    ({"than": "²"}, "whole one"), ({"than": ""}, "whole one"), ({"side": "beside"}, "side is one of"),
    ({"number": "mode"}, "number is one of"), ({"by": "user.id"}, "group is one of"), ({"severity": "grave"}, "severity is one of"),
    ({"number": "share"}, "query of what counts"), ({"number": "share", "of": "is:error", "than": "20"}, "between 0 and 1"),
    ({"number": "share", "of": "is:nonsense", "than": "20%"}, "nonsense"), ({"number": "mean", "than": "1"}, "needs a field"),
    ({"number": "mean", "field": "ttft", "than": "3 bananas"}, "no unit"),
    ({"number": "p95", "field": "ttft", "than": "x"}, "number"),
    ({"number": "p95", "field": "model", "than": "3"}, "model"),
    ({"window": "3m"}, "window is one of"), ({"channel": "nowhere"}, "no channel"), ({"name": "unsaved"}, "no search"),
    ({"do": "remove"}, "no rule"),
])
def test_a_form_that_is_wrong_makes_no_rule(client: FlaskClient, desk: Desk, said: dict[str, str], words: str) -> None:
    """Each is refused in words, and nothing stands."""
    client.post("/saved", data={"name": "failing chats", "q": "is:error"})
    answer = client.post("/saved/alert", data=_form(**said))

    assert answer.status_code in (400, 404)
    assert words in answer.text
    assert [] == desk.listing()["rules"]


def test_a_rule_of_a_file_is_not_touched_by_the_form(client: FlaskClient, desk: Desk) -> None:
    """It may hold what no form shows: neither replaced nor removed, and the page offers neither."""
    client.post("/saved", data={"name": "failing chats", "q": "is:error"})
    desk.apply({"rules": [{"name": "failing-chats", "query": "is:error", "aggregate": "rate", "condition": {"above": 5}}]})
    before = desk.listing()["rules"]

    assert "/saved/alert" not in client.get("/saved").text
    assert {409} == {client.post("/saved/alert", data=_form(do=wanted)).status_code for wanted in ("make", "remove")}
    assert before == desk.listing()["rules"]


def test_a_tenants_editor_watches_and_tells_its_own_alone(store: ClickHouseStore, desk: Desk, tmp_path: Path) -> None:
    """The rule is of the editor's tenant; channels are those the tenant's rules tell already; a reader has the text alone."""
    keys = {scope: credentials.add(tmp_path / "keys.json", scope, [scope], "green") for scope in ("read", "edit")}
    gate = Gate(Credentials(tmp_path / "keys.json"), Sessions(b"s" * 32, secure=False))
    client = create_app(store, Settings(data="unused"), now_ns=lambda: world.NOW_NS, gate=gate).test_client()
    as_of = {scope: {"Authorization": f"Bearer {key}"} for scope, key in keys.items()}
    SavedSearches(store).save("green", SavedSearch("failing chats", "is:error"))
    given = {"name": "given", "tenant": "green", "aggregate": "count", "condition": {"above": 1}, "channels": ["other"]}
    desk.apply({"rules": [given]})

    reading = client.get("/saved", headers=as_of["read"]).text
    assert "cutaway alerts apply" in reading
    assert "/saved/alert" not in reading
    assert 403 == client.post("/saved/alert", data=_form(), headers=as_of["read"]).status_code
    assert 400 == client.post("/saved/alert", data=_form(), headers=as_of["edit"]).status_code
    assert 303 == client.post("/saved/alert", data=_form(channel="other"), headers=as_of["edit"]).status_code
    assert {("green", "given"), ("green", "failing-chats")} == {(rule["tenant"], rule["name"]) for rule in desk.listing()["rules"]}
