"""How the comparison pages print numbers: with their unit, with their sign, as a share, as a q-value. No page of its own."""

from __future__ import annotations

from collections.abc import Callable

from cutaway_collector.search.compare import Key
from cutaway_collector.web import figures, query_edit
from cutaway_collector.web.figures import measured as measured


def percent(value: float | None) -> str:
    """0.123 -> "12.3 %"."""
    return figures.ABSENT if value is None else f"{100 * value:.3g}\u202f%"


def signed(value: float, shown: Callable[[float], str]) -> str:
    """The value with its sign, a true minus; zero has none."""
    return shown(0.0) if value == 0 else f"{'+' if value > 0 else '−'}{shown(abs(value))}"


def q_text(q: float | None) -> str:
    """A q-value as printed: "< 0.001" says more than an exponent."""
    return figures.ABSENT if q is None else "< 0.001" if q < 0.001 else f"{q:.3f}" if q < 0.1 else f"{q:.2f}"


def language_name(key: Key) -> str:
    """An attribute as the search language takes it on the left of a colon."""
    return f"{key.scope}.{query_edit.field_name(key.name)}" if key.scope else key.name


def term(key: Key, value: str) -> str:
    """`field:value` in the search language."""
    return f"{language_name(key)}:{query_edit.quoted(value)}"


def missing_term(key: Key) -> str:
    """The spans that have no such attribute."""
    return f"-has:{query_edit.quoted(f'{key.scope}.{key.name}' if key.scope else key.name)}"
