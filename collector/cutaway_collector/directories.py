"""Directories that hold prompts: made for our eyes only, and owned by one process at a time.

Not storage: what lies in them is the business of the store and the spool.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from cutaway_collector.errors import DataDirectoryBusy, StoreError
from cutaway_collector.settings import Settings


def private_directory(path: Path) -> Path:
    """Makes a directory of mode 0700, or closes an existing one to others. Raises StoreError when it cannot be ours."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise StoreError(f"a data directory must be ours to write: {path}: {error.strerror}. Choose another one.",
                         retryable=False) from None
    return path


def state_directory(settings: Settings) -> Path:
    """Where this collector keeps small files of its own: DIR with --data, else in the spool it was given, else the user's state."""
    if settings.data:
        return Path(settings.data)
    if settings.spool:
        return Path(settings.spool)
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "cutaway"


def own_directory(path: Path) -> int:
    """Takes the directory for this process; closing the returned descriptor, or dying, gives it back.

    Raises DataDirectoryBusy when another process (or another store of this one) has it.
    """
    handle = os.open(private_directory(path) / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise DataDirectoryBusy(str(path)) from None
    return handle
