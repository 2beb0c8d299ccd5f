"""What the forms of alert rules have in common: choices among those offered, thresholds with a unit, a desk that refuses in words.

Not a form: those are made of a saved search (saved_alert.py) or of a window score (window_alert.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from cutaway_collector.alerts import RuleError
from cutaway_collector.errors import MalformedRequest, QueryError
from cutaway_collector.search import values
from cutaway_collector.search.language import Literal


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


def number(text: str, unit: str, what: str) -> int | float:
    """A threshold as it is typed, in the unit that a rule compares in: 2bits are 1.39 nats. Raises MalformedRequest."""
    try:
        return values.number(Literal(text, False, 0), unit, what)
    except QueryError as error:
        raise MalformedRequest(f"{error}; {error.hint}" if error.hint else str(error)) from None
