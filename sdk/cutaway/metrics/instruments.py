"""Metrics of generations: the GenAI conventions' client and server instruments, and histograms of what the model felt.

Not a second record of a call: each instrument counts calls by a few names, and nothing of a single call becomes a metric
attribute. A sampled call is found again through the exemplars that OpenTelemetry keeps by itself. Names, units and buckets of
`gen_ai.*` follow https://github.com/open-telemetry/semantic-conventions/blob/v1.41.0/docs/gen-ai/gen-ai-metrics.md, those of the
newer dialect https://github.com/open-telemetry/semantic-conventions-genai (client-inference.md, gen-ai-token-metrics.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from opentelemetry.context import Context
from opentelemetry.metrics import Counter, Histogram, Meter

from cutaway import conventions as c

TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105 - the name of an attribute, no secret
TOKEN_MODALITY: Final = "gen_ai.token.modality"  # noqa: S105 - as above

_SECONDS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS: Final = tuple(4**power for power in range(14))
_FIRST_TOKEN_SECONDS: Final = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_TOKEN_SECONDS: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_NATS: Final = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 2.5, 3, 4, 5, 7, 9, 12)
"""Of a distribution over the vocabulary. log(vocabulary) ends the scale, 10.4 for 32 k tokens and 12.5 for 256 k; a model that is
sure lies in the tenths, so the bounds grow by about a half each."""
_PERPLEXITIES: Final = (1.05, 1.1, 1.2, 1.35, 1.65, 2, 2.7, 4.5, 7.5, 12, 20, 55, 150, 1100, 8100, 163_000)
"""exp of the bounds above, rounded: the two histograms tell the same story in the reader's own unit."""
_ATTENTION_NATS: Final = (0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 5, 6, 8, 10, 12)
"""Of a distribution over keys, mean of all layers and heads. log(keys) ends the scale, 6.9 for 1 k keys and 11.8 for 128 k; a
mean of many heads stays far below and moves little, so the lower half is cut finer."""

_CALL: Final = (c.OPERATION_NAME, c.PROVIDER_NAME, c.REQUEST_MODEL, c.RESPONSE_MODEL)
_CALL_AND_ERROR: Final = (*_CALL, c.ERROR_TYPE)

DURATION: Final = "duration"
"""Source of a metric that is the duration of the span, not one of its attributes."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One instrument. `source`: span attribute -> extra metric attributes of its reading, or DURATION; `buckets`: () for a counter.

    `dialects`: v1.41, latest or both. `when`: "" for every call, `streaming` or `success` for those alone. `attributes`: copied
    from the span. `absent`: extra attributes of the 0 that is recorded when the span lacks the source; None records nothing.
    """

    name: str
    unit: str
    buckets: tuple[float, ...]
    source: Mapping[str, Mapping[str, str]]
    help: str
    dialects: tuple[str, ...] = ("v1.41", "latest")
    when: str = ""
    attributes: tuple[str, ...] = _CALL
    absent: Mapping[str, str] | None = None


_OLD: Final = ("v1.41",)
_NEW: Final = ("latest",)
_TEXT: Final = {TOKEN_MODALITY: "text"}
_UNKNOWN: Final = {TOKEN_MODALITY: "unknown"}
_ONCE: Final[dict[str, str]] = {}

METRICS: Final[tuple[Metric, ...]] = (
    Metric("gen_ai.client.operation.duration", "s", _SECONDS, {DURATION: _ONCE}, "GenAI operation duration.",
           _OLD, attributes=_CALL_AND_ERROR),
    Metric("gen_ai.client.inference.duration", "s", _SECONDS, {DURATION: _ONCE}, "GenAI inference duration.",
           _NEW, attributes=_CALL_AND_ERROR),
    Metric("gen_ai.client.token.usage", "{token}", _TOKENS,
           {c.USAGE_INPUT_TOKENS: {TOKEN_TYPE: "input"}, c.USAGE_OUTPUT_TOKENS: {TOKEN_TYPE: "output"}},
           "Number of input and output tokens used.", _OLD),
    Metric("gen_ai.client.inference.usage.input_tokens", "{token}", (), {c.USAGE_INPUT_TOKENS: _TEXT},
           "The number of input (prompt) tokens used.", _NEW, absent=_UNKNOWN),
    Metric("gen_ai.client.inference.usage.output_tokens", "{token}", (), {c.USAGE_OUTPUT_TOKENS: _TEXT},
           "The number of output (completion) tokens used.", _NEW, absent=_UNKNOWN),
    Metric("gen_ai.client.inference.operation.input_tokens", "{token}", _TOKENS, {c.USAGE_INPUT_TOKENS: _ONCE},
           "The number of input (prompt) tokens used per operation.", _NEW, attributes=_CALL_AND_ERROR, absent=_ONCE),
    Metric("gen_ai.client.inference.operation.output_tokens", "{token}", _TOKENS, {c.USAGE_OUTPUT_TOKENS: _ONCE},
           "The number of output (completion) tokens used per operation.", _NEW, attributes=_CALL_AND_ERROR, absent=_ONCE),
    Metric("gen_ai.client.operation.time_to_first_chunk", "s", _SECONDS, {c.RESPONSE_TIME_TO_FIRST_CHUNK: _ONCE},
           "Time from the request to the first chunk of the stream.", _OLD, "streaming"),
    Metric("gen_ai.client.inference.time_to_first_chunk", "s", _SECONDS, {c.RESPONSE_TIME_TO_FIRST_CHUNK: _ONCE},
           "Time from the request to the first chunk of the stream.", _NEW, "streaming"),
    Metric("gen_ai.client.operation.time_per_output_chunk", "s", _SECONDS, {c.TOKEN_INTER_TOKEN_TIME: _ONCE},
           "Time from one chunk of the stream to the next, for each chunk after the first.", _OLD, "streaming"),
    Metric("gen_ai.client.inference.time_per_output_chunk", "s", _SECONDS, {c.TOKEN_INTER_TOKEN_TIME: _ONCE},
           "Time from one chunk of the stream to the next, for each chunk after the first.", _NEW, "streaming"),
    # A model in this process is its own server.
    Metric("gen_ai.server.request.duration", "s", _SECONDS, {DURATION: _ONCE}, "Duration of the request up to its last token.",
           attributes=_CALL_AND_ERROR),
    Metric("gen_ai.server.time_to_first_token", "s", _FIRST_TOKEN_SECONDS, {c.TIME_TO_FIRST_TOKEN: _ONCE},
           "Time to generate the first token for successful responses.", when="success"),
    Metric("gen_ai.server.time_per_output_token", "s", _TOKEN_SECONDS, {c.TIME_PER_OUTPUT_TOKEN: _ONCE},
           "Time per output token generated after the first token for successful responses.", when="success"),
    Metric("cutaway.output.perplexity", "1", _PERPLEXITIES, {c.OUTPUT_PERPLEXITY: _ONCE},
           "Perplexity of the generated tokens of a call under the raw logits.", attributes=_CALL_AND_ERROR),
    Metric("cutaway.output.surprisal", "{nat}", _NATS, {c.OUTPUT_SURPRISAL_MEAN: _ONCE},
           "Mean surprisal of the generated tokens of a call under the raw logits.", attributes=_CALL_AND_ERROR),
    Metric("cutaway.output.entropy", "{nat}", _NATS, {c.OUTPUT_ENTROPY_MEAN: _ONCE},
           "Mean entropy of the next-token distributions of a call.", attributes=_CALL_AND_ERROR),
    Metric("cutaway.attention.entropy", "{nat}", _ATTENTION_NATS, {c.ATTENTION_ENTROPY_MEAN: _ONCE},
           "Mean attention entropy of a call: generated tokens, layers and heads.", attributes=_CALL_AND_ERROR),
)
"""Every instrument."""


class Instruments:
    """The instruments of one meter in one dialect; made once, used by every thread."""

    def __init__(self, meter: Meter, latest: bool) -> None:
        dialect = "latest" if latest else "v1.41"
        self._made: list[tuple[Metric, Counter | Histogram]] = []
        for metric in METRICS:
            if dialect in metric.dialects:
                self._made.append((metric, _instrument(meter, metric)))

    def record(self, attributes: Mapping[str, Any], duration_s: float, context: Context | None = None) -> None:
        """Records one finished generation: its span's attributes (v1.41 names; series packed or not) and its duration in seconds.

        `context` is that of the span: where it is sampled, OpenTelemetry keeps its trace id as an exemplar of a bucket. What the
        span does not hold, or holds as NaN or infinity, is not recorded. A stream has a reading for each chunk, about 15 us each:
        better taken off the model's thread.
        """
        failed, streaming = attributes.get(c.ERROR_TYPE) is not None, attributes.get(c.REQUEST_STREAM)
        met = {"", "" if failed else "success", "streaming" if streaming else ""}
        for metric, instrument in self._made:
            if metric.when not in met:
                continue
            labels = {name: attributes[name] for name in metric.attributes if attributes.get(name) is not None}
            for source, extra in metric.source.items():
                value = duration_s if source == DURATION else attributes.get(source)
                if value is not None:
                    named = {**labels, **extra}
                    for number in _numbers(value):
                        _record(instrument, number, named, context)
                elif metric.absent is not None:
                    _record(instrument, 0, {**labels, **metric.absent}, context)


def _instrument(meter: Meter, metric: Metric) -> Counter | Histogram:
    if not metric.buckets:
        return meter.create_counter(metric.name, metric.unit, metric.help)
    return meter.create_histogram(metric.name, metric.unit, metric.help, explicit_bucket_boundaries_advisory=metric.buckets)


def _record(instrument: Counter | Histogram, number: float, labels: dict[str, Any], context: Context | None) -> None:
    if isinstance(instrument, Counter):
        instrument.add(number, labels, context)
    else:
        instrument.record(number, labels, context)


def _numbers(value: Any) -> Iterable[float]:
    """The finite readings in an attribute: a number, or the steps after the first of a series, packed or float32 [token].

    Tokens that came in one step are one chunk: the time of all but the first of them is 0.
    """
    if isinstance(value, bytes):
        value = np.frombuffer(value, dtype="<f4", offset=c.SERIES_HEADER.size)
    elif not isinstance(value, np.ndarray):
        return (value,) if math.isfinite(value) else ()
    times = value[1:].astype(float)
    readings: list[float] = times[np.isfinite(times) & (times > 0)].tolist()
    return readings
