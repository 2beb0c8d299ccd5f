"""The redaction hook and the limit of one span's text: nothing leaves that the hook changed, and nothing is cut in silence."""

from __future__ import annotations

import contextlib
import json
import re
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import cutaway
from cutaway import configuration, instrumentation, settings
from cutaway import conventions as c
from cutaway.errors import ConfigurationError
from cutaway.redaction import Redaction, Room, valid
from cutaway.testing import recorded, tiny_model
from sdk_helpers import batch

CARD = "4111-1111"


def stars(name: str, text: str) -> str:
    return text.replace(CARD, "****")


def message(content: str, role: str = "assistant") -> dict[str, Any]:
    return {"role": role, "parts": [{"type": "text", "content": content}]}


def contents(written: str) -> list[str]:
    return [part["content"] for message in json.loads(written) for part in message["parts"]]


def test_without_a_hook_every_text_passes() -> None:
    """Nothing is changed, withheld or said."""
    redaction = Redaction(None)

    assert redaction.text(c.OUTPUT_MESSAGES, CARD) == CARD
    assert redaction.messages(c.INPUT_MESSAGES, [message(CARD)]) == [message(CARD)]
    assert redaction.pieces([["a", "b"], ["c"]]) == ["a", "b", "c"]
    assert (redaction.withheld, redaction.reasons, redaction.active) == (frozenset(), [], False)


def test_the_hook_sees_name_and_text_and_its_answer_is_sent() -> None:
    """Changed text is sent changed, unchanged as it was; roles and finish reasons are not its business."""
    seen: list[tuple[str, str]] = []

    def hook(name: str, text: str) -> str:
        seen.append((name, text))
        return stars(name, text)

    redaction = Redaction(hook)
    sent = redaction.messages(c.OUTPUT_MESSAGES, [{**message(f"card {CARD}"), "finish_reason": "stop"}, message("hello")])

    assert seen == [(c.OUTPUT_MESSAGES, f"card {CARD}"), (c.OUTPUT_MESSAGES, "hello")]
    assert [entry["parts"][0]["content"] for entry in sent] == ["card ****", "hello"]
    assert sent[0]["finish_reason"] == "stop"


def test_a_dropped_text_leaves_its_message_in_place() -> None:
    """None sends nothing of the text; messages still line up with sequences."""
    redaction = Redaction(lambda name, text: None if "secret" in text else text)
    sent = redaction.messages(c.OUTPUT_MESSAGES, [message("a"), message("secret"), message("b")])

    assert [entry["parts"] for entry in sent] == [message("a")["parts"], [], message("b")["parts"]]


@pytest.mark.parametrize(("name", "withheld"), [
    (c.OUTPUT_MESSAGES, {c.TOKEN_ID, c.ALTERNATIVE_ID, c.TOKEN_TEXT}), (c.INPUT_MESSAGES, {c.PROMPT_TOKEN_ID}),
])
def test_what_spells_a_changed_text_is_withheld(name: str, withheld: set[str]) -> None:
    """Token ids decode to the text the hook changed: one changed answer of many withholds them, an unchanged one does not."""
    redaction = Redaction(stars)
    redaction.messages(name, [message("hello")])
    assert redaction.withheld == frozenset()

    redaction.messages(name, [message(f"card {CARD}")])
    assert redaction.withheld == withheld
    assert name in " ".join(redaction.reasons)


def test_token_texts_go_only_where_the_hook_leaves_the_joined_answer() -> None:
    """A secret cut into tokens is no secret to a hook that sees pieces: it is asked about the joined text."""
    assert Redaction(stars).pieces([["card ", "4111", "-1111"], ["fine"]]) is None
    assert Redaction(stars).pieces([["card ", "4111"], ["fine"]]) == ["card ", "4111", "fine"]

    after_an_answer = Redaction(stars)
    after_an_answer.text(c.OUTPUT_MESSAGES, CARD)
    assert after_an_answer.pieces([["fine"]]) is None


def failing(name: str, text: str) -> str:
    raise ValueError(text)


async def asynchronous(name: str, text: str) -> str:
    return text


@pytest.mark.parametrize(("hook", "why"), [
    (failing, "failed (ValueError)"), (lambda name, text: 5, "returned int"), (asynchronous, "returned coroutine"),
    (lambda text: text, "failed (TypeError)"), (lambda name, text: text.encode(), "returned bytes"),
])
def test_a_hook_that_fails_drops_the_text(hook: Any, why: str, caplog: pytest.LogCaptureFixture) -> None:
    """The unredacted text is not sent, not in the reason, not in the log; the reason and one log line say what happened."""
    redaction = Redaction(hook)

    assert redaction.text(c.OUTPUT_MESSAGES, CARD) is None
    assert redaction.text(c.OUTPUT_MESSAGES, CARD) is None
    assert c.TOKEN_ID in redaction.withheld
    assert any(why in reason and "2 left out" in reason for reason in redaction.reasons)
    assert CARD not in " ".join(redaction.reasons) + caplog.text
    assert len([record for record in caplog.records if "redaction hook" in record.message]) == 1


def test_a_hook_that_generates_is_not_asked_about_itself() -> None:
    """A model that finds names is traced like any other, without words: no recursion."""
    depth: list[int] = []

    def hook(name: str, text: str) -> str:
        inner = Redaction(hook)
        depth.append(1)
        assert inner.text(c.OUTPUT_MESSAGES, "inner words") is None
        assert c.TOKEN_ID in inner.withheld
        return text

    assert Redaction(hook).text(c.OUTPUT_MESSAGES, "outer words") == "outer words"
    assert len(depth) == 1


def test_ids_nobody_can_read_are_withheld() -> None:
    """With a hook and without a tokenizer, ids might spell anything."""
    redaction = Redaction(stars)
    redaction.see(c.OUTPUT_MESSAGES, None)
    assert c.TOKEN_ID in redaction.withheld
    assert "tokenizer" in " ".join(redaction.reasons)

    readable = Redaction(stars)
    readable.see(c.OUTPUT_MESSAGES, ["hello"])
    assert readable.withheld == frozenset()


@given(st.lists(st.text(st.characters(exclude_categories=())), max_size=6), st.integers(0, 200), st.integers(0, 400), st.booleans())
def test_messages_fit_and_a_cut_is_said(texts: list[str], characters_max: int, bytes_max: int, newest_first: bool) -> None:
    """Any text at all, surrogates and control characters included: valid JSON in UTF-8 within the room, or the reason says so."""
    room = Room(bytes_max)
    written = room.messages(c.INPUT_MESSAGES, [message(text) for text in texts], characters_max, newest_first)
    whole = json.dumps([message(valid(text)) for text in texts], ensure_ascii=False, separators=(",", ":"))

    assert len(written.encode()) <= max(2, bytes_max)
    assert room.left == bytes_max - len(written.encode())
    assert (json.loads(written) == json.loads(whole)) is (room.reasons == [])
    kept = contents(written)
    originals = [valid(text) for text in texts]
    aligned = originals[len(originals) - len(kept):] if newest_first else originals[:len(kept)]
    for short, long in zip(kept, aligned, strict=True):
        assert short == long or short == "" or (short.endswith("…") and long.startswith(short[:-1]))


def test_a_history_too_long_keeps_its_newest_messages() -> None:
    """Half a million characters of conversation: the last question is whole, the first messages are gone or cut, and it is said."""
    history = [message(f"{i} " + "x" * 1000, "user") for i in range(500)]
    room = Room(10_000)
    written = room.messages(c.INPUT_MESSAGES, history, 200_000, newest_first=True)
    kept = contents(written)

    assert kept[-1] == history[-1]["parts"][0]["content"]
    assert 5 <= len(kept) < 11
    assert f"{500 - len(kept)} of 500 messages left out" in " ".join(room.reasons)


def test_answers_keep_their_order_and_the_first() -> None:
    """Thousands of rows: those that fit are the first ones, so that message i is sequence i."""
    room = Room(100_000)
    written = room.messages(c.OUTPUT_MESSAGES, [message(f"answer {i}") for i in range(8192)], 200_000)
    kept = contents(written)

    assert 1000 < len(kept) < 8192
    assert kept == [f"answer {i}" for i in range(len(kept))]
    assert "of 8192 messages left out" in room.reasons[0]


def test_a_large_text_is_cut_at_a_character() -> None:
    """Four-byte characters: the limit counts bytes, and no character is halved."""
    room = Room(1000)
    written = room.messages(c.OUTPUT_MESSAGES, [message("🦆" * 5000)], 200_000)
    (kept,) = contents(written)

    assert 900 < len(written.encode()) <= 1000
    assert set(kept) == {"🦆", "…"}
    assert "text_bytes_max" in room.reasons[0]


def test_what_is_sent_twice_counts_twice() -> None:
    """On the span and on its event: the room is shared."""
    once, twice = Room(10_000), Room(10_000, copies=2)
    for room in (once, twice):
        room.messages(c.OUTPUT_MESSAGES, [message("x" * 20_000)], 200_000)

    assert once.left >= 0
    assert 0 <= twice.left < 10


def test_a_value_limit_of_the_provider_leaves_valid_json() -> None:
    """The provider would cut JSON in its middle: it is made to fit."""
    room = Room(10_000, value_characters_max=200)
    written = room.messages(c.OUTPUT_MESSAGES, [message("x" * 1000)], 200_000)

    assert len(written) <= 200
    assert contents(written)[0].endswith("…")
    assert "200 characters a value" in room.reasons[0]


def test_token_texts_go_whole_or_not_at_all() -> None:
    """Half of them would no longer line up with the tokens."""
    assert Room(1000).pieces(c.TOKEN_TEXT, ["ab", "é", "\ud800"]) == ["ab", "é", "\ufffd"]

    room = Room(1000)
    assert room.pieces(c.TOKEN_TEXT, ["a"] * 500) is None
    assert room.left == 1000
    assert re.search(r"2500 bytes do not fit the 1000 left", room.reasons[0])


def test_plain_texts_share_the_room() -> None:
    """Arguments and messages of exceptions: each within its own limit, together within the span's."""
    room = Room(30)

    assert room.text("code.argument.a", "x" * 100, 10) == "x" * 10
    assert room.reasons == []
    assert room.text("code.argument.b", "é" * 100, 50) == "é" * 8 + "…"
    assert room.text("code.argument.c", "more", 50) == ""
    assert room.left >= 0
    assert [reason.split(" ")[0] for reason in room.reasons] == ["code.argument.b", "code.argument.c"]


def test_text_that_utf8_cannot_carry_is_repaired() -> None:
    """Lone halves of surrogate pairs become U+FFFD, pairs their character, anything else stays."""
    assert valid("a\ud800b") == "a\ufffdb"
    assert valid("\ud83e\udd86") == "🦆"
    assert valid("naïve 🦆\x00") == "naïve 🦆\x00"


def test_the_room_leaves_place_for_the_series() -> None:
    """Whatever the settings say, series and text together fit one request."""
    chosen = settings.load({}, {})

    assert chosen.text_room_bytes() == chosen.text_bytes_max
    assert chosen.series_bytes_max + chosen.text_room_bytes(chosen.series_bytes_max) < chosen.request_bytes_max
    assert settings.load({"request_bytes_max": 1000}, {}).text_room_bytes() == 0


def test_cutting_a_huge_text_takes_no_copies_of_it() -> None:
    """Ten million characters: a few copies of the text at most, not one a step."""
    text = "y" * 10_000_000
    tracemalloc.start()
    Room(1000).messages(c.OUTPUT_MESSAGES, [message(text)], 200_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 3 * len(text)


# --- The whole way: from generate to the span ---------------------------------------------------------------------------


class Letters:
    """A tokenizer: every id is one letter."""

    def decode(self, ids: Any, **kwargs: Any) -> str:
        return "".join(chr(97 + int(i) % 26) for i in ids)


def traced(work: Callable[[], Any], **configuration: Any) -> Any:
    """The last span of `work` under these settings."""
    with recorded(**{"tokenizer": Letters(), **configuration}) as spans:
        with contextlib.suppress(LookupError):
            work()
        return spans.get_finished_spans()[-1]


def generate(**options: Any) -> Any:
    return tiny_model().generate(batch(2)[0], max_new_tokens=6, do_sample=False, **options)


def everything(span: Any) -> str:
    """All that would be sent, as text."""
    return repr((span.name, dict(span.attributes), span.status.description, [(e.name, dict(e.attributes)) for e in span.events]))


def answers() -> list[str]:
    return contents(traced(generate, capture="text").attributes[c.OUTPUT_MESSAGES])


IDS = {c.TOKEN_ID, c.TOKEN_TEXT}


@pytest.mark.parametrize("content", ["", "EVENT_ONLY", "SPAN_AND_EVENT"])
def test_a_redacted_answer_is_nowhere(content: str) -> None:
    """Span, content event, token ids, token texts: nothing spells what the hook replaced; the signals stay, the reason says why."""
    secret = answers()[0]
    span = traced(generate, capture="text", content=content, redact=lambda name, text: text.replace(secret, "****"))

    assert secret not in everything(span)
    assert "****" in everything(span)
    assert IDS.isdisjoint(span.attributes)
    assert c.TOKEN_SURPRISAL in span.attributes
    assert "redaction" in span.attributes[c.STATUS_REASON]


def test_an_unchanged_answer_goes_whole() -> None:
    """A hook that has nothing to change costs nothing: ids and token texts are there, and no reason is given."""
    with_hook = traced(generate, capture="text", redact=lambda name, text: text).attributes
    without = traced(generate, capture="text").attributes

    assert set(with_hook) >= IDS
    for name in (c.TOKEN_ID, c.TOKEN_TEXT, c.OUTPUT_MESSAGES, c.INPUT_MESSAGES):
        assert with_hook[name] == without[name]
    assert c.STATUS_REASON not in with_hook


@pytest.mark.parametrize(("tokenizer", "changes", "leave"), [
    (Letters(), False, True), (Letters(), True, False), (None, False, False),
])
def test_ids_alone_pass_the_hook_too(tokenizer: Any, changes: bool, leave: bool) -> None:
    """`capture="ids"`: ids decode to text, so they leave only where the hook has seen the text and left it."""
    def hook(name: str, text: str) -> str:
        return "****" if changes else text

    span = traced(generate, capture="ids", tokenizer=tokenizer, redact=hook)

    assert (c.TOKEN_ID in span.attributes) is leave
    assert c.OUTPUT_MESSAGES not in span.attributes
    assert c.TOKEN_SURPRISAL in span.attributes


def test_the_hook_is_not_asked_where_nothing_leaves() -> None:
    """`capture="numbers"`: there is nothing to look at."""
    asked: list[str] = []
    traced(generate, capture="numbers", redact=lambda name, text: asked.append(name) or text)

    assert asked == []


def test_a_failing_hook_neither_leaks_nor_reaches_the_program() -> None:
    """The call returns what it would have; prompts, answers and ids are absent, and the reason names the class of the failure."""
    with recorded(capture="text", tokenizer=Letters(), redact=failing) as spans:
        result = generate()
    (span,) = spans.get_finished_spans()

    assert result.equal(generate())
    assert contents(span.attributes[c.OUTPUT_MESSAGES]) == []
    assert contents(span.attributes[c.INPUT_MESSAGES]) == []
    assert IDS.isdisjoint(span.attributes)
    assert "ValueError" in span.attributes[c.STATUS_REASON]


def test_a_hook_that_generates_ends() -> None:
    """The hook asks a model: that generation is a span of numbers, and nobody asks the hook about it."""
    asked: list[str] = []

    def hook(name: str, text: str) -> str:
        asked.append(name)
        tiny_model(seed=1).generate(batch(1)[0], max_new_tokens=2, do_sample=False)
        return text

    with recorded(capture="text", tokenizer=Letters(), redact=hook) as spans:
        generate()
        finished = spans.get_finished_spans()
    outer = [span for span in finished if c.OUTPUT_MESSAGES in span.attributes]

    assert len(outer) == 1
    assert len(asked) <= 6
    assert all(IDS.isdisjoint(span.attributes) for span in finished if span is not outer[0])


def raising() -> None:
    raise KeyError(f"card {CARD}") from ValueError(f"cause {CARD}")


@pytest.mark.parametrize(("hook", "said"), [
    (stars, "'card ****'"), (lambda name, text: None, "KeyError"), (failing, "KeyError"),
    (lambda name, text: None if name == "exception.message" else text, "KeyError"),
])
def test_exceptions_say_what_the_hook_leaves(hook: Any, said: str) -> None:
    """Message, description and stack: where the message was changed, the stack is its frames alone, causes included."""
    span = traced(cutaway.trace(raising), capture="text", redact=hook)
    (event,) = span.events

    assert CARD not in everything(span)
    assert span.status.description == said
    assert " in raising" in event.attributes["exception.stacktrace"]


def test_arguments_pass_the_hook_as_text() -> None:
    """Numbers too: a card number may be an int. What is unchanged keeps its type."""
    @cutaway.trace(record_arguments=True)
    def pay(card: Any, amount: int, note: str) -> None: ...

    span = traced(lambda: pay(41111111, 5, f"card {CARD}"), capture="text",
                  redact=lambda name, text: "****" if text == "41111111" else stars(name, text))

    assert span.attributes["code.argument.card"] == "****"
    assert span.attributes["code.argument.amount"] == 5
    assert span.attributes["code.argument.note"] == "'card ****'"


def test_many_large_arguments_share_the_room_of_a_span() -> None:
    """The cut is said on the function's span."""
    @cutaway.trace(record_arguments=True)
    def work(**options: str) -> None: ...

    span = traced(lambda: work(**{f"a{i}": "é" * 5000 for i in range(20)}), capture="text", text_bytes_max=10_000)
    texts = [str(value) for name, value in span.attributes.items() if name.startswith("code.argument.")]

    assert sum(len(text.encode()) for text in texts) <= 10_000
    assert c.STATUS_REASON in span.attributes or len(texts) == 1


@pytest.mark.parametrize("content", ["SPAN_ONLY", "SPAN_AND_EVENT"])
def test_no_span_outgrows_a_request(content: str) -> None:
    """A long conversation and large limits: the span as protobuf is under `request_bytes_max`, and the cut is said."""
    chat = [{"role": "user", "content": f"{i} " + "ü\x00\ud800" * 3000} for i in range(200)]

    def work() -> None:
        with instrumentation.pipeline_scope(Letters(), chat):
            generate()

    limit = 300_000
    span = traced(work, content=content, capture="text", text_characters_max=10**9, text_bytes_max=10**9, request_bytes_max=limit)
    encoded = encode_spans([span]).SerializeToString()

    assert 100_000 < len(encoded) < limit
    assert json.loads(span.attributes[c.INPUT_MESSAGES])[-1]["parts"][0]["content"].startswith("199 ")
    assert "messages left out" in span.attributes[c.STATUS_REASON]
    assert c.OUTPUT_MESSAGES in span.attributes


@pytest.mark.parametrize("hook", [5, "stars", asynchronous])
def test_a_hook_that_cannot_be_one_is_refused(hook: Any) -> None:
    """At `configure`, with the rule and the remedy."""
    with pytest.raises(ConfigurationError, match="redact is a function of attribute and text"):
        cutaway.configure(redact=hook)


def test_a_later_configure_does_not_lose_the_hook() -> None:
    """Privacy does not depend on the order of two calls; `shutdown` forgets it."""
    cutaway.configure(exporter=InMemorySpanExporter(), redact=stars)
    cutaway.configure(exporter=InMemorySpanExporter())
    kept = configuration.redact()
    cutaway.shutdown()

    assert kept is stars
    assert configuration.redact() is None
