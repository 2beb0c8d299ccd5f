"""The dead letters on disk: requests the store will never take, each with its reason, kept within bounds of bytes and age.

Not the table of the same purpose in the store: here lie the payloads, so that a request can be mended and sent again.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Final

DEAD_BYTES_MAX: Final = 256 * 1024 * 1024
DEAD_SECONDS_MAX: Final = 30 * 86_400
_SUFFIXES: Final = (".json", ".otlp")


class DeadLetters:
    """One private directory. Used by one thread at a time; count and nbytes may be read by any.

    bytes_max: of notes and payloads together, though the newest letter is always kept; seconds_max: 0 keeps them for ever.
    """

    def __init__(self, directory: Path, *, bytes_max: int, seconds_max: int) -> None:
        self._directory = directory
        self._bytes_max = bytes_max
        self._seconds_max = seconds_max
        found: dict[str, tuple[float, int]] = {}
        for path in directory.iterdir():
            if path.suffix in _SUFFIXES:
                status, (written_s, nbytes) = path.stat(), found.get(path.stem, (0.0, 0))
                found[path.stem] = max(written_s, status.st_mtime), nbytes + status.st_size
        self._line = deque(sorted((written_s, stem, nbytes) for stem, (written_s, nbytes) in found.items()))
        self.nbytes = sum(nbytes for _, _, nbytes in self._line)

    @property
    def count(self) -> int:
        """Letters in the directory."""
        return len(self._line)

    def add(self, sequence: int, note: Mapping[str, object], payload: bytes) -> None:
        """Writes a letter to disk; the same sequence number again replaces it. Raises OSError."""
        stem, text = f"{sequence:020d}", json.dumps(note).encode()
        _write(self._directory / f"{stem}.otlp", payload)
        _write(self._directory / f"{stem}.json", text)
        for known in [item for item in self._line if item[1] == stem]:
            self._line.remove(known)
            self.nbytes -= known[2]
        self._line.append((time.time(), stem, len(text) + len(payload)))
        self.nbytes += len(text) + len(payload)

    def expire(self) -> int:
        """Removes the oldest letters that are too many or too old; how many. Raises OSError."""
        removed = 0
        while self._line:
            written_s, stem, nbytes = self._line[0]
            too_old = self._seconds_max > 0 and written_s < time.time() - self._seconds_max
            if not too_old and (self.nbytes <= self._bytes_max or len(self._line) == 1):
                break
            for suffix in _SUFFIXES:
                (self._directory / f"{stem}{suffix}").unlink(missing_ok=True)
            self._line.popleft()
            self.nbytes -= nbytes
            removed += 1
        return removed


def _write(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
