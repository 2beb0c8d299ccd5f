"""Look at what a collector needs, say what is wrong and how to put it right."""

from __future__ import annotations

import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from cutaway_collector.errors import CutawayError, DataDirectoryBusy
from cutaway_collector.settings import MIB, Settings, split_address
from cutaway_collector.store import open_store
from cutaway_collector.store import schema as ddl

FREE_BYTES_MIN: Final = 1024 * MIB
"""Below this a busy collector fills the disk within the hour."""

Finding = tuple[bool, str]


def run(settings: Settings) -> int:
    """Prints one line a check, `ok` or `BAD` with the remedy. Exit 1 when something is bad."""
    bad = 0
    for check in (_python, _ports, _disk, _store, _device):
        for fine, words in _guarded(check, settings):
            bad += not fine
            print(f"{'ok ' if fine else 'BAD'}  {words}")
    print("everything a collector needs is there" if not bad else f"{bad} to put right")
    return 1 if bad else 0


def _guarded(check: Callable[[Settings], Iterator[Finding]], settings: Settings) -> Iterator[Finding]:
    try:
        yield from check(settings)
    except (CutawayError, OSError) as error:
        yield False, str(error)


def _python(settings: Settings) -> Iterator[Finding]:
    import chdb
    import clickhouse_connect
    import numba

    yield True, (
        f"Python {sys.version.split()[0]}, chdb {getattr(chdb, '__version__', '?')}, "
        f"clickhouse-connect {clickhouse_connect.__version__}, numba {numba.__version__}"
    )


def _ports(settings: Settings) -> Iterator[Finding]:
    for name in ("otlp_grpc", "otlp_http", "ui"):
        host, port = split_address(name, getattr(settings, name))
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            with socket.create_server((host, port), family=family):
                yield True, f"{name}: {host}:{port} is free"
        except OSError as error:
            flag = "--" + name.replace("_", "-")
            words = f"{name}: {host}:{port} cannot be used ({error.strerror})"
            yield False, f"{words}: stop what listens there, or choose another {flag}"


def _disk(settings: Settings) -> Iterator[Finding]:
    for name in ("data", "spool"):
        value = getattr(settings, name)
        if not value:
            continue
        path = Path(value)
        while not path.exists():
            path = path.parent
        if not path.is_dir():
            yield False, f"{name}: {path} is a file: choose a directory"
            continue
        free = shutil.disk_usage(path).free
        yield free >= FREE_BYTES_MIN, f"{name}: {free // MIB} MiB free at {value}" + (
            "" if free >= FREE_BYTES_MIN else f": less than {FREE_BYTES_MIN // MIB} MiB, make room or shorten the retention"
        )
        writable = _writable(path)
        yield writable, f"{name}: {path} " + (
            "can be written" if writable else "cannot be written: change its owner or choose another directory"
        )


def _writable(path: Path) -> bool:
    """By writing: permission bits say nothing to root or of a read-only file system."""
    try:
        with tempfile.TemporaryFile(dir=path):
            return True
    except OSError:
        return False


def _store(settings: Settings) -> Iterator[Finding]:
    if not settings.data and not settings.clickhouse:
        yield False, "store: neither --data DIR nor --clickhouse URL is given: choose one"
        return
    if settings.data and not Path(settings.data).exists() and Path(settings.data).parent.is_dir():
        yield True, f"store: {settings.data} does not exist yet and will be created"
        return
    try:
        store = open_store(settings, create=False)
    except DataDirectoryBusy:
        yield True, f"store: {settings.data} is in use by a running collector; stop it to have the schema checked"
        return
    try:
        differences = ddl.check(store, settings)
    finally:
        store.close()
    yield not differences, "store: the schema is current" if not differences else (
        f"store: the schema differs ({'; '.join(differences[:3])}): run `cutaway schema migrate`"
    )


def _device(settings: Settings) -> Iterator[Finding]:
    from numba import cuda

    seen = bool(cuda.is_available())
    fine = seen or settings.score_device != "cuda"
    yield fine, "scores: " + (
        "a CUDA device is there" if seen else "no CUDA device, they are computed on the CPU" if fine
        else "score_device is cuda but numba sees no CUDA device: install its driver, or set score_device to auto"
    )
