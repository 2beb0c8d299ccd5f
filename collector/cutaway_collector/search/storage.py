"""What the store says about itself: sizes by table and column, spans stored a minute, dead letters, slow queries, its version.

Not the spans. It reads system tables, which know no tenants, so only whoever runs the collector is shown any of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cutaway_collector.columns import DEAD_LETTERS, TABLES, TRACES
from cutaway_collector.contracts import Store
from cutaway_collector.errors import StoreError
from cutaway_collector.search import rows

COLUMNS_MAX: Final = 20
LETTERS_MAX: Final = 20
SLOW_MAX: Final = 10
MINUTES_MAX: Final = 180
REASON_CHARACTERS_MAX: Final = 300


@dataclass(frozen=True, slots=True)
class TableSize:
    """One table. stored, raw: bytes on disk and before compression."""

    name: str
    rows: int
    parts: int
    stored: int
    raw: int


@dataclass(frozen=True, slots=True)
class ColumnSize:
    """One column, in the parts that are large enough to keep columns in files of their own."""

    table: str
    name: str
    stored: int
    raw: int


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter: acknowledged, and then refused by the store. spans: lost ones, 0 where it could not be decoded."""

    given_up_ms: int
    received_ms: int
    tenant: str
    sequence: int
    encoding: str
    reason: str
    spans: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class SlowQuery:
    """One statement of the server's log, without its values."""

    began_ms: int
    seconds: float
    rows_read: int
    bytes_read: int
    sql: str


def version(store: Store) -> tuple[str, int]:
    """(version of the engine, seconds it has been up). Raises StoreError."""
    found = store.query("SELECT version(), uptime()").rows[0]
    return str(found[0]), int(found[1])


def tables(store: Store) -> list[TableSize]:
    """Every table of ours, the largest first; an empty one has no parts. Raises StoreError."""
    found = {str(row[0]): row for row in store.query(
        "SELECT table, sum(rows), count(), sum(bytes_on_disk), sum(data_uncompressed_bytes) FROM system.parts "
        "WHERE active AND database = {database:String} GROUP BY table", {"database": store.database}).rows}
    sizes = [TableSize(table.name, *(int(value) for value in found.get(table.name, (table.name, 0, 0, 0, 0))[1:]))
             for table in TABLES]
    return sorted(sizes, key=lambda size: (-size.stored, size.name))


def columns(store: Store) -> list[ColumnSize]:
    """The COLUMNS_MAX largest columns. Small parts keep all columns in one file, and do not say. Raises StoreError."""
    found = store.query(
        "SELECT table, column, sum(column_data_compressed_bytes) AS stored, sum(column_data_uncompressed_bytes) "
        "FROM system.parts_columns WHERE active AND database = {database:String} GROUP BY table, column HAVING stored > 0 "
        f"ORDER BY stored DESC, table, column LIMIT {COLUMNS_MAX}", {"database": store.database}).rows
    return [ColumnSize(str(table), str(name), int(stored), int(raw)) for table, name, stored, raw in found]


def per_minute(store: Store, minutes: int) -> tuple[int, list[int]]:
    """(start of the first minute, nanoseconds since 1970; spans stored in each of `minutes`, the last one not over yet).

    By the store's clock. Raises StoreError.
    """
    if not 1 <= minutes <= MINUTES_MAX:
        raise ValueError(f"minutes are 1 to {MINUTES_MAX}, they are {minutes}")
    first = f"toStartOfMinute(now()) - toIntervalMinute({minutes - 1})"
    now, counted = store.query(
        f"SELECT toUnixTimestamp({first}), groupArray((minute, spans)) FROM ("
        f"SELECT toUnixTimestamp(toStartOfMinute(StoredAt)) AS minute, count() AS spans FROM {rows.table(store, TRACES.name)} "
        f"WHERE StoredAt >= {first} GROUP BY minute)").rows[0]
    counts = [0] * minutes
    for minute, spans in counted:
        place = (int(minute) - int(now)) // 60
        if 0 <= place < minutes:
            counts[place] = int(spans)
    return int(now) * 1_000_000_000, counts


def dead_letters(store: Store) -> tuple[int, list[Letter]]:
    """(how many there are in the table, the newest LETTERS_MAX). Raises StoreError."""
    table = rows.table(store, DEAD_LETTERS.name)
    found = store.query(
        "SELECT toUnixTimestamp64Milli(IngestedAt), toUnixTimestamp64Milli(ReceivedAt), TenantId, Sequence, Encoding, "
        f"substringUTF8(Reason, 1, {REASON_CHARACTERS_MAX}), Spans, Bytes FROM {table} "
        f"ORDER BY IngestedAt DESC, Sequence DESC LIMIT {LETTERS_MAX}").rows
    letters = [Letter(int(given_up), int(received), str(tenant), int(sequence), str(encoding), str(reason), int(spans), int(nbytes))
               for given_up, received, tenant, sequence, encoding, reason, spans, nbytes in found]
    return int(store.query(f"SELECT count() FROM {table}").rows[0][0]), letters


def slow_queries(store: Store) -> list[SlowQuery] | None:
    """The slowest SELECTs of our own in the last day, of which a server keeps a log; None where there is none for us to read."""
    try:
        found = store.query(
            "SELECT toUnixTimestamp64Milli(event_time_microseconds), query_duration_ms / 1000, read_rows, read_bytes, "
            "substringUTF8(query, 1, 400) FROM system.query_log WHERE type = 'QueryFinish' AND query_kind = 'Select' "
            "AND event_date >= yesterday() AND event_time > now() - toIntervalDay(1) AND http_user_agent LIKE '%cutaway%' "
            f"ORDER BY query_duration_ms DESC LIMIT {SLOW_MAX}").rows
    except StoreError:
        return None
    return [SlowQuery(int(began), float(seconds), int(read), int(nbytes), str(sql)) for began, seconds, read, nbytes, sql in found]
