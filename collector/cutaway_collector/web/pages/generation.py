"""The generation page: the tokens coloured by what the model felt, a strip chart, and the attention map, on one shared axis.

Not the scorers and not the tokenizer: every number here was recorded while the model ran or stored as a score since.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cutaway_collector.web import figures, steps, tokens, urls
from cutaway_collector.web.errors import BadParameter
from cutaway_collector.web.pages.generation_header import Badge, Score, Tile, badges, length, sequence_scores, tiles
from cutaway_collector.web.pages.generation_twin import HEADS_MAX, TOKENS_SHOWN_MAX, fetch, whole
from cutaway_collector.web.pages.score_lines import ScoreLine, lines
from cutaway_collector.web.pages.trace import Property, properties, spoken
from cutaway_collector.web.site import Arguments, Site, Tab

VIEWS: Final = (("colour", "Colour"), ("numbers", "Numbers"), ("table", "Table"))


@dataclass(frozen=True, slots=True)
class Token:
    """One token as drawn.

    css: its colour class, "" where the signal has no value. value: the chosen signal as printed. values: all signals, in the table
    view. attention: mean of the chosen map over layers, likewise. alternatives: (word, surprisal as printed), likewise.
    """

    index: int
    parts: tuple[tokens.Part, ...]
    id: int | None
    css: str
    value: str
    values: tuple[str, ...]
    attention: str
    alternatives: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Legend:
    """The colour scale in words; `low` is the calm end."""

    signal: tokens.Signal
    low: str
    high: str
    note: str


@dataclass(frozen=True, slots=True)
class Heat:
    """What the attention map needs: its data's address, the model's number of each layer, and which head it shows."""

    url: str
    layers: tuple[int, ...]
    heads: tuple[Tab, ...]
    label: str


@dataclass(frozen=True, slots=True)
class GenerationPage:
    """Everything the generation template may use."""

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
    signal_tabs: tuple[Tab, ...]
    sequence_tabs: tuple[Tab, ...]
    view_tabs: tuple[Tab, ...]
    view: str
    legend: Legend
    map: tokens.Map
    map_tabs: tuple[Tab, ...]
    signals: tuple[tokens.Signal, ...]
    tokens: tuple[Token, ...]
    token_count: int
    start: int
    previous_url: str
    next_url: str
    strip_path: str
    strip_steps: int
    strip_top: str
    heat: Heat | None
    heat_reason: str
    has_alternatives: bool
    prompt_path: str
    prompt_count: int
    prompt_steps: int
    prompt_top: str
    steps: steps.Steps | None
    sequence_scores: tuple[Score, ...]
    text_captured: bool
    scores: tuple[ScoreLine, ...]
    messages: tuple[Property, ...]
    attributes: tuple[Property, ...]
    twin_url: str


@dataclass(frozen=True, slots=True)
class Choice:
    """The URL's parameters, checked."""

    signal: tokens.Signal
    sequence: int
    heads: int | None
    view: str
    map: tokens.Map


def choose(args: Arguments) -> Choice:
    """Checks what can be checked without the data. Raises BadParameter."""
    signal = args.get("signal", "") or "surprisal"
    view = args.get("view", "") or "colour"
    if signal not in tokens.BY_KEY:
        raise BadParameter(f"signal is one of {', '.join(tokens.BY_KEY)}, it is {signal[:20]!r}", hint="leave it out for surprisal")
    if view not in dict(VIEWS):
        raise BadParameter(f"view is one of {', '.join(dict(VIEWS))}, it is {view[:20]!r}", hint="leave it out for colours")
    shown = args.get("attention", "") or "entropy"
    if shown not in tokens.MAP_BY_KEY:
        known = ", ".join(tokens.MAP_BY_KEY)
        raise BadParameter(f"attention is one of {known}, it is {shown[:20]!r}", hint="leave it out for entropy")
    heads = None if args.get("heads", "") in ("", "mean") else whole(args, "heads", HEADS_MAX)
    whole(args, "count", 10**9)  # the page has no use for it, but an address that its twin refuses is no address of the page
    return Choice(tokens.BY_KEY[signal], whole(args, "seq", 65_536), heads, view, tokens.MAP_BY_KEY[shown])


def page(site: Site, span_id: str, args: Arguments) -> GenerationPage:
    """The page; parameters signal, seq, heads, attention, view, start. Raises BadParameter, Missing, StoreError."""
    choice = choose(args)
    found = fetch(site, span_id, choice.heads, choice.map.key)
    recorded = found["attention_series"]["recorded"]
    if recorded and not args.get("attention") and choice.map.key not in recorded:
        choice = replace(choice, map=tokens.MAP_BY_KEY[recorded[0]])
        found = fetch(site, span_id, choice.heads, choice.map.key)
    sequences = found["sequences"]
    whole(args, "seq", max(1, len(sequences)))
    sequence: Mapping[str, Any] = sequences[choice.sequence] if sequences else {"signals": {}, "token_ids": []}
    count = length(sequence)
    start = whole(args, "start", max(1, count))
    stop = min(count, start + TOKENS_SHOWN_MAX)
    link = _linker(found["span_id"], choice)
    signals = tuple(one for one in tokens.SIGNALS if one == choice.signal or not one.optional or _recorded(sequences, one))
    return GenerationPage(
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
        signal_tabs=tuple(Tab(s.label, link(signal=s.key, start=start), s == choice.signal, s.help) for s in signals),
        sequence_tabs=tuple(
            Tab(f"{n + 1}", link(seq=n, start=0), n == choice.sequence, f"{length(item)} tokens")
            for n, item in enumerate(sequences)
        )
        if len(sequences) > 1
        else (),
        view_tabs=tuple(Tab(label, link(view=key, start=start), key == choice.view) for key, label in VIEWS),
        view=choice.view,
        signals=signals,
        token_count=count,
        start=start,
        previous_url=link(start=max(0, start - TOKENS_SHOWN_MAX)) if start else "",
        next_url=link(start=stop) if stop < count else "",
        map=choice.map,
        map_tabs=_map_tabs(recorded, choice, link, start),
        has_alternatives=bool(sequence.get("alternatives")),
        steps=steps.steps(found["diffusion"]) if found["diffusion"] else None,
        sequence_scores=sequence_scores(sequence.get("scores") or {}),
        text_captured=bool(sequence.get("tokens")),
        scores=lines(found["scores"]),
        messages=spoken(found["attributes"]),
        attributes=properties(found["attributes"], linked=False),
        twin_url=urls.generation(found["span_id"], json=True),
        **_lane(sequence, choice, signals, count, start, stop),
        **_prompt(sequence),
        **_heat(found, sequence, choice, start, stop),
    )


def _recorded(sequences: Sequence[Mapping[str, Any]], signal: tokens.Signal) -> bool:
    return any(sequence["signals"].get(signal.key) for sequence in sequences)


def _lane(
    sequence: Mapping[str, Any], choice: Choice, signals: tuple[tokens.Signal, ...], count: int, start: int, stop: int
) -> dict[str, Any]:
    """The tokens, their legend and the strip. Colours are scaled over the whole sequence, not over the window."""
    values = tokens.as_array(sequence["signals"].get(choice.signal.key), count)
    ends = tokens.scale(values)
    classes = tokens.classify(values, ends, choice.signal)[start:stop]
    top = tokens.strip_top(values, choice.signal)
    return {
        "legend": _legend(choice.signal, ends),
        "tokens": _tokens(sequence, choice, signals, classes, start, stop),
        "strip_path": tokens.strip_path(values[start:stop], top),
        "strip_steps": min(stop - start, tokens.STRIP_STEPS_MAX),
        "strip_top": _printed(choice.signal, top),
    }


def _prompt(sequence: Mapping[str, Any]) -> dict[str, Any]:
    """The strip of the prompt's surprisal; an empty path where it was not recorded."""
    surprisal = (sequence.get("prompt") or {}).get("surprisal") or ()
    values, signal = tokens.as_array(surprisal, len(surprisal)), tokens.BY_KEY["surprisal"]
    top = tokens.strip_top(values, signal)
    return {
        "prompt_path": tokens.strip_path(values, top), "prompt_count": len(surprisal),
        "prompt_steps": min(len(surprisal), tokens.STRIP_STEPS_MAX), "prompt_top": _printed(signal, top),
    }


def _map_tabs(recorded: Sequence[str], choice: Choice, link: Any, start: int) -> tuple[Tab, ...]:
    """Links to the other maps, where there are any."""
    if not recorded or list(recorded) == [choice.map.key]:
        return ()
    return tuple(
        Tab(one.label, link(attention=one.key, heads=None, start=start), one == choice.map, one.help)
        for one in tokens.MAPS if one.key in recorded
    )


def _linker(span_id: str, choice: Choice) -> Any:
    """A function that builds this page's address with some parameters changed and defaults left out."""
    current = {"signal": choice.signal.key, "seq": choice.sequence, "heads": choice.heads, "view": choice.view, "start": 0,
               "attention": choice.map.key}
    defaults = {"signal": "surprisal", "seq": 0, "heads": None, "view": "colour", "start": 0, "attention": "entropy"}

    def link(**changes: Any) -> str:
        merged = {**current, **changes}
        return urls.generation(span_id, **{key: value for key, value in merged.items() if value != defaults[key]})

    return link


def _printed(signal: tokens.Signal, value: float) -> str:
    if not np.isfinite(value):
        return figures.ABSENT
    return figures.seconds(value) if signal.unit == "s" else figures.number(value)


def _legend(signal: tokens.Signal, ends: tokens.Scale) -> Legend:
    low, high = (ends.high, ends.low) if signal.reverse else (ends.low, ends.high)
    notes = ["Colours span the 2nd to the 98th percentile"]
    if ends.below or ends.above:
        notes.append(f"{ends.below + ends.above} outside take the end colours")
    if ends.absent:
        notes.append(f"{ends.absent} without a value")
    return Legend(signal, _printed(signal, low), _printed(signal, high), "; ".join(notes))


def _tokens(
    sequence: Mapping[str, Any], choice: Choice, signals: tuple[tokens.Signal, ...], classes: list[int], start: int, stop: int
) -> tuple[Token, ...]:
    """The window's tokens. Only the table prints every signal: of eight thousand tokens that is most of the work."""
    texts, ids = sequence.get("tokens") or (), sequence.get("token_ids") or ()
    shown = signals if choice.view == "table" else (choice.signal,)
    series = [(one, _cut(sequence["signals"].get(one.key), start, stop, stop - start)) for one in shown]
    attention: Sequence[Any] = _matrix(sequence, choice.map.key) if choice.view == "table" else ()
    instead: Sequence[Any] = (sequence.get("alternatives") or ()) if choice.view == "table" else ()
    out = []
    for offset, heat in enumerate(classes):
        index = start + offset
        number = ids[index] if index < len(ids) else None
        plain = tokens.Part("id", f"#{index}" if number is None else str(number))
        parts = tokens.visible(texts[index]) if index < len(texts) else (plain,)
        printed = {one.key: _printed(one, float(values[offset])) for one, values in series}
        row = np.asarray(attention[index] if index < len(attention) else (), np.float64)
        mean = figures.number(float(row.mean())) if row.size and np.isfinite(row).all() else figures.ABSENT
        css = f"q{heat}" if heat >= 0 else ""
        others = _alternatives(instead[index]) if index < len(instead) else ()
        out.append(Token(index, parts, number, css, printed[choice.signal.key], tuple(printed.values()), mean, others))
    return tuple(out)


def _cut(values: Any, start: int, stop: int, length: int) -> npt.NDArray[np.float64]:
    return tokens.as_array((values or ())[start:stop], length)


def _matrix(sequence: Mapping[str, Any], kind: str) -> Sequence[Any]:
    """[token][layer] of one kind of map."""
    return (sequence.get("attention_entropy") if kind == "entropy" else (sequence.get("attention") or {}).get(kind)) or ()


def _heat(found: Mapping[str, Any], sequence: Mapping[str, Any], choice: Choice, start: int, stop: int) -> dict[str, Any]:
    attention, series = found["attention"], found["attention_series"]
    matrix = _matrix(sequence, choice.map.key)
    if not len(matrix):
        nothing = f"The sender recorded no {choice.map.title.lower()} for this sequence."
        return {"heat": None, "heat_reason": attention.get("reason") or nothing}
    heads = int(series["heads"].get(choice.map.key) or 0)
    link = _linker(found["span_id"], choice)
    tabs = [Tab("mean", link(heads=None, start=start), choice.heads is None, "mean over all heads")]
    tabs += [Tab(str(n), link(heads=n, start=start), choice.heads == n, f"head {n} of every layer") for n in range(heads)]
    label = "mean over heads" if choice.heads is None else f"head {choice.heads}"
    window = {"seq": choice.sequence, "start": start, "count": stop - start}
    shown = urls.generation(found["span_id"], json=True, heads=choice.heads, attention=choice.map.key, **window)
    named = series["layers"] if len(series["layers"]) == len(matrix[0]) else range(len(matrix[0]))
    return {"heat": Heat(shown, tuple(named), tuple(tabs) if heads > 1 else (), label), "heat_reason": ""}


def _alternatives(choices: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    """What could have been said instead: text where it is known, else the id, else its place."""
    return tuple(
        (tokens.printed(one["text"]) if "text" in one else str(one.get("id", f"#{place}")), figures.number(one.get("surprisal")))
        for place, one in enumerate(choices)
    )
