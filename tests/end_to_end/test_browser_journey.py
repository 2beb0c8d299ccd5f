"""From an empty collector to the first trace, the live view and the map, in a real browser against a real collector."""

from __future__ import annotations

import json
import secrets
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from browser_helpers import CHROMIUM, Watch, watched_page
from serving import Serving

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: install the package chromium"),
]


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A collector that the tests of this file fill, in their order of need: each loads what it asks for."""
    with Serving(tmp_path_factory.mktemp("journey") / "data", "--live-clients-max", "2") as running:
        yield running


@pytest.fixture
def url(empty: Serving) -> str:
    return f"http://{empty.addresses['ui']}"


def send(collector: Serving, *names: str, error: bool = False, service: str = "by-hand") -> None:
    """Spans over OTLP/HTTP, as any sender would."""
    now_ns = time.time_ns()
    spans = [{"traceId": secrets.token_hex(16), "spanId": secrets.token_hex(8), "name": name, "kind": 1,
              "startTimeUnixNano": str(now_ns), "endTimeUnixNano": str(now_ns + 10**6),
              "status": {"code": 2, "message": "it broke"} if error else {}} for name in names]
    body = {"resourceSpans": [{"resource": {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]},
                               "scopeSpans": [{"spans": spans}]}]}
    request = urllib.request.Request(f"http://{collector.addresses['otlp_http']}/v1/traces", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert 200 == answer.status


def test_from_empty_to_the_first_trace(browser: Browser, watch: Watch, tmp_path: Path) -> None:
    """An empty collector says so with its own addresses; the page changes by itself when a span arrives, and leads to its trace.

    Then sample data comes by one click and goes by another.
    """
    with Serving(tmp_path / "data") as collector:
        context, page = watched_page(browser, watch, base_url=f"http://{collector.addresses['ui']}")
        page.goto("/search")
        expect(page.get_by_role("heading", level=1)).to_have_text("Nothing has arrived yet")
        expect(page.locator("pre.snippet").first).to_contain_text(f"http://{collector.addresses['otlp_grpc']}")
        send(collector, "hello")
        expect(page.get_by_role("heading", level=1)).to_have_text("The first span has arrived")
        page.get_by_role("link", name="Open the first trace").click()
        page.wait_for_url("**/trace/*")
        expect(page.locator("main")).to_contain_text("hello")

        page.goto("/start")
        page.get_by_role("button", name="Load sample data").click()
        page.wait_for_url("**/start")
        page.wait_for_function("fetch('/start.json').then(a => a.json()).then(b => b.sample_loaded)")
        page.reload()
        page.get_by_role("link", name="cutaway-sample").click()
        expect(page.locator("main")).to_contain_text("sample-model")
        page.goto("/start")
        page.get_by_role("button", name="Remove sample data").click()
        expect(page.get_by_role("button", name="Load sample data")).to_be_visible()
        context.close()


def test_live_rows_appear_hold_still_and_go_on(page: Page, empty: Serving) -> None:
    """A stored span stands on top without a reload; Space stops the page from moving and goes on with what waited."""
    page.goto("/live?q=service:live-test")
    expect(page.locator("[data-state]")).to_have_text("Following")
    send(empty, "first", service="live-test")
    expect(page.locator("[data-rows] tr")).to_have_count(1)
    page.locator("h1").click()
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Go on")).to_have_attribute("aria-pressed", "true")
    send(empty, "<b>second</b>", error=True, service="live-test")
    expect(page.locator("[data-state]")).to_have_text("Paused, 1 span waiting")
    assert 1 == page.locator("[data-rows] tr").count()
    page.keyboard.press("Space")
    expect(page.locator("[data-rows] tr")).to_have_count(2)
    top = page.locator("[data-rows] tr").first
    expect(top.locator("[data-slot=name]")).to_have_text("<b>second</b>")
    expect(top.locator("[data-slot=failed]")).to_be_visible()
    expect(page.locator("[data-rows] tr").nth(1).locator("[data-slot=failed]")).to_be_hidden()


def test_the_pointer_over_the_rows_and_the_focus_hold_them(page: Page, empty: Serving) -> None:
    """What one is about to click does not move away; j reaches a row and Enter opens its trace."""
    page.goto("/live?q=service:held-test")
    expect(page.locator("[data-state]")).to_have_text("Following")
    send(empty, "one", service="held-test")
    expect(page.locator("[data-rows] tr")).to_have_count(1)
    page.locator("[data-rows] tr").hover()
    send(empty, "two", service="held-test")
    expect(page.locator("[data-state]")).to_have_text("Held while you are here, 1 span waiting")
    page.locator("h1").hover()
    expect(page.locator("[data-rows] tr")).to_have_count(2)
    page.keyboard.press("j")
    expect(page.locator("[data-state]")).to_have_text("Held while you are here")
    page.keyboard.press("Enter")
    page.wait_for_url("**/trace/*")


def test_screen_readers_are_told_now_and_then_not_row_by_row(page: Page, empty: Serving) -> None:
    """The rows are no live region; a polite sentence sums up ten seconds."""
    page.goto("/live?q=service:spoken-test")
    expect(page.locator("[data-state]")).to_have_text("Following")
    send(empty, "a", "b", "c", service="spoken-test")
    assert "off" == page.locator("table.hits").get_attribute("aria-live")
    told = page.locator("[data-summary]")
    assert ("status", "polite") == (told.get_attribute("role"), told.get_attribute("aria-live"))
    expect(told).to_have_text("3 spans in the last 10 seconds", timeout=20_000)


def test_a_tab_too_many_is_told_and_the_collector_stops_in_time(browser: Browser, tmp_path: Path) -> None:
    """With every place taken, a page says so; pages still answer, and an open stream does not hold up a stop."""
    with Serving(tmp_path / "data", "--live-clients-max", "1") as collector:
        context = browser.new_context(base_url=f"http://{collector.addresses['ui']}")
        first, second = context.new_page(), context.new_page()
        first.goto("/live")
        expect(first.locator("[data-state]")).to_have_text("Following")
        second.goto("/live")
        expect(second.locator("[data-state]")).to_contain_text("too many live views may be open")
        assert collector.json("/search.json")["rows"] == []
        assert 0 == collector.stop()
        context.close()


def with_sample(page: Page) -> None:
    """The collector of this file holds the sample data, whichever test comes first."""
    page.goto("/start")
    load = page.get_by_role("button", name="Load sample data")
    if load.count():
        load.click()
        page.wait_for_function("fetch('/start.json').then(a => a.json()).then(b => b.sample_loaded)")


def test_the_map_is_walked_by_keys_and_a_drawn_shape_is_an_address(page: Page, empty: Serving) -> None:
    """Arrow keys go from point to point and say what each is; a rectangle selects, and its search finds those spans."""
    with_sample(page)
    page.goto("/map?of=signals&q=service:cutaway-sample&color=model")
    page.wait_for_selector("point-map[data-ready]")
    box = page.locator("[data-box]")
    box.focus()
    page.keyboard.press("ArrowRight")
    first = page.locator("[data-said]").inner_text()
    page.keyboard.press("ArrowRight")
    assert "sample-model" in first
    assert first != page.locator("[data-said]").inner_text()

    corners = box.bounding_box()
    assert corners is not None
    page.mouse.move(corners["x"] + 2, corners["y"] + 2)
    page.mouse.down()
    page.mouse.move(corners["x"] + corners["width"] / 2, corners["y"] + corners["height"] - 2, steps=4)
    page.mouse.up()
    page.wait_for_url("**lasso=*")
    selected = int(page.locator("aside h2").first.inner_text().split()[0])
    body = page.evaluate("fetch(location.href.replace('/map?', '/map.json?')).then(a => a.json())")
    assert 0 < selected == sum(point["selected"] for point in body["points"]) < len(body["points"])
    page.locator("aside").get_by_role("link", name="Search").click()
    page.wait_for_url("**/search?q=span*")
    expect(page.locator("table.hits tbody tr")).to_have_count(selected)


def test_a_lasso_drawn_by_hand_selects_what_it_encloses(page: Page, empty: Serving) -> None:
    """A free shape, by mouse; Escape while drawing forgets it."""
    with_sample(page)
    page.goto("/map?of=signals&q=service:cutaway-sample")
    page.wait_for_selector("point-map[data-ready]")
    page.get_by_role("button", name="Lasso").click()
    corners = page.locator("[data-box]").bounding_box()
    assert corners is not None
    shape = [(0.1, 0.1), (0.9, 0.1), (0.9, 0.9), (0.5, 0.95), (0.1, 0.9), (0.1, 0.2)]
    places = [(corners["x"] + x * corners["width"], corners["y"] + y * corners["height"]) for x, y in shape]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=8)
    page.mouse.up()
    page.wait_for_url("**lasso=*")

    expect(page.locator("polygon.lasso").first).to_be_visible()
    expect(page.locator("aside h2").first).to_contain_text("selected")
