"""The page cursor: where a page ended, as one opaque word for the URL.

Not a secret and not trusted: it is checked like any input. It carries the last row's sort key, start, span and trace id, the time
window (so that pages of an open-ended search agree), and a digest of query and sort, so that it cannot page through another search.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
from dataclasses import dataclass
from typing import Final

from cutaway_collector.errors import QueryError

CHARACTERS_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class Cursor:
    """Position after one row. `key` is the sort value, None where the row had none (or the sort is by time)."""

    key: str | int | float | None
    timestamp_ns: int
    span_id: str
    trace_id: str
    start_ns: int
    end_ns: int


def digest(q: str, sort: str) -> str:
    """Tells searches apart, not adversaries: 8 hex digits of query and sort."""
    return hashlib.sha256(f"{sort}\0{q}".encode("utf-8", "replace")).hexdigest()[:8]


def encode(cursor: Cursor, q: str, sort: str) -> str:
    """URL-safe text without padding."""
    fields = [digest(q, sort), cursor.key, cursor.timestamp_ns, cursor.span_id, cursor.trace_id, cursor.start_ns, cursor.end_ns]
    return base64.urlsafe_b64encode(json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()).decode().rstrip("=")


def decode(text: str, q: str, sort: str) -> Cursor:
    """The cursor of the same search. Raises QueryError for anything that `encode` did not write for it."""
    wrong = QueryError("the page position (`after`) is not one this search gave out", hint="start again from the first page")
    if len(text) > CHARACTERS_MAX:
        raise wrong
    try:
        fields = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError):
        raise wrong from None
    if not isinstance(fields, list) or len(fields) != 7 or fields[0] != digest(q, sort):
        raise wrong
    _, key, timestamp_ns, span_id, trace_id, start_ns, end_ns = fields
    times_fit = all(type(value) is int and 0 <= value < 2**63 for value in (timestamp_ns, start_ns, end_ns))
    number_fits = (type(key) is int and 0 <= key < 2**64) or (type(key) is float and math.isfinite(key))
    key_fits = key is None or isinstance(key, str) or number_fits
    if not (times_fit and key_fits and start_ns < end_ns and isinstance(span_id, str) and isinstance(trace_id, str)):
        raise wrong
    return Cursor(key, timestamp_ns, span_id, trace_id, start_ns, end_ns)
