"""Spans that were sent more than once: an exporter that got no answer sends its batch again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cutaway_collector.contracts import Store
from cutaway_collector.search import SearchRequest, find
from search_helpers import PERPLEXITY, START_NS, Span, stored

ONCE = [
    Span(number, trace=1 + number % 2, start_ns=START_NS + number // 4, attributes={PERPLEXITY: str(number % 3)})
    for number in range(1, 14)
]
ONCE += [Span(number, trace=trace, start_ns=START_NS + 9) for number in (50, 51) for trace in (1, 2)]
"""Equal starts, equal sort keys, and span ids that two traces share."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    sent = [span for span in ONCE for _ in range(3 if span.number % 2 else 1)]
    with stored(Path(tmp_path_factory.mktemp("search-repeats")), sent) as opened:
        yield opened


def _walk(store: Store, sort: str, limit: int) -> list[tuple[str, str]]:
    out: list[tuple[str, str]] = []
    after: str | None = ""
    while after is not None:
        answer = find(store, SearchRequest(sort=sort, limit=limit, after=after), rows_max=500)
        assert 1 <= len(answer["rows"]) <= limit
        out += [(row["trace_id"], row["span_id"]) for row in answer["rows"]]
        after = answer["next"]
    return out


@pytest.mark.parametrize("limit", [1, 2, 5, 17, 500])
@pytest.mark.parametrize("sort", ["", "time", "-perplexity", "ttft", "name"])
def test_a_span_sent_again_is_one_row(store: Store, sort: str, limit: int) -> None:
    """Each span is in the pages once, none is left out, also where repetitions and ties straddle the border of a page."""
    assert sorted(_walk(store, sort, limit)) == sorted((span.trace_id, span.span_id) for span in ONCE)


@pytest.mark.parametrize("sort", ["", "time", "-perplexity"])
def test_repetitions_do_not_change_the_order(store: Store, sort: str) -> None:
    """Page after page gives the order of one long page."""
    assert _walk(store, sort, 2) == _walk(store, sort, 500)
