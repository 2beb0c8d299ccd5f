"""What scorers say of some spans, checked, as rows of gen_ai_scores. Decides no order and stores nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from cutaway_collector.blocks import Block, Column, Strings
from cutaway_collector.columns import SCORES
from cutaway_collector.contracts import Judged, Texts, TextScorer
from cutaway_collector.judging.conversation import Said
from cutaway_collector.judging.spans import Found, Place

SOURCE: Final = "collector"
WORDS_MAX: Final = 2000
"""Characters of an explanation that are kept; a label keeps a tenth."""


class Row(NamedTuple):
    """One score of one sequence. scorer: who gave it, which is not stored."""

    scorer: str
    found: Found
    sequence: int
    name: str
    version: str
    value: float
    label: str
    explanation: str


def check(scores: Mapping[str, Judged], count: int) -> None:
    """Raises ValueError or TypeError for an answer that is none for `count` sequences."""
    for name, column in scores.items():
        if not isinstance(column, Judged):
            raise TypeError(f"a text scorer answers with contracts.Judged, {name} is a {type(column).__name__}")
        lengths = [np.shape(column.values), *((len(words),) for words in (column.labels, column.explanations) if words is not None)]
        if any(length != (count,) for length in lengths):
            raise ValueError(f"a score has one value a sequence: {name} has {lengths} for {count} sequences")
        if np.isinf(column.values).any():
            raise ValueError(f"a score is a finite number or NaN: {name} is infinite")


def rows(scorer: str, version: str, scores: Mapping[str, Judged], judged: Sequence[tuple[Found, int]]) -> list[Row]:
    """judged: span and sequence of each value. NaN makes no row."""
    made = []
    for name, column in scores.items():
        for place in np.flatnonzero(~np.isnan(column.values)).tolist():
            found, sequence = judged[place]
            made.append(Row(scorer, found, sequence, name, version, float(column.values[place]),
                            column.labels[place][:WORDS_MAX // 10] if column.labels is not None else "",
                            column.explanations[place][:WORDS_MAX] if column.explanations is not None else ""))
    return made


def judge(told: Mapping[Place, Sequence[Said]], batch: Sequence[Found], scorers: Sequence[TextScorer],
          givers: dict[str, str]) -> tuple[list[Row], dict[str, Exception], int]:
    """(scores of these spans, scorers that failed on any of them, sequences judged). One call of a scorer sees one tenant's texts.

    givers: score name -> the scorer that gives it, learnt here: a name belongs to the first.
    """
    tenants: dict[str, list[tuple[Found, Said]]] = {}
    for found in batch:
        tenants.setdefault(found.place.tenant, []).extend((found, said) for said in told.get(found.place, ()))
    made: list[Row] = []
    failed: dict[str, Exception] = {}
    for given in filter(None, tenants.values()):
        texts = Texts(*([getattr(said, column) for _, said in given] for column in Texts.__slots__))
        judged = [(found, said.sequence) for found, said in given]
        for scorer in scorers:
            try:
                scores = scorer.score(texts)
                check(scores, len(texts))
                double = next((name for name in scores if givers.setdefault(name, scorer.name) != scorer.name), None)
                if double is not None:
                    raise ValueError(f"score names are unique, {double} is given by {givers[double]} too: rename it")
            except Exception as error:
                failed[scorer.name] = error
                continue
            made += rows(scorer.name, scorer.version, scores, judged)
    count = sum(len(given) for given in tenants.values())
    return [row for row in made if row.scorer not in failed], failed, count


def block(given: Sequence[Row], now_ms: int) -> Block:
    """A gen_ai_scores block with every column of columns.SCORES in order. now_ms: the rows' Version."""
    count = len(given)
    places = [row.found.place for row in given]
    made: dict[str, Column] = {
        "Timestamp": np.array([place.timestamp_ns for place in places], np.int64),
        "TenantId": _texts([place.tenant for place in places]),
        "ServiceName": _texts([place.service for place in places]),
        "GenAiModel": _texts([row.found.model for row in given]),
        "TraceId": _texts([place.trace_id for place in places]),
        "SpanId": _texts([place.span_id for place in places]),
        "SeqIndex": np.array([row.sequence for row in given], np.uint16),
        "IngestedAt": np.array([row.found.ingested_ms for row in given], np.int64),
        "ScoreName": Strings.of([row.name for row in given]),
        "ScorerVersion": Strings.of([row.version for row in given]),
        "Source": Strings.repeat(SOURCE, count),
        "Value": np.array([row.value for row in given], np.float64),
        "Label": Strings.of([row.label for row in given]),
        "Explanation": Strings.of([row.explanation for row in given]),
        "Version": np.full(count, now_ms, np.uint64),
        "IsDeleted": np.zeros(count, np.uint8),
    }
    block = Block(SCORES.name, count, {column.name: made[column.name] for column in SCORES.columns})
    block.check()
    return block


def token(given: Sequence[Row]) -> str:
    """Stands for these scores and nothing else: the same ones again are one insert."""
    said = json.dumps([[row.found.place, row.sequence, row.name, row.version] for row in given])
    return f"judging:{hashlib.sha256(said.encode()).hexdigest()}"


def _texts(given: Sequence[str]) -> Strings:
    return Strings.of([bytes.fromhex(text) for text in given])
