"""How many parts a request may have before anything is made of them: two bytes can stand for a message that takes hundreds.

Not a limit on bytes, which the receivers have, nor on rows, which decode has: these are for what parsers build before that.
"""

from __future__ import annotations

from typing import Final

from cutaway_collector.errors import TooLarge

GROUPS_MAX: Final = 200_000
"""Resources, and scopes, of one request: each is looked at by itself, however few spans it has."""
RECORDS_MAX: Final = 100_000
"""Log records of one request: each is looked at by Python."""
PARSED_BYTES_MAX: Final = 8 * 1024 * 1024
"""Protobuf that goes through the protobuf library, which takes up to a hundred bytes for one."""
JSON_OBJECTS_MAX: Final = 1_000_000
JSON_VALUES_MAX: Final = 10_000_000
"""Of one request, counted by their brackets and commas, those inside texts included."""
_JSON_BYTES_SAFE: Final = 2 * 1024 * 1024


def check_json(payload: bytes) -> None:
    """Raises TooLarge for JSON of which a parser would make too many objects."""
    if len(payload) <= _JSON_BYTES_SAFE:
        return
    at_most(payload.count(b"{") + payload.count(b"["), JSON_OBJECTS_MAX, "objects and arrays in JSON")
    at_most(payload.count(b","), JSON_VALUES_MAX, "values in JSON")


def check_parsed(payload: bytes, what: str) -> None:
    """Raises TooLarge for protobuf that is too long for the protobuf library. what: why it has to go through it."""
    if len(payload) > PARSED_BYTES_MAX:
        raise TooLarge(f"{what} may have {PARSED_BYTES_MAX} bytes, this one has {len(payload)}: send fewer at once")


def at_most(count: int, limit: int, what: str) -> None:
    """Raises TooLarge."""
    if count > limit:
        raise TooLarge(f"a request may hold {limit} {what}, this one has {count}: send fewer at once")
