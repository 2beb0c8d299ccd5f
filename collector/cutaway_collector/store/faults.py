"""Which engine errors are worth another try: ClickHouse error codes sorted by who can cure them.

Not an error type of its own: callers see StoreError, whose `retryable` is decided here.
"""

from __future__ import annotations

from typing import Final

from cutaway_collector.errors import StoreError

ENVIRONMENT: Final = frozenset({
    # Someone else cures these while we wait: a full disk, a busy or restarting server, a missing table or permission.
    3, 60, 81, 16, 47, 76, 74, 75, 95, 159, 160, 164, 173, 192, 193, 194, 201, 202, 203, 209, 210, 218, 225, 236, 241, 242,
    243, 244, 252, 265, 279, 285, 286, 290, 305, 319, 335, 341, 394, 415, 425, 439, 473, 497, 499, 516, 517, 529, 574, 999,
})
"""Codes: https://github.com/ClickHouse/ClickHouse/blob/master/src/Common/ErrorCodes.cpp"""

_TOO_MANY_PARTITIONS: Final = "Too many partitions for single INSERT block"
_MESSAGE_CHARS_MAX: Final = 600
_PASSING: Final = frozenset({202, 209, 210, 279, 319, 425, 999})
_REFUSALS: Final = frozenset({16, 47, 60, 81, 164, 192, 193, 194, 497, 516})
"""Of the environment's codes, those that a schema statement does not outlive by waiting: names, rights and credentials."""
_LIMITS: Final[dict[int | None, str]] = {
    158: "the query read more rows than query_rows_read_max allows: narrow the time range or the filter",
    159: "the query ran longer than query_seconds_max allows: narrow the time range or the filter",
    241: "the query needed more memory than query_bytes_memory_max allows: narrow the time range, or group by less",
}


def insert_error(message: str, code: int | None) -> StoreError:
    """An insert failed. What the environment did passes; a code that blames the data does not."""
    if code is None:
        return unreachable(message)
    retryable = code in ENVIRONMENT and _TOO_MANY_PARTITIONS not in message
    return StoreError(f"the store refused an insert: {_short(message)}", retryable=retryable)


def query_error(message: str, code: int | None) -> StoreError:
    """A query failed. Its own limits and mistakes do not pass by asking again; a lost connection or a busy engine may."""
    if code is None:
        return unreachable(message)
    if code in _LIMITS:
        return StoreError(_LIMITS[code], retryable=False)
    return StoreError(f"the store refused a query: {_short(message)}", retryable=code in _PASSING)


def schema_error(message: str, code: int | None) -> StoreError:
    """A statement of the schema failed. What passes by itself is retryable; a missing right or a wrong password is not."""
    if code is None:
        return unreachable(message)
    return StoreError(f"the store refused a schema statement: {_short(message)}",
                      retryable=code in ENVIRONMENT and code not in _REFUSALS)


def unreachable(message: str) -> StoreError:
    """No answer from the engine at all: the connection failed, which passes."""
    return StoreError(f"the store cannot be reached: {_short(message.rpartition('Caused by ')[2])}", retryable=True)


def _short(message: str) -> str:
    text = " ".join(message.split())
    return text if len(text) <= _MESSAGE_CHARS_MAX else text[: _MESSAGE_CHARS_MAX - 3] + "..."
