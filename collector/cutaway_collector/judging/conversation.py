"""A span as texts: what was asked, what was answered and what would have been right, for each of its sequences. Judges nothing.

A prompt that is a model's own chat template, tokens and all, is taken apart into its turns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson

from cutaway import conventions as c
from cutaway_collector.messages import Message, answered, asked

SEQUENCES_MAX: Final = 256
_SYSTEM: Final = ("system", "developer")
_TURNS: Final = tuple(re.compile(pattern, re.DOTALL) for pattern in (
    r"<\|im_start\|>(?P<role>\w+)\n(?P<text>.*?)(?:<\|im_end\|>|\Z)",  # ChatML: SmolLM2, Qwen
    r"<\|start_header_id\|>(?P<role>\w+)<\|end_header_id\|>\n*(?P<text>.*?)(?:<\|eot_id\|>|\Z)",  # Llama 3
    r"<start_of_turn>(?P<role>\w+)\n(?P<text>.*?)(?:<end_of_turn>|\Z)",  # Gemma
    r"<\|(?P<role>system|user|assistant)\|>\n?(?P<text>.*?)(?=<\|(?:end|system|user|assistant)\|>|</s>|\Z)",  # Phi, Zephyr
    r"\[INST\](?P<role>)(?P<text>.*?)(?:\[/INST\]|\Z)",  # Llama 2, Mistral
))
_SYS: Final = re.compile(r"\s*<<SYS>>(.*?)<</SYS>>", re.DOTALL)


class Said(NamedTuple):
    """One sequence of a span, "" for what is not known; columns as in contracts.Texts."""

    sequence: int
    prompt: str
    answer: str
    reference: str
    system: str


def sequences(attributes: Mapping[str, str], events: Sequence[Mapping[str, Any]] = ()) -> list[Said]:
    """One entry an answer; one of the prompt alone where nothing was answered; none for a span without text."""
    before, after = asked(attributes, events), [message.text for message in answered(attributes, events)]
    if not before and not after:
        return []
    answers = (after or [""])[:SEQUENCES_MAX]
    prompts = _rows(before, len(after))
    references = _references(attributes.get(c.REFERENCE_TEXT, ""), len(answers))
    each = max(1, len(after) // len(prompts))
    found = []
    for sequence, answer in enumerate(answers):
        system, prompt = _turns(prompts[min(sequence // each, len(prompts) - 1)])
        found.append(Said(sequence, prompt, answer, references[sequence], system))
    return found


def _rows(messages: list[Message], answers: int) -> list[list[Message]]:
    """The conversation of each prompt: of a batch each message is one, and its answers stand together."""
    batch = len(messages) > 1 and answers and answers % len(messages) == 0 and all(message.role == "user" for message in messages)
    return [[message] for message in messages] if batch else [messages]


def _turns(messages: Iterable[Message]) -> tuple[str, str]:
    """(system prompt, the last turn: from the last question on, with what tools said to it)."""
    turns = [(role, text) for message in messages for role, text in _taken_apart(message)]
    system = "\n".join(text for role, text in turns if role in _SYSTEM)
    rest = [(role, text) for role, text in turns if role not in _SYSTEM]
    questions = [place for place, (role, _) in enumerate(rest) if role in ("user", "input", "human")]
    last = rest[questions[-1]:] if questions else rest
    return system, "\n".join(text for role, text in last if role not in ("assistant", "model"))


def _taken_apart(message: Message) -> list[tuple[str, str]]:
    for pattern in _TURNS:
        found = [(turn["role"] or "user", turn["text"].strip()) for turn in pattern.finditer(message.text)]
        if found:
            opening = _SYS.match(found[0][1])
            if opening:
                found[:1] = [("system", opening[1].strip()), ("user", found[0][1][opening.end():].strip())]
            return [(role, text) for role, text in found if text]
    return [(message.role, message.text)]


def _references(text: str, count: int) -> list[str]:
    """One a sequence: the attribute is one text for all, or a JSON list of one each."""
    if text.lstrip().startswith("["):
        try:
            listed = orjson.loads(text)
        except orjson.JSONDecodeError:
            listed = None
        if isinstance(listed, list) and all(isinstance(item, str) for item in listed):
            return [*listed, *[""] * count][:count]
    return [text] * count
