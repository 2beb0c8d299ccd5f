"""What all matches of a search are, above its rows: how many, and when; counted within the page's time, or after it.

Not the drawing, which is search_plots', and not the counting, which is the search verb's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

from cutaway_collector import search as verb
from cutaway_collector.search import counts
from cutaway_collector.web import figures, search_plots, urls
from cutaway_collector.web.errors import BadParameter
from cutaway_collector.web.search_plots import Plot
from cutaway_collector.web.search_state import State, read
from cutaway_collector.web.site import Arguments, Site

ALONE_SECONDS: Final = 5.0
"""What counting and drawing may take in a request of their own."""
COUNT_ALL: Final = "*"
"""In the place of a facet to count first: everything is counted, as long as a query may take."""


@dataclass(frozen=True, slots=True)
class Picture:
    """shown: "50 of 12 431 spans" in words. later_url: the fragment that counts what there was no time for, "" where that is
    not needed. cut_after: the seconds after which counting was given up, "" where it was not. count_url: the page that counts all.
    """

    plot: Plot
    shown: str
    later_url: str
    cut_after: str
    count_url: str


def make(
    site: Site, state: State, request: verb.SearchRequest, matches: verb.Extent, rows: int, *, seconds: float, again: bool,
) -> Picture:
    """The picture of these matches. seconds: what drawing may take. again: the fragment may go on with it. Raises StoreError."""
    all_of_it = state.count == COUNT_ALL
    later = again and not all_of_it
    # Where not even the number is known yet, a picture would be of a part of a part.
    plot = search_plots.plot(site, state, request, matches, seconds_max=0 if later and matches.cut else seconds)
    cut = matches.cut or plot.cut
    limit = site.settings.query_seconds_max if all_of_it else ALONE_SECONDS
    return Picture(
        plot, _shown(rows, matches, state.view),
        urls.search_picture(state.parameters(), rows=rows) if cut and later else "",
        f"{limit:.0f}" if cut and not later else "", "" if all_of_it else state.url(count=COUNT_ALL))


def fragment(site: Site, args: Arguments) -> Picture:
    """The picture by itself; rows: how many rows the page has. Raises BadParameter, QueryError, StoreError."""
    rows = args.get("rows", "")
    if not (rows.isascii() and rows.isdigit() and len(rows) <= 6):
        raise BadParameter(f"rows is how many rows the page shows, it is {rows[:20]!r}")
    state = read(site, args)
    request, began = state.request(site.now_ns()), time.monotonic()
    matches = verb.extent(site.store, request, seconds_max=ALONE_SECONDS)
    return make(site, state, request, matches, int(rows), seconds=ALONE_SECONDS - (time.monotonic() - began), again=False)


def twin(site: Site, args: Arguments) -> dict[str, Any]:
    """The picture as numbers: {"start_ns", "step_ns", "matches", "exact", "cut"}, and "counts" and "errors" or what `heat` gives.

    Raises BadParameter, QueryError, StoreError.
    """
    state = read(site, args)
    request = state.request(site.now_ns())
    matches = verb.extent(site.store, request, seconds_max=ALONE_SECONDS)
    return search_plots.numbers(site, state, request, matches, seconds_max=ALONE_SECONDS)


def _shown(rows: int, matches: verb.Extent, view: str) -> str:
    """ "50 of 12 431 spans", with what the number is worth."""
    least = max(rows, matches.count)
    if matches.cut:
        total = f"more than {figures.count(least)}"
    elif matches.exact:
        total = figures.count(matches.count)
    else:
        total = f"{figures.count(matches.count)} received"
    noun = "generation" if view == "generations" else "span"
    some = "s" if matches.count != 1 else ""
    if view == "traces":
        return f"{figures.count(rows)} trace{'s' if rows != 1 else ''} here; {total} span{some} match in all"
    note = "" if matches.exact or matches.cut else f" (above {figures.count(counts.UNIQUE_MAX)} one sent twice counts twice)"
    return f"{figures.count(rows)} of {total} {noun}{some}{note}"
