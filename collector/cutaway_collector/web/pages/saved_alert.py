"""The alert rule that an editor makes of a saved search by one form: a number of what it finds, a threshold, a window, who is told.

Not the rules, which are the alerts flow's: what the form says becomes a definition as a file has it, and is applied as one. A rule
made here carries the search's name as a label, and only such a rule is changed or removed here: what stands in a file stays so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

from cutaway_collector.alerts import Desk
from cutaway_collector.alerts.book import Book, Definitions
from cutaway_collector.alerts.rules import SEVERITIES, Rule
from cutaway_collector.errors import Conflict, MalformedRequest
from cutaway_collector.search import fields, values
from cutaway_collector.search.saved import SavedSearch
from cutaway_collector.web.pages import alert_forms

WINDOWS: Final[Mapping[str, str]] = {"5m": "5m", "15m": "5m", "1h": "5m", "6h": "15m", "1d": "1h"}
"""Window of the form -> how often such a rule is judged."""
NUMBERS: Final[Mapping[str, str]] = {
    "count": "number of spans", "share": "share that also match", "mean": "mean of a field", "p95": "95th percentile of a field",
    "silence": "nothing is found",
}
"""What a rule of the form is about -> as the form says it."""
SIDES: Final = ("above", "below")
GROUPS: Final[Mapping[str, str]] = {"": "all together", "service": "each service", "model": "each model",
                                    "service,model": "each service and model"}
"""What is judged by itself -> as the form says it."""
SPANS_MAX: Final = 1_000_000_000
LABEL: Final = "saved_search"
SEVERITY: Final = "warning"
RULE_NAME_CHARACTERS_MAX: Final = 60
_NOT_IN_A_NAME: Final = re.compile(r"[^A-Za-z0-9_.-]+")
_QUANTILE: Final = 0.95


@dataclass(frozen=True, slots=True)
class Form:
    """What the form says. number: of NUMBERS; of: the query of a share; field: of a mean or percentile; than: with its unit."""

    number: str = "count"
    of: str = ""
    field: str = ""
    side: str = "above"
    than: str = "0"
    window: str = "5m"
    by: str = ""
    severity: str = SEVERITY
    channel: str = ""


NOTHING_SAID: Final = Form()


@dataclass(frozen=True, slots=True)
class Standing:
    """The rule of a saved search. name: its own, or the one it would get; says: its condition in words, "" where there is no rule;
    ours: it was made by the form, so the form may change it; watches: its query, where the search has another by now; form: as it
    was filled in."""

    name: str
    says: str = ""
    ours: bool = False
    watches: str = ""
    form: Form = NOTHING_SAID


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
        """How the search stands: its rule is the one with its label, whatever that is called; one of a file may be in the way."""
        ours = self.labelled(search.name)
        name = ours.name if ours else self._name(search)
        rule = ours or self.rules.get(name)
        if rule is None:
            return Standing(name)
        if ours is None:
            return Standing(name, f"{rule.value_words} {rule.condition.words()}".strip())
        form = _form(rule)
        return Standing(name, _says(rule, form), True, rule.query if rule.query != search.query else "", form)

    def labelled(self, search: str) -> Rule | None:
        """The rule that the form made of the search of that name."""
        return next((rule for rule in self.rules.values() if rule.labels.get(LABEL) == search), None)

    def _name(self, search: SavedSearch) -> str:
        """Its rule's name: not one that another search's rule has."""
        base = rule_name(search)
        names = (base if place == 1 else f"{base}-{place}" for place in count(1))
        return next(name for name in names if name not in self.rules or LABEL not in self.rules[name].labels)


def rule_name(search: SavedSearch) -> str:
    """The search's name in the characters that a rule's may have."""
    return _NOT_IN_A_NAME.sub("-", search.name).strip("-._")[:RULE_NAME_CHARACTERS_MAX] or "saved-search"


def definition(search: SavedSearch, form: Form = NOTHING_SAID) -> dict[str, Any]:
    """A rule over the search, as a file has it. Raises MalformedRequest for a form that says no rule."""
    made: dict[str, Any] = {"name": rule_name(search), "query": search.query}
    if form.number == "silence":
        made |= {"every": form.window, "condition": {"kind": "no_data", "for": form.window}}
    else:
        ways: dict[str, dict[str, Any]] = {
            "count": {"aggregate": "count"}, "share": {"aggregate": "share", "of": form.of},
            "mean": {"aggregate": "mean", "field": form.field},
            "p95": {"aggregate": "quantile", "quantile": _QUANTILE, "field": form.field}}
        made |= ways[form.number]
        made |= {"window": form.window, "every": WINDOWS[form.window], "condition": {form.side: _threshold(form)}}
    made |= {"group_by": form.by.split(",")} if form.by else {}
    made |= {"severity": form.severity} if form.severity != SEVERITY else {}
    return made | ({"channels": [form.channel]} if form.channel else {})


class Subscriptions:
    """desk, book: over the store that may be written. Raises what a request is refused with."""

    def __init__(self, desk: Desk, book: Book) -> None:
        self._desk, self._book = desk, book

    def rules(self, tenant: str) -> Rules:
        """What stands. Raises StoreError."""
        return Rules.of(self._book.definitions(), tenant)

    def subscribe(self, tenant: str, search: SavedSearch, said: Mapping[str, str]) -> str:
        """Makes or replaces the rule; its name. said: the fields of Form. Raises MalformedRequest, Conflict, StoreError."""
        rules = self.rules(tenant)
        form = _read(said, rules.channels)
        name = self._ours(rules, search).name
        made = definition(search, form) | {"name": name, "labels": {LABEL: search.name}}
        self._apply(made | ({"tenant": tenant} if tenant else {}))
        return name

    def unsubscribe(self, tenant: str, search: SavedSearch) -> None:
        """Removes the rule. Raises Conflict, MalformedRequest for one that there is not, StoreError."""
        name = self._ours(self.rules(tenant), search).name
        alert_forms.done(lambda: self._desk.remove(tenant, [name]))

    def renamed(self, tenant: str, old: str, new: str) -> None:
        """The rule follows its search's new name by its label; its own name, and with it its history, stays. Raises StoreError."""
        rule = self.rules(tenant).labelled(old)
        if rule is not None:
            body = json.loads(rule.body)
            self._apply(body | {"labels": body["labels"] | {LABEL: new}})

    def deleted(self, tenant: str, name: str) -> None:
        """With the search goes the rule that its form made: there would be no form left to remove it by. Raises StoreError."""
        rule = self.rules(tenant).labelled(name)
        if rule is not None:
            alert_forms.done(lambda: self._desk.remove(tenant, [rule.name]))

    def _apply(self, rule: Mapping[str, Any]) -> None:
        alert_forms.done(lambda: self._desk.apply({"rules": [rule]}))

    @staticmethod
    def _ours(rules: Rules, search: SavedSearch) -> Standing:
        standing = rules.standing(search)
        if standing.says and not standing.ours:
            raise Conflict(f"the rule {standing.name} was not made of this search: change it where it is defined, or give the "
                           "search another name")
        return standing


def _read(said: Mapping[str, str], channels: tuple[str, ...]) -> Form:
    """The form. Raises MalformedRequest."""
    form = Form(**{name: said[name].strip() for name in Form.__dataclass_fields__ if name in said})
    alert_forms.check((("number", form.number, NUMBERS), ("window", form.window, WINDOWS), ("group", form.by, GROUPS),
                       ("side", form.side, SIDES), ("severity", form.severity, SEVERITIES)), form.channel, channels)
    if form.number == "share" and not form.of:
        raise MalformedRequest("a share needs the query of what counts, such as is:error")
    if form.number in ("mean", "p95") and not form.field:
        raise MalformedRequest("a mean or a percentile needs a field, such as ttft or perplexity")
    return form


def _threshold(form: Form) -> float:
    """`than` in the unit that the rule compares in: 500ms of ttft is 0.5. Raises MalformedRequest."""
    if form.number == "count":
        if not (form.than.isascii() and form.than.isdigit()) or int(form.than[:20]) > SPANS_MAX:
            raise MalformedRequest(f"the number of spans is a whole one from 0 to {SPANS_MAX}, it is {form.than[:20]!r}")
        return int(form.than)
    share = form.number == "share"
    value = alert_forms.number(form.than, "" if share else _unit(form.field), "a share" if share else form.field)
    if share and not 0 <= value <= 1:
        raise MalformedRequest(f"a share lies between 0 and 1, or 0 % and 100 %, it is {form.than[:20]!r}")
    return value


def _unit(name: str) -> str:
    field = fields.lookup(name)
    return field.unit if field else ""


def _form(rule: Rule) -> Form:
    """The form that made the rule."""
    condition, silent = rule.condition, rule.condition.kind == "no_data"
    number = "silence" if silent else "p95" if rule.aggregate == "quantile" else rule.aggregate
    seconds = condition.for_s if silent else rule.window_s
    return Form(number if number in NUMBERS else "count", rule.of, rule.field, "above" if condition.up else "below",
                _written(condition.threshold, number, _unit(rule.field)),
                next((one for one in WINDOWS if _seconds(one) == seconds), "5m"), ",".join(rule.group_by), rule.severity,
                rule.channels[0] if rule.channels else "")


def _written(threshold: float, number: str, unit: str) -> str:
    """A threshold as `_threshold` reads it back."""
    if number == "share":
        return f"{100 * threshold:.12g}%"
    bare = values.bare_unit(unit)
    return f"{threshold / (10**9 if bare != unit else 1):.12g}{bare if bare in values.units(unit) else ''}"


def _says(rule: Rule, form: Form) -> str:
    """The rule in words."""
    each = f", {GROUPS[form.by]} by itself" if GROUPS.get(form.by) and form.by else ""
    if form.number == "silence":
        return f"nothing found for {form.window}{each}"
    number = f"95th percentile of {form.field}" if form.number == "p95" else rule.value_words
    return f"{number} {form.side} {form.than} within {form.window}{each}"


def _seconds(text: str) -> int:
    return int(text[:-1]) * {"m": 60, "h": 3600, "d": 86_400}[text[-1]]
