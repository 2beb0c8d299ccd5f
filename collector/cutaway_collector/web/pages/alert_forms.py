"""What the forms of alert rules have in common: choices that are among those offered, and a desk that refuses in words.

Not a form: those are made of a saved search (saved_alert.py) or of a window score (window_alert.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from cutaway_collector.alerts import RuleError
from cutaway_collector.errors import MalformedRequest


def done(action: Callable[[], Any]) -> None:
    """Does it. What the desk says against it is MalformedRequest."""
    try:
        action()
    except RuleError as error:
        raise MalformedRequest(str(error)) from None


def check(choices: Iterable[tuple[str, str, Collection[str]]], channel: str, channels: Collection[str]) -> None:
    """choices: what it is, what was said, what is offered; channel: its name, "" for nobody. Raises MalformedRequest."""
    for what, value, known in choices:
        if value not in known:
            raise MalformedRequest(f"the {what} is one of {', '.join(filter(None, known))}, it is {value[:20]!r}")
    if channel and channel not in channels:
        raise MalformedRequest(f"there is no channel {channel[:60]!r} here: choose one of the list, or nobody")
