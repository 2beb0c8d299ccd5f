"""What is kept of a back-fill between processes: one row a job in the store, the newest note wins. Runs nothing.

The store and not a file, because with a server the command may be repeated on another machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, Protocol

import numpy as np

from cutaway_collector.backfill.reader import Key, Range
from cutaway_collector.blocks import Block, Strings
from cutaway_collector.columns import BACKFILLS
from cutaway_collector.contracts import Store

State = Literal["running", "stopped", "done"]
SILENCE_SECONDS_MAX: Final = 30
"""A job that has noted nothing for so long belongs to nobody any more."""
_HOST: Final = socket.gethostname()
PROCESS: Final = f"{_HOST}/{os.getpid()}/{uuid.uuid4().hex}"


class Named(Protocol):
    """A scorer of any kind."""

    name: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Range):
    """What is to be scored again. scorers: names, none for all there are. missing: only what lacks a score of that version."""

    scorers: tuple[str, ...] = ()
    missing: bool = False

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Request:
        """From the parts of `asdict`. Raises TypeError for unknown or missing ones."""
        return cls(**{**values, "scorers": tuple(values.get("scorers", ()))})

    def fingerprint(self, scorers: Iterable[Named]) -> str:
        """The same for the same request of the same scorers."""
        versions = sorted((scorer.name, scorer.version) for scorer in scorers)
        return hashlib.sha256(json.dumps([asdict(self), versions], sort_keys=True).encode()).hexdigest()


@dataclass(slots=True, kw_only=True)
class Job:
    """One back-fill and how far it came: part and position name the last row that is done.

    rows, scores: sequences (or spans) read and scores stored; failures: scorer -> pieces it failed on.

    rows_total: sequences the range held when this process began, -1 when unknown. message: why it stopped, "" when all is well.
    """

    id: str
    fingerprint: str
    request: Request
    started_ms: int
    state: State = "running"
    part: str = ""
    position: Key | None = None
    rows: int = 0
    rows_total: int = -1
    scores: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    message: str = ""
    version: int = 0

    def shown(self) -> dict[str, Any]:
        """Plain JSON values, for a status page or a bar."""
        return {"job": self.id, "state": self.state, "rows": self.rows, "rows_total": self.rows_total, "scores": self.scores,
                "failures": dict(self.failures), "message": self.message, "started_ms": self.started_ms,
                "request": {**asdict(self.request), "scorers": list(self.request.scorers)}}


def write(store: Store, job: Job) -> None:
    """Notes where the job is. Raises StoreError."""
    job.version += 1
    counts = json.dumps({"rows": job.rows, "scores": job.scores, "failures": job.failures, "part": job.part})
    texts = {"JobId": job.id, "Fingerprint": job.fingerprint, "Request": json.dumps(asdict(job.request)), "State": job.state,
             "Owner": PROCESS, "Position": json.dumps(job.position) if job.position else "", "Counts": counts}
    block = Block(BACKFILLS.name, 1, {
        **{name: Strings.of([text]) for name, text in texts.items()},
        "StartedMs": np.array([job.started_ms], np.uint64), "Version": np.array([job.version], np.uint64)})
    store.insert(block, f"backfill:{job.id}:{PROCESS}:{job.version}")


def unfinished(store: Store, fingerprint: str = "") -> Job | None:
    """The newest job that did not come to its end, of this fingerprint when one is given. Raises StoreError."""
    rows = _read(store, "WHERE State != 'done'" + (" AND Fingerprint = {fingerprint:String}" if fingerprint else "")
                 + " ORDER BY StartedMs DESC LIMIT 1", {"fingerprint": fingerprint} if fingerprint else {})
    return _job(rows[0]) if rows else None


def running_elsewhere(store: Store) -> str:
    """Id of a job that another living process works on, "" for none. Raises StoreError."""
    for row in _read(store, "WHERE State = 'running' ORDER BY StartedMs DESC LIMIT 100", {}):
        if alive(owner=str(row[4]), silent_s=float(row[9])):
            return str(row[0])
    return ""


def _read(store: Store, clauses: str, bound: Mapping[str, Any]) -> list[Any]:
    database = store.database.replace("\\", "\\\\").replace("`", "\\`")
    return list(store.query(
        "SELECT JobId, Fingerprint, Request, State, Owner, Position, Counts, StartedMs, Version, "
        f"(toUnixTimestamp64Milli(now64(3)) - toUnixTimestamp64Milli(UpdatedAt)) / 1000 FROM `{database}`.{BACKFILLS.name} "
        f"FINAL {clauses}", bound).rows)


def alive(*, owner: str, silent_s: float) -> bool:
    """Whether another process that noted this owner so many seconds ago is still at work."""
    if silent_s > SILENCE_SECONDS_MAX or owner == PROCESS:
        return False
    host, number, _ = owner.split("/", 2)
    if host != _HOST:
        return True
    if int(number) == os.getpid():  # a container restarts with the same number
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _job(row: Any) -> Job:
    counts = json.loads(row[6])
    return Job(id=row[0], fingerprint=row[1], request=Request.of(json.loads(row[2])), state=row[3],
               # Notes of the time before there were texts name no part: they are of sequences, the first.
               part=counts.get("part", ""), position=Key(*json.loads(row[5])) if row[5] else None,
               rows=counts["rows"], scores=counts["scores"],
               failures=counts["failures"], started_ms=int(row[7]), version=int(row[8]))
