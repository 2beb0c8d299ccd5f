"""What a collector asks of the system it runs on, and what it leaves alone: open files, memory, an engine it does not need."""

from __future__ import annotations

import itertools
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cutaway_collector import process

SERVING = """
import sys
from cutaway_collector import cli
from cutaway_collector.app import Collector
from cutaway_collector.settings import Settings
collector = Collector(Settings(clickhouse="http://127.0.0.1:9", spool=sys.argv[1], otlp_grpc="127.0.0.1:0", otlp_http="127.0.0.1:0",
                               ui="127.0.0.1:0"))
loaded = sys.modules.keys() & {"chdb", "torch", "transformers", "pandas", "pyarrow", "scipy.stats", "sklearn"}
collector.close()
print(sorted(loaded))
"""

FREEING = """
import numpy as np
import psutil
from cutaway_collector.process import give_freed_memory_back, keep_freed_memory

assert keep_freed_memory()
arrays = [np.ones(1_000_000, np.uint8) for _ in range(200)]
last = arrays[-1]
del arrays
before = psutil.Process().memory_info().rss
give_freed_memory_back()
print(before - psutil.Process().memory_info().rss)
"""

LETTING_GO = """
import numba
import psutil
from cutaway_collector.process import let_go_of_the_compiler

assert numba.njit(lambda number: number + 1)(1) == 2
before = psutil.Process().memory_info().rss
told = let_go_of_the_compiler()
print(told, before - psutil.Process().memory_info().rss)
assert numba.njit(lambda number: number * 3)(2) == 6
"""

SLEEPING = """
from cutaway_collector import score
from cutaway_collector.process import let_waiting_threads_sleep

let_waiting_threads_sleep()
score.warm_up("cpu")
"""


@pytest.fixture
def limits() -> Iterator[tuple[int, int]]:
    """The limits on open files, put back afterwards."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_low_limit_on_open_files_is_raised(limits: tuple[int, int]) -> None:
    """To what the system allows, or to more than connections and merges need."""
    _, hard = limits
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    assert process.allow_open_files() == resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(hard, 65_536)


def test_a_high_limit_on_open_files_is_left(limits: tuple[int, int]) -> None:
    """Nothing is taken away from a process that may open more."""
    assert process.allow_open_files() >= limits[0]
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] == limits[1]


def test_freed_memory_is_kept_until_it_is_given_back() -> None:
    """Two hundred arrays of a megabyte stay with the process when they are freed, and leave it when they are given back."""
    done = subprocess.run([sys.executable, "-c", FREEING], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 150_000_000


def test_the_compiler_is_let_go_of_and_comes_back() -> None:
    """Its code leaves the memory of the process, as much as is told, and whoever compiles after that gets what they ask for."""
    done = subprocess.run([sys.executable, "-c", LETTING_GO], capture_output=True, text=True, check=True)
    told, less = map(int, done.stdout.split())
    assert told > 30_000_000
    assert less == pytest.approx(told, rel=0.1)


def test_memory_is_given_back_once_when_nothing_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two equal looks gives it back, later ones leave it at that."""
    given: list[int] = []
    looks, seen = itertools.count(), threading.Event()

    def done() -> int:
        if next(looks) == 6:
            seen.set()
        return 7

    monkeypatch.setattr(process, "_QUIET_SECONDS", 0.001)
    monkeypatch.setattr(process, "give_freed_memory_back", lambda: given.append(1))
    giving = process.GivingBack(done)
    assert seen.wait(60)
    giving.close()
    assert given == [1]


def test_memory_is_kept_while_there_is_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is given back between looks that differ."""
    given: list[int] = []
    looks, seen = itertools.count(), threading.Event()

    def done() -> int:
        look = next(looks)
        if look == 6:
            seen.set()
        return look

    monkeypatch.setattr(process, "_QUIET_SECONDS", 0.001)
    monkeypatch.setattr(process, "give_freed_memory_back", lambda: given.append(1))
    giving = process.GivingBack(done)
    assert seen.wait(60)
    giving.close()
    assert given == []


@pytest.mark.slow
def test_a_collector_over_a_server_loads_no_engine(tmp_path: Path) -> None:
    """Neither the embedded engine nor any library that only some pages, scorers or commands use takes its memory."""
    done = subprocess.run([sys.executable, "-c", SERVING, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize(("chosen", "held"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "active"}, "ACTIVE")])
def test_threads_of_kernels_sleep_between_them_unless_told_otherwise(chosen: dict[str, str], held: str) -> None:
    """OpenMP itself says how its threads wait, once the kernels that run on several cores are loaded."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    done = subprocess.run([sys.executable, "-c", SLEEPING], capture_output=True, text=True, check=True,
                          env=environment | {"OMP_DISPLAY_ENV": "true"} | chosen)
    assert f"OMP_WAIT_POLICY = '{held}'" in done.stderr
