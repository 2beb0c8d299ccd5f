"""The alert rule over window scores that an editor makes by a form: a score, a threshold, how long, whose, who is told.

Not the rules, which are the alerts flow's: what the form says becomes a definition as a file has it, and is applied as one. A rule
made here says so by a label, and only such a rule is changed or removed here: what stands in a file stays so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cutaway_collector import windows as verb
from cutaway_collector.alerts import Desk
from cutaway_collector.alerts.book import Book
from cutaway_collector.alerts.fields import words_of
from cutaway_collector.alerts.rules import SEVERITIES, Rule
from cutaway_collector.alerts.windowed import GROUPS as ALL
from cutaway_collector.errors import Conflict, MalformedRequest
from cutaway_collector.web.pages import alert_forms
from cutaway_collector.web.pages.saved_alert import SEVERITY, SIDES, Rules

SILENCE: Final = "silence"
SCORES: Final[Mapping[str, str]] = {
    **{kind.name: f"{kind.name}: {kind.help}" for kind in verb.KINDS}, SILENCE: "no window is judged: nothing comes any more",
}
"""What a rule of the form is about -> as the form says it."""
LASTING: Final[Mapping[str, str]] = {"1": "in one window", "2": "in two windows in a row", "4": "in four windows in a row",
                                     "8": "in eight windows in a row"}
"""Windows in a row -> as the form says it."""
GROUPS: Final[Mapping[str, str]] = {
    ",".join(ALL): "each service, model, route and template", "service,model": "each service and model", "service": "each service",
    "model": "each model", "": "all together"}
"""What is judged by itself -> as the form says it."""
LABEL: Final = "made_on"
PLACE: Final = "windows"
LEAST_MAX: Final = 1_000_000_000
NAME_CHARACTERS_MAX: Final = 100
_EVERY_GROUP: Final = "distinct_1"
"""A score that every judged window has."""
_UNITS: Final = {kind.name: kind.unit if kind.unit == "nats" else "" for kind in verb.KINDS}
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Form:
    """What the form says. name: of the rule; score: of SCORES; than: the threshold with its unit; lasting: of LASTING; least: the
    answers behind a value; query: which services, models, routes and templates."""

    name: str = ""
    score: str = "pairwise_cosine"
    side: str = "above"
    than: str = "0.5"
    lasting: str = "2"
    by: str = ",".join(ALL)
    query: str = ""
    least: str = "8"
    severity: str = SEVERITY
    channel: str = ""


def definition(form: Form, minutes: int) -> dict[str, Any]:
    """The rule, as a file has it. minutes: of a window. Raises MalformedRequest for a form that says no rule."""
    silent = form.score == SILENCE
    lasting = words_of(int(form.lasting) * minutes * 60)
    made: dict[str, Any] = {
        "name": form.name, "aggregate": "window_score", "score": _EVERY_GROUP if silent else form.score,
        "every": words_of(minutes * 60), "group_by": form.by.split(",") if form.by else [],
        "condition": {"kind": "no_data", "for": lasting} if silent else {form.side: _threshold(form), "for": lasting},
        "labels": {LABEL: PLACE},
    }
    made |= {"query": form.query} if form.query else {}
    made |= {"least": _least(form.least)} if not silent else {}
    made |= {"severity": form.severity} if form.severity != SEVERITY else {}
    return made | ({"channels": [form.channel]} if form.channel else {})


def form_of(rule: Rule) -> Form:
    """The form that made the rule."""
    condition, silent = rule.condition, rule.condition.kind == "no_data"
    windows = str(max(1, condition.for_s // rule.every_s))
    by = ",".join(rule.group_by)
    return Form(rule.name, SILENCE if silent else rule.score, "above" if condition.up else "below",
                "" if silent else repr(condition.threshold).removesuffix(".0"), windows if windows in LASTING else "1",
                by if by in GROUPS else "", rule.query, str(rule.least), rule.severity, rule.channels[0] if rule.channels else "")


class WindowRules:
    """desk, book: over the store that may be written; minutes: of a window, 0 where none is judged. Raises what a request is
    refused with."""

    def __init__(self, desk: Desk, book: Book, minutes: int) -> None:
        self._desk, self._book, self._minutes = desk, book, minutes

    def rules(self, tenant: str) -> Rules:
        """What stands, and which channels may be told. Raises StoreError."""
        return Rules.of(self._book.definitions(), tenant)

    def standing(self, tenant: str, name: str) -> Rule:
        """The rule of that name. Raises MalformedRequest where there is none, Conflict for one that was made elsewhere."""
        rule = self.rules(tenant).rules.get(name)
        if rule is None:
            raise MalformedRequest(f"there is no rule {name[:60]!r} here: it was removed, or is of another tenant")
        if rule.labels.get(LABEL) != PLACE:
            raise Conflict(f"the rule {name} was not made on the page of windows: change it where it is defined")
        return rule

    def make(self, tenant: str, said: Mapping[str, str], *, changes: str) -> str:
        """Makes a rule, or changes the one named; its name. said: the fields of Form. Raises MalformedRequest, Conflict and
        StoreError."""
        if not self._minutes:
            raise MalformedRequest("windows are not judged here, the setting windows_minutes is 0: a rule would see nothing")
        known = self.rules(tenant)
        form = _read({**said, "name": self.standing(tenant, changes).name if changes else said.get("name", "")}, known.channels)
        if not changes and form.name in known.rules:
            raise Conflict(f"there is a rule {form.name} already: choose another name, or change that one")
        made = definition(form, self._minutes)
        alert_forms.done(lambda: self._desk.apply({"rules": [made | ({"tenant": tenant} if tenant else {})]}))
        return form.name

    def remove(self, tenant: str, name: str) -> None:
        """Removes a rule that was made here. Raises MalformedRequest, Conflict, StoreError."""
        rule = self.standing(tenant, name)
        alert_forms.done(lambda: self._desk.remove(tenant, [rule.name]))


def _read(said: Mapping[str, str], channels: tuple[str, ...]) -> Form:
    """The form. Raises MalformedRequest."""
    form = Form(**{name: said[name].strip() for name in Form.__dataclass_fields__ if name in said})
    alert_forms.check((("score", form.score, SCORES), ("side", form.side, SIDES), ("length", form.lasting, LASTING),
                       ("group", form.by, GROUPS), ("severity", form.severity, SEVERITIES)), form.channel, channels)
    if not _NAME.fullmatch(form.name) or len(form.name) > NAME_CHARACTERS_MAX:
        raise MalformedRequest(f"the name of a rule has letters, digits and _ . -, at most {NAME_CHARACTERS_MAX}, and begins with "
                               f"a letter or digit; it is {form.name[:60]!r}")
    return form


def _threshold(form: Form) -> float:
    return float(alert_forms.number(form.than, _UNITS[form.score], form.score))


def _least(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:20]) <= LEAST_MAX:
        raise MalformedRequest(f"the number of answers is a whole one from 1 to {LEAST_MAX}, it is {text[:20]!r}")
    return int(text)
