"""Keeps our faults out of the host program: a fault is logged once, and the host goes on as if we were not there.

Not error handling for the host: its own exceptions pass through untouched. Tests call `reraise(True)` so that a fault of ours
cannot hide behind its log line.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

logger: Final = logging.getLogger("cutaway")
"""The one logger of the SDK."""

_FAULTS_MAX: Final = 1000
_lock = threading.Lock()
_said: set[str] = set()
_raise = False


def _begin_in_child() -> None:
    """The lock may have been held by a thread that does not live in the child."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_in_child)


def reraise(on: bool) -> None:
    """True makes our faults propagate after logging (for tests); False, the default, contains them."""
    global _raise
    _raise = on


def once(key: str, message: str, *args: object, level: int = logging.WARNING) -> None:
    """Logs `message % args` the first time `key` is seen in this process."""
    with _lock:
        if key in _said or len(_said) >= _FAULTS_MAX:
            return
        _said.add(key)
    logger.log(level, message, *args)


def forget() -> None:
    """Forgets which messages were said (for tests)."""
    with _lock:
        _said.clear()


def contain(where: str, error: Exception) -> None:
    """Logs the first fault of each place and class; raises it again only under `reraise(True)`. For `except` blocks."""
    key = f"{where}:{type(error).__name__}"
    with _lock:
        first = key not in _said and len(_said) < _FAULTS_MAX
        _said.add(key)
    if first:
        logger.error("cutaway failed while %s; the program goes on without it", where, exc_info=error)
    if _raise:
        raise error


def reason(error: Exception) -> str:
    """A fault in a few words: never a payload, only its class."""
    return f"a fault in cutaway ({type(error).__name__})"


@contextmanager
def guarded(where: str) -> Iterator[None]:
    """Contains any `Exception` raised in the block (see `contain`)."""
    try:
        yield
    except Exception as error:
        contain(where, error)
