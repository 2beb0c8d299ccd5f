"""The store: ClickHouse in process (chDB) or over HTTP, through the same clickhouse-connect calls.

Not a query builder and not a queue: it runs what it is given, within limits, and says whether a failure may pass.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import copy_context
from functools import cache
from pathlib import Path
from typing import Any, Final, NoReturn

import clickhouse_connect
from clickhouse_connect.driver.exceptions import ClickHouseError

from cutaway_collector.asker import HAS_GONE
from cutaway_collector.blocks import Block
from cutaway_collector.columns import SCORES
from cutaway_collector.contracts import Result
from cutaway_collector.directories import own_directory, private_directory
from cutaway_collector.errors import DataDirectoryBusy, SettingsError, StoreError
from cutaway_collector.settings import Settings
from cutaway_collector.store import faults, schema
from cutaway_collector.store.abandoned import Abandoned
from cutaway_collector.store.answers import HONEST, Answers
from cutaway_collector.store.native import Encoder, warm_up

_PARTITIONS_PER_INSERT_MAX: Final = 100
"""Days one insert may touch: the engine's default. Each is a part and a sync; wider inserts are refused and come back in halves."""
_INSERT_SECONDS_MAX: Final = 120
_LATE_INDEXES: Final = "materialize_skip_indexes_on_insert"
"""Off where the engine knows it: skip indexes are then built by the first merge, which builds them anew in any case. They are most
of the CPU time of an insert of spans; until that merge a search reads the small new parts whole."""
_MERGED_AT_ONCE: Final = "optimize_on_insert"
"""Off for scores: the engine would merge the rows of each insert among themselves, nearly half of its CPU time, though two of a key
hardly ever come together. Whoever reads scores takes the newest of a key, wherever its rows lie."""
_SHORT_WORDS: Final = {"text_index_like_min_pattern_length": 1, "text_index_like_max_postings_to_read": 1000}
"""Where the engine knows them: parts of words of one to three letters are looked for in the words of the text index too. Reading
every text for two letters that nothing contains took 9 s of 10 million spans; the words are read in a tenth of one."""
_CONNECT_SECONDS_MAX: Final = 5
_Classify = Callable[[str, int], StoreError]


class ClickHouseStore:
    """contracts.Store. One client writes, behind a lock; readers borrow from a pool, so that a page never waits for an insert.

    create: the schema is made sure of before the first insert or query; False takes the database as it is.
    """

    def __init__(
        self, settings: Settings, connect: Callable[[], Any], release: Callable[[], None] = lambda: None, *, create: bool
    ) -> None:
        self.database = settings.database
        self._settings = settings
        self._place = _place(settings.clickhouse) if settings.clickhouse else ""
        self._prepared = not create
        self._preparation = threading.Lock()
        self._preparer = 0
        self._unprepared = ""
        self._connect = connect
        self._release = release
        self._closed = False
        self._limits = {
            "max_execution_time": settings.query_seconds_max,
            "max_rows_to_read": settings.query_rows_read_max,
            "max_memory_usage": settings.query_bytes_memory_max,
        }
        self._writer: Any = None
        self._encoder = Encoder()
        self._write_lock = threading.Lock()
        self._abandoned = Abandoned(self._kill)
        self._killer: Any = None
        self._idle: list[Any] = []
        self._pool_lock = threading.Lock()
        self._readers = threading.BoundedSemaphore(settings.ui_threads + settings.live_clients_max + 2)

    def prepare(self) -> None:
        """Makes the schema, or brings it up to date, once; `insert` and `query` see to it. Raises StoreError."""
        if self._prepared or self._preparer == threading.get_ident():
            return
        if not self._preparation.acquire(blocking=False):
            # Nobody queues behind a connection that may take seconds to fail.
            raise StoreError(self._unprepared or "the tables of the store are being made: ask again in a moment", retryable=True)
        try:
            if not self._prepared:
                self._preparer = threading.get_ident()
                # The tables are made for everybody, whoever's page asked first and may leave.
                copy_context().run(self._create)
                self._prepared = True
        except StoreError as error:
            self._unprepared = str(error)
            raise
        finally:
            self._preparer = 0
            self._preparation.release()

    def open_readers(self, count: int) -> None:
        """Connections for the first pages, which take some 25 ms each to open. Raises StoreError."""
        for _ in range(count):
            client = self._open_reader()
            with self._pool_lock:
                self._idle.append(client)

    def insert(self, block: Block, deduplication_token: str) -> None:
        """Inserts all rows or none; the same token twice stores once, in the table and in views. Raises StoreError."""
        if block.rows == 0:
            return
        try:
            self.prepare()
        except StoreError as error:
            # Whatever keeps the tables from being made, these rows are not to blame for it.
            raise StoreError(str(error), retryable=True) from None
        settings = {
            "insert_deduplicate": 1,
            "insert_deduplication_token": deduplication_token,
            "deduplicate_blocks_in_dependent_materialized_views": 1,
            "async_insert": 0,
            "max_partitions_per_insert_block": _PARTITIONS_PER_INSERT_MAX,
            # One block in, one part per day out: a token stands for the whole insert only when it is not cut up.
            "max_insert_block_size": max(block.rows, 1_048_576),
            "min_insert_block_size_rows": 0,
            "min_insert_block_size_bytes": 0,
            "max_insert_threads": 1,
            "max_execution_time": _INSERT_SECONDS_MAX,
            **HONEST,
        }
        with self._write_lock:
            client = self._write_client(faults.insert_error)
            if _LATE_INDEXES in client.server_settings:
                settings[_LATE_INDEXES] = 0
            if block.table == SCORES.name:
                settings[_MERGED_AT_ONCE] = 0
            self._answers.forget()
            columns, table = tuple(block.columns), f"{schema.quote(self.database)}.{block.table}"
            # In the URL, where the driver puts it, a statement of sixty columns is parsed and spelled byte by byte, four times.
            statement = _statement(table, columns) if self._place else b""
            payload = self._encoder.encode(block, statement)
            try:
                if statement:
                    client.raw_insert(insert_block=payload, settings=settings)
                else:
                    client.raw_insert(table, columns, payload, settings=settings, fmt="Native")
                self._answers.refuse_words()
            except Exception as error:
                self._fail(error, faults.insert_error)

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None, *, seconds_max: float | None = None) -> Result:
        """Runs one SELECT within the query limits, read-only, values bound as `{name:Type}`; stopped when whoever asked has gone
        (asker.HAS_GONE). Raises StoreError, of which AskerGone is one.
        """
        self.prepare()
        bound = {name: _bindable(value) for name, value in (parameters or {}).items()}
        limits: dict[str, Any] = dict(self._limits)
        if seconds_max is not None:
            limits |= {"max_execution_time": min(seconds_max, self._settings.query_seconds_max), "timeout_overflow_mode": "break"}
        started = time.monotonic()
        with self._reader() as client, self._abandoned.watching() as marks:
            limits |= {name: value for name, value in (_SHORT_WORDS | marks).items() if name in client.server_settings}
            try:
                answer = client.query(sql, parameters=bound, settings=limits)
            except Exception as error:
                self._fail(error, faults.query_error)
        elapsed_s = time.monotonic() - started
        summary = answer.summary or {}
        return Result(tuple(answer.column_names), answer.result_rows, elapsed_s, int(summary.get("read_rows", -1)),
                      int(summary.get("read_bytes", -1)), seconds_max is not None and elapsed_s >= limits["max_execution_time"])

    def command(self, sql: str) -> None:
        """Runs one DDL statement. Raises StoreError."""
        with self._write_lock:
            client = self._write_client(faults.schema_error)
            try:
                client.command(sql)
            except Exception as error:
                self._fail(error, faults.schema_error)

    def close(self) -> None:
        """Lets go of the engine and of the data directory; further calls raise StoreError. Harmless when repeated."""
        self._abandoned.close()
        with self._write_lock, self._pool_lock:
            if self._closed:
                return
            self._closed = True
            clients = [*self._idle, *(client for client in (self._writer, self._killer) if client is not None)]
            self._idle, self._writer, self._killer = [], None, None
            for client in clients:
                client.close()
            self._release()

    def _open_reader(self) -> Any:
        client = self._open(faults.query_error)
        # 2 forbids writing and DDL, yet lets us set the limits of each query.
        client.set_client_setting("readonly", 2)
        return client

    def _create(self) -> None:
        HAS_GONE.set(None)
        schema.create(self, self._settings)

    def _kill(self, statement: str) -> None:
        """On a connection of its own: the one that writes may be busy for seconds, and those that read may not kill."""
        self._refuse_closed()
        if self._killer is None:
            self._killer = self._open(faults.query_error)
        self._killer.command(statement)

    def _write_client(self, classify: _Classify) -> Any:
        self._refuse_closed()
        if self._writer is None:
            self._writer = self._open(classify)
            self._answers = Answers(self._writer)
        return self._writer

    def _open(self, classify: _Classify) -> Any:
        try:
            return self._connect()
        except Exception as error:
            self._fail(error, classify)

    def _fail(self, error: Exception, classify: _Classify) -> NoReturn:
        if isinstance(error, StoreError):
            raise error
        code = getattr(error, "code", None)
        if code is None:
            raise faults.unreachable(self._place, str(error)) from None
        raise faults.sign_in_error(self._place, str(error), code) or classify(str(error), code) from None

    def _refuse_closed(self) -> None:
        if self._closed:
            raise StoreError("the store is closed: the collector is stopping", retryable=False)

    @contextmanager
    def _reader(self) -> Iterator[Any]:
        with self._readers:
            with self._pool_lock:
                self._refuse_closed()
                client = self._idle.pop() if self._idle else None
            if client is None:
                client = self._open_reader()
            try:
                yield client
            finally:
                with self._pool_lock:
                    if not self._closed:
                        self._idle.append(client)
                        client = None
                if client is not None:
                    client.close()


def open_store(settings: Settings, *, create: bool = True) -> ClickHouseStore:
    """Connects to `settings.clickhouse`, else owns `settings.data`; `create` makes the tables that are missing.

    With `create` a server may be away: the store then makes the tables when it is back, before it inserts or queries.
    Raises SettingsError (neither or both given), DataDirectoryBusy, StoreError (a server refuses, or there is nothing to create and
    it cannot be reached).
    """
    if bool(settings.clickhouse) == bool(settings.data):
        raise SettingsError("a store needs either data (a directory) or clickhouse (a URL): give exactly one of them")
    store = _server(settings, create) if settings.clickhouse else _embedded(Path(settings.data), settings, create)
    try:
        if create:
            warm_up()
            _prepare_if_reachable(store, settings)
        else:
            store.query("SELECT 1")
    except BaseException:
        store.close()
        raise
    return store


def _prepare_if_reachable(store: ClickHouseStore, settings: Settings) -> None:
    try:
        store.prepare()
    except StoreError as error:
        if not settings.clickhouse or not error.retryable:
            raise


@cache
def _statement(table: str, columns: tuple[str, ...]) -> bytes:
    """An INSERT whose rows follow in the same body."""
    return f"INSERT INTO {table} ({', '.join(map(schema.quote, columns))}) FORMAT Native\n".encode()


def _place(url: str) -> str:
    """host:port of a URL, without the credentials that may stand in it. Raises SettingsError."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname or "localhost", parts.port or (8443 if parts.scheme == "https" else 8123)
    except ValueError:
        raise SettingsError("the port of the clickhouse URL is a number to 65535: http://user:password@host:8123") from None
    return f"{f'[{host}]' if ':' in host else host}:{port}"


def _server(settings: Settings, create: bool) -> ClickHouseStore:
    # They log every failed attempt, with tracebacks, before one raises; the pipeline says the same in one line an outage.
    for noisy in ("clickhouse_connect", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)

    def connect() -> Any:
        return clickhouse_connect.get_client(
            dsn=settings.clickhouse, database="default", autogenerate_session_id=False, query_retries=0,
            connect_timeout=_CONNECT_SECONDS_MAX, send_receive_timeout=_INSERT_SECONDS_MAX + 10, client_name="cutaway",
            dedicated_pool=True,  # what one client is answered must not be taken for an answer to another
        )

    return ClickHouseStore(settings, connect, create=create)


def _embedded(data: Path, settings: Settings, create: bool) -> ClickHouseStore:
    lock = own_directory(data)
    try:
        engine, temporary = private_directory(data / "chdb"), private_directory(data / "tmp")
        for leftover in temporary.iterdir():
            # Libraries that ask for the folder of temporary files leave folders of their own in it.
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)
    except BaseException:
        os.close(lock)
        raise
    # The embedded client hands every insert to the engine as a temporary file, and those files hold prompts.
    previous, tempfile.tempdir = tempfile.tempdir, str(temporary)

    def release() -> None:
        tempfile.tempdir = previous
        os.close(lock)

    def connect() -> Any:
        try:
            client: Any = clickhouse_connect.get_client(interface="chdb", path=str(engine))
        except ClickHouseError as error:
            if "Error initializing EmbeddedServer" in str(error):
                raise DataDirectoryBusy(str(data)) from None
            raise StoreError(f"the embedded engine does not open {data}: {error}", retryable=False) from None
        client._backend._summary = _read_by_the_engine
        return client

    return ClickHouseStore(settings, connect, release, create=create)


def _read_by_the_engine(result: Any) -> dict[str, Any]:
    """What a query cost. The driver's own summary calls the rows of the answer "read"; chDB knows what it took from the tables."""
    try:
        return {"read_rows": result.storage_rows_read(), "read_bytes": result.storage_bytes_read()}
    except AttributeError:
        return {}


def _bindable(value: Any) -> Any:
    """Half a surrogate pair cannot be sent as UTF-8, nor was it ever stored: it becomes a question mark, which finds nothing."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, (list, tuple)):
        return [_bindable(item) for item in value]
    return value
