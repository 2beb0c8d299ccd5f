"""The pages in a real browser: what needs script, what must work without it, and that nothing leaves this machine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Literal

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

import web_helpers as world
from browser_helpers import CHROMIUM, Watch, watched_page
from cutaway import conventions as c
from cutaway_collector import decode
from every_signal_helpers import EVERYTHING, PIPELINE, stories
from search_helpers import START_NS, Span

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: install the package chromium"),
]

TRACE = f"/trace/{world.RAG_TRACE:032x}"
GENERATION = f"/gen/{world.CHAT:016x}"
BADGED = 107
PAGES = [
    "/search",
    TRACE,
    GENERATION,
    f"{GENERATION}?view=numbers&signal=margin",
    f"{GENERATION}?view=table",
    f"/gen/{world.BARE:016x}",
    f"/gen/{world.BATCH:016x}?seq=1",
    f"/gen/{BADGED:016x}",
    f"/gen/{EVERYTHING.hex()}?signal=varentropy&attention=lookback",
    f"/gen/{EVERYTHING.hex()}?view=table",
    f"/gen/{PIPELINE.hex()}",
    "/help",
]
STORY_BODY, STORY_VALUES = stories(world.PIECES, START_NS)


def _badged() -> Span:
    """A generation whose badges and scores are as long as senders make them."""
    reasons = json.dumps(["stopped_because_of_the_configured_stop_sequence_number_12"] * 6)
    attributes = world.generation_attributes(np.random.default_rng(5), 8) | {"gen_ai.response.finish_reasons": reasons}
    attributes["cutaway.decoding.mode"] = "contrastive_search_with_assistant_" * 4
    return Span(BADGED, "chat " + "badged" * 20, 12, 0, "evals", start_ns=START_NS, duration_ns=10**9, attributes=attributes)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    spans, blocks = world.world()
    badged = _badged()
    spans.append(badged)
    story = decode.decode_protobuf(STORY_BODY, received_ns=world.NOW_NS)
    blocks += [world.tokens_block(badged, [8], texts=world.PIECES), world.scores_block(badged), story.spans, story.tokens]
    with world.stored(tmp_path_factory.mktemp("browser") / "data", spans, blocks) as store, world.served(store) as address:
        yield address


@pytest.fixture
def page(browser: Browser, watch: Watch, url: str) -> Iterator[Page]:
    context, opened = watched_page(browser, watch, base_url=url)
    yield opened
    context.close()


@pytest.mark.parametrize("path", PAGES)
def test_pages_obey_the_policy_and_fit_a_phone(page: Page, path: str) -> None:
    """No policy violation, script error or foreign request on any page; at 320 px nothing scrolls sideways."""
    page.set_viewport_size({"width": 320, "height": 700})

    page.goto(path)
    if page.locator("token-view").count():
        page.wait_for_selector("token-view[data-ready]")
    scrolled, shown = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")

    assert scrolled <= shown


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_follows_the_system_until_chosen(page: Page, scheme: Literal["light", "dark"]) -> None:
    """Without a choice the pages are as dark as the system; the button's choice wins over it and survives the next page."""
    ground = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).reduce((sum, part) => sum + Number(part), 0)"
    page.emulate_media(color_scheme=scheme)
    page.goto("/help")
    before = page.evaluate(ground)
    page.locator(".links button").click()
    page.goto("/help")

    assert (before < 150) == (scheme == "dark")
    assert page.evaluate(ground) < 150


def test_from_search_to_tokens_by_keyboard(page: Page) -> None:
    """Slash, a query, Enter; j to a row, Enter; arrows through the tokens: no mouse needed anywhere."""
    page.goto("/search")
    page.keyboard.press("/")
    page.keyboard.type("tokens.out:122 perplexity:>20")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search?*122*")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**{GENERATION}")
    page.wait_for_selector("token-view[data-ready]")
    page.locator("[data-lane]").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")

    expect(page.locator("[data-readout]")).to_contain_text("token 2")
    expect(page.locator(".t.at")).to_have_text("·depends")


def test_one_cursor_moves_in_all_pictures(page: Page) -> None:
    """Pointing at a token moves the line in the strip and in the map, and prints the token's numbers."""
    page.goto(GENERATION)
    page.wait_for_selector("token-view[data-ready]")
    page.locator("[data-lane] .t").nth(20).hover()

    expect(page.locator("[data-readout]")).to_contain_text("token 20")
    places = page.locator("[data-track] .cursor").evaluate_all("lines => lines.map(line => line.style.left)")
    assert 2 == len(places)
    assert all(float(place.rstrip("%")) == pytest.approx(20.5 / len(world.PIECES) * 100, abs=0.01) for place in places)


def test_the_map_shows_the_numbers_of_the_twin(page: Page) -> None:
    """The canvas has one pixel a cell: the widest and the narrowest cell are at the ends of the colours, layer 0 at the bottom."""
    page.goto(GENERATION)
    page.wait_for_selector("token-view[data-ready]")
    drawn = page.evaluate("""() => {
        const canvas = document.querySelector('heat-grid canvas');
        const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        return [canvas.width, canvas.height, [...pixels]];
    }""")
    matrix = page.evaluate(f"fetch('{GENERATION}.json').then(a => a.json()).then(b => b.sequences[0].attention_entropy)")
    width, height, pixels = drawn

    def colour(token: int, layer: int) -> tuple[int, int, int]:
        at = 4 * ((height - 1 - layer) * width + token)
        return pixels[at], pixels[at + 1], pixels[at + 2]

    cells = [(value, token, layer) for token, row in enumerate(matrix) for layer, value in enumerate(row)]
    assert (len(matrix), len(matrix[0])) == (width, height)
    assert (253, 231, 37) == colour(*max(cells)[1:])
    assert (68, 1, 84) == colour(*min(cells)[1:])


def test_the_map_speaks_its_cells(page: Page) -> None:
    """With the focus on the map, arrows walk tokens and layers and the value under them is announced."""
    page.goto(GENERATION)
    page.wait_for_selector("token-view[data-ready]")
    page.locator("heat-grid").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    value = page.evaluate(f"fetch('{GENERATION}.json').then(a => a.json()).then(b => b.sequences[0].attention_entropy[0][1])")

    expect(page.locator("[data-readout]")).to_contain_text("attention, layer 1")
    said = page.locator("[data-readout] em").last.inner_text()
    assert float(said.split()[0]) == pytest.approx(value, rel=6e-3)
    assert "polite" == page.locator("[data-readout]").get_attribute("aria-live")


def test_any_map_can_be_chosen_and_speaks_with_sources_and_alternatives(page: Page) -> None:
    """A click on another map draws its numbers; a cell says its value, where that layer looked, and what else was likely."""
    page.goto(f"/gen/{EVERYTHING.hex()}")
    page.get_by_role("navigation", name="Attention map").get_by_role("link", name="Sink").click()
    expect(page.locator("token-view")).to_have_attribute("data-ready", "")
    grid = page.locator("heat-grid")
    expect(grid).to_have_attribute("aria-label", re.compile("Attention sink"))
    grid.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    readout = page.locator("[data-readout]")
    sink = STORY_VALUES[c.ATTENTION_SINK][0, 1]
    expect(readout).to_contain_text(f"attention sink, layer 4 {sink:#.3g}")
    expect(readout).to_contain_text(f"looked at #{STORY_VALUES[c.SOURCE_POSITION][0, 0, 0]}")
    expect(readout).to_contain_text(f"likely {json.dumps(world.PIECES[0], ensure_ascii=False)}")
    expect(readout).to_contain_text(f"or {STORY_VALUES[c.ALTERNATIVE_ID][0, 1]}")


def test_n_jumps_to_the_next_striking_token(page: Page) -> None:
    """`n` leads from hesitation to hesitation."""
    page.goto(GENERATION)
    page.wait_for_selector("token-view[data-ready]")
    page.locator("[data-lane]").focus()
    page.keyboard.press("n")

    classes = page.locator(".t.at").get_attribute("class") or ""
    assert {"q12", "q13", "q14", "q15"} & set(classes.split())


def test_eight_thousand_tokens_are_usable(page: Page) -> None:
    """A full window of 8192 tokens draws its map and follows the pointer."""
    page.goto(f"/gen/{world.LONG:016x}")
    page.wait_for_selector("token-view[data-ready]")
    page.locator("[data-lane] .t").nth(5).hover()

    expect(page.locator("[data-readout]")).to_contain_text("token 5")
    assert [8192, 30] == page.evaluate("(c => [c.width, c.height])(document.querySelector('heat-grid canvas'))")


def test_a_screen_further_takes_the_cursor_along(page: Page) -> None:
    """PageDown moves the chosen token as far as the lane scrolls, PageUp brings both back, End and PageDown stay at the last."""
    page.goto(f"/gen/{world.LONG:016x}")
    page.wait_for_selector("token-view[data-ready]")
    page.locator("[data-lane]").focus()
    page.keyboard.press("Home")
    seen = """(() => {
        const at = document.querySelector('.t.at');
        const [lane, box] = [at.closest('[data-lane]').getBoundingClientRect(), at.getBoundingClientRect()];
        return [at.tokenIndex, box.top >= lane.top - 1 && box.bottom <= lane.bottom + 1];
    })()"""
    places = []
    for key in ("PageDown", "PageDown", "PageUp", "PageUp", "End", "PageDown"):
        page.keyboard.press(key)
        index, visible = page.evaluate(seen)
        places.append(index)
        assert visible

    first, second, back, start, end, still = places
    assert 20 < first < second < 2000
    assert first == pytest.approx(back, abs=20)
    assert start < 20
    assert (8191, 8191) == (end, still)


def test_a_later_window_knows_its_place(page: Page) -> None:
    """In the second window of a long generation, indices and values go on where the first ended."""
    page.goto(f"/gen/{world.LONG:016x}?start=8192")
    page.wait_for_selector("token-view[data-ready]")
    page.locator("[data-lane] .t").nth(3).hover()
    value = page.evaluate(
        f"fetch('/gen/{world.LONG:016x}.json').then(a => a.json()).then(b => b.sequences[0].signals.entropy[8195])"
    )

    expect(page.locator("[data-readout]")).to_contain_text("token 8195")
    expect(page.locator("[data-readout]")).to_contain_text(f"entropy {value:.3g}")


def test_everything_but_the_map_works_without_script(browser: Browser, watch: Watch, url: str) -> None:
    """Search by form, sort, open a span, switch signal and theme: links and forms do it; the map says where its numbers are."""
    context = browser.new_context(base_url=url, java_script_enabled=False)
    page = context.new_page()
    page.goto("/search")
    page.locator("input[name=q]").first.fill("model:gpt2")
    page.locator(".omni button").click()
    assert "model%3Agpt2" in page.url.replace(":", "%3A").replace("http%3A", "http:")
    page.get_by_role("link", name="Perplexity", exact=True).click()
    assert "sort=-perplexity" in page.url
    page.goto(TRACE)
    page.locator(".row a.cover").nth(3).click()
    expect(page.locator(".detail h2")).to_have_text("SELECT documents")
    page.goto(GENERATION)
    page.get_by_role("link", name="Rank", exact=True).click()
    expect(page.locator(".t").first).to_be_visible()
    expect(page.get_by_text("The map is drawn by script")).to_be_visible()
    page.locator(".links button").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    context.close()


def test_the_whole_row_is_the_link(page: Page) -> None:
    """A click anywhere in a row opens it; the small link at its end opens the trace."""
    page.goto("/search?q=tokens.out:122 perplexity:>20")
    page.locator("table.hits tbody tr td.time").first.click(force=True)
    page.wait_for_url(f"**{GENERATION}")
    page.go_back()
    page.locator("table.hits tbody a.side").first.click()
    page.wait_for_url(f"**{TRACE}?span={world.CHAT:016x}")


def test_a_copied_address_shows_the_same_page(page: Page, browser: Browser, watch: Watch, url: str) -> None:
    """The address is the whole state: opened elsewhere, it shows the same tokens in the same colours."""
    page.goto(f"{GENERATION}?signal=entropy&view=numbers&heads=4")
    here = page.locator("main").inner_text()
    context, other = watched_page(browser, watch, base_url=url)
    other.goto(page.url)
    there = other.locator("main").inner_text()
    context.close()

    assert here.split("Point at")[0] == there.split("Point at")[0]
