"""The alert rule that an editor makes of a saved search by one form: more than so many spans within a window, and who is told.

Not the rules, which are the alerts flow's: what the form says becomes a definition as a file has it, and is applied as one. A rule
made here carries the search's name as a label, and only such a rule is replaced or removed here: what stands in a file stays so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cutaway_collector.alerts import Desk, RuleError
from cutaway_collector.alerts.book import Book, Definitions
from cutaway_collector.alerts.rules import Rule
from cutaway_collector.errors import Conflict, MalformedRequest
from cutaway_collector.search.saved import SavedSearch

WINDOWS: Final[Mapping[str, str]] = {"5m": "5m", "15m": "5m", "1h": "5m", "6h": "15m", "1d": "1h"}
"""Window of the form -> how often such a rule is judged."""
ABOVE_MAX: Final = 1_000_000_000
LABEL: Final = "saved_search"
RULE_NAME_CHARACTERS_MAX: Final = 60
_NOT_IN_A_NAME: Final = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class Standing:
    """The rule of a saved search. name: its own; says: its condition in words, "" where there is no rule; ours: it was made by the
    form, so the form may change it; above, window, channel: what the form shows."""

    name: str
    says: str = ""
    ours: bool = False
    above: str = "0"
    window: str = "5m"
    channel: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a tenant's form may name. channels: of an editor of no tenant all, else those that rules of the tenant tell already."""

    rules: Mapping[str, Rule]
    channels: tuple[str, ...]

    @classmethod
    def of(cls, definitions: Definitions, tenant: str) -> Rules:
        """Those of the tenant alone."""
        rules = {name: rule for (owner, name), rule in definitions.rules.items() if owner == tenant}
        told = {channel for rule in rules.values() for channel in rule.channels} & definitions.channels.keys()
        return cls(rules, tuple(sorted(told if tenant else definitions.channels)))

    def standing(self, search: SavedSearch) -> Standing:
        """How the search stands."""
        name = rule_name(search)
        rule = self.rules.get(name)
        if rule is None:
            return Standing(name)
        window = next((one for one in WINDOWS if _seconds(one) == rule.window_s), "5m")
        says = f"{rule.value_words} {rule.condition.words()}".strip()
        return Standing(name, says, rule.labels.get(LABEL) == search.name, f"{rule.condition.threshold:.0f}", window,
                        rule.channels[0] if rule.channels else "")


def rule_name(search: SavedSearch) -> str:
    """The search's name in the characters that a rule's may have."""
    return _NOT_IN_A_NAME.sub("-", search.name).strip("-._")[:RULE_NAME_CHARACTERS_MAX] or "saved-search"


def definition(search: SavedSearch, *, above: float = 0, window: str = "5m") -> dict[str, Any]:
    """A rule over the search, as a file has it."""
    return {"name": rule_name(search), "query": search.query, "aggregate": "count", "window": window, "every": WINDOWS[window],
            "condition": {"above": above}}


class Subscriptions:
    """desk, book: over the store that may be written. Raises what a request is refused with."""

    def __init__(self, desk: Desk, book: Book) -> None:
        self._desk, self._book = desk, book

    def rules(self, tenant: str) -> Rules:
        """What stands. Raises StoreError."""
        return Rules.of(self._book.definitions(), tenant)

    def subscribe(self, tenant: str, search: SavedSearch, form: Mapping[str, str]) -> str:
        """Makes or replaces the rule; its name. form: above, window, channel. Raises MalformedRequest, Conflict, StoreError."""
        above, window, channel = form.get("above", "").strip(), form.get("window", ""), form.get("channel", "")
        if not (above.isascii() and above.isdigit()) or int(above[:20]) > ABOVE_MAX:
            raise MalformedRequest(f"the number of spans is a whole one from 0 to {ABOVE_MAX}, it is {above[:20]!r}")
        if window not in WINDOWS:
            raise MalformedRequest(f"the window is one of {', '.join(WINDOWS)}, it is {window[:20]!r}")
        rules = self.rules(tenant)
        if channel and channel not in rules.channels:
            raise MalformedRequest(f"there is no channel {channel[:60]!r} here: choose one of the list, or nobody")
        self._ours(rules, search)
        made = definition(search, above=int(above), window=window) | {"labels": {LABEL: search.name}}
        made |= {"tenant": tenant} if tenant else {}
        made |= {"channels": [channel]} if channel else {}
        self._done(lambda: self._desk.apply({"rules": [made]}))
        return str(made["name"])

    def unsubscribe(self, tenant: str, search: SavedSearch) -> None:
        """Removes the rule. Raises Conflict, MalformedRequest for one that there is not, StoreError."""
        self._ours(self.rules(tenant), search)
        self._done(lambda: self._desk.remove(tenant, [rule_name(search)]))

    @staticmethod
    def _ours(rules: Rules, search: SavedSearch) -> None:
        standing = rules.standing(search)
        if standing.says and not standing.ours:
            raise Conflict(f"the rule {standing.name} was not made of this search: change it where it is defined, or give the "
                           "search another name")

    @staticmethod
    def _done(action: Any) -> None:
        try:
            action()
        except RuleError as error:
            raise MalformedRequest(str(error)) from None


def _seconds(text: str) -> int:
    return int(text[:-1]) * {"m": 60, "h": 3600, "d": 86_400}[text[-1]]
