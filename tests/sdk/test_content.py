"""Whether text leaves the process: never unasked, and where it was asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest

import cutaway
from cutaway import content, trace
from cutaway import conventions as c
from cutaway.testing import recorded, tiny_model
from sdk_helpers import batch


class Letters:
    """A tokenizer of one letter a token; id 2 is a special token."""

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return "".join("" if i == 2 and skip_special_tokens else chr(97 + i % 26) for i in ids)


class Spaces:
    """A tokenizer that strips a leading space, as sentencepiece ones do, and rewrites what it has seen at the end."""

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return "".join(f" w{i}" for i in ids).replace(" w3 w4", " fused").strip()


def generated(**configuration: Any) -> Any:
    model = tiny_model()
    ids, mask = batch(2)
    with recorded(tokenizer=Letters(), **configuration) as spans:
        model.generate(ids, attention_mask=mask, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    return spans.get_finished_spans()[0]


def test_text_does_not_leave_unasked() -> None:
    """With a tokenizer at hand but no consent: ids, no text anywhere."""
    span = generated()

    assert not {c.INPUT_MESSAGES, c.OUTPUT_MESSAGES, c.TOKEN_TEXT} & set(span.attributes)
    assert {event.name for event in span.events} == {c.EVALUATION_EVENT}
    assert not {c.INPUT_MESSAGES, c.OUTPUT_MESSAGES} & {name for event in span.events for name in event.attributes}
    assert c.TOKEN_ID in span.attributes


def test_numbers_keeps_ids_back() -> None:
    """`capture="numbers"`: not even ids, which could be decoded."""
    span = generated(capture="numbers")

    assert c.TOKEN_ID not in span.attributes
    assert c.TOKEN_SURPRISAL in span.attributes


@pytest.mark.parametrize(("mode", "on_span", "on_event"), [
    ("SPAN_ONLY", True, False), ("EVENT_ONLY", False, True), ("SPAN_AND_EVENT", True, True), ("true", True, False),
    ("NO_CONTENT", False, False),
])
def test_the_standard_variable_decides(monkeypatch: pytest.MonkeyPatch, mode: str, on_span: bool, on_event: bool) -> None:
    """OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT puts messages on the span, on the event, on both or nowhere."""
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", mode)
    span = generated(evaluations="off")

    assert (c.OUTPUT_MESSAGES in span.attributes) is on_span
    assert [event.name for event in span.events] == [c.CONTENT_EVENT] * on_event
    if on_event:
        assert json.loads(span.events[0].attributes[c.OUTPUT_MESSAGES])[0]["role"] == "assistant"


def test_no_content_wins_over_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator's NO_CONTENT holds against `capture="text"` in the code."""
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "NO_CONTENT")

    assert c.OUTPUT_MESSAGES not in generated(capture="text").attributes


def test_messages_leave_padding_out() -> None:
    """One user message a row without padding, one assistant message a sequence with its finish reason."""
    span = generated(capture="text")
    asked = json.loads(span.attributes[c.INPUT_MESSAGES])
    answered = json.loads(span.attributes[c.OUTPUT_MESSAGES])

    assert [len(message["parts"][0]["content"]) for message in asked] == [9, 7]
    assert [message["finish_reason"] for message in answered] == list(span.attributes[c.RESPONSE_FINISH_REASONS])
    assert "".join(span.attributes[c.TOKEN_TEXT]) == "".join(message["parts"][0]["content"] for message in answered)


def test_long_text_is_cut_and_said() -> None:
    """Beyond `text_characters_max` the text ends in an ellipsis and the reason names the limit."""
    span = generated(capture="text", text_characters_max=5)

    assert json.loads(span.attributes[c.INPUT_MESSAGES])[0]["parts"][0]["content"].endswith("…")
    assert "text_characters_max" in span.attributes[c.STATUS_REASON]


def test_a_missing_tokenizer_is_said() -> None:
    """Text was asked for and no tokenizer is known: ids remain, the reason says what to do."""
    with recorded(capture="text") as spans:
        tiny_model().generate(batch(1)[0], max_new_tokens=3, do_sample=False)
    (span,) = spans.get_finished_spans()

    assert "tokenizer" in span.attributes[c.STATUS_REASON]
    assert c.TOKEN_ID in span.attributes


def test_the_decorator_overrides_capture_and_tokenizer() -> None:
    """`@trace(capture=, tokenizer=, conversation_id=, seed=)` holds for the generations inside."""
    model = tiny_model()

    @trace(capture="text", tokenizer=Letters(), conversation_id="c-1", seed=4)
    def answer() -> None:
        model.generate(batch(1)[0], max_new_tokens=3, do_sample=False)

    with recorded() as spans:
        answer()
    span = spans.get_finished_spans()[0]

    assert c.OUTPUT_MESSAGES in span.attributes
    assert (span.attributes[c.CONVERSATION_ID], span.attributes[c.REQUEST_SEED]) == ("c-1", 4)


def test_attributes_for_the_generations_inside() -> None:
    """`generation_attributes` are on every generation inside and nowhere else: the nearer ones over the outer, ours over both."""
    model = tiny_model()

    def answer() -> None:
        model.generate(batch(1)[0], max_new_tokens=2, do_sample=False)

    with recorded() as spans:
        with cutaway.span("outer", generation_attributes={"tier": "gold", "template": "a", c.OPERATION_NAME: "none of yours"}):
            answer()
            with cutaway.span("inner", generation_attributes={"template": "b", c.REFERENCE_TEXT: "Paris"}):
                answer()
        answer()
    names = ("tier", "template", c.REFERENCE_TEXT)
    seen: dict[str, list[Any]] = {span.name: [] for span in spans.get_finished_spans()}
    for span in sorted(spans.get_finished_spans(), key=lambda span: span.start_time):
        seen[span.name].append(tuple(span.attributes.get(name) for name in names))
    generated = next(name for name in seen if name not in ("outer", "inner"))

    assert seen.pop(generated) == [("gold", "a", None), ("gold", "b", "Paris"), (None, None, None)]
    assert seen == {"outer": [(None,) * 3], "inner": [(None,) * 3]}
    assert "none of yours" not in [value for span in spans.get_finished_spans() for value in span.attributes.values()]


@pytest.mark.parametrize("ids", [[], [5], [1, 2, 3], [3, 4], [1, 3, 4, 4, 3, 4, 2]])
def test_pieces_join_even_where_decoding_rewrites_itself(ids: list[int]) -> None:
    """A tokenizer whose text of a prefix is not a prefix of its text: one piece a token, and joined they are the whole."""
    pieces = content.pieces(Spaces(), ids)

    assert len(pieces) == len(ids)
    assert "".join(pieces) == Spaces().decode(ids)


def test_the_tokenizer_of_instrument_survives_configure() -> None:
    """`instrument(tokenizer=...)` before `configure(...)`: text is captured with that tokenizer."""
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    import cutaway

    memory = InMemorySpanExporter()
    cutaway.instrument(tokenizer=Letters())
    try:
        cutaway.configure(span_processor=SimpleSpanProcessor(memory), capture="text")
        tiny_model().generate(batch(1)[0], max_new_tokens=3, do_sample=False)
        assert cutaway.flush()
    finally:
        cutaway.uninstrument()
        cutaway.shutdown()

    assert c.TOKEN_TEXT in memory.get_finished_spans()[0].attributes
