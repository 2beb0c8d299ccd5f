"""Registered corpora on disk: one folder each, with the fingerprints of its documents and their names, and none of their text.

Not the comparison (see `memory`). A folder appears whole or not at all: it is written beside and renamed. The arrays are mapped,
not read, so that a large corpus costs address space.
"""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from cutaway_collector.errors import SettingsError
from cutaway_collector.windows import memory
from cutaway_collector.windows.memory import Index, winnowed

FOLDER: Final = "corpora"
NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
FORMAT: Final = 1
"""Changes with everything that decides a hash; an index of another format is refused."""
FILE_BYTES_MAX: Final = 256 * 1024 * 1024
"""Bytes of one text file, or of one line of JSON lines: it is held in memory while it is read."""
FINGERPRINTS_MAX: Final = 20_000_000
"""Of one corpus: fifty million words, 320 MB on disk."""
_ARRAYS: Final = ("hashes", "owners", "positions")


@dataclass(frozen=True, slots=True)
class About:
    """What `cutaway corpus list` says of a corpus. fingerprints: shingles in its index."""

    name: str
    tenant: str
    documents: int
    words: int
    fingerprints: int
    created: str


def documents(paths: Iterable[Path], field: str) -> Iterator[tuple[str, str]]:
    """Names and texts: a file that ends in .jsonl has a document a line, in its `field`; any other is one text in UTF-8.

    Raises SettingsError that names the file, and the line.
    """
    for path in paths:
        try:
            if path.suffix == ".jsonl":
                yield from _lines(path, field)
            elif path.stat().st_size > FILE_BYTES_MAX:
                raise SettingsError(f"a document has at most {FILE_BYTES_MAX} bytes, {path} has {path.stat().st_size}: split it")
            else:
                yield path.name, path.read_text("utf-8", "replace")
        except OSError as error:
            raise SettingsError(f"a corpus is made of files that can be read: {path}: {error.strerror}") from None


def _lines(path: Path, field: str) -> Iterator[tuple[str, str]]:
    with path.open("rb") as lines:
        number = 0
        while line := lines.readline(FILE_BYTES_MAX + 1):
            number += 1
            if len(line) > FILE_BYTES_MAX:
                raise SettingsError(f"a line has at most {FILE_BYTES_MAX} bytes, line {number} of {path} has more")
            if not line.strip():
                continue
            try:
                held: Any = orjson.loads(line)
            except orjson.JSONDecodeError:
                held = None
            if not isinstance(held, dict) or not isinstance(held.get(field), str):
                raise SettingsError(f"a line of {path} is a JSON object with a text in {field!r}, line {number} is not: name its "
                                    "field with --field, or rename a file that is plain text")
            yield str(held.get("id", f"{path.name}:{number}"))[:200], held[field]


def add(folder: Path, name: str, texts: Iterable[tuple[str, str]], *, tenant: str = "") -> About:
    """Registers a corpus in `folder`. Raises SettingsError: a bad or taken name, no words, or more than FINGERPRINTS_MAX."""
    if not NAME.fullmatch(name):
        raise SettingsError(f"a corpus has a name of 1 to 64 letters, digits and _ . -, it is {name[:80]!r}")
    if name.startswith("-"):
        raise SettingsError("the name of a corpus does not begin with -, which a command line takes for an option, it is "
                            f"{name!r}: name it {name.lstrip('-') or 'corpus'!r}")
    if (folder / name).exists():
        raise SettingsError(f"there is a corpus {name!r}: remove it first with `cutaway corpus remove {name}`")
    names: list[str] = []
    parts: list[memory.Fingerprints] = []
    words = held = 0
    for title, text in texts:
        found = winnowed(text)
        held += found.hashes.size
        if held > FINGERPRINTS_MAX:
            raise SettingsError(f"a corpus has at most {FINGERPRINTS_MAX} shingles, some fifty million words: register it in parts")
        words += found.words
        names.append(title)
        parts.append(found)
    if not held:
        raise SettingsError(f"a corpus has a document of {memory.SHINGLE} words or more, {name!r} has none")
    about = About(name, tenant, len(names), words, held, datetime.now(UTC).strftime("%Y-%m-%d"))
    hashes = np.concatenate([part.hashes for part in parts])
    order = np.argsort(hashes, kind="stable")
    arrays = (hashes[order], np.repeat(np.arange(len(parts), dtype=np.uint32), [part.hashes.size for part in parts])[order],
              np.concatenate([part.positions for part in parts])[order])
    fresh = folder / f".{uuid.uuid4().hex}"
    fresh.mkdir(mode=0o700, parents=True)
    try:
        for label, array in zip(_ARRAYS, arrays, strict=True):
            np.save(fresh / f"{label}.npy", array)
        said = {"format": FORMAT, "tenant": tenant, "words": words, "created": about.created, "documents": names}
        (fresh / "corpus.json").write_text(json.dumps(said))
        fresh.rename(folder / name)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return about


def remove(folder: Path, name: str) -> None:
    """Forgets a corpus. Raises SettingsError when there is none of that name."""
    if not NAME.fullmatch(name) or not (folder / name).is_dir():
        raise SettingsError(f"there is no corpus {name[:80]!r}: `cutaway corpus list` shows those there are")
    shutil.rmtree(folder / name)


def listed(folder: Path) -> list[About]:
    """Every corpus, by name. Raises SettingsError for one that cannot be read."""
    return [About(index.name, index.tenant, len(index.documents), int(said["words"]), index.hashes.size, said["created"])
            for index, said in map(_load, _folders(folder))]


def load(folder: Path, *, on_failure: Callable[[SettingsError], None] | None = None) -> list[Index]:
    """Every corpus, by name, its arrays mapped. One that cannot be read is told to on_failure and left out; else SettingsError."""
    found = []
    for path in _folders(folder):
        try:
            found.append(_load(path)[0])
        except SettingsError as error:
            if on_failure is None:
                raise
            on_failure(error)
    return found


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and NAME.fullmatch(path.name)) if folder.is_dir() else []


def _load(path: Path) -> tuple[Index, dict[str, Any]]:
    try:
        said = json.loads((path / "corpus.json").read_text())
        if said["format"] != FORMAT:
            raise ValueError(f"its format is {said['format']}, not {FORMAT}")
        hashes, owners, positions = (np.load(path / f"{label}.npy", mmap_mode="r", allow_pickle=False) for label in _ARRAYS)
        return Index(path.name, said["tenant"], tuple(said["documents"]), hashes, owners, positions), said
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"the corpus {path} cannot be read ({type(error).__name__}): remove it and add it again") from None
