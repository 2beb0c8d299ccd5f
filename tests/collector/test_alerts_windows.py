"""Rules over window scores, judged on real rows in a real store: what many answers together show raises an alert of its own."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from prometheus_client import CollectorRegistry

import window_helpers as made
from alerts_helpers import T0_S, Bench, put_windows
from cutaway_collector.alerts import Desk, RuleError
from cutaway_collector.alerts.backtest import backtest
from cutaway_collector.alerts.book import Event
from cutaway_collector.alerts.fields import NS
from cutaway_collector.alerts.rules import parse_rule
from cutaway_collector.contracts import Store
from cutaway_collector.settings import Settings
from cutaway_collector.web import create_app
from cutaway_collector.windowing import LATENESS_SECONDS, Windows
from cutaway_collector.windows import corpora
from search_helpers import spans_block

QUARTER = 900
EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "alerts.yaml"


@pytest.fixture
def store(alerts_store: Store) -> Store:
    return alerts_store


def watching(name: str = "collapse", **changes: Any) -> dict[str, Any]:
    """A rule as YAML gives it: answers that are alike in two windows in a row. A change to None leaves the key out."""
    said = {"name": name, "aggregate": "window_score", "score": "pairwise_cosine",
            "condition": {"above": 0.5, "clear": 0.4, "for": "30m"}, **changes}
    return {key: value for key, value in said.items() if value is not None}


def judged(store: Store, *rules: dict[str, Any], quarters: int) -> list[Event]:
    """Applies the rules and judges so many quarters of an hour; the events in their order."""
    Desk(store, Settings(data="unused")).apply({"rules": list(rules)})
    bench = Bench(store)
    bench.evaluator.tick((T0_S + 301) * NS)
    return [event for number in range(1, quarters + 1)
            for event in bench.evaluator.tick((T0_S + number * QUARTER + 301) * NS).events]


def quarter(event: Event) -> int:
    """How many quarters of an hour from the beginning its window ended."""
    return (event.end_ns // NS - T0_S) // QUARTER


def test_answers_that_become_alike_fire_once_and_end_once(store: Store) -> None:
    """Above the threshold for two windows fires; it ends below the lower threshold, not between the two. A calm group is quiet."""
    put_windows(store, "pairwise_cosine", [0.2, 0.6, 0.2, 0.7, 0.8, 0.45, 0.3])
    put_windows(store, "pairwise_cosine", [0.3] * 7, route="/calm")
    put_windows(store, "vendi_share", [0.9] * 7)

    events = judged(store, watching(), quarters=8)

    assert [("firing", 5, 0.8), ("resolved", 7, 0.3)] == [(event.kind, quarter(event), event.value) for event in events]
    assert {'["chat", "m", "/ask", ""]'} == {event.group for event in events}


def test_evidence_gathers_over_windows(store: Store) -> None:
    """A mean of 0.6 against 0.5 is proven after some windows, and not by one that is high; the group on the bound stays calm. The
    window is the one in which the bets of the definition, on those values in that order, have multiplied by 1 / alpha.
    """
    rng = random.Random(6)
    high = [min(1.0, max(0.0, rng.gauss(0.6, 0.05))) for _ in range(60)]
    put_windows(store, "pairwise_cosine", high)
    put_windows(store, "pairwise_cosine", [0.95, *(0.5 + (0.04 if number % 2 else -0.04) for number in range(59))], route="/calm")
    wealth, proven = [1.0] * 12, 0
    for number, value in enumerate(high, 1):
        wealth = [one * (1 + 0.95 * 2.0 ** -(11 - place) / 0.5 * (value - 0.5)) for place, one in enumerate(wealth)]
        proven = proven or (number if sum(wealth) / 12 >= 1 / 0.01 else 0)

    events = judged(store, watching(condition={"kind": "e_process", "above": 0.5}), quarters=60)

    assert proven > 5
    assert [("firing", proven, '["chat", "m", "/ask", ""]')] == [(event.kind, quarter(event), event.group) for event in events]


def test_the_example_rules_find_what_is_planted(store: Store, tmp_path: Path) -> None:
    """From spans to alarms, an hour long: a service that says one thing, one that recites a document, one whose surprisal climbs;
    the rules of the examples fire for them, each for its own failure, and for the healthy one none does.
    """
    document = made.healthy(1, seed=99, sentences=40)[0]
    corpora.add(tmp_path, "poems", [("poem.txt", document)])
    for number in range(4):
        reciting = made.healthy(30, seed=number, sentences=10)
        reciting[7] += " " + " ".join(document.split()[30:75])
        for place, (service, texts, rise) in enumerate((
                ("one", made.collapsed(30, seed=number), 0.0), ("reciting", reciting, 0.0),
                ("rising", made.healthy(30, seed=10 + number, sentences=10), 2.5),
                ("well", made.healthy(30, seed=20 + number, sentences=10), 0.0))):
            first, start_s = 1000 * number + 100 * place + 1, T0_S + number * QUARTER
            spans = [made.generation(first + one, (start_s + one) * NS, service=service) for one in range(len(texts))]
            store.insert(spans_block(spans), f"spans {first}")
            store.insert(made.tokens_block(spans, texts, rise=rise, seed=first), f"tokens {first}")
    flow = Windows(store, minutes=15, answers_max=100, groups_max=20, folder=tmp_path, registry=CollectorRegistry(),
                   now_s=lambda: T0_S + 4 * QUARTER + LATENESS_SECONDS)
    assert flow.catch_up() == 4
    rules = [one for one in yaml.safe_load(EXAMPLES.read_text())["rules"] if one.get("aggregate") == "window_score"]

    events = judged(store, *rules, quarters=4)

    assert [("answers-recited", 1, '["reciting", "m", "", ""]'), ("answers-collapsed", 2, '["one", "m", "", ""]'),
            ("surprisal-rises", 4, '["rising", "m", "", ""]')] == [(event.rule, quarter(event), event.group) for event in events]


def test_of_several_windows_the_worst_counts(store: Store) -> None:
    """Groups and windows that a rule looks at together: the largest for above, the smallest for below."""
    put_windows(store, "vendi_share", [0.5, 0.9], route="/a")
    put_windows(store, "vendi_share", [0.8, 0.3], route="/b")
    put_windows(store, "vendi_share", [0.9] * 4, seconds=300, service="short", start_s=T0_S)
    put_windows(store, "vendi_share", [0.1], seconds=300, service="short", start_s=T0_S + 1200)
    least = watching("least", score="vendi_share", group_by=["service"], condition={"below": 0.4})
    most = watching("most", score="vendi_share", group_by=["service"], condition={"above": 0.85})

    events = judged(store, least, most, quarters=2)

    assert {("least", '["chat"]', 2, 0.3), ("least", '["short"]', 2, 0.1), ("most", '["chat"]', 2, 0.9),
            ("most", '["short"]', 1, 0.9)} == {(event.rule, event.group, quarter(event), event.value) for event in events}


def test_a_window_longer_than_the_pace_is_judged_when_it_ends(store: Store) -> None:
    """Windows of an hour under a rule of quarters: one quarter sees each, and with a window of an hour all four do."""
    put_windows(store, "pairwise_cosine", [0.9, 0.1], seconds=3600)
    once = watching("once", condition={"above": 0.5})
    held = watching("held", window="1h", condition={"above": 0.5, "for": "45m"})

    events = judged(store, once, held, quarters=9)

    assert [("once", "firing", 4), ("held", "firing", 6), ("once", "resolved", 8), ("held", "resolved", 8)] == sorted(
        ((event.rule, event.kind, quarter(event)) for event in events), key=lambda event: (event[2], event[0] == "held"))


@pytest.mark.parametrize(("query", "fires"), [
    ("-service:labels", {"chat"}), ("service:labels OR route:/none", {"labels"}), ('-route:("/ask", "/none")', set()),
    ("has:template", set()), ("service!=chat", {"labels"}), ('model:"m" -has:template', {"chat", "labels"})])
def test_a_query_leaves_out_what_is_rightly_alike(store: Store, query: str, fires: set[str]) -> None:
    """Labels and extractions repeat themselves: exact values of service, model, route and template say who is watched."""
    for service in ("chat", "labels"):
        put_windows(store, "pairwise_cosine", [0.9], service=service)

    events = judged(store, watching(query=query, group_by=["service"], condition={"above": 0.5}), quarters=1)

    assert fires == {event.group[2:-2] for event in events}


def test_scores_of_few_answers_do_not_count(store: Store) -> None:
    """`least` is about the answers behind a score: measures of diversity depend on how many there are."""
    put_windows(store, "pairwise_cosine", [0.9], count=8)
    put_windows(store, "pairwise_cosine", [0.9], count=40, service="busy")

    events = judged(store, watching(least=20, condition={"above": 0.5}), quarters=1)

    assert ['["busy", "m", "/ask", ""]'] == [event.group for event in events]


def test_windows_that_stay_away_are_missed(store: Store) -> None:
    """no_data: a group of which no window was judged for so long; the threshold beside it goes on firing, for nothing is better."""
    put_windows(store, "pairwise_cosine", [0.9, 0.9])
    put_windows(store, "pairwise_cosine", [0.1], start_s=T0_S + 6 * QUARTER)
    silent = watching("silent", condition={"kind": "no_data", "for": "45m"})

    events = judged(store, silent, watching(condition={"above": 0.5}), quarters=7)

    assert {("silent", "firing", 5), ("silent", "resolved", 7), ("collapse", "firing", 1), ("collapse", "resolved", 7)} == {
        (event.rule, event.kind, quarter(event)) for event in events}


def test_a_back_test_finds_what_live_judging_found(store: Store) -> None:
    """The same rows give the same events under the same ids, group by group."""
    rng = random.Random(4)
    for route in ("/a", "/b", "/c"):
        put_windows(store, "pairwise_cosine", [rng.choice([0.2, 0.45, 0.7]) for _ in range(24)], route=route)
    one = watching(condition={"above": 0.5, "clear": 0.4})

    live = judged(store, one, quarters=24)
    report = backtest(store, parse_rule(one), T0_S * NS, (T0_S + 24 * QUARTER) * NS, lateness_s=30).shown()

    assert len(live) > 6
    assert [event.id for event in live] == [event["event"] for event in report["events"]]


def test_a_tenants_rule_sees_the_windows_of_its_tenant_alone(store: Store) -> None:
    """The engine filters, for window scores as for spans."""
    put_windows(store, "pairwise_cosine", [0.6], tenant="acme")
    put_windows(store, "pairwise_cosine", [0.9], tenant="zoo")

    events = judged(store, watching("acmes", tenant="acme", condition={"above": 0.5}), watching("all", condition={"above": 0.5}),
                    quarters=1)

    assert {("acmes", 0.6), ("all", 0.9)} == {(event.rule, event.value) for event in events}


def test_the_link_shows_the_windows_of_the_group(store: Store) -> None:
    """From the alerts page to the page of windows: of this service, model, route and template, up to the one that fired."""
    put_windows(store, "pairwise_cosine", [0.2, 0.9])
    put_windows(store, "pairwise_cosine", [0.2, 0.2], route="/calm")
    (event,) = judged(store, watching(condition={"above": 0.5}), quarters=2)
    client = create_app(store, Settings(data="unused"), now_ns=lambda: (T0_S + 3 * QUARTER) * NS).test_client()

    page = client.get("/alerts").text
    link = client.get("/alerts.json").json["events"][0]["link"]  # type: ignore[index]
    shown = client.get(link.replace("/windows?", "/windows.json?")).json

    assert f'<a href="{link.replace("&", "&amp;")}">Windows<' in page
    assert {"service": ["chat"], "model": ["m"], "route": ["/ask"], "template": [""]}.items() <= parse_qs(
        urlsplit(link).query, keep_blank_values=True).items()
    assert [T0_S + QUARTER, T0_S] == [window["start_ns"] // NS for window in shown["windows"]]  # type: ignore[index]
    assert {"/ask"} == {window["route"] for window in shown["windows"]}  # type: ignore[index]
    assert event.value == 0.9


@pytest.mark.parametrize(("change", "said"), [
    ({"score": "vendi_shares"}, "did you mean vendi_share"), ({"score": None}, "needs score"),
    ({"score": "toxicity"}, "there are "),
    ({"group_by": ["route", "user"]}, "by service, model, route, template"), ({"query": "is:error"}, "with exact values"),
    ({"query": "service:ch*"}, "with exact values"), ({"query": "route:/a.*/"}, "with exact values"),
    ({"query": "ttft:>1s"}, "exact"),
    ({"over": 0.5}, "leave it out"), ({"condition": {"kind": "e_process", "above": 1.5}}, "within the range"),
    ({"condition": {"kind": "e_process", "above": 0.2}, "window": "1h"}, "looks at each span once"),
    ({"condition": {"kind": "drift", "attribute": "tokens.in"}}, "no aggregate"), ({"window": "20m"}, "multiple of every")])
def test_a_rule_that_is_wrong_is_refused_in_words(change: dict[str, Any], said: str) -> None:
    """What is wrong and what there is instead, before anything is judged."""
    with pytest.raises(RuleError, match=said):
        parse_rule(watching(**change))


def test_each_group_is_watched_unless_the_rule_says_otherwise() -> None:
    """Left out, every service, model, route and template is one; an empty list puts all together."""
    assert ("service", "model", "route", "template") == parse_rule(watching()).group_by
    assert () == parse_rule(watching(group_by=[])).group_by
    assert (QUARTER, 300) == (parse_rule(watching()).every_s, parse_rule(watching()).lateness(60))
