"""The generation page in a real browser: one cursor over three lanes, hesitations, ranges, a pinned token, 100 000 tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

import web_helpers as world
from browser_helpers import CHROMIUM, Watch, watched_page
from cutaway import conventions as c
from cutaway_collector import decode
from every_signal_helpers import EVERYTHING, stories
from search_helpers import START_NS, Span

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: install the package chromium"),
]

GENERATION = f"/gen/{world.CHAT:016x}"
EVERY = f"/gen/{EVERYTHING.hex()}"
HUGE, TOKENS = f"/gen/{777:016x}", 100_000
STORY_BODY, STORY_VALUES = stories(world.PIECES, START_NS)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    spans, blocks = world.world()
    attributes = world.generation_attributes(np.random.default_rng(1), TOKENS)
    huge = Span(777, "chat huge", 77, 0, "evals", start_ns=START_NS, duration_ns=10**9, attributes=attributes)
    story = decode.decode_protobuf(STORY_BODY, received_ns=world.NOW_NS)
    blocks += [world.tokens_block(huge, [TOKENS], texts=world.PIECES, heads=False), story.spans, story.tokens]
    with world.stored(tmp_path_factory.mktemp("browser") / "data", [*spans, huge], blocks) as store, world.served(store) as address:
        yield address


def _open(page: Page, path: str) -> None:
    page.goto(path)
    page.wait_for_selector("token-view[data-ready][data-hesitating]")


def _has_canvas(page: Page, width: int, height: int) -> None:
    """The map is that many cells wide and high, once it is drawn."""
    page.wait_for_selector(f"heat-grid canvas[width='{width}'][height='{height}']")


def _twin(page: Page, path: str = GENERATION) -> dict[str, Any]:
    found: dict[str, Any] = page.request.get(f"{path}.json").json()["sequences"][0]
    return found


def test_one_cursor_moves_in_all_lanes(page: Page) -> None:
    """Pointing at a token moves the line in every strip and in the map, and prints the token's numbers."""
    _open(page, f"{GENERATION}?strips=entropy,margin")
    page.locator("[data-lane] .t").nth(20).hover()

    expect(page.locator("[data-readout]")).to_contain_text("token 20")
    places = page.locator("[data-track] .cursor").evaluate_all("lines => lines.map(line => line.style.left)")
    assert 4 == len(places)
    assert all(float(place.rstrip("%")) == pytest.approx(20.5 / len(world.PIECES) * 100, abs=0.01) for place in places)


def test_pointing_at_a_strip_moves_the_text(page: Page) -> None:
    """The other way round: the token under the pointer of a strip is marked in the text."""
    _open(page, GENERATION)
    strip = page.locator("[data-track=strip]").first
    strip.hover(position={"x": strip.evaluate("one => one.clientWidth") * 40.5 / len(world.PIECES), "y": 20})

    expect(page.locator("[data-readout]")).to_contain_text("token 40")
    assert 40 == page.locator(".t.at").evaluate("at => [...document.querySelectorAll('[data-lane] .t')].indexOf(at)")


def test_the_map_shows_the_numbers_of_the_twin(page: Page) -> None:
    """The canvas has one pixel a cell: the widest and the narrowest cell are at the ends of the colours, layer 0 at the bottom."""
    _open(page, GENERATION)
    width, height, pixels = page.evaluate("""() => {
        const canvas = document.querySelector('heat-grid canvas');
        const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        return [canvas.width, canvas.height, [...pixels]];
    }""")
    matrix = _twin(page)["attention_entropy"]

    def colour(token: int, layer: int) -> tuple[int, int, int]:
        at = 4 * ((height - 1 - layer) * width + token)
        return pixels[at], pixels[at + 1], pixels[at + 2]

    cells = [(value, token, layer) for token, row in enumerate(matrix) for layer, value in enumerate(row)]
    assert (len(matrix), len(matrix[0])) == (width, height)
    assert (254, 232, 56) == colour(*max(cells)[1:])
    assert (0, 34, 78) == colour(*min(cells)[1:])


def test_the_map_speaks_its_cells(page: Page) -> None:
    """With the focus on the map, arrows walk tokens and layers, and layer, token, text and value of the cell are announced."""
    _open(page, GENERATION)
    page.locator("heat-grid").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    value = _twin(page)["attention_entropy"][0][1]

    said = page.locator("[data-readout] span").first
    expect(said).to_contain_text("layer 1, token 0 ‘The’, attention entropy")
    expect(said).to_contain_text("nats")
    assert float(said.locator("em").inner_text().split()[0]) == pytest.approx(value, rel=6e-3)
    assert "polite" == page.locator("[data-readout]").get_attribute("aria-live")


def test_layer_by_head_of_the_token_at_the_cursor(page: Page) -> None:
    """The matrix has a column a head and a row a layer, follows the cursor, and speaks its cells."""
    _open(page, f"{GENERATION}?heads=matrix&tok=17")
    _has_canvas(page, world.HEADS, world.LAYERS)
    page.locator("heat-grid").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    every = page.request.get(f"{GENERATION}.json?heads=all&start=17&count=1").json()["sequences"][0]["attention_entropy"][0]

    said = page.locator("[data-readout] span").first
    expect(said).to_contain_text("layer 1, head 1, token 17")
    assert float(said.locator("em").inner_text().split()[0]) == pytest.approx(every[1][1], rel=6e-3)


def test_the_matrix_has_cells_before_a_token_is_chosen(page: Page) -> None:
    """Opened without a token it is that of the first one, where the cursor then stands."""
    _open(page, f"{GENERATION}?heads=matrix")
    _has_canvas(page, world.HEADS, world.LAYERS)
    expect(page.locator(".t.at")).to_have_text("The")
    expect(page).to_have_url(re.compile("tok=0"))


def test_a_token_pinned_in_a_sentence_is_told_from_it(page: Page) -> None:
    """Read by sentences, the panel of a token has the token's text as its own, and says which sentence it stands in."""
    _open(page, f"{GENERATION}?unit=sentence&tok=1")
    panel = page.locator("[data-panel]")
    said = panel.locator("dl.facts div")
    expect(said.filter(has_text=re.compile("^Text"))).to_contain_text(world.PIECES[1])
    sentence = page.locator(".t.at").inner_text()
    expect(said.filter(has_text="In the sentence").locator("dd")).to_have_text(sentence)
    expect(panel.locator(".chip")).to_have_count(0)


def test_a_pinned_token_shows_all_that_is_known(page: Page) -> None:
    """Enter pins: probability, bits, the choices there were, where each layer looked, and a profile over layers; again lets go."""
    _open(page, EVERY)
    page.locator("[data-lane]").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    panel = page.locator("[data-panel]")
    surprisal = float(STORY_VALUES[c.TOKEN_SURPRISAL][0])
    expect(panel).to_contain_text(f"{surprisal:#.3g} nats, {surprisal / np.log(2):#.3g} bits")
    expect(panel).to_contain_text(f"{100 * np.exp(-surprisal):#.3g} %")
    expect(panel).to_contain_text('"The"')
    expect(panel).to_contain_text("54 68 65")
    expect(panel.locator(".choices li")).to_have_count(2)
    expect(panel.locator(".choices li").nth(1)).to_contain_text(f"id {STORY_VALUES[c.ALTERNATIVE_ID][0, 1]}")
    expect(panel.locator(".sources dt")).to_have_text(["layer 4", "layer 8"])
    expect(panel.locator(".place").first).to_contain_text(f"#{STORY_VALUES[c.SOURCE_POSITION][0, 0, 0] - 5}")
    expect(panel.locator(".profile")).to_contain_text("in layer 8")
    page.keyboard.press("Enter")
    expect(panel).to_contain_text("No token pinned")


def test_g_finds_the_next_hesitation_and_the_slider_counts_them(page: Page) -> None:
    """`g` and `G` walk the tokens that reach the threshold, in order; the slider's count is that of the series."""
    _open(page, GENERATION)
    values = np.array(_twin(page)["signals"]["surprisal"])
    page.locator("[data-threshold] input[type=range]").evaluate(
        "one => { one.value = 2; one.dispatchEvent(new Event('input', {bubbles: true})); }")
    wanted = np.flatnonzero(values >= 2)
    expect(page.locator("[data-hesitations]")).to_contain_text(f"{len(wanted)} of {len(values)} at or above 2 nats")
    expect(page.locator("[data-lane] .t.h")).to_have_count(len(wanted))
    page.locator("[data-lane]").focus()
    for token in wanted[:4]:
        page.keyboard.press("g")
        expect(page.locator("[data-readout]")).to_contain_text(f"token {token}")
    page.keyboard.press("G")
    expect(page.locator("[data-readout]")).to_contain_text(f"token {wanted[2]}")


def test_g_starts_the_walk_from_anywhere(page: Page) -> None:
    """With nothing in focus `g` goes to the first hesitation and the text takes the focus; in the search box it is a letter."""
    _open(page, GENERATION)
    first = page.locator("[data-lane] .t.h").first.inner_text()
    page.keyboard.press("g")
    expect(page.locator(".t.at")).to_have_text(first)
    expect(page.locator("[data-lane]")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("[data-panel]")).to_contain_text("alternatives=5")
    page.locator("[data-omnibox]").press("g")
    expect(page.locator("[data-omnibox]")).to_have_value("g")
    expect(page.locator(".t.at")).to_have_text(first)


def test_v_walks_the_views_and_the_keys_stay(page: Page) -> None:
    """Each view that `v` opens has the focus where the next key is heard, at the same token; a click on a view takes it along."""
    _open(page, GENERATION)
    page.keyboard.press("g")
    token = page.locator("[data-readout]").inner_text()
    for view in ("numbers", "table", "layers", ""):
        with page.expect_navigation():
            page.keyboard.press("v")
        page.wait_for_selector("token-view[data-ready]")
        assert (f"view={view}" in page.url) == bool(view)
        expect(page.locator("token-view :focus")).to_have_count(1)
    expect(page.locator("[data-lane]")).to_be_focused()
    expect(page.locator("[data-readout]")).to_have_text(token, use_inner_text=True)
    page.reload()
    page.wait_for_selector("token-view[data-ready]")
    expect(page.locator("token-view :focus")).to_have_count(0)


def test_a_range_is_chosen_by_keys_and_summed_up(page: Page) -> None:
    """Shift and arrows choose a stretch; its mean, largest, sum and perplexity are those of the series; Escape lets go of it."""
    _open(page, f"{GENERATION}?signal=entropy")
    signals = _twin(page)["signals"]
    page.locator("[data-lane]").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    for _ in range(5):
        page.keyboard.press("Shift+ArrowRight")
    line = page.locator("[data-range]")
    part, nats = np.array(signals["entropy"][2:8]), np.array(signals["surprisal"][2:8])
    expect(line).to_contain_text("tokens 2 to 7")
    shown = [float(text.split()[0]) for text in line.locator("em").all_inner_texts()]
    assert shown == pytest.approx([part.mean(), part.max(), part.sum(), np.exp(nats.mean())], rel=6e-3)
    expect(page.locator("[data-lane] .t.in")).to_have_count(6)
    page.keyboard.press("Escape")
    expect(line.locator("em")).to_have_count(0)


def test_two_clicks_choose_the_word_three_the_sentence(page: Page) -> None:
    """A word of several tokens is chosen whole, and the sentence around it."""
    _open(page, GENERATION)
    inner = world.PIECES.index("vi")
    page.locator("[data-lane] .t").nth(inner).dblclick()
    expect(page.locator("[data-range]")).to_contain_text(f"tokens {inner - 1} to {inner + 1}")
    page.locator("[data-lane] .t").nth(inner).click(click_count=3)
    expect(page.locator("[data-range]")).to_contain_text(f"tokens {world.PIECES.index('If')} to")


def test_the_address_is_the_whole_state(page: Page, browser: Browser, watch: Watch, url: str) -> None:
    """Cursor, range and threshold made by hand stand in the address, which opened elsewhere shows the same; links keep them."""
    _open(page, f"{GENERATION}?unit=word&scale=log&strips=rank")
    page.locator("[data-lane]").focus()
    for key in ("ArrowRight", "ArrowRight", "Shift+ArrowRight", "Shift+ArrowRight"):
        page.keyboard.press(key)
    page.locator("[data-threshold] input[type=range]").evaluate(
        "one => { one.value = 1.5; one.dispatchEvent(new Event('input', {bubbles: true})); }")
    page.wait_for_url(re.compile(r"range=1-3.*scale=log.*strips=rank.*threshold=1\.5.*tok=3.*unit=word"))
    shown = ("[data-range]", "[data-hesitations]", ".t.at")
    said = [page.locator(where).text_content() for where in shown]
    context, other = watched_page(browser, watch, base_url=url)
    other.goto(page.url)
    other.wait_for_selector("token-view[data-ready][data-hesitating]")
    expect(other.locator("[data-range] em")).to_have_count(4)
    assert said == [other.locator(where).text_content() for where in shown]
    other.get_by_role("link", name="Numbers").click()
    other.wait_for_url(re.compile("range=1-3.*tok=3.*view=numbers"))
    context.close()


def test_words_are_walked_whole(page: Page) -> None:
    """Read by words, an arrow moves by a word, however many tokens it has, and the tokens keep their numbers."""
    _open(page, f"{GENERATION}?unit=word&tok={world.PIECES.index(' Four')}")
    page.locator("[data-lane]").focus()
    expect(page.locator(".t.at")).to_have_text("·Fourvière")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".t.at")).to_have_text(":")
    expect(page.locator("[data-readout]")).to_contain_text(f"token {world.PIECES.index(' Four') + 3}")


def test_a_screen_further_takes_the_cursor_along(page: Page) -> None:
    """PageDown moves the chosen token as far as the lane scrolls, PageUp brings both back; the cursor stays in sight."""
    _open(page, f"/gen/{world.LONG:016x}")
    page.locator("[data-lane]").focus()
    page.keyboard.press("Home")
    seen = """(() => {
        const at = document.querySelector('.t.at');
        const [lane, box] = [at.closest('[data-lane]').getBoundingClientRect(), at.getBoundingClientRect()];
        return [Number(document.querySelector('[data-readout]').textContent.match(/token ([0-9]+)/)[1]),
                box.top >= lane.top - 1 && box.bottom <= lane.bottom + 1];
    })()"""
    places = []
    for key in ("PageDown", "PageDown", "PageUp", "PageUp"):
        page.keyboard.press(key)
        index, visible = page.evaluate(seen)
        places.append(index)
        assert visible

    first, second, back, start = places
    assert 20 < first < second < 640
    assert first == pytest.approx(back, abs=30)
    assert start < 30


def test_a_later_window_knows_its_place(page: Page) -> None:
    """In a later window of a long generation, indices and values go on where the one before ended."""
    _open(page, f"/gen/{world.LONG:016x}?start=8192")
    page.locator("[data-lane] .t").nth(3).hover()
    value = _twin(page, f"/gen/{world.LONG:016x}")["signals"]["entropy"][8195]

    expect(page.locator("[data-readout]")).to_contain_text(f"token {8195}")
    expect(page.locator("[data-readout]")).to_contain_text(f"entropy {value:#.3g}")


def test_a_hundred_thousand_tokens_are_walked(page: Page) -> None:
    """The end is a key away, the arrow goes back over a window's edge, the far middle is a click: text, strip and map follow."""
    _open(page, HUGE)
    readout, tokens = page.locator("[data-readout]"), page.locator("[data-lane] .t")
    expect(tokens).to_have_count(640)
    page.locator("[data-lane]").focus()
    page.keyboard.press("End")
    expect(readout).to_contain_text(f"token {TOKENS - 1}")
    edge = TOKENS // 640 * 640
    expect(tokens).to_have_count(TOKENS - edge)
    _has_canvas(page, TOKENS - edge, world.LAYERS)
    tokens.first.hover()
    page.keyboard.press("ArrowLeft")
    expect(readout).to_contain_text(f"token {edge - 1}")
    expect(page.locator(".t.at")).to_have_text(re.compile(re.escape(world.PIECES[(edge - 1) % len(world.PIECES)].strip() or "↵")))
    page.locator("[data-overview]").click(position={"x": 600, "y": 10})
    expect(readout).not_to_contain_text(f"token {edge - 1}")
    shown = int(re.findall(r"token (\d+)", readout.inner_text())[0])
    assert 40_000 < shown < 60_000
    numbers = page.request.get(f"{HUGE}.f32?series=entropy&start={shown}&count=1").body()
    expect(readout).to_contain_text(f"entropy {np.frombuffer(numbers, '<f4')[0]:#.3g}")


def test_the_page_of_a_hundred_thousand_tokens_is_light(page: Page) -> None:
    """What the page loads before anything is asked for: the document, its styles and scripts stay under 200 kB together."""
    sizes: dict[str, int] = {}
    page.on("response", lambda answer: sizes.update({answer.url.split("?")[0]: len(answer.body())}))
    _open(page, HUGE)

    weight = sum(size for address, size in sizes.items() if not address.endswith((".f32", "lane.json")))
    assert 50_000 < weight < 200_000
