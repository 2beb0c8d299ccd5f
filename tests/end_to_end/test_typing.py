"""The search box's suggestions, the palette, the sheet of keys, saved searches and exports in a real browser."""

from __future__ import annotations

import csv
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

import web_helpers as world
from browser_helpers import CHROMIUM, Watch, watched_page
from cutaway_collector.search.caret import context
from cutaway_collector.search.language import QUERY_CHARACTERS_MAX

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: install the package chromium"),
]

BOX = "[data-omnibox]"
OPTION = ".query-box [role=option]"
TRACE = f"/trace/{world.RAG_TRACE:032x}"
PIECES = ["model", "ttft", ":", ">", "=", '"', "\\", "(", ")", "{", "}", "[", "]", "|", " ", "any", "is", "has", "-", "NOT ", "OR",
          "/", "é", "名", ".x", "score.", "resource.", "1", ",", "a", "stats ", "sort", "limit ", "compare (", "by ", " every ",
          "count()", " | ", "\t", "😀", "TO", "~", "!="]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    spans, blocks = world.world()
    with world.stored(tmp_path_factory.mktemp("typing") / "data", spans, blocks) as store, world.served(store) as address:
        yield address


@pytest.fixture
def opened(browser: Browser, watch: Watch, url: str) -> Iterator[tuple[BrowserContext, Page]]:
    context, page = watched_page(browser, watch, base_url=url)
    yield context, page
    context.close()


@pytest.fixture
def page(opened: tuple[BrowserContext, Page]) -> Page:
    return opened[1]


def _type(page: Page, text: str) -> None:
    page.locator(BOX).focus()
    page.keyboard.type(text)


def _query(page: Page) -> str:
    return page.locator(BOX).input_value()


def test_script_and_server_read_the_caret_alike(page: Page) -> None:
    """Whatever is typed, the page's reading of it is the server's: the same place, the same word, the same field."""
    rng = random.Random(11)
    cases = []
    for _ in range(4000):
        text = "".join(rng.choice(PIECES) for _ in range(rng.randint(0, 14)))
        cases.append((text, rng.randint(0, len(text))))
    page.goto("/help")
    found = page.evaluate("""async cases => {
        const { contextOf } = await import("/static/query_context.js");
        const units = (text, at) => [...text].slice(0, at).join("").length;
        const characters = (text, at) => [...text.slice(0, at)].length;
        return cases.map(([text, at]) => {
            const place = contextOf(text, units(text, at));
            const { kind, start, end, prefix, field, listed } = place;
            return [kind, characters(text, start), characters(text, end), prefix, field, listed];
        });
    }""", cases)

    for (text, at), mine in zip(cases, found, strict=True):
        place = context(text, at)
        assert [place.kind, place.start, place.end, place.prefix, place.field, place.listed] == mine, (text, at)


def test_a_query_is_written_with_tab_and_enter(page: Page) -> None:
    """Tab takes the first suggestion, an arrow and Enter take another, and Enter without one searches."""
    page.goto("/help")
    _type(page, "mod")
    expect(page.locator(OPTION).first).to_contain_text("model")
    page.keyboard.press("Tab")
    assert "model:" == _query(page)
    expect(page.locator(OPTION).first).to_contain_text("SmolLM2-135M-Instruct")
    expect(page.locator(OPTION).first).to_contain_text("spans")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    active = page.locator(BOX).get_attribute("aria-activedescendant")
    expect(page.locator(f"#{active}")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Enter")
    assert "model:Qwen2.5-7B-Instruct " == _query(page)
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/search\\?.*q=model"))

    expect(page.locator("[data-omnibox]")).to_have_value("model:Qwen2.5-7B-Instruct")


@pytest.mark.parametrize(("typed", "first"), [
    ("is:error | stats count() ", ["by", "every"]), ("| stats count() b", ["by"]), ("| stats count() by model e", ["every"]),
    ("| stats count() by mod", ["model"]), ("| stats p95(dur", ["duration"]), ("| sort -dur", ["duration"]),
    ("is:error | compare (is:gen", ["generation"]), ("is:error | compare (model:Sm", ["SmolLM2-135M-Instruct"]),
])
def test_stages_are_completed(page: Page, typed: str, first: list[str]) -> None:
    """Behind a bar too, what is offered first is what can stand there."""
    page.goto("/help")
    _type(page, typed)
    for place, text in enumerate(first):
        expect(page.locator(f"{OPTION} .query-text").nth(place)).to_have_text(text)


@pytest.mark.parametrize("typed", ["is:error | limit 2", "| stats count() every 1"])
def test_a_number_of_rows_and_an_interval_are_left_alone(page: Page, typed: str) -> None:
    """No name is offered for a number, and Tab leaves the box with what was typed."""
    page.goto("/help")
    _type(page, typed[:-2])
    expect(page.locator(OPTION).first).to_be_visible()
    page.keyboard.type(typed[-2:])
    expect(page.locator(OPTION)).to_have_count(0)
    page.keyboard.press("Tab")

    assert typed == _query(page)
    expect(page.locator(BOX)).not_to_be_focused()


def test_the_box_takes_as_long_a_query_as_the_language(page: Page) -> None:
    """What is pasted is not cut short: a list of sixty values arrives whole, and nothing longer than the language takes goes in."""
    page.goto("/help")
    query = f"model:({', '.join(f'{number:040d}' for number in range(60))})"
    page.locator(BOX).focus()
    page.keyboard.insert_text(query)
    assert query == _query(page)
    page.keyboard.insert_text("x" * QUERY_CHARACTERS_MAX)
    assert QUERY_CHARACTERS_MAX == len(_query(page))


def test_enter_searches_for_what_is_typed(page: Page) -> None:
    """With suggestions open and none of them moved to, Enter runs the text as it stands."""
    page.goto("/help")
    _type(page, "status:er")
    expect(page.locator(OPTION).first).to_be_visible()
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("q=status"))

    assert "status:er" == _query(page)


def test_what_stands_left_is_never_touched(page: Page) -> None:
    """A suggestion taken in the middle changes its own word alone; the operator behind it is not doubled."""
    page.goto("/help")
    _type(page, 'service:concierge mod:gpt2 "a  b"')
    for _ in range(len(':gpt2 "a  b"')):
        page.keyboard.press("ArrowLeft")
    page.keyboard.press("Backspace")
    expect(page.locator(OPTION).first).to_contain_text("model")
    page.keyboard.press("Tab")

    assert 'service:concierge model:gpt2 "a  b"' == _query(page)


def test_escape_closes_then_leaves(page: Page) -> None:
    """The first Esc closes the list and keeps the text, the second leaves the box."""
    page.goto("/help")
    _type(page, "tt")
    expect(page.locator(OPTION).first).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".query-box")).to_be_hidden()
    expect(page.locator(BOX)).to_be_focused()
    assert "tt" == _query(page)
    page.keyboard.press("Escape")

    expect(page.locator(BOX)).not_to_be_focused()


def test_values_keep_to_the_rest_of_the_query(page: Page) -> None:
    """With a service named only its values are offered, each with its number of spans."""
    page.goto("/help")
    _type(page, "service:postgres name:")

    expect(page.locator(OPTION)).to_have_count(1)
    expect(page.locator(OPTION)).to_contain_text("SELECT documents")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert 'service:postgres name:"SELECT documents" ' == _query(page)


def test_typing_on_gives_up_the_question_before(page: Page) -> None:
    """An answer that comes late is not shown under another text."""
    held: list[Route] = []
    page.route("**/complete.json?*q=model*", lambda route: held.append(route))
    page.goto("/help")
    with page.expect_request("**/complete.json?q=model%3A&*"):
        _type(page, "model:")
    with page.expect_event("requestfailed"):
        page.keyboard.type("x")

    assert held


def test_what_was_searched_comes_first_when_the_box_is_empty(page: Page) -> None:
    """The last queries are offered in an empty box, the newest first."""
    for query in ("is:error", "perplexity:>20"):
        page.goto("/help")
        _type(page, query)
        page.keyboard.press("Enter")
        page.wait_for_url("**/search?*")
    page.goto("/help")
    page.locator(BOX).focus()

    expect(page.locator(OPTION).nth(0)).to_contain_text("perplexity:>20")
    expect(page.locator(OPTION).nth(1)).to_contain_text("is:error")


def test_suggestions_can_be_switched_off(page: Page) -> None:
    """Off is off, also on the next page, until it is switched on in the sheet."""
    page.goto("/help")
    _type(page, "mod")
    page.get_by_role("button", name="Turn suggestions off").click()
    page.goto("/help")
    _type(page, "model")
    page.keyboard.press("Control+k")
    page.locator("dialog.palette").wait_for()
    expect(page.locator(".query-box")).to_be_hidden()
    page.keyboard.type("keyboard")
    page.keyboard.press("Enter")
    page.get_by_label("Suggestions in the search box").check()
    page.keyboard.press("Escape")
    page.goto("/help")
    _type(page, "mod")

    expect(page.locator(OPTION).first).to_be_visible()


def test_the_palette_leads_to_pages_searches_and_traces(opened: tuple[BrowserContext, Page], url: str) -> None:
    """Ctrl K anywhere: words narrow it, Enter goes; traces looked at are in it; Esc gives the focus back."""
    context, page = opened
    token = context.request.get(f"{url}/form-token.json").json()["token"]
    context.request.post(f"{url}/saved", form={"name": "unsure answers", "q": "perplexity:>20", "form_token": token})
    page.goto(TRACE)
    page.goto("/help")
    page.locator(BOX).focus()
    page.keyboard.press("Control+k")
    expect(page.get_by_role("combobox", name="Go to")).to_be_focused()
    expect(page.locator("dialog [role=option]", has_text="Trace seen lately")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(page.locator(BOX)).to_be_focused()
    page.keyboard.press("Control+k")
    expect(page.get_by_role("combobox", name="Go to")).to_be_focused()  # it opens when its entries have come
    page.keyboard.type("unsure")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search?q=perplexity*")
    page.keyboard.press("Control+k")
    page.locator("dialog.palette").wait_for()
    page.keyboard.type("lately")
    page.keyboard.press("Enter")

    page.wait_for_url(f"**{TRACE}")


def test_the_palette_takes_what_is_typed_before_it_is_filled(page: Page, url: str) -> None:
    """It is open at once: with the collector's answer still on its way, every key goes into it, and Enter waits for the answer."""
    held: list[Route] = []
    page.route("**/palette.json", lambda route: held.append(route))
    page.goto("/search")
    page.keyboard.press("Control+k")
    page.keyboard.type("drift")
    page.keyboard.press("Enter")

    expect(page.get_by_role("combobox", name="Go to")).to_have_value("drift")
    expect(page.locator("dialog.palette [role=status]")).to_contain_text("Asking")
    assert "/search" in page.url
    held[0].continue_()
    page.wait_for_url("**/drift")


def test_the_palette_says_when_nobody_answers(page: Page, watch: Watch) -> None:
    """What this browser knows itself is there all the same."""
    page.route("**/palette.json", lambda route: route.fulfill(status=503, body="{}"))
    page.goto("/help")
    page.keyboard.press("Control+k")

    expect(page.locator("dialog.palette [role=status]")).to_contain_text("does not answer")
    expect(page.get_by_role("option", name="Keyboard shortcuts")).to_be_visible()
    assert all("503" in fault for fault in watch.faults)  # the browser's own words for the answer
    watch.faults.clear()


def test_single_keys_can_be_switched_off(page: Page) -> None:
    """Off, neither / nor ? does anything on any page, while Ctrl K goes on; switched on again they work."""
    page.goto("/help")
    page.keyboard.press("?")
    page.get_by_label("Shortcuts of a single key").uncheck()
    page.keyboard.press("Escape")
    page.goto("/help")
    page.keyboard.press("/")
    page.keyboard.press("?")
    expect(page.locator(BOX)).not_to_be_focused()
    expect(page.locator("dialog")).to_have_count(0)
    page.keyboard.press("Control+k")
    page.locator("dialog.palette").wait_for()
    page.keyboard.type("keyboard")
    page.keyboard.press("Enter")
    page.get_by_label("Shortcuts of a single key").check()
    page.keyboard.press("Escape")
    expect(page.locator("dialog.sheet")).to_be_hidden()
    page.keyboard.press("/")

    expect(page.locator(BOX)).to_be_focused()


def test_a_key_right_behind_the_sheet_is_the_pages(page: Page) -> None:
    """The browser leaves the focus in a closed dialog until it draws again: a key that comes sooner works all the same."""
    page.goto("/help")
    page.keyboard.press("?")
    page.get_by_label("Shortcuts of a single key").focus()
    where = page.evaluate("""() => {
        document.querySelector("dialog.sheet").close();
        const box = document.activeElement;
        box.dispatchEvent(new KeyboardEvent("keydown", { key: "/", bubbles: true, cancelable: true }));
        return box.type ?? box.tagName;
    }""")

    expect(page.locator(BOX)).to_be_focused()
    assert "checkbox" == where


def test_the_sheet_holds_the_focus_and_gives_it_back(page: Page) -> None:
    """While it is open, Tab stays within it, and single keys of the page do nothing; closed, the focus is where it was."""
    page.goto("/help")
    link = page.locator("nav a").first
    link.focus()
    page.keyboard.press("?")
    page.locator("dialog.sheet").wait_for()
    inside = "document.activeElement === document.body || document.activeElement.closest('dialog') !== null"
    for _ in range(8):
        page.keyboard.press("Tab")
        assert page.evaluate(inside)
    page.keyboard.press("/")
    assert page.evaluate(inside)
    page.keyboard.press("Escape")

    expect(link).to_be_focused()


def test_a_search_is_saved_found_renamed_and_deleted(page: Page) -> None:
    """From the results to the list and back, by the page's own forms."""
    page.goto("/search?q=is:error&from=-24h")
    page.locator("summary", has_text=re.compile("^Save$")).click()
    page.get_by_label("Name of this search").fill("what failed")
    page.locator(".pop[open]").get_by_role("button", name="Save").click()
    page.wait_for_url("**/saved")
    entry = page.locator("li", has_text="what failed")
    entry.locator("summary", has_text="Change").click()
    entry.get_by_label("New name").fill("failures")
    entry.get_by_role("button", name="Rename").click()
    page.get_by_role("link", name="failures").click()
    page.wait_for_url(re.compile("from=-24h.*q=is%3Aerror"))
    page.goto("/saved?filter=failures")
    page.locator("summary", has_text="Change").click()
    page.get_by_role("button", name="Delete").click()

    expect(page.get_by_role("link", name="failures")).to_have_count(0)


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
def test_an_export_shows_its_progress_and_is_saved(page: Page, tmp_path: Path, format: str) -> None:
    """The file that the browser saves holds as many rows as the page said."""
    page.goto("/search?q=is:generation")
    page.get_by_role("link", name="Export").click()
    page.wait_for_url("**/export?*")
    said = int(re.search(r"all ([\d,]+)", page.locator("h1").inner_text())[1].replace(",", ""))  # type: ignore[index]  # else it fails
    page.locator(f"input[value={format}]").check()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    saved = tmp_path / download.value.suggested_filename
    download.value.save_as(saved)
    expect(page.locator(".export-progress [role=status]")).to_contain_text("Saved as")

    if format == "parquet":
        rows = pyarrow.parquet.read_table(saved).num_rows
    elif format == "jsonl":
        rows = len([json.loads(line) for line in saved.read_text().splitlines()])
    else:
        rows = len(list(csv.DictReader(saved.open(newline=""))))
    assert said == rows


def test_an_export_can_be_stopped(page: Page) -> None:
    """Stop ends it, says so, and nothing is saved."""
    page.route("**/export?*format=*", lambda route: None)
    page.goto("/export?q=is:generation")
    page.get_by_role("button", name="Export").click()
    page.get_by_role("button", name="Stop").click()

    expect(page.locator(".export-progress [role=status]")).to_contain_text("Stopped")


def test_without_script_all_of_it_is_plain_forms(browser: Browser, watch: Watch, url: str, tmp_path: Path) -> None:
    """Saving, the list and the download work where no script runs."""
    context, page = watched_page(browser, watch, base_url=url, java_script_enabled=False)
    page.goto("/search?q=is:error")
    page.locator("summary", has_text=re.compile("^Save$")).click()
    page.get_by_label("Name of this search").fill("no script")
    page.locator(".pop[open]").get_by_role("button", name="Save").click()
    page.wait_for_url("**/saved")
    expect(page.get_by_role("link", name="no script")).to_be_visible()
    page.goto("/export?q=is:error")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    download.value.save_as(tmp_path / "rows.csv")
    context.close()

    assert list(csv.DictReader((tmp_path / "rows.csv").open(newline="")))


@pytest.mark.parametrize("path", ["/saved", "/export?q=is:generation"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_scrolls_sideways_on_a_phone(page: Page, path: str, scheme: str) -> None:
    """At 320 px the pages fit, in both themes, and so do the list under the box, the palette and the sheet."""
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]  # one of the two
    page.set_viewport_size({"width": 320, "height": 700})
    page.goto(path)
    fits = "document.documentElement.scrollWidth <= innerWidth"
    assert page.evaluate(fits)
    page.locator(BOX).fill("")
    _type(page, "perp")
    expect(page.locator(OPTION).first).to_be_visible()
    assert page.evaluate(fits)
    page.keyboard.press("Control+k")
    page.locator("dialog.palette").wait_for()
    assert page.evaluate(fits)
    page.keyboard.type("keyboard")
    page.keyboard.press("Enter")
    page.locator("dialog.sheet").wait_for()

    assert page.evaluate(fits)
    assert page.locator("dialog.sheet").evaluate("dialog => dialog.scrollWidth <= dialog.clientWidth")
