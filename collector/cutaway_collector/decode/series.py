"""The gen_ai_tokens block: the series of every generation, cut into one row a sequence.

How a series is laid out and which lengths it shares with others comes from the column table (`columns.Axes`); this module knows no
series by name. A sequence has the tokens its count says and the series of its prompt, which stand in the row of that prompt's first
choice alone, so that choices do not repeat them; a span's first row has the steps of a diffusion pipeline.

A span whose series contradict one another keeps its row in otel_traces and loses its series, with a word in the answer; it never
costs a neighbour anything. Reading one series is packed.py's.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np

from cutaway import conventions
from cutaway_collector import columns
from cutaway_collector.blocks import Block, Column, Lists, Nullable, Strings
from cutaway_collector.decode import names, packed
from cutaway_collector.decode import tables as t
from cutaway_collector.decode.lift import HAS_SERIES
from cutaway_collector.decode.limits import Limits
from cutaway_collector.decode.strings import check_column, gather, pick
from cutaway_collector.decode.wire import entry, kernel

_WANTS: Final = {"Array(UInt32)": packed.WANT_UINT32, "Array(Float32)": packed.WANT_FLOAT32, "Array(String)": packed.WANT_TEXT}
_WANT: Final = np.array([_WANTS[column.type] for column in columns.SERIES], np.int64)
_SEQUENCE_OUTPUT: Final = names.index(conventions.SEQUENCE_OUTPUT_TOKENS)
_SEQUENCE_INPUT: Final = names.index(conventions.SEQUENCE_INPUT_TOKENS)
_PROMPT_TOKENS: Final = names.index(conventions.PROMPT_TOKENS)
_SOME_LAYERS: Final = names.index(conventions.ATTENTION_LAYERS)
_FROM: Final = names.SERIES_FROM

_BAD_SERIES: Final = 1
_BAD_LENGTH: Final = 2
_BAD_CUT: Final = 3
_TOO_LONG: Final = 4
_BAD_PROMPT: Final = 5
REASONS: Final[dict[int, str]] = {
    _BAD_SERIES: "a series is neither packed values of its type with a valid header nor a plain array of them",
    _BAD_LENGTH: "their lengths, layers or heads differ from one another or from the sum of the sequences' output tokens",
    _BAD_CUT: "the token counts of the sequences are not arrays of whole numbers, one a sequence",
    _BAD_PROMPT: "the token counts of the prompts are not an array of whole numbers of which each belongs to as many sequences",
    _TOO_LONG: "a sequence has more tokens, or the span more sequences, than the limits allow",
}
"""Why the series of a span are left out."""

# One carrier: a kept span that has series.
K_TOKENS: Final = 0
K_PROMPT: Final = 1
K_STEPS: Final = 2
K_SEQUENCES: Final = 3
K_PROMPTS: Final = 4
K_FAULT: Final = 5
_INNER: Final = tuple(dict.fromkeys(
    name for column in columns.SERIES if column.axes for name in (column.axes.layers, column.axes.heads) if name))
"""Columns that hold the length of an inner axis; each has its place in a carrier's shape, 0 until a series settles it."""
_PLACE: Final = {"token": K_TOKENS, "prompt": K_PROMPT, "step": K_STEPS, "": -1} | {
    name: K_FAULT + 1 + index for index, name in enumerate(_INNER)}
K_WIDTH: Final = K_FAULT + 1 + len(_INNER)


def _axes(column: columns.Column) -> tuple[int, int, int]:
    """Places in the shape of a series' three axes, -1 for one that is not there."""
    if column.axes is None:
        raise ValueError(f"a series has axes: {column.name} has none")
    return _PLACE[column.axes.length], _PLACE[column.axes.layers], _PLACE[column.axes.heads]


_AXES: Final = np.array([_axes(column) for column in columns.SERIES], np.int64)


class Plan(NamedTuple):
    """What a first look at the series settled.

    carriers: int64 [n], kept spans that have series. shape: int64 [n, K_WIDTH]. codes: int64 [n, series], 0 where absent, else a
    dtype code or packed.PLAIN. rows: int64 [n, series], rows of the span-attribute table.
    """

    carriers: Any
    shape: Any
    codes: Any
    rows: Any


@kernel
def _sequences(data: Any, table: Any, row: int, tokens_max: int, sequences_max: int) -> tuple[Any, Any, Any]:
    """(sequences, sum of their tokens, fault) of an int[] attribute."""
    if table[row, t.A_KIND] != t.ARRAY:
        return 0, 0, _BAD_CUT
    at = table[row, t.A_VALUE]
    end = at + table[row, t.A_VALUE_N]
    count = 0
    total = 0
    while True:
        kind, value, _, at = packed.element(data, at, end)
        if kind < 0:
            return count, total, 0
        if kind != t.INT or value < 0:
            return 0, 0, _BAD_CUT
        count += 1
        if value > tokens_max or count > sequences_max:
            return 0, 0, _TOO_LONG
        total += value


@kernel
def _one(data: Any, table: Any, row: int, want: int, axes: Any, shape: Any) -> tuple[Any, Any]:
    """(dtype code, fault) of one series; what its axes count is settled in `shape` or compared with it."""
    at, length = table[row, t.A_VALUE], table[row, t.A_VALUE_N]
    outer, middle, inner = axes[0], axes[1], axes[2]
    if table[row, t.A_KIND] == t.RAW:
        code, entries, layers, heads = packed.header(data, at, length, want)
        if code == 0:
            return 0, _BAD_SERIES
    elif table[row, t.A_KIND] == t.ARRAY:
        count = packed.plain_length(data, at, length, want)
        if count < 0 or inner >= 0:
            return 0, _BAD_SERIES
        code, entries, layers, heads = packed.PLAIN, count, 1, 1
        if middle >= 0:
            # A flat array does not say its layers: the token count of the other series does.
            entries = shape[outer]
            layers = count // entries if entries > 0 else max(shape[middle], 1)
            if entries < 0 or layers < 1 or layers > 65535 or entries * layers != count:
                return 0, _BAD_LENGTH
    else:
        return 0, _BAD_SERIES
    if shape[outer] < 0:
        shape[outer] = entries
    if middle >= 0 and shape[middle] == 0:
        shape[middle] = layers
    if inner >= 0 and shape[inner] == 0:
        shape[inner] = heads
    agrees = (
        entries == shape[outer] and layers == (shape[middle] if middle >= 0 else 1) and heads == (shape[inner] if inner >= 0 else 1)
    )
    return code, 0 if agrees else _BAD_LENGTH


@kernel
def _prompts(data: Any, table: Any, row: int, shape: Any, tokens_max: int, sequences_max: int) -> Any:
    """The fault of a carrier's prompt counts; sets K_PROMPTS and K_PROMPT. Without counts there is one prompt, of one sequence."""
    if row < 0:
        shape[K_PROMPTS] = 1
        return 0 if shape[K_SEQUENCES] == 1 else _BAD_PROMPT
    shape[K_PROMPTS], shape[K_PROMPT], bad = _sequences(data, table, row, tokens_max, sequences_max)
    if bad != 0:
        return _BAD_PROMPT if bad == _BAD_CUT else bad
    if shape[K_PROMPTS] == 0 or shape[K_SEQUENCES] < shape[K_PROMPTS] or shape[K_SEQUENCES] % shape[K_PROMPTS] != 0:
        return _BAD_PROMPT
    return 0


@entry
def _examine(data: Any, table: Any, found: Any, carriers: Any, want: Any, axes: Any, tokens_max: int, sequences_max: int) -> Any:
    shape = np.zeros((carriers.size, K_WIDTH), np.int64)
    codes = np.zeros((carriers.size, want.size), np.int64)
    for index in range(carriers.size):
        span = carriers[index]
        mine = shape[index]
        mine[K_TOKENS], mine[K_PROMPT], mine[K_STEPS], mine[K_SEQUENCES] = -1, -1, -1, 1
        bad = 0
        output = found[span, _SEQUENCE_OUTPUT]
        if output >= 0:
            mine[K_SEQUENCES], mine[K_TOKENS], bad = _sequences(data, table, output, tokens_max, sequences_max)
        for series in range(want.size):
            row = found[span, _FROM + series]
            if row < 0 or bad != 0:
                continue
            if axes[series, 0] == K_PROMPT and mine[K_PROMPTS] == 0:
                bad = _prompts(data, table, found[span, _PROMPT_TOKENS], mine, tokens_max, sequences_max)
            if bad == 0:
                codes[index, series], bad = _one(data, table, row, want[series], axes[series], mine)
        if bad == 0 and ((output < 0 and mine[K_TOKENS] > tokens_max) or mine[K_STEPS] > tokens_max):
            bad = _TOO_LONG
        if bad == 0 and mine[K_PROMPTS] == 1 and mine[K_PROMPT] > tokens_max:
            bad = _TOO_LONG
        if bad == 0 and found[span, _SEQUENCE_INPUT] >= 0:
            count, _, bad = _sequences(data, table, found[span, _SEQUENCE_INPUT], 2**32 - 1, sequences_max)
            if bad == 0 and count != mine[K_SEQUENCES]:
                bad = _BAD_CUT
        mine[K_TOKENS] = max(mine[K_TOKENS], 0)
        if mine[K_STEPS] >= 0:
            # Steps stand in the first row: a span that says it has no sequence gets one for them.
            mine[K_SEQUENCES] = max(mine[K_SEQUENCES], 1)
        mine[K_FAULT] = bad
    return shape, codes


def plan(data: Any, table: Any, found: Any, marks: Any, limits: Limits) -> Plan:
    """Looks at every series of every kept span. found, marks: see lift.find."""
    carriers = np.flatnonzero(marks & HAS_SERIES)
    if not carriers.size:
        none = np.zeros((0, len(_WANT)), np.int64)
        return Plan(carriers, np.zeros((0, K_WIDTH), np.int64), none, none)
    shape, codes = _examine(
        data, table, found, carriers, _WANT, _AXES, limits.sequence_tokens_max, limits.sequences_max
    )
    return Plan(carriers, shape, codes, found[carriers, _FROM:])


def sound(made: Plan) -> Plan:
    """The plan without the spans whose series are left out."""
    good = made.shape[:, K_FAULT] == 0
    return Plan(made.carriers[good], made.shape[good], made.codes[good], made.rows[good])


@entry
def _cut(data: Any, table: Any, found: Any, carriers: Any, shape: Any, usage: Any) -> Any:
    """int64 [sequences, 6]: index among the carriers, SeqIndex, input tokens, output tokens, prompt tokens held, PromptSequence."""
    cut = np.zeros((shape[:, K_SEQUENCES].sum(), 6), np.int64)
    to = 0
    for index in range(carriers.size):
        span = carriers[index]
        sequences = shape[index, K_SEQUENCES]
        choices = sequences // max(shape[index, K_PROMPTS], 1) if shape[index, K_PROMPTS] > 0 else 1
        for step in range(sequences):
            cut[to + step, 0], cut[to + step, 1], cut[to + step, 5] = index, step, step - step % choices
        if sequences == 1:
            cut[to, 2], cut[to, 3] = min(usage[span], np.uint64(2**32 - 1)), shape[index, K_TOKENS]
            cut[to, 4] = max(shape[index, K_PROMPT], 0)
        for name, column, every in ((_SEQUENCE_INPUT, 2, 1), (_SEQUENCE_OUTPUT, 3, 1), (_PROMPT_TOKENS, 4, choices)):
            row = found[span, name]
            if row < 0 or (name == _PROMPT_TOKENS and shape[index, K_PROMPTS] == 0):
                continue
            at = table[row, t.A_VALUE]
            end = at + table[row, t.A_VALUE_N]
            for step in range(0, sequences, every):
                _, value, _, at = packed.element(data, at, end)
                cut[to + step, column] = value
        to += sequences
    return cut


@entry
def _words(data: Any, table: Any, rows: Any, codes: Any, want: int, counts: Any, scratch: Any, as_double: Any) -> Any:
    out = np.empty(counts.sum(), np.uint32)
    to = 0
    for index in range(rows.size):
        if codes[index] != 0:
            at, length = table[rows[index], t.A_VALUE], table[rows[index], t.A_VALUE_N]
            to = packed.copy(data, at, length, codes[index], want, out, to, scratch, as_double)
    return out


@entry
def _pieces(data: Any, table: Any, rows: Any, codes: Any, counts: Any) -> tuple[Any, Any]:
    starts = np.empty(counts.sum(), np.int64)
    lengths = np.empty(starts.size, np.int64)
    to = 0
    for index in range(rows.size):
        if codes[index] != 0:
            at = table[rows[index], t.A_VALUE]
            end = at + table[rows[index], t.A_VALUE_N]
            for _ in range(counts[index]):
                _, starts[to], lengths[to], at = packed.element(data, at, end)
                to += 1
    return starts, lengths


def _series_columns(data: Any, table: Any, made: Plan, cut: Any) -> dict[str, Column]:
    scratch = np.zeros(1, np.int64)
    steps = np.where(cut[:, 1] == 0, np.maximum(made.shape[cut[:, 0], K_STEPS], 0), 0)
    held = {K_TOKENS: cut[:, 3], K_PROMPT: cut[:, 4], K_STEPS: steps}
    result: dict[str, Column] = {}
    nothing, none = np.zeros(len(cut) + 1, np.int64), _nothing()
    present = made.codes.any(axis=0)
    for index, column in enumerate(columns.SERIES):
        if not present[index]:
            empty = none.columns[column.name]
            assert isinstance(empty, Lists)
            result[column.name] = Lists(nothing, empty.values)
            continue
        rows, codes = np.ascontiguousarray(made.rows[:, index]), np.ascontiguousarray(made.codes[:, index])
        outer, *inner = _AXES[index].tolist()
        stride = np.where(codes != 0, 1, 0)
        for place in inner:
            stride = stride * made.shape[:, place] if place >= 0 else stride
        offsets = np.zeros(len(cut) + 1, np.int64)
        np.cumsum(held[outer] * stride[cut[:, 0]], out=offsets[1:])
        counts = np.maximum(made.shape[:, outer], 0) * stride
        if _WANT[index] == packed.WANT_TEXT:
            result[column.name] = Lists(offsets, gather(data, *_pieces(data, table, rows, codes, counts)))
            continue
        words = _words(data, table, rows, codes, int(_WANT[index]), counts, scratch, scratch.view(np.float64))
        result[column.name] = Lists(offsets, words if _WANT[index] == packed.WANT_UINT32 else words.view(np.float32))
    return result


@cache
def _nothing() -> Block:
    """The block of a request without series, made once: it is what most requests bring."""
    strings = Strings.of([])
    plain: dict[str, Column] = {
        "String": strings, "LowCardinality(String)": strings, "DateTime64(9)": np.zeros(0, np.int64),
        "DateTime64(3)": np.zeros(0, np.int64),
        "UInt16": np.zeros(0, np.uint16), "UInt32": np.zeros(0, np.uint32), "Float32": np.zeros(0, np.float32),
    }
    made: dict[str, Column] = {}
    for column in columns.TOKENS.columns:
        inner = column.type.removeprefix("Array(").removesuffix(")") if column.type.startswith("Array(") else ""
        made[column.name] = Lists(np.zeros(1, np.int64), plain[inner]) if inner else plain[column.type]
    return Block(columns.TOKENS.name, 0, made)


def token_block(data: Any, table: Any, found: Any, made: Plan, spans: Block) -> Block:
    """One gen_ai_tokens row a sequence. `made` is sound; `spans` is the otel_traces block of the same kept spans."""
    if not made.carriers.size:
        return _nothing()
    inputs = spans.columns["InputTokens"]
    assert isinstance(inputs, Nullable)
    check_column(int(made.shape[:, K_SEQUENCES].sum()) * 8 * len(columns.TOKENS.columns))
    cut = _cut(data, table, found, made.carriers, made.shape, np.where(inputs.missing, np.uint64(0), inputs.values))
    owner = made.carriers[cut[:, 0]]
    result: dict[str, Column] = {}
    for name in ("TenantId", "ServiceName", "GenAiModel", "TraceId", "SpanId"):
        strings = spans.columns[name]
        assert isinstance(strings, Strings)
        result[name] = pick(strings, owner)
    for name in ("Timestamp", "IngestedAt"):
        times = spans.columns[name]
        assert isinstance(times, np.ndarray)
        result[name] = times[owner]
    result["SeqIndex"] = cut[:, 1].astype(np.uint16)
    result["InputTokens"] = cut[:, 2].astype(np.uint32)
    result["OutputTokens"] = cut[:, 3].astype(np.uint32)
    result["PromptSequence"] = cut[:, 5].astype(np.uint16)
    for name in _INNER:
        result[name] = made.shape[cut[:, 0], _PLACE[name]].astype(np.uint16)
    # A span that recorded only some layers names them.
    recorded = made.shape[cut[:, 0], _PLACE["AttentionLayers"]]
    result["AttentionModelLayers"] = np.where(found[owner, _SOME_LAYERS] < 0, recorded, 0).astype(np.uint16)
    result.update(_series_columns(data, table, made, cut))
    return Block(columns.TOKENS.name, len(cut), {column.name: result[column.name] for column in columns.TOKENS.columns})
