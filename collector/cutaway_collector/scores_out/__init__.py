"""What becomes of scores beside the table they are stored in: figures for Prometheus, and log records for another collector.

Not the storing: `ScoresTold` hands every block of scores that the store has taken to whoever listens, whichever road it came by. A
listener that fails is told once in the log and costs no score.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from cutaway_collector.blocks import Block
from cutaway_collector.columns import SCORES
from cutaway_collector.contracts import Result, Store
from cutaway_collector.scores_out.forward import Forwarder
from cutaway_collector.scores_out.tally import Tally

__all__ = ["Forwarder", "ScoresTold", "Tally"]

_LOG: Final = logging.getLogger(__name__)


class ScoresTold:
    """A contracts.Store that tells `listeners` of every gen_ai_scores block once its insert has returned.

    A block that is inserted again under its token, after a crash or a lost answer, is told again.
    """

    def __init__(self, store: Store, listeners: Sequence[Callable[[Block], None]]) -> None:
        self.database = store.database
        self._store = store
        self._listeners = listeners
        self._failed: set[str] = set()

    def insert(self, block: Block, deduplication_token: str) -> None:
        """contracts.Store.insert. Raises StoreError."""
        self._store.insert(block, deduplication_token)
        if block.table != SCORES.name or not block.rows:
            return
        for listener in self._listeners:
            try:
                listener(block)
            except Exception as error:
                kind = type(error).__name__
                if kind not in self._failed:
                    self._failed.add(kind)
                    _LOG.exception("stored scores were not told on")

    def prepare(self) -> None:
        """contracts.Store.prepare. Raises StoreError."""
        self._store.prepare()

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None, *, seconds_max: float | None = None) -> Result:
        """contracts.Store.query. Raises StoreError."""
        return self._store.query(sql, parameters, seconds_max=seconds_max)

    def command(self, sql: str) -> None:
        """contracts.Store.command. Raises StoreError."""
        self._store.command(sql)

    def close(self) -> None:
        """contracts.Store.close."""
        self._store.close()
