"""How far judging came, kept in the store between processes: one row, the newest note wins. Runs nothing.

The store and not a file, because with a server the collector may start again on another machine.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from cutaway_collector.backfill.notes import PROCESS, alive
from cutaway_collector.blocks import Block, Strings
from cutaway_collector.columns import JUDGING
from cutaway_collector.contracts import Store
from cutaway_collector.judging.spans import Place

NAME: Final = "texts"


@dataclass(slots=True)
class Note:
    """began_ms: when judging first began here. position: the last span of which all is done. behind: scorer that failed -> the last
    span it has judged; from there to `position` its scores are missing.
    """

    began_ms: int
    position: Place
    behind: dict[str, Place] = field(default_factory=dict)
    version: int = 0
    busy: bool = False
    """Whether another living process works on it."""


def read(store: Store) -> Note | None:
    """The newest note, None before the first. Raises StoreError."""
    database = store.database.replace("\\", "\\\\").replace("`", "\\`")
    rows = store.query(
        "SELECT Position, Behind, Owner, Version, (toUnixTimestamp64Milli(now64(3)) - toUnixTimestamp64Milli(UpdatedAt)) / 1000 "
        f"FROM `{database}`.{JUDGING.name} FINAL WHERE Name = {{name:String}} LIMIT 1", {"name": NAME}).rows
    if not rows:
        return None
    position, behind, owner, version, silent_s = rows[0]
    began_ms, place = json.loads(position)
    return Note(int(began_ms), Place(*place), {name: Place(*at) for name, at in json.loads(behind).items()}, int(version),
                bool(owner) and alive(owner=str(owner), silent_s=float(silent_s)))


def write(store: Store, note: Note, *, owned: bool = True) -> None:
    """Notes where judging is. owned: False when this process lets go of it. Raises StoreError."""
    note.version += 1
    texts = {"Name": NAME, "Position": json.dumps([note.began_ms, note.position]), "Behind": json.dumps(note.behind),
             "Owner": PROCESS if owned else ""}
    block = Block(JUDGING.name, 1, {**{name: Strings.of([text]) for name, text in texts.items()},
                                    "Version": np.array([note.version], np.uint64)})
    store.insert(block, f"judging:{PROCESS}:{note.version}:{owned}")
