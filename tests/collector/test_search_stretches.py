"""Rows by time over a long range, which are looked for in stretches: every page is as if the whole range had been read at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cutaway_collector.contracts import Store
from cutaway_collector.search import SearchRequest, find
from search_helpers import START_NS, Span, stored

DAY_NS = 86_400 * 10**9
FIRST_NS = START_NS - 20 * DAY_NS
AGES_NS = (0, 1, 3600 * 10**9, 3600 * 10**9 + 1, *(DAY_NS * step // 7 for step in range(1, 140, 3)), 20 * DAY_NS)
"""Before the newest: neighbours within a stretch, some on its edge, the rest spread over three weeks."""
SPANS = tuple(Span(number + 1, "odd" if number % 2 else "even", trace=number + 1, start_ns=START_NS - age)
              for number, age in enumerate(AGES_NS))
SENT_TWICE = SPANS[3:20]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with stored(tmp_path_factory.mktemp("stretches"), [*SPANS, *SENT_TWICE]) as opened:
        yield opened


@pytest.mark.parametrize("limit", [1, 3, 7, 100])
@pytest.mark.parametrize("sort", ["", "start"])
@pytest.mark.parametrize("query", ["", "name:odd", "any{name:odd}", "name:none"])
def test_pages_are_those_of_the_whole_range(store: Store, query: str, sort: str, limit: int) -> None:
    """Forwards and back again, every span once, in order, whatever stretch it lies in."""
    wanted = [span.span_id for span in SPANS if not query or span.name == "odd"] if query != "name:none" else []
    wanted = wanted[::-1] if sort else wanted
    seen: list[str] = []
    page = find(store, SearchRequest(q=query, sort=sort, limit=limit), rows_max=500)
    while True:
        seen += [row["span_id"] for row in page["rows"]]
        if page["next"] is None:
            break
        page = find(store, SearchRequest(q=query, sort=sort, limit=limit, after=page["next"]), rows_max=500)
    assert wanted == seen
    back: list[str] = [row["span_id"] for row in page["rows"]]
    while page["previous"]:
        page = find(store, SearchRequest(q=query, sort=sort, limit=limit, before=page["previous"]), rows_max=500)
        back = [row["span_id"] for row in page["rows"]] + back
    assert wanted == back


def test_a_range_keeps_its_edges(store: Store) -> None:
    """The first nanosecond belongs to a range and the one after its last does not, in the first stretch and in the last."""
    found = find(store, SearchRequest(start_ns=FIRST_NS, end_ns=START_NS, limit=100), rows_max=500)["rows"]
    assert [span.span_id for span in SPANS[1:]] == [row["span_id"] for row in found]
    found = find(store, SearchRequest(start_ns=FIRST_NS + 1, end_ns=START_NS + 1, limit=100), rows_max=500)["rows"]
    assert [span.span_id for span in SPANS[:-1]] == [row["span_id"] for row in found]


def test_the_newest_rows_of_a_long_range_are_found_without_reading_all_of_it(store: Store) -> None:
    """A page that the newest stretch fills costs its rows; one that no stretch fills costs those of the range."""
    newest = find(store, SearchRequest(limit=1), rows_max=500)["stats"]["rows_read"]
    rare = find(store, SearchRequest(q="kind:client", limit=1), rows_max=500)["stats"]["rows_read"]
    assert 0 < newest < rare
