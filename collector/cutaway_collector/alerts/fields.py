"""Reading of definitions: durations, numbers, texts and mappings out of what YAML or JSON gave, each refused in its own words.

Not the definitions themselves; those are `rules` and `channels`.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeGuard

from cutaway_collector.errors import CutawayError

NS: Final = 1_000_000_000
_DURATION: Final = re.compile(r"([0-9]{1,9})\s*(s|m|h|d)")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_TENANT: Final = re.compile(r"[A-Za-z0-9_.-]{0,64}")


class RuleError(CutawayError):
    """A definition cannot be understood. The message names where it stands, the rule, the value and the remedy."""


class Reader:
    """One mapping of a definition. where: how messages call it. Raises RuleError for unknown keys at once."""

    def __init__(self, where: str, value: Any, known: Iterable[str]) -> None:
        if not isinstance(value, Mapping):
            raise RuleError(f"{where} is a mapping of names to values, it is {_shown(value)}")
        names = list(known)
        for key in value:
            if key not in names:
                near = difflib.get_close_matches(str(key), names, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
                raise RuleError(f"{where} has no {str(key)[:40]!r}: {hint}")
        self.where = where
        self._value = value

    def has(self, key: str) -> bool:
        """Whether it is there and not null."""
        return self._value.get(key) is not None

    def text(self, key: str, default: str | None = None, *, most: int = 4096) -> str:
        """A text. Raises RuleError when it is missing without a default."""
        value = self._get(key, default)
        if not isinstance(value, str) or len(value) > most:
            raise self.wrong(key, f"a text of at most {most} characters")
        return value

    def name(self, key: str = "name") -> str:
        """What a rule or channel is called."""
        value = self._get(key, None)
        if not _is_name(value):
            raise self.wrong(key, "a name of letters, digits and _ . -, at most 100")
        return value

    def tenant(self) -> str:
        """A tenant's name, "" for everybody."""
        value = self._get("tenant", "")
        if not isinstance(value, str) or not _TENANT.fullmatch(value):
            raise self.wrong("tenant", "a name of letters, digits and _ . -, or is left out")
        return value

    def choice(self, key: str, choices: Iterable[str], default: str | None = None) -> str:
        """One of several words."""
        value, known = self._get(key, default), list(choices)
        if value not in known:
            near = difflib.get_close_matches(str(value), known, n=1, cutoff=0.5)
            raise self.wrong(key, f"one of {', '.join(known)}", f"did you mean {near[0]}?" if near else "")
        return str(value)

    def number(self, key: str, default: float | None = None, *, least: float = -math.inf, most: float = math.inf) -> float:
        """A finite number."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not least <= value <= most:
            bounds = f" from {least:g} to {most:g}" if math.isfinite(least) and math.isfinite(most) else ""
            raise self.wrong(key, f"a number{bounds}")
        return float(value)

    def whole(self, key: str, default: int, *, least: int, most: int) -> int:
        """A whole number."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.wrong(key, f"a whole number from {least} to {most}")
        return value

    def duration_s(self, key: str, default: str | None = None, *, least: int = 0, most: int = 7 * 86_400) -> int:
        """Seconds of "90s", "5m", "2h" or "7d"."""
        value = self._get(key, default)
        found = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
        seconds = int(found[1]) * _SECONDS[found[2]] if found else -1
        if not least <= seconds <= most:
            raise self.wrong(key, f"a time from {words_of(least)} to {words_of(most)}, such as 90s, 5m or 2h")
        return seconds

    def texts(self, key: str, *, most: int) -> tuple[str, ...]:
        """A list of different texts; a single one may stand alone."""
        value = self._get(key, ())
        items = [value] if isinstance(value, str) else value
        fine = isinstance(items, list | tuple) and all(isinstance(item, str) and 0 < len(item) <= 200 for item in items)
        if not fine or len(items) > most or len(set(items)) != len(items):
            raise self.wrong(key, f"a list of at most {most} different texts")
        return tuple(items)

    def labels(self, key: str) -> dict[str, str]:
        """Texts by name."""
        value = self._get(key, {})
        if not isinstance(value, Mapping) or len(value) > 20 or any(
                not isinstance(name, str) or not isinstance(text, str | int | float) or len(str(name)) + len(str(text)) > 300
                for name, text in value.items()):
            raise self.wrong(key, "at most 20 short texts by name")
        return {name: str(text) for name, text in value.items()}

    def part(self, key: str) -> Any:
        """A part to read by itself. Raises RuleError when it is missing."""
        return self._get(key, None)

    def wrong(self, key: str, rule: str, hint: str = "") -> RuleError:
        """The error that says what `key` must be."""
        return RuleError(f"{self.where}: {key} is {rule}; it is {_shown(self._value.get(key))}{f': {hint}' if hint else ''}")

    def _get(self, key: str, default: Any) -> Any:
        value = self._value.get(key)
        if value is None:
            if default is None:
                raise RuleError(f"{self.where}: {key} is missing")
            return default
        return value


def where_of(kind: str, value: Any, where: str) -> str:
    """What an error calls a rule or channel: its kind and name where it has one that is right, else its place."""
    name = value.get("name") if isinstance(value, Mapping) else None
    return f"{kind} {name}" if _is_name(name) else where


def _is_name(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def words_of(seconds: int) -> str:
    """90 -> "90s", 300 -> "5m": the shortest exact spelling."""
    for unit in ("d", "h", "m"):
        if seconds and seconds % _SECONDS[unit] == 0:
            return f"{seconds // _SECONDS[unit]}{unit}"
    return f"{seconds}s"


def _shown(value: Any) -> str:
    return "left out" if value is None else repr(value)[:60]
