"""Scores as rows: runs scorers over a block of token series and builds the gen_ai_scores block. Stores nothing.

One row a score that applies; who was scored is copied from the tokens' row, so a score is found without a join.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from cutaway_collector.blocks import Array, Block, Column, Lists, Nullable, Offsets, Strings, concat_columns
from cutaway_collector.columns import SCORES, TOKENS
from cutaway_collector.contracts import Scorer
from cutaway_collector.score.ragged import Floats

SOURCE: Final = "collector"
SERVICES_MAX: Final = 16
_HOUR_NS: Final = 3_600_000_000_000

IDENTITY: Final[tuple[str, ...]] = tuple(
    column.name for column in SCORES.columns if column.name in {other.name for other in TOKENS.columns}
)
"""Columns that a score takes over from the sequence it judges."""


def score_block(
    tokens: Block, scorers: Iterable[Scorer], *, now_ms: int, on_failure: Callable[[str, Exception], None]
) -> Block:
    """tokens: a gen_ai_tokens block -> a gen_ai_scores block with every column of columns.SCORES in order, perhaps of no rows.

    now_ms: milliseconds since 1970, the rows' Version. NaN ("does not apply") makes no row. A scorer that raises, answers in the
    wrong shape, says infinity or takes a score name that an earlier one gave is reported as on_failure(scorer.name, exception) and
    left out; the others go on.
    """
    answers: dict[str, tuple[str, Floats]] = {}
    for scorer in scorers:
        try:
            scores = scorer.score(tokens)
            _check(scores, tokens.rows, answers)
        except Exception as error:
            on_failure(scorer.name, error)
            continue
        answers.update({name: (scorer.version, np.asarray(values, np.float64)) for name, values in scores.items()})
    return _block(tokens, answers, now_ms)


def _check(scores: Mapping[str, Floats], rows: int, taken: Mapping[str, object]) -> None:
    for name, values in scores.items():
        if name in taken:
            raise ValueError(f"score names are unique, {name} is given by another scorer: rename it")
        if np.shape(values) != (rows,):
            raise ValueError(f"a score has one value a row: {name} has shape {np.shape(values)} for {rows} rows")
        infinite = int(np.isinf(values).sum())
        if infinite:
            raise ValueError(f"a score is a finite number or NaN: {name} is infinite for {infinite} of {rows} rows")


def _block(tokens: Block, answers: Mapping[str, tuple[str, Floats]], now_ms: int) -> Block:
    order, bounds = _order(tokens)
    who = {name: take(tokens.columns[name], order) for name in IDENTITY}
    values = {name: scores[order] for name, (_, scores) in answers.items()}
    parts = [(name, start, stop, start + np.flatnonzero(~np.isnan(values[name][start:stop])))
             for start, stop in pairwise(bounds) for name in sorted(answers)]
    # Most scores apply to the same sequences: those are gathered once, and what follows is copying whole columns.
    keys = [(start, rows.tobytes()) for _, start, _, rows in parts]
    made: dict[str, Column] = {}
    for name, column in who.items():
        taken = {key: take(column, rows) if rows.size < stop - start else _cut(column, start, stop)
                 for key, (_, start, stop, rows) in zip(keys, parts, strict=True)}
        made[name] = concat_columns([take(column, order[:0]), *(taken[key] for key in keys)])
    counts = [rows.size for *_, rows in parts]
    rows = sum(counts)
    made["ScoreName"] = _runs([name for name, *_ in parts], counts)
    made["ScorerVersion"] = _runs([answers[name][0] for name, *_ in parts], counts)
    made["Source"] = Strings.repeat(SOURCE, rows)
    made["Value"] = np.concatenate([np.zeros(0), *(values[name][applies] for name, *_, applies in parts)])
    made["Label"] = made["Explanation"] = Strings.repeat("", rows)
    made["Version"] = np.full(rows, now_ms, np.uint64)
    made["IsDeleted"] = np.zeros(rows, np.uint8)
    block = Block(SCORES.name, rows, {column.name: made[column.name] for column in SCORES.columns})
    block.check()
    return block


def _order(tokens: Block) -> tuple[npt.NDArray[np.int64], list[int]]:
    """(sequences in the order of gen_ai_scores' key, where each tenant and service begins in it, and the end).

    The engine sorts what it is given, and finds out cheaply that it need not: sorting a sequence once beats sorting its scores. Ids
    of different lengths, and more services than SERVICES_MAX, are left to the engine.
    """
    columns = tokens.columns
    trace, span = _fixed(columns["TraceId"]), _fixed(columns["SpanId"])
    tenants, services = _ranks(columns["TenantId"]), _ranks(columns["ServiceName"])
    times, sequences = columns["Timestamp"], columns["SeqIndex"]
    assert isinstance(times, np.ndarray)
    assert isinstance(sequences, np.ndarray)
    owners = tenants * (services.max(initial=0) + 1) + services
    if trace is None or span is None or np.unique(owners).size > SERVICES_MAX:
        return np.arange(tokens.rows), [0, tokens.rows]
    order = np.lexsort((sequences, span, trace, times // _HOUR_NS, owners)).astype(np.int64)
    return order, [0, *(np.flatnonzero(np.diff(owners[order])) + 1).tolist(), tokens.rows]


def _fixed(column: Column) -> npt.NDArray[np.bytes_] | None:
    """Strings of one length as an array of bytes, None when their lengths differ."""
    assert isinstance(column, Strings)
    lengths = np.diff(column.offsets)
    width = int(lengths[0]) if lengths.size else 1
    if width == 0 or bool((lengths != width).any()):
        return None
    data = np.ascontiguousarray(column.data[column.offsets[0] : column.offsets[-1]])
    fixed: npt.NDArray[np.bytes_] = data.view(f"S{width}")
    return fixed


def _ranks(column: Column) -> npt.NDArray[np.int64]:
    """The place of each string among the different ones, sorted."""
    assert isinstance(column, Strings)
    fixed = _fixed(column)
    if not column.data.size or (fixed is not None and bool((fixed == fixed[:1]).all())):
        return np.zeros(len(column), np.int64)  # most batches are one tenant's, many one service's
    words = list(column)
    rank = {word: place for place, word in enumerate(sorted(set(words)))}
    return np.fromiter((rank[word] for word in words), np.int64, len(words))


def _cut(column: Column, start: int, stop: int) -> Column:
    """Rows start to stop of a plain column or of strings, without a copy."""
    if isinstance(column, Strings):
        return Strings(column.data, column.offsets[start : stop + 1])
    assert isinstance(column, np.ndarray)
    cut: Array = column[start:stop]
    return cut


def _runs(words: Iterable[str], counts: Sequence[int]) -> Strings:
    """Each word as many times as its count says."""
    runs = concat_columns([Strings.of([]), *(Strings.repeat(word, count) for word, count in zip(words, counts, strict=True))])
    assert isinstance(runs, Strings)
    return runs


def take(column: Column, rows: npt.NDArray[np.int64]) -> Column:
    """Rows of a column, in the order asked for. Raises TypeError for maps, which no column of gen_ai_tokens is."""
    if isinstance(column, np.ndarray):
        taken: Array = column[rows]
        return taken
    if isinstance(column, Strings):
        return take_strings(column, rows)
    if isinstance(column, Nullable):
        return Nullable(column.values[rows], column.missing[rows])
    if isinstance(column, Lists):
        index, offsets = _gather(column.offsets, rows)
        return Lists(offsets, take(column.values, index))
    raise TypeError(f"a column of sequences is not of maps: {type(column).__name__}")


def take_strings(strings: Strings, rows: npt.NDArray[np.int64]) -> Strings:
    """Strings by row number, gathered in one step: no Python object a string."""
    index, offsets = _gather(strings.offsets, rows)
    return Strings(strings.data[index], offsets)


def _gather(offsets: Offsets, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Offsets]:
    """Where the entries of these rows lie, end to end, and their new offsets."""
    starts = offsets[rows]
    lengths = offsets[rows + 1] - starts
    ends = np.zeros(rows.size + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    return np.arange(int(ends[-1])) + np.repeat(starts - ends[:-1], lengths), ends
