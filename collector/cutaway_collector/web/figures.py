"""Numbers and times as the pages print them: few digits, the unit beside the number, a dash where there is nothing.

Not for the JSON twins, which carry plain numbers in base units.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from cutaway_collector.web import times

ABSENT: Final = "–"
SHADES: Final = 16
BOUND_CHARACTERS_MAX: Final = 300


def _significant(value: float) -> str:
    """Three significant digits, never an exponent between 0.0001 and 999 999."""
    if value == 0:
        return "0"
    value = float(f"{value:.2e}")  # round first: 0.00999999 has the digits of 0.01
    size = abs(value)
    if size >= 1e6 or size < 1e-4:
        return f"{value:.2e}"
    digits = max(0, 2 - math.floor(math.log10(size)))
    return f"{value:.{digits}f}"


def number(value: Any) -> str:
    """A float or int with three significant digits; whole thousands keep a thin space; a dash for None and NaN."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ABSENT
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        return count(int(value))
    return count(round(value)) if abs(value) >= 1000 else _significant(float(value))


def count(value: int | None) -> str:
    """12400 -> "12 400" with narrow no-break spaces; a dash for None."""
    return ABSENT if value is None else f"{value:,}".replace(",", "\u202f")


def duration(ns: float | None) -> str:
    """Nanoseconds -> "842 µs", "12.3 ms", "1.84 s", "2 min 3 s", "3 d 4 h"; a dash for None."""
    if ns is None or not math.isfinite(ns):
        return ABSENT
    if ns < 1000:
        return f"{ns:.0f}\u202fns"
    for limit, unit, size in ((1e6, "µs", 1e3), (1e9, "ms", 1e6), (6e10, "s", 1e9)):
        if ns < limit:
            return f"{_significant(ns / size)}\u202f{unit}"
    minutes, seconds = divmod(round(ns / 1e9), 60)
    if minutes < 60:
        return f"{minutes}\u202fmin {seconds}\u202fs"
    if minutes < 48 * 60:
        return f"{minutes // 60}\u202fh {minutes % 60}\u202fmin"
    days, hours = divmod(round(minutes / 60), 24)
    return f"{days}\u202fd {hours}\u202fh"


def seconds(value: float | None) -> str:
    """Seconds -> as `duration`."""
    return ABSENT if value is None else duration(value * 1e9)


def measured(value: float | None, unit: str) -> str:
    """A number with the unit of its field; times and bytes in units of their size, tokens without one."""
    if value is None or not math.isfinite(value):
        return ABSENT
    if unit in ("ns", "s"):
        return duration(value) if unit == "ns" else seconds(value)
    if unit == "bytes":
        for size, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
            if abs(value) >= size:
                return f"{number(value / size)}\u202f{name}"
    return number(value) if unit in ("", "tokens") else f"{number(value)}\u202f{unit}"


def rate(seconds_each: float | None) -> str:
    """Seconds a token -> tokens a second."""
    return ABSENT if not seconds_each or not math.isfinite(seconds_each) else number(1 / seconds_each)


def tokens_a_second(row: Mapping[str, Any]) -> float | None:
    """The field `tps` of a row: the pace of its decoding, else its tokens by the span's duration; None where unknown."""
    tokens, first_s, each_s, span_s = row["output_tokens"], row["ttft_s"], row["tpot_s"], row["duration_ns"] / times.NS
    if each_s is not None and each_s > 0:
        return float(1 / each_s)
    if tokens is None or not span_s:
        return None
    decoded = tokens > 1 and first_s is not None and 0 < first_s < span_s
    return float((tokens - 1) / (span_s - first_s) if decoded else tokens / span_s)


def shade(value: float | None, full: float) -> int:
    """The colour class of a value: 0 at zero, 15 from `full` on; -1 for None and NaN. Senders' numbers may be of any size."""
    if value is None or math.isnan(value):
        return -1
    return int(min(max(value / full, 0.0), 1 - 1 / SHADES) * SHADES)


def clock(ns: int) -> str:
    """Time of day, UTC, to the millisecond."""
    return times.iso(ns)[11:23]


def day(ns: int) -> str:
    """Date, UTC."""
    return times.iso(ns)[:10]


def day_unless_today(ns: int, now_ns: int) -> str:
    """Date, UTC; "" within the day of `now_ns`, where the time of day says it all."""
    return "" if day(ns) == day(now_ns) else day(ns)


def ago(ns: int, now_ns: int) -> str:
    """ "12 s ago", "in 3 h": the coarsest unit that is not zero; "just now" within a second. Senders' clocks may run ahead."""
    size_s = abs(now_ns - ns) // times.NS
    if size_s < 1:
        return "just now"
    sizes = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    amount, unit = next((size_s // size, unit) for size, unit in sizes if size_s >= size)
    return f"{amount}\u202f{unit} ago" if ns < now_ns else f"in {amount}\u202f{unit}"


_ISOLATES: Final = "\u2066\u2067\u2068"
_EMBEDDINGS: Final = "\u202a\u202b\u202d\u202e"
_POP_ISOLATE: Final = "\u2069"
_POP_EMBEDDING: Final = "\u202c"


def contained(text: Any) -> Any:
    """A user's text whose directional controls (Unicode annex 9) end where it ends; other text and values as they are.

    Isolation by style holds what is left open inside an element; a stray end of isolation would still end the element's own.
    """
    if not isinstance(text, str) or text.isascii() or not any(char in text for char in _ISOLATES + _EMBEDDINGS + _POP_ISOLATE):
        return text
    out, isolates, embeddings = [], 0, 0
    for char in text:
        isolates += char in _ISOLATES
        embeddings += char in _EMBEDDINGS
        if char == _POP_ISOLATE:
            if not isolates:
                continue
            isolates -= 1
        out.append(char)
    return "".join(out) + _POP_ISOLATE * isolates + _POP_EMBEDDING * embeddings


def bound(value: Any) -> str:
    """A value that was bound into SQL, as JSON; long lists and texts are cut."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= BOUND_CHARACTERS_MAX else f"{text[:BOUND_CHARACTERS_MAX]} …"


FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "between": times.between,
    "bound": bound,
    "contained": contained,
    "number": number,
    "count": count,
    "duration": duration,
    "seconds": seconds,
    "rate": rate,
    "tokens_a_second": tokens_a_second,
    "clock": clock,
    "day": day,
    "iso": times.iso,
}
"""Name in the templates -> function."""
