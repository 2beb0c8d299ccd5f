"""Judges every rule on every window that is due, once: reads, judges, writes events, deliveries and states, in this order.

A kill between two of these leaves states behind events: the windows are judged again from the same states over the same rows, and
give the same events under the same ids, which the store knows already. Not a thread: see `service`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from cutaway_collector.alerts import messages
from cutaway_collector.alerts.book import Book, Definitions, Delivery, Event, Kept, Key
from cutaway_collector.alerts.fields import NS
from cutaway_collector.alerts.judge import Change, State, judge
from cutaway_collector.alerts.observe import STEPS_PER_STATEMENT, Batch, Seen, batch_of, observe, steps_of
from cutaway_collector.alerts.rules import Rule
from cutaway_collector.contracts import Store

_LOG: Final = logging.getLogger(__name__)


@dataclass(slots=True)
class _Watch:
    """A rule under watch: number of the last window that was judged, and its groups. failed: it could not be judged last time."""

    rule: Rule
    judged: int
    groups: dict[str, State] = field(default_factory=dict)
    failed: bool = False


@dataclass(slots=True)
class Tally:
    """What a tick did. events: recorded; windows: judged; failed: rule -> why it could not be judged."""

    windows: int = 0
    events: list[Event] = field(default_factory=list)
    failed: dict[Key, str] = field(default_factory=dict)
    left_out: dict[Key, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Outcome:
    """What one batch of rules leaves to be written."""

    events: list[Event] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    states: list[tuple[Rule, str, State | None, int]] = field(default_factory=list)


class Evaluator:
    """Keeps the states of all rules. deliver: takes deliveries that are noted. base: what stands before links."""

    def __init__(self, store: Store, book: Book, *, lateness_s: int, deliver: Callable[[Sequence[Delivery]], None], base: str = "",
                 room: Callable[[int], bool] = lambda count: True) -> None:
        self._store = store
        self._book = book
        self._lateness_s = lateness_s
        self._deliver = deliver
        self._base = base
        self._room = room
        self._stamp: tuple[int, int] | None = None
        self._watches: dict[Key, _Watch] = {}
        self._lock = threading.Lock()
        self.definitions = Definitions()

    def tick(self, now_ns: int) -> Tally:
        """Judges all that is due at `now_ns`. Raises StoreError; what was judged until then is kept."""
        with self._lock:
            tally = Tally()
            self._reload(now_ns, tally)
            due: dict[tuple[Batch, int, int, bool], list[_Watch]] = {}
            for watch in self._watches.values():
                last = steps_of(watch.rule, self._lateness_s, now_ns)
                if watch.judged > last + 1:
                    _LOG.warning("the clock went back: the rule %s goes on with the present", watch.rule.name)
                    watch.judged = last
                if last - watch.judged > STEPS_PER_STATEMENT:
                    _LOG.warning("the rule %s was not judged for %d windows: it goes on with the last %d", watch.rule.name,
                                 last - watch.judged, STEPS_PER_STATEMENT)
                    watch.judged = last - STEPS_PER_STATEMENT
                if last > watch.judged:
                    group = batch_of(watch.rule, self._lateness_s), watch.judged + 1, last, watch.failed
                    due.setdefault(group, []).append(watch)
            for (batch, first, last, apart), watches in due.items():
                self._batch(batch, first, last, watches, now_ns, tally, apart=apart)
            return tally

    def know(self) -> None:
        """Reads what is defined and judges nothing: what an earlier run left undelivered needs its channels. Raises StoreError."""
        self.definitions = self._book.definitions()

    def forget(self) -> None:
        """Lets go of what it knows of the rules' states: another collector judges, and the next tick reads how far it came."""
        with self._lock:
            self._stamp = None
            self._watches = {}

    def lag_s(self, now_ns: int) -> float:
        """Seconds by which the judging of the rule that is furthest behind is overdue."""
        watches = list(self._watches.values())
        return max((max(0.0, now_ns / NS - (watch.judged + 1) * watch.rule.every_s - watch.rule.lateness(self._lateness_s))
                    for watch in watches), default=0.0)

    def firing(self) -> dict[Key, int]:
        """Rule -> groups that are firing."""
        return {watch.rule.key: sum(bool(state.fired) for state in list(watch.groups.values()))
                for watch in list(self._watches.values())}

    def _reload(self, now_ns: int, tally: Tally) -> None:
        """Takes up definitions that have changed, and at the first tick the states that an earlier run left."""
        stamp = self._book.stamp()
        if stamp == self._stamp:
            return
        definitions = self._book.definitions()
        first = self._stamp is None
        kept = self._book.states() if first else {
            key: Kept(watch.rule.fingerprint, watch.judged * watch.rule.every_s * NS, watch.groups)
            for key, watch in self._watches.items()}
        fits = {key for key, held in kept.items()
                if key in definitions.rules and definitions.rules[key].fingerprint == held.fingerprint}
        self._withdraw({key: held for key, held in kept.items() if key not in fits}, definitions, now_ns, tally)
        watches = {}
        fresh = []
        for key, rule in definitions.rules.items():
            if key in fits:
                watches[key] = _Watch(rule, kept[key].judged_ns // NS // rule.every_s, kept[key].groups)
            else:
                watches[key] = _Watch(rule, steps_of(rule, self._lateness_s, now_ns))
                fresh.append((rule, "", None, watches[key].judged * rule.every_s * NS))
        self._book.save_states(fresh)
        self._watches, self.definitions, self._stamp = watches, definitions, stamp

    def _withdraw(self, gone: dict[Key, Kept], definitions: Definitions, now_ns: int, tally: Tally) -> None:
        """Rules that are gone, or judge by something else now: what they fired has ended."""
        outcome = _Outcome()
        for key, held in gone.items():
            watch = self._watches.get(key)
            rule = watch.rule if watch else definitions.rules.get(key)
            if rule is None:
                continue  # removed while no collector ran: nothing is known of it but its name
            for group, state in held.groups.items():
                if state.fired:
                    change = Change(group, "resolved", steps_of(rule, 0, now_ns), state.fired, state.value,
                                    messages.RESOLVED_BY_HAND)
                    self._record(rule, change, state, now_ns, outcome, definitions)
        self._write(outcome, tally)
        self._book.forget_rules(list(gone), gone)

    def _batch(self, batch: Batch, first: int, last: int, watches: list[_Watch], now_ns: int, tally: Tally, *, apart: bool) -> None:
        rules = [watch.rule for watch in watches]

        def failed(rule: Rule, message: str) -> None:
            tally.failed[rule.key] = message

        seen = observe(self._store, batch, rules, first, last, apart=apart, on_failure=failed)
        outcome = _Outcome()
        after: list[tuple[_Watch, dict[str, State]]] = []
        for watch in watches:
            groups = watch.groups
            if watch.rule.key in seen:
                groups = self._judge(watch, seen[watch.rule.key], first, last, now_ns, outcome, tally)
            after.append((watch, groups))
            end_ns = last * batch.every_s * NS
            outcome.states.append((watch.rule, "", None, end_ns))
            outcome.states += [(watch.rule, group, state, end_ns) for group, state in groups.items()
                               if watch.groups.get(group) != state]
            outcome.states += [(watch.rule, group, None, end_ns) for group in watch.groups if group not in groups]
        self._write(outcome, tally)
        for watch, groups in after:
            watch.judged, watch.groups, watch.failed = last, groups, watch.rule.key not in seen

    def _judge(self, watch: _Watch, seen: Seen, first: int, last: int, now_ns: int, outcome: _Outcome,
               tally: Tally) -> dict[str, State]:
        groups = watch.groups
        for step in range(first, last + 1):
            judged = judge(watch.rule, groups, step, seen)
            for change in judged.changes:
                before = groups.get(change.group) or State()
                state = self._record(watch.rule, change, before, now_ns, outcome, self.definitions)
                if change.kind == "firing":
                    judged.states[change.group] = replace(judged.states[change.group], told=state.told)
            groups = judged.states
            tally.windows += 1
            if judged.left_out:
                tally.left_out[watch.rule.key] = judged.left_out
        if now_ns >= self.definitions.muted_until_ns(watch.rule):
            for group, state in groups.items():
                if state.fired and not state.told:  # it fired while it was muted, and still does
                    change = Change(group, "firing", state.fired, state.fired, state.value)
                    groups = {**groups, group: self._record(watch.rule, change, state, now_ns, outcome, self.definitions)}
        return groups

    def _record(self, rule: Rule, change: Change, state: State, now_ns: int, outcome: _Outcome, definitions: Definitions) -> State:
        """Notes a change, and who is to be told of it; the state with `told` as it is from now on."""
        muted = now_ns < definitions.muted_until_ns(rule)
        event = messages.event(rule, change, muted=muted, base=self._base)
        outcome.events.append(event)
        # Who was told that it began is told that it ended, and nobody else.
        if not state.told if change.kind == "resolved" else muted:
            return state
        known = [name for name in rule.channels if name in definitions.channels]
        if not self._room(len(outcome.deliveries) + len(known)):
            _LOG.error("an alert of %s is not delivered: too many deliveries are waiting", rule.name)
            outcome.deliveries += [Delivery(rule.tenant, event.id, name, event.body, state="failed",
                                            error="too many deliveries were waiting") for name in known]
        else:
            outcome.deliveries += [Delivery(rule.tenant, event.id, name, event.body) for name in known]
        return replace(state, told=True)

    def _write(self, outcome: _Outcome, tally: Tally) -> None:
        self._book.save_events(outcome.events)
        known = self._book.deliveries_of([one.event for one in outcome.deliveries])
        before = {(one.event, one.channel): one.state for those in known.values() for one in those}
        fresh = [one for one in outcome.deliveries if (one.event, one.channel) not in before]
        self._book.save_deliveries(fresh)
        self._book.save_states(outcome.states)
        # Only now: had the states not been written, the same would be judged, and sent, again.
        self._deliver([one for one in outcome.deliveries if before.get((one.event, one.channel), one.state) == "pending"])
        tally.events += outcome.events

