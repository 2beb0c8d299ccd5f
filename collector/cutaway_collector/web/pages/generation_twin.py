"""The JSON twin of the generation page, and the look-up that both share.

Not the shape of the answer, which is the search's: this cuts out a window of it and spells its floats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from cutaway_collector import search as verb
from cutaway_collector.web.errors import BadParameter, Missing
from cutaway_collector.web.pages.trace import checked_id
from cutaway_collector.web.site import Arguments, Site

TOKENS_SHOWN_MAX: Final = 8192
"""Tokens drawn at once; longer sequences are cut into windows of this size."""
HEADS_MAX: Final = 1024


def whole(args: Arguments, name: str, limit: int) -> int:
    """A parameter from 0 to limit - 1; 0 where it is left out. Raises BadParameter."""
    text = args.get(name, "") or "0"
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) >= limit:
        raise BadParameter(f"{name} is a number from 0 to {limit - 1}, it is {text[:20]!r}", hint="leave it out for the first")
    return int(text)


def fetch(site: Site, span_id: str, heads: Any, attention: str = "") -> dict[str, Any]:
    """The generation of a span; heads and attention as the search takes them. Raises BadParameter, Missing, StoreError."""
    span_id = checked_id(span_id, 16, "span")
    found = verb.generation(site.store, span_id, heads=heads, attention=attention)
    if found is None:
        days = site.settings.tokens_retention_days
        raise Missing(
            f"no generation with span id {span_id} is stored",
            hint=f"Either the span is no generation, or its tokens are older than {days} days; its trace may still be there.",
        )
    return found


def twin(site: Site, span_id: str, args: Arguments) -> dict[str, Any]:
    """The JSON twin. Raises as `page`.

    `heads` is a number or "all"; `attention` is one kind of map, or "none"; `seq`, `start` and `count` cut out one window.
    """
    text = args.get("heads", "")
    heads: Any = "all" if text == "all" else None if text in ("", "mean") else whole(args, "heads", HEADS_MAX)
    found = fetch(site, span_id, heads, args.get("attention", ""))
    sequences = found["sequences"]
    if args.get("seq"):
        wanted = whole(args, "seq", max(1, len(sequences)))
        sequences = sequences[wanted : wanted + 1]
    if args.get("start") or args.get("count"):
        start = whole(args, "start", 10**9)
        stop = start + (whole(args, "count", 10**9) or TOKENS_SHOWN_MAX)
        sequences = [_window(sequence, start, stop) for sequence in sequences]
    return {**found, "sequences": [_lean(sequence) for sequence in sequences]}


def _window(sequence: Mapping[str, Any], start: int, stop: int) -> dict[str, Any]:
    cut = {
        key: value[start:stop] for key, value in sequence.items()
        if key in ("token_ids", "tokens", "attention_entropy", "alternatives") and value
    }
    signals = {key: values[start:stop] for key, values in sequence["signals"].items()}
    attention = {key: values[start:stop] for key, values in sequence["attention"].items()}
    sources = {key: values if key == "layers" else values[start:stop] for key, values in sequence["sources"].items()}
    return {**sequence, **cut, "signals": signals, "attention": attention, "sources": sources, "start": start}


def _lean(sequence: Mapping[str, Any]) -> dict[str, Any]:
    """Floats as float32, which they were when recorded: their shortest text is half as long, and no digit is invented."""
    signals = {key: values if key == "rank" else _narrow(values) for key, values in sequence["signals"].items()}
    attention = {key: _narrow(values) for key, values in sequence["attention"].items()}
    sources = {**sequence["sources"], "masses": _narrow(sequence["sources"]["masses"])}
    prompt = {**sequence["prompt"], "surprisal": _narrow(sequence["prompt"]["surprisal"])}
    changed = {"signals": signals, "attention": attention, "sources": sources, "prompt": prompt}
    return {**sequence, **changed, "attention_entropy": _narrow(sequence["attention_entropy"])}


def _narrow(values: Sequence[Any]) -> Any:
    return np.asarray(values, np.float32) if len(values) else []
