"""Plug-ins of the pages: found by their entry points, drawn as text and links, and shown as failed when they fail."""

from __future__ import annotations

import logging
import re
import sys
import threading
import types
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

import web_helpers as world
from cutaway_collector.settings import Settings
from cutaway_collector.web import create_app, plugins
from cutaway_collector.web.plugins import ACTIONS, LANES, RENDERERS, Link, Shown
from web_helpers import gen, get

README = Path(__file__).parent.parent.parent / "collector" / "README.md"


def _example() -> tuple[str, str]:
    """The README's example: its entry points and its code."""
    text = README.read_text()
    part = text[text.index("## Plug-ins of the pages") :]
    return re.findall(r"```toml\n(.*?)```", part, re.DOTALL)[0], re.findall(r"```python\n(.*?)```", part, re.DOTALL)[0]


def _points(declared: str) -> EntryPoints:
    found, group = [], ""
    for line in declared.splitlines():
        if line.startswith("["):
            group = line.strip("[]").split(".", 2)[2].strip('"')
        elif "=" in line:
            name, value = (part.strip().strip('"') for part in line.split("=", 1))
            found.append(EntryPoint(name, value, group))
    return EntryPoints(found)


def _grumpy(*_: Any) -> Any:
    raise RuntimeError("not <b>today</b>")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    """The pages with the README's plug-ins, and one of each kind that fails."""
    declared, code = _example()
    module = types.ModuleType("orders")
    exec(compile(code, "orders.py", "exec"), module.__dict__)
    broken = types.SimpleNamespace(grumpy=_grumpy, short=lambda series: [1.0], evil=lambda span: [Link("x", "javascript:alert(1)")])
    points = EntryPoints([
        *_points(declared), EntryPoint("gone", "no_such_module_here:x", LANES), EntryPoint("short", "broken_plugins:short", LANES),
        EntryPoint("user.plan", "broken_plugins:grumpy", RENDERERS), EntryPoint("evil", "broken_plugins:evil", ACTIONS),
    ])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "orders", module)
        patch.setitem(sys.modules, "broken_plugins", broken)
        patch.setattr(plugins.installed, "__defaults__", (lambda group: points.select(group=group),))
        spans, blocks = world.world()
        spans = [
            span if span.number != world.CHAT else _with(span, {"order.id": "4711", "user.plan": "pro"}) for span in spans
        ]
        with world.stored(tmp_path_factory.mktemp("plugins") / "data", spans, blocks) as store:
            yield create_app(store, Settings(data="unused"), now_ns=lambda: world.NOW_NS).test_client()


def _with(span: Any, more: Mapping[str, str]) -> Any:
    span.attributes.update(more)
    return span


def test_the_example_is_short() -> None:
    """The documented plug-in, all three kinds, fits in twenty lines."""
    _, code = _example()
    assert len([line for line in code.splitlines() if line.strip()]) <= 20


def test_the_example_draws_its_lane(client: FlaskClient) -> None:
    """The lane has a tab, colours the tokens, and its numbers are what the function makes of the stored series."""
    page = get(client, f"{gen(world.CHAT)}?signal=lane:doubt")
    assert any("signal=lane%3Adoubt" in link for link in get(client, gen(world.CHAT)).links("/gen/"))
    assert page.with_class("strip")
    drawn = np.frombuffer(client.get(f"{gen(world.CHAT)}.f32?series=lane:doubt&start=5&count=40").data, "<f4")
    signals = client.get(f"{gen(world.CHAT)}.json").json["sequences"][0]["signals"]
    wanted = np.array(signals["entropy"]) - np.array(signals["margin"])
    np.testing.assert_allclose(drawn, wanted[5:45], rtol=1e-4, atol=1e-5)


def test_the_example_reads_an_attribute_and_offers_an_action(client: FlaskClient) -> None:
    """On the generation page and in the trace: the attribute's words and link, and the action's button."""
    for path in (gen(world.CHAT), f"{world.TRACE}?span={world.CHAT:016x}"):
        page = get(client, path)
        assert "order 4711" in page.text
        assert page.links("https://shop.example/orders/4711")
        assert page.links("https://lab.example/replay?span=")


def test_a_plug_in_that_fails_is_shown_and_logged_once(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    """The page stands; in the plug-in's place is what went wrong, as text; the log has one line however often it fails."""
    caplog.set_level(logging.WARNING)
    broken = client.application.jinja_env.globals["plugins"]
    broken.failed.clear()  # type: ignore[attr-defined]  # the object of create_app
    for _ in range(3):
        answer = client.get(gen(world.CHAT))
        assert 200 == answer.status_code
        assert "plug-in user.plan: RuntimeError: not &lt;b&gt;today&lt;/b&gt;" in answer.text
        assert "plug-in evil: ValueError" in answer.text
        assert 'href="javascript' not in answer.text
    assert 1 == len([record for record in caplog.records if "user.plan" in record.getMessage()])


@pytest.mark.parametrize(("name", "words"), [("gone", "No module named"), ("short", "one number a token")])
def test_a_lane_that_fails_says_why(client: FlaskClient, name: str, words: str) -> None:
    """A lane that cannot be loaded, or gives too few numbers, is an empty lane with its reason."""
    page = get(client, f"{gen(world.CHAT)}?signal=lane:{name}")
    assert f"The plug-in {name} failed" in page.text
    assert words in page.text
    assert not page.with_class("h")


def test_a_lane_that_never_ends_does_not_keep_the_page(client: FlaskClient) -> None:
    """The page stands without it and says why; it is asked again when its first answer is there, and its numbers are drawn then."""
    made: plugins.Plugins = client.application.jinja_env.globals["plugins"]  # type: ignore[assignment]  # the object of create_app
    let_go, asked = threading.Event(), []

    def slow(series: Mapping[str, Any]) -> Any:
        asked.append(threading.current_thread())
        assert let_go.wait(120)
        return np.arange(len(series["entropy"]))

    made.found[LANES]["slow"], made.seconds_max = slow, 0.05
    try:
        for _ in range(3):
            page = get(client, f"{gen(world.CHAT)}?signal=lane:slow")
            assert "The plug-in slow failed: TimeoutError: no answer within 0.05 s" in page.text
            assert "metropolitan" in page.text
        assert 1 == len(asked)
        let_go.set()
        asked[0].join()
        made.seconds_max = 60
        drawn = np.frombuffer(client.get(f"{gen(world.CHAT)}.f32?series=lane:slow&start=3&count=4").data, "<f4")
        assert [3, 4, 5, 6] == drawn.tolist()
        assert "The plug-in slow failed" not in get(client, f"{gen(world.CHAT)}?signal=lane:slow").text
    finally:
        let_go.set()
        del made.found[LANES]["slow"]
        made.seconds_max = plugins.SECONDS_MAX


def test_a_plug_in_that_would_end_the_process_fails() -> None:
    """sys.exit in a plug-in is its failure alone."""
    made = plugins.Plugins()
    made.found[RENDERERS] = {"a": lambda key, value, span: sys.exit(3)}
    shown = made.render("a", "v", {})

    assert shown is not None
    assert "SystemExit: 3" in shown.failed


def test_answers_of_the_wrong_kind_are_failures() -> None:
    """A renderer that gives neither text nor Shown, or an address of another kind, is shown as failed; None says nothing."""
    made = plugins.Plugins()
    made.found[RENDERERS] = {"a": lambda key, value, span: 7, "b": lambda key, value, span: Shown("x", (Link("y", "//evil"),)),
                             "c": lambda key, value, span: None, "*": lambda key, value, span: f"{key} is {value}"}
    found = {key: made.render(key, "v", {}) for key in "abcd"}

    assert {"a": True, "b": True, "c": False, "d": False} == {key: shown.failed != "" for key, shown in found.items() if shown}
    assert ["c is v", "d is v"] == [found[key].text for key in "cd"]  # type: ignore[union-attr]  # none of them is None, see above
