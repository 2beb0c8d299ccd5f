"""The generation page: text, metric strips and attention map on one shared cursor, coloured by what the model felt.

Not the scorers and not the tokenizer: every number here was recorded while the model ran or stored as a score since.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from cutaway_collector.search import outline as stored
from cutaway_collector.search.cuts import Cut
from cutaway_collector.web import figures, steps, token_units, tokens, urls
from cutaway_collector.web.pages import generation_lane as windowed
from cutaway_collector.web.pages import generation_map as maps
from cutaway_collector.web.pages.generation_choice import LANE, VIEWS, Choice, Linker, choose, linker, settled
from cutaway_collector.web.pages.generation_header import Badge, Score, Tile, badges, sequence_scores, tiles
from cutaway_collector.web.pages.generation_twin import outline
from cutaway_collector.web.pages.score_lines import ScoreLine, lines
from cutaway_collector.web.pages.trace import Properties, properties, spoken
from cutaway_collector.web.site import Arguments, Site, Tab

KEYS: Final = (
    ("← →", "the token before, the next; or word, sentence, line"), ("↑ ↓", "another layer, with the focus on the map"),
    ("Shift + ← →", "choose a range; Escape lets go of it"), ("Enter", "pin the token; again to let go"),
    ("g", "next hesitation"), ("G", "the one before"), ("Page Up, Page Down", "a screen of text"),
    ("Home, End", "first, last token"), ("v", "colours, numbers, table, layers"), ("double click", "choose the word"),
    ("triple click", "choose the sentence"),
)
"""The keys of the page and what they do, while the tokens or a picture have the focus."""
OVERVIEW_STEPS: Final = 600
_EMPTY: Final[Mapping[str, Any]] = {
    "index": 0, "tokens": 0, "ids": 0, "texts": 0, "signals": {}, "layers": {}, "heads": {}, "scores": {}, "alternatives": 0,
    "sources": 0, "prompt": 0, "prompt_sequence": 0, "model_layers": 0, "input_tokens": 0,
}


@dataclass(frozen=True, slots=True)
class Lanes:
    """What follows the window: the tokens, the strips, the legend and the ways further. overview: of the whole sequence."""

    tokens: tuple[windowed.Token, ...]
    start: int
    stop: int
    count: int
    legend: windowed.Legend
    strips: tuple[windowed.Strip, ...]
    overview: windowed.Strip | None
    threshold: windowed.Threshold | None
    previous_url: str
    next_url: str

    @property
    def firsts(self) -> str:
        """The first token of each unit drawn, for the script; "" where each is a token of its own."""
        plain = all(token.size == 1 for token in self.tokens)
        return "" if plain else ",".join(str(token.index) for token in self.tokens)


@dataclass(frozen=True, slots=True)
class Prompt:
    """The strip of the prompt's surprisal; an empty path where it was not recorded."""

    strip_path: str
    count: int
    steps: int
    top: str


@dataclass(frozen=True, slots=True)
class GenerationPage:
    """Everything the generation template may use."""

    span: Mapping[str, Any]
    span_id: str
    trace_id: str
    trace_url: str
    name: str
    model: str
    service: str
    start_ns: int
    duration_ns: int
    failed: bool
    status_message: str
    tiles: tuple[Tile, ...]
    badges: tuple[Badge, ...]
    choice: Choice
    view: str
    signals: tuple[tokens.Signal, ...]
    tabs: Mapping[str, tuple[Tab, ...]]
    lanes: Lanes | None
    range: windowed.Range | None
    map: tokens.Map
    map_tabs: tuple[Tab, ...]
    heat: maps.Heat | None
    heat_reason: str
    table: maps.Table | None
    attention: Mapping[int, str]
    alternatives: Mapping[int, tuple[tuple[str, str], ...]]
    prompt: Prompt | None
    steps: steps.Steps | None
    sequence_scores: tuple[Score, ...]
    text_captured: bool
    scores: tuple[ScoreLine, ...]
    messages: Properties
    attributes: Properties
    hidden: tuple[tuple[str, str], ...]
    config: Mapping[str, Any]
    keys: tuple[tuple[str, str], ...]
    twin_url: str


def page(site: Site, span_id: str, args: Arguments) -> GenerationPage:
    """The page; its parameters are those of generation_choice. Raises BadParameter, QueryError, Missing, StoreError."""
    extra = _plugged(site)
    choice = choose(args, extra)
    found = outline(site, span_id)
    choice = settled(choice, found)
    sequence: Mapping[str, Any] = found["sequences"][choice.sequence] if found["sequences"] else _EMPTY
    numbers = windowed.Numbers(site, found, sequence)
    signals = _signals(found, choice, extra)
    shown, words = _lanes(numbers, choice, signals, linker(found["span_id"], choice)) if sequence["tokens"] else (None, {})
    if shown is not None:
        choice = replace(choice, start=shown.start)
    link = linker(found["span_id"], choice)
    heat = maps.heat(site, found, sequence, choice, link) if shown is not None else None
    said = found["attributes"].get("cutaway.status.reason", "")
    cut = Cut(shown.start, shown.stop - shown.start) if shown is not None else Cut()
    tabular = shown is not None and choice.view == "table"
    return GenerationPage(
        span=found,
        span_id=found["span_id"],
        trace_id=found["trace_id"],
        trace_url=urls.trace(found["trace_id"], span=found["span_id"]),
        name=found["name"],
        model=found["model"],
        service=found["service"],
        start_ns=found["start_ns"],
        duration_ns=found["duration_ns"],
        failed=str(found["status"]).lower() == "error",
        status_message=found["status_message"],
        tiles=tiles(found),
        badges=badges(found, sequence),
        choice=choice,
        view=choice.view,
        signals=signals,
        tabs=_tabs(found, choice, signals, numbers, link),
        lanes=shown,
        range=windowed.statistics(numbers, choice) if shown is not None else None,
        map=choice.map,
        map_tabs=maps.tabs(sequence, choice, link),
        heat=heat,
        heat_reason="" if heat else maps.reason(found, sequence, choice, said),
        table=maps.table(site, found, sequence, choice, cut, words) if shown is not None and choice.view == "layers" else None,
        attention=_attention(numbers, choice, shown) if shown is not None and tabular else {},
        alternatives=_alternatives(numbers, cut) if tabular else {},
        prompt=_prompt(numbers),
        steps=steps.steps(found["diffusion"]) if found["diffusion"] else None,
        sequence_scores=sequence_scores(sequence["scores"]),
        text_captured=bool(sequence["texts"]),
        scores=lines(found["scores"]),
        messages=spoken(found["attributes"]),
        attributes=properties(found["attributes"], linked=False),
        hidden=urls.parameters(link(threshold="")),
        config=_config(found, choice, signals, numbers, shown),
        keys=KEYS,
        twin_url=urls.generation(found["span_id"], json=True),
    )


def lane(site: Site, span_id: str, args: Arguments) -> dict[str, Any]:
    """One window of the lanes for the script: the tokens as drawn and the strips' paths. Parameters and errors as `page`."""
    extra = _plugged(site)
    choice = choose(args, extra)
    found = outline(site, span_id)
    choice = settled(choice, found)
    sequence: Mapping[str, Any] = found["sequences"][choice.sequence] if found["sequences"] else _EMPTY
    if not sequence["tokens"]:
        return {"start": 0, "stop": 0, "tokens": [], "strips": []}
    shown, _ = _lanes(windowed.Numbers(site, found, sequence), choice, (), linker(found["span_id"], choice))
    return {
        "start": shown.start, "stop": shown.stop,
        "tokens": [
            [token.index, token.size, token.css, token.value, token.title, [[part.kind, part.text] for part in token.parts]]
            for token in shown.tokens
        ],
        "strips": [{"path": strip.path, "steps": strip.steps} for strip in shown.strips],
    }


def _plugged(site: Site) -> tuple[tokens.Signal, ...]:
    """The lanes of plug-ins as signals."""
    return tuple(tokens.Signal(LANE + one.name, one.name, "", one.help, optional=True, least=0.0) for one in site.plugins.lanes)


def _signals(found: Mapping[str, Any], choice: Choice, extra: tuple[tokens.Signal, ...]) -> tuple[tokens.Signal, ...]:
    recorded = {key for sequence in found["sequences"] for key in sequence["signals"]}
    known = [one for one in tokens.SIGNALS if one == choice.signal or not one.optional or one.key in recorded]
    return (*known, *extra)


def _lanes(
    numbers: windowed.Numbers, choice: Choice, signals: Sequence[tokens.Signal], link: Linker
) -> tuple[Lanes, dict[int, str]]:
    """The lanes of one window, and for the table of the map, a row a token however the text is read, its tokens' words."""
    count, size = numbers.count, windowed.WINDOWS[choice.view]
    start = choice.start if choice.start_asked else max(choice.token, 0) // size * size
    stop = min(count, start + size)
    known = {one.key: one for one in (*tokens.SIGNALS, *_plugged(numbers.site))}
    chosen = (choice.signal, *(known[key] for key in choice.strips))
    numbers.load([one.key for one in (*chosen, *(signals if choice.view == "table" else ()))])
    part = windowed.units(numbers, choice, start, stop)
    drawn, values, legend = windowed.drawn(numbers, choice, part, signals)
    shown = Lanes(
        tokens=drawn, start=start, stop=stop, count=count, legend=legend,
        strips=tuple(windowed.strip(numbers, one, start, stop) for one in chosen),
        overview=windowed.strip(numbers, choice.signal, 0, count, OVERVIEW_STEPS) if count > size else None,
        threshold=windowed.threshold(values, choice),
        previous_url=link(start=max(0, start - size), tok="") if start else "",
        next_url=link(start=stop, tok="") if stop < count else "",
    )
    if choice.view == "layers" and choice.unit != "token":
        single = replace(choice, unit="token")
        drawn, _, _ = windowed.drawn(numbers, single, windowed.units(numbers, single, start, stop), signals)
    return shown, {token.index: "".join(piece.text for piece in token.parts) for token in drawn}


def _tabs(
    found: Mapping[str, Any], choice: Choice, signals: tuple[tokens.Signal, ...], numbers: windowed.Numbers, link: Linker
) -> dict[str, tuple[Tab, ...]]:
    """Every switch of the page: links that change one thing and keep the rest."""
    sequences, colouring = found["sequences"], choice.colouring
    strips = tuple(
        Tab(one.label, link(strips=",".join(_toggled(choice.strips, one.key))), one.key in choice.strips, one.help)
        for one in signals if one != choice.signal and numbers.has(one.key)
    )
    units = tuple(Tab(unit.capitalize(), link(unit=unit), unit == choice.unit) for unit in token_units.UNITS)
    return {
        "signal": tuple(Tab(one.label, link(signal=one.key), one == choice.signal, one.help) for one in signals),
        "view": tuple(Tab(label, link(view=key), key == choice.view) for key, label in VIEWS),
        "unit": units if numbers.sequence["texts"] else (),
        "agg": tuple(Tab(how.capitalize(), link(agg=how), how == choice.aggregate) for how in token_units.AGGREGATES)
        if choice.unit != "token" and numbers.sequence["texts"] else (),
        "scale": tuple(
            Tab(scale.capitalize(), link(scale=scale), scale == colouring.scale, title) for scale, title in _SCALES
        ),
        "gamma": tuple(
            Tab(f"γ {gamma}", link(gamma=gamma), float(gamma) == colouring.gamma, title) for gamma, title in _GAMMAS
        ),
        "sequence": tuple(
            Tab(f"{n + 1}", link(seq=n, start=0, tok="", range="", threshold=""), n == choice.sequence, f"{item['tokens']} tokens")
            for n, item in enumerate(sequences)
        ) if len(sequences) > 1 else (),
        "strips": strips,
    }


_SCALES: Final = (
    ("linear", "equal steps of value are equal steps of colour"), ("log", "equal ratios are equal steps of colour"),
    ("percentile", "equal shares of the tokens are equal steps of colour"),
)
_GAMMAS: Final = (
    ("0.5", "shows differences of calm tokens"), ("1", "colours as the scale has them"), ("2", "leaves only what is striking"),
)


def _toggled(keys: tuple[str, ...], key: str) -> tuple[str, ...]:
    return tuple(one for one in keys if one != key) if key in keys else (*keys, key)


def _config(
    found: Mapping[str, Any], choice: Choice, signals: Sequence[tokens.Signal], numbers: windowed.Numbers, shown: Lanes | None
) -> dict[str, Any]:
    """What the script must know to go on from the page as it was drawn. -1 and None: not said."""
    if shown is None:
        return {}
    known = [[one.key, one.label, one.unit, one.reverse] for one in signals if numbers.has(one.key)]
    return {
        "base": urls.generation(found["span_id"]), "seq": choice.sequence, "signal": choice.signal.key, "signals": known,
        "count": shown.count, "start": shown.start, "stop": shown.stop, "size": windowed.WINDOWS[choice.view],
        "firsts": shown.firsts, "unit": choice.unit, "agg": choice.aggregate, "view": choice.view, "map": choice.map.key,
        "token": choice.token, "first": choice.first, "last": choice.last, "layer": choice.layer, "threshold": choice.threshold,
        "bound": shown.threshold.value if shown.threshold else None, "texts": bool(numbers.sequence["texts"]),
        "reverse": choice.signal.reverse,
    }


def _prompt(numbers: windowed.Numbers) -> Prompt | None:
    holder = next(
        (one for one in numbers.found["sequences"] if one["index"] == numbers.sequence["prompt_sequence"]), numbers.sequence
    )
    if not holder["prompt"]:
        return None
    surprisal = stored.prompt(numbers.site.store, numbers.found, holder["index"])
    values, signal = tokens.as_array(surprisal, len(surprisal)), tokens.BY_KEY["surprisal"]
    top = tokens.strip_top(values, signal)
    return Prompt(
        tokens.strip_path(values, top), len(surprisal), min(len(surprisal), tokens.STRIP_STEPS_MAX), windowed.printed(signal, top)
    )


def _attention(numbers: windowed.Numbers, choice: Choice, shown: Lanes) -> dict[int, str]:
    """First token of each unit -> mean of the chosen map over its tokens and the layers, as printed."""
    found, sequence, store = numbers.found, numbers.sequence, numbers.site.store
    head = choice.heads if isinstance(choice.heads, int) else None
    end = max((token.index + token.size for token in shown.tokens), default=shown.stop)
    matrix = stored.attention(store, found, sequence, choice.map.key, head, Cut(shown.start, end - shown.start))
    rows = {token.index: matrix[token.index - shown.start : token.index - shown.start + token.size] for token in shown.tokens}
    return {
        index: figures.number(float(row.mean())) if row.size and np.isfinite(row).all() else figures.ABSENT
        for index, row in rows.items()
    }


def _alternatives(numbers: windowed.Numbers, cut: Cut) -> dict[int, tuple[tuple[str, str], ...]]:
    """What could have been said instead, by token: (text where it is known, else the id, else its place; surprisal as printed)."""
    found, sequence, store = numbers.found, numbers.sequence, numbers.site.store
    count = sequence["alternatives"]
    ids, surprisals = stored.choices(store, found, sequence["index"], count, cut)
    own, texts = stored.words(store, found, sequence["index"]) if ids else ([], [])
    known = dict(zip(own, texts, strict=True)) if len(own) == len(texts) else {}
    out = {}
    for row in range(max(len(ids), surprisals.size) // max(count, 1)):
        at = range(row * count, (row + 1) * count)
        said = [
            tokens.printed(known[ids[n]]) if n < len(ids) and ids[n] in known else str(ids[n]) if n < len(ids) else f"#{n - at[0]}"
            for n in at
        ]
        values = [figures.number(float(surprisals[n])) if n < surprisals.size else figures.ABSENT for n in at]
        out[cut.start + row] = tuple(zip(said, values, strict=True))
    return out
