"""What every page is made from: the store, the settings and a clock. A noun: no behaviour of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cutaway_collector.contracts import Store
from cutaway_collector.settings import Settings

Arguments = Mapping[str, str]
"""The URL's parameters, the first value of each."""


@dataclass(frozen=True, slots=True)
class Site:
    """store, settings: as given to `create_app`. now_ns: nanoseconds since 1970, asked once a page."""

    store: Store
    settings: Settings
    now_ns: Callable[[], int]


@dataclass(frozen=True, slots=True)
class Tab:
    """One of several links of which one is where you are."""

    label: str
    url: str
    active: bool
    title: str = ""
