"""Shared by the tests that search token series: rows of gen_ai_tokens as plain Python objects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cutaway_collector.blocks import Block, Lists, Strings
from search_helpers import START_NS


@dataclass(frozen=True)
class Row:
    """One sequence. mean: [token, layer]; every: [token, layer, head]; named: model layers of the recorded ones, None for all."""

    span: int
    surprisal: tuple[float, ...] = ()
    ranks: tuple[int, ...] = ()
    mean: npt.NDArray[np.float32] | None = None
    every: npt.NDArray[np.float32] | None = None
    named: tuple[int, ...] | None = None
    sequence: int = 0
    tenant: str = ""
    trace: int = 1
    start_ns: int = START_NS


def _lists(values: list[npt.NDArray[np.generic]], dtype: type) -> Lists:
    offsets = np.cumsum([0, *(part.size for part in values)], dtype=np.int64)
    return Lists(offsets, np.concatenate([part.ravel() for part in values]).astype(dtype))


def tokens(rows: list[Row]) -> Block:
    """gen_ai_tokens rows."""
    none = np.empty(0)
    shapes = [row.mean.shape if row.mean is not None else row.every.shape[:2] if row.every is not None else (0, 0) for row in rows]
    return Block("gen_ai_tokens", len(rows), {
        "Timestamp": np.array([row.start_ns for row in rows], np.int64),
        "TenantId": Strings.of([row.tenant for row in rows]),
        "ServiceName": Strings.of(["tests"] * len(rows)),
        "GenAiModel": Strings.of(["m"] * len(rows)),
        "TraceId": Strings.of([f"{row.trace:032x}" for row in rows]),
        "SpanId": Strings.of([f"{row.span:016x}" for row in rows]),
        "SeqIndex": np.array([row.sequence for row in rows], np.uint16),
        "InputTokens": np.zeros(len(rows), np.uint32),
        "OutputTokens": np.array([len(row.surprisal) for row in rows], np.uint32),
        "Surprisals": _lists([np.array(row.surprisal) for row in rows], np.float32),
        "Ranks": _lists([np.array(row.ranks) for row in rows], np.uint32),
        "AttentionLayers": np.array([shape[1] for shape in shapes], np.uint16),
        "AttentionHeads": np.array([0 if row.every is None else row.every.shape[2] for row in rows], np.uint16),
        "AttentionModelLayers": np.array([shape[1] if row.named is None else 0 for row, shape in zip(rows, shapes, strict=True)],
                                         np.uint16),
        "AttentionEntropies": _lists([none if row.mean is None else row.mean for row in rows], np.float32),
        "AttentionEntropyHeads": _lists([none if row.every is None else row.every for row in rows], np.float32),
    })
