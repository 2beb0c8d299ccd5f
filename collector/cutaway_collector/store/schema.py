"""The schema as statements: DDL rendered from columns.py, compared with what a store holds, and brought up to date.

Not the schema itself (that is columns.py), and never destructive: a migration adds columns, indexes and settings, follows defaults
and retention, renews the view and drops indexes that nothing reads any more; it neither changes a type or a key nor rewrites data.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, NamedTuple

from cutaway_collector.columns import MIGRATIONS, TABLES, TRACE_TIMES, TRACE_TIMES_VIEW, Column, Index, Table
from cutaway_collector.contracts import Store
from cutaway_collector.settings import Settings

_LOG: Final = logging.getLogger(__name__)
TRACE_TIMES_EXTRA_DAYS: Final = 7
"""The look-up table is partitioned by week: its rows must outlive the spans they point to."""
_DATETIME_MAX_S: Final = 2**32 - 1
"""DateTime ends there, in February 2106: a sum beyond it wraps to 1970, which would delete at once."""


class Found(NamedTuple):
    """One difference. statement: what repairs it, "" when only a rewrite of data could. done: the word for having run it."""

    words: str
    statement: str
    done: str = "added"


def render(settings: Settings | None = None, lacking: frozenset[str] = frozenset()) -> list[str]:
    """Every DDL statement, in the order in which they must run; each is idempotent (IF NOT EXISTS).

    lacking: names of indexes to leave out, see `lacks`.
    """
    settings = settings or Settings()
    database = settings.database
    statements = [f"CREATE DATABASE IF NOT EXISTS {quote(database)}"]
    statements += [create_table(table, settings, lacking) for table in TABLES]
    statements.append(create_view(database))
    return statements


def create_table(table: Table, settings: Settings, lacking: frozenset[str] = frozenset()) -> str:
    """CREATE TABLE IF NOT EXISTS for one table of columns.py. lacking: names of indexes the engine cannot make."""
    lines = [column_definition(column) for column in table.columns]
    lines += [alias_definition(alias) for alias in table.aliases]
    lines += [f"INDEX {index_definition(index)}" for index in table.indexes if index.name not in lacking]
    clauses = [f"CREATE TABLE IF NOT EXISTS {quote(settings.database)}.{table.name} (\n    " + ",\n    ".join(lines) + "\n)",
               f"ENGINE = {table.engine}"]
    if table.partition_by:
        clauses.append(f"PARTITION BY {table.partition_by}")
    if table.primary_key:
        clauses.append(f"PRIMARY KEY {table.primary_key}")
    clauses.append(f"ORDER BY {table.order_by}")
    if ttl := time_to_live(table, settings):
        clauses.append(f"TTL {ttl}")
    if table.settings:
        clauses.append("SETTINGS " + ", ".join(f"{name} = {value}" for name, value in table.settings))
    return "\n".join(clauses)


def lacks(store: Store) -> frozenset[str]:
    """Names of the indexes whose type the store's engine does not have, or not without being told to. Raises StoreError."""
    wanted = {index.name: index.needs for table in TABLES for index in table.indexes if index.needs}
    found = store.query("SELECT name FROM system.settings WHERE name IN {names:Array(String)} AND value = '1'",
                        {"names": sorted(set(wanted.values()))}).rows
    return frozenset(name for name, setting in wanted.items() if setting not in {row[0] for row in found})


def time_to_live(table: Table, settings: Settings) -> str:
    """The TTL expression, "" when rows are kept for ever. Whole seconds in 64 bits: every server version takes it, none wraps."""
    days = int(getattr(settings, table.retention)) if table.retention else 0
    if not days:
        return ""
    days += TRACE_TIMES_EXTRA_DAYS if table is TRACE_TIMES else 0
    return f"toDateTime(least(toUnixTimestamp(IngestedAt) + {days} * 86400, {_DATETIME_MAX_S}))"


def create_view(database: str) -> str:
    """CREATE MATERIALIZED VIEW IF NOT EXISTS for the trace times."""
    name, target, select = TRACE_TIMES_VIEW
    return (f"CREATE MATERIALIZED VIEW IF NOT EXISTS {quote(database)}.{name} TO {quote(database)}.{target}\n"
            f"AS {select.format(database=quote(database))}")


def column_definition(column: Column) -> str:
    """`name` type DEFAULT ... CODEC(...)."""
    words = [quote(column.name), column.type]
    if column.default_expression:
        words.append(f"DEFAULT {column.default_expression}")
    if column.codec:
        words.append(f"CODEC({column.codec})")
    return " ".join(words)


def alias_definition(alias: tuple[str, str, str]) -> str:
    """`name` type ALIAS expression."""
    return f"{quote(alias[0])} {alias[1]} ALIAS {alias[2]}"


def index_definition(index: Index) -> str:
    """The name, the expression, TYPE and GRANULARITY."""
    return f"{index.name} {index.expression} TYPE {index.type} GRANULARITY {index.granularity}"


def create(store: Store, settings: Settings) -> None:
    """Creates what is missing and brings an existing store up to date, as `migrate` does; each change is logged once.

    What cannot be repaired without rewriting data is logged as a warning. Raises StoreError.
    """
    # The view reads columns that an older table still lacks: it comes with the repairs, after them.
    for statement in render(settings, lacks(store))[:-1]:
        store.command(statement)
    _repair(store, settings, lambda words: _LOG.info("schema: %s", words), lambda words: _LOG.warning("schema: %s", words))


def check(store: Store, settings: Settings) -> list[str]:
    """What differs between the store and columns.py under these settings, one sentence each. Raises StoreError."""
    return [found.words for found in _differences(store, settings)]


def migrate(store: Store, settings: Settings) -> list[str]:
    """Applies what `check` found, as far as no data is rewritten, and records it in cutaway_migrations. Idempotent.

    A new time to live holds for rows that arrive from then on; parts already on disk keep the date they were given, until
    `ALTER TABLE ... MATERIALIZE TTL`. Returns one sentence a difference: what was done, or why it was left. Raises StoreError.
    """
    report: list[str] = []
    present = {row[0] for row in store.query(
        "SELECT name FROM system.tables WHERE database = {database:String}", {"database": store.database}).rows}
    lacking = lacks(store)
    wanted = [(table.name, create_table(table, settings, lacking)) for table in TABLES]
    # The record comes first, so that every later step can be written down.
    wanted.sort(key=lambda item: item[0] != MIGRATIONS.name)
    if not present:
        store.command(f"CREATE DATABASE IF NOT EXISTS {quote(store.database)}")
    for name, statement in wanted:
        if name not in present:
            _apply(store, statement)
            report.append(f"created {name}")
    _repair(store, settings, report.append, report.append)
    return report


def _repair(store: Store, settings: Settings, done: Callable[[str], None], left: Callable[[str], None]) -> None:
    for words, statement, what in _differences(store, settings):
        if statement:
            _apply(store, statement)
            done(f"{words}: {what}")
        else:
            left(f"{words}: left as it is, because changing it would rewrite data. Copy the table by hand if you need it.")


def quote(name: str) -> str:
    """A back-quoted identifier."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _apply(store: Store, statement: str) -> None:
    store.command(statement)
    store.command(f"INSERT INTO {quote(store.database)}.{MIGRATIONS.name} (Version, Statement) "
                  f"VALUES ({_literal(_version())}, {_literal(statement)})")


def _version() -> str:
    try:
        return version("cutaway")
    except PackageNotFoundError:
        return "unknown"


def _literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"


def _differences(store: Store, settings: Settings) -> list[Found]:
    """In the order in which they must be repaired: columns before the time to live and the view that read them."""
    where: dict[str, Any] = {"database": store.database}
    columns: dict[str, dict[str, tuple[str, str, str]]] = {}
    for table, name, *held in store.query(
            "SELECT table, name, type, default_kind, default_expression FROM system.columns WHERE database = {database:String}",
            where).rows:
        columns.setdefault(table, {})[name] = (held[0], held[1], held[2])
    indexes = {(row[0], row[1]) for row in store.query(
        "SELECT table, name FROM system.data_skipping_indices WHERE database = {database:String}", where).rows}
    made = {row[0]: tuple(row[1:]) for row in store.query(
        "SELECT name, sorting_key, partition_key, engine_full, as_select FROM system.tables WHERE database = {database:String}",
        where).rows}
    lacking = lacks(store)
    indexes |= {(table.name, name) for table in TABLES for name in lacking}
    found: list[Found] = []
    for table in TABLES:
        if table.name in made:
            found += _column_differences(store.database, table, columns.get(table.name, {}), indexes)
            found += _clause_differences(store.database, table, settings, *made[table.name][:3])
        else:
            found.append(Found(f"table {table.name} is missing", create_table(table, settings, lacking)))
    name, _target, select = TRACE_TIMES_VIEW
    select = select.format(database=quote(store.database))
    if name not in made:
        found.append(Found(f"view {name} is missing", create_view(store.database), "created"))
    elif _bare(made[name][3]) != _bare(select):
        found.append(Found(f"view {name} has another SELECT", f"ALTER TABLE {quote(store.database)}.{name} MODIFY QUERY {select}",
                           "renewed"))
    return found


def _column_differences(
    database: str, table: Table, columns: dict[str, tuple[str, str, str]], indexes: set[tuple[str, str]]
) -> list[Found]:
    target = f"ALTER TABLE {quote(database)}.{table.name}"
    found: list[Found] = []
    for column in table.columns:
        if column.name not in columns:
            found.append(Found(f"column {table.name}.{column.name} is missing",
                               f"{target} ADD COLUMN IF NOT EXISTS {column_definition(column)}"))
            continue
        found_type, kind, default = columns[column.name]
        if found_type != column.type:
            found.append(Found(f"column {table.name}.{column.name} is {found_type}, not {column.type}", ""))
        elif column.default_expression and (kind != "DEFAULT" or _bare(default) != _bare(column.default_expression)):
            # Metadata alone: stored values stay, rows to come and parts that never held the column follow the new one.
            found.append(Found(f"column {table.name}.{column.name} has {'another' if kind == 'DEFAULT' else 'no'} default",
                               f"{target} MODIFY COLUMN {quote(column.name)} DEFAULT {column.default_expression}", "set"))
    found += [Found(f"column {table.name}.{alias[0]} is missing", f"{target} ADD COLUMN IF NOT EXISTS {alias_definition(alias)}")
              for alias in table.aliases if alias[0] not in columns]
    found += [Found(f"index {table.name}.{index.name} is missing", f"{target} ADD INDEX IF NOT EXISTS {index_definition(index)}")
              for index in table.indexes if (table.name, index.name) not in indexes]
    found += [Found(f"index {table.name}.{name} is of an earlier version", f"{target} DROP INDEX IF EXISTS {name}", "dropped")
              for name in table.retired_indexes if (table.name, name) in indexes]
    return found


def _clause_differences(
    database: str, table: Table, settings: Settings, sorting_key: str, partition_key: str, engine_full: str
) -> list[Found]:
    keys = (("ORDER BY", sorting_key, table.order_by), ("PARTITION BY", partition_key, table.partition_by))
    found = [Found(f"{clause} of {table.name} is {held or 'nothing'}, not {wanted or 'nothing'}", "")
             for clause, held, wanted in keys if _bare(held) != _bare(wanted)]
    wanted, seen = time_to_live(table, settings), _TTL.search(engine_full)
    held = seen[1] if seen else ""
    if table.retention and _bare(held) != _bare(wanted):
        change = f"MODIFY TTL {wanted} SETTINGS materialize_ttl_after_modify = 0" if wanted else "REMOVE TTL"
        found.append(Found(f"TTL of {table.name} is {held or 'nothing'}, not {wanted or 'nothing'} ({table.retention})",
                           f"ALTER TABLE {quote(database)}.{table.name} {change}", "changed"))
    # Another value is somebody's choice; the size of granules holds for parts on disk and cannot be changed.
    given = engine_full.rpartition(" SETTINGS ")[2] if " SETTINGS " in engine_full else ""
    found += [Found(f"setting {name} of {table.name} is missing",
                    f"ALTER TABLE {quote(database)}.{table.name} MODIFY SETTING {name} = {value}", "set")
              for name, value in table.settings
              if not re.search(rf"\b{name} = ", given) and not name.startswith("index_granularity")]
    return found


_TTL: Final = re.compile(r" TTL (.+?)(?= SETTINGS |$)", re.DOTALL)


def _bare(expression: str) -> str:
    """An expression without what the engine's formatter adds or leaves out: spaces, brackets and quoting of names."""
    return re.sub(r"[\s()`\\]", "", expression)
