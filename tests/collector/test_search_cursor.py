"""The page cursor: what `encode` writes is read back, anything else is refused."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutaway_collector.errors import QueryError
from cutaway_collector.search.cursor import Cursor, decode, digest, encode

TIMES = st.integers(0, 2**63 - 1)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
KEYS = st.one_of(st.none(), st.text(max_size=200).filter(str.isprintable), st.integers(0, 2**64 - 1), FINITE)
JSON = st.recursive(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)), st.lists, max_leaves=10)


@given(KEYS, TIMES, TIMES, st.text("0123456789abcdef", max_size=32), st.text(max_size=50))
def test_a_cursor_survives_the_url(key: str | int | float | None, timestamp: int, start: int, identity: str, query: str) -> None:
    """Every value comes back exactly, floats included, from letters that a URL carries as they are."""
    cursor = Cursor(key, timestamp, identity, identity, min(start, 2**63 - 2), 2**63 - 1)
    text = encode(cursor, query, "-ttft")
    assert text.replace("-", "a").replace("_", "a").isalnum()
    assert decode(text, query, "-ttft") == cursor


@given(st.text(max_size=100))
def test_any_other_text_is_refused(text: str) -> None:
    """No text makes reading a cursor fail in another way than QueryError."""
    with pytest.raises(QueryError):
        decode(text, "q", "")


@given(st.lists(JSON, min_size=6, max_size=6))
def test_forged_fields_are_refused_or_of_the_right_types(fields: list[object]) -> None:
    """A cursor made by hand, with the right digest, passes only when every field has its type and range."""
    text = base64.urlsafe_b64encode(json.dumps([digest("q", ""), *fields]).encode()).decode()
    try:
        cursor = decode(text, "q", "")
    except QueryError:
        return
    assert isinstance(cursor.span_id, str)
    assert isinstance(cursor.trace_id, str)
    assert 0 <= cursor.start_ns < cursor.end_ns < 2**63
    assert 0 <= cursor.timestamp_ns < 2**63


def test_a_long_cursor_is_refused_unread() -> None:
    """Length is checked before decoding."""
    with pytest.raises(QueryError):
        decode("W" * 5000, "q", "")
