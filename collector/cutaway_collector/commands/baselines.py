"""Pin a window in which all was well, list and remove such baselines, and say how far another window is from one.

With --clickhouse this command does the work; with --data it does when no collector is running there, else it asks that collector.
"""

from __future__ import annotations

import argparse
import json
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cutaway_collector.baselines import drift_of, listed, pin, remove
from cutaway_collector.baselines.attributes import Scope
from cutaway_collector.commands import running
from cutaway_collector.errors import DataDirectoryBusy, SettingsError
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, open_store
from cutaway_collector.web import drift_routes, times
from cutaway_collector.web.errors import BadParameter

_COLUMNS: Final = (("attribute", 22), ("label", 8), ("statistic", 12), ("value", 10), ("q", 10), ("psi", 8), ("n", 8),
                   ("reference_n", 12), ("reference_level", 16), ("level", 12), ("moved", 20))


def add_arguments(to: argparse.ArgumentParser, add_settings: Callable[[argparse.ArgumentParser], None]) -> None:
    """`baselines pin`, `list`, `remove` and `drift`."""
    actions = to.add_subparsers(dest="action", required=True, metavar="ACTION")
    one = actions.add_parser("pin", help="keep a window as what is normal; an older pin of the same is replaced")
    one.add_argument("--service", required=True, help="service.name of the sender")
    one.add_argument("--model", required=True, help="the model, as in search")
    one.add_argument("--version", default="", help="generations of this service.version only")
    one.add_argument("--tenant", default="", help="whose generations")
    one.add_argument("--from", dest="start", default="-7d", metavar="TIME", help="start of the window (default: -7d)")
    one.add_argument("--to", dest="end", default="now", metavar="TIME", help="its end, not included (default: now)")
    finish = [one, actions.add_parser("list", help="every baseline")]
    one = actions.add_parser("remove", help="forget a baseline; what was found with it stays")
    one.add_argument("baseline", metavar="ID", help="its id, or the first eight digits or more")
    finish.append(one)
    one = actions.add_parser("drift", help="compare a window with its baselines now; exit 1 when anything shifted")
    one.add_argument("--service", default="", help="baselines of this service only")
    one.add_argument("--model", default="", help="baselines of this model only")
    one.add_argument("--from", dest="start", default="-1h", metavar="TIME", help="start of the window (default: -1h)")
    one.add_argument("--to", dest="end", default="now", metavar="TIME", help="its end, not included (default: now)")
    one.add_argument("--json", action="store_true", help="one JSON object a line instead of a table")
    finish.append(one)
    for one in finish:
        add_settings(one)
        running.add_arguments(one)


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Exit 0; of `drift` 1 when something shifted. Raises CutawayError."""
    if arguments.url:
        return _remote(running.Collector(arguments.url, arguments), arguments)
    try:
        store = _open(settings)
    except DataDirectoryBusy:
        return _remote(running.find(settings, arguments), arguments)
    try:
        return _local(store, arguments)
    finally:
        store.close()


def _open(settings: Settings) -> ClickHouseStore:
    if settings.data and not (Path(settings.data) / "chdb").is_dir():
        raise SettingsError(f"there is no store in {settings.data}: name the directory that `cutaway serve` was given")
    return open_store(settings)


def _local(store: ClickHouseStore, arguments: argparse.Namespace) -> int:
    if arguments.action == "pin":
        start_ns, end_ns = _window(arguments)
        scope = Scope(arguments.tenant, arguments.service, arguments.model, start_ns, end_ns, arguments.version)
        return _baselines([pin(store, scope).shown()])
    if arguments.action == "remove":
        print(f"removed {remove(store, arguments.baseline).id}")
        return 0
    if arguments.action == "list":
        return _baselines([one.shown() for one in listed(store)])
    tenants = sorted({one.tenant for one in listed(store)})
    rows = [row for tenant in tenants
            for row in drift_of(store, tenant, _window(arguments), service=arguments.service, model=arguments.model)]
    return _rows([row.shown() for row in rows], arguments)


def _remote(collector: running.Collector, arguments: argparse.Namespace) -> int:
    if arguments.action == "pin":
        start_ns, end_ns = _window(arguments)
        body = {"service": arguments.service, "model": arguments.model, "version": arguments.version, "tenant": arguments.tenant,
                "start_ns": start_ns, "end_ns": end_ns}
        return _baselines([collector.ask(drift_routes.ROUTE, body)["baseline"]])
    if arguments.action == "remove":
        print(f"removed {collector.ask(drift_routes.REMOVE_ROUTE, {'baseline': arguments.baseline})['baseline']['baseline']}")
        return 0
    if arguments.action == "list":
        return _baselines(collector.ask(drift_routes.ROUTE)["baselines"])
    start_ns, end_ns = _window(arguments)
    rows: list[Mapping[str, Any]] = []
    for one in collector.ask("/drift.json")["baselines"]:
        if arguments.service in ("", one["service"]) and arguments.model in ("", one["model"]):
            asked = urllib.parse.urlencode({"baseline": one["baseline"], "from": start_ns, "to": end_ns})
            rows += collector.ask(f"/drift.json?{asked}")["rows"]
    return _rows(rows, arguments)


def _window(arguments: argparse.Namespace) -> tuple[int, int]:
    now_ns = time.time_ns()
    try:
        start_ns = times.parse(arguments.start, now_ns, "--from")
        end_ns = times.parse(arguments.end, now_ns, "--to")
    except BadParameter as error:
        raise SettingsError(f"{error}: {error.hint}") from None
    if start_ns is None or end_ns is None or start_ns >= end_ns:
        raise SettingsError("a window has a start and a later end: --from -7d --to now")
    return start_ns, end_ns


def _baselines(found: Sequence[Mapping[str, Any]]) -> int:
    for one in found:
        window = " to ".join(_moment(one[name]) for name in ("start_ns", "end_ns"))
        words = [one["baseline"][:8], one["service"], one["model"],
                 f"version {one['service_version']}" if one["service_version"] else "",
                 f"tenant {one['tenant']}" if one["tenant"] else "", window,
                 f"{one['generations']:,} generations"]
        print("  ".join(_printable(word) for word in words if word))
    if not found:
        print("no baselines: `cutaway baselines pin --service NAME --model NAME` keeps one")
    return 0


def _rows(rows: Sequence[Mapping[str, Any]], arguments: argparse.Namespace) -> int:
    last = None
    for row in rows:
        if arguments.json:
            print(json.dumps(row))
            continue
        if row["baseline"] != last:
            last = row["baseline"]
            print(_printable(f"{row['service']}  {row['model']}  {_moment(row['start_ns'])} to {_moment(row['end_ns'])}"))
            print("  ".join(f"{name:<{width}}" for name, width in _COLUMNS).rstrip())
        print("  ".join(f"{_cell(row[name]):<{width}.{width}}" for name, width in _COLUMNS).rstrip())
    if not rows and not arguments.json:
        print("nothing to compare: no baseline of that, or no generation in the window")
    return int(any(row["label"] == "shifted" for row in rows))


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else _printable(str(value))


def _moment(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M")


def _printable(text: str) -> str:
    """Names come from senders: control characters must not reach the terminal."""
    return "".join(char if char.isprintable() else "·" for char in text)
