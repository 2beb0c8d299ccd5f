"""The words of one generation on their way out: read with the host's tokenizer, shown to the redaction hook, cut to their room.

Not a decision whether text may leave: that is the settings' (`capture_within`); here is what leaves then, and what must not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from cutaway import content, encode
from cutaway import conventions as c
from cutaway.redaction import Redaction, Room
from cutaway.settings import Settings
from cutaway.steps import Call, Prepared, Recording

NO_TOKENIZER = "text was asked for but no tokenizer is known: pass one to configure, instrument, trace or generate"


@dataclass(slots=True)
class Words:
    """What a generation says, before anybody has looked at it."""

    answers: list[str] | None = None
    """One text a sequence; None where no tokenizer is known."""
    prompts: list[str] | None = None
    """One text a row; None where nobody asked or nobody can read it."""
    messages: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Attribute -> messages; empty unless text may leave."""
    pieces: list[list[str]] | None = None
    """Token texts of each sequence; None unless text may leave on the span."""
    chat: bool = False


def read(call: Call, asked: Prepared | None, recording: Recording, capture: str, chosen: Settings, redacting: bool) -> Words:
    """Everything that needs the tokenizer. For the generating thread: a tokenizer belongs to the host, and few may be shared."""
    found = Words(chat=bool(call.messages))
    if call.tokenizer is None or recording.token_ids is None:
        return found
    ends = list(accumulate(recording.output_tokens))
    ids = [recording.token_ids[end - length:end].tolist() for end, length in zip(ends, recording.output_tokens, strict=True)]
    found.answers = [content.decode(call.tokenizer, each) for each in ids]
    text = capture == "text"
    unread = chosen.prompt_surprisal and redacting and capture != "numbers"
    if asked is not None and asked.input_ids is not None and (unread or (text and not call.messages)):
        found.prompts = content.prompts(call.tokenizer, asked.input_ids, asked.input_mask, asked.rows)
    if not text:
        return found
    if call.messages:
        found.messages[c.INPUT_MESSAGES] = content.chat_messages(call.messages)
    elif found.prompts is not None:
        found.messages[c.INPUT_MESSAGES] = [encode.text_message("user", each) for each in found.prompts]
    ended = zip(found.answers, recording.finish_reasons, strict=False)
    found.messages[c.OUTPUT_MESSAGES] = [encode.text_message("assistant", each, reason) for each, reason in ended]
    if chosen.content != "EVENT_ONLY":
        if sum(map(len, found.answers)) <= chosen.text_characters_max:
            found.pieces = [content.pieces(call.tokenizer, each) for each in ids]
        else:
            recording.reasons.append(f"{c.TOKEN_TEXT} left out: the answers are longer than text_characters_max")
    return found


def show(words: Words, redaction: Redaction, recording: Recording, capture: str) -> None:
    """Shows the hook all that would leave as text or as ids; afterwards `redaction.withheld` says which series must not."""
    if not redaction.active or capture == "numbers":
        return
    if capture == "text":
        words.messages = {name: redaction.messages(name, messages) for name, messages in words.messages.items()}
    if c.OUTPUT_MESSAGES not in words.messages and recording.token_ids is not None:
        redaction.see(c.OUTPUT_MESSAGES, words.answers)
    if recording.prompt_ids is not None and (words.chat or c.INPUT_MESSAGES not in words.messages):
        redaction.see(c.INPUT_MESSAGES, words.prompts)


def send(words: Words, redaction: Redaction, room: Room, chosen: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    """The attributes to put on the span, and those of the content event where one is asked for; within the room."""
    messages: dict[str, Any] = {}
    for name in (c.OUTPUT_MESSAGES, c.INPUT_MESSAGES):  # where both cannot be whole, the answer is
        if name in words.messages:
            newest = words.chat and name == c.INPUT_MESSAGES
            messages[name] = room.messages(name, words.messages[name], chosen.text_characters_max, newest)
    event = messages if chosen.content in ("EVENT_ONLY", "SPAN_AND_EVENT") else {}
    if chosen.content == "EVENT_ONLY":
        return {}, event
    found = dict(messages)
    pieces = None if words.pieces is None else redaction.pieces(words.pieces)
    fitting = None if pieces is None else room.pieces(c.TOKEN_TEXT, pieces)
    if fitting is not None:
        found[c.TOKEN_TEXT] = fitting
    return found, event
