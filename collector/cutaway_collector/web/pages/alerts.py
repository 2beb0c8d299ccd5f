"""The alerts page: which rules are firing, since when and by how much; what happened lately and whether anybody was told.

Not the judging: it reads what the alerts flow has stored, in the visitor's view of the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cutaway_collector.alerts import Desk
from cutaway_collector.web import figures, urls
from cutaway_collector.web.errors import BadParameter
from cutaway_collector.web.site import Arguments, Site, Tab

STATES: Final = ("firing", "pending", "muted", "no_data", "ok")
"""In the order of the page: what asks for somebody comes first."""
WORDS: Final = {"firing": "firing", "pending": "pending", "muted": "muted", "no_data": "no data", "ok": "ok"}
TONES: Final = {"firing": "bad", "pending": "warn", "muted": "", "no_data": "", "ok": "good"}
MUTES: Final = {"1h": 3600, "8h": 8 * 3600, "1d": 86_400, "7d": 7 * 86_400, "off": 0}
GROUPS_SHOWN_MAX: Final = 20
SPARK_WIDTH: Final = 96
SPARK_HEIGHT: Final = 22
EVENTS_SHOWN_MAX: Final = 50
RULES_SHOWN_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Spark:
    """The last values as a line in a box of SPARK_WIDTH x SPARK_HEIGHT; x, y: the newest; label: what it says in words."""

    points: str
    x: str
    y: str
    label: str


@dataclass(frozen=True, slots=True)
class Group:
    """One group of a rule, as printed; name is "" where all spans are one. tone: of the badge."""

    name: str
    state: str
    tone: str
    value: str
    since: str
    url: str
    spark: Spark | None


@dataclass(frozen=True, slots=True)
class Row:
    """One rule."""

    name: str
    tenant: str
    state: str
    tone: str
    severity: str
    query: str
    measures: str
    condition: str
    owner: str
    runbook: str
    advice: str
    labels: tuple[tuple[str, str], ...]
    channels: str
    muted_until: str
    judged_to: str
    groups: tuple[Group, ...]
    groups_more: int
    test_url: str


@dataclass(frozen=True, slots=True)
class Happened:
    """One event."""

    at: str
    kind: str
    tone: str
    rule: str
    group: str
    value: str
    condition: str
    told: tuple[tuple[str, str], ...]
    url: str


@dataclass(frozen=True, slots=True)
class AlertsPage:
    """Everything the template may use."""

    rows: tuple[Row, ...]
    rows_more: int
    events: tuple[Happened, ...]
    tabs: tuple[Tab, ...]
    counts: Mapping[str, int]
    headline: str
    trouble: tuple[str, ...]
    any_rules: bool
    may_mute: bool
    tenant: str
    judging: bool
    twin_url: str


def twin(site: Site, arguments: Arguments) -> dict[str, Any]:
    """{"rules", "channels", "events", "trouble"} of the visitor's tenant. Raises BadParameter."""
    wanted = _wanted(arguments)
    found = Desk(site.store, site.settings).listing(site.now_ns())
    rule = arguments.get("rule", "")
    found["rules"] = [row for row in found["rules"] if (not wanted or row["state"] == wanted) and (not rule or row["name"] == rule)]
    found["events"] = [event for event in found["events"] if not rule or event["rule"] == rule]
    return found


def page(site: Site, arguments: Arguments, tenant: str, *, may_mute: bool) -> AlertsPage:
    """The page. tenant: the visitor's, "" for one of none. Raises BadParameter."""
    wanted = _wanted(arguments)
    found = twin(site, {key: value for key, value in arguments.items() if key != "state"})
    counts = {state: sum(row["state"] == state for row in found["rules"]) for state in STATES}
    rows = sorted((row for row in found["rules"] if not wanted or row["state"] == wanted),
                  key=lambda row: (STATES.index(row["state"]), row["name"]))
    tabs = (Tab("all", urls.alerts(), not wanted), *(
        Tab(f"{WORDS[state]} {counts[state]}", urls.alerts(state=state), wanted == state) for state in STATES if counts[state]))
    return AlertsPage(
        tuple(map(_row, rows[:RULES_SHOWN_MAX])), max(0, len(rows) - RULES_SHOWN_MAX),
        tuple(_happened(event) for event in found["events"][:EVENTS_SHOWN_MAX]), tabs, counts, headline(counts),
        tuple(found["trouble"]), bool(found["rules"]), may_mute, tenant, bool(site.settings.alerts_interval_seconds),
        urls.alerts(json=True, state=wanted, rule=arguments.get("rule", "")))


def headline(counts: Mapping[str, int]) -> str:
    """What to know first. Rules that found nothing to judge are not quiet. counts: rules by state."""
    firing, without, rules = counts["firing"], counts["no_data"], sum(counts.values())
    if firing:
        return f"{firing} rule{'s' if firing != 1 else ''} firing"
    if without == rules:
        return "No rule has data to judge"
    if without:
        return f"Quiet, but {without} of {rules} rules {'have' if without != 1 else 'has'} no data"
    return "All quiet"


def _wanted(arguments: Arguments) -> str:
    state = arguments.get("state", "")
    if state and state not in STATES:
        raise BadParameter(f"state is one of {', '.join(STATES)}, it is {state[:40]!r}", hint="leave it out for every rule")
    return state


def _row(row: Mapping[str, Any]) -> Row:
    groups = sorted(row["groups"], key=lambda group: STATES.index(group["state"]))
    return Row(
        row["name"], row["tenant"], WORDS[row["state"]], TONES[row["state"]], row["severity"], row["query"], row["value_words"],
        row["condition"], row["owner"], row["runbook"], row["advice"], tuple(row["labels"].items()), ", ".join(row["channels"]),
        _clock(row["muted_until"]), _clock(row["judged_to"]), tuple(map(_group, groups[:GROUPS_SHOWN_MAX])),
        max(0, len(groups) - GROUPS_SHOWN_MAX), urls.alert_test(rule=row["name"], tenant=row["tenant"]))


def _group(group: Mapping[str, Any]) -> Group:
    state = group["state"]
    return Group(", ".join(value or "(none)" for value in group["group"].values()), WORDS[state], TONES[state],
                 figures.number(group["value"]), _clock(group["since"]), group["link"], _spark(group["recent"]))


def _spark(values: Sequence[float]) -> Spark | None:
    if len(values) < 2:
        return None
    low, high = min(values), max(values)
    step = (SPARK_WIDTH - 6) / (len(values) - 1)
    # A level line lies in the middle: it is neither high nor low.
    heights = [(value - low) / (high - low) if high > low else 0.5 for value in values]
    places = [(3 + index * step, SPARK_HEIGHT - 3 - height * (SPARK_HEIGHT - 6)) for index, height in enumerate(heights)]
    said = f"between {figures.number(low)} and {figures.number(high)}" if high > low else f"all {figures.number(low)}"
    return Spark(" ".join(f"{x:.1f},{y:.1f}" for x, y in places), f"{places[-1][0]:.1f}", f"{places[-1][1]:.1f}",
                 f"the last {len(values)} values, {said}")


def _happened(event: Mapping[str, Any]) -> Happened:
    told = tuple((f"{one['channel']}: {one['state']}", one["error"]) for one in event["deliveries"])
    nobody = (("muted", "nobody was told"),) if event["muted"] else ()
    # The base of links is for those outside; here the path alone is right.
    path = event["link"][max(event["link"].rfind("/search?"), event["link"].rfind("/windows?")):]
    return Happened(_clock(event["window_end"]), event["kind"], "bad" if event["kind"] == "firing" else "good", event["rule"],
                    ", ".join(value or "(none)" for value in event["group"].values()), figures.number(event["value"]),
                    event["reason"] or event["condition"], told or nobody, path)


def _clock(iso: str | None) -> str:
    """"2026-01-31T18:00:00Z" as "2026-01-31 18:00", "" for none."""
    return iso[:16].replace("T", " ") if iso else ""
