"""Rules judged on real rows in a real store: planted failures fire once, healthy controls never, restarts change nothing."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from alerts_helpers import MINUTE, T0_S, Bench, document, put_minutes, put_scores, put_spans, rule
from cutaway_collector.alerts import Desk
from cutaway_collector.alerts.backtest import backtest
from cutaway_collector.alerts.fields import NS
from cutaway_collector.alerts.observe import UNGROUPED
from cutaway_collector.alerts.rules import parse_rule
from cutaway_collector.contracts import Store
from cutaway_collector.errors import StoreError
from cutaway_collector.search import language
from cutaway_collector.settings import Settings

LOG = [{"name": "log", "kind": "log"}]


@pytest.fixture
def store(alerts_store: Store) -> Store:
    return alerts_store


def _apply(store: Store, *rules: dict[str, object]) -> None:
    Desk(store, Settings(data="unused")).apply({"rules": list(rules), "channels": LOG})


def _bench(store: Store, *rules: dict[str, object], start_s: int = T0_S) -> Bench:
    """Rules applied and seen for the first time just before `start_s`."""
    _apply(store, *rules)
    bench = Bench(store)
    assert [] == bench.evaluator.tick((start_s + 31) * NS).events
    return bench


def _said(events: list[object]) -> list[tuple[str, str]]:
    return [(event.kind, event.group) for event in events]  # type: ignore[attr-defined]  # events of the book


def test_a_looping_model_fires_once_and_ends_once(store: Store) -> None:
    """Planted loops hold the alert for minutes: one beginning, one end, each delivered to its channel."""
    bench = _bench(store, document(channels=["log"]))
    put_minutes(store, [0, 0.05, 0.5, 0.6, 0.5, 0.15, 0.5, 0.05, 0, 0])

    events = bench.run(T0_S, 10)

    assert [("firing", "[]"), ("resolved", "[]")] == _said(events)
    assert (T0_S + 4 * MINUTE) * NS == events[0].end_ns  # the second minute in a row
    assert 0.6 == pytest.approx(events[0].value)
    assert (T0_S + 8 * MINUTE) * NS == events[1].end_ns  # 0.15 lies between clear and threshold: it goes on
    assert [event.id for event in events] == [one.event for one in bench.sent]


def test_healthy_answers_never_fire(store: Store) -> None:
    """Shuffled controls about the healthy rate, for two hours, judged every ten minutes."""
    rng = random.Random(5)
    mean = document("mean", aggregate="mean", of=None, field="repetition", condition={"above": 0.5})
    bench = _bench(store, document(channels=["log"]), mean)
    put_minutes(store, [rng.choice([0, 0.05, 0.1]) for _ in range(120)])

    assert [] == bench.run(T0_S, 120, every_s=600)


def test_a_rise_of_toxic_scores_fires(store: Store) -> None:
    """Score rows of planted toxicity: their mean and their share beyond a limit, by service; the calm one is left alone."""
    mean = document("toxic-mean", aggregate="score_mean", of=None, score="toxicity", group_by=["service"],
                    condition={"above": 0.3}, lateness="30s")
    share = document("toxic-share", aggregate="score_share", of=None, score="toxicity", over=0.5, group_by=["service"],
                     query="service:chat", condition={"above": 0.3}, lateness="30s")
    bench = _bench(store, mean, share)
    for service in ("chat", "calm"):
        ids = put_spans(store, T0_S, [0.0] * 60, service=service, every_s=6)
        toxic = [0.9 if service == "chat" and number // 10 in (2, 3) and number % 10 < 6 else 0.01 for number in range(60)]
        put_scores(store, ids, T0_S, "toxicity", toxic, service=service, every_s=6)

    events = bench.run(T0_S, 6)

    assert {("toxic-mean", "firing", '["chat"]'), ("toxic-mean", "resolved", '["chat"]'), ("toxic-share", "firing", '["chat"]'),
            ("toxic-share", "resolved", '["chat"]')} == {(event.rule, event.kind, event.group) for event in events}
    assert 4 == len(events)


def test_silence_fires_once_and_speech_ends_it(store: Store) -> None:
    """No spans for three minutes; a group that was never seen is not missed."""
    quiet = document("quiet", aggregate=None, of=None, group_by=["service"], condition={"kind": "no_data", "for": "3m"})
    bench = _bench(store, quiet)
    put_minutes(store, [0, 0])
    put_minutes(store, [0] * 12, service="steady")
    put_minutes(store, [0], start_s=T0_S + 9 * MINUTE)

    events = bench.run(T0_S, 11)

    assert [("firing", '["chat"]'), ("resolved", '["chat"]')] == _said(events)
    assert [(T0_S + 5 * MINUTE) * NS, (T0_S + 10 * MINUTE) * NS] == [event.end_ns for event in events]


def test_drift_that_is_found_fires_until_a_window_is_steady(store: Store) -> None:
    """Rows of the drift table: two shifted windows in a row fire, few values say nothing, a steady window ends it."""
    moved = document("moved", aggregate=None, query=None, of=None, group_by=["model"],
                     condition={"kind": "drift", "attribute": "perplexity", "q_below": 0.01, "for": "2h"})
    bench = _bench(store, moved)
    hour = 3600
    labels = ["steady", "shifted", "shifted", "few", "shifted", "steady"]
    for number, label in enumerate(labels):
        for model, said, q in (("m", label, 0.001), ("calm", "steady", 0.5), ("weak", "shifted", 0.04)):
            store.command(
                "INSERT INTO otel.gen_ai_drift (ServiceName, GenAiModel, BaselineId, WindowStart, WindowEnd, Attribute, Statistic, "
                f"Label, Q, N) VALUES ('chat', '{model}', 'b', fromUnixTimestamp64Nano({(T0_S + number * hour) * NS}), "
                f"fromUnixTimestamp64Nano({(T0_S + (number + 1) * hour) * NS}), 'perplexity', 'ks', '{said}', {q}, 50)")

    events = bench.run(T0_S + 660, 6 * 60, every_s=1800)

    assert [("firing", '["m"]', 3), ("resolved", '["m"]', 6)] == [
        (event.kind, event.group, (event.end_ns // NS - T0_S) // hour) for event in events]


def test_evidence_fires_for_a_changed_rate_and_ends_when_it_is_back(store: Store) -> None:
    """An e-process on the share of loops: calm at a twentieth, planted at two fifths, calm again."""
    proven = document("proven", condition={"kind": "e_process", "above": 0.1, "alpha": 0.001})
    bench = _bench(store, proven)
    put_minutes(store, [0.05] * 10 + [0.4] * 8 + [0.0] * 12)

    events = bench.run(T0_S, 30, every_s=300)

    assert ["firing", "resolved"] == [event.kind for event in events]
    assert (T0_S + 10 * MINUTE) * NS < events[0].end_ns <= (T0_S + 18 * MINUTE) * NS


def test_evidence_of_means_is_summed_by_the_store_as_numpy_does(store: Store) -> None:
    """The store's sums of logarithms equal those of the values themselves."""
    import numpy as np

    from cutaway_collector.alerts import evidence
    from cutaway_collector.alerts.observe import batch_of, observe

    values = np.random.default_rng(1).uniform(-1, 5, 50)
    put_spans(store, T0_S, values.tolist())
    watched = rule(aggregate="mean", of=None, field="repetition", condition={"kind": "e_process", "below": 3, "range": [0, 4]})
    step = T0_S // 60 + 1
    seen = observe(store, batch_of(watched, 30), [watched], step, step)[watched.key].steps[step]["[]"]

    unit = np.clip(values, 0, 4) / 4
    assert 50 == seen.count
    assert evidence.of_values(1 - unit, 0.25) == pytest.approx(np.array(seen.logs), rel=1e-9)
    assert evidence.of_values(unit, 0.75) == pytest.approx(np.array(seen.opposite), rel=1e-9)


def test_what_arrives_after_a_window_is_due_is_not_counted(store: Store) -> None:
    """Live and back-test leave the same rows out; --late takes them in."""
    put_minutes(store, [0.0] * 5)
    put_minutes(store, [1.0] * 5, delay_s=300)
    watched = rule()

    def kinds(late: bool) -> list[str]:
        report = backtest(store, watched, T0_S * NS, (T0_S + 300) * NS, lateness_s=30, late=late)
        return [change.kind for change in report.changes]

    assert [] == kinds(False)
    assert ["firing"] == kinds(True)


@pytest.mark.parametrize("killed_after", [0, 2, 3, 5])
def test_a_restart_at_any_minute_changes_nothing(store: Store, killed_after: int) -> None:
    """What an uninterrupted run records and sends, an interrupted one does, also where the restart comes late."""
    put_minutes(store, [0, 0.5, 0.5, 0.5, 0.5, 0, 0, 0])
    bench = _bench(store, document(channels=["log"]))
    events = bench.run(T0_S, killed_after)
    bench.restart()
    events += bench.run(T0_S + min(8, killed_after + 2) * MINUTE, 8 - min(8, killed_after + 2))

    assert [("firing", "[]"), ("resolved", "[]")] == _said(events)
    assert 2 == len({one.event for one in bench.sent}) == len(bench.sent)
    assert 2 == len(bench.book.events())


def test_a_write_that_fails_halfway_is_repeated_under_the_same_ids(store: Store) -> None:
    """Events are stored, the states are not: judged again, nothing is doubled."""

    class Failing:
        """The store, whose inserts of states fail while `broken`."""

        database = "otel"
        broken = False

        def insert(self, block: object, token: str) -> None:
            if self.broken and block.table == "cutaway_alert_states":  # type: ignore[attr-defined]  # a block
                raise StoreError("away", retryable=True)
            store.insert(block, token)  # type: ignore[arg-type]  # handed on as it came

        def __getattr__(self, name: str) -> object:
            return getattr(store, name)

    failing = Failing()
    put_minutes(store, [0.5] * 4)
    bench = _bench(failing, document(channels=["log"]))  # type: ignore[arg-type]  # a store in all that is used
    failing.broken = True
    for _ in range(3):
        with pytest.raises(StoreError, match="away"):
            bench.run(T0_S + 4 * MINUTE, 0)
    failing.broken = False
    bench.run(T0_S + 4 * MINUTE, 1)

    assert 1 == len(bench.book.events()) == len(bench.sent)


def test_a_muted_alert_is_recorded_and_told_when_the_mute_ends(store: Store) -> None:
    """Nobody is told while muted; an alert that still fires afterwards is told once, under the id it had."""
    bench = _bench(store, document(channels=["log"]))
    put_minutes(store, [0.5] * 8)
    Desk(store, Settings(data="unused")).mute("", "loops", (T0_S + 5 * MINUTE) * NS, now_ns=T0_S * NS)

    early = bench.run(T0_S, 4)
    assert [True] == [event.muted for event in early]
    assert [] == bench.sent
    bench.restart()
    bench.run(T0_S + 5 * MINUTE, 3)

    assert [early[0].id] == [one.event for one in bench.sent]
    assert [(early[0].id, False)] == [(event.id, event.muted) for event in bench.book.events()]


def test_groups_are_bounded_and_the_largest_are_judged(store: Store) -> None:
    """Twelve services, five of them judged: those with the most spans; the others are counted as left out."""
    bench = _bench(store, document(group_by=["service"], groups_max=5, aggregate="count", of=None, query="",
                                   condition={"above": 0}))
    services = [f"s{number:02}" for number in range(12) for _ in range(number + 1)]
    put_spans(store, T0_S, [0.0] * len(services), service=services, every_s=0.1)

    tally = bench.evaluator.tick((T0_S + MINUTE + 31) * NS)

    assert [f'["s{number:02}"]' for number in (11, 10, 9, 8, 7)] == [event.group for event in tally.events]
    assert {("", "loops"): 7} == tally.left_out


def test_a_tenants_rule_sees_the_rows_of_its_tenant_alone(store: Store) -> None:
    """The engine filters: a rule of one tenant counts none of another's spans."""
    bench = _bench(store, *(document(f"count-{tenant or 'all'}", tenant=tenant, aggregate="count", of=None, query="",
                                     condition={"above": 0}) for tenant in ("", "acme", "zoo")))
    put_spans(store, T0_S, [0.0] * 3, tenant="acme")
    put_spans(store, T0_S, [0.0] * 5, tenant="zoo")

    events = bench.run(T0_S + MINUTE, 0)

    assert {"count-all": 8, "count-acme": 3, "count-zoo": 5} == {event.rule: event.value for event in events}


def test_a_changed_or_removed_rule_ends_what_it_fired(store: Store) -> None:
    """Nothing fires for ever because its rule went away: the end is recorded, with its reason, and told."""
    bench = _bench(store, document(channels=["log"]))
    put_minutes(store, [0.5] * 3)
    assert ["firing"] == [event.kind for event in bench.run(T0_S, 3)]
    Desk(store, Settings(data="unused")).remove("", ["loops"])

    (event,) = bench.run(T0_S + 4 * MINUTE, 0)

    assert "resolved" == event.kind
    assert "changed or removed" in json.loads(event.body)["reason"]
    assert ["firing", "resolved"] == [json.loads(one.body)["kind"] for one in bench.sent]
    assert {} == bench.book.states()


def test_a_broken_rule_does_not_keep_others_from_being_judged(store: Store) -> None:
    """The engine refuses a pattern that only it can judge; the rule is named, its neighbours in the statement go on."""
    bench = _bench(store, document(condition={"above": 0.2}), document("bad", query="name:/a(?=b)/", condition={"above": 0.2}))
    put_minutes(store, [0.5])

    tally = bench.evaluator.tick((T0_S + MINUTE + 31) * NS)

    assert ["loops"] == [event.rule for event in tally.events]
    assert [("", "bad")] == list(tally.failed)
    assert [("", "bad")] == list(bench.evaluator.tick((T0_S + 2 * MINUTE + 31) * NS).failed)


def test_a_back_test_finds_what_live_judging_found(store: Store) -> None:
    """The same rows give the same events under the same ids, of every kind of rule, group by group."""
    rng = random.Random(3)
    rules = [
        document(group_by=["service"]),
        document("window", window="5m", aggregate="quantile", of=None, field="repetition", quantile=0.8,
                 condition={"above": 0.5}),
        document("few", aggregate="rate", of=None, condition={"below": 0.5}),
        document("proven", condition={"kind": "e_process", "above": 0.05}),
        document("quiet", aggregate=None, of=None, query="service:b", condition={"kind": "no_data", "for": "2m"}),
    ]
    bench = _bench(store, *rules)
    put_minutes(store, [rng.choice([0, 0, 0.3, 0.6]) if minute > 8 else 0 for minute in range(20)], service="a")
    for start in (0, 10):
        put_minutes(store, [0, 0, 0.6, 0.6, 0, 0], service="b", start_s=T0_S + start * MINUTE)

    live = bench.run(T0_S, 20, every_s=120)
    assert {"loops", "window", "few", "proven", "quiet"} == {event.rule for event in live}
    for one in rules:
        watched = parse_rule(one)
        width = 0 if one["name"] != "window" else 4 * MINUTE  # the first live windows reach back before the first span
        report = backtest(store, watched, (T0_S - width) * NS, (T0_S + 20 * MINUTE) * NS, lateness_s=30).shown()
        expected = [event.id for event in live if event.rule == one["name"]]
        assert expected == [event["event"] for event in report["events"]], one["name"]


def test_a_clock_that_went_forward_and_back_costs_nothing_but_that_time(store: Store) -> None:
    """A year ahead for a moment, then right again: the rule fires as it would have, and a restart knows the later state."""
    put_minutes(store, [0.5] * 30)
    bench = _bench(store, document())
    assert [] == bench.evaluator.tick((T0_S + 365 * 86_400) * NS).events
    assert ["firing"] == [event.kind for event in bench.run(T0_S, 8)]
    bench.restart()
    assert [] == bench.run(T0_S + 9 * MINUTE, 5)
    assert "firing" == bench.book.states()["", "loops"].groups[UNGROUPED].phase


def test_a_rule_that_breaks_in_python_holds_up_no_other(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the fault is, it is said of that rule alone and the others of its statement are judged."""
    put_minutes(store, [0.5] * 10)
    bench = _bench(store, document(), document("broken", query="repetition:>0.123"))
    parse = language.parse

    def breaking(text: str) -> Any:
        if "0.123" in text:
            raise TypeError("broken")
        return parse(text)

    monkeypatch.setattr(language, "parse", breaking)
    tally = bench.evaluator.tick((T0_S + 3 * MINUTE + 31) * NS)
    assert {("", "broken"): "TypeError: broken"} == tally.failed
    assert ["loops"] == [event.rule for event in tally.events]
