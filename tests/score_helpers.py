"""Sequences to score, token blocks made of them, and slow oracles that share no line with the kernels. No test here."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from cutaway import sequences
from cutaway_collector.blocks import Block, Lists, Strings

NAN, INF = math.nan, math.inf


def ragged(rows: Sequence[Sequence[float]], dtype: npt.DTypeLike) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Rows -> (values end to end, offsets), read-only as the scorers make them: numba compiles anew for arrays that are not."""
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    values = np.array([value for row in rows for value in row], dtype)
    return fixed(values), fixed(offsets)


def fixed(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array, read-only."""
    array.flags.writeable = False
    return array


def surprisal_rows(seed: int, longest: int = 700) -> list[list[float]]:
    """Rows that could go wrong: empty, one token, around the window and the block, long; holes of NaN and infinity."""
    random = np.random.default_rng(seed)
    lengths = [0, 1, 2, 3, 4, 5, 7, 15, 16, 17, 31, 127, 128, 129, 255, longest, 0]
    rows = [random.exponential(2.0, length).astype(np.float32).tolist() for length in lengths]
    holed = random.exponential(2.0, 90).astype(np.float32)
    holed[random.integers(0, 90, 40)] = NAN
    holed[[3, 50]] = INF
    rows += [[NAN], [INF, NAN], [NAN, 1.5], [1.5, NAN, NAN, 2.5], [NAN] * 40, holed.tolist(), [0.0] * 20, [3.25] * 33]
    return rows


def id_rows(seed: int, longest: int = 700) -> list[list[int]]:
    """Rows of token ids: short, random, looping with each period, constant, few distinct ids, the extremes of uint32."""
    random = np.random.default_rng(seed)
    rows = [random.integers(0, 49152, length).tolist() for length in (0, 1, 3, 4, 5, 8, 127, 128, 131, 132, longest)]
    rows += [(list(range(period)) * 60)[:100] for period in (1, 2, 3, 4, 5, 31)]
    rows += [random.integers(0, 3, 400).tolist(), [0] * 4, [2**32 - 1] * 9, [0, 2**32 - 1] * 40]
    return rows


def worst_window_oracle(row: Sequence[float], window: int = 16) -> float:
    """Every window summed exactly."""
    kept = [Fraction(value) for value in row if math.isfinite(value)]
    width = min(window, len(kept))
    if width == 0:
        return NAN
    return float(max(sum(kept[i : i + width], Fraction()) for i in range(len(kept) - width + 1)) / width)


def seq_rep_4_oracle(row: Sequence[int]) -> float:
    """Sets of tuples."""
    grams = [tuple(row[i : i + 4]) for i in range(len(row) - 3)]
    return float(1 - Fraction(len(set(grams)), len(grams))) if grams else NAN


def quarters_oracle(row: Sequence[float]) -> list[float]:
    """Four lists, in exact fractions."""
    parts: list[list[Fraction]] = [[], [], [], []]
    for i, value in enumerate(row):
        if math.isfinite(value):
            parts[int(4 * i / len(row))].append(Fraction(value))
    return [float(sum(part, Fraction()) / len(part)) if part and len(row) >= 8 else NAN for part in parts]


def quantile_oracle(row: Sequence[float], q: Fraction) -> float:
    """Sorted, and interpolated in exact fractions."""
    kept = sorted(Fraction(value) for value in row if math.isfinite(value))
    if not kept:
        return NAN
    position = q * (len(kept) - 1)
    low = kept[int(position)]
    return float(low + (position - int(position)) * (kept[min(int(position) + 1, len(kept) - 1)] - low))


def surprisal_oracle(row: Sequence[float]) -> list[float]:
    """The twelve figures of a row in the order of surprisal.NAMES."""
    kept = [value for value in row if math.isfinite(value)]
    whole = bool(kept) and len(kept) == len(row)
    bursts = sum(high and len(list(run)) >= 3 for high, run in itertools.groupby(kept, key=lambda value: value > 5))
    quarters = quarters_oracle(row)
    return [
        math.exp(math.fsum(kept) / len(kept)) if whole else NAN,
        math.fsum(kept) / math.pow((5 + len(kept)) / 6, 0.6) if whole else NAN,
        *(quantile_oracle(row, Fraction(percent, 100)) for percent in (50, 90, 99)),
        worst_window_oracle(row), float(bursts) if kept else NAN, *quarters, quarters[3] - quarters[0],
    ]


def trend_oracle(table: Sequence[Sequence[float]]) -> float:
    """SciPy's regression over the tokens' means."""
    points = [(i, float(np.mean([value for value in token if math.isfinite(value)])))
              for i, token in enumerate(table) if any(map(math.isfinite, token))]
    return float(stats.linregress(*zip(*points, strict=True)).slope) if len(points) >= 8 else NAN


def loop_oracle(row: Sequence[int]) -> float:
    """Every period tried, in the words of the definition."""
    for period in range(1, len(row) // 3 + 1):
        last, before, first = row[-period:], row[-2 * period : -period], row[-3 * period : -2 * period]
        if last == before == first:
            return period
    return 0.0 if row else NAN


def distinct_oracle(row: Sequence[int], n: int) -> float:
    """Sets of tuples."""
    grams = [tuple(row[i : i + n]) for i in range(len(row) - n + 1)]
    return float(Fraction(len(set(grams)), len(grams))) if grams else NAN


def repetition_oracle(row: Sequence[int]) -> list[float]:
    """The four figures of a row in the order of repetition.NAMES."""
    return [distinct_oracle(row, 1), distinct_oracle(row, 2), seq_rep_4_oracle(row), loop_oracle(row)]


def share_oracle(table: Sequence[Sequence[float]], beyond: Callable[[float], bool]) -> float:
    """Head by head."""
    columns = [[value for value in column if math.isfinite(value)] for column in zip(*table, strict=True)]
    means = [math.fsum(column) / len(column) for column in columns if column]
    return sum(map(beyond, means)) / len(means) if means else NAN


def rauq_oracle(surprisals: Sequence[float], weights: npt.NDArray[Any]) -> float:
    """The SDK's own, of the middle third. weights [token, layer, head]."""
    middle = sequences.middle_third(weights.shape[1])
    value = sequences.rauq(np.array(surprisals, np.float32), weights[:, middle.start : middle.stop].astype(np.float32), 0.2)
    return value if math.isfinite(value) else NAN


def unrecorded(rows: int) -> dict[str, Any]:
    """What scorers read beside surprisals and ids, of a sender that recorded none of it."""
    return {
        name: Lists(np.zeros(rows + 1, np.int64), np.zeros(0, np.float32)) for name in (
            "Entropies", "AttentionNormalizedEntropies", "AttentionNormalizedEntropyHeads", "AttentionSinks", "AttentionSinkHeads",
            "AttentionLastKeyHeads", "AttentionLookbacks")
    } | {name: np.zeros(rows, np.uint16) for name in ("AttentionLayers", "AttentionHeads", "AttentionModelLayers")}


def token_block(surprisals: Sequence[Sequence[float]], ids: Sequence[Sequence[int]], **others: Any) -> Block:
    """A gen_ai_tokens block as the decoder makes it, with the columns that scorers read and those that name a sequence.

    others: columns that are to hold something else than nothing.
    """
    rows = len(surprisals)
    values, offsets = ragged(surprisals, np.float32)
    token_ids, id_offsets = ragged(ids, np.uint32)
    lengths = np.array([len(row) for row in surprisals], np.uint32)
    return Block("gen_ai_tokens", rows, {
        "Timestamp": np.arange(rows, dtype=np.int64) + 1_800_000_000_000_000_000,
        "TenantId": Strings.repeat("", rows),
        "ServiceName": Strings.of([f"service-{row % 3}" for row in range(rows)]),
        "GenAiModel": Strings.repeat("smollm2", rows),
        "TraceId": Strings.of([f"{row:032x}" for row in range(rows)]),
        "SpanId": Strings.of([f"{row:016x}" for row in range(rows)]),
        "SeqIndex": np.arange(rows, dtype=np.uint16) % 4,
        "IngestedAt": np.arange(rows, dtype=np.int64) + 1_800_000_000_000,
        "InputTokens": np.full(rows, 7, np.uint32),
        "OutputTokens": lengths,
        "TokenIds": Lists(id_offsets, token_ids),
        "Surprisals": Lists(offsets, values),
        **unrecorded(rows), **others,
    })
