"""The trace page in a real browser: the keys of its tree grid, what it fetches, filter, zoom, and twenty thousand rows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

import web_helpers as world
from browser_helpers import CHROMIUM, Held, Watch, watched_page
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore
from cutaway_collector.web import create_app
from flask_serving import serving
from search_helpers import START_NS, Event, Span

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: install the package chromium"),
]

MS = 1_000_000
TRACE = f"/trace/{world.RAG_TRACE:032x}"
TOOLS, DEEP = 80, 81
TOOLS_TRACE, DEEP_TRACE = f"/trace/{TOOLS:032x}", f"/trace/{DEEP:032x}"
DEEP_SPANS = 20_000
LAST_WORD = "<img src=x onerror=alert(1)>"


def _span(trace: int, number: int, parent: int, name: str, **more: object) -> Span:
    base = trace * 1_000_000
    return Span(base + number, name, trace, base + parent if parent else 0, start_ns=START_NS + number * MS,
                duration_ns=5 * MS, **more)  # type: ignore[arg-type]  # a helper that passes on what tests say


def _traces() -> list[Span]:
    spans = [_span(TOOLS, 1, 0, "agent"), _span(TOOLS, 2, 1, "plan"), _span(TOOLS, 3, 2, "think")]
    spans += [_span(TOOLS, n, 1, "tool.call", status="Error" if n in (12, 31) else "Ok") for n in range(10, 40)]
    spans += [_span(TOOLS, 50, 1, LAST_WORD, attributes={"word": LAST_WORD}, events=[Event(LAST_WORD)])]
    spans += [_span(TOOLS, 51, 50, "think"), _span(DEEP, 1, 0, "run")]
    spans += [_span(DEEP, n, n - 1 if n % 4 == 0 else max(1, n // 50), f"step {n % 97}") for n in range(2, DEEP_SPANS + 1)]
    return spans


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseStore]:
    spans, blocks = world.world()
    with world.stored(tmp_path_factory.mktemp("trace") / "data", [*spans, *_traces()], blocks) as opened:
        yield opened


@pytest.fixture(scope="module")
def url(store: ClickHouseStore) -> Iterator[str]:
    with world.served(store) as address:
        yield address


@pytest.fixture(scope="module")
def grouped_url(store: ClickHouseStore) -> Iterator[str]:
    """The same store behind pages that draw fewer spans a row each."""
    with serving(create_app(store, Settings(data="unused", trace_spans_max=5000), now_ns=lambda: world.NOW_NS)) as address:
        yield address


def _open(page: Page, path: str) -> None:
    page.goto(path)
    page.wait_for_selector("trace-rows[data-ready]")


def _press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def _focused(page: Page) -> Locator:
    return page.locator(".row:focus .cover")


def test_the_script_draws_the_rows_of_the_server(page: Page, browser: Browser, url: str) -> None:
    """With and without script the rows say the same, in the same order, with bars in the same places."""
    context = browser.new_context(base_url=url, java_script_enabled=False, viewport={"width": 1280, "height": 900})
    plain = context.new_page()
    plain.goto(TRACE)
    _open(page, TRACE)

    for what in (".row .label", ".row .took"):
        assert plain.locator(what).all_inner_texts() == page.locator(what).all_inner_texts()
    seen = "rows => rows.map(row => [...row.querySelectorAll('.lane rect')].map(part => [part.getAttribute('class'), " \
           "Math.round(10 * parseFloat(part.getAttribute('x'))), Math.round(10 * parseFloat(part.getAttribute('width')))]))"
    assert plain.locator(".row").evaluate_all(seen) == page.locator(".row").evaluate_all(seen)
    keys = "['level', 'rowindex', 'expanded', 'selected']"
    attributes = f"rows => rows.map(row => {keys}.map(key => row.getAttribute('aria-' + key)))"
    assert plain.locator(".row").evaluate_all(attributes) == page.locator(".row").evaluate_all(attributes)
    context.close()


def test_arrows_walk_close_and_open(page: Page) -> None:
    """Down and up move, left closes and goes to the parent, right opens and goes in, Home and End go to the ends; one tab stop."""
    _open(page, TOOLS_TRACE)
    page.locator(".row").first.focus()
    _press(page, "ArrowDown", "ArrowDown")
    expect(_focused(page)).to_have_text("think")
    _press(page, "ArrowLeft")
    expect(_focused(page)).to_have_text("plan")
    _press(page, "ArrowLeft")
    expect(page.locator(".row:focus")).to_have_attribute("aria-expanded", "false")
    expect(page.get_by_role("row")).to_have_count(5)
    _press(page, "ArrowRight", "ArrowRight")
    expect(_focused(page)).to_have_text("think")
    _press(page, "End")
    expect(_focused(page)).to_have_text("think")
    expect(page.locator(".row:focus")).to_have_attribute("aria-rowindex", "6")
    _press(page, "Home")
    expect(_focused(page)).to_have_text("agent")
    assert 1 == page.locator(".row[tabindex='0']").count()


def test_a_group_opens_in_place_and_stays_in_the_address(page: Page) -> None:
    """The row of thirty calls opens to them; the address then opens it again; what a visitor closed by name stays closed."""
    _open(page, TOOLS_TRACE)
    group = page.locator(".row", has_text="× 30")
    expect(group).to_contain_text("2 errors")
    group.locator(".cover").click()
    expect(page.locator("[role=treegrid]")).to_have_attribute("aria-rowcount", "36")
    _press(page, "Home", "ArrowDown", "ArrowLeft")
    expect(page.locator("[role=treegrid]")).to_have_attribute("aria-rowcount", "35")
    expect(page).to_have_url(re.compile("open="))
    page.reload()
    page.wait_for_selector("trace-rows[data-ready]")

    expect(page.locator("[role=treegrid]")).to_have_attribute("aria-rowcount", "35")
    expect(page.locator(".row", has_text="plan").first).to_have_attribute("aria-expanded", "false")


def test_enter_shows_the_span_and_the_address_follows(page: Page) -> None:
    """Enter fetches one span and puts it beside the rows; once more goes to it; text of a span is never markup."""
    _open(page, TOOLS_TRACE)
    with page.expect_response(re.compile("/span/")) as asked:
        page.locator(".row", has_text="<img").locator(".cover").click()
    expect(page.locator(".detail h2")).to_have_text(LAST_WORD)
    assert asked.value.url.split("?")[0].endswith(f"{TOOLS * 1_000_000 + 50:016x}")
    expect(page).to_have_url(re.compile(f"span={TOOLS * 1_000_000 + 50:016x}"))
    assert 0 == page.locator(".detail img").count()
    _press(page, "Enter")
    expect(page.locator(".detail")).to_be_focused()
    page.reload()
    expect(page.locator(".detail h2")).to_have_text(LAST_WORD)


def test_peers_siblings_and_failures_are_a_key_away(page: Page) -> None:
    """Key p goes to the next span of the name, s to one under the same parent, n to the next that failed, in closed groups too."""
    _open(page, TOOLS_TRACE)
    page.locator(".row", has_text="think").first.focus()
    _press(page, "p")
    expect(page.locator(".row:focus")).to_have_attribute("aria-level", "3")
    expect(page.locator(".row:focus")).to_have_attribute("aria-rowindex", "6")
    _press(page, "ArrowLeft", "S", "S")
    expect(_focused(page)).to_have_text("plan")
    _press(page, "n")
    expect(page.locator(".row:focus.failed")).to_have_attribute("aria-level", "3")
    _press(page, "n", "N")
    expect(page.locator(".row:focus")).to_have_attribute("aria-rowindex", "7")


def test_the_filter_speaks_the_language_of_search(page: Page) -> None:
    """Typed and entered, it fades, leaves ancestors or matches alone, says how many; a mistake is told; n steps through matches."""
    _open(page, TRACE)
    _press(page, "f")
    page.keyboard.type("duration:>1s")
    _press(page, "Enter")
    expect(page.locator("#found")).to_have_text("3 spans match")
    expect(page.locator(".row.matched")).to_have_count(3)
    expect(page.locator(".row.dimmed")).to_have_count(11)
    page.locator(".find select").select_option("alone")
    expect(page.locator(".row")).to_have_count(3)
    page.locator(".find select").select_option("with")
    expect(page.locator(".row .cover")).to_have_text(["●POST /answer", "●answer", "●chat SmolLM2-135M-Instruct"])
    expect(page).to_have_url(re.compile("show=with"))
    page.locator(".row").first.focus()
    _press(page, "n")
    expect(_focused(page)).to_have_text("●answer")
    page.reload()
    page.wait_for_selector("trace-rows[data-ready]")
    expect(page.locator(".row")).to_have_count(3)
    page.locator("a[data-clear]").click()
    expect(page.locator(".row")).to_have_count(14)


def test_a_late_answer_takes_neither_the_place_nor_the_newer_question(page: Page) -> None:
    """Who moved into the rows while the filter was asked stays there, and an answer to an earlier question changes nothing."""
    _open(page, TRACE)
    held = Held(page, r"/matches\.json\?f=duration")
    page.locator(".find input[name=f]").fill("duration:>1s")
    _press(page, "Enter")
    page.locator(".row").first.focus()
    held.wait()
    held.answer(0)
    expect(page.locator("#found")).to_have_text("3 spans match")
    expect(page.locator(".row:focus.matched")).to_have_attribute("aria-rowindex", "1")

    page.locator(".find select").select_option("alone")
    held.wait(2)
    page.locator(".find input[name=f]").fill("is:error")
    _press(page, "Enter")
    expect(page.locator("#found")).to_have_text("1 span matches")
    held.answer(1)
    expect(page.locator("#found")).to_have_text("1 span matches")


def test_a_span_that_comes_late_leaves_the_newer_one(page: Page) -> None:
    """Of two spans opened one after the other the second stays open, whichever comes first; nobody is taken to another page."""
    _open(page, TRACE)
    rows, heading = page.locator(".row"), page.locator("#detail h2")
    held = Held(page, r"/trace/\w+/span/")
    names = [rows.nth(place).locator(".cover bdi").inner_text() for place in (1, 2)]
    rows.nth(1).click()
    rows.nth(2).click()
    held.wait(2)
    held.answer(1)
    expect(heading).to_have_text(names[1])
    address = page.url
    held.answer(0)

    assert address == page.url
    expect(heading).to_have_text(names[1])
    assert names[0] != names[1]


def test_who_waits_beside_the_rows_stays_there(page: Page) -> None:
    """With the focus on the opened span, the next one takes its place and the focus with it."""
    _open(page, TRACE)
    rows, detail = page.locator(".row"), page.locator("#detail .detail")
    rows.nth(1).click()
    expect(detail.locator("h2")).to_have_text(rows.nth(1).locator(".cover bdi").inner_text())
    held = Held(page, r"/trace/\w+/span/")
    rows.nth(2).click()
    held.wait()
    _press(page, "Enter")
    expect(detail).to_be_focused()
    held.answer(0)

    expect(detail.locator("h2")).to_have_text(rows.nth(2).locator(".cover bdi").inner_text())
    expect(detail).to_be_focused()


def test_a_filter_that_cannot_be_read_is_told(browser: Browser, url: str) -> None:
    """The mistake is said beside the filter, with what would be right, and the rows stay."""
    context = browser.new_context(base_url=url)
    page = context.new_page()
    _open(page, TRACE)
    page.locator(".find input[name=f]").fill("is:eror")
    _press(page, "Enter")

    expect(page.locator("#found.bad")).to_contain_text("did you mean is:error?")
    expect(page.locator(".row")).to_have_count(14)
    context.close()


def test_zoom_by_key_button_and_drag(page: Page) -> None:
    """Keys, buttons and dragging over the map show a part of the time, the address keeps it, and 0 shows all again."""
    _open(page, TRACE)
    before = page.locator("[data-ticks]").text_content()
    _press(page, "+")
    expect(page).to_have_url(re.compile("zoom="))
    page.get_by_role("link", name="All", exact=True).click()
    expect(page).not_to_have_url(re.compile("zoom"))
    box = page.locator("mini-map").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 10, steps=4)
    page.mouse.up()
    expect(page).to_have_url(re.compile("zoom="))
    low, high = (float(part) for part in page.url.split("zoom=")[1].split("&")[0].split("-"))
    assert (50, 75) == (pytest.approx(low, abs=1), pytest.approx(high, abs=1))
    assert before != page.locator("[data-ticks]").text_content()
    assert 0 == page.locator(".row", has_text="embed query").locator(".lane .span").count()
    here = page.locator(".row .lane").evaluate_all("all => all.map(one => one.innerHTML)")
    page.reload()
    page.wait_for_selector("trace-rows[data-ready]")
    assert here == page.locator(".row .lane").evaluate_all("all => all.map(one => one.innerHTML)")
    _press(page, "0")
    expect(page).not_to_have_url(re.compile("zoom"))


def test_brackets_step_through_the_search(page: Page) -> None:
    """From a row of the search into its trace, then ] and [ go to the next trace of that search and back."""
    rows = page.request.get("/search.json?q=service:evals&sort=-duration").json()["rows"]
    order = list(dict.fromkeys(row["trace_id"] for row in rows))
    _open(page, f"/trace/{order[0]}?q=service:evals&sort=-duration")
    _press(page, "]")
    page.wait_for_url(f"**/trace/{order[1]}?**")
    page.wait_for_selector("trace-rows[data-ready]")
    assert "sort=-duration" in page.url
    _press(page, "[")
    page.wait_for_url(f"**/trace/{order[0]}?**")
    page.wait_for_selector("trace-rows[data-ready]")
    _press(page, "[")
    expect(page.get_by_text("This is the first trace of the search")).to_be_visible()


def test_links_and_json_can_be_copied(browser: Browser, url: str) -> None:
    """A copied link has its times as dates; the copied JSON is the span."""
    context = browser.new_context(base_url=url, permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    _open(page, f"{TRACE}?q=model:gpt2&from=-1h&span={world.CHAT:016x}")
    page.evaluate("window.setTimeout = () => 0")  # what is said for a moment stays: this machine may look late
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    link = page.evaluate("navigator.clipboard.readText()")
    page.get_by_role("button", name="Copy JSON").click()
    expect(page.get_by_role("button", name="Copied")).to_have_count(2)

    assert re.search(r"from=20\d\d-", link)
    assert f"{world.CHAT:016x}" == json.loads(page.evaluate("navigator.clipboard.readText()"))["span_id"]
    context.close()


def test_twenty_thousand_rows_are_drawn_where_they_are_looked_at(page: Page) -> None:
    """A trace of 20 000 spans has all its rows, of which few are in the page at once; End goes to the last, keys work on."""
    _open(page, DEEP_TRACE)
    page.locator(".row").first.focus()
    total = page.locator("[role=treegrid]").get_attribute("aria-rowcount")
    _press(page, "End")
    expect(page.locator(".row:focus")).to_have_attribute("aria-rowindex", str(total))
    assert page.locator(".row").count() < 100
    page.locator("trace-rows").evaluate("rows => rows.scrollTo(0, 5000)")
    expect(page.locator(".row[aria-rowindex='170']")).to_be_visible()
    _press(page, "ArrowUp")
    expect(page.locator(".row:focus")).to_have_attribute("aria-rowindex", str(int(str(total)) - 1))
    ids = page.request.get(f"{DEEP_TRACE}/skeleton.json").json()
    assert DEEP_SPANS == sum(1 for row in range(len(ids["ids"])) if str(row) not in ids["groups"])


def test_a_trace_too_large_for_a_row_a_span_opens_by_key(browser: Browser, grouped_url: str) -> None:
    """Beyond the limit a row is a name at a depth; the right arrow asks the server for its spans, which then are rows below it."""
    watch = Watch()
    context, page = watched_page(browser, watch, base_url=grouped_url)
    _open(page, DEEP_TRACE)
    expect(page.locator(".row").nth(1)).to_contain_text("×")
    rows = int(str(page.locator("[role=treegrid]").get_attribute("aria-rowcount")))
    page.locator(".row").nth(1).focus()
    _press(page, "ArrowRight")
    page.wait_for_url("**open=**")
    page.wait_for_selector("trace-rows[data-ready]")
    expect(page.locator(".row").nth(1)).to_have_attribute("aria-expanded", "true")
    expect(page.locator(".row").nth(2)).to_have_attribute("aria-level", "2")
    assert rows < int(str(page.locator("[role=treegrid]").get_attribute("aria-rowcount")))
    context.close()
    assert not watch.faults


def test_a_phone_and_the_dark_have_the_rows_too(browser: Browser, url: str) -> None:
    """At 320 px nothing scrolls sideways, filtered and zoomed, in either theme."""
    for scheme in ("light", "dark"):
        watch = Watch()
        context, page = watched_page(browser, watch, base_url=url, viewport={"width": 320, "height": 700}, color_scheme=scheme)
        _open(page, f"{TRACE}?f=is:error&show=with&zoom=20-60&q=x&from=all")
        scrolled, shown = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        assert scrolled <= shown
        context.close()
        assert not watch.faults
