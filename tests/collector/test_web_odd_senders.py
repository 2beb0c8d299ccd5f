"""What senders may send and no page may break on: numbers of any size, clocks that lie, very many attributes."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from flask.testing import FlaskClient

import search_helpers as spans_of
import web_helpers as world
from cutaway_collector.blocks import Block, Lists
from cutaway_collector.settings import Settings
from cutaway_collector.web import create_app, figures
from search_helpers import START_NS, Span

ODD_NUMBERS = {
    "huge": "1e308", "infinite": "inf", "minus infinite": "-inf", "not a number": "nan", "negative": "-5", "tiny": "1e-320",
}
NUMBERS_TRACE, CLOCKS_TRACE, RING_TRACE, MANY_TRACE, INSTANT_TRACE, SERVICES_TRACE, WORDY_TRACE, SILENT_TRACE = range(50, 58)
SERVICES = ("gateway", "retriever", "ranker", "model-server", "guard")
WORDY = "".join(f"line {number} of a stack; " for number in range(500))
SILENT = Span(580, "chat silent", SILENT_TRACE, attributes=world.generation_attributes(np.random.default_rng(2), 6))
"""A generation without one finite number in its series."""
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
    parts = [Span(560 + index, name, SERVICES_TRACE, 560 if index else 0, name) for index, name in enumerate(SERVICES)]
    wordy = Span(570, "boom", WORDY_TRACE, status="Error", message=WORDY)
    return [*odd, *clocks, *ring, many, nobody, Span(550, "instant", INSTANT_TRACE, duration_ns=0), *parts, wordy, SILENT]


def _silent() -> Block:
    block = world.tokens_block(SILENT, [6], texts=["a", " b"])
    for column in block.columns.values():
        if isinstance(column, Lists) and isinstance(column.values, np.ndarray) and column.values.dtype == np.float32:
            column.values[:] = np.nan
            column.values[1::3] = np.inf
    return block


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    with world.stored(tmp_path_factory.mktemp("odd") / "data", _spans(), [_silent()]) as store:
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


def _page(client: FlaskClient, path: str) -> str:
    return client.get(path).text.replace("\u202f", " ")


def test_a_trace_of_no_length_lasts_no_time(client: FlaskClient) -> None:
    """A span that begins and ends at once is drawn, and nothing is said to have lasted longer than it did."""
    page = _page(client, f"/trace/{INSTANT_TRACE:032x}")
    assert re.findall(r"<dt>Duration</dt><dd>(.*?)</dd>", page) == ["0 ns", "0 ns"]


def test_the_key_of_a_trace_names_every_service(client: FlaskClient) -> None:
    """The colour of each service is explained, however many share the narrow head of the names."""
    page = _page(client, f"/trace/{SERVICES_TRACE:032x}")
    (key,) = re.findall(r'<p class="keyline">.*?</p>', page, re.DOTALL)
    assert sorted(re.findall(r'<i class="dot s\d"></i><bdi>(.*?)</bdi>', key)) == sorted(SERVICES)


@pytest.mark.parametrize("path", [f"/trace/{WORDY_TRACE:032x}", f"/gen/{570:016x}"])
def test_a_long_error_leaves_room_and_loses_nothing(client: FlaskClient, path: str) -> None:
    """The beginning of a message is read at once; the rest is folded away behind how much it is."""
    (shown,) = re.findall(r'<div class="(?:warning bad )?failmsg".*?</div>', _page(client, path), re.DOTALL)
    first, rest = (html.unescape(part) for part in re.findall(r"<bdi>(.*?)</bdi>", shown, re.DOTALL))
    assert first + rest == WORDY
    assert len(first) <= 500
    assert f"{len(rest):,} more characters".replace(",", " ") in shown


def test_series_without_a_finite_value_have_no_scale(client: FlaskClient) -> None:
    """Nothing is coloured, so no legend pretends to a range; each picture says that it is empty."""
    page = _page(client, f"/gen/{SILENT.span_id}")
    assert 'class="t ' in page
    assert not re.search(r'class="t [^"]*\bf\d', page)
    assert 'class="scale"' not in page
    assert "It has no values here." in page
    assert "it has no values here" in re.findall(r"data-heatscale>.*?</div>", page, re.DOTALL)[0]
    twin = client.get(f"/gen/{SILENT.span_id}.json").json
    assert set(twin["sequences"][0]["signals"]["surprisal"]) == {None}


def test_a_number_that_is_none_has_no_shade(client: FlaskClient) -> None:
    """A dash in the results stands on plain ground."""
    page = _page(client, "/search?q=is:generation")
    assert re.search(r'class="heat q\d+">', page)
    assert not re.search(r'class="heat q\d+">–', page)
