"""What two generations say of themselves on the comparison page: lists entry by entry, numbers with units, prompts as text."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

import web_helpers as world
from cutaway import conventions as c
from cutaway_collector.settings import Settings
from cutaway_collector.web import create_app
from cutaway_collector.web.pages.compare_attributes import Line, view

PAIR = f"/compare?a=span:{world.CHAT:016x}&b=span:{world.BATCH:016x}"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    spans, blocks = world.world()
    with world.stored(tmp_path_factory.mktemp("pair") / "data", spans, blocks) as store:
        yield create_app(store, Settings(data="unused"), now_ns=lambda: world.NOW_NS).test_client()


def _span(attributes: dict[str, str], resource: dict[str, str] | None = None) -> dict[str, Any]:
    return {"attributes": attributes, "resource": resource or {}, "events": []}


def _lines(name: str, a: str | None, b: str | None) -> tuple[Line, ...]:
    """The lines of the one attribute of two spans."""
    found = view(*(_span({} if text is None else {name: text}) for text in (a, b)))
    (one,) = found.attributes
    assert (name, False) == (one.name, one.resource)
    return one.lines


@pytest.mark.parametrize(("name", "a", "b", "expected"), [
    (c.SEQUENCE_PERPLEXITY, "[12.3456]", "[4.0]", [("", "12.3", "4", False)]),
    (c.SEQUENCE_NLL, "[12.3456, 7]", "[12.3456, 9.5]",
     [("sequence 0", "12.3\u202fnats", "12.3\u202fnats", True), ("sequence 1", "7\u202fnats", "9.50\u202fnats", False)]),
    (c.SEQUENCE_SURPRISAL_QUARTERS, "[1, 2, 3, 4]", "[1, 2, null, 5]",
     [("quarter 1", "1\u202fnats", "1\u202fnats", True), ("quarter 2", "2\u202fnats", "2\u202fnats", True),
      ("quarter 3", "3\u202fnats", "–", False), ("quarter 4", "4\u202fnats", "5\u202fnats", False)]),
    (c.SEQUENCE_OUTPUT_TOKENS, "[1200]", "[17, 4]", [("sequence 0", "1\u202f200", "17", False), ("sequence 1", "–", "4", False)]),
    (c.RESPONSE_FINISH_REASONS, '["stop"]', '["length"]', [("", "stop", "length", False)]),
    (c.TIME_TO_FIRST_TOKEN, "0.31", "2.5", [("", "310\u202fms", "2.50\u202fs", False)]),
    (c.OUTPUT_PERPLEXITY, "nan", "2", [("", "–", "2", False)]),
    (c.USAGE_OUTPUT_TOKENS, "1200", None, [("", "1\u202f200", "–", False)]),
    ("app.ids", "[1234567, 2]", "[3]", [("0", "1234567", "3", False), ("1", "2", "–", False)]),
    ("app.list", json.dumps(list(range(30))), "[1]", [("", ", ".join(map(str, range(30))), "1", False)]),
    ("app.broken", "[1, 2", "x", [("", "[1, 2", "x", False)]),
    ("app.deep", '[{"a": 1}]', "[[1]]", [("", '[{"a": 1}]', "[[1]]", False)]),
    ("app.long", "y" * 400, "", [("", "y" * 300 + " …", "", False)]),
])
def test_values_stand_beside_each_other(
    name: str, a: str | None, b: str | None, expected: list[tuple[str, str, str, bool]],
) -> None:
    """Lists by their entries, our numbers with their units, what is not there as a dash, and anything else as it was sent."""
    assert [Line(*line) for line in expected] == list(_lines(name, a, b))


def test_what_is_the_same_is_left_out_and_what_was_asked_stands_apart() -> None:
    """Attributes of the sender are marked; prompts are messages, once where both were asked the same."""

    def asked(text: str) -> str:
        return json.dumps([{"role": "user", "parts": [{"type": "text", "content": text}]}])

    one = _span({c.INPUT_MESSAGES: asked("Why?"), "same": "x"}, {"service.version": "1"})
    other = _span({c.INPUT_MESSAGES: asked("Why?"), "same": "x"}, {"service.version": "2"})
    found = view(one, other)
    assert [("service.version", True)] == [(row.name, row.resource) for row in found.attributes]
    assert [("both", (("user", "Why?"),))] == [(part.whose, part.messages) for part in found.asked]

    other["attributes"][c.INPUT_MESSAGES] = asked("How?")
    apart = view(one, other)
    assert [("A", (("user", "Why?"),)), ("B", (("user", "How?"),))] == [(part.whose, part.messages) for part in apart.asked]
    assert [row.name for row in apart.attributes] == ["service.version"]


def test_the_page_shows_no_list_as_json(client: FlaskClient) -> None:
    """Every differing attribute of the two spans has its row, and no cell is a JSON list."""
    text = client.get(PAIR).text
    table = text.split('class="plain own"')[1].split("</table>")[0]
    cells = [html.unescape(re.sub("<[^>]*>", "", cell)) for cell in re.findall(r"<td[^>]*>(.*?)</td>", table, re.DOTALL)]
    spans = [client.get(f"/gen/{number:016x}.json").json for number in (world.CHAT, world.BATCH)]
    traces = [client.get(f"/trace/{one['trace_id']}/span/{one['span_id']}.json").json["attributes"] for one in spans]
    differing = {name for name in {*traces[0], *traces[1]} if traces[0].get(name) != traces[1].get(name)}

    assert cells
    assert not [cell for cell in cells if cell.startswith("[")]
    named = set(map(html.unescape, re.findall(r"<th scope=\"rowgroup\"[^>]*><bdi>(.*?)</bdi>", table)))
    assert {name for name in differing if not re.match("gen_ai.(input|output).messages", name)} <= named
