"""The conversation of a span, whoever wrote it: prompts and answers out of the attributes and events of any dialect, as plain text.

Not a copy: nothing is stored twice, a page reads the messages out of what it shows anyway. What is not understood is left to the
attributes, where it stands as it came.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson

from cutaway import conventions as c

MESSAGES_MAX: Final = 200
"""Messages of one span that are read, prompts and answers each; a page is no place for more."""

_DEPTH_MAX: Final = 8
_SYSTEM: Final = "gen_ai.system_instructions"
_INDEXED: Final = re.compile(
    r"(llm\.input_messages|llm\.output_messages|llm\.prompts|llm\.choices|gen_ai\.prompt|gen_ai\.completion)\.(\d{1,6})\.(.+)")
_TOOL_NAME: Final = re.compile(r"(?:message\.)?tool_calls\.\d+\.(?:tool_call\.function\.)?name")
ATTRIBUTES: Final = (
    r"^(gen_ai\.(system_instructions|input\.messages|output\.messages|prompt|completion)|ai\.(prompt\.messages|response\.text)"
    r"|(input|output)\.value|traceloop\.entity\.(input|output)"
    r"|(llm\.(input_messages|output_messages|prompts|choices)|gen_ai\.(prompt|completion))\.[0-9]{1,6}\..+)$")
"""Names of the span attributes that are read here, for whoever wants to fetch no others (RE2)."""
_ASKED: Final = ("llm.input_messages", "llm.prompts", "gen_ai.prompt")
_ANSWERED: Final = ("llm.output_messages", "llm.choices", "gen_ai.completion")
_EVENTS: Final = {
    "gen_ai.system.message": "system", "gen_ai.user.message": "user", "gen_ai.assistant.message": "assistant",
    "gen_ai.tool.message": "tool", "gen_ai.choice": "assistant",
}


class Message(NamedTuple):
    """role: user, assistant, ..., or "input" and "output" where nobody says. source: the attribute or event it stands in."""

    role: str
    text: str
    source: str


def messages(attributes: Mapping[str, str], events: Sequence[Mapping[str, Any]] = ()) -> list[Message]:
    """Prompts, then answers. events: each with `name` and `attributes`. Of several dialects on one span the first counts."""
    return asked(attributes, events) + answered(attributes, events)


def asked(attributes: Mapping[str, str], events: Sequence[Mapping[str, Any]] = ()) -> list[Message]:
    """What was put to the model, as `messages` reads it."""
    spans, everywhere = (attributes,), (attributes, *(event["attributes"] for event in events))
    return _first(
        _told(everywhere, (_SYSTEM, c.INPUT_MESSAGES), "user"), _indexed(attributes, _ASKED, "user"), _said(events, answers=False),
        _told(everywhere, ("gen_ai.prompt", "ai.prompt.messages"), "user"),
        _told(spans, ("input.value",), "input"), _told(spans, ("traceloop.entity.input",), "input"),
    )


def answered(attributes: Mapping[str, str], events: Sequence[Mapping[str, Any]] = ()) -> list[Message]:
    """What it said, as `messages` reads it: one message a choice."""
    spans, everywhere = (attributes,), (attributes, *(event["attributes"] for event in events))
    return _first(
        _told(everywhere, (c.OUTPUT_MESSAGES,), "assistant"), _indexed(attributes, _ANSWERED, "assistant"),
        _said(events, answers=True),
        _told(everywhere, ("gen_ai.completion", "ai.response.text"), "assistant"),
        _told(spans, ("output.value",), "output"), _told(spans, ("traceloop.entity.output",), "output"),
    )


def _first(*roads: Iterable[Message]) -> list[Message]:
    for road in roads:
        if found := list(itertools.islice((message for message in road if message.text), MESSAGES_MAX)):
            return found
    return []


def _told(holders: Iterable[Mapping[str, str]], names: tuple[str, ...], role: str) -> Iterator[Message]:
    """Attributes, of the span or of its events, that hold messages as JSON or one text."""
    for held in holders:
        for name in names:
            if name in held:
                yield from _parsed(held[name], "system" if name == _SYSTEM else role, name)


def _said(events: Sequence[Mapping[str, Any]], *, answers: bool) -> Iterator[Message]:
    """OpenTelemetry up to 1.36: one event a message."""
    for event in events:
        role = _EVENTS.get(event["name"], "")
        if not role or (event["name"] == "gen_ai.choice") is not answers:
            continue
        held = event["attributes"]
        body = held.get("gen_ai.event.content") or held.get("message") or held.get("content") or ""
        yield from _parsed(body, held.get("role") or role, event["name"])


def _indexed(attributes: Mapping[str, str], prefixes: tuple[str, ...], role: str) -> Iterator[Message]:
    """OpenInference and older OpenLLMetry: one attribute a field, numbered."""
    fields: dict[tuple[str, int], dict[str, str]] = {}
    for name, value in attributes.items():
        if (match := _INDEXED.fullmatch(name)) and match[1] in prefixes:
            fields.setdefault((match[1], int(match[2])), {})[match[3]] = value
    for (prefix, number), held in sorted(fields.items()):
        who = held.get("message.role") or held.get("role") or role
        parts = [held[name] for name in ("message.content", "content", "prompt.text", "completion.text", "user") if held.get(name)]
        # Parts and tool calls are numbered again; their own order is the sender's.
        parts += [value for name, value in held.items() if name.endswith("message_content.text")]
        parts += [f"{value}({held.get(name.removesuffix('name') + 'arguments', '')})"
                  for name, value in held.items() if _TOOL_NAME.fullmatch(name)]
        yield Message(who, "\n".join(parts), f"{prefix}.{number}")


def _parsed(text: str, role: str, source: str) -> Iterable[Message]:
    """Messages of a JSON value; a text that is none is one message."""
    try:
        value = orjson.loads(text) if text.lstrip()[:1] in ("[", "{") else None
    except orjson.JSONDecodeError:
        value = None
    if value is None:
        return [Message(role, text, source)]
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, dict) and ("role" in item or "parts" in item or "content" in item) for item in items):
        return [Message(role, text, source)]
    return [Message(str(item.get("role") or role), _text(item), source) for item in items]


def _text(item: Any, depth: int = 0) -> str:
    """What a message or a part of one says; what nests deeper than messages do is left out."""
    if isinstance(item, str) or item is None or depth > _DEPTH_MAX:
        return item if isinstance(item, str) else ""
    if isinstance(item, list):
        return "\n".join(filter(None, (_text(part, depth + 1) for part in item)))
    if not isinstance(item, dict):
        return str(item)
    for key in ("parts", "content", "text"):
        if item.get(key) is not None:
            return _text(item[key], depth + 1)
    if item.get("name"):
        return f"{item['name']}({_spelled(item.get('arguments', item.get('input')))})"
    if "response" in item or "result" in item:
        return _spelled(item.get("response", item.get("result")))
    return f"[{item['type']}]" if isinstance(item.get("type"), str) else ""


def _spelled(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()
