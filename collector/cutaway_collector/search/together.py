"""Questions that do not wait for each other, asked at the same time: one after another their planning alone adds up.

Not a pool: a question is a thread for as long as it takes, and the store bounds how many it answers at once.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def both(first: Callable[[], A], second: Callable[[], B]) -> tuple[A, B]:
    """What both give. The second is asked in a thread of its own, in the caller's context, which says who asks.

    Raises what either raises, the first one's rather than the second's, after both have ended.
    """
    with ThreadPoolExecutor(1) as other:
        later = other.submit(copy_context().run, second)
        return first(), later.result()
