"""What an address of the trace page says: the opened span, the filter, the time shown, the open groups, and the search behind it.

Not what is stored: nothing here asks for a span. Every link of the page is a change of this state.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, get_args

from cutaway_collector.web import urls
from cutaway_collector.web.errors import BadParameter
from cutaway_collector.web.site import Arguments
from cutaway_collector.web.waterfall import Show

OPEN_MAX: Final = 50
ZOOM_LEAST_PERCENT: Final = 1e-6
_SEARCH: Final = ("q", "from", "to", "sort", "view")
_ZOOM: Final = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,8})?)-([0-9]{1,3}(?:\.[0-9]{1,8})?)")
_SPAN_ID: Final = re.compile(r"[0-9a-f]{16}")
SHOWS: Final[tuple[Show, ...]] = get_args(Show)


@dataclass(frozen=True, slots=True)
class State:
    """span: "" for the page's choice. low, high: the stretch of time shown, in percent of the trace. opened: first member of each
    group that is open. search: q, from, to, sort and view of the search that led here, as far as given.
    """

    trace_id: str
    span: str
    rows: str
    f: str
    show: Show
    low: float
    high: float
    opened: tuple[str, ...]
    search: Mapping[str, str]

    def parameters(self) -> dict[str, str]:
        """The state without `span` and `rows`, defaults left out."""
        zoom = "" if (self.low, self.high) == (0, 100) else zoom_text(self.low, self.high)
        own = {"f": self.f, "show": "" if self.show == "dim" else self.show, "zoom": zoom, "open": ",".join(self.opened)}
        return {key: value for key, value in {**self.search, **own}.items() if value}

    def url(self, *, span: str = "", rows: int = 0, part: str = "", **changes: str) -> str:
        """The page in this state with these changes; "" takes one away."""
        return urls.trace(self.trace_id, span=span or self.span, rows=rows, part=part, **{**self.parameters(), **changes})


def zoom_text(low: float, high: float) -> str:
    """Two percentages as the address has them."""
    return f"{f'{low:.6f}'.rstrip('0').rstrip('.')}-{f'{high:.6f}'.rstrip('0').rstrip('.')}"


def read(trace_id: str, args: Arguments) -> State:
    """The state of an address. Raises BadParameter."""
    show = args.get("show") or "dim"
    if show not in SHOWS:
        raise BadParameter(f"show is one of {', '.join(SHOWS)}, it is {show[:20]!r}", hint="leave it out to let other rows fade")
    opened = tuple(dict.fromkeys(part for part in args.get("open", "").lower().split(",") if part))
    if len(opened) > OPEN_MAX or not all(_SPAN_ID.fullmatch(part) for part in opened):
        raise BadParameter(f"open is at most {OPEN_MAX} span ids with commas between", hint="leave it out to close every group")
    low, high = _zoom(args.get("zoom", ""))
    search = {key: args[key] for key in _SEARCH if args.get(key)}
    return State(trace_id, args.get("span", "").lower(), args.get("rows", ""), args.get("f", "").strip(), show, low, high, opened,
                 search)


def _zoom(text: str) -> tuple[float, float]:
    if not text:
        return 0.0, 100.0
    found = _ZOOM.fullmatch(text) if text.isascii() else None
    low, high = (float(found[1]), float(found[2])) if found else (0.0, 0.0)
    if not found or high > 100 or high - low < ZOOM_LEAST_PERCENT:
        raise BadParameter(f"zoom is two percentages of the trace's time, such as 12.5-40, it is {text[:40]!r}",
                           hint="leave it out to see the whole trace")
    return low, high
