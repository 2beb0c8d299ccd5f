"""The map in a real browser while its places are still made: it draws itself, but takes nobody's half-typed query."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from playwright.sync_api import Browser, expect

import web_helpers as world
from browser_helpers import CHROMIUM
from cutaway_collector.settings import Settings
from cutaway_collector.web import create_app
from cutaway_collector.web.map_vectors import Vectors
from flask_serving import serving
from search_helpers import MODEL, OUTPUT, Span

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: install the package chromium"),
]


def test_a_map_that_is_ready_does_not_take_a_half_typed_query(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When the places have come, a page without a map draws it by itself, unless somebody is typing: then it offers to."""
    monkeypatch.setattr("cutaway_collector.web.pages.latent_map.WAIT_SECONDS", 0.0)
    go = threading.Event()

    def embed(texts: Sequence[str]) -> npt.NDArray[np.float64]:
        go.wait()
        return np.random.default_rng(len(texts)).normal(0, 1, (len(texts), 8))

    said = json.dumps([{"role": "assistant", "parts": [{"type": "text", "content": "tea"}]}])
    spans = [Span(number, "chat", number, attributes={
        MODEL: "m", "gen_ai.operation.name": "chat", OUTPUT: "9", "gen_ai.output.messages": said}) for number in range(1, 13)]
    with world.stored(tmp_path / "data", spans, ()) as store:
        vectors = Vectors(store, embed)
        app = create_app(store, Settings(data="unused"), now_ns=lambda: world.NOW_NS, vectors=vectors)
        context = browser.new_context()
        try:
            with serving(app) as address:
                page = context.new_page()
                page.goto(f"{address}/map?of=answer")
                expect(page.locator("[data-pending]")).to_contain_text("12 are being placed")
                page.locator("#mapped").fill("model:half")
                go.set()
                expect(page.locator("[data-pending] a")).to_have_text("All are placed: draw again")
                expect(page.locator("#mapped")).to_have_value("model:half")
                expect(page.locator("#mapped")).to_be_focused()
                page.locator("[data-pending] a").click()
                page.wait_for_selector("point-map[data-ready]")
        finally:
            go.set()
            context.close()
            vectors.close()
