"""Which engine errors are worth another try: ClickHouse error codes sorted by who can cure them.

Not an error type of its own: callers see StoreError, whose `retryable` is decided here.
"""

from __future__ import annotations

import re
from typing import Final

from cutaway_collector.errors import QueryTooLarge, StoreError

ENVIRONMENT: Final = frozenset({
    # Someone else cures these while we wait: a full disk, a busy or restarting server, a missing table or permission.
    3, 60, 81, 16, 47, 76, 74, 75, 95, 159, 160, 164, 173, 192, 193, 194, 201, 202, 203, 209, 210, 218, 225, 236, 241, 242,
    243, 244, 252, 265, 279, 285, 286, 290, 305, 319, 335, 341, 394, 415, 425, 439, 473, 497, 499, 516, 517, 529, 574, 999,
})
"""Codes: https://github.com/ClickHouse/ClickHouse/blob/master/src/Common/ErrorCodes.cpp"""

_LIBRARIES: Final = frozenset({1000, 1001})
"""Exceptions of Poco and of the C++ library, which the engine passes on under one code each whatever happened."""
_OF_THE_SYSTEM: Final = re.compile(
    r"filesystem|system_error|bad_alloc|ios_base|No space left|Too many open files|Input/output error|I/O error|Timeout|Connection"
    r"|Net Exception|File (?:access|exists|not)|Permission denied|Cannot allocate", re.IGNORECASE)
"""Words by which such an exception blames the disk, the network or the memory, not the rows."""
_TOO_MANY_PARTITIONS: Final = "Too many partitions for single INSERT block"
_MESSAGE_CHARS_MAX: Final = 600
_PASSING: Final = frozenset({202, 209, 210, 279, 319, 425, 999})
_REFUSALS: Final = frozenset({16, 47, 60, 81, 164, 192, 193, 194, 497, 516})
"""Of the environment's codes, those that a schema statement does not outlive by waiting: names, rights and credentials."""
_SIGN_IN: Final = frozenset({192, 193, 194, 516})
_SYSTEM_REASON: Final = re.compile(r"\[Errno -?\d+\] ([A-Za-z][A-Za-z ,/-]*)")
_HTTP_STATUS: Final = re.compile(r"[Ss]tatus(?: code)?:? (\d{3})\b")
_SIGNS: Final = {"timed out": "it did not answer in time", "CERTIFICATE": "its certificate is not trusted", "SSL": "TLS failed",
                 "RemoteDisconnected": "it closed the connection", "IncompleteRead": "it closed the connection"}
_LIMITS: Final[dict[int, str]] = {
    158: "the query read more rows than query_rows_read_max allows: narrow the time range or the filter",
    159: "the query ran longer than query_seconds_max allows: narrow the time range or the filter",
    241: "the query needed more memory than query_bytes_memory_max allows: narrow the time range, or group by less",
}


def insert_error(message: str, code: int) -> StoreError:
    """An insert failed. What the environment did passes; a code that blames the data does not."""
    system = code in _LIBRARIES and _OF_THE_SYSTEM.search(message) is not None
    retryable = (code in ENVIRONMENT or system) and _TOO_MANY_PARTITIONS not in message
    return StoreError(f"the store refused an insert: {_short(message)}", retryable=retryable)


def query_error(message: str, code: int) -> StoreError:
    """A query failed. Its own limits and mistakes do not pass by asking again; a busy engine may."""
    if code in _LIMITS:
        return QueryTooLarge(_LIMITS[code])
    return StoreError(f"the store refused a query: {_short(message)}", retryable=code in _PASSING)


def schema_error(message: str, code: int) -> StoreError:
    """A statement of the schema failed. What passes by itself is retryable; a missing right or a wrong password is not."""
    return StoreError(f"the store refused a schema statement: {_short(message)}",
                      retryable=code in ENVIRONMENT and code not in _REFUSALS)


def sign_in_error(place: str, message: str, code: int) -> StoreError | None:
    """The server does not know the user or the password; None when the code says something else."""
    if code not in _SIGN_IN:
        return None
    return StoreError(f"the store at {place} refuses the user or the password of the clickhouse URL (code {code}): "
                      "give http://user:password@host:port of a user who may create tables", retryable=False)


def unreachable(place: str, message: str) -> StoreError:
    """No answer from the engine at all: the connection failed, which passes. place: host:port, "" for the embedded engine."""
    if not place:
        return StoreError(f"the embedded engine failed: {_short(message)}", retryable=True)
    found = _SYSTEM_REASON.search(message)
    status = _HTTP_STATUS.search(message)
    if found:
        reason = found[1].strip()
    elif status:
        reason = f"it answered with HTTP status {status[1]}"
    else:
        reason = next((words for sign, words in _SIGNS.items() if sign in message), "the connection failed")
    return StoreError(f"the store at {place} cannot be reached: {reason}", retryable=True)


def _short(message: str) -> str:
    # What the driver says before the engine's own words is about the driver.
    text = " ".join(message[max(0, message.find("Code: ")):].split())
    return text if len(text) <= _MESSAGE_CHARS_MAX else text[: _MESSAGE_CHARS_MAX - 3] + "..."
