"""The redaction hook and the limit of one span's text: nothing leaves that the hook changed, and nothing is cut in silence."""

from __future__ import annotations

import json
import re
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutaway import conventions as c
from cutaway import settings
from cutaway.redaction import Redaction, Room, valid

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
