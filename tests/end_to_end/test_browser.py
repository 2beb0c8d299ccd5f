"""The pages in a real browser: what needs script, what must work without it, and that nothing leaves this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Literal

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

import web_helpers as world
from browser_helpers import CHROMIUM, Watch, watched_page
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
    f"{TRACE}?f=is:error",
    f"{TRACE}?f=is:error&show=with&zoom=20-60&q=service:concierge",
    GENERATION,
    f"{GENERATION}?view=numbers&signal=margin",
    f"{GENERATION}?view=table",
    f"{GENERATION}?view=layers&heads=matrix&tok=3",
    f"{GENERATION}?unit=word&agg=max&scale=percentile&gamma=0.5&strips=entropy,rank&tok=7&range=4-20",
    f"/gen/{world.BARE:016x}",
    f"/gen/{world.BATCH:016x}?seq=1",
    f"/gen/{BADGED:016x}",
    f"/gen/{EVERYTHING.hex()}?signal=varentropy&attention=lookback",
    f"/gen/{EVERYTHING.hex()}?view=table",
    f"/gen/{PIPELINE.hex()}",
    "/help",
    "/saved",
    "/export?q=is:generation",
    "/search?q=%7C%20stats%20count()%2C%20p95(duration)%20by%20model%20every%2010m",
    "/alerts",
    "/drift",
    "/windows",
    "/live",
    "/map?of=signals&color=model",
    "/map?lasso=cluster:1&of=signals",
    "/system",
    "/start",
    "/",
    "/compare",
    "/compare?a=model:gpt2&b=model:SmolLM2*&q=is:generation",
    f"/compare?a=span:{world.CHAT:016x}&b=span:{world.BATCH:016x}",
    f"/compare?a=trace:{world.RAG_TRACE:032x}&b=trace:{world.RAG_TRACE:032x}%20-name:weather",
]
STORY_BODY, _ = stories(world.PIECES, START_NS)


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


@pytest.mark.parametrize("path", PAGES)
def test_pages_obey_the_policy_and_fit_a_phone(page: Page, path: str) -> None:
    """No policy violation, script error or foreign request on any page; at 320 px nothing scrolls sideways."""
    page.set_viewport_size({"width": 320, "height": 700})

    page.goto(path)
    if page.locator("token-view").count():
        page.wait_for_selector("token-view[data-ready]")
    scrolled, shown = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")

    assert scrolled <= shown


CLIPPED = """() => [...document.querySelectorAll("button, .button, h1:not(.sr), h2:not(.sr), label, summary, .chip")]
    .filter(one => one.checkVisibility() && getComputedStyle(one).overflowX === "hidden" && one.scrollWidth > one.clientWidth + 1)
    .map(one => one.outerHTML.slice(0, 120))"""
"""Controls and headings that hide a part of what they say."""
MOVING = """() => [...document.querySelectorAll("*")].filter(one => { const style = getComputedStyle(one);
    return style.transitionDuration.split(",").some(time => parseFloat(time) > 0) || style.scrollBehavior === "smooth"
        || (style.animationName !== "none" && parseFloat(style.animationDuration) > 0) }).map(one => one.outerHTML.slice(0, 120))"""


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES)
def test_pages_stand_zoom_and_keep_still(browser: Browser, watch: Watch, url: str, path: str) -> None:
    """On a screen of 1280 x 900 px at 200 % nothing of the page scrolls sideways and no control loses words; for who asked for less
    motion nothing moves by itself or slides."""
    context, page = watched_page(browser, watch, base_url=url, viewport={"width": 640, "height": 450}, device_scale_factor=2,
                                 reduced_motion="reduce")
    page.goto(path)
    if page.locator("token-view").count():
        page.wait_for_selector("token-view[data-ready]")
    scrolled, shown = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")

    assert scrolled <= shown
    assert [] == page.evaluate(CLIPPED)
    assert [] == page.evaluate(MOVING)
    context.close()


RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
"""What axe-core can tell of WCAG 2.2, levels A and AA."""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PAGES)
def test_axe_finds_nothing(page: Page, path: str, scheme: Literal["light", "dark"]) -> None:
    """No violation of WCAG 2.2 AA that axe-core knows, on any page in either theme."""
    page.emulate_media(color_scheme=scheme)
    page.goto(path)
    if page.locator("token-view").count():
        page.wait_for_selector("token-view[data-ready]")
    found = Axe().run(page, options=RULES)

    told = [f"{each['id']}: {node['html'][:160]} {node['failureSummary'][:200]}"
            for each in found.response["violations"] for node in each["nodes"][:4]]
    assert not told, "\n".join(told)


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


def test_everything_but_the_map_works_without_script(browser: Browser, watch: Watch, url: str) -> None:
    """Search by form, sort, open a span, switch signal and theme: links and forms do it; the map says where its numbers are."""
    context = browser.new_context(base_url=url, java_script_enabled=False)
    page = context.new_page()
    page.goto("/search")
    page.locator("input[name=q]").first.fill("model:gpt2")
    page.locator(".omni button").click()
    page.wait_for_url(lambda url: "model%3Agpt2" in url.replace(":", "%3A"))
    page.get_by_role("region", name="Results").get_by_role("link", name="Perplexity", exact=True).click()
    page.wait_for_url("**sort=-perplexity*")
    page.goto(TRACE)
    page.locator(".row a.cover").nth(3).click()
    expect(page.locator(".detail h2")).to_have_text("SELECT documents")
    page.goto(GENERATION)
    page.get_by_role("navigation", name="Colour tokens by").get_by_role("link", name="Rank", exact=True).click()
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
    page.wait_for_url(f"**{TRACE}?*span={world.CHAT:016x}")


def test_a_copied_address_shows_the_same_page(page: Page, browser: Browser, watch: Watch, url: str) -> None:
    """The address is the whole state: opened elsewhere, it shows the same tokens in the same colours."""
    page.goto(f"{GENERATION}?signal=entropy&view=numbers&heads=4")
    here = page.locator("main").inner_text()
    context, other = watched_page(browser, watch, base_url=url)
    other.goto(page.url)
    there = other.locator("main").inner_text()
    context.close()

    assert here.split("Point at")[0] == there.split("Point at")[0]
