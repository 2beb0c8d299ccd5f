"""Turns a recording into span attributes; packs and unpacks the token series.

Not transport: the bytes made here are attribute values, whatever carries the span.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cutaway import conventions as c
from cutaway.errors import CutawayError
from cutaway.steps import Call, Prepared, Recording

_ESSENTIAL: Final = (
    c.OPERATION_NAME, c.PROVIDER_NAME, c.REQUEST_MODEL, c.USAGE_INPUT_TOKENS, c.USAGE_OUTPUT_TOKENS, c.TOKENS_STATUS,
    c.ATTENTION_STATUS, c.SEQUENCE_OUTPUT_TOKENS,
)
_CODES: Final = {np.dtype(name): code for code, name in c.SERIES_DTYPES.items()}


def pack(values: NDArray[Any]) -> bytes:
    """[token], [token, layer] or [token, layer, head] of float32, uint32 or float16 -> header and little-endian values.

    Raises CutawayError for another type or shape.
    """
    code = _CODES.get(values.dtype.newbyteorder("<"))
    if code is None or not 1 <= values.ndim <= 3:
        raise CutawayError(f"a series is float32, uint32 or float16 with 1 to 3 axes, it is {values.dtype} with {values.ndim}")
    tokens, layers, heads = (*values.shape, 1, 1)[:3]
    little = np.ascontiguousarray(values, dtype=c.SERIES_DTYPES[code])
    return c.SERIES_HEADER.pack(c.SERIES_VERSION, code, 0, tokens, layers, heads) + little.tobytes()


def unpack(data: bytes) -> NDArray[Any]:
    """The inverse of `pack`: [token] when layers and heads are 1, [token, layer] when heads is 1, else [token, layer, head].

    Raises CutawayError when the header or the length is wrong.
    """
    size = c.SERIES_HEADER.size
    if len(data) < size:
        raise CutawayError(f"a packed series has at least {size} bytes, this one has {len(data)}")
    version, code, _, tokens, layers, heads = c.SERIES_HEADER.unpack_from(data)
    if version != c.SERIES_VERSION or code not in c.SERIES_DTYPES:
        raise CutawayError(f"a packed series is of version {c.SERIES_VERSION} and a known type, this one says {version} and {code}")
    dtype = np.dtype(c.SERIES_DTYPES[code])
    if len(data) - size != tokens * layers * heads * dtype.itemsize:
        promised = tokens * layers * heads * dtype.itemsize
        raise CutawayError(f"the header promises {promised} bytes of values, {len(data) - size} follow")
    values = np.frombuffer(data, dtype=dtype, offset=size)
    if heads == 1:
        return values if layers == 1 else values.reshape(tokens, layers)
    return values.reshape(tokens, layers, heads)


def request_attributes(call: Call, prepared: Prepared | None) -> dict[str, Any]:
    """What was asked, as attributes."""
    found: dict[str, Any] = {
        c.REQUEST_SEED: call.seed,
        c.REQUEST_STREAM: True if call.streaming else None,
        c.DECODING_MODE: "unknown" if prepared is None else prepared.mode,
    }
    if call.model:
        found[c.RESPONSE_MODEL] = call.model
    if prepared is not None:
        found |= {
            c.REQUEST_CHOICE_COUNT: prepared.choices if prepared.choices != 1 else None,
            c.REQUEST_MAX_TOKENS: prepared.max_new_tokens,
            c.REQUEST_TEMPERATURE: prepared.temperature,
            c.REQUEST_TOP_P: prepared.top_p,
            c.REQUEST_TOP_K: None if prepared.top_k is None else float(prepared.top_k),
            c.REQUEST_STOP_SEQUENCES: list(prepared.stop_strings) or None,
        }
    return {name: value for name, value in found.items() if value is not None}


def answer_attributes(recording: Recording, call: Call) -> dict[str, Any]:
    """Counts, finish reasons, times and one-value-a-span signals, as attributes."""
    first, last = recording.first_token_s, recording.last_token_s
    found: dict[str, Any] = {
        c.RESPONSE_FINISH_REASONS: recording.finish_reasons,
        c.USAGE_INPUT_TOKENS: recording.usage_input_tokens,
        c.USAGE_OUTPUT_TOKENS: sum(recording.output_tokens),
        c.SEQUENCE_INPUT_TOKENS: recording.input_tokens,
        c.SEQUENCE_OUTPUT_TOKENS: recording.output_tokens,
        c.TOKENS_STATUS: recording.tokens_status,
        c.ATTENTION_STATUS: recording.attention_status,
    }
    if first is not None and last is not None:
        found[c.TIME_TO_FIRST_TOKEN] = first
        if call.streaming:
            found[c.RESPONSE_TIME_TO_FIRST_CHUNK] = first
        if recording.steps > 1:
            found[c.TIME_PER_OUTPUT_TOKEN] = (last - first) / (recording.steps - 1)
    if recording.drafted is not None:
        found[c.DRAFTED_TOKENS] = recording.drafted
        if recording.drafted:
            found[c.ACCEPTANCE_RATE] = recording.accepted / recording.drafted
    lists = {
        c.ATTENTION_LAYERS: recording.layers, c.SOURCE_LAYERS: recording.source_layers, c.PROMPT_TOKENS: recording.prompt_tokens,
    }
    return found | {name: values for name, values in lists.items() if values} | _means(recording)


_MEANS: Final = {
    c.TOKEN_ENTROPY: c.OUTPUT_ENTROPY_MEAN,
    c.ATTENTION_ENTROPY: c.ATTENTION_ENTROPY_MEAN,
    c.ATTENTION_NORMALIZED_ENTROPY: c.ATTENTION_NORMALIZED_ENTROPY_MEAN,
    c.ATTENTION_SINK: c.ATTENTION_SINK_MEAN,
    c.ATTENTION_LAST_KEY: c.ATTENTION_LAST_KEY_MEAN,
    c.ATTENTION_LOOKBACK: c.ATTENTION_LOOKBACK_MEAN,
    c.CROSS_ATTENTION_ENTROPY: c.CROSS_ATTENTION_ENTROPY_MEAN,
}
"""Series -> the attribute that holds its mean."""


def _means(recording: Recording) -> dict[str, Any]:
    """One value a span from the series. Means over [token, layer] equal means over heads too: every layer has as many."""
    found: dict[str, Any] = {
        mean: float(recording.series[name].mean(dtype=np.float64))
        for name, mean in _MEANS.items() if name in recording.series and recording.series[name].size
    }
    entropy = recording.series.get(c.ATTENTION_ENTROPY)
    if entropy is not None and entropy.size:
        found[c.ATTENTION_ENTROPY_MIN] = float(entropy.min())
    return found


_TYPES: Final = (
    dict.fromkeys((c.TOKEN_ID, c.TOKEN_RANK, c.ALTERNATIVE_ID, c.PROMPT_TOKEN_ID, c.SOURCE_POSITION), np.dtype(np.uint32))
    | dict.fromkeys((*c.HEAD_SERIES, c.SOURCE_MASS), np.dtype(np.float16))
)
"""Types of series that are not float32."""

_IDS: Final = frozenset((c.TOKEN_ID, c.ALTERNATIVE_ID, c.PROMPT_TOKEN_ID))


def series_attributes(recording: Recording, ids: bool, heads: Collection[str], bytes_max: int) -> dict[str, bytes]:
    """Packed series within `bytes_max`, the most telling first. What does not fit changes the recording's status and reasons.

    ids: whether series of token ids may leave; heads: which of HEAD_SERIES may.
    """
    held = dict(recording.series)
    if recording.token_ids is not None:
        held[c.TOKEN_ID] = recording.token_ids
    if recording.prompt_ids is not None:
        held[c.PROMPT_TOKEN_ID] = recording.prompt_ids
    found: dict[str, bytes] = {}
    room, left_out = bytes_max, dict[str, int]()
    for name in (*c.TOKEN_SERIES, *c.ALTERNATIVE_SERIES, *c.PROMPT_SERIES, *c.LAYER_SERIES, *c.HEAD_SERIES, *c.SOURCE_SERIES):
        values = held.get(name)
        if values is None or (name in _IDS and not ids) or (name in c.HEAD_SERIES and name not in heads):
            continue
        dtype = _TYPES.get(name, np.dtype(np.float32))
        size = c.SERIES_HEADER.size + values.size * dtype.itemsize
        if size > room:
            left_out[name] = size
            continue
        found[name] = pack(values.astype(dtype, copy=False))
        room -= size
    if left_out:
        _tell_truncation(recording, left_out, bytes_max)
    return found


def _tell_truncation(recording: Recording, left_out: dict[str, int], bytes_max: int) -> None:
    """Series of one kind depend on each other's statuses: tokens and prompt on the one, attention on the other."""
    for name in left_out:
        if name in c.ATTENTION_SERIES:
            recording.attention_status = c.STATUS_TRUNCATED
        else:
            recording.tokens_status = c.STATUS_TRUNCATED
    total = sum(left_out.values())
    names = ", ".join(left_out)
    recording.reasons.append(f"left out, {total} bytes for which series_bytes_max = {bytes_max} has no room: {names}")


def arranged(attributes: dict[str, Any], series: dict[str, bytes], held: Mapping[str, Any], limit: int | None) -> dict[str, Any]:
    """What to set on a span that holds `held` already and takes `limit` attributes: series first, what every reader needs last.

    A full span drops its oldest attributes. Where series do not fit they are left out and the statuses say `truncated`; then
    the least needed of the rest. One place is kept for the error that may follow.
    """
    needed = {name: value for name in _ESSENTIAL if (value := attributes.get(name, held.get(name))) is not None}
    rest = {name: value for name, value in attributes.items() if name not in needed}
    room = math.inf if limit is None else limit - 1 - sum(name not in attributes and name not in needed for name in held)
    if len(rest) + len(needed) + len(series) > room:
        reason = f"the series were left out: the tracer provider takes {limit} attributes a span"
        rest[c.STATUS_REASON] = "; ".join(filter(None, (rest.get(c.STATUS_REASON), reason)))
        for status, names in ((c.TOKENS_STATUS, c.TOKEN_SERIES), (c.ATTENTION_STATUS, c.ATTENTION_SERIES)):
            if needed.get(status) == c.STATUS_RECORDED and any(name in series for name in names):
                needed[status] = c.STATUS_TRUNCATED
        series = {}
    kept = sorted(rest, key=lambda name: name == c.STATUS_REASON)  # the reason is the last to go
    kept = kept[max(0, len(kept) + len(needed) + len(series) - int(min(room, 1 << 30))):]
    return {**series, **{name: rest[name] for name in kept}, **needed}


def text_message(role: str, content: str, finish_reason: str | None = None) -> dict[str, Any]:
    """One message of plain text."""
    message: dict[str, Any] = {"role": role, "parts": [{"type": "text", "content": content}]}
    if finish_reason is not None:
        message["finish_reason"] = finish_reason
    return message
