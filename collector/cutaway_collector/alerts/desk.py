"""What people do with alerts: apply a file of definitions, list, mute, remove, back-test. Judges and delivers nothing by itself.

The same for the command line over a store of its own and for the routes of a running collector.
"""

from __future__ import annotations

import difflib
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cutaway_collector.alerts import messages
from cutaway_collector.alerts.advice import advice
from cutaway_collector.alerts.backtest import backtest
from cutaway_collector.alerts.book import Book, Definitions, Entry, Kept, Key
from cutaway_collector.alerts.channels import Channel, parse_channel
from cutaway_collector.alerts.documents import plain
from cutaway_collector.alerts.doubts import doubts
from cutaway_collector.alerts.fields import NS, Reader, RuleError
from cutaway_collector.alerts.rules import Rule, parse_rule
from cutaway_collector.contracts import Store
from cutaway_collector.settings import Settings

MUTE_SECONDS_MAX: Final = 366 * 86_400
EVENTS_SHOWN: Final = 100
_KEPT_BLANK: Final = Kept("", 0, {})


class Desk:
    """store: of whoever runs the collector, which may write; for `listing` a tenant's view will do."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._book = Book(store)
        self._settings = settings

    def apply(self, document: Any, *, prune: bool = False, dry_run: bool = False) -> dict[str, Any]:
        """Makes the definitions of a file true: {"changes": [{"kind", "tenant", "name", "action", "diff"}], "applied", "doubts"}.

        doubts: what may be a slip, in sentences. What the file does not name stays, unless prune. The same file again changes
        nothing. Raises RuleError, StoreError.
        """
        rules, channels = read_document(document)
        present = self._book.definitions()
        wanted = {("channel", "", channel.name): channel.body for channel in channels}
        wanted |= {("rule", rule.tenant, rule.name): rule.body for rule in rules}
        bodies = {("channel", "", channel.name): channel.body for channel in present.channels.values()}
        bodies |= {("rule", *key): rule.body for key, rule in present.rules.items()}
        changes, entries = [], []
        for (kind, tenant, name), body in wanted.items():
            before = bodies.get((kind, tenant, name))
            action = "added" if before is None else "same" if before == body else "changed"
            changes.append({"kind": kind, "tenant": tenant, "name": name, "action": action, "diff": _diff(before, body)})
            if action != "same":
                entries.append(Entry("rule" if kind == "rule" else "channel", tenant, name, body))
        for kind, tenant, name in (bodies.keys() - wanted.keys()) if prune else ():
            changes.append({"kind": kind, "tenant": tenant, "name": name, "action": "removed",
                            "diff": _diff(bodies[kind, tenant, name], None)})
            entries.append(Entry("rule" if kind == "rule" else "channel", tenant, name, None))
        self._check(rules, channels, present, entries)
        if entries and not dry_run:
            self._book.define(entries)
        return {"changes": changes, "applied": bool(entries) and not dry_run,
                "doubts": [said for rule in rules for said in doubts(rule)]}

    def _check(self, rules: Sequence[Rule], channels: Sequence[Channel], present: Definitions, entries: Sequence[Entry]) -> None:
        gone = {(entry.kind, entry.tenant, entry.name) for entry in entries if entry.body is None}
        names = {*present.channels, *(channel.name for channel in channels)} - {name for kind, _, name in gone if kind == "channel"}
        after = {key: rule for key, rule in present.rules.items() if ("rule", *key) not in gone}
        after |= {rule.key: rule for rule in rules}
        for rule in after.values():
            for name in rule.channels:
                if name not in names:
                    near = difflib.get_close_matches(name, sorted(names), n=1)
                    raise RuleError(f"rule {rule.name}: there is no channel {name!r}: "
                                    + (f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(names)) or 'none'}"))
        if len(after) > self._settings.alerts_rules_max:
            raise RuleError(f"at most {self._settings.alerts_rules_max} rules are kept, these would be {len(after)}: "
                            "raise alerts_rules_max, or group by a field instead of one rule a value")

    def remove(self, tenant: str, names: Sequence[str]) -> dict[str, Any]:
        """Removes rules, and channels that no rule names. Raises RuleError for a name that there is not."""
        present = self._book.definitions()
        entries: list[Entry] = []
        for name in names:
            if (tenant, name) in present.rules:
                entries += [Entry("rule", tenant, name, None), Entry("mute", tenant, name, None)]
            elif not tenant and name in present.channels:
                users = [rule.name for rule in present.rules.values() if name in rule.channels and rule.name not in names]
                if users:
                    raise RuleError(f"the channel {name} is told by the rule {users[0]}: change that first")
                entries.append(Entry("channel", "", name, None))
            else:
                known = [*(key[1] for key in present.rules), *present.channels]
                raise RuleError(f"there is no rule or channel {name!r}: {_near(name, known)}")
        self._book.define(entries)
        return {"removed": list(names)}

    def mute(self, tenant: str, name: str, until_ns: int, *, now_ns: int | None = None) -> dict[str, Any]:
        """Nobody is told of this rule until then; a moment that is past unmutes. Raises RuleError."""
        now_ns = time.time_ns() if now_ns is None else now_ns
        present = self._book.definitions()
        if (tenant, name) not in present.rules:
            raise RuleError(f"there is no rule {name!r}: {_near(name, [key[1] for key in present.rules if key[0] == tenant])}")
        if until_ns > now_ns + MUTE_SECONDS_MAX * NS:
            raise RuleError("a rule is muted for at most a year: remove it, or leave its channels out")
        # A moment that is past is kept, not deleted: it also ends a mute_until of the rule's own.
        self._book.define([Entry("mute", tenant, name, str(max(0, until_ns)))])
        return {"rule": name, "muted_until": messages.iso(until_ns) if until_ns > now_ns else None}

    def test(self, name_or_rule: Any, start_ns: int, end_ns: int, *, tenant: str = "", late: bool = False) -> dict[str, Any]:
        """Back-test of a stored rule by its name, or of one given. Raises RuleError, StoreError."""
        if isinstance(name_or_rule, str):
            present = self._book.definitions()
            if (tenant, name_or_rule) not in present.rules:
                raise RuleError(f"there is no rule {name_or_rule!r}: {_near(name_or_rule, [key[1] for key in present.rules])}")
            rule = present.rules[tenant, name_or_rule]
        else:
            rule = parse_rule(plain(name_or_rule))
        return backtest(self._store, rule, start_ns, end_ns, lateness_s=self._settings.alerts_lateness_seconds, late=late).shown()

    def listing(self, now_ns: int | None = None) -> dict[str, Any]:
        """Every rule with how it stands, channels by name and kind, the last events with their deliveries. Raises StoreError."""
        now_ns = time.time_ns() if now_ns is None else now_ns
        present, kept, events = self._book.definitions(), self._book.states(), self._book.events(EVENTS_SHOWN)
        deliveries = self._book.deliveries_of([event.id for event in events])
        return {
            "rules": [_rule(rule, kept.get(key), present, now_ns) for key, rule in present.rules.items()],
            "channels": [{"name": channel.name, "kind": channel.kind} for channel in present.channels.values()],
            "events": [{**json.loads(event.body), "muted": event.muted, "deliveries": [
                {"channel": one.channel, "state": one.state, "attempts": one.attempts, "error": one.error}
                for one in deliveries.get(event.id, ())]} for event in events],
            "trouble": present.trouble,
        }


def read_document(document: Any) -> tuple[list[Rule], list[Channel]]:
    """Rules and channels of a file. Raises RuleError, also for two of one name."""
    if not isinstance(document, Mapping):
        raise RuleError("the file has the keys rules and channels, each with a list: `cutaway alerts schema` says what is in them")
    reader = Reader("the file", plain(document), ("rules", "channels"))
    found: list[list[Any]] = []
    for key, parse in (("rules", parse_rule), ("channels", parse_channel)):
        items = reader.part(key) if reader.has(key) else []
        if not isinstance(items, list):
            raise reader.wrong(key, f"a list of {key}")
        found.append([parse(item, f"{key} {number}") for number, item in enumerate(items, 1)])
    rules, channels = found
    seen: set[Key] = set()
    for kind, key in [*(("rule", rule.key) for rule in rules), *(("channel", ("\0", channel.name)) for channel in channels)]:
        if key in seen:
            raise RuleError(f"there are two {kind}s of the name {key[1]!r}: rename one")
        seen.add(key)
    return rules, channels


def _rule(rule: Rule, kept: Kept | None, present: Definitions, now_ns: int) -> dict[str, Any]:
    until_ns = present.muted_until_ns(rule)
    muted = until_ns > now_ns
    held = kept if kept is not None and kept.fingerprint == rule.fingerprint else _KEPT_BLANK
    groups: list[dict[str, Any]] = []
    for key, state in held.groups.items():
        group = messages.group_of(rule, key)
        start_ns = held.judged_ns - rule.window_s * NS
        groups.append({
            "group": group, "state": "muted" if muted and state.fired else state.phase, "value": state.value,
            "recent": list(state.recent),
            "since": messages.iso(state.since * rule.every_s * NS), "link": messages.link(rule, group, start_ns, held.judged_ns)})
    return {
        "name": rule.name, "tenant": rule.tenant, "query": rule.query, "value_words": rule.value_words,
        "group_by": list(rule.group_by),
        "condition": rule.condition.words(), "kind": rule.condition.kind, "severity": rule.severity, "owner": rule.owner,
        "labels": dict(rule.labels), "runbook": rule.runbook, "channels": list(rule.channels), "advice": advice(rule),
        "muted_until": messages.iso(until_ns) if muted else None, "state": _worst([entry["state"] for entry in groups]),
        "judged_to": messages.iso(held.judged_ns) if held.judged_ns else None, "groups": groups,
    }


def _worst(states: Sequence[str]) -> str:
    return next((state for state in ("firing", "muted", "pending", "ok", "no_data") if state in states), "no_data")


def _near(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(names)[:20]) or 'none'}"


def _diff(before: str | None, after: str | None) -> list[str]:
    """Lines "+ key: value", "- key: value" of what differs."""
    old: Mapping[str, Any] = json.loads(before) if before else {}
    new: Mapping[str, Any] = json.loads(after) if after else {}
    out = []
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            out += [f"{sign} {key}: {json.dumps(side[key], ensure_ascii=False)}"
                    for sign, side in (("-", old), ("+", new)) if key in side]
    return out
