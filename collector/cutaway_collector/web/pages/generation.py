"""The generation page: the tokens coloured by what the model felt, a strip chart, and the attention map, on one shared axis.

Not the scorers and not the tokenizer: every number here was recorded while the model ran or stored as a score since.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cutaway.conventions import (
    ATTENTION_STATUS,
    DECODING_MODE,
    RESPONSE_FINISH_REASONS,
    STATUS_OFF,
    STATUS_REASON,
    STATUS_RECORDED,
    TOKENS_STATUS,
)
from cutaway_collector import search as verb
from cutaway_collector.web import figures, tokens, urls
from cutaway_collector.web.errors import BadParameter, Missing
from cutaway_collector.web.pages.trace import Property, checked_id, properties
from cutaway_collector.web.site import Arguments, Site, Tab

TOKENS_SHOWN_MAX: Final = 8192
"""Tokens drawn at once; longer sequences are cut into windows of this size."""
HEADS_MAX: Final = 1024
VIEWS: Final = (("colour", "Colour"), ("numbers", "Numbers"), ("table", "Table"))


@dataclass(frozen=True, slots=True)
class Tile:
    """One number with its unit; `help` says what it means."""

    label: str
    value: str
    unit: str
    help: str


@dataclass(frozen=True, slots=True)
class Badge:
    """What was and was not recorded, in words. kind: "good", "quiet" or "warn"."""

    kind: str
    text: str
    detail: str


@dataclass(frozen=True, slots=True)
class Token:
    """One token as drawn.

    css: its colour class, "" where the signal has no value. value: the chosen signal as printed. values: all signals, in the table
    view. attention: mean over layers, likewise.
    """

    index: int
    parts: tuple[tokens.Part, ...]
    id: int | None
    css: str
    value: str
    values: tuple[str, ...]
    attention: str


@dataclass(frozen=True, slots=True)
class Legend:
    """The colour scale in words; `low` is the calm end."""

    signal: tokens.Signal
    low: str
    high: str
    note: str


@dataclass(frozen=True, slots=True)
class Heat:
    """What the attention map needs: its data's address, shape, and which head it shows."""

    url: str
    layers: int
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
    text_captured: bool
    scores: tuple[Mapping[str, Any], ...]
    attributes: tuple[Property, ...]
    twin_url: str


@dataclass(frozen=True, slots=True)
class Choice:
    """The URL's parameters, checked."""

    signal: tokens.Signal
    sequence: int
    heads: int | None
    view: str


def _whole(args: Arguments, name: str, limit: int) -> int:
    text = args.get(name, "") or "0"
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) >= limit:
        raise BadParameter(f"{name} is a number from 0 to {limit - 1}, it is {text[:20]!r}", hint="leave it out for the first")
    return int(text)


def choose(args: Arguments) -> Choice:
    """Checks what can be checked without the data. Raises BadParameter."""
    signal = args.get("signal", "") or "surprisal"
    view = args.get("view", "") or "colour"
    if signal not in tokens.BY_KEY:
        raise BadParameter(f"signal is one of {', '.join(tokens.BY_KEY)}, it is {signal[:20]!r}", hint="leave it out for surprisal")
    if view not in dict(VIEWS):
        raise BadParameter(f"view is one of {', '.join(dict(VIEWS))}, it is {view[:20]!r}", hint="leave it out for colours")
    heads = None if args.get("heads", "") in ("", "mean") else _whole(args, "heads", HEADS_MAX)
    _whole(args, "count", 10**9)  # the page has no use for it, but an address that its twin refuses is no address of the page
    return Choice(tokens.BY_KEY[signal], _whole(args, "seq", 65_536), heads, view)


def _fetch(site: Site, span_id: str, heads: Any) -> dict[str, Any]:
    span_id = checked_id(span_id, 16, "span")
    found = verb.generation(site.store, span_id, heads=heads)
    if found is None:
        days = site.settings.tokens_retention_days
        raise Missing(
            f"no generation with span id {span_id} is stored",
            hint=f"Either the span is no generation, or its tokens are older than {days} days; its trace may still be there.",
        )
    return found


def twin(site: Site, span_id: str, args: Arguments) -> dict[str, Any]:
    """The JSON twin. `heads` is a number or "all"; `seq`, `start` and `count` cut out one window. Raises as `page`."""
    text = args.get("heads", "")
    heads: Any = "all" if text == "all" else None if text in ("", "mean") else _whole(args, "heads", HEADS_MAX)
    found = _fetch(site, span_id, heads)
    sequences = found["sequences"]
    if args.get("seq"):
        wanted = _whole(args, "seq", max(1, len(sequences)))
        sequences = sequences[wanted : wanted + 1]
    if args.get("start") or args.get("count"):
        start = _whole(args, "start", 10**9)
        stop = start + (_whole(args, "count", 10**9) or TOKENS_SHOWN_MAX)
        sequences = [_window(sequence, start, stop) for sequence in sequences]
    return {**found, "sequences": [_lean(sequence) for sequence in sequences]}


def _window(sequence: Mapping[str, Any], start: int, stop: int) -> dict[str, Any]:
    cut = {
        key: value[start:stop] for key, value in sequence.items() if key in ("token_ids", "tokens", "attention_entropy") and value
    }
    signals = {key: values[start:stop] for key, values in sequence["signals"].items()}
    return {**sequence, **cut, "signals": signals, "start": start}


def _lean(sequence: Mapping[str, Any]) -> dict[str, Any]:
    """Floats as float32, which they were when recorded: their shortest text is half as long, and no digit is invented."""
    signals = {
        key: np.asarray(values, np.float32) if key != "rank" and values else values for key, values in sequence["signals"].items()
    }
    attention = sequence.get("attention_entropy") or []
    return {**sequence, "signals": signals, "attention_entropy": np.asarray(attention, np.float32) if len(attention) else []}


def page(site: Site, span_id: str, args: Arguments) -> GenerationPage:
    """The page; parameters signal, seq, heads, view, start. Raises BadParameter, Missing, StoreError."""
    choice = choose(args)
    found = _fetch(site, span_id, choice.heads)
    sequences = found["sequences"]
    _whole(args, "seq", max(1, len(sequences)))
    sequence: Mapping[str, Any] = sequences[choice.sequence] if sequences else {"signals": {}, "token_ids": []}
    length = _length(sequence)
    start = _whole(args, "start", max(1, length))
    stop = min(length, start + TOKENS_SHOWN_MAX)
    values = tokens.as_array(sequence["signals"].get(choice.signal.key), length)
    ends = tokens.scale(values)
    classes = tokens.classify(values, ends, choice.signal)[start:stop]
    top = tokens.strip_top(values, choice.signal)
    attributes = found["attributes"]
    link = _linker(found["span_id"], choice)
    heat, reason = _heat(found, sequence, choice, start, stop)
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
        tiles=_tiles(found),
        badges=_badges(found, sequence),
        signal_tabs=tuple(Tab(s.label, link(signal=s.key, start=start), s == choice.signal, s.help) for s in tokens.SIGNALS),
        sequence_tabs=tuple(
            Tab(f"{n + 1}", link(seq=n, start=0), n == choice.sequence, f"{_length(item)} tokens")
            for n, item in enumerate(sequences)
        )
        if len(sequences) > 1
        else (),
        view_tabs=tuple(Tab(label, link(view=key, start=start), key == choice.view) for key, label in VIEWS),
        view=choice.view,
        legend=_legend(choice.signal, ends),
        signals=tokens.SIGNALS,
        tokens=_tokens(sequence, choice, classes, start, stop),
        token_count=length,
        start=start,
        previous_url=link(start=max(0, start - TOKENS_SHOWN_MAX)) if start else "",
        next_url=link(start=stop) if stop < length else "",
        strip_path=tokens.strip_path(values[start:stop], top),
        strip_steps=min(stop - start, tokens.STRIP_STEPS_MAX),
        strip_top=_printed(choice.signal, top),
        heat=heat,
        heat_reason=reason,
        text_captured=bool(sequence.get("tokens")),
        scores=tuple(found["scores"]),
        attributes=properties(attributes, linked=False),
        twin_url=urls.generation(found["span_id"], json=True),
    )


def _linker(span_id: str, choice: Choice) -> Any:
    """A function that builds this page's address with some parameters changed and defaults left out."""
    current = {"signal": choice.signal.key, "seq": choice.sequence, "heads": choice.heads, "view": choice.view, "start": 0}
    defaults = {"signal": "surprisal", "seq": 0, "heads": None, "view": "colour", "start": 0}

    def link(**changes: Any) -> str:
        merged = {**current, **changes}
        return urls.generation(span_id, **{key: value for key, value in merged.items() if value != defaults[key]})

    return link


def _length(sequence: Mapping[str, Any]) -> int:
    """Tokens of a sequence: any series tells, since a sender may capture numbers without ids, or ids without numbers."""
    attention = sequence.get("attention_entropy") or ()
    series = [sequence.get("token_ids") or (), sequence.get("tokens") or (), attention, *sequence["signals"].values()]
    return max(sequence.get("output_tokens") or 0, *(len(values or ()) for values in series))


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


def _tokens(sequence: Mapping[str, Any], choice: Choice, classes: list[int], start: int, stop: int) -> tuple[Token, ...]:
    """The window's tokens. Only the table prints every signal: of eight thousand tokens that is most of the work."""
    texts, ids = sequence.get("tokens") or (), sequence.get("token_ids") or ()
    shown = tokens.SIGNALS if choice.view == "table" else (choice.signal,)
    series = [(one, _cut(sequence["signals"].get(one.key), start, stop, stop - start)) for one in shown]
    attention: Sequence[Any] = (sequence.get("attention_entropy") or ()) if choice.view == "table" else ()
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
        out.append(Token(index, parts, number, css, printed[choice.signal.key], tuple(printed.values()), mean))
    return tuple(out)


def _cut(values: Any, start: int, stop: int, length: int) -> npt.NDArray[np.float64]:
    return tokens.as_array((values or ())[start:stop], length)


def _heat(found: Mapping[str, Any], sequence: Mapping[str, Any], choice: Choice, start: int, stop: int) -> tuple[Heat | None, str]:
    attention = found["attention"]
    matrix: Sequence[Any] = sequence.get("attention_entropy") or ()
    if not len(matrix):
        return None, attention.get("reason") or "The sender recorded no attention entropy for this sequence."
    heads = int(attention.get("heads") or 0)
    link = _linker(found["span_id"], choice)
    tabs = [Tab("mean", link(heads=None, start=start), choice.heads is None, "mean over all heads")]
    tabs += [Tab(str(n), link(heads=n, start=start), choice.heads == n, f"head {n} of every layer") for n in range(heads)]
    label = "mean over heads" if choice.heads is None else f"head {choice.heads}"
    shown = urls.generation(found["span_id"], json=True, heads=choice.heads, seq=choice.sequence, start=start, count=stop - start)
    return Heat(shown, len(matrix[0]), tuple(tabs) if heads > 1 else (), label), ""


def _tiles(found: Mapping[str, Any]) -> tuple[Tile, ...]:
    """The numbers beside the colours. The span's own attributes are the truth; nothing is recomputed from the series."""

    def of(name: str) -> float | None:
        text = found["attributes"].get(name)
        try:
            return float(text) if text is not None else None
        except (TypeError, ValueError):
            return None

    n = figures.number
    per_token = of("cutaway.time_per_output_token")
    tokens_in, tokens_out = of("gen_ai.usage.input_tokens"), of("gen_ai.usage.output_tokens")
    return (
        Tile(
            "Perplexity", n(of("cutaway.output.perplexity")), "", "exp(mean surprisal): how many tokens the model was torn between"
        ),
        Tile("Surprisal", n(of("cutaway.output.surprisal.mean")), "nats", "mean over all generated tokens"),
        Tile("Max surprisal", n(of("cutaway.output.surprisal.max")), "nats", "the least expected token"),
        Tile("Entropy", n(of("cutaway.output.entropy.mean")), "nats", "mean spread of the next-token distribution"),
        Tile("Attention", n(of("cutaway.attention.entropy.mean")), "nats", "mean attention entropy over tokens, layers and heads"),
        Tile("Min attention", n(of("cutaway.attention.entropy.min")), "nats", "the narrowest layer of any token"),
        Tile(
            "First token",
            figures.seconds(of("cutaway.time_to_first_token")),
            "",
            "from the call to the first token, prefill included",
        ),
        Tile("Speed", figures.rate(per_token), "tok/s", f"{figures.seconds(per_token)} a token while decoding"),
        Tile("Tokens", f"{n(tokens_in)} → {n(tokens_out)}", "", "prompt → generated, all sequences, without padding"),
    )


def _badges(found: Mapping[str, Any], sequence: Mapping[str, Any]) -> tuple[Badge, ...]:
    attributes, attention = found["attributes"], found["attention"]
    reason = str(attention.get("reason") or attributes.get(STATUS_REASON) or "")
    out = []
    finish = attributes.get(RESPONSE_FINISH_REASONS)
    if finish:
        out.append(Badge("quiet", "finish: " + str(finish).strip("[]").replace('"', ""), "why each sequence ended"))
    if attributes.get(DECODING_MODE):
        out.append(Badge("quiet", str(attributes[DECODING_MODE]), "generation mode"))
    for label, status in (
        ("tokens", attributes.get(TOKENS_STATUS)),
        ("attention", attention.get("status") or attributes.get(ATTENTION_STATUS)),
    ):
        if status == STATUS_RECORDED:
            shape = f" {attention['layers']} layers" if label == "attention" and attention.get("layers") else ""
            out.append(Badge("good", f"{label} recorded{' ·' + shape if shape else ''}", ""))
        elif status:
            out.append(
                Badge("quiet" if status == STATUS_OFF else "warn", f"{label} {status}", "" if status == STATUS_OFF else reason)
            )
    if not sequence.get("tokens") and _length(sequence):
        what = "text not captured: token ids shown" if sequence.get("token_ids") else "text and ids not captured: positions shown"
        out.append(Badge("quiet", what, "capture is off by default; the sender's settings turn it on"))
    return tuple(out)
