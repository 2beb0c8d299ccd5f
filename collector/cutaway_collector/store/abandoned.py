"""Queries nobody waits for any more are stopped: a page that was left must not slow down the one that is looked at now.

Not a time limit: those are settings of each query. A look costs microseconds and happens only while somebody's query runs.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from cutaway_collector.asker import HAS_GONE
from cutaway_collector.errors import AskerGone, StoreError

_LOG: Final = logging.getLogger(__name__)
_LOOK_S: Final = 0.1
_CLOSE_SECONDS_MAX: Final = 1.0
"""A server that does not answer may hold the one that stops queries for minutes: it is a daemon, and nobody waits for it."""
MARK: Final = "log_comment"
"""The setting that carries a query's name: the engine shows it in system.processes, whatever way the query came."""
_KILL: Final = f"KILL QUERY WHERE Settings['{MARK}'] = '{{}}' ASYNC"


class Abandoned:
    """The running queries of those who may leave. Thread-safe. run: a statement on a connection that no query of a page uses."""

    def __init__(self, run: Callable[[str], object]) -> None:
        self._run = run
        self._changed = threading.Condition()
        self._running: dict[str, Callable[[], bool]] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    @contextmanager
    def watching(self) -> Iterator[dict[str, str]]:
        """Around one query: the settings it needs. Raises AskerGone when whoever asked has gone, before or while it ran."""
        has_gone = HAS_GONE.get()
        if has_gone is None:
            yield {}
            return
        if has_gone():
            raise AskerGone
        name = f"cutaway-{uuid.uuid4().hex}"
        with self._changed:
            self._running[name] = has_gone
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._look, name="abandoned", daemon=True)
                self._thread.start()
            self._changed.notify()
        try:
            yield {MARK: name}
        except StoreError as error:
            if has_gone():
                raise AskerGone from error
            raise
        finally:
            with self._changed:
                del self._running[name]

    def close(self) -> None:
        """Stops looking."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_CLOSE_SECONDS_MAX)

    def _look(self) -> None:
        looks: dict[str, int] = {}
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._running)
                self._changed.wait_for(lambda: self._closed, _LOOK_S)
                if self._closed:
                    return
                left = [name for name, has_gone in self._running.items() if _says_so(has_gone)]
            # Again until it has ended, for it may not have begun; ever more seldom, for it may be another server's.
            looks = {name: looks.get(name, 0) + 1 for name in left}
            for name in (name for name, count in looks.items() if count & (count - 1) == 0):
                if self._closed:
                    return
                try:
                    self._run(_KILL.format(name))
                except Exception as error:  # a user without the right to: what is left runs to its limits, as ever
                    _LOG.debug("a query that nobody waits for goes on: %s", error)


def _says_so(has_gone: Callable[[], bool]) -> bool:
    try:
        return has_gone()
    except Exception:  # of a server that knows no better: whoever asked is taken to be there
        return False
