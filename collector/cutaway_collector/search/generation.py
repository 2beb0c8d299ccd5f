"""One generation: its span, token series, attention entropies and scores.

Not a drawing: colours and thresholds are the page's. Series come back as stored, in nats and seconds; what is not a finite number
comes back as None.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from cutaway import conventions as c
from cutaway_collector.columns import SCORES, TOKENS
from cutaway_collector.contracts import Store
from cutaway_collector.errors import QueryError
from cutaway_collector.search import rows
from cutaway_collector.search.sql import Parameters

SEQUENCES_MAX: Final = 256
SCORES_MAX: Final = 5000
ATTENTION_VALUES_MAX: Final = 4_000_000
"""Attention entropies in one answer; beyond it a sequence has none and `attention.reason` says so."""
ATTENTION_DECIMALS: Final = 6
"""Attention entropies are rounded to a millionth of a nat, a tenth of their error, which halves the size of the JSON."""

_SPAN_ID: Final = re.compile(r"[0-9a-f]{16}")
_SPAN_KEYS: Final = (*rows.IDENTITY, *rows.SUMMARY, ("attributes", "SpanAttributes"))
_SIGNALS: Final[tuple[tuple[str, str], ...]] = (
    ("surprisal", "Surprisals"), ("entropy", "Entropies"), ("margin", "Margins"), ("rank", "Ranks"),
    ("inter_token_s", "InterTokenS"),
)
_SEQUENCE_KEYS: Final[tuple[tuple[str, str], ...]] = (
    ("index", "SeqIndex"), ("input_tokens", "InputTokens"), ("output_tokens", "OutputTokens"), ("token_ids", "TokenIds"),
    ("tokens", "TokenTexts"), *_SIGNALS, ("layers", "AttentionLayers"), ("heads", "AttentionHeads"),
    ("attention", "AttentionEntropies"),
)
_SCORE_KEYS: Final[tuple[tuple[str, str], ...]] = (
    ("span_id", "SpanId"), ("sequence", "SeqIndex"), ("name", "ScoreName"), ("value", "Value"), ("label", "Label"),
    ("scorer_version", "ScorerVersion"), ("source", "Source"), ("explanation", "Explanation"),
)

Heads = Literal["all"] | int | None


def generation(store: Store, span_id: str, *, heads: Heads = None) -> dict[str, Any] | None:
    """The generation of a span, as /gen/<span_id>.json answers it; None when no span has that id.

    heads: None for the mean over heads ([token][layer]), a number for that head ([token][layer]), "all" for every head
    ([token][layer][head]). A span without series has `sequences` []. Raises QueryError for a head that is not there, StoreError.
    """
    wanted = span_id.strip().lower()
    if not _SPAN_ID.fullmatch(wanted):
        return None
    span = _span(store, wanted)
    if span is None:
        return None
    found = _sequences(store, span, heads is not None)
    layers = max((int(row["layers"]) for row in found), default=0)
    head_count = max((int(row["heads"]) for row in found), default=0)
    if isinstance(heads, int) and found and head_count and not 0 <= heads < head_count:
        raise QueryError(f"this model has attention heads 0 to {head_count - 1}, heads is {heads}", hint="try heads=0 or heads=all")
    attributes: Mapping[str, str] = span["attributes"]
    reason = attributes.get(c.STATUS_REASON, "")
    if heads is not None and found and not head_count:
        reason = "attention entropy of single heads was not recorded; the mean over heads is there"
    budget = ATTENTION_VALUES_MAX
    sequences: list[dict[str, Any]] = []
    for row in found:
        values = _attention(row, heads)
        if values.size > budget:
            values = values[:0]
            reason = f"more than {ATTENTION_VALUES_MAX} attention entropies: ask for the mean over heads or one head"
        budget -= values.size
        sequences.append(_sequence(row, values))
    span |= {
        "sequences": sequences,
        "attention": {"layers": layers, "heads": head_count, "status": attributes.get(c.ATTENTION_STATUS), "reason": reason},
        "scores": _scores(store, span),
    }
    return span


def _span(store: Store, span_id: str) -> dict[str, Any] | None:
    parameters = Parameters()
    text = (
        f"SELECT {rows.select(_SPAN_KEYS)} FROM {rows.table(store)} WHERE SpanId = {parameters.text(span_id)} "
        "ORDER BY Timestamp DESC LIMIT 1"
    )
    found = store.query(text, parameters.values).rows
    return rows.as_dict([key for key, _ in _SPAN_KEYS], found[0]) if found else None


def _same_span(span: Mapping[str, Any], parameters: Parameters) -> str:
    """SQL condition: rows of this span. Its start, the same in every table, prunes partitions."""
    start = parameters.bind(span["start_ns"], "Int64")
    return (
        f"Timestamp = fromUnixTimestamp64Nano({start}) AND SpanId = {parameters.text(span['span_id'])} "
        f"AND TraceId = {parameters.text(span['trace_id'])}"
    )


def _sequences(store: Store, span: Mapping[str, Any], with_heads: bool) -> list[dict[str, Any]]:
    parameters = Parameters()
    # Per-head values are read only when asked for, or when there is no mean to show instead.
    wanted = "1" if with_heads else "empty(AttentionEntropies)"
    columns = (*_SEQUENCE_KEYS, ("attention_heads", f"if({wanted}, AttentionEntropyHeads, [])"))
    text = (
        f"SELECT {rows.select(columns)} FROM {rows.table(store, TOKENS.name)} WHERE {_same_span(span, parameters)} "
        f"ORDER BY SeqIndex ASC LIMIT 1 BY SeqIndex LIMIT {parameters.bind(SEQUENCES_MAX, 'UInt64')}"
    )
    keys = [key for key, _ in columns]
    return [dict(zip(keys, row, strict=True)) for row in store.query(text, parameters.values).rows]


def _scores(store: Store, span: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The newest value of each score: ReplacingMergeTree's FINAL, then the newest version of the scorer."""
    parameters = Parameters()
    text = (
        f"SELECT {rows.select(_SCORE_KEYS)} FROM {rows.table(store, SCORES.name)} FINAL "
        f"WHERE {_same_span(span, parameters)} AND IsDeleted = 0 "
        "ORDER BY SeqIndex ASC, ScoreName ASC, Version DESC LIMIT 1 BY SeqIndex, ScoreName, Source "
        f"LIMIT {parameters.bind(SCORES_MAX, 'UInt64')}"
    )
    return [rows.as_dict([key for key, _ in _SCORE_KEYS], row) for row in store.query(text, parameters.values).rows]


def _attention(row: Mapping[str, Any], heads: Heads) -> npt.NDArray[np.float64]:
    """[token, layer] or, for every head, [token, layer, head]; no rows where the sequence has no such series."""
    layers, head_count = int(row["layers"]), int(row["heads"])
    mean, every = np.asarray(row["attention"], np.float64), np.asarray(row["attention_heads"], np.float64)
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


def _sequence(row: Mapping[str, Any], attention: npt.NDArray[np.float64]) -> dict[str, Any]:
    answer: dict[str, Any] = {key: int(row[key]) for key in ("index", "input_tokens", "output_tokens")}
    answer["token_ids"] = [int(value) for value in row["token_ids"]]
    if len(row["tokens"]):
        answer["tokens"] = list(row["tokens"])
    answer["signals"] = {key: _finite(row[key]) for key, _ in _SIGNALS}
    rounded = np.round(attention, ATTENTION_DECIMALS)
    answer["attention_entropy"] = rounded.tolist() if np.isfinite(rounded).all() else rows.json_safe(rounded.tolist())
    return answer


def _finite(values: Sequence[Any]) -> list[Any]:
    array = np.asarray(values)
    listed: list[Any] = array.tolist()
    return listed if array.dtype.kind != "f" or np.isfinite(array).all() else rows.json_safe(listed)
