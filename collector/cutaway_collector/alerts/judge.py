"""How a rule's state follows from what it sees, window by window: a pure function of the state and the observation.

    ok -> pending (the condition holds, not for long enough) -> firing -> ok; no_data where there is nothing to judge

Muting is not a state: a muted alert goes through the same states, and nobody is told (see `evaluator`). Not a clock: time is the
number of the window.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import orjson

from cutaway_collector.alerts import evidence
from cutaway_collector.alerts.fields import NS
from cutaway_collector.alerts.observe import NOTHING, UNGROUPED, Observation, Seen
from cutaway_collector.alerts.rules import Rule
from cutaway_collector.drift import chart

Phase = Literal["ok", "pending", "firing", "no_data"]
RECENT_VALUES: Final = 24
FORGET_S: Final = 7 * 86_400
"""A group that was not seen for so long is watched no more; what it fired has ended."""


@dataclass(frozen=True, slots=True)
class State:
    """How one group of a rule stands.

    held: windows in a row in which the condition held (while firing: in which it was clear; of a chart that fires the number of
    the last window in which it was not calm). seen: number of the last window with rows. fired: number of the window in which it
    fired, 0 when it is not firing. told: whether the channels were told of that. logs: evidence so far, of an e-process, or the
    memory of a chart; epoch: which `reset` it belongs to. recent: the last values that were measured, for a picture.
    """

    phase: Phase = "ok"
    value: float | None = None
    held: int = 0
    seen: int = 0
    fired: int = 0
    told: bool = False
    since: int = 0
    logs: tuple[float, ...] = ()
    epoch: int = 0
    recent: tuple[float, ...] = ()

    def memory(self) -> str:
        """What is stored beside phase and value."""
        # By hand: `asdict` copies each tuple value by value, and this is written for every group of every rule, every minute.
        kept = {"held": self.held, "seen": self.seen, "fired": self.fired, "told": self.told, "since": self.since,
                "logs": self.logs, "epoch": self.epoch, "recent": self.recent}
        return orjson.dumps(kept, option=orjson.OPT_SERIALIZE_NUMPY).decode()

    @classmethod
    def of(cls, phase: Phase, value: float | None, memory: str) -> State:
        """The state that was stored."""
        kept: dict[str, Any] = json.loads(memory)
        kept |= {name: tuple(kept.get(name, ())) for name in ("logs", "recent")}
        return cls(phase, value, **kept)


@dataclass(frozen=True, slots=True)
class Change:
    """An alert began or ended in this window. fired: the window in which it had begun."""

    group: str
    kind: Literal["firing", "resolved"]
    step: int
    fired: int
    value: float | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """One window of one rule: all its groups, and what changed. left_out: groups that are too many to be judged."""

    states: dict[str, State]
    changes: list[Change] = field(default_factory=list)
    left_out: int = 0


def judge(rule: Rule, states: Mapping[str, State], step: int, seen: Seen) -> Judged:
    """The states after window `step`. states: after the window before; groups that are not watched yet are not in it."""
    found = seen.steps.get(step, {})
    groups, left_out = _groups(rule, states, found)
    judged = Judged({}, left_out=left_out + (1 if seen.too_many else 0))
    for group in groups:
        before = states.get(group, State(seen=step - 1, since=step))
        observation = found.get(group, NOTHING)
        after = _next(rule, before, step, observation)
        if after.phase != before.phase:
            after = replace(after, since=step)
        if observation.count and after.value is not None:
            after = replace(after, recent=(*before.recent, after.value)[-RECENT_VALUES:])
        reason = ""
        if group != UNGROUPED and (step - after.seen) * rule.every_s > FORGET_S:
            after, reason = replace(after, phase="ok", fired=0), "it was not seen for a week"
        if after.fired and not before.fired:
            judged.changes.append(Change(group, "firing", step, step, after.value))
        if before.fired and not after.fired:
            judged.changes.append(Change(group, "resolved", step, before.fired, after.value, reason))
            after = replace(after, told=False)
        if not reason and _worth_keeping(rule, group, after, observation):
            judged.states[group] = after
    return judged


def _groups(rule: Rule, states: Mapping[str, State], found: Mapping[str, Observation]) -> tuple[list[str], int]:
    """Which groups are judged: those that are watched already, then the largest of the new ones."""
    if not rule.group_by:
        return [UNGROUPED], 0
    known = [group for group in states if states[group].phase != "ok" or states[group].logs or rule.condition.kind == "no_data"]
    watched = set(known)
    others = sorted((group for group in found if group not in watched), key=lambda group: (-found[group].count, group))
    room = max(0, rule.groups_max - len(known))
    return known + others[:room], len(others[room:])


def _worth_keeping(rule: Rule, group: str, state: State, observation: Observation) -> bool:
    """A group that is well and gone is not remembered, unless remembering it is the point."""
    return bool(observation.count) or state.phase in ("pending", "firing") or group == UNGROUPED or bool(state.logs) \
        or rule.condition.kind == "no_data"


def _next(rule: Rule, before: State, step: int, observation: Observation) -> State:
    seen = step if observation.count else before.seen
    state = replace(before, seen=seen)
    if rule.condition.kind == "no_data":
        return _silence(rule, state, step, observation)
    if rule.condition.kind == "e_process":
        return _evidence(rule, state, step, observation)
    if rule.condition.kind == "chart":
        return _charted(rule, state, step, observation)
    value = observation.value
    if value is None and rule.aggregate in ("count", "rate") and rule.condition.kind == "threshold":
        value = 0.0
    state = replace(state, value=value)
    if value is None and rule.condition.kind == "drift":
        # Windows of drift are longer than ours: between two of them the last word stands.
        return replace(before, seen=seen, phase="no_data" if before.value is None else before.phase)
    if value is None:
        # Nothing to judge by: an alert that fires goes on, for a service that is gone has not recovered; "for" begins anew.
        return replace(state, held=0) if state.fired else replace(state, phase="no_data", held=0)
    return _threshold(rule, state, step, value)


def _threshold(rule: Rule, state: State, step: int, value: float) -> State:
    condition = rule.condition
    if condition.kind == "drift":
        holds, clear = value > 0, value <= 0
    elif condition.up:
        holds, clear = value > condition.threshold, value <= condition.clear
    else:
        holds, clear = value < condition.threshold, value >= condition.clear
    if state.fired:
        held = state.held + 1 if clear else 0
        ended = held >= _windows(rule, condition.clear_for_s)
        return replace(state, phase="ok", held=0, fired=0) if ended else replace(state, phase="firing", held=held)
    held = state.held + 1 if holds else 0
    if held >= _windows(rule, condition.for_s):
        return replace(state, phase="firing", held=0, fired=step)
    return replace(state, phase="pending" if held else "ok", held=held)


def _charted(rule: Rule, state: State, step: int, observation: Observation) -> State:
    """The chart after every window that was compared since; between two of them, and without values, it stands."""
    condition = rule.condition
    for z in observation.logs:
        reading = chart.follow(condition.chart, state.logs, z, condition.run_length)
        state = replace(state, logs=reading.memory, value=reading.value)
        if not state.fired:
            state = replace(state, phase="firing", held=step, fired=step) if reading.alarm else replace(state, phase="ok", held=0)
        elif not reading.calm:
            state = replace(state, held=step)
        elif step - state.held >= _windows(rule, condition.clear_for_s):
            state = replace(state, phase="ok", held=0, fired=0)
    return state


def _windows(rule: Rule, seconds: int) -> int:
    return max(1, -(-seconds // rule.every_s))


def _silence(rule: Rule, state: State, step: int, observation: Observation) -> State:
    """Nothing found for so long. A group is known from the first window in which it was seen."""
    state = replace(state, value=float(observation.count))
    if observation.count:
        return replace(state, phase="ok", fired=0)
    if state.fired:
        return state
    if (step - state.seen) >= _windows(rule, rule.condition.for_s):
        return replace(state, phase="firing", fired=step)
    return replace(state, phase="pending")


def _evidence(rule: Rule, state: State, step: int, observation: Observation) -> State:
    """Evidence is gathered until it is enough, or `reset` is over; once it fires, evidence of the contrary ends it."""
    condition = rule.condition
    epoch = step * rule.every_s // condition.reset_s
    state = replace(state, value=observation.value)
    if not state.logs or (epoch != state.epoch and not state.fired):
        state = replace(state, logs=(0.0,) * evidence.GAMBLERS, epoch=epoch)
    if not observation.count:
        return state if state.fired else replace(state, phase="no_data")
    grown = observation.opposite if state.fired else observation.logs
    # While it fires, each window may be the first after the recovery: no gambler starts it poorer than at the beginning. Such a
    # process (Shin, Ramdas & Rinaldo 2023, "E-detectors") says "over" wrongly once in 1/alpha windows at most, on average.
    held = tuple(max(0.0, log) for log in state.logs) if state.fired else state.logs
    state = replace(state, logs=tuple(a + b for a, b in zip(held, grown, strict=True)))
    if not evidence.rejects(state.logs, condition.alpha):
        return replace(state, phase="firing" if state.fired else "ok")
    anew = replace(state, logs=(0.0,) * evidence.GAMBLERS, epoch=epoch)
    return replace(anew, phase="ok", fired=0) if state.fired else replace(anew, phase="firing", fired=step)


def window_ns(rule: Rule, step: int) -> tuple[int, int]:
    """First moment and end of a window, nanoseconds since 1970."""
    end_ns = step * rule.every_s * NS
    return end_ns - rule.window_s * NS, end_ns
