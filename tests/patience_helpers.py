"""The seconds that pages give their parts, lifted for tests: what a page shows must not depend on how busy the machine is.

Not the limits themselves: a test of one sets its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

BUDGETS = (
    "cutaway_collector.search.completion.SECONDS_MAX",
    "cutaway_collector.web.pages.overview_changes.CHANGES_SECONDS",
    "cutaway_collector.web.pages.search.PAGE_SECONDS",
    "cutaway_collector.web.search_rail.ALONE_SECONDS",
)


@contextmanager
def unhurried() -> Iterator[None]:
    """A minute for each of them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in BUDGETS:
            patch.setattr(name, 60.0)
        yield
