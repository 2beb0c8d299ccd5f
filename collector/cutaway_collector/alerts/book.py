"""What is kept of alerts, in the store: definitions, states, events, deliveries. Judges nothing and tells nobody.

Each write may be repeated: keys are made of what a row is about, and of equal keys the newest version wins.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from cutaway_collector.alert_columns import ALERT_DELIVERIES, ALERT_EVENTS, ALERT_RULES, ALERT_STATES
from cutaway_collector.alerts.channels import Channel, parse_channel
from cutaway_collector.alerts.documents import plain
from cutaway_collector.alerts.fields import RuleError
from cutaway_collector.alerts.judge import State
from cutaway_collector.alerts.rules import Rule, parse_rule
from cutaway_collector.blocks import Block, Column, Nullable, Strings
from cutaway_collector.contracts import Store
from cutaway_collector.search import rows

Kind = Literal["rule", "channel", "mute"]
Key = tuple[str, str]
PENDING_MAX: Final = 10_000


@dataclass(slots=True)
class Definitions:
    """All that is defined. mutes: rule key -> until, nanoseconds since 1970. trouble: what is stored and cannot be understood."""

    rules: dict[Key, Rule] = field(default_factory=dict)
    channels: dict[str, Channel] = field(default_factory=dict)
    mutes: dict[Key, int] = field(default_factory=dict)
    trouble: list[str] = field(default_factory=list)

    def muted_until_ns(self, rule: Rule) -> int:
        """Until when nobody is told; what was said by hand wins over the rule's own word."""
        return self.mutes.get(rule.key, rule.mute_until_ns)


class Entry(NamedTuple):
    """One definition to write. body: None removes it."""

    kind: Kind
    tenant: str
    name: str
    body: str | None


class Kept(NamedTuple):
    """What is stored of a rule: by which fingerprint, up to which moment (nanoseconds since 1970), and its groups."""

    fingerprint: str
    judged_ns: int
    groups: dict[str, State]


class Event(NamedTuple):
    """An alert began or ended. body: the message, as JSON."""

    id: str
    tenant: str
    rule: str
    group: str
    kind: str
    start_ns: int
    end_ns: int
    value: float | None
    muted: bool
    body: str


@dataclass(slots=True)
class Delivery:
    """One event on its way to one channel."""

    tenant: str
    event: str
    channel: str
    body: str
    state: str = "pending"
    attempts: int = 0
    next_ns: int = 0
    error: str = ""
    version: int = 1


class Book:
    """Reads and writes the tables of alerts. All calls raise StoreError."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._version = 0  # of states: the largest that was read or written

    def stamp(self) -> tuple[int, int]:
        """Changes when a definition does."""
        found = self._query(f"SELECT max(Version), count() FROM {self._table(ALERT_RULES.name)}")[0]
        return int(found[0]), int(found[1])

    def definitions(self) -> Definitions:
        """Everything defined, as far as it can be understood."""
        found = Definitions()
        for tenant, kind, name, body in self._query(
                f"SELECT TenantId, Kind, Name, Body FROM {self._table(ALERT_RULES.name)} FINAL ORDER BY TenantId, Kind, Name"):
            try:
                value = json.loads(body)
                if kind == "rule":
                    found.rules[tenant, name] = parse_rule(plain(value))
                elif kind == "channel":
                    found.channels[name] = parse_channel(plain(value))
                else:
                    found.mutes[tenant, name] = int(value)
            except (RuleError, ValueError) as error:
                found.trouble.append(f"{kind} {name}: {error}")
        return found

    def define(self, entries: Sequence[Entry]) -> None:
        """Writes and removes definitions, all or none."""
        now_ns = max(time.time_ns(), self.stamp()[0] + 1)
        self._insert(ALERT_RULES.name, len(entries), {
            "TenantId": Strings.of([entry.tenant for entry in entries]), "Kind": Strings.of([entry.kind for entry in entries]),
            "Name": Strings.of([entry.name for entry in entries]), "Body": Strings.of([entry.body or "" for entry in entries]),
            "Version": np.full(len(entries), now_ns, np.uint64),
            "IsDeleted": np.array([entry.body is None for entry in entries], np.uint8)})

    def states(self) -> dict[Key, Kept]:
        """How every rule stands."""
        kept: dict[Key, Kept] = {}
        ((newest,),) = self._query(f"SELECT max(Version) FROM {self._table(ALERT_STATES.name)}")
        self._version = max(self._version, int(newest))
        for owner, rule, group, fingerprint, phase, value, memory, version in self._query(
                "SELECT TenantId, Rule, GroupKey, Fingerprint, Phase, Value, Memory, Version FROM "
                f"{self._table(ALERT_STATES.name)} FINAL ORDER BY GroupKey"):
            if not group:  # comes first: how far the rule has been judged
                judged_ns = json.loads(memory).get("judged_ns", version)  # once the version was the moment
                kept[owner, rule] = Kept(fingerprint, int(judged_ns), {})
            elif (owner, rule) in kept:
                kept[owner, rule].groups[group] = State.of(phase, value, memory)
        return kept

    def save_states(self, changed: Iterable[tuple[Rule, str, State | None, int]]) -> None:
        """(rule, group, its state or None to forget it, end of the window); group "" is how far the rule has been judged."""
        items = list(changed)
        fingerprints = {id(rule): rule.fingerprint for rule in {id(rule): rule for rule, *_ in items}.values()}
        states = [state or State() for _, _, state, _ in items]
        memories = [state.memory() if group else json.dumps({"judged_ns": end_ns})
                    for (_, group, _, end_ns), state in zip(items, states, strict=True)]
        self._insert(ALERT_STATES.name, len(items), {
            "TenantId": Strings.of([rule.tenant for rule, *_ in items]), "Rule": Strings.of([rule.name for rule, *_ in items]),
            "GroupKey": Strings.of([group for _, group, _, _ in items]),
            "Fingerprint": Strings.of([fingerprints[id(rule)] for rule, *_ in items]),
            "Phase": Strings.of([state.phase for state in states]), "Value": _nullable([state.value for state in states]),
            "Memory": Strings.of(memories), "Version": self._versions(len(items)),
            "IsDeleted": np.array([bool(group) and state is None for _, group, state, _ in items], np.uint8)})

    def forget_rules(self, keys: Sequence[Key], kept: Mapping[Key, Kept]) -> None:
        """Deletes the states of rules that are gone or have changed."""
        entries = [(key, group) for key in keys for group in ("", *kept[key].groups)]
        if entries:
            self._insert(ALERT_STATES.name, len(entries), {
                "TenantId": Strings.of([key[0] for key, _ in entries]), "Rule": Strings.of([key[1] for key, _ in entries]),
                "GroupKey": Strings.of([group for _, group in entries]),
                "Version": self._versions(len(entries)),
                "IsDeleted": np.ones(len(entries), np.uint8)})

    def _versions(self, count: int) -> npt.NDArray[np.uint64]:
        """One above all before it, whatever the clock says: a clock that went back must not make a newer state lose."""
        self._version = max(time.time_ns(), self._version + 1)
        return np.full(count, self._version, np.uint64)

    def save_events(self, events: Sequence[Event]) -> None:
        """The same event twice is one."""
        self._insert(ALERT_EVENTS.name, len(events), {
            "TenantId": Strings.of([event.tenant for event in events]), "EventId": Strings.of([event.id for event in events]),
            "Rule": Strings.of([event.rule for event in events]), "GroupKey": Strings.of([event.group for event in events]),
            "Kind": Strings.of([event.kind for event in events]),
            "WindowStart": np.array([event.start_ns for event in events], np.int64),
            "WindowEnd": np.array([event.end_ns for event in events], np.int64),
            "Value": _nullable([event.value for event in events]),
            "Muted": np.array([event.muted for event in events], np.uint8), "Body": Strings.of([event.body for event in events]),
            "Version": np.array([event.end_ns for event in events], np.uint64)})

    def events(self, limit: int = 100) -> list[Event]:
        """The newest first."""
        found = self._query(
            "SELECT EventId, TenantId, Rule, GroupKey, Kind, toUnixTimestamp64Nano(WindowStart), "
            "toUnixTimestamp64Nano(WindowEnd) AS e, Value, Muted = 1, Body "
            f"FROM {self._table(ALERT_EVENTS.name)} FINAL ORDER BY e DESC, EventId LIMIT {int(limit)}")
        return [Event(*row) for row in found]

    def save_deliveries(self, deliveries: Sequence[Delivery]) -> None:
        """A delivery that has gone further already is not set back: its version is larger."""
        self._insert(ALERT_DELIVERIES.name, len(deliveries), {
            "TenantId": Strings.of([one.tenant for one in deliveries]), "EventId": Strings.of([one.event for one in deliveries]),
            "Channel": Strings.of([one.channel for one in deliveries]), "State": Strings.of([one.state for one in deliveries]),
            "Attempts": np.array([one.attempts for one in deliveries], np.uint16),
            "NextNs": np.array([one.next_ns for one in deliveries], np.int64),
            "Error": Strings.of([one.error for one in deliveries]), "Body": Strings.of([one.body for one in deliveries]),
            "Version": np.array([one.version for one in deliveries], np.uint64)})

    def pending(self) -> list[Delivery]:
        """What is still to be delivered, the first due first."""
        return [Delivery(*row) for row in self._query(
            "SELECT TenantId, EventId, Channel, Body, State, Attempts, NextNs, Error, Version FROM "
            f"{self._table(ALERT_DELIVERIES.name)} FINAL WHERE State = 'pending' ORDER BY NextNs LIMIT {PENDING_MAX}")]

    def deliveries_of(self, events: Sequence[str]) -> dict[str, list[Delivery]]:
        """Event -> its deliveries, without what was said."""
        found: dict[str, list[Delivery]] = {}
        for row in self._query(
                "SELECT TenantId, EventId, Channel, '' AS said, State, Attempts, NextNs, Error, Version FROM "
                f"{self._table(ALERT_DELIVERIES.name)} FINAL WHERE EventId IN {{events:Array(String)}} ORDER BY Channel",
                {"events": list(events)}) if events else ():
            found.setdefault(row[1], []).append(Delivery(*row))
        return found

    def _table(self, name: str) -> str:
        return rows.table(self._store, name)

    def _query(self, text: str, bound: Mapping[str, Any] | None = None) -> Sequence[Sequence[Any]]:
        return self._store.query(text, bound).rows

    def _insert(self, table: str, count: int, columns: dict[str, Column]) -> None:
        if count:
            # A token of its own each time: what is written twice is told apart by its key and version, not by the insert.
            self._store.insert(Block(table, count, columns), f"{table}:{uuid.uuid4().hex}")


def _nullable(values: Sequence[float | None]) -> Nullable:
    return Nullable(np.array([0.0 if value is None else value for value in values], np.float64),
                    np.array([value is None for value in values], bool))
