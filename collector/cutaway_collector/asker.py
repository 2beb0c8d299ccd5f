"""Whoever a store works for at the moment, as far as it has to know: whether they are still there to read the answer.

Set by the flow that serves them, in its thread; what is asked from other threads on their behalf carries it along (copy_context).
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

HAS_GONE: Final[ContextVar[Callable[[], bool] | None]] = ContextVar("HAS_GONE", default=None)
"""Tells at any moment whether nobody waits any more; None where somebody always does."""
