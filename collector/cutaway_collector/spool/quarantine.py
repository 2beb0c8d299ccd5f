"""The quarantine: bytes of the spool that could not be trusted at a start, for whoever wants to look at them, within bounds.

Not the dead letters: what was acknowledged and is damaged becomes one of those too, with its reason; here lie the bytes.
"""

from __future__ import annotations

import os
import time
from pathlib import Path


class Quarantine:
    """One private directory. bytes_max: of all pieces, though the newest is always kept; seconds_max: 0 keeps them for ever."""

    def __init__(self, directory: Path, *, bytes_max: int, seconds_max: int) -> None:
        self.directory = directory
        self._bytes_max = bytes_max
        self._seconds_max = seconds_max

    def copy(self, path: Path, start: int, stop: int) -> Path:
        """Copies bytes [start, stop) of a file; the same piece again replaces it. Raises OSError."""
        aside = self.directory / f"{path.stem}-{start}.bin"
        with path.open("rb") as file, os.fdopen(os.open(aside, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as out:
            file.seek(start)
            while start < stop and (chunk := file.read(min(1 << 20, stop - start))):
                start += out.write(chunk)
        return aside

    def expire(self) -> int:
        """Removes pieces that are too old, or too many for their bytes; how many. Raises OSError."""
        oldest_s = time.time() - self._seconds_max if self._seconds_max else 0.0
        found = sorted(((path.stat(), path) for path in self.directory.iterdir() if path.is_file()),
                       key=lambda one: one[0].st_mtime, reverse=True)
        removed = nbytes = 0
        for status, path in found:
            nbytes += status.st_size
            if status.st_mtime < oldest_s or (nbytes > self._bytes_max and path != found[0][1]):
                path.unlink(missing_ok=True)
                removed += 1
        return removed
