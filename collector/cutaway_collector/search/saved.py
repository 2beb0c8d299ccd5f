"""Saved searches: what somebody gave a name so as to open it again. Kept in the store, one row a name and tenant.

Not the searching, and not a check of the query: a search may be saved while one still works at it.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np

from cutaway_collector.blocks import Block, Column, Strings
from cutaway_collector.columns import SAVED_SEARCHES
from cutaway_collector.contracts import Store
from cutaway_collector.errors import MalformedRequest
from cutaway_collector.search import rows

SAVED_MAX: Final = 200
"""Searches of one tenant: more than a person finds again by reading."""
CHARACTERS_MAX: Final[Mapping[str, int]] = {
    "name": 100, "query": 4096, "time_from": 40, "time_to": 40, "sort": 200, "columns": 1000, "view": 100, "owner": 100,
}


@dataclass(frozen=True, slots=True)
class SavedSearch:
    """One of them. The texts are those of the search's address; updated_ns: since 1970, 0 for one that is not stored yet."""

    name: str
    query: str = ""
    time_from: str = ""
    time_to: str = ""
    sort: str = ""
    columns: str = ""
    view: str = ""
    owner: str = ""
    updated_ns: int = 0

    @property
    def moves(self) -> bool:
        """Whether its time range is counted back from the moment of looking; a range without ends does too."""
        return not any(text[:1].isdigit() for text in (self.time_from, self.time_to))


_TEXTS: Final = tuple(item.name for item in fields(SavedSearch) if item.name != "updated_ns")
_COLUMNS: Final = {name: "".join(part.capitalize() for part in name.split("_")) for name in _TEXTS}
"""Field -> column."""


class SavedSearches:
    """The searches of all tenants, each call about those of one. A change is read back by the next call. Raises StoreError."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._changing = threading.Lock()

    def all(self, tenant: str) -> list[SavedSearch]:
        """The tenant's, by name without regard to case."""
        columns = ", ".join(_COLUMNS[name] for name in _TEXTS)
        found = self._store.query(
            f"SELECT {columns}, Version FROM {rows.table(self._store, SAVED_SEARCHES.name)} FINAL "
            "WHERE TenantId = {tenant:String} ORDER BY lowerUTF8(Name), Name LIMIT {most:UInt32}",
            {"tenant": tenant, "most": SAVED_MAX})
        return [SavedSearch(**dict(zip(_TEXTS, row[:-1], strict=True)), updated_ns=int(row[-1])) for row in found.rows]

    def save(self, tenant: str, search: SavedSearch) -> None:
        """Keeps it, in the place of the one of that name. Raises MalformedRequest: no name, too long, one too many."""
        _check(search)
        with self._changing:
            names = {known.name for known in self.all(tenant)}
            if search.name not in names and len(names) >= SAVED_MAX:
                raise MalformedRequest(f"at most {SAVED_MAX} searches are saved, there are as many: delete one you no longer need")
            self._write(tenant, [(search, False)])

    def rename(self, tenant: str, old: str, new: str) -> None:
        """Raises MalformedRequest: there is none of the old name, or one of the new."""
        with self._changing:
            known = {search.name: search for search in self.all(tenant)}
            found = _known(known, old)
            if new in known:
                raise MalformedRequest(f"there is a saved search named {new[:40]!r} already: choose another name")
            renamed = SavedSearch(**{name: getattr(found, name) for name in _TEXTS} | {"name": new})
            _check(renamed)
            self._write(tenant, [(renamed, False), (found, True)])

    def delete(self, tenant: str, name: str) -> None:
        """Raises MalformedRequest when there is none of that name."""
        with self._changing:
            self._write(tenant, [(_known({search.name: search for search in self.all(tenant)}, name), True)])

    def _write(self, tenant: str, entries: Sequence[tuple[SavedSearch, bool]]) -> None:
        """(search, whether it goes), all or none. Each newer than what is stored, whatever the clock did."""
        version = max(time.time_ns(), *(search.updated_ns + 1 for search, _ in entries), self._newest(tenant) + 1)
        columns: dict[str, Column] = {
            "TenantId": Strings.of([tenant] * len(entries)),
            **{column: Strings.of([getattr(search, name) for search, _ in entries]) for name, column in _COLUMNS.items()},
            "Version": np.full(len(entries), version, np.uint64),
            "IsDeleted": np.array([gone for _, gone in entries], np.uint8),
        }
        # A token of its own each time: the same search saved, deleted and saved again is three writes.
        self._store.insert(Block(SAVED_SEARCHES.name, len(entries), columns), f"{SAVED_SEARCHES.name}:{uuid.uuid4().hex}")

    def _newest(self, tenant: str) -> int:
        found = self._store.query(f"SELECT max(Version) FROM {rows.table(self._store, SAVED_SEARCHES.name)} "
                                  "WHERE TenantId = {tenant:String}", {"tenant": tenant})
        return int(found.rows[0][0]) if found.rows else 0


def _known(known: Mapping[str, Any], name: str) -> SavedSearch:
    if name not in known:
        raise MalformedRequest(f"there is no saved search named {name[:40]!r}: somebody may have renamed or deleted it")
    found: SavedSearch = known[name]
    return found


def _check(search: SavedSearch) -> None:
    if not search.name:
        raise MalformedRequest("a saved search needs a name: say what it shows, in a few words")
    if not search.name.isprintable():
        raise MalformedRequest("the name of a saved search is one line of text, without control characters")
    for name, most in CHARACTERS_MAX.items():
        text = getattr(search, name)
        said = f"the {name.replace('_', ' ')} of a saved search"
        if len(text) > most:
            raise MalformedRequest(f"{said} has at most {most} characters, this has {len(text)}")
        if "\0" in text or text.encode("utf-8", "replace").decode() != text:
            raise MalformedRequest(f"{said} is text, without NUL or half characters")
