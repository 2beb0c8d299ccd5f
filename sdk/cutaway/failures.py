"""What a failed span says of the host's exception: its class and frames, and its words only where text may leave.

Not handling: the exception passes unchanged.
"""

from __future__ import annotations

import asyncio
import traceback
from contextlib import suppress
from typing import Final

from opentelemetry import trace as otel

from cutaway import conventions as c
from cutaway.redaction import EXCEPTION_MESSAGE, EXCEPTION_STACKTRACE, Redact, Redaction, valid

_MESSAGE_CHARACTERS_MAX: Final = 1000
_STACK_CHARACTERS_MAX: Final = 16_000
_STACK_BYTES_MAX: Final = 32 * 1024


def fail(span: otel.Span, error: BaseException, text: bool, redact: Redact | None = None) -> list[str]:
    """Marks a span as ended by the host's exception: its class and its frames, and what it says where `text` may leave.

    Where `redact` changes the message, the stack is only its frames: with text it would spell the message once more. A cancelled
    task has not failed: somebody stopped waiting for it. Returns what was left out and why.
    """
    if isinstance(error, asyncio.CancelledError):
        return []
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    redaction = Redaction(redact)
    message, stack = _words(error, redaction) if text else (None, None)
    event = {"exception.type": name, EXCEPTION_STACKTRACE: _tail(_frames(error) if stack is None else stack)}
    if message is not None:
        message = event[EXCEPTION_MESSAGE] = valid(message[:_MESSAGE_CHARACTERS_MAX])
    span.set_attribute(c.ERROR_TYPE, name)
    span.add_event("exception", event)
    span.set_status(otel.Status(otel.StatusCode.ERROR, message or name))
    return redaction.reasons


def _words(error: BaseException, redaction: Redaction) -> tuple[str | None, str | None]:
    """Message and stack with source lines, each as the hook leaves it."""
    message = None
    with suppress(Exception):  # a host's own __str__ may fail
        message = redaction.text(EXCEPTION_MESSAGE, str(error))
    if redaction.changed(EXCEPTION_MESSAGE):
        return message, None
    return message, redaction.text(EXCEPTION_STACKTRACE, "".join(traceback.format_exception(error)))


def _frames(error: BaseException) -> str:
    found = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    return "\n".join(f"{code.co_filename}:{line} in {code.co_name}" for code, line in found)


def _tail(stack: str) -> str:
    """The end of a stack says where it happened."""
    return valid(stack[-_STACK_CHARACTERS_MAX:]).encode()[-_STACK_BYTES_MAX:].decode(errors="ignore")
