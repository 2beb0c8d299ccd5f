"""The page of a back-test: what a rule in force would have said over the last days. Judges nothing: the desk of alerts does."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Final

from cutaway_collector.alerts import Desk, RuleError
from cutaway_collector.errors import Overloaded
from cutaway_collector.web import figures, times, urls
from cutaway_collector.web.errors import BadParameter
from cutaway_collector.web.site import Arguments, Site

SINCE_DEFAULT: Final = "-7d"
EVENTS_SHOWN_MAX: Final = 200
_ONE_AT_A_TIME: Final = threading.Lock()
"""A week of minutes is some forty statements: a click must not be worth more than one of them at a time."""


@dataclass(frozen=True, slots=True)
class Event:
    """One alert that would have begun or ended."""

    at: str
    kind: str
    tone: str
    group: str
    value: str
    reason: str
    url: str


@dataclass(frozen=True, slots=True)
class BacktestPage:
    """Everything the template may use. fired: how often an alert would have begun; firing: groups that fire at the end."""

    rule: str
    condition: str
    since: str
    windows: int
    fired: int
    firing: int
    left_out: int
    events: tuple[Event, ...]
    events_more: int
    rule_url: str
    twin_url: str


def twin(site: Site, desk: Desk, arguments: Arguments, tenant: str) -> dict[str, Any]:
    """The report, "since_ns", "until_ns". tenant: of the visitor, who tests its own rules. Raises BadParameter, Overloaded."""
    name, wanted = arguments.get("rule", ""), arguments.get("tenant", "")
    if tenant and wanted not in ("", tenant):
        raise BadParameter("a key of a tenant tests rules of that tenant alone")
    now_ns = site.now_ns()
    start_ns = times.parse(arguments.get("since", "") or SINCE_DEFAULT, now_ns, "since")
    if start_ns is None:
        raise BadParameter("since is where the history begins", hint="try -7d")
    if not _ONE_AT_A_TIME.acquire(blocking=False):
        raise Overloaded("another back-test is running: try again in a moment", retry_after_s=2)
    try:
        found = desk.test(name, start_ns, now_ns, tenant=tenant or wanted)
    except RuleError as error:
        raise BadParameter(str(error)) from None
    finally:
        _ONE_AT_A_TIME.release()
    return {**found, "since_ns": start_ns, "until_ns": now_ns}


def page(site: Site, desk: Desk, arguments: Arguments, tenant: str) -> BacktestPage:
    """The page. Raises as `twin`."""
    found = twin(site, desk, arguments, tenant)
    events = found["events"][::-1]
    kept = {key: arguments.get(key, "") for key in ("rule", "tenant", "since")}
    return BacktestPage(
        found["rule"], found["condition"], arguments.get("since", "") or SINCE_DEFAULT, found["windows"],
        sum(event["kind"] == "firing" for event in events), len(found["firing"]), found["left_out"],
        tuple(_event(event) for event in events[:EVENTS_SHOWN_MAX]), max(0, len(events) - EVENTS_SHOWN_MAX),
        urls.alerts(rule=found["rule"]), urls.alert_test(json=True, **kept))


def _event(event: dict[str, Any]) -> Event:
    return Event(event["at"][:16].replace("T", " "), event["kind"], "bad" if event["kind"] == "firing" else "good",
                 ", ".join(event["group"].values()), figures.number(event["value"]), event["reason"], event["link"])
