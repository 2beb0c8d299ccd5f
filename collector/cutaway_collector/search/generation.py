"""One generation: its span, token series, attention, sources, steps and scores.

Not a drawing: colours and thresholds are the page's. Series come back as stored, in nats and seconds; what is not a finite number
comes back as None.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cutaway import conventions as c
from cutaway_collector.columns import TOKENS
from cutaway_collector.contracts import Store
from cutaway_collector.errors import QueryError
from cutaway_collector.search import rows, scores, series
from cutaway_collector.search.cuts import WHOLE, Cut
from cutaway_collector.search.series import Heads
from cutaway_collector.search.sql import Parameters
from cutaway_collector.search.together import both

SEQUENCES_MAX: Final = 256
SCORES_MAX: Final = 5000
ATTENTION_VALUES_MAX: Final = 4_000_000
"""Attention values in one answer; beyond it a sequence has none and `attention.reason` says so."""

_SPAN_ID: Final = re.compile(r"[0-9a-f]{16}")
_SPAN_KEYS: Final = (*rows.IDENTITY, *rows.SUMMARY, *rows.ATTRIBUTES)
_SEQUENCE_KEYS: Final[tuple[tuple[str, str], ...]] = (
    ("index", "SeqIndex"), ("input_tokens", "InputTokens"), ("output_tokens", "OutputTokens"), ("token_ids", "TokenIds"),
    ("tokens", "TokenTexts"), *series.SIGNALS, *series.STEPS, ("prompt_sequence", "PromptSequence"),
    ("layers", "AttentionLayers"), ("heads", "AttentionHeads"), ("cross_layers", "CrossAttentionLayers"),
    ("cross_heads", "CrossAttentionHeads"), ("recorded", series.RECORDED), ("by_head", series.BY_HEAD),
)
_PLACES: Final = tuple(enumerate(series.ATTENTION))


def generation(
    store: Store, span_id: str, *, heads: Heads = None, attention: str = "", details: bool = True, cut: Cut = WHOLE
) -> dict[str, Any] | None:
    """The generation of a span, as /gen/<span_id>.json answers it; None when no span has that id.

    heads: None for the mean over heads ([token][layer]), a number for that head ([token][layer]), "all" for every head
    ([token][layer][head]). attention: one kind of series.ATTENTION, "none", or "" for all kinds. details: whether alternatives,
    prompt and sources are read. cut: which tokens of each sequence; a prompt stays whole. A span without series has `sequences` [].
    Raises QueryError for a head or kind that is not there, StoreError.
    """
    kinds = _kinds(attention)
    span = look_up(store, span_id)
    if span is None:
        return None
    found, judged = both(lambda: _sequences(store, span, kinds, heads, details, cut), lambda: judgements(store, span))
    layers = max((int(row["layers"]) for row in found), default=0)
    head_count = max((int(row["heads"]) for row in found), default=0)
    if isinstance(heads, int) and found and head_count and not 0 <= heads < head_count:
        raise QueryError(f"this model has attention heads 0 to {head_count - 1}, heads is {heads}", hint="try heads=0 or heads=all")
    attributes: Mapping[str, str] = span["attributes"]
    reason = attributes.get(c.STATUS_REASON, "")
    if heads is not None and layers and not head_count:
        reason = "attention entropy of single heads was not recorded; the mean over heads is there"
    budget = _Budget()
    steps = next((curves for row in found if (curves := series.steps(row))), None)
    spoken = [row for row in found if int(row["output_tokens"]) or not series.steps(row)]
    texts = _texts(store, span, cut, spoken) if details else {}
    sequences = []
    for row in spoken:
        answer = _sequence(row, attributes)
        cubes = {kind: budget.spend(series.attention(row, kind, heads)) for kind in kinds}
        answer["attention_entropy"] = series.nested(cubes["entropy"]) if "entropy" in cubes else []
        others = [kind for kind in series.ATTENTION if kind != "entropy"]
        answer["attention"] = {kind: series.nested(cubes[kind]) if kind in cubes else [] for kind in others}
        if details:
            answer |= _details(row, found, texts, series.whole(attributes.get(c.SOURCE_LAYERS, "")), cut)
        sequences.append(answer)
    named = series.whole(attributes.get(c.ATTENTION_LAYERS, ""))
    span |= {
        "sequences": sequences,
        "attention": {
            "layers": layers, "heads": head_count, "status": attributes.get(c.ATTENTION_STATUS), "reason": budget.reason or reason,
        },
        "attention_series": {
            "recorded": [kind for kind in series.ATTENTION if any(kind in row["recorded"] for row in found)],
            "heads": {kind: max((int(row["by_head"][place]) for row in found), default=0) for place, kind in _PLACES},
            "layers": named if len(named) == layers else list(range(layers)),
        },
        "diffusion": steps,
        "scores": judged,
    }
    return span


def _kinds(attention: str) -> tuple[str, ...]:
    if attention and attention != "none" and attention not in series.ATTENTION:
        known = ", ".join(series.ATTENTION)
        raise QueryError(f"attention is one of {known} or none, it is {attention[:20]!r}", hint="leave it out for all")
    return tuple(series.ATTENTION) if not attention else () if attention == "none" else (attention,)


class _Budget:
    """How many attention values one answer may still hold, and the words for having held some back."""

    def __init__(self) -> None:
        self.left = ATTENTION_VALUES_MAX
        self.reason = ""

    def spend(self, values: Any) -> Any:
        """The values, or none of them where they are too many."""
        if values.size > self.left:
            self.reason = f"more than {ATTENTION_VALUES_MAX} attention values: ask for one kind, the mean over heads or one head"
            return values[:0]
        self.left -= values.size
        return values


def look_up(store: Store, span_id: str) -> dict[str, Any] | None:
    """The span of that id, without its series; None when there is none. Raises StoreError."""
    wanted = span_id.strip().lower()
    if not _SPAN_ID.fullmatch(wanted):
        return None
    parameters = Parameters()
    where = f"SpanId = {parameters.text(wanted)}"
    # The table of tokens is smaller by far: where it has the span, it tells when that was, and one day is read instead of all.
    known = store.query(f"SELECT toUnixTimestamp64Nano(max(Timestamp)) FROM {rows.table(store, TOKENS.name)} WHERE {where}",
                        parameters.values).rows
    if known and known[0][0]:
        where += f" AND Timestamp = fromUnixTimestamp64Nano({parameters.bind(int(known[0][0]), 'Int64')})"
    text = f"SELECT {rows.select(_SPAN_KEYS)} FROM {rows.table(store)} WHERE {where} ORDER BY Timestamp DESC LIMIT 1"
    found = store.query(text, parameters.values).rows
    return rows.whole(rows.as_dict([key for key, _ in _SPAN_KEYS], found[0])) if found else None


def judgements(store: Store, span: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The scores of a span that was looked up. Raises StoreError."""
    return scores.scores(store, span["trace_id"], span_ids=(span["span_id"],), start_ns=span["start_ns"], limit=SCORES_MAX)


def read(
    store: Store, span: Mapping[str, Any], columns: Sequence[tuple[str, str]], parameters: Parameters, index: int | None = None
) -> list[dict[str, Any]]:
    """These (key, SQL) columns of the sequences of a span, by index, or of the one of that index. Raises StoreError."""
    start = parameters.bind(span["start_ns"], "Int64")  # prunes partitions
    only = "" if index is None else f"AND SeqIndex = {parameters.bind(index, 'Int64')} "
    text = (
        f"SELECT {rows.select(columns)} FROM {rows.table(store, TOKENS.name)} "
        f"WHERE Timestamp = fromUnixTimestamp64Nano({start}) AND SpanId = {parameters.text(span['span_id'])} "
        f"AND TraceId = {parameters.text(span['trace_id'])} {only}"
        f"ORDER BY SeqIndex ASC LIMIT 1 BY SeqIndex LIMIT {parameters.bind(SEQUENCES_MAX, 'UInt64')}"
    )
    keys = [key for key, _ in columns]
    return [dict(zip(keys, row, strict=True)) for row in store.query(text, parameters.values).rows]


def _sequences(
    store: Store, span: Mapping[str, Any], kinds: Sequence[str], heads: Heads, details: bool, cut: Cut
) -> list[dict[str, Any]]:
    parameters = Parameters()
    maps = series.attention_columns(kinds, heads, parameters, cut)
    plain = cut.columns((*_SEQUENCE_KEYS, *(series.DETAILS if details else ())), parameters)
    return read(store, span, (*plain, *maps), parameters)


def _sequence(row: Mapping[str, Any], attributes: Mapping[str, str]) -> dict[str, Any]:
    answer: dict[str, Any] = {key: int(row[key]) for key in ("index", "input_tokens", "output_tokens")}
    answer["token_ids"] = [int(value) for value in row["token_ids"]]
    if len(row["tokens"]):
        answer["tokens"] = list(row["tokens"])
    answer["signals"] = {key: series.finite(row[key]) for key, _ in series.SIGNALS}
    answer["scores"] = series.sequence_scores(attributes, answer["index"])
    return answer


def _texts(store: Store, span: Mapping[str, Any], cut: Cut, found: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """What token ids spell, where a choice is to be named: as far as this call generated them itself, text and ids captured."""
    asked = {int(row["index"]) for row in found if int(row["alternative_count"])}
    if asked and not cut.whole:
        columns = (("index", "SeqIndex"), ("token_ids", "TokenIds"), ("tokens", "TokenTexts"))
        found = read(store, span, columns, Parameters())
    known: dict[int, str] = {}
    for row in found:
        if int(row["index"]) in asked and len(row["tokens"]) == len(row["token_ids"]):
            known.update(zip((int(number) for number in row["token_ids"]), row["tokens"], strict=True))
    return known


def _details(
    row: Mapping[str, Any], found: Sequence[Mapping[str, Any]], texts: Mapping[int, str], source_layers: Sequence[int], cut: Cut
) -> dict[str, Any]:
    holder = next((other for other in found if int(other["index"]) == int(row["prompt_sequence"])), row)
    return {
        "alternatives": series.alternatives(row, texts, cut),
        "prompt": {"token_ids": series.finite(holder["prompt_ids"]), "surprisal": series.finite(holder["prompt_surprisals"])},
        "sources": series.sources(row, source_layers, cut),
    }
