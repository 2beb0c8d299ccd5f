"""Make, list and remove the API keys of a collector. A running collector notices within a second."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from cutaway_collector import credentials
from cutaway_collector.settings import Settings


def add_arguments(to: argparse.ArgumentParser, add_settings: Callable[[argparse.ArgumentParser], None]) -> None:
    """`keys add`, `keys list` and `keys remove`, each with the settings that say where the keys are."""
    actions = to.add_subparsers(dest="action", required=True, metavar="ACTION")
    add = actions.add_parser("add", help="make a key and print it, this once")
    add.add_argument("--name", required=True, help="what it is called in lists")
    add.add_argument("--scope", required=True, metavar="SCOPES",
                     help=f"what it may do, with commas: {', '.join(credentials.SCOPES)} (edit includes read, admin includes all)")
    add.add_argument("--tenant", default="", help="whose spans it sends and sees; left out, it sees everybody's")
    remove = actions.add_parser("remove", help="forget a key")
    remove.add_argument("name", metavar="NAME")
    for one in (add, actions.add_parser("list", help="names, scopes and tenants"), remove):
        add_settings(one)


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Does it. The new key is the one line on stdout, and is shown this once."""
    path = credentials.keys_path(settings)
    if arguments.action == "add":
        scopes = [part.strip() for part in arguments.scope.split(",") if part.strip()]
        print(credentials.add(path, arguments.name, scopes, arguments.tenant))
    elif arguments.action == "remove":
        credentials.remove(path, arguments.name)
        print(f"removed {arguments.name}")
    else:
        keys = credentials.read(path)
        for key in sorted(keys, key=lambda key: key.name):
            whose = f"tenant {key.tenant}" if key.tenant else "every tenant"
            print(f"{key.name}  {','.join(sorted(key.scopes))}  {whose}  {key.created}")
        if not keys:
            print(f"no keys in {path}: `cutaway keys add --name NAME --scope ingest` makes one")
    return 0
