"""Sequences to score, token blocks made of them, and slow oracles that share no line with the kernels. No test here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from cutaway_collector.blocks import Block, Lists, Strings

NAN, INF = math.nan, math.inf


def ragged(rows: Sequence[Sequence[float]], dtype: npt.DTypeLike) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Rows -> (values end to end, offsets)."""
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return np.array([value for row in rows for value in row], dtype), offsets


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
    """Four lists and the normal equations, in exact fractions."""
    parts: list[list[Fraction]] = [[], [], [], []]
    points = [(Fraction(i), Fraction(value)) for i, value in enumerate(row) if math.isfinite(value)]
    for i, value in points:
        parts[int(4 * i / len(row))].append(value)
    means = [float(sum(part, Fraction()) / len(part)) if part and len(row) >= 4 else NAN for part in parts]
    if len(points) < 2:
        return [*means, NAN]
    n, sx, sy = len(points), sum(x for x, _ in points), sum(y for _, y in points)
    sxx, sxy = sum(x * x for x, _ in points), sum(x * y for x, y in points)
    return [*means, float((n * sxy - sx * sy) / (n * sxx - sx * sx))]


def token_block(surprisals: Sequence[Sequence[float]], ids: Sequence[Sequence[int]]) -> Block:
    """A gen_ai_tokens block as the decoder makes it, with the columns that scorers read and those that name a sequence."""
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
    })
