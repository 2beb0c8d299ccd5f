"""The comparison page in a real browser: the map of heads by pointer and keys, against the numbers of its twin; a small screen."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect

import web_helpers as world
from browser_helpers import CHROMIUM
from search_helpers import START_NS, Span

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: install the package chromium"),
]

PATH = "/compare?a=service:evals&b=service:concierge&q=name:written"
PAIR = f"/compare?a=span:{world.CHAT:016x}&b=span:{world.BATCH:016x}"
EACH = 12
"""Generations a side, with the attention of every head."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    rng = np.random.default_rng(5)
    written = [Span(7000 + place, "written", 7000 + place, 0, ("evals", "concierge")[place % 2], start_ns=START_NS,
                    duration_ns=10**9, attributes=world.generation_attributes(rng, 20)) for place in range(2 * EACH)]
    spans, blocks = world.world()
    blocks += [world.tokens_block(span, [20], texts=world.PIECES) for span in written]
    data = tmp_path_factory.mktemp("compare") / "data"
    with world.stored(data, [*spans, *written], blocks) as store, world.served(store) as address:
        yield address


def _told(page: Page) -> tuple[int, int, float]:
    """Layer, head and B less A, as the map says."""
    text = page.locator("heat-difference [role=status]").inner_text()
    found = re.match(r"Layer (\d+), head (\d+): ([AB]) is wider by ([\d.]+) nats", text)
    assert found, text
    return int(found[1]), int(found[2]), float(found[4]) * (1 if found[3] == "B" else -1)


def _differences(page: Page) -> Any:
    """[layers, heads] of the twin."""
    return np.array(page.request.get(PATH.replace("/compare", "/compare.json")).json()["inside"]["heads"]["difference"], float)


def test_arrow_keys_tell_every_head(page: Page) -> None:
    """From the first cell to the right and down, no further than the edge; each says the number of the twin, to three digits."""
    page.goto(PATH)
    wanted = _differences(page)
    page.locator("heat-difference").focus()
    for keys, (layer, head) in ((["ArrowRight"], (1, 0)), (["ArrowDown", "ArrowDown"], (1, 2)), (["ArrowLeft"] * 5, (0, 2)),
                                (["ArrowUp"] * 5, (0, 0)), (["ArrowDown"] * 20, (0, world.HEADS - 1))):
        for key in keys:
            page.keyboard.press(key)
        assert (layer, head) == _told(page)[:2]
        assert _told(page)[2] == pytest.approx(wanted[layer, head], rel=0.01, abs=0.001)


def test_the_pointer_tells_the_cell_under_it(page: Page) -> None:
    """At the middle of a cell it is that cell's layer and head; the arrows go on from there."""
    page.goto(PATH)
    wanted = _differences(page)
    page.locator("heat-difference svg").scroll_into_view_if_needed()
    box = page.locator("heat-difference svg").bounding_box()
    assert box
    for layer, head in ((0, 0), (17, 4), (world.LAYERS - 1, world.HEADS - 1)):
        across, down = (layer + 0.5) / world.LAYERS, (head + 0.5) / world.HEADS
        page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"])
        assert (layer, head) == _told(page)[:2]
        assert _told(page)[2] == pytest.approx(wanted[layer, head], rel=0.01, abs=0.001)
    page.locator("heat-difference").focus()
    page.keyboard.press("ArrowLeft")
    assert (world.LAYERS - 2, world.HEADS - 1) == _told(page)[:2]


def test_two_sides_are_chosen_by_keys_alone(page: Page) -> None:
    """From an empty form to two generations side by side; the address is the whole state, and going back empties it again."""
    page.goto("/compare")
    page.locator("form [name=a]").first.focus()
    page.keyboard.type(f"span:{world.CHAT:016x}")
    page.locator("form [name=b]").first.focus()
    page.keyboard.type(f"span:{world.BATCH:016x}")
    page.keyboard.press("Enter")
    page.wait_for_url("**a=span**")
    expect(page.get_by_role("heading", name="Token by token")).to_be_visible()
    shown = page.locator("main").inner_text()
    page.reload()
    assert shown == page.locator("main").inner_text()
    page.go_back()
    page.wait_for_url("**/compare")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", [PATH, PAIR], ids=["sides", "pair"])
def test_it_fits_a_small_screen(page: Page, path: str, scheme: Any) -> None:
    """At 320 px, which is also a wide screen at 400 %, nothing of the page scrolls sideways."""
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 320, "height": 700})
    page.goto(path)

    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
