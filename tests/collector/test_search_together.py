"""Two questions at the same time: both are asked, as the same visitor, and a fault in either is told."""

from __future__ import annotations

import threading
from contextvars import ContextVar

import pytest

from cutaway_collector.errors import StoreError
from cutaway_collector.search.together import both

_WHO: ContextVar[str] = ContextVar("who")


def test_both_are_asked_at_the_same_time_by_the_same_visitor() -> None:
    """Each waits for the other to have begun, so neither waits for it to end; both see the caller's context."""
    _WHO.set("team-a")
    met = threading.Barrier(2)

    def ask(place: int) -> tuple[int, str]:
        met.wait(30)
        return place, _WHO.get()

    assert both(lambda: ask(1), lambda: ask(2)) == ((1, "team-a"), (2, "team-a"))


@pytest.mark.parametrize("failing", [0, 1])
def test_a_fault_in_either_is_told_after_both_have_ended(failing: int) -> None:
    """Nothing goes on behind the caller's back."""
    ended = []

    def ask(place: int) -> None:
        ended.append(place)
        if place == failing:
            raise StoreError("not now", retryable=True)

    with pytest.raises(StoreError, match="not now"):
        both(lambda: ask(0), lambda: ask(1))
    assert sorted(ended) == [0, 1]
