"""Streams of drift from stored windows to page, twin and alert: the same chart everywhere, against one written out here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

import drift_helpers as made
from alerts_helpers import Bench, document
from cutaway_collector.alerts import Desk, observe
from cutaway_collector.alerts.backtest import backtest
from cutaway_collector.alerts.fields import NS, RuleError
from cutaway_collector.alerts.rules import parse_rule
from cutaway_collector.baselines import pin, stored
from cutaway_collector.baselines.attributes import Scope
from cutaway_collector.baselines.compare import compare
from cutaway_collector.drift import streams
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, open_store
from cutaway_collector.web import create_app
from drift_helpers import HOUR_NS, MODEL, SERVICE, START_NS
from web_helpers import get

DAY = (START_NS, START_NS + 24 * HOUR_NS)
HOURS, SLOWER = 20, 12
"""Windows that are compared, and the first of those that answer more slowly."""
END_NS = DAY[1] + HOURS * HOUR_NS
CHART = {"kind": "chart", "attribute": "ttft", "chart": "cusum", "run_length": 1000}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseStore]:
    """A pinned day and twenty windows, whose last eight answer a third of a standard deviation later under another version."""
    opened = open_store(Settings(data=str(tmp_path_factory.mktemp("streams") / "data"), retention_days=0, scores_retention_days=0))
    rng = np.random.default_rng(31)
    opened.insert(made.block(made.healthy(rng, 7200), made.moments(rng, 7200, *DAY)), "day")
    one = pin(opened, Scope("", SERVICE, MODEL, *DAY))
    slower = DAY[1] + SLOWER * HOUR_NS
    for name, start, end, count, late_s in (("1.0", DAY[1], slower, 250 * SLOWER, 0.0),
                                            ("1.1", slower, END_NS, 250 * (HOURS - SLOWER), 0.03)):
        numbers = made.healthy(rng, count)
        numbers["TimeToFirstTokenS"] = numbers["TimeToFirstTokenS"] + late_s
        at = made.moments(rng, count, start, end)
        opened.insert(made.block(numbers, at, first=start // HOUR_NS * 10_000, version=name), name)
    for end in range(DAY[1] + HOUR_NS, END_NS + 1, HOUR_NS):
        stored.write(opened, compare(opened, one, end - HOUR_NS, end))
    yield opened
    opened.close()


@pytest.fixture
def client(store: ClickHouseStore) -> FlaskClient:
    return create_app(store, Settings(data="unused"), now_ns=lambda: END_NS).test_client()


def asked_for(client: FlaskClient, path: str) -> dict[str, Any]:
    """A twin."""
    answer = client.get(path)
    assert answer.status_code == 200
    body: dict[str, Any] = answer.json or {}
    return body


def cusum(z: list[float]) -> tuple[list[float], list[bool]]:
    """Page's chart written out, with the limit of the textbook's integral equation; its larger sum after each value."""
    limit, high, low = streams.cusum_limit(1000.0, 0.5), 0.0, 0.0
    sums, alarms = [], []
    for value in z:
        high, low = max(0.0, high + value - 0.5), max(0.0, low - value - 0.5)
        alarms.append(max(high, low) > limit)
        high, low = min(high, 1.1 * limit), min(low, 1.1 * limit)
        sums.append(high if high >= low else -low)
    return sums, alarms


def test_a_small_shift_that_stays_alarms_the_chart(client: FlaskClient) -> None:
    """Within six windows of the deployment and not before it; the twin has each window, its deviation and the chart's value."""
    found = asked_for(client, "/drift.json?of=ttft")["stream"]
    assert (found["attribute"], found["chart"], found["run_length"]) == ("ttft", "cusum", 1000)
    assert len(found["windows"]) == HOURS
    sums, alarms = cusum([one["deviation"] for one in found["windows"]])
    assert [one["value"] for one in found["windows"]] == pytest.approx(sums)
    assert [one["alarm"] for one in found["windows"]] == alarms
    assert SLOWER <= alarms.index(True) < SLOWER + 6


@pytest.mark.parametrize("chart", ["cusum", "ewma", "adwin"])
def test_healthy_attributes_stay_calm(client: FlaskClient, chart: str) -> None:
    """The day of windows in which only the time to the first token moved."""
    for name in ("tokens.in", "entropy", "attn", "tps"):
        windows = asked_for(client, f"/drift.json?of={name}&chart={chart}")["stream"]["windows"]
        assert not any(one["alarm"] for one in windows), name


def test_the_page_draws_the_chart_and_says_how_often_it_is_wrong(client: FlaskClient) -> None:
    """Run length in words, alarms as links to their windows, the deployment marked."""
    page = get(client, "/drift?of=ttft&chart=ewma&run_length=370")
    assert "EWMA, a false alarm every 370 windows on average" in page.text
    assert "1.1 takes over from 1.0" in page.text
    links = [link for link in page.links("/drift?") if "of=ttft" in link and "at=" in link]
    assert links
    assert all(client.get(link).status_code == 200 for link in links)


def test_without_a_choice_the_attribute_that_shifted_most_is_drawn(client: FlaskClient) -> None:
    """Or the first one where nothing did: a chart stands on the page before anybody asks."""
    shown = asked_for(client, "/drift.json")
    counts = {name: sum(name in one["shifted"] for one in shown["windows"]) for name in ("ttft", "entropy", "tokens.in")}
    assert shown["stream"]["attribute"] == max(counts, key=lambda name: counts[name]) or not any(counts.values())
    assert 'class="inside stream"' in client.get("/drift").text


@pytest.mark.parametrize("asked", ["of=finish", "of=nothing", "chart=shewhart", "run_length=5", "run_length=9999999",
                                   "run_length=1e3", "of=%3Cscript%3E"])
def test_what_makes_no_sense_is_refused(client: FlaskClient, asked: str) -> None:
    """A category, an unknown chart, a run length out of bounds: 400 on the page and in the twin, and never as markup."""
    for path in ("/drift", "/drift.json"):
        answer = client.get(f"{path}?{asked}")
        assert answer.status_code == 400
        assert answer.is_json or "<script>" not in answer.text


def test_the_alert_fires_at_the_window_that_the_page_names(store: ClickHouseStore, client: FlaskClient) -> None:
    """One event for the model, though the collector restarts in between; its window is the first alarm of the page."""
    windows = asked_for(client, "/drift.json?of=ttft")["stream"]["windows"]
    first = next(one["end_ns"] for one in windows if one["alarm"])
    slow = document("slow", query=None, aggregate=None, of=None, condition=CHART)
    Desk(store, Settings(data="unused")).apply({"rules": [slow]})
    bench = Bench(store)
    bench.evaluator.tick(DAY[1] + 660 * NS)
    events = []
    for hour in range(1, HOURS + 1):
        if hour in (5, SLOWER + 2):
            bench.restart()
        events += bench.evaluator.tick(DAY[1] + hour * HOUR_NS + 660 * NS).events
    assert [(event.kind, event.end_ns) for event in events] == [("firing", first)]
    report = backtest(store, parse_rule(slow), DAY[1], END_NS, lateness_s=30).shown()
    assert [event["event"] for event in report["events"]] == [event.id for event in events]


def test_the_nearest_of_several_versions_counts() -> None:
    """What is as one of the pinned versions was is as it should be: of each window the smaller deviation is followed, in order."""
    assert observe.nearest([(2, 4.0), (1, -0.5), (2, -1.0), (1, 3.0)]) == (-0.5, -1.0)


@pytest.mark.parametrize(("wrong", "said"), [
    ({"condition": {**CHART, "attribute": "finish"}}, "a chart follows a number"),
    ({"condition": {**CHART, "chart": "cumsum"}}, "did you mean cusum?"),
    ({"condition": {**CHART, "run_length": 5}}, "from 10 to 1e+06"),
    ({"group_by": ["service"]}, "a chart follows one model of one service"),
    ({"query": "is:generation"}, "leave query out"),
    ({"aggregate": "mean", "field": "ttft"}, "a chart condition has no aggregate"),
])
def test_a_chart_that_cannot_be_is_refused(wrong: dict[str, object], said: str) -> None:
    """With the rule, the value and the remedy."""
    with pytest.raises(RuleError, match="rule slow") as refused:
        parse_rule(document("slow", **{"query": None, "aggregate": None, "of": None, "condition": CHART, **wrong}))
    assert said in str(refused.value)


def test_the_words_of_a_rule_state_its_run_length() -> None:
    """As /alerts and messages show it."""
    rule = parse_rule(document("slow", query=None, aggregate=None, of=None,
                               condition={**CHART, "chart": "adwin", "run_length": 500}))
    assert rule.condition.words() == "ttft by ADWIN, a false alarm every at least 500 windows on average"
    assert rule.group_by == ("service", "model")


def test_other_rules_are_judged_on_as_before() -> None:
    """A rule without a chart keeps the fingerprint it had before there were charts: no alert begins anew at an upgrade."""
    rule = parse_rule(document())
    condition = ("Condition(kind='threshold', threshold=0.2, up=True, clear=0.1, for_s=120, clear_for_s=0, alpha=0.01, "
                 "reset_s=86400, low=0.0, high=1.0, attribute='', q_below=0.05)")
    said = ["is:generation", "share", condition, "repetition:>0.5", "", 0.95, "", 0.0, [], 60, 60, 1]
    assert rule.fingerprint == hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]
