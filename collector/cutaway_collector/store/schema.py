"""The schema as statements: DDL rendered from columns.py, compared with what a store holds, and brought up to date.

Not the schema itself (that is columns.py), and never destructive: a migration only adds.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from cutaway_collector.columns import MIGRATIONS, TABLES, TRACE_TIMES, TRACE_TIMES_VIEW, Column, Index, Table
from cutaway_collector.contracts import Store
from cutaway_collector.settings import Settings

TRACE_TIMES_EXTRA_DAYS = 7
"""The look-up table is partitioned by week: its rows must outlive the spans they point to."""


def render(settings: Settings | None = None) -> list[str]:
    """Every DDL statement, in the order in which they must run; each is idempotent (IF NOT EXISTS)."""
    settings = settings or Settings()
    database = settings.database
    statements = [f"CREATE DATABASE IF NOT EXISTS {quote(database)}"]
    statements += [create_table(table, settings) for table in TABLES]
    statements.append(create_view(database))
    return statements


def create_table(table: Table, settings: Settings) -> str:
    """CREATE TABLE IF NOT EXISTS for one table of columns.py."""
    lines = [column_definition(column) for column in table.columns]
    lines += [alias_definition(alias) for alias in table.aliases]
    lines += [f"INDEX {index_definition(index)}" for index in table.indexes]
    clauses = [f"CREATE TABLE IF NOT EXISTS {quote(settings.database)}.{table.name} (\n    " + ",\n    ".join(lines) + "\n)",
               f"ENGINE = {table.engine}"]
    if table.partition_by:
        clauses.append(f"PARTITION BY {table.partition_by}")
    if table.primary_key:
        clauses.append(f"PRIMARY KEY {table.primary_key}")
    clauses.append(f"ORDER BY {table.order_by}")
    days = int(getattr(settings, table.retention)) if table.retention else 0
    if days:
        extra = TRACE_TIMES_EXTRA_DAYS if table is TRACE_TIMES else 0
        clauses.append(f"TTL toDateTime(IngestedAt) + toIntervalDay({days + extra})")
    if table.settings:
        clauses.append("SETTINGS " + ", ".join(f"{name} = {value}" for name, value in table.settings))
    return "\n".join(clauses)


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
    """Creates what is missing as a whole (database, tables, view). Raises StoreError."""
    for statement in render(settings):
        store.command(statement)


def check(store: Store) -> list[str]:
    """What differs between the store and columns.py, one sentence each; empty when nothing does. Raises StoreError."""
    return [words for words, _statement in _differences(store)]


def migrate(store: Store, settings: Settings | None = None) -> list[str]:
    """Applies what `check` found, as far as adding goes, and records it in cutaway_migrations. Idempotent.

    Returns one sentence a difference: what was done, or why it was left alone. Raises StoreError.
    """
    settings = settings or Settings(database=store.database)
    report: list[str] = []
    present = {row[0] for row in store.query(
        "SELECT name FROM system.tables WHERE database = {database:String}", {"database": store.database}).rows}
    wanted = [(table.name, create_table(table, settings)) for table in TABLES]
    wanted.append((TRACE_TIMES_VIEW[0], create_view(store.database)))
    # The record comes first, so that every later step can be written down.
    wanted.sort(key=lambda item: item[0] != MIGRATIONS.name)
    if not present:
        store.command(f"CREATE DATABASE IF NOT EXISTS {quote(store.database)}")
    for name, statement in wanted:
        if name not in present:
            _apply(store, statement)
            report.append(f"created {name}")
    for words, statement in _differences(store):
        if statement:
            _apply(store, statement)
            report.append(f"{words}: added")
        else:
            report.append(f"{words}: left as it is, because changing it would rewrite data. Copy the table by hand if you need it.")
    return report


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


def _differences(store: Store) -> list[tuple[str, str]]:
    """(words, statement that repairs it or "")."""
    where: dict[str, Any] = {"database": store.database}
    found_columns: dict[str, dict[str, tuple[str, str]]] = {}
    for table, name, found_type, default in store.query(
            "SELECT table, name, type, default_kind FROM system.columns WHERE database = {database:String}", where).rows:
        found_columns.setdefault(table, {})[name] = (found_type, default)
    found_indexes = {(row[0], row[1]) for row in store.query(
        "SELECT table, name FROM system.data_skipping_indices WHERE database = {database:String}", where).rows}
    found: list[tuple[str, str]] = []
    for table in TABLES:
        if table.name in found_columns:
            found += _table_differences(store.database, table, found_columns[table.name], found_indexes)
        else:
            found.append((f"table {table.name} is missing", create_table(table, Settings(database=store.database))))
    if TRACE_TIMES_VIEW[0] not in found_columns:
        found.append((f"view {TRACE_TIMES_VIEW[0]} is missing", create_view(store.database)))
    return found


def _table_differences(
    database: str, table: Table, columns: dict[str, tuple[str, str]], indexes: set[tuple[str, str]]
) -> list[tuple[str, str]]:
    target = f"ALTER TABLE {quote(database)}.{table.name}"
    found: list[tuple[str, str]] = []
    for column in table.columns:
        if column.name not in columns:
            found.append((f"column {table.name}.{column.name} is missing",
                          f"{target} ADD COLUMN IF NOT EXISTS {column_definition(column)}"))
            continue
        found_type, default = columns[column.name]
        if found_type != column.type:
            found.append((f"column {table.name}.{column.name} is {found_type}, not {column.type}", ""))
        elif column.default_expression and default != "DEFAULT":
            found.append((f"column {table.name}.{column.name} has no default",
                          f"{target} MODIFY COLUMN {quote(column.name)} DEFAULT {column.default_expression}"))
    found += [(f"column {table.name}.{alias[0]} is missing", f"{target} ADD COLUMN IF NOT EXISTS {alias_definition(alias)}")
              for alias in table.aliases if alias[0] not in columns]
    found += [(f"index {table.name}.{index.name} is missing", f"{target} ADD INDEX IF NOT EXISTS {index_definition(index)}")
              for index in table.indexes if (table.name, index.name) not in indexes]
    return found

