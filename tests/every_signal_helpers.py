"""Spans that carry every series of the conventions, made by hand: packed or as plain arrays, with the sequences they must become.

The wanted rows are cut with numpy from the same arrays; nothing of the collector is used to make them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from cutaway import conventions as c
from cutaway.encode import pack
from decode_helpers import a_span, key_value, request

TOKEN_COLUMNS = {
    c.TOKEN_ID: "TokenIds", c.TOKEN_SURPRISAL: "Surprisals", c.TOKEN_ENTROPY: "Entropies", c.TOKEN_MARGIN: "Margins",
    c.TOKEN_RANK: "Ranks", c.TOKEN_INTER_TOKEN_TIME: "InterTokenS", c.TOKEN_VARENTROPY: "Varentropies",
    c.TOKEN_MIN_P_MASS: "MinPMasses", c.TOKEN_SAMPLED_SURPRISAL: "SampledSurprisals",
}
ALTERNATIVE_COLUMNS = {c.ALTERNATIVE_ID: "AlternativeIds", c.ALTERNATIVE_SURPRISAL: "AlternativeSurprisals"}
PROMPT_COLUMNS = {c.PROMPT_TOKEN_ID: "PromptTokenIds", c.PROMPT_SURPRISAL: "PromptSurprisals"}
LAYER_COLUMNS = {
    c.ATTENTION_ENTROPY: "AttentionEntropies", c.ATTENTION_NORMALIZED_ENTROPY: "AttentionNormalizedEntropies",
    c.ATTENTION_SINK: "AttentionSinks", c.ATTENTION_LAST_KEY: "AttentionLastKeys", c.ATTENTION_LOOKBACK: "AttentionLookbacks",
}
HEAD_COLUMNS = {
    c.ATTENTION_ENTROPY_HEADS: "AttentionEntropyHeads", c.ATTENTION_NORMALIZED_ENTROPY_HEADS: "AttentionNormalizedEntropyHeads",
    c.ATTENTION_SINK_HEADS: "AttentionSinkHeads", c.ATTENTION_LAST_KEY_HEADS: "AttentionLastKeyHeads",
    c.ATTENTION_LOOKBACK_HEADS: "AttentionLookbackHeads",
}
SOURCE_COLUMNS = {c.SOURCE_POSITION: "SourcePositions", c.SOURCE_MASS: "SourceMasses"}
STEP_COLUMNS = {
    c.DIFFUSION_STEP_TIME: "StepTimes", c.DIFFUSION_STEP_TIMESTEP: "StepTimesteps", c.DIFFUSION_LATENT_NORM: "LatentNorms",
    c.DIFFUSION_LATENT_CHANGE: "LatentChanges",
}
WHOLE = {c.TOKEN_ID, c.TOKEN_RANK, c.ALTERNATIVE_ID, c.PROMPT_TOKEN_ID, c.SOURCE_POSITION}
HALF = {*c.HEAD_SERIES, c.SOURCE_MASS}


@dataclass(frozen=True)
class Shape:
    """How large a generation is. lengths: tokens a sequence; prompts: tokens a prompt, of which each has as many sequences."""

    lengths: tuple[int, ...] = (3,)
    prompts: tuple[int, ...] = (5,)
    choices: int = 2
    layers: int = 3
    heads: int = 2
    cross_layers: int = 2
    cross_heads: int = 3
    source_layers: int = 2
    k: int = 4
    steps: int = 6

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    def of(self, name: str) -> tuple[int, ...]:
        """The axes of a series, from the tuples of the conventions."""
        if name in c.ALTERNATIVE_SERIES:
            return (self.tokens, self.choices)
        if name in c.PROMPT_SERIES:
            return (sum(self.prompts),)
        if name in c.DIFFUSION_SERIES:
            return (self.steps,)
        if name in c.SOURCE_SERIES:
            return (self.tokens, self.source_layers, self.k)
        cross = name in (c.CROSS_ATTENTION_ENTROPY, c.CROSS_ATTENTION_ENTROPY_HEADS)
        layers, heads = (self.cross_layers, self.cross_heads) if cross else (self.layers, self.heads)
        if name in c.LAYER_SERIES:
            return (self.tokens, layers)
        return (self.tokens, layers, heads) if name in c.HEAD_SERIES else (self.tokens,)


ALL_SERIES = (*c.TOKEN_SERIES, *c.ALTERNATIVE_SERIES, *c.PROMPT_SERIES, *c.ATTENTION_SERIES, *c.DIFFUSION_SERIES)
COLUMNS = {
    **TOKEN_COLUMNS, **ALTERNATIVE_COLUMNS, **PROMPT_COLUMNS, **LAYER_COLUMNS, **HEAD_COLUMNS, **SOURCE_COLUMNS, **STEP_COLUMNS,
    c.CROSS_ATTENTION_ENTROPY: "CrossAttentionEntropies", c.CROSS_ATTENTION_ENTROPY_HEADS: "CrossAttentionEntropyHeads",
}
"""Series -> the column the documentation says it is stored in."""


def values_of(shape: Shape, names: tuple[str, ...] = ALL_SERIES, seed: int = 0) -> dict[str, np.ndarray]:
    """Random series of that shape, in the types of the conventions."""
    random = np.random.default_rng(seed)
    made: dict[str, np.ndarray] = {}
    for name in names:
        axes = shape.of(name)
        if name in WHOLE:
            made[name] = random.integers(0, 50_000, axes).astype("<u4")
        else:
            made[name] = random.random(axes).astype("<f2" if name in HALF else "<f4")
    return made


def cuts(shape: Shape) -> list[KeyValue]:
    """The attributes that cut the series."""
    per = len(shape.lengths) // max(len(shape.prompts), 1)
    inputs = [shape.prompts[index // per] for index in range(len(shape.lengths))]
    return [
        key_value(c.SEQUENCE_OUTPUT_TOKENS, list(shape.lengths)), key_value(c.SEQUENCE_INPUT_TOKENS, inputs),
        key_value(c.PROMPT_TOKENS, list(shape.prompts)),
    ]


def packed(values: dict[str, np.ndarray]) -> list[KeyValue]:
    """Each series as our SDK sends it."""
    return [key_value(name, pack(array)) for name, array in values.items()]


def by_hand(name: str, array: np.ndarray) -> KeyValue:
    """The same bytes from the header's description alone."""
    codes = {dtype: code for code, dtype in c.SERIES_DTYPES.items()}
    axes = (*array.shape, 1, 1)[:3]
    header = c.SERIES_HEADER.pack(c.SERIES_VERSION, codes[array.dtype.newbyteorder("<").str], 0, *axes)
    return key_value(name, header + array.tobytes())


def plain(values: dict[str, np.ndarray]) -> list[KeyValue]:
    """Each series of one or two axes as a flat OTLP array."""
    return [key_value(name, array.ravel().tolist()) for name, array in values.items() if array.ndim < 3]


def expected(shape: Shape, values: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """The rows these series must become: column -> flat float32 or uint32 values, one dictionary a sequence."""
    per = len(shape.lengths) // len(shape.prompts)
    token_ends, prompt_ends = np.cumsum([0, *shape.lengths]), np.cumsum([0, *shape.prompts])
    shared = per if any(name in c.PROMPT_SERIES for name in values) else 1
    found = []
    for index in range(len(shape.lengths)):
        row: dict[str, Any] = {"SeqIndex": index, "OutputTokens": shape.lengths[index], "PromptSequence": index - index % shared}
        for name, array in values.items():
            if name in c.PROMPT_SERIES:
                which = index // per
                part = array[prompt_ends[which] : prompt_ends[which + 1]] if index % per == 0 else array[:0]
            elif name in c.DIFFUSION_SERIES:
                part = array if index == 0 else array[:0]
            else:
                part = array[token_ends[index] : token_ends[index + 1]]
            row[COLUMNS[name]] = part.astype("<u4" if name in WHOLE else "<f4").ravel()
        found.append(row)
    return found


def sequence_attributes(shape: Shape) -> list[KeyValue]:
    """The sender's own scores of each sequence; the last sequence has no perplexity."""
    count = len(shape.lengths)
    numbers = [round(1.5 + index, 3) for index in range(count)]
    return [
        key_value(c.SEQUENCE_PERPLEXITY, [*numbers[:-1], float("nan")]), key_value(c.SEQUENCE_NLL, numbers),
        key_value(c.SEQUENCE_LOOP_PERIOD, list(range(count))), key_value(c.SEQUENCE_RAUQ, numbers),
        key_value(c.SEQUENCE_SURPRISAL_QUARTERS, [float(value) for value in range(4 * count)]),
    ]


EVERYTHING, PIPELINE, NO_MAP = (bytes([number]) * 8 for number in (0xA1, 0xA2, 0xA3))
"""Span ids of `stories`."""
STORY = Shape(lengths=(6, 3), prompts=(5,), k=2, steps=8)


def stories(texts: list[str], start_ns: int) -> tuple[bytes, dict[str, np.ndarray]]:
    """One OTLP request of three spans, and its series: every signal of STORY; a pipeline; lookback and no other map.

    texts: the pieces, repeated to the length. The first choice of every token is the token itself, so that its text is known.
    """
    values = values_of(STORY)
    values[c.ALTERNATIVE_ID][:, 0] = values[c.TOKEN_ID]
    values[c.DIFFUSION_LATENT_CHANGE][0] = np.nan
    tokens = {name: array for name, array in values.items() if name not in c.DIFFUSION_SERIES}
    steps = {name: array for name, array in values.items() if name in c.DIFFUSION_SERIES}
    pieces = [texts[index % len(texts)] for index in range(STORY.tokens)]
    model = [key_value(c.OPERATION_NAME, "chat"), key_value(c.REQUEST_MODEL, "m"), key_value(c.USAGE_OUTPUT_TOKENS, STORY.tokens)]
    everything = [
        *cuts(STORY), *packed(tokens), key_value(c.TOKEN_TEXT, pieces), *sequence_attributes(STORY), *model,
        key_value(c.ATTENTION_LAYERS, [0, 4, 8]), key_value(c.SOURCE_LAYERS, [4, 8]),
    ]
    pipeline = [
        key_value(c.DIFFUSION_PIPELINE, "Pipeline"), key_value(c.DIFFUSION_STEPS, 8), key_value(c.DIFFUSION_STATUS, "recorded"),
        key_value(c.DIFFUSION_NONFINITE_STEP, 7), *packed(steps),
    ]
    lookback = [*cuts(STORY), *packed({name: tokens[name] for name in (c.TOKEN_SURPRISAL, c.ATTENTION_LOOKBACK)}), *model]
    spans = [
        a_span(span_id=span_id, name="story", attributes=attributes, start_time_unix_nano=start_ns,
               end_time_unix_nano=start_ns + 10**9)
        for span_id, attributes in ((EVERYTHING, everything), (PIPELINE, pipeline), (NO_MAP, lookback))
    ]
    return request(*spans).SerializeToString(), values
