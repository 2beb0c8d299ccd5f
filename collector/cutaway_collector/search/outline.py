"""What a generation has, without its numbers; and then those of them that a page asks for, as arrays, in windows.

Not the JSON twin, which is generation.py's: a page of a hundred thousand tokens reads the few series it shows and no others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cutaway import conventions as c
from cutaway_collector.contracts import Store
from cutaway_collector.errors import QueryError
from cutaway_collector.search import series
from cutaway_collector.search.cuts import WHOLE, Cut
from cutaway_collector.search.generation import judgements, look_up, read
from cutaway_collector.search.parameters import Parameters
from cutaway_collector.search.series import Heads
from cutaway_collector.search.together import both

VALUES_MAX: Final = 4_000_000
"""Attention values in one answer of `attention`."""
Floats = npt.NDArray[np.float32]

_LENGTHS: Final = ", ".join(f"length({column})" for _, column in series.SIGNALS)
_MAPS: Final = ", ".join(
    f"[length({one.mean}), length({one.every}), {one.layers}, {one.heads}]" for one in series.ATTENTION.values())
_COLUMNS: Final[tuple[tuple[str, str], ...]] = (
    ("index", "SeqIndex"), ("input_tokens", "InputTokens"), ("output_tokens", "OutputTokens"), ("ids", "length(TokenIds)"),
    ("texts", "length(TokenTexts)"), ("signals", f"[{_LENGTHS}]"), ("maps", f"[{_MAPS}]"), ("model_layers", "AttentionModelLayers"),
    ("alternatives", "AlternativeCount"), ("sources", "SourceCount"), ("prompt", "length(PromptSurprisals)"),
    ("prompt_sequence", "PromptSequence"), *series.STEPS,
)
_SIGNALS: Final = dict(series.SIGNALS)
_ENDS: Final = "quantilesExact(0.02, 0.98)"


def outline(store: Store, span_id: str) -> dict[str, Any] | None:
    """The span of that id with `sequences`, `diffusion`, `named_layers` and `scores`; None when there is none.

    A sequence has "index", "input_tokens", "tokens" (how many), "ids" and "texts" (how many were captured), "signals" (those it
    has, with their lengths), "layers" and "heads" (of each kind of attention it has; heads 0 where only their mean was
    recorded), "model_layers" (0: not known), "alternatives" and "sources" (how many a token), "prompt" (tokens with a
    surprisal), "prompt_sequence" and "scores". Raises StoreError.
    """
    span = look_up(store, span_id)
    if span is None:
        return None
    found, judged = both(lambda: read(store, span, _COLUMNS, Parameters()), lambda: judgements(store, span))
    attributes: Mapping[str, str] = span["attributes"]
    steps = next((curves for row in found if (curves := series.steps(row))), None)
    sequences = [_sequence(row, attributes) for row in found]
    return span | {
        "sequences": [one for one in sequences if one["tokens"] or steps is None],
        "diffusion": steps,
        "named_layers": series.whole(attributes.get(c.ATTENTION_LAYERS, "")),
        "scores": judged,
    }


def _sequence(row: Mapping[str, Any], attributes: Mapping[str, str]) -> dict[str, Any]:
    layers, heads, lengths = {}, {}, [int(row["output_tokens"]), int(row["ids"]), int(row["texts"]), *map(int, row["signals"])]
    for kind, (mean, every, layer_count, head_count) in zip(series.ATTENTION, row["maps"], strict=True):
        by_head = bool(every and layer_count and head_count and every % (layer_count * head_count) == 0)
        if by_head or (mean and layer_count and mean % layer_count == 0):
            layers[kind], heads[kind] = int(layer_count), int(head_count) if by_head else 0
            lengths.append(int(every) // int(layer_count * head_count) if by_head else int(mean) // int(layer_count))
    signals = {key: int(length) for key, length in zip(_SIGNALS, row["signals"], strict=True) if length}
    numbers = ("index", "input_tokens", "ids", "texts", "model_layers", "alternatives", "sources", "prompt", "prompt_sequence")
    return {
        **{key: int(row[key]) for key in numbers}, "tokens": max(lengths), "signals": signals, "layers": layers, "heads": heads,
        "scores": series.sequence_scores(attributes, int(row["index"])),
    }


def signals(store: Store, span: Mapping[str, Any], index: int, keys: Sequence[str], cut: Cut = WHOLE) -> dict[str, Floats]:
    """Series of series.SIGNALS of the sequence `index`, as stored; only those it has. Raises StoreError."""
    parameters = Parameters()
    row = _row(store, span, index, cut.columns([(key, _SIGNALS[key]) for key in keys], parameters), parameters)
    return {key: np.asarray(row[key], np.float32) for key in keys if row and len(row[key])}


def words(store: Store, span: Mapping[str, Any], index: int, cut: Cut = WHOLE) -> tuple[list[int], list[str]]:
    """Token ids and pieces of text of the sequence `index`; each [] where it was not captured. Raises StoreError."""
    parameters = Parameters()
    row = _row(store, span, index, cut.columns((("ids", "TokenIds"), ("texts", "TokenTexts")), parameters), parameters)
    return ([int(number) for number in row["ids"]], [str(text) for text in row["texts"]]) if row else ([], [])


def choices(
    store: Store, span: Mapping[str, Any], index: int, count: int, cut: Cut
) -> tuple[list[int], Floats]:
    """Ids and surprisals of the `count` most likely tokens of each token, flat, best first; each empty where not captured."""
    parameters = Parameters()
    wanted = (("ids", "AlternativeIds"), ("surprisals", "AlternativeSurprisals"))
    row = _row(store, span, index, cut.columns(wanted, parameters), parameters) if count else None
    if row is None:
        return [], np.empty(0, np.float32)
    return [int(number) for number in row["ids"]], np.asarray(row["surprisals"], np.float32)


def prompt(store: Store, span: Mapping[str, Any], index: int) -> Floats:
    """Surprisal of each prompt token, nats, held by the sequence `index`; NaN for the first. Raises StoreError."""
    row = _row(store, span, index, (("surprisal", "PromptSurprisals"),), Parameters())
    return np.asarray(row["surprisal"] if row else (), np.float32)


def attention(
    store: Store, span: Mapping[str, Any], sequence: Mapping[str, Any], kind: str, heads: Heads, cut: Cut = WHOLE
) -> Floats:
    """[token, layer], of the mean over heads or of one head, or [token, layer, head] for heads "all"; empty where not recorded.

    sequence: of an outline. Raises QueryError for a head that is not there or too many values at once, StoreError.
    """
    layers, head_count = sequence["layers"].get(kind, 0), sequence["heads"].get(kind, 0)
    if not layers or (heads is not None and not head_count):
        return np.empty((0, layers), np.float32)
    if isinstance(heads, int) and not 0 <= heads < head_count:
        raise QueryError(f"this model has attention heads 0 to {head_count - 1}, heads is {heads}", hint="try heads=0")
    values = cut.size(sequence["tokens"]) * layers * (head_count if heads == "all" else 1)
    if values > VALUES_MAX:
        raise QueryError(f"at most {VALUES_MAX} attention values come at once, these are {values}", hint="ask for fewer tokens")
    parameters = Parameters()
    one = series.ATTENTION[kind]
    column = cut.sql(one.mean if heads is None else one.every, parameters)
    if isinstance(heads, int):
        # Only this head's values leave the store; indices count from 1.
        wanted, of = parameters.bind(heads, "Int64"), parameters.bind(head_count, "Int64")
        column = f"arrayFilter((value, at) -> (at - 1) % {of} = {wanted}, {column}, arrayEnumerate({column}))"
    columns = [("cells", column)]
    if heads is None and head_count:  # a sender may have recorded single heads and no mean
        columns.append(("every", f"if(empty({one.mean}), {cut.sql(one.every, parameters)}, [])"))
    row = _row(store, span, sequence["index"], columns, parameters) or {"cells": ()}
    cells = np.asarray(row["cells"], np.float32)
    if not cells.size and len(row.get("every", ())):
        mean: Floats = np.asarray(row["every"], np.float32).reshape(-1, layers, head_count).mean(axis=2)
        return mean
    return cells.reshape((-1, layers, head_count) if heads == "all" else (-1, layers))


def ends(store: Store, span: Mapping[str, Any], sequence: Mapping[str, Any], kind: str, heads: Heads) -> tuple[float, float]:
    """The 2nd and the 98th percentile of a map's finite values over the whole sequence: where its colours begin and end.

    NaN twice where there is no such map. heads as `attention` takes them. Raises StoreError.
    """
    if not sequence["layers"].get(kind) or (heads is not None and not sequence["heads"].get(kind)):
        return float("nan"), float("nan")
    parameters = Parameters()
    one = series.ATTENTION[kind]
    column = f"if(empty({one.mean}), {one.every}, {one.mean})" if heads is None else one.every
    if isinstance(heads, int):
        wanted, of = parameters.bind(heads, "Int64"), parameters.bind(sequence["heads"][kind], "Int64")
        column = f"arrayFilter((value, at) -> (at - 1) % {of} = {wanted}, {column}, arrayEnumerate({column}))"
    # Of none at all the engine makes zeros.
    kept = f"arrayFilter(value -> isFinite(value), {column})"
    finite = f"if(notEmpty({kept}), arrayReduce('{_ENDS}', {kept}), [])"
    row = _row(store, span, sequence["index"], (("ends", finite),), parameters)
    low, high = (float(value) for value in row["ends"]) if row and len(row["ends"]) == 2 else (float("nan"), float("nan"))
    return low, high


def _row(
    store: Store, span: Mapping[str, Any], index: int, columns: Sequence[tuple[str, str]], parameters: Parameters
) -> dict[str, Any] | None:
    found = read(store, span, (("at", "SeqIndex"), *columns), parameters, index=index) if columns else []
    return found[0] if found else None
