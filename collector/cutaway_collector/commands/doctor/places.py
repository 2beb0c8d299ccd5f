"""Directories and files: whose they are, who may read them, whether they reach the disk, what the spool holds. Changes nothing."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cutaway_collector import credentials
from cutaway_collector.commands.doctor.findings import Finding, bad, note, ok
from cutaway_collector.errors import SettingsError
from cutaway_collector.settings import MIB, Settings

FREE_BYTES_MIN: Final = 1024 * MIB
"""Below this a busy collector fills the disk within the hour."""
FREE_FILES_MIN: Final = 10_000
FULL_SHARE: Final = 0.8
_FORGETFUL: Final = ("tmpfs", "ramfs")
_REMOTE: Final = ("nfs", "nfs4", "cifs", "smb3", "9p")


def spool_path(settings: Settings) -> Path:
    """Where the spool is: `spool`, else DIR/spool, else a folder of the user's state directory."""
    if settings.spool:
        return Path(settings.spool)
    if settings.data:
        return Path(settings.data) / "spool"
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "cutaway" / "spool"


def in_use(path: Path) -> bool:
    """Whether a living process owns the directory."""
    try:
        handle = os.open(path / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(handle)


def keys(settings: Settings) -> Iterator[Finding]:
    """The API keys, where they are demanded or there."""
    try:
        path = credentials.keys_path(settings)
    except SettingsError as error:
        if settings.auth_required:
            yield bad("keys", str(error), "give one of them")
        return
    try:
        count = len(credentials.read(path))
    except SettingsError as error:
        yield bad("keys", str(error), "no key is known until then")
        return
    if settings.auth_required and not count:
        yield bad("keys", f"API keys are demanded and there is none in {path}",
                  "make one with `cutaway keys add --name NAME --scope admin`")
    elif count:
        yield ok("keys", f"{count} in {path}" + ("" if settings.auth_required else ", not demanded here"))


def directories(settings: Settings) -> Iterator[Finding]:
    """Of the store and of the spool."""
    wanted = {"data": Path(settings.data)} if settings.data else {}
    if not settings.data or settings.spool:
        wanted["spool"] = spool_path(settings)
    for what, wanted_path in wanted.items():
        path = wanted_path
        while not path.exists():
            path = path.parent
        if not path.is_dir():
            yield bad(what, f"{path} is a file", "choose a directory")
            continue
        yield from _disk(what, path, wanted_path)
        if path == wanted_path:
            yield from _private(what, path)
        if in_use(wanted_path):
            yield ok(what, f"{wanted_path} is in use by a running collector, which is asked below")


def _private(what: str, path: Path) -> Iterator[Finding]:
    info = path.stat()
    if info.st_uid != os.geteuid():
        yield bad(what, f"{path} belongs to user {info.st_uid} and this is user {os.geteuid()}",
                  f"run as its owner, or `chown -R {os.geteuid()} {path}`")
    if info.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield note(what, f"others may enter {path}, which holds prompts", "the next start closes it, or chmod 700 it now")


def _disk(what: str, path: Path, wanted: Path) -> Iterator[Finding]:
    try:
        _reach_the_disk(path)
    except PermissionError:
        yield bad(what, f"{path} cannot be written", "change its owner or choose another directory")
        return
    except OSError as error:
        yield bad(what, f"{path} cannot be written and synced ({error.strerror})", "choose a directory on another file system")
        return
    free = shutil.disk_usage(path).free
    if free < FREE_BYTES_MIN:
        yield bad(what, f"{free // MIB} MiB free at {wanted}, less than {FREE_BYTES_MIN // MIB}",
                  "make room or shorten the retention")
    else:
        yield ok(what, f"{wanted} can be written, {free // MIB} MiB free")
    counts = os.statvfs(path)
    if counts.f_files and counts.f_favail < FREE_FILES_MIN:
        yield bad(what, f"{counts.f_favail} files may still be made at {wanted}", "make room: the file system runs out of inodes")
    kind = _file_system(path)
    if kind in _FORGETFUL:
        yield note(what, f"{wanted} is on {kind}, which a restart of the machine empties", "choose a directory on a disk")
    elif kind in _REMOTE:
        yield note(what, f"{wanted} is on {kind}: a lost connection loses what was not synced", "choose a local disk")


def _reach_the_disk(path: Path) -> None:
    """By writing and syncing: permission bits say nothing to root or of a read-only file system."""
    with tempfile.TemporaryFile(dir=path) as file:
        file.write(b"\0" * 4096)
        file.flush()
        os.fsync(file.fileno())
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _file_system(path: Path) -> str:
    """Its type as the kernel names it, "" when unknown."""
    best, kind = -1, ""
    try:
        lines = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        point, found = line.split()[1:3]
        if path.resolve().is_relative_to(point) and len(point) > best:
            best, kind = len(point), found
    return kind


def spool(settings: Settings) -> Iterator[Finding]:
    """What an earlier process left in the spool, and whether it is whole."""
    path = spool_path(settings)
    if not path.is_dir():
        return
    held = sum(file.stat().st_size for file in (path / "segments").glob("*.log"))
    words = f"{held // MIB} of {settings.spool_bytes_max // MIB} MiB hold requests that are not stored yet or not trimmed"
    if held >= FULL_SHARE * settings.spool_bytes_max:
        yield bad("spool", words, "see whether the store answers, or raise spool_bytes_max: a full spool turns senders away")
    else:
        yield ok("spool", words)
    yield from _ledger(path / "ledger.db")
    damaged = [file for file in (path / "quarantine").glob("*") if file.is_file()]
    if damaged:
        yield bad("spool", f"{len(damaged)} damaged pieces were set aside in {path / 'quarantine'}, the newest is "
                           f"{max(damaged, key=lambda file: file.stat().st_mtime).name}",
                  "check the disk and that no second process wrote there, then delete them")
    letters = sorted((path / "dead").glob("*.json"))
    if letters:
        yield bad("spool", f"{len(letters)} dead letters in {path / 'dead'}, the first because: {_reason(letters[0])}",
                  "read their reasons, send again what matters, then delete them")


def _ledger(path: Path) -> Iterator[Finding]:
    if not path.exists():
        return
    try:
        # Read-only, so that a running collector is not disturbed and a damaged file is left as it is.
        database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=2)
        try:
            said = database.execute("PRAGMA quick_check(1)").fetchone()[0]
        finally:
            database.close()
    except sqlite3.OperationalError as error:
        yield note("spool", f"the ledger {path} could not be looked at now ({error})")
    except sqlite3.DatabaseError as error:
        yield _damaged(path, str(error))
    else:
        yield ok("spool", "its ledger is whole") if said == "ok" else _damaged(path, str(said))


def _damaged(path: Path, why: str) -> Finding:
    return bad("spool", f"the ledger {path} is damaged ({why[:120]})",
               "put a copy back, or start anyway: it is set aside, and what is still in the spool may be stored twice")


def _reason(letter: Path) -> str:
    try:
        return str(json.loads(letter.read_text())["reason"])[:160]
    except (OSError, ValueError, KeyError, TypeError):
        return "its note cannot be read"
