"""What senders may send and no page may break on: numbers of any size, clocks that lie, very many attributes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from flask.testing import FlaskClient

import search_helpers as spans_of
import web_helpers as world
from cutaway_collector.settings import Settings
from cutaway_collector.web import create_app, figures
from search_helpers import START_NS, Span

ODD_NUMBERS = {
    "huge": "1e308", "infinite": "inf", "minus infinite": "-inf", "not a number": "nan", "negative": "-5", "tiny": "1e-320",
}
NUMBERS_TRACE, CLOCKS_TRACE, RING_TRACE, MANY_TRACE = 50, 51, 52, 53
NUMERIC = (
    spans_of.PERPLEXITY, spans_of.TTFT, "cutaway.time_per_output_token", "cutaway.output.surprisal.mean",
    "cutaway.output.surprisal.max", "cutaway.output.entropy.mean", "cutaway.attention.entropy.mean",
)


def _spans() -> list[Span]:
    base = world.generation_attributes(np.random.default_rng(1), 10)
    odd = [
        Span(500 + index, f"chat {name}", NUMBERS_TRACE, 0, start_ns=START_NS + index,
             attributes=base | {spans_of.MODEL: name, **dict.fromkeys(NUMERIC, value)})
        for index, (name, value) in enumerate(ODD_NUMBERS.items())
    ]
    root = Span(510, "root", CLOCKS_TRACE, 0)
    clocks = [
        root, replace(root, number=511, name="before its parent", parent=510, start_ns=START_NS - 5 * 10**12),
        replace(root, number=512, name="no time at all", parent=510, duration_ns=0),
        replace(root, number=513, name="as long as can be", parent=510, duration_ns=2**64 - 1 - START_NS),
    ]
    ring = [Span(520, "a", RING_TRACE, 521), Span(521, "b", RING_TRACE, 522), Span(522, "c", RING_TRACE, 520),
            Span(523, "its own parent", RING_TRACE, 523)]
    many = Span(530, "many", MANY_TRACE, 0, attributes=base | {f"key.{index:05}": f"value {index}" for index in range(3000)})
    nobody = Span(540, "chat nobody", MANY_TRACE, 530, "", attributes=base)
    return [*odd, *clocks, *ring, many, nobody]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    with world.stored(tmp_path_factory.mktemp("odd") / "data", _spans(), []) as store:
        yield create_app(store, Settings(data="unused"), now_ns=lambda: world.NOW_NS).test_client()


@pytest.mark.parametrize("path", [
    "/", "/overview.json", "/live", "/live.json", "/search.json", "/search", "/search?view=generations", "/search?view=traces",
    "/search?plot=duration", "/search?plot=ttft", "/search?plot=perplexity", "/search?plot=surprisal",
    "/search?sort=-perplexity", "/search?q=%7C%20stats%20mean(perplexity)%2C%20max(duration)%20by%20model",
    "/map.json?of=signals", *(f"/trace/{trace:032x}{part}" for trace in (NUMBERS_TRACE, CLOCKS_TRACE, RING_TRACE)
                              for part in ("", ".json", "/skeleton.json", "?zoom=10-20", "?f=is:error&show=alone")),
    *(f"/gen/{500 + index:016x}" for index in range(len(ODD_NUMBERS))),
])
def test_no_page_breaks_on_what_a_sender_made_up(client: FlaskClient, path: str) -> None:
    """Infinities, the largest doubles, denormals, clocks that lie and rings of parents: every page and twin answers."""
    answer = client.get(path)

    assert answer.status_code == 200, answer.text[:2000]
    if answer.is_json:
        json.loads(answer.text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_the_longest_span_fills_the_map_of_its_trace(client: FlaskClient) -> None:
    """A duration of 64 bits is drawn from where it begins to the right edge, beside one that began 5000 s before."""
    page = client.get(f"/trace/{CLOCKS_TRACE:032x}").text

    assert "h500" in page


@pytest.mark.parametrize(("value", "shade"), [
    (None, -1), (float("nan"), -1), (-1.0, 0), (0.0, 0), (2.0, 8), (3.99, 15), (4.0, 15), (1e308, 15), (float("inf"), 15),
])
def test_shades(value: float | None, shade: int) -> None:
    """Sixteen equal steps from zero to the full value; what lies outside takes the ends."""
    assert shade == figures.shade(value, 4.0)


@pytest.mark.parametrize("path", [f"/trace/{MANY_TRACE:032x}?span={530:016x}", f"/gen/{530:016x}"])
def test_very_many_attributes_do_not_make_the_page_heavy(client: FlaskClient, path: str) -> None:
    """The first 500 of a group are listed, the rest is counted and stands in the JSON."""
    page = client.get(path).text
    told = "2\u202f500 more, in the JSON" if "trace" in path else "more, in the JSON"

    assert told in page
    assert len(page) < 500_000
    assert "value 2999" not in page
    assert "value 2999" in client.get(f"/trace/{MANY_TRACE:032x}/span/{530:016x}.json").text


def test_a_generation_of_no_service_has_no_empty_place_for_it(client: FlaskClient) -> None:
    """The line under the title names what is known, with one dot between two things."""
    line = world.get(client, f"/gen/{540:016x}").text.split("chat nobody", 2)[-1][:40]

    assert "· ·" not in " ".join(line.split())
