"""Planted failures from model to alarm: a real SDK, a real collector, its scores, and the alert rules of the examples.

`pytest tests/end_to_end/test_planted_failures.py -s` prints what each rule measured of the failure and of its control.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from planted_helpers import CALLS, HEALTHY, MIX, MIX_MODEL
from serving import Serving
from store_helpers import wait_until

pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

TESTS = Path(__file__).parent.parent
RULES = TESTS.parent / "examples" / "alerts.yaml"
FLAGS = ("--judge", "light,toxicity", "--judge-core-percent-max", "100", "--drift-interval-minutes", "1",
         "--alerts-interval-seconds", "2", "--windows-minutes", "0")
QUICKER = {"lateness": "150s"}
"""What of the rules differs here: they wait less for what is computed of a span, and drift has windows of a minute. Those over
window scores find none: `tests/collector/test_alerts_windows.py` plants what they watch."""


@dataclass(frozen=True)
class Planted:
    """A failure: the service that fails, its control, the score that moves (up, unless it `falls`), the rule that fires."""

    service: str
    control: str
    score: str
    rule: str
    falls: bool = False


PLANTED = (
    Planted("looping", "looping-shuffled", "loop_period", "looping-answers"),
    Planted("cold", f"cold{HEALTHY}", "perplexity", "temperature-collapsed", falls=True),
    Planted(MIX, f"{MIX}{HEALTHY}", "tokens.in", "prompt-mix-moved"),
    Planted("leaking", f"leaking{HEALTHY}", "system_prompt_leak", "system-prompt-leaks"),
    Planted("toxic", f"toxic{HEALTHY}", "toxicity", "toxic-answers"),
)


@dataclass
class Judged:
    """scores: (score, service) -> mean over its sequences; fired: rule -> services; back: the same of the back-test."""

    scores: dict[tuple[str, str], float]
    fired: dict[str, set[str]]
    back: dict[str, set[str]]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    """All stages, one collector; ends when every rule has judged every minute of them."""
    folder = tmp_path_factory.mktemp("planted")
    data, quick = folder / "data", folder / "quick.yaml"
    document = yaml.safe_load(RULES.read_text())
    for rule in document["rules"]:
        slower = rule["condition"].get("kind") == "drift" or rule.get("aggregate") == "window_score"
        rule.update(QUICKER, **({"every": "1m"} if slower else {}))
    quick.write_text(yaml.safe_dump(document))
    with Serving(data, *FLAGS) as serving:
        with (folder / "program.log").open("w") as log:
            program = subprocess.Popen([sys.executable, str(TESTS / "planted_helpers.py"), serving.addresses["otlp_grpc"]],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            _stage(program, folder, "baseline")
            wait_until(lambda: _count(serving, f"service:{MIX}*") == 4 * CALLS, 60)
            for service in (MIX, MIX + HEALTHY):
                _run("baselines", "pin", "--service", service, "--model", MIX_MODEL, "--from", "-30m", "--data", str(data))
            _run("alerts", "apply", str(quick), "--data", str(data))
            _stage(program, folder, "drift")
            _stage(program, folder, "failures")
        finally:
            program.kill()
            program.wait(60)
        over = datetime.now(UTC) + timedelta(minutes=1)
        wait_until(lambda: all(_judged_to(rule) >= over for rule in serving.json("/alerts.json")["rules"]), 400)
        found = serving.json("/alerts.json")
        rehearsed = serving.run("alerts", "test", str(RULES), "--since", "-1d", "--data", str(data), "--json")
        assert rehearsed.returncode in (0, 1), rehearsed.stderr
        result = _result(found, rehearsed.stdout, serving)
    print(_table(result))
    return result


def _stage(program: subprocess.Popen[str], folder: Path, name: str) -> None:
    assert program.stdin is not None
    assert program.stdout is not None
    print(name, file=program.stdin, flush=True)
    assert program.stdout.readline().strip() == name, (folder / "program.log").read_text()


def _run(*arguments: str) -> None:
    done = Serving.run(*arguments)
    assert done.returncode == 0, done.stderr


def _count(serving: Serving, q: str) -> int:
    rows = serving.json("/search.json", q=f"{q} is:generation | stats count()")["rows"]
    return int(rows[0][0]) if rows else 0


def _judged_to(rule: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(rule["judged_to"]) if rule["judged_to"] else datetime.min.replace(tzinfo=UTC)


def _result(found: dict[str, Any], rehearsed: str, serving: Serving) -> Judged:
    fired = {rule["name"]: set[str]() for rule in found["rules"]}
    for event in found["events"]:
        if event["kind"] == "firing":
            fired[event["rule"]].add(event["group"]["service"])
    reports = [json.loads(line) for line in rehearsed.splitlines()]
    back = {report["rule"]: {event["group"]["service"] for event in report["events"]} for report in reports}
    scores = {(one.score, service): _mean(serving, service, one.score) for one in PLANTED for service in (one.service, one.control)}
    return Judged(scores, fired, back)


def _mean(serving: Serving, service: str, score: str) -> float:
    """Of a service's stored scores, or of the lengths of its newest prompts."""
    rows = serving.json("/search.json", q=f"service:{service} is:generation", limit=str(CALLS))["rows"]
    if score == "tokens.in":
        return statistics.fmean(row["input_tokens"] for row in rows)
    pages = [serving.json(f"/gen/{row['span_id']}.json") for row in rows]
    return statistics.fmean(one["value"] for page in pages for one in page["scores"] if one["name"] == score)


def _table(judged: Judged) -> str:
    lines = [f"\n{'failure':<12} {'score':<20} {'planted':>9} {'control':>9}  {'rule':<24} fired for"]
    for one in PLANTED:
        planted, control = (judged.scores[one.score, service] for service in (one.service, one.control))
        lines.append(f"{one.service:<12} {one.score:<20} {planted:>9.4g} {control:>9.4g}  {one.rule:<24} "
                     f"{', '.join(sorted(judged.fired[one.rule])) or 'none'}")
    return "\n".join(lines)


@pytest.mark.parametrize("one", PLANTED, ids=lambda one: one.service)
def test_a_planted_failure_moves_its_score_and_fires_its_rule(judged: Judged, one: Planted) -> None:
    """The score differs from its control's by a factor of two, and the rule fires for the failure and not for the control."""
    planted, control = (judged.scores[one.score, service] for service in (one.service, one.control))
    worse, better = (control, planted) if one.falls else (planted, control)
    assert worse > 2 * better
    assert one.service in judged.fired[one.rule]
    assert one.control not in judged.fired[one.rule]


def test_no_control_raises_any_alarm(judged: Judged) -> None:
    """Of the healthy and the shuffled, no rule of any failure fires."""
    controls = {one.control for one in PLANTED}
    assert {(rule, service) for rule, services in judged.fired.items() for service in services & controls} == set()


def test_the_rules_as_they_stand_say_the_same_of_the_past(judged: Judged) -> None:
    """`cutaway alerts test` of the unchanged file finds the same alarms; drift's window of an hour was not over."""
    live = {rule: services for rule, services in judged.fired.items() if rule != "prompt-mix-moved"}
    assert {rule: judged.back[rule] for rule in live} == live
