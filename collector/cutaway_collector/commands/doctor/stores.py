"""The store: reached, new enough, on time, allowed to us, and with the tables of this version. Writes no row."""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Final

from cutaway_collector.columns import MIGRATIONS, TABLES
from cutaway_collector.commands.doctor.findings import Finding, bad, note, ok
from cutaway_collector.commands.doctor.places import in_use
from cutaway_collector.contracts import Store
from cutaway_collector.errors import CutawayError, DataDirectoryBusy, StoreError
from cutaway_collector.settings import Settings
from cutaway_collector.store import open_store
from cutaway_collector.store import schema as ddl

SERVER_MIN: Final = (24, 8)
"""The oldest line with a long support that has the deduplication of views and the column settings we make tables with."""
CLOCK_SECONDS_MAX: Final = 60


def store(settings: Settings) -> Iterator[Finding]:
    """The store of the settings."""
    if bool(settings.data) == bool(settings.clickhouse):
        return  # said by the check of the settings
    if settings.data and not Path(settings.data).exists():
        yield ok("store", f"{settings.data} does not exist yet and will be created")
        return
    if settings.data and in_use(Path(settings.data)):
        return  # the running collector is asked
    if settings.data and not (Path(settings.data) / "chdb").exists():
        yield ok("store", f"nothing is stored in {settings.data} yet")
        return
    try:
        opened = open_store(settings, create=False)
    except DataDirectoryBusy:
        return
    except StoreError as error:
        yield bad("store", str(error), "start it or correct the URL, a running collector's spool takes spans meanwhile"
                  if error.retryable else "put that right, the collector does not start")
        return
    try:
        yield from judge(opened, settings)
    finally:
        opened.close()


def judge(opened: Store, settings: Settings) -> Iterator[Finding]:
    """An open store."""
    before = time.time()
    said, store_ms = opened.query("SELECT version(), toUnixTimestamp64Milli(now64(3))").rows[0]
    apart_s = store_ms / 1000 - (before + time.time()) / 2
    numbers = tuple(int(part) for part in str(said).split(".")[:2] if part.isdigit())
    if settings.clickhouse and numbers < SERVER_MIN:
        yield bad("store", f"the server is ClickHouse {said}, {'.'.join(map(str, SERVER_MIN))} is the oldest that fits",
                  "update it")
    else:
        yield ok("store", f"ClickHouse {said} answers")
    if abs(apart_s) > CLOCK_SECONDS_MAX:
        yield bad("store", f"its clock is {apart_s:+.0f} s from ours, and retention and searches by time go by both",
                  "synchronise both machines")
    yield from _schema(opened, settings)
    if settings.clickhouse:
        yield from _rights(opened)


def _schema(opened: Store, settings: Settings) -> Iterator[Finding]:
    present = {row[0] for row in opened.query(
        "SELECT name FROM system.tables WHERE database = {database:String}", {"database": opened.database}).rows}
    if not present & {table.name for table in TABLES}:
        yield ok("schema", f"database {opened.database} has none of our tables yet, a start makes them")
        return
    differences = ddl.check(opened, settings)
    if differences:
        yield bad("schema", f"it is older than this version or was changed ({'; '.join(differences[:3])}"
                            + (f" and {len(differences) - 3} more)" if len(differences) > 3 else ")"),
                  "run `cutaway schema migrate`, as a start of `cutaway serve` does by itself")
    else:
        yield ok("schema", "it is current")
    if MIGRATIONS.name in present:
        newest = _newest(opened)
        if newest > _numbers(version("cutaway")):
            yield note("schema", f"cutaway {'.'.join(map(str, newest))} has changed these tables and this is {version('cutaway')}",
                       "what only the newer version knows is left alone; update this one")


def _newest(opened: Store) -> tuple[int, ...]:
    rows = opened.query(f"SELECT DISTINCT Version FROM {ddl.quote(opened.database)}.{MIGRATIONS.name}").rows
    return max((_numbers(str(row[0])) for row in rows), default=())


def _numbers(said: str) -> tuple[int, ...]:
    parts = said.split(".")
    return tuple(int(part) for part in parts) if all(part.isdigit() for part in parts) else ()


def _rights(opened: Store) -> Iterator[Finding]:
    """By statements that do nothing: grants alone do not tell what a read-only server, a quota or a row policy forbids."""
    database = ddl.quote(opened.database)
    table = f"{database}.{MIGRATIONS.name}"
    lacking: list[str] = []
    for right, statement in (("CREATE", f"CREATE DATABASE IF NOT EXISTS {database}"),
                             ("ALTER", f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS Version String"),
                             ("INSERT", f"INSERT INTO {table} (Version) SELECT Version FROM {table} WHERE 0")):
        if MIGRATIONS.name in statement and lacking[:1] == ["CREATE"]:
            break
        try:
            opened.command(statement)
        except CutawayError as error:
            if "UNKNOWN_TABLE" in str(error) or "UNKNOWN_DATABASE" in str(error):
                return
            lacking.append(right)
    if lacking:
        yield bad("store", f"our user may not {', '.join(lacking)} in {opened.database}",
                  f"GRANT SELECT, INSERT, ALTER, CREATE ON {opened.database}.* to it")
    else:
        yield ok("store", "our user may create, alter and insert")
