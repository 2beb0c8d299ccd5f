"""Apply a file of alert rules, list, mute and remove them, and test over stored history what a rule would have said.

With --clickhouse this command does the work; with --data it does when no collector is running there, else it asks that collector.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from cutaway_collector.alerts import Desk, read_document
from cutaway_collector.alerts.channels import SCHEMA as CHANNELS
from cutaway_collector.alerts.documents import load
from cutaway_collector.alerts.rules import CONDITIONS
from cutaway_collector.alerts.rules import SCHEMA as RULES
from cutaway_collector.commands import running
from cutaway_collector.errors import DataDirectoryBusy, SettingsError
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, open_store
from cutaway_collector.web import alert_routes, times
from cutaway_collector.web.errors import BadParameter

_SIGNS: Final = {"added": "+", "changed": "~", "removed": "-", "same": " "}


def add_arguments(to: argparse.ArgumentParser, add_settings: Callable[[argparse.ArgumentParser], None]) -> None:
    """`alerts apply`, `list`, `mute`, `unmute`, `remove`, `test` and `schema`."""
    actions = to.add_subparsers(dest="action", required=True, metavar="ACTION")
    one = actions.add_parser("apply", help="make the definitions of a YAML file true, and print what that changes")
    one.add_argument("file", metavar="FILE")
    one.add_argument("--prune", action="store_true", help="remove rules and channels that the file does not name")
    one.add_argument("--dry-run", action="store_true", help="print what would change, and change nothing")
    acting = [one, actions.add_parser("list", help="rules, how they stand, and whether they are muted")]
    one = actions.add_parser("mute", help="tell nobody of a rule for a while")
    one.add_argument("name", metavar="RULE")
    one.add_argument("--for", dest="length", default="8h", metavar="TIME", help="how long: 30m, 8h, 7d (default: 8h)")
    acting.append(one)
    one = actions.add_parser("unmute", help="tell of it again")
    one.add_argument("name", metavar="RULE")
    acting.append(one)
    one = actions.add_parser("remove", help="remove rules and channels")
    one.add_argument("names", metavar="NAME", nargs="+")
    acting.append(one)
    one = actions.add_parser("test", help="judge stored history, and print what would have fired")
    one.add_argument("rule", metavar="RULE|FILE", help="a rule that is in force, or a YAML file whose rules are tested")
    one.add_argument("--since", default="-7d", metavar="TIME", help="start of the history (default: -7d)")
    one.add_argument("--until", default="now", metavar="TIME", help="its end (default: now)")
    one.add_argument("--late", action="store_true", help="count what arrived after its window was due, as imported history did")
    acting.append(one)
    for one in acting:
        one.add_argument("--tenant", default="", help="whose rule it is; left out, the rule of nobody's in particular")
        one.add_argument("--json", action="store_true", help="the answer as JSON")
        add_settings(one)
        running.add_arguments(one)
    actions.add_parser("schema", help="every key of the YAML file, with what it is")


def run(arguments: argparse.Namespace, settings: Callable[[], Settings]) -> int:
    """Exit 0; of `test` 1 when a rule would have fired. settings: asked where they are needed. Raises CutawayError."""
    if arguments.action == "schema":
        return _schema()
    try:
        if arguments.url:
            return _act(_Remote(running.Collector(arguments.url, arguments)), arguments)
        chosen = settings()
        try:
            store = _open(chosen)
        except DataDirectoryBusy:
            return _act(_Remote(running.find(chosen, arguments)), arguments)
        try:
            return _act(Desk(store, chosen), arguments)
        finally:
            store.close()
    except BadParameter as error:
        raise SettingsError(f"{error}: {error.hint}") from None


def _open(settings: Settings) -> ClickHouseStore:
    if settings.data and not (Path(settings.data) / "chdb").is_dir():
        raise SettingsError(f"there is no store in {settings.data}: name the directory that `cutaway serve` was given")
    return open_store(settings)


class _Remote:
    """The desk of a running collector, with the calls of `alerts.Desk`."""

    def __init__(self, collector: running.Collector) -> None:
        self._collector = collector

    def apply(self, document: Any, *, prune: bool, dry_run: bool) -> dict[str, Any]:
        return self._ask(alert_routes.APPLY, {"document": document, "prune": prune, "dry_run": dry_run})

    def listing(self) -> dict[str, Any]:
        return self._ask(alert_routes.LIST)

    def remove(self, tenant: str, names: list[str]) -> dict[str, Any]:
        return self._ask(alert_routes.REMOVE, {"tenant": tenant, "names": names})

    def mute(self, tenant: str, name: str, until_ns: int) -> dict[str, Any]:
        return self._ask(alert_routes.MUTE, {"tenant": tenant, "rule": name, "until_ns": until_ns})

    def test(self, rule: Any, start_ns: int, end_ns: int, *, tenant: str, late: bool) -> dict[str, Any]:
        return self._ask(alert_routes.TEST, {"rule": rule, "tenant": tenant, "start_ns": start_ns, "end_ns": end_ns, "late": late})

    def _ask(self, route: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        answer: dict[str, Any] = self._collector.ask(route, body)
        return answer


def _act(desk: Desk | _Remote, arguments: argparse.Namespace) -> int:
    action = arguments.action
    if action == "test":
        return _test(desk, arguments)
    if action == "apply":
        document = load(Path(arguments.file))
        read_document(document)  # what is wrong is said before anybody is asked
        answer = desk.apply(document, prune=arguments.prune, dry_run=arguments.dry_run)
        return _print(answer, arguments, _changes)
    if action == "list":
        return _print(desk.listing(), arguments, _listing)
    if action == "remove":
        return _print(desk.remove(arguments.tenant, arguments.names), arguments,
                      lambda answer: print(f"removed {', '.join(answer['removed'])}"))
    until_ns = 0 if action == "unmute" else _later(arguments.length)
    return _print(desk.mute(arguments.tenant, arguments.name, until_ns), arguments, lambda answer: print(
        f"{answer['rule']} is muted until {answer['muted_until']}" if answer["muted_until"] else f"{answer['rule']} is not muted"))


def _print(answer: dict[str, Any], arguments: argparse.Namespace, words: Callable[[dict[str, Any]], None]) -> int:
    if arguments.json:
        print(json.dumps(answer))
    else:
        words(answer)
    return 0


def _changes(answer: dict[str, Any]) -> None:
    counts: dict[str, int] = {}
    for change in answer["changes"]:
        counts[change["action"]] = counts.get(change["action"], 0) + 1
        if change["action"] != "same":
            owner = f" of {change['tenant']}" if change["tenant"] else ""
            print(f"{_SIGNS[change['action']]} {change['kind']} {change['name']}{owner}")
            for line in change["diff"] if change["action"] == "changed" else ():
                print(f"    {line}")
    for doubt in answer["doubts"]:
        print(f"? {doubt}")
    said = ", ".join(f"{count} {action}" for action, count in sorted(counts.items())) or "nothing defined"
    print(said if answer["applied"] or set(counts) <= {"same"} else f"{said} (nothing was changed: --dry-run)")


def _listing(answer: dict[str, Any]) -> None:
    for rule in answer["rules"]:
        owner = f" of {rule['tenant']}" if rule["tenant"] else ""
        muted = f", muted until {rule['muted_until']}" if rule["muted_until"] else ""
        print(f"{rule['state']:8} {rule['name']}{owner}: {' '.join((rule['value_words'], rule['condition'])).strip()}{muted}")
        for group in rule["groups"]:
            if group["group"] and group["state"] != "ok":
                print(f"         {group['state']:8} {', '.join(group['group'].values())} since {group['since']}")
    for trouble in answer["trouble"]:
        print(f"trouble  {trouble}")
    if not answer["rules"]:
        print("no rules: `cutaway alerts apply FILE.yaml` takes some, `cutaway alerts schema` says what is in it")


def _test(desk: Desk | _Remote, arguments: argparse.Namespace) -> int:
    now_ns = time.time_ns()
    start_ns = times.parse(arguments.since, now_ns, "--since")
    end_ns = times.parse(arguments.until, now_ns, "--until")
    if start_ns is None or end_ns is None:
        raise SettingsError("a back-test has a start and an end: --since -7d --until now")
    path = Path(arguments.rule)
    rules: list[Any] = [arguments.rule]
    if path.suffix in (".yaml", ".yml") or path.is_file():
        document = load(path)
        read_document(document)
        rules = document.get("rules") or []
    fired = False
    for rule in rules:
        report = desk.test(rule, start_ns, end_ns, tenant=arguments.tenant, late=arguments.late)
        fired = fired or any(event["kind"] == "firing" for event in report["events"])
        _print(report, arguments, _report)
    return int(fired)


def _report(report: dict[str, Any]) -> None:
    for event in report["events"]:
        group = f" [{', '.join(event['group'].values())}]" if event["group"] else ""
        value = "" if event["value"] is None else f" at {event['value']:.4g}"
        reason = f" ({event['reason']})" if event["reason"] else ""
        print(f"{event['at']}  {event['kind']:8}  {report['rule']}{group}{value}{reason}")
    fired = sum(event["kind"] == "firing" for event in report["events"])
    firing = f", {len(report['firing'])} still firing" if report["firing"] else ""
    left = f", up to {report['left_out']} groups were too many" if report["left_out"] else ""
    print(f"{report['rule']}: {report['windows']} windows judged, {report['condition']} fired {fired} times{firing}{left}")


def _later(length: str) -> int:
    """Now and so much longer, nanoseconds since 1970."""
    try:
        now_ns = time.time_ns()
        back_ns = times.parse(f"-{length}", now_ns, "--for")
    except BadParameter:
        raise SettingsError(f"--for is how long, such as 30m, 8h or 7d; it is {length[:40]!r}") from None
    return 2 * now_ns - (back_ns or 0)


def _schema() -> int:
    print("rules:  # a list; of each:")
    for key, said in RULES.items():
        print(f"  {key}: {said}")
    for kind, keys in CONDITIONS.items():
        print(f"condition, kind {kind}{' (default)' if kind == 'threshold' else ''}:")
        for key, said in keys.items():
            print(f"  {key}: {said}")
    print("channels:  # a list; of each name, kind, and of the kind:")
    for kind, keys in CHANNELS.items():
        print(f"  {kind}: {'nothing more' if not keys else ''}")
        for key, said in keys.items():
            print(f"    {key}: {said}")
    return 0
