"""The stored series of a generation as nested lists for JSON: what to select, and how the flat arrays become token, layer, head.

Not the look-up of the generation, which is generation.py's, and not a drawing. Values come back as stored; what is not a finite
number comes back as None; arrays whose length contradicts their axes come back empty.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from cutaway import conventions as c
from cutaway_collector.search import rows
from cutaway_collector.search.cuts import WHOLE, Cut
from cutaway_collector.search.parameters import Parameters

Heads = Literal["all"] | int | None

ATTENTION_DECIMALS: Final = 6
"""Attention values are rounded to a millionth, a tenth of their error, which halves the size of the JSON."""

SIGNALS: Final[tuple[tuple[str, str], ...]] = (
    ("surprisal", "Surprisals"), ("entropy", "Entropies"), ("margin", "Margins"), ("rank", "Ranks"),
    ("inter_token_s", "InterTokenS"), ("varentropy", "Varentropies"), ("min_p_mass", "MinPMasses"),
    ("sampled_surprisal", "SampledSurprisals"),
)
"""Key in the answer, column: one value a token."""


class Attention(NamedTuple):
    """One kind of attention series: its mean over heads, every head, and the columns that hold its layers and heads."""

    mean: str
    every: str
    layers: str = "AttentionLayers"
    heads: str = "AttentionHeads"


ATTENTION: Final[Mapping[str, Attention]] = {
    "entropy": Attention("AttentionEntropies", "AttentionEntropyHeads"),
    "normalized_entropy": Attention("AttentionNormalizedEntropies", "AttentionNormalizedEntropyHeads"),
    "sink": Attention("AttentionSinks", "AttentionSinkHeads"),
    "last_key": Attention("AttentionLastKeys", "AttentionLastKeyHeads"),
    "lookback": Attention("AttentionLookbacks", "AttentionLookbackHeads"),
    "cross_entropy": Attention(
        "CrossAttentionEntropies", "CrossAttentionEntropyHeads", "CrossAttentionLayers", "CrossAttentionHeads"),
}
"""What an answer can say of attention, by its key."""

STEPS: Final[tuple[tuple[str, str], ...]] = (
    ("time_s", "StepTimes"), ("timestep", "StepTimesteps"), ("latent_norm", "LatentNorms"), ("latent_change", "LatentChanges"),
)
"""Key in the answer, column: one value a denoising step."""

DETAILS: Final[tuple[tuple[str, str], ...]] = (
    ("alternative_count", "AlternativeCount"), ("alternative_ids", "AlternativeIds"),
    ("alternative_surprisals", "AlternativeSurprisals"), ("prompt_ids", "PromptTokenIds"),
    ("prompt_surprisals", "PromptSurprisals"), ("source_layers", "SourceLayers"),
    ("source_count", "SourceCount"), ("source_positions", "SourcePositions"), ("source_masses", "SourceMasses"),
)
"""Name in a row, column: what only a look at single tokens needs."""

SCORES: Final[tuple[tuple[str, str], ...]] = (
    ("perplexity", c.SEQUENCE_PERPLEXITY), ("nll", c.SEQUENCE_NLL), ("bits_per_byte", c.SEQUENCE_BITS_PER_BYTE),
    ("worst_window", c.SEQUENCE_WORST_WINDOW), ("rauq", c.SEQUENCE_RAUQ), ("repetition", c.SEQUENCE_REPETITION),
    ("loop_period", c.SEQUENCE_LOOP_PERIOD), ("compression_ratio", c.SEQUENCE_COMPRESSION_RATIO),
)
"""Key in the answer, span attribute: one number a sequence, as the sender measured it."""

_QUARTERS: Final = 4


RECORDED: Final = "arrayFilter(kind -> kind != '', [{}])".format(
    ", ".join(f"if(notEmpty({one.mean}) OR notEmpty({one.every}), '{kind}', '')" for kind, one in ATTENTION.items()))
"""SQL: the kinds of attention series a sequence has."""
BY_HEAD: Final = "[{}]".format(", ".join(f"if(notEmpty({one.every}), {one.heads}, 0)" for one in ATTENTION.values()))
"""SQL: heads of each kind, in the order of ATTENTION, 0 where only the mean was recorded."""


def attention_columns(
    kinds: Sequence[str], heads: Heads, parameters: Parameters, cut: Cut = WHOLE
) -> tuple[tuple[str, str], ...]:
    """What to select for these kinds. Values of single heads are read only when asked for, or when there is no mean to show."""
    found: list[tuple[str, str]] = []
    for kind in kinds:
        one = ATTENTION[kind]
        mean, every = cut.sql(one.mean, parameters), cut.sql(one.every, parameters)
        wanted = "1" if heads is not None else f"empty({one.mean})"
        found += [(f"{kind}_mean", mean if heads is None else "[]"), (f"{kind}_every", f"if({wanted}, {every}, [])")]
    return tuple(found)


def attention(row: Mapping[str, Any], kind: str, heads: Heads) -> npt.NDArray[np.float64]:
    """[token, layer] or, for every head, [token, layer, head]; no rows where the sequence has no such series."""
    prefix = "cross_" if ATTENTION[kind].layers.startswith("Cross") else ""
    layers, head_count = int(row[f"{prefix}layers"]), int(row[f"{prefix}heads"])
    mean, every = np.asarray(row[f"{kind}_mean"], np.float64), np.asarray(row[f"{kind}_every"], np.float64)
    if every.size and layers and head_count and every.size % (layers * head_count) == 0:
        cube = every.reshape(-1, layers, head_count)
        if heads == "all":
            return cube
        if isinstance(heads, int):
            return cube[:, :, heads] if heads < head_count else cube[:0, :, 0]
        if not mean.size:
            return np.asarray(cube.mean(axis=2))
    if heads is None and mean.size and layers and mean.size % layers == 0:
        return mean.reshape(-1, layers)
    return np.empty((0, layers))


def nested(values: npt.NDArray[np.float64]) -> list[Any]:
    """Rounded, as lists of lists."""
    rounded = np.round(values, ATTENTION_DECIMALS)
    listed: list[Any] = rounded.tolist()
    return listed if np.isfinite(rounded).all() else rows.json_safe(listed)


def finite(values: Sequence[Any]) -> list[Any]:
    """A flat series as a list, None for what is not a finite number."""
    array = np.asarray(values)
    listed: list[Any] = array.tolist()
    return listed if array.dtype.kind != "f" or np.isfinite(array).all() else rows.json_safe(listed)


def alternatives(row: Mapping[str, Any], texts: Mapping[int, str], cut: Cut = WHOLE) -> list[list[dict[str, Any]]]:
    """One list of choices a token, best first: {"id", "text", "surprisal"}, each only where it is known.

    texts: what the ids are known to spell, from the tokens that this call generated; the collector has no tokenizer.
    """
    count, tokens = int(row["alternative_count"]), cut.size(int(row["output_tokens"]))
    ids, surprisals = finite(row["alternative_ids"]), finite(row["alternative_surprisals"])
    size = count * tokens
    if not size or len(ids) not in (0, size) or len(surprisals) not in (0, size):
        return []
    flat: list[dict[str, Any]] = [{} for _ in range(size)]
    for entry, number in zip(flat, ids, strict=False):
        entry["id"] = number
        if number in texts:
            entry["text"] = texts[number]
    for entry, value in zip(flat, surprisals, strict=False):
        entry["surprisal"] = value
    return [flat[start : start + count] for start in range(0, size, count)]


def sources(row: Mapping[str, Any], layers: Sequence[int], cut: Cut = WHOLE) -> dict[str, Any]:
    """{"layers", "positions", "masses"}: model layers, then [token][layer][k], largest weight first; [] for none."""
    layer_count, count, tokens = int(row["source_layers"]), int(row["source_count"]), cut.size(int(row["output_tokens"]))
    positions, masses = np.asarray(row["source_positions"]), np.asarray(row["source_masses"], np.float64)
    shape = (tokens, layer_count, count)
    return {
        "layers": list(layers) if len(layers) == layer_count else list(range(layer_count)),
        "positions": positions.reshape(shape).tolist() if positions.size and positions.size == np.prod(shape) else [],
        "masses": nested(masses.reshape(shape)) if masses.size and masses.size == np.prod(shape) else [],
    }


def steps(row: Mapping[str, Any]) -> dict[str, list[Any]] | None:
    """The curves of a diffusion span by key; None where it has none."""
    found = {key: finite(row[key]) for key, _ in STEPS}
    return found if any(found.values()) else None


def sequence_scores(attributes: Mapping[str, str], index: int) -> dict[str, Any]:
    """The sender's scores of one sequence; only those it measured. None is a score that does not apply."""
    found: dict[str, Any] = {}
    for key, name in SCORES:
        values = numbers(attributes.get(name, ""))
        if index < len(values):
            found[key] = values[index]
    quarters = numbers(attributes.get(c.SEQUENCE_SURPRISAL_QUARTERS, ""))[index * _QUARTERS : (index + 1) * _QUARTERS]
    if len(quarters) == _QUARTERS:
        found["surprisal_quarters"] = quarters
    return found


def whole(attribute: str) -> list[int]:
    """An int[] attribute as stored; [] for anything else."""
    values = numbers(attribute)
    return [int(value) for value in values if value is not None] if all(isinstance(value, int) for value in values) else []


def numbers(attribute: str) -> list[int | float | None]:
    """A number[] attribute as stored, JSON with NaN and the infinities as words; [] where it is no such array."""
    try:
        listed = json.loads(attribute) if attribute.startswith("[") else []
    except ValueError:
        return []
    known: list[int | float | None] = []
    for value in listed:
        if isinstance(value, bool) or not isinstance(value, int | float | str | None):
            return []
        known.append(rows.json_safe(value) if isinstance(value, int | float) else None)
    return known
