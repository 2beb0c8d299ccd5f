"""Answers that come late to the generation page, in a real browser: what somebody did meanwhile goes before them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

import web_helpers as world
from browser_helpers import CHROMIUM, Held, settle

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: install the package chromium"),
]

GENERATION, LONG = world.gen(world.CHAT), world.gen(world.LONG)
WINDOW = 640


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with world.stored(tmp_path_factory.mktemp("late") / "data", *world.world()) as store, world.served(store) as address:
        yield address


@pytest.fixture
def failing(browser: Browser, url: str) -> Iterator[Page]:
    """A page that is not watched: a request of it fails, which browsers report as an error."""
    context = browser.new_context(base_url=url, viewport={"width": 1280, "height": 900})
    yield context.new_page()
    context.close()


def _open(page: Page, path: str) -> None:
    page.goto(path)
    page.wait_for_selector("token-view[data-ready][data-hesitating]")


def test_a_token_that_fails_late_leaves_the_newer_one(failing: Page) -> None:
    """Of two tokens pinned one after the other the second stays pinned, when the first cannot be loaded after all."""
    _open(failing, GENERATION)
    panel, tokens = failing.locator("[data-panel]"), failing.locator("[data-lane] .t")
    held = Held(failing, r"\.json\?.*start=5(&|$)")
    tokens.nth(5).click()
    held.wait()
    tokens.nth(9).click()
    expect(panel.locator("dl.facts")).to_be_visible()
    with failing.expect_response(held.routes[0].request.url):
        held.routes[0].fulfill(status=500)
    settle(failing)

    expect(panel.locator("h2").first).to_have_text("Token 9")
    expect(panel.locator("dl.facts")).to_be_visible()


def test_the_pinned_token_comes_without_taking_the_focus(page: Page) -> None:
    """Who has gone to its button while it was loading is still there afterwards."""
    _open(page, GENERATION)
    held = Held(page, r"\.json\?.*start=5(&|$)")
    page.locator("[data-lane] .t").nth(5).click()
    held.wait()
    button = page.locator("[data-panel] header button")
    button.focus()
    held.answer(0)

    expect(page.locator("[data-panel] dl.facts")).to_be_visible()
    expect(button).to_be_focused()


def test_a_part_that_could_not_be_loaded_is_asked_again(failing: Page) -> None:
    """The text that stands there stays and keeps its numbers; going there once more loads it."""
    _open(failing, LONG)
    readout, tokens = failing.locator("[data-readout]"), failing.locator("[data-lane] .t")
    count = len(failing.request.get(f"{LONG}.json").json()["sequences"][0]["token_ids"])
    failing.route("**/lane.json*", lambda route: route.fulfill(status=500))
    failing.locator("[data-lane]").focus()
    failing.keyboard.press("End")
    expect(readout).to_contain_text("could not be loaded")
    expect(tokens).to_have_count(WINDOW)
    tokens.nth(7).hover()
    expect(readout).to_contain_text("token 7 ")
    failing.unroute("**/lane.json*")
    failing.keyboard.press("End")

    expect(readout).to_contain_text(f"token {count - 1}")
    expect(tokens).to_have_count(count % WINDOW or WINDOW)


def test_keys_pressed_before_the_numbers_came_count(page: Page) -> None:
    """The token of the address is pinned, and the cursor stays where somebody has moved it."""
    held = Held(page, r"\.f32")
    page.goto(f"{GENERATION}?tok=40")
    held.wait()
    page.locator("[data-lane]").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    held.end()
    page.wait_for_selector("token-view[data-ready][data-hesitating]")

    expect(page.locator("[data-readout]")).to_contain_text("token 2 ")
    expect(page.locator("[data-readout]")).to_contain_text("surprisal")
    expect(page.locator("[data-panel] h2").first).to_have_text("Token 40")


def test_a_word_that_was_let_go_is_not_chosen_late(page: Page) -> None:
    """Escape after a double click lets go of the word also while it is still asked which tokens it has."""
    _open(page, GENERATION)
    held = Held(page, r"series=unit")
    page.locator("[data-lane] .t").nth(20).dblclick()
    held.wait()
    page.keyboard.press("Escape")
    held.answer(0)

    expect(page.locator("[data-range] em")).to_have_count(0)
