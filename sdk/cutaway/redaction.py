"""The last look at words before they leave the process: the program's own redaction hook, and the limit of one span's text.

Not a detector of secrets: what is secret is the hook's judgement. What the hook has not seen, failed on, or changed never leaves in
another form either: see `Redaction.withheld`.
"""

from __future__ import annotations

import inspect
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Final

from cutaway import conventions as c
from cutaway import guard

Redact = Callable[[str, str], str | None]
"""(attribute, text) -> the text to send, or None to send nothing."""

EXCEPTION_MESSAGE: Final = "exception.message"
EXCEPTION_STACKTRACE: Final = "exception.stacktrace"

_REVEALING: Final[dict[str, frozenset[str]]] = {
    c.OUTPUT_MESSAGES: frozenset((c.TOKEN_ID, c.ALTERNATIVE_ID, c.TOKEN_TEXT)),
    c.INPUT_MESSAGES: frozenset((c.PROMPT_TOKEN_ID,)),
    c.TOKEN_TEXT: frozenset((c.TOKEN_TEXT,)),
}
"""Text -> what else spells it: ids can be decoded by whoever has the tokenizer, and alternatives mostly hold the chosen token."""

_ELLIPSIS: Final = "\u2026"
_inside: Final[ContextVar[bool]] = ContextVar("cutaway_redacting", default=False)
"""True while a hook runs: a hook may itself generate (a model that finds names), and must not be asked about that."""


def inside() -> bool:
    """Whether a hook is at work: what is generated meanwhile serves the hook and is sent as numbers alone."""
    return _inside.get()


class Redaction:
    """The hook applied to the texts of one span. Without a hook every text passes and nothing is withheld."""

    __slots__ = ("_changed", "_hook", "_said")

    def __init__(self, hook: Redact | None) -> None:
        self._hook = hook
        self._changed: set[str] = set()
        self._said: Counter[tuple[str, str]] = Counter()

    @property
    def active(self) -> bool:
        """Whether there is a hook to ask."""
        return self._hook is not None

    @property
    def withheld(self) -> frozenset[str]:
        """Attributes that would spell a text the hook changed, dropped or could not be asked about: they must not leave."""
        return frozenset().union(*(_REVEALING.get(name, frozenset()) for name in self._changed))

    @property
    def reasons(self) -> list[str]:
        """What was left out and why, in words, never with text; for `cutaway.status.reason`."""
        found = [f"{name}: {count} left out, {why}" for (name, why), count in self._said.items()]
        revealed = sorted(self._changed & {c.OUTPUT_MESSAGES, c.INPUT_MESSAGES})
        why = "redaction changed the text or could not see it"
        return found + [f"what spells {name} left out (token ids, token texts): {why}" for name in revealed]

    def changed(self, name: str) -> bool:
        """Whether any text of this name was changed, dropped or unseen."""
        return name in self._changed

    def text(self, name: str, text: str) -> str | None:
        """The text to send under `name`, or None. A hook that fails, or answers with anything but text, drops the text."""
        if self._hook is None:
            return text
        if _inside.get():
            self._drop(name, "it came up inside the redaction hook")
            return None
        token = _inside.set(True)
        try:
            kept: Any = self._hook(name, text)
        except Exception as fault:
            kind = type(fault).__name__
            guard.once(f"redaction:{kind}", "the redaction hook failed (%s): what it was asked about is not sent", kind)
            self._drop(name, f"the redaction hook failed ({kind})")
            return None
        finally:
            _inside.reset(token)
        if kept is None or isinstance(kept, str):
            if kept != text:
                self._changed.add(name)
            return kept
        if inspect.iscoroutine(kept):
            kept.close()
        kind = type(kept).__name__
        guard.once(f"redaction:returned {kind}", "the redaction hook returned %s, not a string or None: nothing is sent", kind)
        self._drop(name, f"the redaction hook returned {kind}")
        return None

    def see(self, name: str, texts: Iterable[str] | None) -> None:
        """Asks the hook about texts that leave only as token ids. None: nobody can read them, so they are withheld."""
        if self._hook is None:
            return
        if texts is None:
            self._drop(name, "redaction needs a tokenizer to read the token ids")
            return
        for text in texts:
            self.text(name, text)

    def messages(self, name: str, messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Messages of the GenAI conventions with every content as the hook leaves it; dropped parts are absent."""
        found = []
        for message in messages:
            parts = []
            for part in message["parts"]:
                if "content" in part:
                    kept = self.text(name, str(part["content"]))
                    if kept is None:
                        continue
                    part = {**part, "content": kept}
                parts.append(part)
            found.append({**message, "parts": parts})
        return found

    def pieces(self, answers: Sequence[Sequence[str]]) -> list[str] | None:
        """Token texts of all answers one after another, or None unless the hook leaves each answer, joined, exactly as it is."""
        if c.TOKEN_TEXT in self.withheld:
            return None
        for pieces in answers:
            if self.active:
                self.text(c.TOKEN_TEXT, "".join(pieces))
        return None if c.TOKEN_TEXT in self.withheld else [piece for pieces in answers for piece in pieces]

    def _drop(self, name: str, why: str) -> None:
        self._changed.add(name)
        self._said[name, why] += 1


class Room:
    """The bytes of text that one span may still take. What does not fit is cut, and `reasons` says so.

    `bytes_max`: UTF-8 bytes of everything together (`Settings.text_room_bytes`). `copies`: how often messages are sent (2:
    on the span and on its event). `value_characters_max`: the tracer provider's own limit of one value; JSON is made to fit it,
    because the provider would cut it in the middle.
    """

    __slots__ = ("_bytes_max", "_copies", "_value_max", "left", "reasons")

    def __init__(self, bytes_max: int, copies: int = 1, value_characters_max: int | None = None) -> None:
        self.left = self._bytes_max = bytes_max
        self.reasons: list[str] = []
        self._copies = copies
        self._value_max = value_characters_max

    def text(self, name: str, text: str, characters_max: int) -> str:
        """A plain text, cut to `characters_max` (silently, the limit is the caller's own) and to what is left (said)."""
        kept = valid(text[:characters_max])
        if len(kept.encode()) > self.left:
            kept = kept.encode()[: max(0, self.left - 3)].decode(errors="ignore") + _ELLIPSIS if self.left >= 3 else ""
            self._say(name)
        self.left -= len(kept.encode())
        return kept

    def messages(self, name: str, messages: Sequence[Mapping[str, Any]], characters_max: int, newest_first: bool = False) -> str:
        """Messages as JSON: [{"role", "parts": [{"type", "content"?}], "finish_reason"?}], in their own order.

        Contents together take `characters_max`; what comes first in the given order of importance is kept, the rest ends in an
        ellipsis, and messages that find no room at all are left out.
        """
        room = self.left // self._copies
        room = (room if self._value_max is None else min(room, self._value_max)) - 2
        characters, cut, limited = characters_max, 0, list[dict[str, Any]]()
        for message in reversed(messages) if newest_first else messages:
            bare = {**message, "parts": [{**part, "content": ""} if "content" in part else part for part in message["parts"]]}
            room -= _json_bytes(bare) + 1
            if room < 0:
                break
            parts = []
            for part in message["parts"]:
                if "content" in part:
                    text = valid(str(part["content"]))
                    kept = text if len(text) <= characters else text[:characters] + _ELLIPSIS
                    if _json_bytes(kept) - 2 > room:
                        kept = _fitting(kept, room)
                    cut += kept != text
                    characters = max(0, characters - len(text))
                    room -= _json_bytes(kept) - 2
                    part = {**part, "content": kept}
                parts.append(part)
            limited.append({**message, "parts": parts})
        if cut:
            why = f"text_characters_max = {characters_max}" if characters == 0 and room > 0 else self._limit()
            self.reasons.append(f"{name} cut to {why}")
        if len(limited) < len(messages):
            self.reasons.append(f"{name}: {len(messages) - len(limited)} of {len(messages)} messages left out, {self._limit()}")
        written = json.dumps(limited[::-1] if newest_first else limited, ensure_ascii=False, separators=(",", ":"))
        self.left -= len(written.encode()) * self._copies
        return written

    def pieces(self, name: str, pieces: Sequence[str]) -> list[str] | None:
        """Token texts, all or none: half of them would no longer line up with the tokens. Four bytes more each on the wire."""
        whole = [valid(piece) for piece in pieces]
        size = sum(len(piece.encode()) + 4 for piece in whole)
        if size > self.left:
            self.reasons.append(f"{name} left out: {size} bytes do not fit the {max(0, self.left)} left of text_bytes_max")
            return None
        self.left -= size
        return whole

    def _say(self, name: str) -> None:
        self.reasons.append(f"{name} cut to {self._limit()}")

    def _limit(self) -> str:
        if self._value_max is not None and self._value_max < self._bytes_max:
            return f"the tracer provider's {self._value_max} characters a value"
        return f"text_bytes_max (room for {self._bytes_max} bytes on this span)"


def valid(text: str) -> str:
    """Text that UTF-8 can carry: halves of surrogate pairs become U+FFFD, whole pairs their character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _json_bytes(value: Any) -> int:
    return len(valid(json.dumps(value, ensure_ascii=False, separators=(",", ":"))).encode())


def _fitting(text: str, bytes_max: int) -> str:
    """The longest beginning of a text that takes `bytes_max` bytes inside JSON with an ellipsis behind it."""
    low, high = 0, min(len(text), max(0, bytes_max))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _json_bytes(text[:middle]) - 2 <= bytes_max - 3 else (low, middle - 1)
    return text[:low] + _ELLIPSIS if bytes_max >= 3 else ""
