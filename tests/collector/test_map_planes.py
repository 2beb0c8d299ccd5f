"""The latent map while generations come: places that were looked at stay, what came later is put among them and counted."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore
from cutaway_collector.web import create_app
from cutaway_collector.web.map_vectors import Vectors
from search_helpers import MODEL, OUTPUT, PERPLEXITY, START_NS, Span, spans_block
from web_helpers import get, stored


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseStore]:
    """Twenty generations without texts."""
    with stored(tmp_path_factory.mktemp("planes"), _measured(1, 20), ()) as opened:
        yield opened


def _measured(first: int, count: int) -> list[Span]:
    dice = np.random.default_rng(first)
    return [Span(number, "chat", number, service="measured", start_ns=START_NS + number, attributes={
        MODEL: "m", "gen_ai.operation.name": "chat", OUTPUT: str(int(dice.integers(5, 500))),
        PERPLEXITY: str(dice.uniform(1, 40)), "cutaway.output.surprisal.mean": str(dice.uniform(0, 4))})
        for number in range(first, first + count)]


def test_places_stay_when_generations_come_and_the_later_ones_are_counted(store: ClickHouseStore) -> None:
    """What was there keeps its place; with a quarter of later ones, or when it is asked for, the plane is made of all."""
    vectors = Vectors(store, None)
    client = create_app(store, Settings(data="unused"), vectors=vectors).test_client()

    def drawn() -> tuple[dict[str, tuple[int, int]], int]:
        body = client.get("/map.json?of=signals").get_json()
        return {point["span_id"]: (point["x"], point["y"]) for point in body["points"]}, body["later"]

    first, later = drawn()
    store.insert(spans_block(_measured(21, 3)), "later")
    second, more = drawn()
    assert (0, 3, 23) == (later, more, len(second))
    assert first == {span: second[span] for span in first}
    page = get(client, "/map?of=signals")
    assert "3 came after this plane was made" in page.text
    (anew,) = [link for link in page.links("/map?") if "plane=new" in link]
    assert "/map?of=signals" == client.get(anew).location
    third, none = drawn()
    assert none == 0
    assert third != second

    store.insert(spans_block(_measured(30, 12)), "many")
    fourth, none = drawn()
    assert (0, 35) == (none, len(fourth))
    vectors.close()
