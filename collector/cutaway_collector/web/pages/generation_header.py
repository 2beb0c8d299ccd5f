"""The head of the generation page: its tiles and badges, and the sender's scores of one sequence, in words.

Not the tokens, the strip or the map; those are generation.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cutaway.conventions import (
    ATTENTION_LAYERS,
    ATTENTION_STATUS,
    DECODING_MODE,
    DIFFUSION_GUIDANCE_SCALE,
    DIFFUSION_NONFINITE_STEP,
    DIFFUSION_STATUS,
    DIFFUSION_STEPS,
    RESPONSE_FINISH_REASONS,
    STATUS_OFF,
    STATUS_REASON,
    STATUS_RECORDED,
    TOKENS_STATUS,
    USAGE_OUTPUT_TOKENS,
)
from cutaway_collector.web import figures


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
class Score:
    """One number the sender measured of one sequence."""

    label: str
    value: str
    help: str


_SCORES: Final[Mapping[str, tuple[str, str, str]]] = {
    "perplexity": ("Perplexity", "", "exp(mean surprisal) of this sequence"),
    "nll": ("Negative log-likelihood", "nats", "sum of the surprisal of its tokens"),
    "bits_per_byte": ("Bits per byte", "", "negative log-likelihood in bits over bytes of text: compares tokenizers"),
    "worst_window": ("Worst window", "nats", "largest mean surprisal of 16 tokens in a row"),
    "rauq": ("RAUQ", "nats", "uncertainty carried along by attention to the token before"),
    "repetition": ("Repetition", "", "share of 4-grams that came before"),
    "loop_period": ("Loop period", "tokens", "how long the loop is in which the sequence ends"),
    "compression_ratio": ("Compression ratio", "", "text over compressed text: large where it repeats"),
}
"""Key of the JSON twin -> label, unit, help."""


def tiles(found: Mapping[str, Any]) -> tuple[Tile, ...]:
    """The numbers beside the colours. The span's own attributes are the truth; nothing is recomputed from the series."""

    def of(name: str) -> float | None:
        text = found["attributes"].get(name)
        try:
            return float(text) if text is not None else None
        except (TypeError, ValueError):
            return None

    n = figures.number
    if found["diffusion"] is not None:
        return _diffusion_tiles(found["diffusion"], of)
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
        Tile("Decoding speed", figures.rate(per_token), "tok/s", f"{figures.seconds(per_token)} a token while decoding"),
        Tile("Tokens", f"{n(tokens_in)} → {n(tokens_out)}", "", "prompt → generated, all sequences, without padding"),
    )


def badges(found: Mapping[str, Any], sequence: Mapping[str, Any]) -> tuple[Badge, ...]:
    """What was and was not recorded, and how the call ended."""
    attributes: Mapping[str, str] = found["attributes"]
    reason = attributes.get(STATUS_REASON, "")
    out = []
    finish = attributes.get(RESPONSE_FINISH_REASONS)
    if finish:
        out.append(Badge("quiet", "finish: " + str(finish).strip("[]").replace('"', ""), "why each sequence ended"))
    if attributes.get(DECODING_MODE):
        out.append(Badge("quiet", str(attributes[DECODING_MODE]), "generation mode"))
    for label, status in (
        ("tokens", attributes.get(TOKENS_STATUS)),
        ("attention", attributes.get(ATTENTION_STATUS)),
        ("steps", attributes.get(DIFFUSION_STATUS)),
    ):
        if status == STATUS_RECORDED and label != "steps" and not sequence["tokens"]:
            out.append(Badge("quiet", f"no {label}", _why_none(attributes)))
        elif status == STATUS_RECORDED:
            layers = max(sequence["layers"].values(), default=0)
            shape = f" {layers} layers" if label == "attention" and layers else ""
            out.append(Badge("good", f"{label} recorded{' ·' + shape if shape else ''}", ""))
        elif status:
            out.append(
                Badge("quiet" if status == STATUS_OFF else "warn", f"{label} {status}", "" if status == STATUS_OFF else reason)
            )
    return (*out, *_missing(sequence, found["named_layers"] if attributes.get(ATTENTION_LAYERS) else ()))


def _why_none(attributes: Mapping[str, str]) -> str:
    """Why a series that was recorded is not there: it is empty, or tokens are kept for a shorter time than spans."""
    if attributes.get(USAGE_OUTPUT_TOKENS, "0") == "0":
        return "recording was on, and the call ended before its first token"
    return "it was recorded, and is not stored: tokens may be kept for a shorter time than spans"


def _missing(sequence: Mapping[str, Any], named: Sequence[int]) -> list[Badge]:
    """What the sequence has only in part, or not at all."""
    out, count, layers = [], sequence["tokens"], sequence["layers"]
    if not count:
        return []
    if not sequence["texts"]:
        what = "text not captured: token ids shown" if sequence["ids"] else "text and ids not captured: positions shown"
        out.append(Badge("quiet", what, "capture is off by default; the sender's settings turn it on"))
    if named and layers:
        shown = ", ".join(str(layer) for layer in named[:8]) + (", …" if len(named) > 8 else "")
        out.append(Badge("quiet", f"attention sampled: layers {shown} only", "the sender recorded some layers, not all"))
    if layers and not any(sequence["heads"].values()):
        out.append(Badge("quiet", "mean over heads only", "attention of single heads was not recorded, or did not fit"))
    if sequence["alternatives"]:
        why = "less likely tokens were not recorded; entropy and surprisal are still of the whole distribution"
        out.append(Badge("quiet", f"top {sequence['alternatives']} choices", why))
    if not sequence["prompt"] and sequence["prompt_sequence"] == sequence["index"]:
        why = "no surprisal of the prompt's tokens was recorded; the sender's setting prompt_surprisal records it"
        out.append(Badge("quiet", "prompt not measured", why))
    lengths = {"texts": sequence["texts"], "ids": sequence["ids"], **sequence["signals"]}
    short = {name: length for name, length in lengths.items() if 0 < length < count}
    if short:
        least = min(short.values())
        out.append(Badge("warn", f"series cut short: {least} of {count} tokens", f"shorter than the sequence: {', '.join(short)}"))
    return out


def _diffusion_tiles(steps: Mapping[str, Sequence[float | None]], of: Callable[[str], float | None]) -> tuple[Tile, ...]:
    times = [value for value in steps["time_s"] if value is not None]
    broken = of(DIFFUSION_NONFINITE_STEP)
    return (
        Tile("Steps", figures.number(of(DIFFUSION_STEPS)), "", "denoising steps that ran"),
        Tile("Guidance", figures.number(of(DIFFUSION_GUIDANCE_SCALE)), "", "classifier-free guidance scale"),
        Tile("First step", figures.seconds(times[0] if times else None), "", "with all that came before it"),
        Tile("A step", figures.seconds(sum(times[1:]) / len(times[1:]) if times[1:] else None), "", "mean of the later steps"),
        Tile("Not finite", "never" if broken is None else f"step {broken:.0f}", "", "first step with NaN or infinity"),
    )


def sequence_scores(scores: Mapping[str, Any]) -> tuple[Score, ...]:
    """Those that were measured, in words."""
    found = []
    for key, (label, unit, meaning) in _SCORES.items():
        if key in scores:
            value = "none" if key == "loop_period" and not scores[key] else figures.number(scores[key])
            found.append(Score(label, f"{value} {unit}" if unit and value not in (figures.ABSENT, "none") else value, meaning))
    if "surprisal_quarters" in scores:
        quarters = " · ".join(figures.number(value) for value in scores["surprisal_quarters"])
        found.append(Score("Surprisal by quarter", f"{quarters} nats", "mean surprisal of each quarter of the tokens"))
    return tuple(found)
