"""The pages in the top bar, in the order a day goes: first how things are, then what happened, then what may be wrong.

Not the routes: a page is here so that it can be found, and `tests/collector/test_web_navigation.py` opens every one. Visitors see
those that the gate opens to them.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Entry(NamedTuple):
    """One link of the bar: what it says and where it leads."""

    label: str
    path: str


NAVIGATION: Final[tuple[Entry, ...]] = (
    Entry("Overview", "/"),
    Entry("Live", "/live"),
    Entry("Map", "/map"),
    Entry("Compare", "/compare"),
    Entry("Windows", "/windows"),
    Entry("Drift", "/drift"),
    Entry("Alerts", "/alerts"),
    Entry("Saved", "/saved"),
    Entry("System", "/system"),
    Entry("Help", "/help"),
)
