"""Prompts and answers of every dialect read as messages, on pages and by search: recorded spans, older events, hostile values."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import web_helpers as world
from cutaway_collector import decode
from cutaway_collector.blocks import concat_blocks
from cutaway_collector.contracts import Store
from cutaway_collector.search import SearchRequest, find, messages
from cutaway_collector.settings import Settings
from cutaway_collector.web import create_app
from decode_helpers import rows
from web_helpers import get

FOLDER = Path(__file__).parent.parent / "dialects"
TALKING = ("openinference", "openllmetry", "openllmetry_old", "opentelemetry_latest")
"""The recorded tools that put text on their spans."""
CONVERSATION = [("system", "Answer in one sentence."), ("user", "Which bird says quack?"), ("assistant", "The duck does.")]


def recorded(tool: str) -> list[dict[str, Any]]:
    """The recorded spans of a tool, decoded, as attributes, events and ids."""
    payload = json.dumps(json.loads(FOLDER.joinpath(f"{tool}.json").read_text())["request"]).encode()
    found = []
    for row in rows(decode.decode_json(payload, received_ns=time.time_ns()).spans):
        events = [{"name": name.decode(), "attributes": {key.decode(): value.decode() for key, value in held}}
                  for name, held in zip(row["Events.Name"], row["Events.Attributes"], strict=True)]
        found.append({"attributes": {key.decode(): value.decode() for key, value in row["SpanAttributes"]}, "events": events,
                      "trace": row["TraceId"].decode(), "span": row["SpanId"].decode()})
    return found


def said(attributes: dict[str, str], events: Any = ()) -> list[tuple[str, str]]:
    """Roles and texts."""
    return [(message.role, message.text) for message in messages(attributes, events)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """All recorded spans in a store."""
    blocks = []
    for tool in TALKING:
        payload = json.dumps(json.loads(FOLDER.joinpath(f"{tool}.json").read_text())["request"]).encode()
        blocks.append(decode.decode_json(payload, received_ns=time.time_ns()).spans)
    with world.stored(tmp_path_factory.mktemp("dialects"), [], [concat_blocks(blocks)]) as opened:
        yield opened


@pytest.fixture(scope="module")
def client(store: Store) -> FlaskClient:
    """The pages over it."""
    return create_app(store, Settings(data="unused")).test_client()


@pytest.mark.parametrize("tool", TALKING)
def test_a_recorded_chat_reads_as_a_conversation(tool: str) -> None:
    """Streamed or not, by whichever names: who said what, in order."""
    for span in recorded(tool)[:2]:
        assert said(span["attributes"], span["events"]) == CONVERSATION


@pytest.mark.parametrize("tool", ["openinference", "openllmetry", "openllmetry_old"])
def test_a_recorded_completion_reads_as_question_and_answer(tool: str) -> None:
    """A prompt that is one text is one message, and so is what follows it."""
    (*_, span) = recorded(tool)
    assert [text for _, text in said(span["attributes"], span["events"])] == ["Which bird says quack?", "The duck does."]


@pytest.mark.parametrize("tool", TALKING)
@pytest.mark.parametrize("page", ["trace", "gen"])
def test_the_pages_show_them(client: FlaskClient, tool: str, page: str) -> None:
    """Under one heading, beside the attributes as they came."""
    span = recorded(tool)[0]
    address = f"/gen/{span['span']}" if page == "gen" else f"/trace/{span['trace']}?span={span['span']}"
    text = get(client, address).text
    assert "Messages" in text
    for role, words in CONVERSATION:
        assert role in text
        assert words in text


@pytest.mark.parametrize("tool", TALKING)
def test_free_text_finds_an_answer(store: Store, tool: str) -> None:
    """The words of an answer find the span, whatever attribute holds them."""
    found = find(store, SearchRequest('"The duck does"', limit=100), rows_max=100)
    assert {span["span"] for span in recorded(tool)[:2]} <= {row["span_id"] for row in found["rows"]}


def test_events_of_the_older_conventions() -> None:
    """Up to 1.36 each message is an event, with its content as an attribute or as JSON."""
    events = [
        {"name": "gen_ai.user.message", "attributes": {"content": "hello", "gen_ai.system": "openai"}},
        {"name": "gen_ai.tool.message", "attributes": {"gen_ai.event.content": '{"role": "tool", "content": "42"}'}},
        {"name": "gen_ai.choice", "attributes": {"message": '{"role": "assistant", "content": "hi"}', "index": "0"}},
        {"name": "exception", "attributes": {"message": "no message of the conversation"}},
    ]
    assert said({}, events) == [("user", "hello"), ("tool", "42"), ("assistant", "hi")]
    asked, answered = (json.dumps([{"role": role, "content": text}]) for role, text in (("user", "hello"), ("assistant", "hi")))
    events = [{"name": "gen_ai.content.prompt", "attributes": {"gen_ai.prompt": asked}},
              {"name": "gen_ai.content.completion", "attributes": {"gen_ai.completion": answered}}]
    assert said({}, events) == [("user", "hello"), ("assistant", "hi")]


def test_tool_calls_are_spelled() -> None:
    """A call reads as name and arguments in each dialect that has them."""
    call = '{"city": "Lyon"}'
    parts = [{"type": "tool_call", "id": "1", "name": "weather", "arguments": {"city": "Lyon"}}]
    answers = json.dumps([{"role": "assistant", "parts": parts}, {"role": "tool", "parts": [
        {"type": "tool_call_response", "id": "1", "response": "rain"}]}])
    assert said({"gen_ai.output.messages": answers}) == [("assistant", 'weather({"city":"Lyon"})'), ("tool", "rain")]
    prefix = "llm.output_messages.0.message.tool_calls.0.tool_call.function"
    assert said({f"{prefix}.name": "weather", f"{prefix}.arguments": call}) == [("assistant", f"weather({call})")]
    prefix = "gen_ai.completion.0.tool_calls.0"
    assert said({f"{prefix}.name": "weather", f"{prefix}.arguments": call}) == [("assistant", f"weather({call})")]


def test_numbered_messages_stand_in_their_order() -> None:
    """The tenth comes after the ninth, and parts of one message are joined."""
    attributes = {f"llm.input_messages.{index}.message.content": str(index) for index in (10, 9, 2)}
    attributes |= {f"llm.input_messages.11.message.contents.{index}.message_content.text": part for index, part in enumerate("ab")}
    assert [text for _, text in said(attributes)] == ["2", "9", "10", "a\nb"]


def test_a_chain_shows_what_went_in_and_came_out() -> None:
    """Spans that are no call to a model have a value each way."""
    assert said({"input.value": "q", "output.value": '{"documents": []}'}) == [("input", "q"), ("output", '{"documents": []}')]
    assert said({"traceloop.entity.input": "q"}) == [("input", "q")]
    assert said({"http.method": "GET"}) == []


_json = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(
    st.sampled_from(["role", "parts", "content", "text", "type", "name", "arguments", "response", "x"]), inner), max_leaves=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(
    st.sampled_from(["gen_ai.input.messages", "gen_ai.system_instructions", "gen_ai.prompt", "ai.prompt.messages", "output.value",
                     "llm.input_messages.0.message.content", "gen_ai.prompt.0.content", "gen_ai.prompt.999999999.x"]),
    st.one_of(st.text(), st.builds(json.dumps, _json), st.sampled_from(["[" * 5000, "[" * 500 + "]" * 500, '[{"parts":' * 400]))))
def test_no_value_breaks_a_page(attributes: dict[str, str]) -> None:
    """Whatever stands in the attributes, the answer is a list of texts."""
    assert all(isinstance(role, str) and isinstance(text, str) and text for role, text in said(attributes))
