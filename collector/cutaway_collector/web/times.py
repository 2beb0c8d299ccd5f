"""Times a person types into `from` and `to`: ISO 8601, epoch numbers, and "-1h" counted back from now.

Not a calendar: everything is UTC, in nanoseconds since 1970, and nothing here reads the clock; the caller says what "now" is.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from cutaway_collector.web.errors import BadParameter

NS: Final = 1_000_000_000
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_RELATIVE: Final = re.compile(r"-([0-9]{1,9})([smhdw])")
_EPOCH: Final = re.compile(r"[0-9]{1,19}")
_PLAIN: Final = re.compile(r"(?P<day>\d{4}-\d\d-\d\d)T(?P<clock>\d\d:\d\d):(?P<s>\d\d)(?:\.000)?Z")
_LAST_NS: Final = 2**32 * NS - 1
"""In February 2106: no stored time is later, the seconds of the tables end there."""

RANGES: Final[tuple[tuple[str, str], ...]] = (
    ("-15m", "15 min"),
    ("-1h", "1 h"),
    ("-6h", "6 h"),
    ("-24h", "24 h"),
    ("-7d", "7 d"),
    ("", "All"),
)
"""What the time picker offers: text of `from`, label. The empty text is no bound at all."""


def parse(text: str, now_ns: int, name: str) -> int | None:
    """Text of a `from` or `to` -> nanoseconds since 1970; None for "" and "all". Raises BadParameter naming the parameter."""
    text = text.strip()
    if text in ("", "all"):
        return None
    if text == "now":
        return now_ns
    relative = _RELATIVE.fullmatch(text)
    if relative:
        return max(0, now_ns - int(relative[1]) * _UNITS_S[relative[2]] * NS)
    value = _epoch(int(text)) if _EPOCH.fullmatch(text) else _iso(text)
    if value is None or not 0 <= value <= _LAST_NS:
        raise BadParameter(
            f"{name} is a time, it is {text[:40]!r}",
            hint="try -1h, now, 2026-01-31T18:00 (UTC unless it names an offset), or nanoseconds since 1970",
        )
    return value


def _epoch(number: int) -> int:
    """Seconds, milliseconds, microseconds or nanoseconds, told apart by size (seconds reach 1e11 in the year 5138)."""
    for limit, factor in ((10**11, NS), (10**14, 10**6), (10**17, 1000)):
        if number < limit:
            return number * factor
    return number


def _iso(text: str) -> int | None:
    if not text.isascii():
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    whole = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (whole // timedelta(microseconds=1)) * 1000


def between(from_text: str, to_text: str) -> str:
    """Both ends of a range as read: whole minutes without seconds, the day once; other than plain UTC times stay as they are."""
    first, last = (_PLAIN.fullmatch(text) for text in (from_text, to_text))
    if not first or not last:
        return f"{from_text} → {to_text}"
    seconds = first["s"] + last["s"] != "0000"
    clocks = [f"{one['clock']}:{one['s']}" if seconds else one["clock"] for one in (first, last)]
    end = clocks[1] if first["day"] == last["day"] else f"{last['day']} {clocks[1]}"
    return f"{first['day']} {clocks[0]} → {end} UTC"


def moment(ns: int) -> datetime:
    """Nanoseconds since 1970 -> a UTC datetime, cut to microseconds."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ns // 1000)


def iso(ns: int) -> str:
    """Nanoseconds since 1970 -> "2026-01-31T18:00:00.000Z", to the millisecond: what goes into links and `datetime=`."""
    return moment(ns).strftime("%Y-%m-%dT%H:%M:%S.") + f"{ns // 1_000_000 % 1000:03d}Z"
