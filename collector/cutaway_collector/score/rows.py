"""Scores as rows: runs scorers over a block of token series and builds the gen_ai_scores block. Stores nothing.

One row a score that applies; who was scored is copied from the tokens' row, so a score is found without a join.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from cutaway_collector.blocks import Array, Block, Column, Lists, Nullable, Offsets, Strings, concat_columns
from cutaway_collector.columns import SCORES, TOKENS
from cutaway_collector.contracts import Scorer
from cutaway_collector.score.ragged import Floats

SOURCE: Final = "collector"

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
    applies = {name: np.flatnonzero(~np.isnan(values)) for name, (_, values) in answers.items()}
    # Most scores apply to the same sequences: those are gathered once, and what follows is copying whole columns.
    keys = [rows.tobytes() for rows in applies.values()] or [b""]
    patterns = dict(zip(keys, applies.values() or [np.zeros(0, np.int64)], strict=True))
    made: dict[str, Column] = {}
    for name in IDENTITY:
        column = tokens.columns[name]
        taken = {key: column if rows.size == tokens.rows else take(column, rows) for key, rows in patterns.items()}
        made[name] = concat_columns([taken[key] for key in keys if key or len(patterns) == 1])
    counts = [rows.size for rows in applies.values()]
    rows = sum(counts)
    made["ScoreName"] = _runs(answers, counts)
    made["ScorerVersion"] = _runs([version for version, _ in answers.values()], counts)
    made["Source"] = Strings.repeat(SOURCE, rows)
    made["Value"] = np.concatenate([*(values[applies[name]] for name, (_, values) in answers.items()), np.zeros(0)])
    made["Label"] = made["Explanation"] = Strings.repeat("", rows)
    made["Version"] = np.full(rows, now_ms, np.uint64)
    made["IsDeleted"] = np.zeros(rows, np.uint8)
    block = Block(SCORES.name, rows, {column.name: made[column.name] for column in SCORES.columns})
    block.check()
    return block


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
