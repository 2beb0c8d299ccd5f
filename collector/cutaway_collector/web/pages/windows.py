"""The page of window scores: what the answers of a quarter of an hour say together, a row a window and group.

Not the scores (the verb `windows` has their formulas) and not when they are made: this page reads what is stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cutaway_collector import windows as verb
from cutaway_collector.alerts.rules import SEVERITIES
from cutaway_collector.baselines.changes import Deployment
from cutaway_collector.search import windows as query
from cutaway_collector.web import figures, query_edit, times, urls
from cutaway_collector.web.errors import BadParameter
from cutaway_collector.web.pages import window_alert, windows_changes
from cutaway_collector.web.pages.saved_alert import SIDES
from cutaway_collector.web.pages.windows_changes import Turn
from cutaway_collector.web.site import Arguments, Site, Tab

LIMIT_DEFAULT: Final = 100
VALUE_CHARACTERS_MAX: Final = 1000
COLUMNS: Final[tuple[tuple[str, str], ...]] = (
    ("vendi_share", "Different"), ("pairwise_cosine", "Cosine"), ("self_bleu", "Self-BLEU"), ("distinct_2", "Distinct-2"),
    ("duplicate_share", "Duplicates"), ("surprisal_rise", "Surprisal rise"), ("memorised_share", "Memorised"),
)
"""Score name, heading. The twin has all of them."""
_NAMES: Final = tuple(name for name, _ in COLUMNS)
_HELP: Final = {kind.name: kind.help + (f"; {kind.unit}" if kind.unit == "nats" else "") for kind in verb.KINDS}
LABELS: Final = tuple(kind.label for kind in verb.KINDS if kind.label)
_WATCHED: Final[Mapping[str, tuple[str, str]]] = {
    "collapsed": ("pairwise_cosine", "above: 0.5, clear: 0.4"), "duplicates": ("duplicate_share", "above: 0.2, clear: 0.1"),
    "rising": ("surprisal_rise", "above: 1, clear: 0.5"), "memorised": ("memorised_share", "above: 0.02"),
}
"""Label -> the score that has it, and a condition to begin with."""
CHOICES: Final[Mapping[str, Mapping[str, str]]] = {
    "score": window_alert.SCORES, "side": {side: side for side in SIDES}, "lasting": window_alert.LASTING,
    "by": window_alert.GROUPS, "severity": {severity: severity for severity in SEVERITIES},
}
"""Field of the alert form -> value, as the form says it."""


@dataclass(frozen=True, slots=True)
class Watching:
    """How an editor makes rules here, and whose."""

    rules: window_alert.WindowRules
    tenant: str


@dataclass(frozen=True, slots=True)
class Alert:
    """The alert form. form: as it is filled in; changes: the rule that it changes, "" for a new one; channels: who can be told."""

    form: window_alert.Form
    changes: str
    channels: tuple[str, ...]
    choices: Mapping[str, Mapping[str, str]]
    name_characters_max: int


@dataclass(frozen=True, slots=True)
class Cell:
    """One value as printed, what is said of it, and whether it is a bad one."""

    text: str
    title: str
    bad: bool


@dataclass(frozen=True, slots=True)
class Finding:
    """A label of the row, why, and links to example traces: (short id, address)."""

    label: str
    explanation: str
    examples: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a group's name; `url` shows this part alone."""

    name: str
    text: str
    url: str


@dataclass(frozen=True, slots=True)
class WindowRow:
    """One window and group."""

    start_ns: int
    date: str
    minutes: str
    parts: tuple[Part, ...]
    judged: int
    answers: int
    cells: tuple[Cell, ...]
    findings: tuple[Finding, ...]
    turns: tuple[str, ...]
    deployed: str


@dataclass(frozen=True, slots=True)
class WindowsPage:
    """Everything the template may use. filters: what narrows the page, each link taking it away. rule: an alert rule over what is
    shown, as a file has it; alert: the form that makes one, None for who may change nothing.
    """

    rows: tuple[WindowRow, ...]
    headings: tuple[tuple[str, str], ...]
    ranges: tuple[Tab, ...]
    labels: tuple[Tab, ...]
    filters: tuple[Tab, ...]
    rule: str
    alert: Alert | None
    truncated: bool
    limit: int
    minutes: int
    twin_url: str


def twin(site: Site, args: Arguments) -> dict[str, Any]:
    """The JSON twin: {"windows", "truncated", "stats"}; a window has "changes" and "deployed". Raises BadParameter, StoreError."""
    found, _ = _found(site, args)
    marks = windows_changes.find(site, found["windows"], _NAMES)
    return {**found, "windows": [{
        **row, "changes": [turn.shown() for turn in marks.turns.get(place, ())],
        "deployed": marks.deployed[place].shown() if place in marks.deployed else None}
        for place, row in enumerate(found["windows"])]}


def page(site: Site, args: Arguments, watching: Watching | None = None) -> WindowsPage:
    """The page. watching: for a visitor who may make rules. Raises BadParameter, StoreError, and what `Watching.rules` does."""
    found, kept = _found(site, args)
    marks = windows_changes.find(site, found["windows"], _NAMES)
    current = "" if kept.get("to") else kept.get("from", "all")
    return WindowsPage(
        rows=tuple(_row(row, kept, site.now_ns(), marks.turns.get(place, ()), marks.deployed.get(place))
                   for place, row in enumerate(found["windows"])),
        headings=tuple((heading, _HELP[name]) for name, heading in COLUMNS),
        ranges=tuple(Tab(label, urls.windows(kept, from_=text, to=""), current == (text or "all")) for text, label in times.RANGES),
        labels=tuple(Tab(label, urls.windows(kept, label="" if kept.get("label") == label else label), kept.get("label") == label)
                     for label in LABELS),
        filters=tuple(Tab(f"{name}: {kept[name] or 'none'}", urls.windows({key: kept[key] for key in kept if key != name}), True)
                      for name in query.FILTERS if name in kept),
        rule=_rule(kept, site.settings.windows_minutes),
        alert=_alert(watching, kept, args.get("rule", "")) if watching else None,
        truncated=found["truncated"],
        limit=len(found["windows"]),
        minutes=site.settings.windows_minutes,
        twin_url=urls.windows(kept).replace("/windows", "/windows.json", 1),
    )


def _found(site: Site, args: Arguments) -> tuple[dict[str, Any], dict[str, str]]:
    now_ns = site.now_ns()
    start_ns, end_ns = times.parse(args.get("from", ""), now_ns, "from"), times.parse(args.get("to", ""), now_ns, "to")
    if start_ns is not None and end_ns is not None and start_ns >= end_ns:
        raise BadParameter("from lies before to, here it does not", hint="exchange the two")
    kept = {key: args[key] for key in ("from", "to", "label", "limit") if args.get(key)}
    kept.update({name: args[name] for name in query.FILTERS if name in args})
    for name, value in kept.items():
        if len(value) > VALUE_CHARACTERS_MAX:
            raise BadParameter(f"{name} has at most {VALUE_CHARACTERS_MAX} characters, it has {len(value)}")
    label = kept.get("label", "")
    if label and label not in LABELS:
        raise BadParameter(f"label is one of {', '.join(LABELS)}, it is {label[:40]!r}")
    limit = _limit(kept.get("limit", ""), site.settings.page_rows_max)
    filters = {name: kept[name] for name in query.FILTERS if name in kept}
    return query.windows(site.store, start_ns=start_ns, end_ns=end_ns, filters=filters, label=label, limit=limit), kept


def _rule(kept: Mapping[str, str], minutes: int) -> str:
    """A rule as YAML: of the label that is chosen, else of mode collapse, and of the group that is."""
    label = kept.get("label") or LABELS[0]
    score, condition = _WATCHED[label]
    said = _query(kept)
    lines = ["rules:", f"  - name: answers-{label}", "    aggregate: window_score", f"    score: {score}"]
    # What JSON writes, YAML reads: a group's name may hold anything.
    lines += [f"    query: {json.dumps(said, ensure_ascii=False)}"] if said else []
    lines += [f"    every: {minutes}m"] if minutes not in (0, 15) else []
    return "\n".join([*lines, f"    condition: {{{condition}, for: {2 * (minutes or 15)}m}}"])


def _query(kept: Mapping[str, str]) -> str:
    """The group that is shown, as a rule's query."""
    return " ".join(f"{name}:{query_edit.quoted(kept[name])}" if kept[name] else f"-has:{name}"
                    for name in query.FILTERS if name in kept)


def _alert(watching: Watching, kept: Mapping[str, str], rule: str) -> Alert:
    """The form, filled in with the rule that is to be changed, else with the score of the chosen label and the group shown."""
    label = kept.get("label") or LABELS[0]
    score, condition = _WATCHED[label]
    # The condition of the file begins with the threshold: `above: 0.5, clear: 0.4`.
    than = condition.split(",")[0].split()[1]
    form = window_alert.form_of(watching.rules.standing(watching.tenant, rule)) if rule else window_alert.Form(
        name=f"answers-{label}", score=score, than=than, query=_query(kept))
    return Alert(form, rule, watching.rules.rules(watching.tenant).channels, CHOICES, window_alert.NAME_CHARACTERS_MAX)


def _limit(text: str, rows_max: int) -> int:
    if not text:
        return min(LIMIT_DEFAULT, rows_max)
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not 1 <= int(text) <= rows_max:
        raise BadParameter(f"limit is a number from 1 to {rows_max}, it is {text[:20]!r}", hint="narrow by time with from and to")
    return int(text)


def _row(row: Mapping[str, Any], kept: Mapping[str, str], now_ns: int, turns: Sequence[Turn],
         deployed: Deployment | None) -> WindowRow:
    scores = {score["name"]: score for score in row["scores"]}
    findings = []
    for score in row["scores"]:
        if score["label"]:
            said = score["explanation"]
            if score["label"] == "memorised" and "memorised_words" in scores:
                said = f"{said}; {scores['memorised_words']['explanation']}"
            findings.append(Finding(score["label"], said, tuple((trace[:7], urls.trace(trace)) for trace in score["examples"])))
    return WindowRow(
        start_ns=row["start_ns"],
        date=figures.day_unless_today(row["start_ns"], now_ns),
        minutes=f"{row['seconds'] // 60} min",
        parts=tuple(Part(name, row[name], urls.windows(kept, **{name: row[name]})) for name in query.FILTERS if row[name]),
        judged=max((score["count"] for score in row["scores"]), default=0),
        answers=row["answers"],
        cells=tuple(_cell(scores.get(name)) for name, _ in COLUMNS),
        findings=tuple(findings),
        turns=tuple(_turned(turn) for turn in turns),
        deployed=f"{deployed.version} takes over from {deployed.previous}" if deployed else "",
    )


def _turned(turn: Turn) -> str:
    """"Cosine rose from 0.2 to 0.6 (q 0.004), with 1.1"."""
    verb = "rose" if turn.since > turn.before else "fell"
    said = (f"{dict(COLUMNS)[turn.name]} {verb} from {figures.number(turn.before)} to {figures.number(turn.since)} "
            f"(q {figures.number(turn.q)})")
    return f"{said}, with {turn.version}" if turn.version else said


def _cell(score: Mapping[str, Any] | None) -> Cell:
    if score is None:
        return Cell(figures.ABSENT, "does not apply: too few answers, nothing captured or nothing registered", False)
    value = score["value"]
    return Cell(figures.number(float(value)), f"{_HELP[score['name']]}; of {score['count']} answers", bool(score["label"]))
