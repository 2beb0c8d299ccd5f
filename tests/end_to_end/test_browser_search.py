"""The results page in a real browser: dragging, keys, what comes later, and all of it without script."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Page, Route, expect

import web_helpers as world
from browser_helpers import CHROMIUM
from cutaway_collector.web.pages import search

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: install the package chromium"),
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with world.stored(tmp_path_factory.mktemp("browser-search") / "data", *world.world()) as store, world.served(store) as address:
        yield address


def parameters(page: Page) -> dict[str, str]:
    """Of the address that the page has."""
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


def drag(page: Page, start: float, end: float, *, top: float = 0.5, bottom: float = 0.5) -> None:
    """Across the picture, in parts of its width and height."""
    box = page.locator("plot-brush > svg").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + start * box["width"], box["y"] + top * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + (start + end) / 2 * box["width"], box["y"] + (top + bottom) / 2 * box["height"])
    page.mouse.move(box["x"] + end * box["width"], box["y"] + bottom * box["height"])
    page.mouse.up()


@pytest.mark.parametrize("path", ["/search?plot=perplexity", "/search?view=traces&plot=ttft", "/search?plot=count&table=1",
                                  "/search?cols=entropy,score.repetition,host.name&facets=host.name"])
def test_every_form_of_the_page_fits_a_phone(page: Page, path: str) -> None:
    """At 320 px nothing but tables scrolls sideways, and the policy is kept."""
    page.set_viewport_size({"width": 320, "height": 700})
    page.goto(path)
    scrolled, shown = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert scrolled <= shown


@pytest.mark.parametrize("path", ["/search", "/search?view=traces", "/compare?a=is:error", f"/gen/{world.CHAT:016x}"])
def test_what_opens_fits_a_narrow_window(page: Page, path: str) -> None:
    """Each panel of a page, opened alone at 320 px, and at 640 px, which is a usual window at 200 %, lies within the window."""
    for width in (320, 640):
        page.set_viewport_size({"width": width, "height": 700})
        page.goto(path)
        beyond = page.evaluate("""width => {
            const all = [...document.querySelectorAll("details")];
            return all.filter((one) => {
              all.forEach((other) => (other.open = other === one));
              const boxes = [...one.querySelectorAll("*")].map((part) => part.getBoundingClientRect()).filter((box) => box.width);
              return document.documentElement.scrollWidth > width || boxes.some((box) => box.left < 0);
            }).map((one) => one.querySelector("summary").textContent);
        }""", width)
        assert [] == beyond, width
        assert page.locator("details").count()


def test_dragging_over_the_histogram_narrows_the_time(page: Page) -> None:
    """The rows are those between the two bars, as the bars count them."""
    page.goto("/search")
    bars = page.locator("plot-brush > svg a title").all_text_contents()
    assert len(bars) > 10
    drag(page, 0.25, 0.5)
    page.wait_for_url("**/search?from=*&to=*")
    found = page.request.get(page.url.replace("/search?", "/search.json?limit=500&")).json()["rows"]
    chosen = parameters(page)
    inside = [title for title in bars if chosen["from"][:19] <= title[:10] + "T" + title[11:19] < chosen["to"][:19]]
    assert sum(int(title.split(": ")[1].split()[0]) for title in inside) == len(found) > 0


def test_a_click_on_a_bar_is_its_link(page: Page) -> None:
    """Without moving, the pointer opens the bar it is on."""
    page.goto("/search")
    link = page.locator("plot-brush > svg a").nth(5)
    target = link.get_attribute("href")
    link.locator("rect.bar").first.click()
    page.wait_for_url(f"**{target}")


def test_arrow_keys_select_bars(page: Page) -> None:
    """Arrow keys walk the bars, with shift they select, Enter opens the time of the selection."""
    page.goto("/search")
    page.locator("plot-brush > svg a").first.focus()
    page.keyboard.press("ArrowRight")
    for _ in range(3):
        page.keyboard.press("Shift+ArrowRight")
    expect(page.locator("plot-brush .brush")).not_to_have_attribute("hidden", "")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search?from=*&to=*")


def test_a_rectangle_of_cells_is_compared_with_the_rest(page: Page) -> None:
    """Dragging with shift fills the form; its button leads to the comparison of those values with the others of that time."""
    page.goto("/search?plot=perplexity&q=is:generation")
    page.keyboard.down("Shift")
    drag(page, 0.3, 0.7, top=0.1, bottom=0.4)
    page.keyboard.up("Shift")
    form = page.locator(".selection form")
    expect(form.locator("button")).to_be_focused()
    low = form.locator("input[name=low]").input_value()
    assert float(low) > 1
    with page.expect_request(re.compile("/compare")) as asked:
        page.keyboard.press("Enter")
    sent = {name: values[0] for name, values in parse_qs(urlsplit(asked.value.url).query).items()}
    assert sent["a"].startswith(f"perplexity:>={low}")
    assert (f"-({sent['a']})", "is:generation") == (sent["b"], sent["q"])
    assert {"from", "to"} <= set(sent)


def test_rows_are_opened_selected_and_looked_at_by_keys(page: Page) -> None:
    """Move to a row by j; e opens a closer look in line and closes it; x twice and c leads to the comparison."""
    page.goto("/search?q=is:generation service:concierge")
    page.keyboard.press("j")
    page.keyboard.press("e")
    expect(page.locator("tr.looked")).to_contain_text("gen_ai.request.temperature")
    page.keyboard.press("e")
    expect(page.locator("tr.looked")).to_have_count(0)
    page.keyboard.press("x")
    page.keyboard.press("j")
    page.keyboard.press("x")
    picks = page.locator("[name=pick]:checked").evaluate_all("boxes => boxes.map(box => box.value)")
    assert 2 == len(picks)
    with page.expect_request(re.compile("/compare\\?a=")) as asked:
        page.keyboard.press("c")
    sent = parse_qs(urlsplit(asked.value.url).query)
    assert picks == [sent["a"][0], sent["b"][0]]


def test_a_facet_comes_when_it_is_seen(page: Page) -> None:
    """What the page had no time to count is fetched in view, and its links work."""
    page.goto("/search")
    page.evaluate("""() => {
        const later = document.createElement('later-part');
        later.dataset.src = '/search/facet?name=host.name';
        later.append(document.createElement('section'));
        later.firstChild.textContent = 'x';
        document.querySelector('.rail').prepend(later);
    }""")
    link = page.locator(".rail").get_by_role("link", name="gpu-7", exact=True)
    expect(link).to_be_visible()
    link.click()
    page.wait_for_url("**host.name*")


def test_what_comes_later_takes_its_place(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """Picture, counts and facets follow by themselves; bars can be walked, and who waits there with the keyboard stays."""
    monkeypatch.setattr(search, "PAGE_SECONDS", 0.0)
    held: list[Route] = []
    page.route("**/search/picture?*", lambda route: held.append(route))
    page.goto("/search")
    expect(page.locator("plot-brush")).to_have_count(0)
    page.locator("later-part .picture .later").wait_for()
    page.locator("later-part .segments a").first.focus()
    while not held:
        page.wait_for_timeout(20)
    held[0].continue_()

    expect(page.locator(".bar .count")).to_have_text(re.compile(r"^50 of \d+ spans$"))
    expect(page.locator("later-part .picture")).to_have_count(0)
    expect(page.locator("plot-brush")).to_have_count(1)
    expect(page.locator(".picture a:focus")).to_have_count(1)
    page.locator("plot-brush > svg a").first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("plot-brush > svg a:focus")).to_have_count(1)


def test_it_all_works_without_script(browser: Browser, url: str) -> None:
    """Bars, cells, facets, columns, views, selection and two picked rows by links and forms alone."""
    context = browser.new_context(base_url=url, java_script_enabled=False, viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto("/search")
    page.locator("summary", has_text="Columns").click()
    page.get_by_label("More, between commas").fill("host.name")
    page.get_by_role("button", name="Apply").last.click()
    page.wait_for_url(re.compile("cols=[^&]*host.name"))
    page.get_by_label("By any attribute").fill("host.name")
    page.get_by_role("button", name="Add").click()
    page.wait_for_url(lambda url: "facets" in url)
    assert "host.name" == parameters(page)["facets"]
    page.get_by_role("link", name="Traces", exact=True).click()
    expect(page.locator("table.hits")).to_contain_text("POST /answer")
    page.get_by_role("link", name="Perplexity", exact=True).click()
    page.wait_for_url(lambda url: "plot" in url)
    assert {"plot": "perplexity", "view": "traces"}.items() <= parameters(page).items()
    page.get_by_role("link", name="As a table").click()
    expect(page.locator("table.plain")).to_contain_text("perplexity from")
    page.goto("/search?q=is:generation")
    page.locator("[name=pick]").nth(0).check()
    page.locator("[name=pick]").nth(1).check()
    page.get_by_role("button", name="Compare selected").click()
    page.wait_for_url(lambda url: urlsplit(url).path == "/compare")
    context.close()


def test_the_table_fits_a_small_screen_of_a_desk(page: Page) -> None:
    """At 1280 px every usual column is there at once, the name of the model in full."""
    page.goto("/search")
    scrolled, shown = page.locator(".results .scroll").first.evaluate("box => [box.scrollWidth, box.clientWidth]")
    assert scrolled <= shown
    cut = page.locator("td.model bdi").evaluate_all("all => all.filter(one => one.scrollHeight > one.clientHeight + 2).length")
    assert 0 == cut < page.locator("td.model bdi[title]").count()


def test_a_score_does_not_take_the_place_of_the_field_of_its_name(page: Page) -> None:
    """When the store's names have come, the language's still stand, and a field begins a query with its own name."""
    page.goto("/search")
    box = page.locator("[data-omnibox]")
    box.press_sequentially("repet")
    options = page.locator("#query-suggestions [role=option]")
    expect(options.filter(has_text="score")).to_have_count(1)
    expect(options.first).to_contain_text("repetition")
    expect(options.first).not_to_contain_text("score")
    box.press("Tab")
    expect(box).to_have_value("repetition:")


def test_what_joins_conditions_is_offered_behind_one(page: Page) -> None:
    """OR stands behind a condition, not at the beginning of what braces hold."""
    page.goto("/search")
    box = page.locator("[data-omnibox]")
    options = page.locator("#query-suggestions [role=option]")
    box.press_sequentially("any{")
    expect(options.first).to_contain_text("is:")
    box.press_sequentially("is:error ")
    expect(options.first).to_contain_text("OR")
