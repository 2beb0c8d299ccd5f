"""What an event says, as one JSON object: the body of a webhook, the facts of a letter, the row of a page. Sends nothing."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, urlencode

from cutaway_collector.alerts.advice import advice
from cutaway_collector.alerts.book import Event
from cutaway_collector.alerts.fields import NS
from cutaway_collector.alerts.judge import Change, window_ns
from cutaway_collector.alerts.rules import Rule

RESOLVED_BY_HAND = "the rule was changed or removed"
_DAY_NS: Final = 86_400 * NS


def event_id(rule: Rule, change: Change) -> str:
    """The same for the same alert, whoever judges it and how often: of rule, group, the window it fired in, and what happened."""
    said = [rule.tenant, rule.name, rule.fingerprint, change.group, change.kind, change.fired * rule.every_s]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]


def event(rule: Rule, change: Change, *, muted: bool, base: str) -> Event:
    """The event of a change. base: what stands before the path of links, "" for none."""
    start_ns, end_ns = window_ns(rule, change.step)
    group = group_of(rule, change.group)
    message: dict[str, Any] = {
        "event": event_id(rule, change), "kind": change.kind, "rule": rule.name, "tenant": rule.tenant, "severity": rule.severity,
        "owner": rule.owner, "labels": dict(rule.labels), "group": group, "value": change.value, "value_words": rule.value_words,
        "condition": rule.condition.words(), "query": query_of(rule, group), "window_start": iso(start_ns),
        "window_end": iso(end_ns), "advice": advice(rule), "runbook": rule.runbook, "reason": change.reason,
        "link": base.rstrip("/") + link(rule, group, start_ns, end_ns),
    }
    return Event(message["event"], rule.tenant, rule.name, change.group, change.kind, start_ns, end_ns, change.value, muted,
                 json.dumps(message, sort_keys=True))


def group_of(rule: Rule, key: str) -> dict[str, str]:
    """Field -> value of a group."""
    return dict(zip(rule.group_by, json.loads(key), strict=False))


def query_of(rule: Rule, group: dict[str, str]) -> str:
    """The search that shows what was judged: the rule's own, what counts, and the group; of windows their service's answers."""
    if rule.source == "windows":
        rule, group = replace(rule, query="is:generation"), {name: group[name] for name in group if name == "service"}
    parts = [f"({part})" if " OR " in part else part for part in (rule.query, rule.of) if part]
    for name, value in group.items():
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        parts.append(f'{name}:"{escaped}"' if value else f"-has:{name}")
    return " ".join(parts)


def link(rule: Rule, group: dict[str, str], start_ns: int, end_ns: int) -> str:
    """The search page of a window; of window scores their page, with the day that led there."""
    if rule.source == "windows":
        asked = {**group, "from": iso(start_ns - _DAY_NS), "to": iso(end_ns)}
        return f"/windows?{urlencode(asked, quote_via=quote)}"
    asked = {"q": query_of(rule, group), "from": iso(start_ns), "to": iso(end_ns)}
    return f"/search?{urlencode(asked, quote_via=quote)}"


def iso(ns: int) -> str:
    """Nanoseconds since 1970 as 2026-01-31T18:00:00Z: windows end at whole seconds."""
    return datetime.fromtimestamp(ns // NS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
