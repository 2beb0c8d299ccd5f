"""What leaves the process: a chosen capture is a ceiling, and arguments and exceptions hold no words unless text may leave."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace as otel

import cutaway
from cutaway import conventions as c
from cutaway import settings
from cutaway.testing import recorded, tiny_model
from sdk_helpers import batch

SECRET = "4111-1111"  # in no source line of the functions below


class Letters:
    """A tokenizer: every id is one letter."""

    def decode(self, ids: Any, **kwargs: Any) -> str:
        return "".join(chr(97 + int(i) % 26) for i in ids)


def everything(spans: Any) -> str:
    """All that would be sent, as text."""
    return repr([
        (span.name, dict(span.attributes), span.status.description, [(event.name, dict(event.attributes)) for event in span.events])
        for span in spans.get_finished_spans()
    ])


STRICT_TO_OPEN = ("numbers", "ids", "text")


@pytest.mark.parametrize(("chosen", "asked"), list(itertools.product(STRICT_TO_OPEN, (None, *STRICT_TO_OPEN))))
def test_a_chosen_capture_is_a_ceiling(chosen: str, asked: str | None) -> None:
    """By argument or by variable: a scope lowers it and never raises it."""
    expected = STRICT_TO_OPEN[min(STRICT_TO_OPEN.index(chosen), STRICT_TO_OPEN.index(asked or chosen))]

    assert settings.load({"capture": chosen}, {}).capture_within(asked) == expected
    assert settings.load({}, {"CUTAWAY_CAPTURE": chosen}).capture_within(asked) == expected


@pytest.mark.parametrize(("mode", "asked", "expected"), [
    ("", None, "ids"), ("", "text", "text"), ("", "numbers", "numbers"),
    ("SPAN_ONLY", None, "text"), ("SPAN_ONLY", "ids", "ids"),
    ("NO_CONTENT", None, "ids"), ("NO_CONTENT", "text", "ids"), ("NO_CONTENT", "numbers", "numbers"),
])
def test_where_nobody_chose_capture_a_scope_decides(mode: str, asked: str | None, expected: str) -> None:
    """`ids` unless the content variable turns text on; a scope may raise it to text, but not against NO_CONTENT."""
    environ = {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": mode}

    assert settings.load({}, environ).capture_within(asked) == expected


def test_numbers_stay_numbers_inside_a_scope_that_asks_for_text() -> None:
    """`configure(capture="numbers")` and `@trace(capture="text")`: neither ids nor text on the generation."""
    @cutaway.trace(capture="text", tokenizer=Letters())
    def answer() -> None:
        tiny_model().generate(batch(1)[0], max_new_tokens=3, do_sample=False)

    with recorded(capture="numbers") as spans:
        answer()
    attributes = spans.get_finished_spans()[0].attributes

    assert c.TOKEN_SURPRISAL in attributes
    assert {c.TOKEN_ID, c.TOKEN_TEXT, c.OUTPUT_MESSAGES, c.INPUT_MESSAGES}.isdisjoint(attributes)


@pytest.mark.parametrize(("configuration", "scope", "leaves"), [
    ({}, None, False), ({}, "text", True), ({"capture": "text"}, None, True), ({"capture": "ids"}, "text", False),
    ({"capture": "text", "content": "NO_CONTENT"}, "text", False),
])
def test_arguments_leave_only_where_text_may(configuration: dict[str, str], scope: str | None, leaves: bool) -> None:
    """`record_arguments` asks; capture decides."""
    @cutaway.trace(record_arguments=True, capture=scope)
    def pay(card: str) -> None: ...

    with recorded(**configuration) as spans:
        pay(SECRET)

    assert (SECRET in everything(spans)) is leaves


def failing(kind: str) -> Callable[[], None]:
    """A call that ends by an exception which holds the secret."""
    secret = SECRET

    class Broken:
        def put(self, value: Any) -> None:
            raise ConnectionResetError(f"lost {secret}") from ValueError(secret)

        def end(self) -> None: ...

    def generate() -> None:
        tiny_model().generate(batch(1)[0], max_new_tokens=3, do_sample=False, streamer=Broken())

    return {"function": cutaway.trace(lambda: Broken().put(1)), "generation": generate}[kind]


@pytest.mark.parametrize("kind", ["function", "generation"])
def test_without_text_an_exception_is_its_class_and_its_frames(kind: str) -> None:
    """Neither message, nor cause, nor source line: the class, and the frames as file, line and function."""
    with recorded() as spans, pytest.raises(ConnectionResetError):
        failing(kind)()
    (span,) = spans.get_finished_spans()
    (event,) = span.events

    assert SECRET not in everything(spans)
    assert "raise ConnectionResetError" not in everything(spans)
    assert (span.status.status_code, span.status.description) == (otel.StatusCode.ERROR, "ConnectionResetError")
    assert set(event.attributes) == {"exception.type", "exception.stacktrace"}
    assert event.attributes["exception.stacktrace"].splitlines()[-1].startswith(__file__)
    assert event.attributes["exception.stacktrace"].endswith(" in put")


@pytest.mark.parametrize("kind", ["function", "generation"])
def test_with_text_an_exception_says_all(kind: str) -> None:
    """`capture="text"`: message, cause and source lines."""
    with recorded(capture="text", tokenizer=Letters()) as spans, pytest.raises(ConnectionResetError):
        failing(kind)()
    (span,) = spans.get_finished_spans()
    (event,) = span.events

    assert event.attributes["exception.message"] == span.status.description == f"lost {SECRET}"
    assert event.attributes["exception.stacktrace"].count(SECRET) == 2
    assert "raise ConnectionResetError" in event.attributes["exception.stacktrace"]


@pytest.mark.parametrize("capture", ["ids", "text"])
def test_an_exception_that_cannot_be_shown_still_ends_the_span(capture: str) -> None:
    """Its `__str__` raises: the same exception passes, the span ends as failed under its class."""
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    error = Mute()
    with recorded(capture=capture) as spans, pytest.raises(Mute) as caught, cutaway.span("block"):
        raise error
    (span,) = spans.get_finished_spans()

    assert caught.value is error
    assert span.status.status_code is otel.StatusCode.ERROR
    assert span.attributes[c.ERROR_TYPE].endswith("Mute")
