"""Print the DDL, check a store against it, or apply what is missing (additions only)."""

from __future__ import annotations

import sys
from typing import Literal

from cutaway_collector.settings import Settings
from cutaway_collector.store import open_store
from cutaway_collector.store import schema as ddl


def run(action: Literal["print", "check", "migrate"], settings: Settings) -> int:
    """print: DDL on stdout. check: differences on stdout, exit 1 when there are any. migrate: what was applied on stdout."""
    if action == "print":
        sys.stdout.write(";\n\n".join(ddl.render(settings)) + ";\n")
        return 0
    store = open_store(settings, create=False)
    try:
        lines = ddl.check(store, settings) if action == "check" else ddl.migrate(store, settings)
    finally:
        store.close()
    for line in lines:
        print(line)
    if action == "migrate":
        print(f"{len(lines)} statements applied" if lines else "nothing to do: the schema is current")
        return 0
    print(f"{len(lines)} differences: run `cutaway schema migrate`" if lines else "the schema is current")
    return 1 if lines else 0
