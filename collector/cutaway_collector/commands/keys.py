"""Make, list and remove the API keys of a collector. A running collector notices within a second."""

from __future__ import annotations

import argparse

from cutaway_collector import credentials
from cutaway_collector.settings import Settings


def add_arguments(to: argparse.ArgumentParser) -> None:
    """Flags of `cutaway keys`, besides the settings that say where the keys are."""
    to.add_argument("action", choices=("add", "list", "remove"))
    to.add_argument("name", nargs="?", default="", metavar="NAME", help="which key (remove)")
    to.add_argument("--name", dest="new_name", default="", metavar="NAME", help="name of the new key (add)")
    to.add_argument("--scope", default="", metavar="SCOPES",
                    help=f"what it may do, with commas: {', '.join(credentials.SCOPES)} (add)")
    to.add_argument("--tenant", default="", help="whose spans it sends and sees; left out, it sees everybody's (add)")


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Does it. The new key is the one line on stdout, and is shown this once."""
    path = credentials.keys_path(settings)
    name = arguments.new_name or arguments.name
    if arguments.action == "add":
        scopes = [part.strip() for part in arguments.scope.split(",") if part.strip()]
        print(credentials.add(path, name, scopes, arguments.tenant))
    elif arguments.action == "remove":
        credentials.remove(path, name)
        print(f"removed {name}")
    else:
        keys = credentials.read(path)
        for key in sorted(keys, key=lambda key: key.name):
            whose = f"tenant {key.tenant}" if key.tenant else "every tenant"
            print(f"{key.name}  {','.join(sorted(key.scopes))}  {whose}  {key.created}")
        if not keys:
            print(f"no keys in {path}: `cutaway keys add --name NAME --scope ingest` makes one")
    return 0
