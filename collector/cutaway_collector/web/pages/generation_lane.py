"""The lanes of a generation page over one window of tokens: pieces and their colours, strips, the legend, the threshold, a range.

Not the attention map, which is generation_map.py's, and not the page around them. The numbers come from the store, or a plug-in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cutaway_collector.search import outline as stored
from cutaway_collector.search.cuts import WHOLE, Cut
from cutaway_collector.web import figures, token_colours, token_units, tokens
from cutaway_collector.web.pages.generation_choice import LANE, Choice
from cutaway_collector.web.plugins import LANES
from cutaway_collector.web.site import Site

WINDOWS: Final[Mapping[str, int]] = {"colour": 640, "numbers": 512, "table": 256, "layers": 128}
"""Tokens a view draws at once: what keeps a page light. A longer generation is seen through a window that moves."""
Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Token:
    """One token, or one word, sentence or line of several, as drawn.

    css: its classes, "" for the colour where the signal has no value. value: the chosen signal as printed. values: all signals,
    in the table view. id: None for several tokens, or where it was not captured. spelled: which part of a character it is.
    """

    index: int
    size: int
    parts: tuple[tokens.Part, ...]
    id: int | None
    css: str
    value: str
    values: tuple[str, ...] = ()
    spelled: str = ""

    @property
    def title(self) -> str:
        """What a pointer is told without script."""
        place = f"#{self.index}" if self.size == 1 else f"#{self.index}–{self.index + self.size - 1}"
        return " · ".join(part for part in (place, self.value, self.spelled) if part)


@dataclass(frozen=True, slots=True)
class Legend:
    """The colour scale in words; `low` is the calm end."""

    signal: tokens.Signal
    low: str
    high: str
    note: str
    flat: bool


@dataclass(frozen=True, slots=True)
class Strip:
    """One signal over the tokens. top: at its ceiling. trouble: why there is none. low, high: its range in plain numbers."""

    signal: tokens.Signal
    path: str
    steps: int
    top: str
    ceiling: float
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Threshold:
    """What counts as a hesitation. low, high: ends of the slider."""

    value: float
    low: float
    high: float
    step: float
    count: int
    total: int


@dataclass(frozen=True, slots=True)
class Range:
    """Statistics of the chosen tokens, as printed."""

    first: int
    last: int
    figures: tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Numbers:
    """The series of one sequence, each read once. site, found, sequence: as the page has them."""

    site: Site
    found: Mapping[str, Any]
    sequence: Mapping[str, Any]
    _read: dict[str, Values] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Tokens of the sequence."""
        return int(self.sequence["tokens"])

    def load(self, keys: Sequence[str]) -> None:
        """Reads stored series at once. Raises StoreError."""
        wanted = [key for key in keys if key in self.sequence["signals"] and key not in self._read]
        if wanted:
            got = stored.signals(self.site.store, self.found, self.sequence["index"], wanted)
            self._read.update({key: tokens.as_array(values, self.count) for key, values in got.items()})

    def of(self, key: str) -> Values:
        """A series by the key of its signal, float64 [count]; NaN where there is nothing. Raises StoreError."""
        if key not in self._read:
            if key.startswith(LANE):
                self.load(self.sequence["signals"])
                series = {name: self._read[name].astype(np.float32) for name in self.sequence["signals"]}
                self._read[key] = self.site.plugins.lane(key.removeprefix(LANE), series, self.count)
            else:
                self.load([key])
        return self._read.setdefault(key, np.full(self.count, np.nan))

    def has(self, key: str) -> bool:
        """Whether there is such a series."""
        return key.startswith(LANE) or key in self.sequence["signals"]

    def trouble(self, signal: tokens.Signal) -> str:
        """Why a series shows nothing, "" where it does."""
        if signal.key.startswith(LANE):
            failed = self.site.plugins.trouble(LANES, signal.key.removeprefix(LANE))
            return f"The plug-in {signal.label} failed: {failed}." if failed else ""
        return "" if self.has(signal.key) else f"No {signal.label.lower()} was recorded."


def printed(signal: tokens.Signal, value: float) -> str:
    """A value of a signal, without its unit unless that is a time's."""
    if not np.isfinite(value):
        return figures.ABSENT
    return figures.seconds(value) if signal.unit == "s" else figures.number(value)


@dataclass(frozen=True, slots=True)
class Units:
    """The units of a sequence that begin in a window. starts: first tokens of all units; at, to: those in the window.

    ids, words: of the tokens from `offset`, at least to the end of the window; empty where not captured.
    """

    starts: npt.NDArray[np.int64]
    at: int
    to: int
    ids: Sequence[int]
    words: Sequence[token_units.Shown]
    offset: int

    def sizes(self, count: int) -> npt.NDArray[np.int64]:
        """Tokens of each unit of the sequence."""
        return np.diff(self.starts, append=count)


def units(numbers: Numbers, choice: Choice, start: int, stop: int) -> Units:
    """How the tokens of the sequence fall into units, and the words of those in the window. Raises StoreError."""
    found, sequence, store = numbers.found, numbers.sequence, numbers.site.store
    if choice.unit == "token" or not sequence["texts"]:
        # A character's tokens may begin before the window.
        before = max(0, start - 8)
        ids, texts = stored.words(store, found, sequence["index"], Cut(before, stop - before))
        return Units(np.arange(numbers.count), start, stop, ids, token_units.joined(texts), before)
    ids, texts = stored.words(store, found, sequence["index"], WHOLE)
    words = token_units.joined([*texts, *[""] * (numbers.count - len(texts))])
    number = token_units.numbers(words, choice.unit)
    starts = token_units.firsts(number)
    at, to = (int(place) for place in np.searchsorted(starts, (start, stop)))
    return Units(starts, at, to, ids, words, 0)


def drawn(
    numbers: Numbers, choice: Choice, part: Units, signals: Sequence[tokens.Signal]
) -> tuple[tuple[Token, ...], Values, Legend]:
    """The window's tokens or units, the chosen signal of all units, and its legend. Colours span the whole sequence."""
    signal = choice.signal
    values = _by_unit(numbers.of(signal.key), choice, part)
    ends = token_colours.scale(values, signal)
    window = slice(part.at, part.to)
    classes = token_colours.classify(values[window], ends, signal, choice.colouring)
    striking = token_colours.reaching(values[window], _bound(values, choice), signal)
    shown = signals if choice.view == "table" else ()
    table = [(one, _by_unit(numbers.of(one.key), choice, part)[window]) for one in shown]
    words, sizes = part.words, part.sizes(numbers.count)[window]
    out = []
    for place, (index, size) in enumerate(zip(part.starts[window].tolist(), sizes.tolist(), strict=True)):
        css = (f"q{classes[place]}" if classes[place] >= 0 else "") + (" h" if striking[place] else "")
        number = part.ids[index - part.offset] if size == 1 and index - part.offset < len(part.ids) else None
        parts, spelled = _parts(words[index - part.offset : index - part.offset + size], index, number)
        row = tuple(printed(one, float(column[place])) for one, column in table)
        out.append(Token(index, size, parts, number, css, printed(signal, float(values[window][place])), row, spelled))
    return tuple(out), values, _legend(signal, ends, choice)


def _parts(words: Sequence[token_units.Shown], index: int, number: int | None) -> tuple[tuple[tokens.Part, ...], str]:
    """What is drawn of these tokens, and which part of a character they are where that is so."""
    if not words:
        return (tokens.Part("id", f"#{index}" if number is None else str(number)),), ""
    if len(words) == 1 and words[0].size > 1:
        one = words[0]
        said = f"part {one.place + 1} of {one.size} of {tokens.printed(one.text)}"
        return (tokens.visible(one.text) if one.place == 0 else (tokens.Part("mark", "⋯"),)), said
    return tokens.visible("".join(one.text for one in words if one.place == 0)), ""


def _by_unit(values: Values, choice: Choice, part: Units) -> Values:
    """Values [token] -> [unit]. Where small values are the striking ones, the most striking of a unit is its least."""
    if part.starts.size == values.size:
        return values
    how = "min" if choice.aggregate == "max" and choice.signal.reverse else choice.aggregate
    return token_units.aggregate(values, part.starts, how)


def _bound(values: Values, choice: Choice) -> float:
    return token_colours.threshold(values, choice.signal) if choice.threshold is None else choice.threshold


def _legend(signal: tokens.Signal, ends: token_colours.Scale, choice: Choice) -> Legend:
    low, high = (ends.high, ends.low) if signal.reverse else (ends.low, ends.high)
    clipped = ends.below + ends.above
    if ends.flat:
        beyond = f"; {clipped} beyond" if clipped else ""
        notes = [f"Flat: the values hardly differ, so they are not stretched over all colours{beyond}"]
    else:
        notes = ["Colours span the 2nd to the 98th percentile" + (f"; {clipped} outside take the end colours" if clipped else "")]
    scale, gamma = choice.colouring.scale, choice.colouring.gamma
    if scale == "percentile" and not ends.flat:
        notes[0] = "Equal steps of colour are equal shares of the tokens"
    if scale == "log":
        notes.append("logarithmic scale")
    if gamma != 1:
        notes.append(f"gamma {gamma:g}")
    if ends.absent:
        notes.append(f"{ends.absent} without a value")
    return Legend(signal, printed(signal, low), printed(signal, high), "; ".join(notes), ends.flat)


def strip(numbers: Numbers, signal: tokens.Signal, start: int, stop: int, steps_max: int = tokens.STRIP_STEPS_MAX) -> Strip:
    """One signal over a window in so many steps; its ceiling is that of the whole sequence. Raises StoreError."""
    values = numbers.of(signal.key)
    top = tokens.strip_top(values, signal)
    path = tokens.strip_path(values[start:stop], top, steps_max=steps_max)
    steps = max(1, min(stop - start, steps_max))
    return Strip(signal, path, steps, printed(signal, top), top, numbers.trouble(signal))


def threshold(values: Values, choice: Choice) -> Threshold | None:
    """The slider's place and ends; None where the signal has no values."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return None
    low, high, bound = float(finite.min()), float(finite.max()), _bound(values, choice)
    step = (high - low) / 400 or 1.0
    return Threshold(bound, low, high, step, int(token_colours.reaching(values, bound, choice.signal).sum()), int(finite.size))


def statistics(numbers: Numbers, choice: Choice) -> Range | None:
    """Mean, largest, sum and perplexity of the chosen range; None where none is chosen. Raises StoreError."""
    if choice.first < 0:
        return None
    part = slice(choice.first, choice.last + 1)
    values = numbers.of(choice.signal.key)[part]
    values, signal = values[np.isfinite(values)], choice.signal
    nats = numbers.of("surprisal")[part]
    nats = nats[np.isfinite(nats)]
    mean, top, total = (values.mean(), values.max(), values.sum()) if values.size else (np.nan,) * 3
    perplexity = float(np.exp(nats.mean())) if nats.size else float("nan")
    said = [("mean", mean), ("max", top), ("sum", total)]
    rows = [(name, printed(signal, float(value)) + signal.suffix) for name, value in said]
    return Range(choice.first, choice.last, (*rows, ("perplexity", figures.number(perplexity))))
