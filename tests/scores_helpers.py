"""Shared by the tests of scores: rows of gen_ai_scores as plain Python objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cutaway_collector.blocks import Block, Strings
from cutaway_collector.columns import SCORES
from search_helpers import START_NS, Span


@dataclass(frozen=True)
class ScoreRow:
    """One row as it lies in the table. span: None for a score of the whole trace."""

    trace: int
    span: int | None
    name: str
    value: float
    label: str = ""
    sequence: int = 0
    source: str = "collector"
    version: str = "1"
    arrived_ms: int = 1
    deleted: bool = False
    time_ns: int = START_NS
    tenant: str = ""
    service: str = "tests"
    model: str = ""
    explanation: str = ""

    @property
    def trace_id(self) -> str:
        """32 hex digits."""
        return f"{self.trace:032x}"

    @property
    def span_id(self) -> str:
        """16 hex digits, or nothing."""
        return "" if self.span is None else f"{self.span:016x}"


def score_of(span: Span, name: str, value: float, **more: object) -> ScoreRow:
    """A score of that span, of its time."""
    return ScoreRow(span.trace, span.number, name, value, **{"time_ns": span.start_ns, **more})  # type: ignore[arg-type]  # by name


def scores_block(rows: Sequence[ScoreRow]) -> Block:
    """gen_ai_scores rows."""
    count = len(rows)
    columns = {
        "Timestamp": np.array([row.time_ns for row in rows], np.int64),
        "TenantId": Strings.of([row.tenant for row in rows]),
        "ServiceName": Strings.of([row.service for row in rows]),
        "GenAiModel": Strings.of([row.model for row in rows]),
        "TraceId": Strings.of([row.trace_id for row in rows]),
        "SpanId": Strings.of([row.span_id for row in rows]),
        "SeqIndex": np.array([row.sequence for row in rows], np.uint16),
        "IngestedAt": np.full(count, START_NS // 10**6, np.int64),
        "ScoreName": Strings.of([row.name for row in rows]),
        "ScorerVersion": Strings.of([row.version for row in rows]),
        "Source": Strings.of([row.source for row in rows]),
        "Value": np.array([row.value for row in rows], np.float64),
        "Label": Strings.of([row.label for row in rows]),
        "Explanation": Strings.of([row.explanation for row in rows]),
        "Version": np.array([row.arrived_ms for row in rows], np.uint64),
        "IsDeleted": np.array([row.deleted for row in rows], np.uint8),
    }
    return Block(SCORES.name, count, {column.name: columns[column.name] for column in SCORES.columns})
