"""The JSON twin of the generation page, its numbers as float32, and the look-ups that the pages of a generation share.

Not the shape of the twin, which is the search's: this cuts out a window of it and spells its floats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from cutaway_collector import search as verb
from cutaway_collector.search import outline as stored
from cutaway_collector.search.cuts import WHOLE, Cut
from cutaway_collector.web import token_units, tokens
from cutaway_collector.web.errors import BadParameter, Missing
from cutaway_collector.web.pages.generation_choice import HEADS_MAX, LANE, TOKENS_MAX, whole
from cutaway_collector.web.pages.generation_lane import Numbers
from cutaway_collector.web.pages.trace import checked_id
from cutaway_collector.web.site import Arguments, Site

TOKENS_AT_ONCE: Final = 8192
"""Tokens of a window of the twin whose length is not said."""
SERIES_MAX: Final = 24
_MAP: Final = "map:"
_UNIT: Final = "unit:"


def _missing(site: Site, span_id: str) -> Missing:
    days = site.settings.tokens_retention_days
    return Missing(
        f"no generation with span id {span_id} is stored",
        hint=f"Either the span is no generation, or its tokens are older than {days} days; its trace may still be there.",
    )


def outline(site: Site, span_id: str) -> dict[str, Any]:
    """What the generation of a span has, as the search outlines it. Raises BadParameter, Missing, StoreError."""
    span_id = checked_id(span_id, 16, "span")
    found = stored.outline(site.store, span_id)
    if found is None:
        raise _missing(site, span_id)
    return found


def twin(site: Site, span_id: str, args: Arguments) -> dict[str, Any]:
    """The JSON twin. Raises as `page`.

    `heads` is a number or "all"; `attention` is one kind of map, or "none"; `seq`, `start` and `count` cut out one window.
    """
    text = args.get("heads", "")
    heads: Any = "all" if text == "all" else None if text in ("", "mean") else whole(args, "heads", HEADS_MAX)
    cut = _cut(args)
    span_id = checked_id(span_id, 16, "span")
    found = verb.generation(site.store, span_id, heads=heads, attention=args.get("attention", ""), cut=cut)
    if found is None:
        raise _missing(site, span_id)
    sequences = found["sequences"]
    if args.get("seq"):
        wanted = whole(args, "seq", max(1, len(sequences)))
        sequences = sequences[wanted : wanted + 1]
    window = {} if cut.whole else {"start": cut.start}
    return {**found, "sequences": [_lean(sequence) | window for sequence in sequences]}


def _cut(args: Arguments) -> Cut:
    if not (args.get("start") or args.get("count")):
        return WHOLE
    return Cut(whole(args, "start", TOKENS_MAX), whole(args, "count", TOKENS_MAX) or TOKENS_AT_ONCE)


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


def binary(site: Site, span_id: str, args: Arguments) -> bytes:
    """Series as little-endian float32, one after another in the order asked for, each over the same tokens; NaN where absent.

    `series`, with commas: signals by their keys, `lane:NAME` of a plug-in, `unit:word` (also sentence, line: number of the unit
    each token belongs to), `map:KIND` ([token, layer], or [token, layer, head] with `heads=all`; empty where not recorded). `seq`,
    `start`, `count` as in the twin; everything to the end without `count`. Raises BadParameter, QueryError, Missing, StoreError.
    """
    found = outline(site, span_id)
    sequences = found["sequences"]
    wanted = whole(args, "seq", max(1, len(sequences)))
    keys = [key for key in args.get("series", "").split(",") if key]
    if not keys or len(keys) > SERIES_MAX:
        raise BadParameter(f"series is 1 to {SERIES_MAX} names with commas, these are {len(keys)}", hint="try series=surprisal")
    if not sequences:
        return b""
    numbers = Numbers(site, found, sequences[wanted])
    start, count = whole(args, "start", TOKENS_MAX), whole(args, "count", TOKENS_MAX)
    cut = Cut(start, count or -1)
    text = args.get("heads", "")
    heads: Any = "all" if text == "all" else None if text in ("", "mean") else whole(args, "heads", HEADS_MAX)
    plain = [key for key in keys if key in tokens.BY_KEY]
    read = stored.signals(site.store, found, numbers.sequence["index"], plain, cut) if plain else {}
    size = cut.size(numbers.count)
    return b"".join(_series(numbers, key, read, cut, size, heads) for key in keys)


def _series(numbers: Numbers, key: str, read: Mapping[str, Any], cut: Cut, size: int, heads: Any) -> bytes:
    values: Any
    if key in tokens.BY_KEY:
        values = tokens.as_array(read.get(key), size)
    elif key.startswith(_MAP) and key.removeprefix(_MAP) in tokens.MAP_BY_KEY:
        found, sequence = numbers.found, numbers.sequence
        values = stored.attention(numbers.site.store, found, sequence, key.removeprefix(_MAP), heads, cut)
    elif key.startswith(_UNIT) and key.removeprefix(_UNIT) in token_units.UNITS:
        _, texts = stored.words(numbers.site.store, numbers.found, numbers.sequence["index"])
        words = token_units.joined([*texts, *[""] * (numbers.count - len(texts))])
        values = token_units.numbers(words, key.removeprefix(_UNIT))[cut.start : cut.start + size]
    elif key.startswith(LANE) and any(lane.name == key.removeprefix(LANE) for lane in numbers.site.plugins.lanes):
        values = numbers.of(key)[cut.start : cut.start + size]
    else:
        raise BadParameter(f"series has no {key[:30]!r}", hint=f"try {', '.join(tokens.BY_KEY)} or map:entropy")
    return np.ascontiguousarray(values, "<f4").tobytes()
