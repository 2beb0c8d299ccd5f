"""Files of definitions from strangers: what unfolds, nests or lies is refused in words, quickly, and never stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from alerts_helpers import document
from cutaway_collector.alerts import Desk, RuleError, read_document
from cutaway_collector.alerts.documents import load, plain
from cutaway_collector.contracts import Store
from cutaway_collector.settings import Settings
from cutaway_collector.web import create_app
from web_helpers import with_token

LAUGHS = "a: &a [lol,lol,lol,lol,lol,lol,lol,lol,lol]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True))
RULE = "{name: x, condition: {above: 1}}"

HOSTILE = {
    "aliases that unfold to a billion": (LAUGHS + "rules: *j\n", "at most 200000 values"),
    "a rule a quarter of a million times": (f"x: &x {RULE}\nrules: [{','.join(['*x'] * 250_000)}]", "at most 200000 values"),
    "an alias within itself": ("rules: &a [*a]\n", "within itself"),
    "lists without end": (f"rules: {'[' * 5000}{']' * 5000}", "at most 20 deep"),
    "mappings without end": (f"rules: {'{a: ' * 3000}1{'}' * 3000}", "at most 20 deep"),
    "a key twice": ("rules:\n- name: x\n  condition: {above: 1}\n  name: y\n", "'name' stands twice"),
    "two lists of rules": (f"rules: [{RULE}]\nrules: []\n", "line 2: 'rules' stands twice"),
    "an object of Python": ("rules: !!python/object/apply:os.system ['false']\n", "is no YAML, line 1"),
    "bytes": ("rules: !!binary aGVsbG8=\n", "not bytes"),
    "a set": ("rules: !!set {a, b}\n", "not set"),
    "a number of 400 digits": (f"rules: [{{name: x, condition: {{above: {'9' * 400}}}}}]", "64 bits"),
    "a number of 5,000 digits": (f"rules: [{{name: x, least: {'9' * 5000}}}]", "number or a date"),
    "a thirteenth month": ("rules: [{name: x, mute_until: 2026-13-01}]", "number or a date"),
    "half a character": ('rules: [{name: x, query: "a\\ud800"}]', "Unicode"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_refused_in_words(tmp_path: Path, what: str) -> None:
    """Never a traceback, and never longer than reading it takes."""
    text, said = HOSTILE[what]
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    with pytest.raises(RuleError, match=said):
        load(path)


def test_aliases_and_merges_that_are_meant_work(tmp_path: Path) -> None:
    """What YAML's anchors are for: a part that several rules share."""
    path = tmp_path / "rules.yaml"
    path.write_text("rules:\n- &one {name: a, mute_until: 2026-12-24T18:00:00Z, condition: &c {above: 1}}\n"
                    "- {<<: *one, name: b}\n- {name: c, condition: *c}\n")
    rules, _ = read_document(load(path))
    assert ["a", "b", "c"] == [rule.name for rule in rules]
    assert rules[0].mute_until_ns == rules[1].mute_until_ns == 1_798_135_200 * 10**9


@pytest.mark.parametrize("value", ["\ud800", ["a", {"b": "\udfff"}], {"\ud800": 1}, 2**63, -(10**400), {1, 2}, b"x"])
def test_what_cannot_be_kept_is_refused(value: Any) -> None:
    """Deep inside too."""
    with pytest.raises(RuleError):
        plain({"rules": [value]})


@pytest.mark.parametrize("body", [
    '{"document": {"rules": [{"name": "x", "query": "\\ud800", "condition": {"above": 1}}]}}',
    '{"document": {"rules": [{"name": "x", "condition": {"above": ' + "9" * 400 + '}}]}}',
    '{"document": {"rules": ' + "[" * 100_000 + "]" * 100_000 + '}}',
    '{"document": {"rules": [{"name": "x", "condition": {"above": 1, "above": 2}}]}}',
    '{"document": {"rules": [], "rules": [{"name": "x", "condition": {"above": 1}}]}}',
], ids=["half a character", "a number of 400 digits", "lists without end", "a bound twice", "two lists of rules"])
def test_a_hostile_request_is_refused_and_the_page_goes_on(alerts_store: Store, body: str) -> None:
    """A 400 that names the rule; nothing of it is stored, and /alerts is shown as before."""
    client: FlaskClient = with_token(create_app(alerts_store, Settings(data="unused")).test_client())
    answer = client.post("/admin/alerts-apply.json", data=body, content_type="application/json")
    assert 400 == answer.status_code
    assert [] == Desk(alerts_store, Settings(data="unused")).listing()["rules"]
    assert 200 == client.get("/alerts").status_code


@pytest.mark.parametrize("condition", [
    {"kind": "e_process", "above": 1e-320}, {"kind": "e_process", "above": 1 - 1e-12},
    {"kind": "e_process", "above": 0, "range": [-1e308, 1e308]}, {"kind": "e_process", "above": 5e-324, "range": [0, 1e308]},
])
def test_a_bound_at_the_very_edge_is_refused(condition: dict[str, Any]) -> None:
    """Stakes are one over the bound: at the edge they are no numbers, and evidence made of them none."""
    rule = document(condition=condition, aggregate="mean", of=None, field="repetition")
    with pytest.raises(RuleError, match="not at its edge"):
        read_document(json.loads(json.dumps({"rules": [rule]})))
