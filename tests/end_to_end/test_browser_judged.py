"""The pages that judge (alerts, back-test, drift, windows) in a real browser, full of what they show and with nothing at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

import judged_helpers as world
from browser_helpers import CHROMIUM, Watch, watched_page

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: install the package chromium"),
]
PAGES = ["/alerts", "/alerts?state=firing", "/alerts/test?rule=looping-answers", f"/alerts/test?rule={world.LONG}", "/drift",
         "/drift?explain=1", "/windows", "/windows?label=collapsed", "/scores?from=all"]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with world.judged(tmp_path_factory.mktemp("judged")) as store, world.served(store) as address:
        yield address


@pytest.mark.parametrize("path", PAGES)
def test_pages_obey_the_policy_and_fit_a_phone(page: Page, path: str) -> None:
    """No policy violation, script error or foreign request; at 320 px nothing scrolls sideways; what is pressed is 24 px high."""
    page.set_viewport_size({"width": 320, "height": 700})
    answer = page.goto(path)
    assert answer is not None
    assert 200 == answer.status
    scrolled, shown = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert scrolled <= shown
    heights = page.locator("main .button, main summary").evaluate_all("all => all.map(one => one.getBoundingClientRect().height)")
    assert all(height >= 24 for height in heights)


def test_from_an_alert_to_the_spans_of_its_window(page: Page) -> None:
    """The link of a firing group opens the search of that very window and group, and it finds what was judged."""
    page.goto("/alerts?rule=looping-answers")
    row = page.locator(".alert tr", has_text="loops-now")
    expect(row.locator(".badge")).to_have_text("firing")
    expect(row.locator("svg title")).to_have_text("the last 24 values, between 0.500 and 0.800")
    row.get_by_role("link").click()
    expect(page.locator("main")).to_contain_text("loops-now")
    assert 16 == len(page.evaluate("fetch(location.pathname + '.json' + location.search).then(a => a.json())")["rows"])


def test_a_rule_is_tested_on_the_past_from_its_page(page: Page) -> None:
    """The back-test tells what the live judging told: two groups began, one of them ended."""
    page.goto("/alerts?rule=looping-answers")
    page.get_by_role("link", name="Back-test looping-answers on the last 7 days").click()
    expect(page.locator("h1")).to_have_text("It would have fired 2 times")
    expect(page.locator("tbody .badge")).to_have_text(["resolved", "firing", "firing"])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 320])
def test_the_alert_form_of_windows_is_for_everybody(page: Page, scheme: Literal["light", "dark"], width: int) -> None:
    """Opened by the keyboard: axe finds nothing in either theme, nothing scrolls sideways, and what silence needs not is gone."""
    page.set_viewport_size({"width": width, "height": 700})
    page.emulate_media(color_scheme=scheme)
    page.goto("/windows?label=collapsed")
    page.locator("#alert > summary").press("Enter")
    expect(page.get_by_label("threshold")).to_be_visible()
    found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]})
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.get_by_label("Tell me when").select_option("silence")
    expect(page.get_by_label("threshold")).to_be_hidden()


def test_a_rule_of_windows_is_made_changed_and_removed_without_script(browser: Browser, watch: Watch, url: str) -> None:
    """By the keys of the keyboard alone; the page of alerts leads back to the form, which shows what stands."""
    context, page = watched_page(browser, watch, base_url=url, java_script_enabled=False)
    page.goto("/windows?service=collapsed#alert")
    page.locator("#alert > summary").press("Enter")
    page.get_by_label("Name of the rule").fill("all-alike")
    page.get_by_label("Tell me when").select_option("vendi_share")
    page.locator("select[name=side]").select_option("below")
    page.get_by_label("threshold").fill("25%")
    page.get_by_label("threshold").press("Enter")
    rule = page.locator(".alert", has_text="all-alike")
    expect(rule).to_contain_text("smallest vendi_share of a window below 0.25 for 30m in service:collapsed")

    rule.get_by_role("link", name="windows", exact=True).press("Enter")
    expect(page.get_by_label("threshold")).to_have_value("0.25")
    page.get_by_label("threshold").fill("0.5")
    page.get_by_role("button", name="Change the rule").press("Enter")
    expect(rule).to_contain_text("below 0.5 for 30m")

    rule.get_by_role("link", name="windows", exact=True).press("Enter")
    page.get_by_role("button", name="Remove it").press("Enter")
    expect(page.locator("h1")).to_contain_text("firing")
    expect(rule).to_have_count(0)
    context.close()
