"""Shared by the tests in a real browser: Chromium, a watch over what a page must never do, and answers that are kept back."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, Route, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

PATIENCE_MS = 60_000
"""How long a test waits for what must come: Chromium shares its processors with other tests."""
expect.set_options(timeout=PATIENCE_MS)

REPORT_VIOLATIONS = """document.addEventListener(
    "securitypolicyviolation", event => window.reportViolation(`${event.violatedDirective} ${event.blockedURI}`))"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium that calls nobody."""
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--no-first-run",
            ],
        )
        yield running
        running.close()


@dataclass
class Watch:
    """What a page must never do, as it happened."""

    faults: list[str] = field(default_factory=list)

    def console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(f"console: {message.text}")

    def request(self, request: Request) -> None:
        if urlsplit(request.url).hostname not in ("127.0.0.1", None):
            self.faults.append(f"request: {request.url}")

    def failed(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # leaving a page while it still loads is no fault
            self.faults.append(f"failed: {request.url} {request.failure}")

    def attach(self, page: Page) -> None:
        page.on("console", self.console)
        page.on("pageerror", lambda error: self.faults.append(f"script: {error}"))
        page.on("request", self.request)
        page.on("requestfailed", self.failed)
        page.expose_binding("reportViolation", lambda _, text: self.faults.append(f"policy: {text}"))
        page.add_init_script(REPORT_VIOLATIONS)


def watched_page(browser: Browser, watch: Watch, **options: object) -> tuple[BrowserContext, Page]:
    context = browser.new_context(viewport=options.pop("viewport", {"width": 1280, "height": 900}), **options)  # type: ignore[arg-type]
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    watch.attach(page)
    return context, page


def wait_for(page: Page, holds: Callable[[], bool]) -> None:
    """Lets the page go on until what the test itself collects is as wished; the test's own time limit ends it."""
    while not holds():
        page.wait_for_timeout(20)


def settle(page: Page) -> None:
    """Until the page has done what it does with the answers it has."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")


@dataclass
class Held:
    """Requests of a page to addresses like `pattern`, kept back until the test lets them go, one by one or all."""

    page: Page
    pattern: str
    routes: list[Route] = field(default_factory=list)
    ended: bool = False

    def __post_init__(self) -> None:
        self.page.route(re.compile(self.pattern), self._keep)

    def _keep(self, route: Route) -> None:
        if self.ended:
            route.continue_()
        else:
            self.routes.append(route)

    def wait(self, count: int = 1) -> None:
        """Until so many have been asked."""
        wait_for(self.page, lambda: len(self.routes) >= count)

    def answer(self, place: int) -> None:
        """Lets one go, and waits until the page has its answer."""
        address = self.routes[place].request.url
        with self.page.expect_response(address):
            self.routes[place].continue_()
        settle(self.page)

    def end(self) -> None:
        """Keeps no more back, and lets all go."""
        self.ended = True
        for route in self.routes:
            route.continue_()
