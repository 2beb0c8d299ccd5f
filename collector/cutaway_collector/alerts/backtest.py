"""What a rule would have said over stored history: the live statements and judging, over windows that are past. Writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from cutaway_collector.alerts import messages
from cutaway_collector.alerts.fields import NS, RuleError, words_of
from cutaway_collector.alerts.judge import Change, State, judge, window_ns
from cutaway_collector.alerts.observe import batch_of, observe, spans_of_steps
from cutaway_collector.alerts.rules import Rule
from cutaway_collector.contracts import Store
from cutaway_collector.errors import StoreError

WINDOWS_MAX: Final = 20_000


@dataclass(slots=True)
class Report:
    """changes: what would have fired and ended, in order. windows: judged. firing: groups that still fire at the end."""

    rule: Rule
    changes: list[Change] = field(default_factory=list)
    windows: int = 0
    left_out: int = 0
    firing: list[str] = field(default_factory=list)

    def shown(self) -> dict[str, Any]:
        """Plain JSON values."""
        rule, every_ns = self.rule, self.rule.every_s * NS
        return {
            "rule": self.rule.name, "condition": self.rule.condition.words(), "windows": self.windows, "left_out": self.left_out,
            "firing": [messages.group_of(self.rule, group) for group in self.firing],
            "events": [{"at": messages.iso(change.step * every_ns), "kind": change.kind, "value": change.value,
                        "group": messages.group_of(self.rule, change.group), "reason": change.reason,
                        "event": messages.event_id(self.rule, change),
                        "link": messages.link(rule, messages.group_of(rule, change.group), *window_ns(rule, change.step)),
                        } for change in self.changes],
        }


def backtest(store: Store, rule: Rule, start_ns: int, end_ns: int, *, lateness_s: int, late: bool = False) -> Report:
    """Judges every window that begins at `start_ns` or later and ends by `end_ns`.

    late: count also what arrived after its window was due, as with history that was imported. Raises RuleError (nothing or too much
    to judge, the rule's search fails), StoreError.
    """
    every_ns = rule.every_s * NS
    first = -(-start_ns // every_ns) + rule.window_s // rule.every_s
    last = end_ns // every_ns
    if last < first or last - first >= WINDOWS_MAX:
        raise RuleError(f"a back-test covers 1 to {WINDOWS_MAX} windows of {words_of(rule.every_s)}, these are "
                        f"{max(0, last - first + 1)}: choose another --since")
    report, states = Report(rule), dict[str, State]()
    batch = batch_of(rule, lateness_s)
    for start, end in spans_of_steps(first, last):
        found = observe(store, batch, [rule], start, end, late=late, on_failure=_refuse(rule))
        for step in range(start, end + 1):
            judged = judge(rule, states, step, found[rule.key])
            states = judged.states
            report.changes += judged.changes
            report.windows += 1
            report.left_out = max(report.left_out, judged.left_out)
    report.firing = [group for group, state in states.items() if state.fired]
    return report


def _refuse(rule: Rule) -> Callable[[Rule, str], None]:
    def failed(failing: Rule, message: str) -> None:
        raise StoreError(f"rule {rule.name}: {message}", retryable=False)

    return failed
