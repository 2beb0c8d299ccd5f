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

_MESSAGE_CHARACTERS_MAX: Final = 1000
_STACK_CHARACTERS_MAX: Final = 16_000


def fail(span: otel.Span, error: BaseException, text: bool) -> None:
    """Marks a span as ended by the host's exception: its class and its frames, and what it says where `text` may leave.

    A cancelled task has not failed: somebody stopped waiting for it.
    """
    if isinstance(error, asyncio.CancelledError):
        return
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    said = name
    event = {"exception.type": name}
    if text:
        with suppress(Exception):  # a host's own __str__ may fail
            said = event["exception.message"] = str(error)[:_MESSAGE_CHARACTERS_MAX]
        event["exception.stacktrace"] = "".join(traceback.format_exception(error))[-_STACK_CHARACTERS_MAX:]
    else:
        found = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
        frames = [f"{code.co_filename}:{line} in {code.co_name}" for code, line in found]
        event["exception.stacktrace"] = "\n".join(frames)[-_STACK_CHARACTERS_MAX:]
    span.set_attribute(c.ERROR_TYPE, name)
    span.add_event("exception", event)
    span.set_status(otel.Status(otel.StatusCode.ERROR, said or name))
