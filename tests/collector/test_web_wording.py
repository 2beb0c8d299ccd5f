"""What the pages say in words: ranges of time, comparisons of few or of nothing alike, pages with nothing to show."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest
from flask.testing import FlaskClient

import web_helpers as world
from cutaway_collector.search.tenants import TenantStore
from cutaway_collector.settings import Settings
from cutaway_collector.web import create_app, figures, times
from search_helpers import Span

OTHER, THIRD = 301, 302


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    spans, blocks = world.world()
    chat = next(span for span in spans if span.number == world.CHAT)
    attributes = world.generation_attributes(np.random.default_rng(2), 5)
    others = [Span(number, "chat other", number, 0, "evals", attributes=attributes, start_ns=chat.start_ns + number)
              for number in (OTHER, THIRD)]
    blocks += [world.tokens_block(other, [5], texts=["Qua", "drat", "isch", "gut", "!"], heads=False) for other in others]
    with world.stored(tmp_path_factory.mktemp("wording") / "data", [*spans, *others], blocks) as store:
        yield create_app(store, Settings(data="unused"), now_ns=lambda: world.NOW_NS).test_client()


@pytest.mark.parametrize(("first", "last", "said"), [
    ("2026-11-22T19:04:00Z", "2026-11-22T19:19:00Z", "2026-11-22 19:04 → 19:19 UTC"),
    ("2026-11-22T19:04:00.000Z", "2026-11-22T19:04:30Z", "2026-11-22 19:04:00 → 19:04:30 UTC"),
    ("2026-11-22T19:04:00Z", "2026-11-23T01:00:00Z", "2026-11-22 19:04 → 2026-11-23 01:00 UTC"),
    ("-2h", "-1h", "-2h → -1h"),
    ("2026-11-22T19:04:00+01:00", "2026-11-22T19:19:00Z", "2026-11-22T19:04:00+01:00 → 2026-11-22T19:19:00Z"),
])
def test_a_range_of_time_as_read(first: str, last: str, said: str) -> None:
    """The day once, no seconds where there are none; what somebody wrote otherwise stays as written."""
    assert said == times.between(first, last)


def test_the_search_page_says_the_range(client: FlaskClient) -> None:
    """A range that was brushed stands above the results as people write times."""
    page = world.get(client, "/search?from=2026-11-22T19:04:00Z&to=2026-11-22T19:19:00Z")

    assert "2026-11-22 19:04 → 19:19 UTC" in page.text


def test_two_answers_with_nothing_in_common(client: FlaskClient) -> None:
    """There is no place where they part and no scale for tokens that both have."""
    text = world.get(client, f"/compare?a=span:{world.CHAT:016x}&b=span:{OTHER:016x}").text

    assert "0 tokens in common" in text
    assert "They part" not in text
    assert "more surprised" not in text


def test_sides_of_an_empty_store_have_no_dates(client: FlaskClient) -> None:
    """Without a range and without a span there is no time to name, least of all 1970."""
    nobody = TenantStore(world.site_of(client).store, lambda: "nobody")
    app = create_app(nobody, Settings(data="unused"), now_ns=lambda: world.NOW_NS)
    text = world.get(app.test_client(), "/compare?a=is:error").text

    assert "which is nothing yet" in text
    assert "1970-01-01" not in text


def test_few_generations_carry_no_claim_about_attention(client: FlaskClient) -> None:
    """Below 30 spans a side the page claims no difference: not of attributes, and not of layers either."""
    page = world.get(client, f"/compare?a=span:({world.LONG:016x},{world.BATCH:016x})&b=span:({OTHER:016x},{THIRD:016x})")

    assert "too few to claim a difference" in page.text
    assert not page.with_class("marked")


def test_generations_beside_the_map_are_listed_newest_first(client: FlaskClient) -> None:
    """The map takes a sample in no order of use to a reader; its table has one, and says which."""
    page = world.get(client, "/map?of=signals")
    began = [attrs["datetime"] for tag, attrs in page.tags if tag == "time"]

    assert "newest first" in page.text
    assert began == sorted(began, key=str, reverse=True)
    assert len(began) == 50


def test_windows_offer_only_a_way_that_leads_elsewhere(client: FlaskClient) -> None:
    """Where all windows are shown already there is no link to show all; behind a filter there is."""
    assert "Show all windows" not in world.get(client, "/windows").text
    assert "Show all windows" in world.get(client, "/windows?model=gpt2").text
    assert "Show all windows" in world.get(client, "/windows?from=-1h").text


def test_the_column_of_tokens_a_second_is_what_the_query_means(client: FlaskClient) -> None:
    """`tps:` is the pace of decoding, from the first token on where its time is known, and so is the column of that name."""
    rows = client.get("/search.json?q=tps:>40&limit=20").get_json()["rows"]
    page = client.get("/search?q=tps:>40&limit=20&cols=tps").text
    shown = [float(text.replace("\u202f", "")) for text in re.findall(r'<td class="num tps">([\d.\u202f]+)</td>', page)]

    assert len(rows) == 20
    assert shown == pytest.approx([1 / row["tpot_s"] for row in rows], rel=0.005)


@pytest.mark.parametrize(("known", "pace"), [
    ({"tpot_s": 0.02, "ttft_s": 1.0}, 50), ({"ttft_s": 1.0}, 33), ({"ttft_s": 4.5}, 25), ({}, 25), ({"output_tokens": None}, None),
])
def test_the_pace_of_a_row_is_that_of_decoding_where_its_times_are_known(known: dict[str, float], pace: float | None) -> None:
    """100 tokens in 4 s, the first after one: 99 in three; a first token after the end is no time to reckon with."""
    row = {"output_tokens": 100, "duration_ns": 4 * 10**9, "ttft_s": None, "tpot_s": None} | known

    assert figures.tokens_a_second(row) == (None if pace is None else pytest.approx(pace))
