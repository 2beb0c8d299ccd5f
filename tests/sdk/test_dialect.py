"""The GenAI conventions in two versions: v1.41 unless the newer text is asked for, and the collector reads both."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from cutaway import conventions as c
from cutaway import dialect, settings
from cutaway.testing import recorded, tiny_model
from sdk_helpers import batch

MESSAGES = json.dumps([{"role": "assistant", "parts": [{"type": "text", "content": "hé"}], "finish_reason": "stop"}])
SPAN = {c.REQUEST_TOP_K: 50.0, c.REQUEST_TEMPERATURE: 1.0, c.OUTPUT_MESSAGES: MESSAGES,
        c.RESPONSE_FINISH_REASONS: ["stop", "error"], c.TOKEN_ID: b"\x01"}


@pytest.mark.parametrize(("value", "latest"), [
    ("", False), ("gen_ai_latest_experimental", True), ("http, gen_ai_latest_experimental ,db/dup", True), ("http/dup", False),
    ("gen_ai_latest", False), ("GEN_AI_LATEST_EXPERIMENTAL", False),
])
def test_the_standard_variable_chooses_the_version(value: str, latest: bool) -> None:
    """One word among those of other conventions, spelled as OpenTelemetry spells it."""
    assert settings.load({}, {"OTEL_SEMCONV_STABILITY_OPT_IN": value}).latest_conventions is latest
    assert settings.load({"semconv": value}, {}).latest_conventions is latest


def test_by_default_nothing_is_translated() -> None:
    """v1.41 is what conventions.py holds."""
    assert dialect.translated(SPAN, latest=False) == SPAN
    assert dialect.schema_url(False) == c.SCHEMA_URL


def test_the_newer_text_has_its_names_and_types() -> None:
    """top_k is an int, a message says no finish reason; all else is as it was."""
    found = dialect.translated(SPAN, latest=True)

    assert (found[c.REQUEST_TOP_K], type(found[c.REQUEST_TOP_K])) == (50, int)
    assert (found[c.REQUEST_TEMPERATURE], type(found[c.REQUEST_TEMPERATURE])) == (1.0, float)
    assert json.loads(found[c.OUTPUT_MESSAGES]) == [{"role": "assistant", "parts": [{"type": "text", "content": "hé"}]}]
    assert found[c.RESPONSE_FINISH_REASONS] == ["stop", "error"]
    assert found[c.TOKEN_ID] == b"\x01"
    assert list(found) == list(SPAN)
    assert dialect.schema_url(True).endswith("/gen-ai-dev/1.42.0-dev")


@pytest.mark.parametrize("value", ["no json", "[1]", "{}", None, "[{"])
def test_a_value_that_cannot_be_read_stays(value: str | None) -> None:
    """Translating never loses a span."""
    assert dialect.translated({c.OUTPUT_MESSAGES: value}, latest=True) == {c.OUTPUT_MESSAGES: value}
    assert dialect.translated({c.REQUEST_TOP_K: 0.5}, latest=True) == {c.REQUEST_TOP_K: 0.5}


PART_SCHEMA = {"type": "object", "required": ["type"], "properties": {"content": {"type": "string"}}}
MESSAGE_SCHEMA = {
    "type": "array",
    "items": {
        "type": "object", "required": ["role", "parts"],
        "properties": {
            "role": {"type": "string"}, "finish_reason": {"type": "string"},
            "parts": {"type": "array", "items": PART_SCHEMA},
        },
    },
}


@pytest.mark.parametrize("latest", [False, True])
def test_messages_have_the_shape_of_the_conventions(latest: bool) -> None:
    """Role and parts in both; the finish reason of a message only in v1.41."""
    messages = json.loads(dialect.translated(SPAN, latest)[c.OUTPUT_MESSAGES])
    jsonschema.validate(messages, MESSAGE_SCHEMA)

    assert ("finish_reason" in messages[0]) is not latest


class Letters:
    """A tokenizer: every id is one letter."""

    def decode(self, ids: Any, **kwargs: Any) -> str:
        return "".join(chr(97 + int(i) % 26) for i in ids)


@pytest.mark.parametrize("word", ["", "gen_ai_latest_experimental"])
def test_a_generation_speaks_the_version_asked_for(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the standard variable alone: types, messages on span and event, and the schema URL of the scope."""
    latest = bool(word)
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", word)
    with recorded(capture="text", content="SPAN_AND_EVENT", tokenizer=Letters()) as spans:
        tiny_model(eos_token_id=None).generate(batch(1)[0], max_new_tokens=3, do_sample=True, top_k=5)
    (span,) = spans.get_finished_spans()
    (content,) = [event for event in span.events if event.name == c.CONTENT_EVENT]

    assert type(span.attributes[c.REQUEST_TOP_K]) is (int if latest else float)
    for held in (span.attributes, content.attributes):
        assert ("finish_reason" in json.loads(held[c.OUTPUT_MESSAGES])[0]) is not latest
    assert span.attributes[c.RESPONSE_FINISH_REASONS] == ("length",)
    assert span.instrumentation_scope.schema_url == dialect.schema_url(latest)
