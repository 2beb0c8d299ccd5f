"""The embedded store alone: limits, ownership and privacy of a data directory. One test at a time owns the process's engine."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cutaway_collector.errors import DataDirectoryBusy, QueryTooLarge, StoreError
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, open_store
from store_helpers import spans_block

OPEN = """
import sys
from cutaway_collector.settings import Settings
from cutaway_collector.store import open_store
try:
    open_store(Settings(data=sys.argv[1]))
except Exception as error:
    print(type(error).__name__, error)
"""

STORING = """
import os, sys
from cutaway_collector.settings import Settings
from cutaway_collector.store import open_store
from store_helpers import spans_block

def used():
    return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))

store = open_store(Settings(data=sys.argv[1]))
most = used()
for number in range(8):
    store.insert(spans_block(60_000, first=60_000 * number), str(number))
    most = tuple(map(max, most, used()))
    store.query("SELECT uniq(TraceId), max(Duration) FROM otel.otel_traces")
kinds = {row[0] for row in store.query("SELECT part_type FROM system.parts WHERE table = 'otel_traces' AND level = 0").rows}
store.command("OPTIMIZE TABLE otel.otel_traces FINAL")
rows = store.query("SELECT count() FROM otel.otel_traces").rows[0][0]
most = tuple(map(max, most, used()))
store.close()
print(*most, rows, *kinds)
"""
REMOVING = """
import os, sys, time
from cutaway_collector.settings import Settings
from cutaway_collector.store import open_store
from store_helpers import spans_block

store = open_store(Settings(data=sys.argv[1]))
store.command("ALTER TABLE otel.otel_traces MODIFY SETTING old_parts_lifetime = 1, merge_tree_clear_old_parts_interval_seconds = 1")
store.command("SYSTEM STOP MERGES otel.otel_traces")
for number in range(130):
    store.insert(spans_block(1, first=number), str(number))
store.command("SYSTEM START MERGES otel.otel_traces")
store.command("OPTIMIZE TABLE otel.otel_traces FINAL")
until = time.monotonic() + 400
while store.query("SELECT count() FROM system.parts WHERE table = 'otel_traces' AND NOT active").rows[0][0]:
    assert time.monotonic() < until, "merged parts are removed"
    time.sleep(0.1)
print(len(os.listdir("/proc/self/task")))
store.close()
"""
THREADS_MAX, FILES_MAX = 64 + 4 * (os.cpu_count() or 1), 512
"""Of a store alone, with pools of idle threads that it keeps; each thread of the engine has three files of its own open."""


def count(store: ClickHouseStore) -> int:
    return int(store.query("SELECT count() FROM otel.otel_traces").rows[0][0])


def test_query_limits_stop_a_careless_query(tmp_path: Path) -> None:
    """Rows, seconds: each limit of the settings ends the query with a remedy in the message, and is not worth repeating."""
    store = open_store(Settings(data=str(tmp_path), query_rows_read_max=10_000, query_seconds_max=1))
    try:
        with pytest.raises(QueryTooLarge, match="query_rows_read_max") as rows:
            store.query("SELECT count() FROM numbers(1000000) WHERE number % 7 = 3")
        with pytest.raises(QueryTooLarge, match="query_seconds_max") as seconds:
            store.query("SELECT sleepEachRow(0.5) FROM numbers(100) SETTINGS max_block_size = 1")
        assert not rows.value.retryable
        assert not seconds.value.retryable
    finally:
        store.close()


def test_a_second_process_is_told_the_directory_is_taken(tmp_path: Path) -> None:
    """One process may own a data directory; the other one gets a sentence with the remedy, and does no damage."""
    store = open_store(Settings(data=str(tmp_path)))
    try:
        other = subprocess.run([sys.executable, "-c", OPEN, str(tmp_path)], capture_output=True, text=True, check=True).stdout
        assert other.startswith("DataDirectoryBusy")
        assert "--data" in other
        assert store.query("SELECT 1").rows[0][0] == 1
    finally:
        store.close()


def test_the_same_directory_twice_in_one_process_is_refused(tmp_path: Path) -> None:
    """Also inside one process a directory has one owner; once closed it is free again."""
    store = open_store(Settings(data=str(tmp_path)))
    with pytest.raises(DataDirectoryBusy):
        open_store(Settings(data=str(tmp_path)))
    store.close()
    open_store(Settings(data=str(tmp_path))).close()


def test_rows_survive_closing(tmp_path: Path) -> None:
    """What was inserted is there when the directory is opened again; the token is remembered too."""
    for _ in range(2):
        store = open_store(Settings(data=str(tmp_path)))
        store.insert(spans_block(3), "kept")
        assert count(store) == 3
        store.close()


def test_data_is_private_and_temporary_files_are_gone(tmp_path: Path) -> None:
    """Prompts lie in directories that only we can enter, and an insert leaves no copy behind."""
    data = tmp_path / "data"
    (data / "tmp").mkdir(parents=True)
    (data / "tmp" / "left-by-a-crash.raw").write_bytes(b"a prompt")
    (data / "tmp" / "of-a-library" / "inner").mkdir(parents=True)
    store = open_store(Settings(data=str(data)))
    store.insert(spans_block(1), "private")
    store.close()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (data, data / "tmp", data / "chdb")] == [0o700] * 3
    assert list((data / "tmp").iterdir()) == []


def test_a_closed_store_refuses(tmp_path: Path) -> None:
    """After close every call fails in words, and closing again does nothing."""
    store = open_store(Settings(data=str(tmp_path)))
    store.close()
    store.close()
    for call in (lambda: store.query("SELECT 1"), lambda: store.insert(spans_block(1), "x"), lambda: store.command("SELECT 1")):
        with pytest.raises(StoreError, match="closed"):
            call()


@pytest.mark.slow
def test_large_inserts_take_few_threads_and_files(tmp_path: Path) -> None:
    """Batches of more than 10 MiB become parts of few files, and neither threads nor open files pile up as they are merged."""
    done = subprocess.run([sys.executable, "-c", STORING, str(tmp_path)], capture_output=True, text=True, check=True,
                          env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)})
    threads, files, rows, *kinds = done.stdout.split()
    assert (int(rows), kinds) == (480_000, ["Compact"])
    assert int(threads) <= THREADS_MAX
    assert int(files) <= FILES_MAX


@pytest.mark.slow
def test_removing_many_merged_parts_takes_few_threads(tmp_path: Path) -> None:
    """The engine keeps every thread it ever started: the removal of more than a hundred parts at once must not start as many."""
    done = subprocess.run([sys.executable, "-c", REMOVING, str(tmp_path)], capture_output=True, text=True, check=True,
                          env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)})
    assert int(done.stdout) <= THREADS_MAX
