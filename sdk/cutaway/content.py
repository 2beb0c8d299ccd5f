"""Turns token ids into text for those who opted in: pieces that join to the answer, prompts, messages.

Not a decision: whether text may leave the process is decided by the settings and the flow. The tokenizer is whatever the host
program uses; only its `decode` is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

_WINDOW_TOKENS: Final = 8
"""Longest run of tokens that may form one character: four bytes in UTF-8, with room for odd vocabularies."""

_EXACT_TOKENS_MAX: Final = 1024
"""Longest sequence decoded prefix by prefix when windows do not join to the answer; it costs the square of the length."""

_BROKEN: Final = "�"


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """The answer as the program's own `tokenizer.decode(ids, skip_special_tokens=True)` gives it."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """One text piece a token; joined they equal `decode(tokenizer, ids)`, also where a character spans several tokens.

    A token that completes nothing visible (part of a character, a special token) has the piece "".
    """
    whole = decode(tokenizer, ids)
    found: list[str] = []
    begin = read = 0
    before = ""
    for i in range(len(ids)):
        after = decode(tokenizer, ids[begin:i + 1])
        if after.endswith(_BROKEN) and i - read < _WINDOW_TOKENS:
            found.append("")
            continue
        found.append(after[len(before):])
        begin, read = read, i + 1
        before = decode(tokenizer, ids[begin:read])
    joined = "".join(found)
    if whole.startswith(joined) and found:
        found[-1] += whole[len(joined):]  # an answer that ends inside a character
        return found
    return _exact_pieces(tokenizer, ids, whole)


def _exact_pieces(tokenizer: Any, ids: Sequence[int], whole: str) -> list[str]:
    """Cuts the whole text where a decoded prefix is a prefix of it."""
    if len(ids) > _EXACT_TOKENS_MAX:
        return [whole] + [""] * (len(ids) - 1)
    found, cut = [], 0
    for i in range(len(ids)):
        prefix = decode(tokenizer, ids[:i + 1]) if i + 1 < len(ids) else whole
        end = len(prefix) if whole.startswith(prefix) else cut
        found.append(whole[cut:end] if end > cut else "")
        cut = max(cut, end)
    return found


def prompts(tokenizer: Any, ids: Any, mask: Any, rows: int) -> list[str]:
    """The prompt of each row as the model saw it, special tokens included, padding left out.

    ids: int tensor [row, position]; mask: [row * expansion, position] or None.
    """
    ids = ids.cpu()
    step = 1 if mask is None else max(1, mask.shape[0] // max(1, rows))
    kept = None if mask is None else mask[::step, -ids.shape[1]:].cpu().bool()
    own = [row if kept is None else row[kept[i]] for i, row in enumerate(ids)]
    return [str(tokenizer.decode(row.tolist(), skip_special_tokens=False)) for row in own]


def chat_messages(messages: Any) -> list[dict[str, Any]]:
    """A conversation as transformers writes it ({"role", "content"}) -> messages of the GenAI conventions."""
    found = []
    for message in messages:
        content = message.get("content")
        parts = [{"type": "text", "content": content}] if isinstance(content, str) else [
            {"type": "text", "content": part.get("text", "")} if part.get("type") == "text" else {"type": str(part.get("type"))}
            for part in content or ()
        ]
        found.append({"role": str(message.get("role")), "parts": parts})
    return found

