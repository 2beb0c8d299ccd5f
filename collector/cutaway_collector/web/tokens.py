"""What a token page can show, in words: its signals and maps; and pieces of text made visible, and a series as a strip chart.

Not the colours, which are token_colours', nor the words and sentences, which are token_units'.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

STRIP_STEPS_MAX: Final = 1200
CLASSES: Final = 16
"""Colour classes q0 .. q15 of the stylesheet, q15 for the most striking values."""


@dataclass(frozen=True, slots=True)
class Signal:
    """One way to colour tokens.

    reverse: small values are the striking ones. log: equal ratios, not equal steps, are equal colours, where nothing else is asked
    for. optional: offered only where it was recorded. least: a range smaller than this says nothing; relative: times the median.
    knee: below it a logarithmic scale is nearly linear.
    """

    key: str
    label: str
    unit: str
    help: str
    reverse: bool = False
    log: bool = False
    optional: bool = False
    least: float = 0.1
    relative: bool = False
    knee: float = 0.1

    @property
    def suffix(self) -> str:
        """The unit as it stands behind a number; seconds carry theirs."""
        return f" {self.unit}" if self.unit and self.unit != "s" else ""


SIGNALS: Final[tuple[Signal, ...]] = (
    Signal("surprisal", "Surprisal", "nats", "How unexpected the chosen token was: −log p"),
    Signal("entropy", "Entropy", "nats", "How undecided the model was: spread of the whole next-token distribution"),
    Signal(
        "margin", "Margin", "nats", "First choice over second, in log-probability: a small margin is a close call", reverse=True
    ),
    Signal("rank", "Rank", "", "How many tokens the model preferred to the chosen one: 0 is its first choice", log=True,
           least=2.0, knee=1.0),
    Signal("inter_token_s", "Time", "s", "Time since the previous token; for the first token, since the call", least=0.2,
           relative=True, knee=1e-3),
    Signal("varentropy", "Varentropy", "nats²", "How uneven the surprise is over the choices: large where few likely ones stand "
           "against a long tail", optional=True),
    Signal("min_p_mass", "Min-p mass", "", "Probability of all tokens at least a tenth as likely as the first choice", reverse=True,
           optional=True, least=0.02, knee=0.01),
    Signal("sampled_surprisal", "Sampled", "nats", "Surprisal under the distribution the token was drawn from, after every "
           "processor and warper", optional=True),
)
BY_KEY: Final = {signal.key: signal for signal in SIGNALS}


@dataclass(frozen=True, slots=True)
class Map:
    """One kind of attention map. low, high: what the ends of its colours mean. least: a range smaller than this says nothing."""

    key: str
    label: str
    title: str
    unit: str
    help: str
    low: str
    high: str
    least: float = 0.02


MAPS: Final[tuple[Map, ...]] = (
    Map("entropy", "Entropy", "Attention entropy", "nats", "how widely each layer looked", "narrow focus", "wide focus",
        0.1),
    Map("normalized_entropy", "Normalized", "Normalized attention entropy", "", "entropy over that of uniform attention: "
        "compares short and long contexts", "one key", "uniform"),
    Map("sink", "Sink", "Attention sink", "", "weight of the first key, where attention rests that has nothing to look for", "none",
        "all on the first key"),
    Map("last_key", "Last key", "Attention to the last key", "", "weight of the token that was just read", "none",
        "all on the last key"),
    Map("lookback", "Lookback", "Lookback ratio", "", "weight of the prompt against that of the answer so far", "the answer",
        "the prompt"),
    Map("cross_entropy", "Cross", "Cross-attention entropy", "nats", "how widely the decoder looked at the encoder", "narrow focus",
        "wide focus", 0.1),
)
"""In the order of the tabs; the keys are those of the JSON twin."""
MAP_BY_KEY: Final = {one.key: one for one in MAPS}


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a token: kind "text" (as is), "id", "space", "mark" (an escape) or "break" (a mark, then a new line)."""

    kind: str
    text: str


_NAMED: Final = {"\t": "⇥", "\r": "␍", "\x7f": "␡", "\ufffd": "�"}
_HIDDEN: Final = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs")
"""Unicode categories that show nothing, or (directional marks) change how their neighbours show."""


@lru_cache(maxsize=8192)
def visible(piece: str) -> tuple[Part, ...]:
    """A token's text with every blank and invisible character made visible: nothing may hide, nothing may reorder the line."""
    parts: list[Part] = []
    plain = ""
    for char in piece:
        part = _special(char)
        if part is None:
            plain += char
            continue
        if plain:
            parts.append(Part("text", plain))
            plain = ""
        parts.append(part)
    if plain:
        parts.append(Part("text", plain))
    return tuple(parts) or (Part("mark", "∅"),)


def _special(char: str) -> Part | None:
    if char == " ":
        return Part("space", "·")
    if char == "\n":
        return Part("break", "↵")
    if char in _NAMED:
        return Part("mark", _NAMED[char])
    if ord(char) < 32:
        return Part("mark", chr(0x2400 + ord(char)))
    if unicodedata.category(char) in _HIDDEN and char != "\u200d":
        return Part("mark", f"U+{ord(char):04X}")
    return None


def printed(piece: str) -> str:
    """The same as one string, for titles and tables."""
    return "".join(part.text for part in visible(piece))


def strip_path(
    values: npt.NDArray[np.float64], top: float, height: float = 100.0, *, steps_max: int = STRIP_STEPS_MAX
) -> str:
    """Values [n] -> an SVG path of min(n, steps_max) unit-wide steps, filled from the floor, `top` at the ceiling."""
    if top <= 0:
        return ""
    if values.size > steps_max:  # more steps than a screen has pixels: keep the peak of each, a mean would hide it
        edges = np.linspace(0, values.size, steps_max + 1).astype(np.int64)[:-1]
        values = np.maximum.reduceat(np.nan_to_num(values), edges)
    heights = np.clip(np.nan_to_num(values) / top, 0, 1) * (height - 2)
    steps = "".join(f"V{height - h:.1f}H{index + 1}" for index, h in enumerate(heights))
    return f"M0 {height:g}{steps}V{height:g}Z"


def strip_top(values: npt.NDArray[np.float64], signal: Signal) -> float:
    """The value at the strip's ceiling: the largest. The wait for the first token is no part of the pace and may exceed it."""
    finite = values[1:] if signal.unit == "s" and values.size > 1 else values
    finite = finite[np.isfinite(finite)]
    return float(finite.max()) if finite.size else 0.0


def as_array(series: Sequence[float | None] | npt.NDArray[np.floating[Any]] | None, length: int) -> npt.NDArray[np.float64]:
    """A series as it came -> float64 [length]; NaN where it has no value: it is absent, shorter, infinite, or says so."""
    out = np.full(length, math.nan)
    if series is not None:
        part = np.asarray(series[:length], np.float64)  # None becomes NaN
        out[: part.size] = np.where(np.isinf(part), math.nan, part)  # of no size to draw or to count
    return out
