"""What every page is made from: the store, the settings and a clock. A noun: no behaviour of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cutaway_collector.contracts import Store
from cutaway_collector.settings import Settings
from cutaway_collector.web.plugins import Plugins

Arguments = Mapping[str, str]
"""The URL's parameters, the first value of each."""


@dataclass(frozen=True, slots=True)
class Site:
    """store, settings: as given to `create_app`. now_ns: nanoseconds since 1970, asked once a page. plugins: what packages add."""

    store: Store
    settings: Settings
    now_ns: Callable[[], int]
    plugins: Plugins = field(default_factory=Plugins)


@dataclass(frozen=True, slots=True)
class Tab:
    """One of several links of which one is where you are."""

    label: str
    url: str
    active: bool
    title: str = ""
