"""How long each answer is and why it ended, and how many tokens were asked: counts from ids, masks and the loop's own flags.

Not signals: everything here is known without looking at a probability.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutaway.record.beams import filled
from cutaway.steps import Prepared


def generated_ids(sequences: Any, asked: Prepared) -> NDArray[np.int64]:
    """Returned ids without the prompt, int64 [sequence, step] on the host; no step where nothing was returned."""
    if sequences is None or getattr(sequences, "ndim", 0) != 2:
        return np.zeros((asked.rows * max(1, asked.choices), 0), dtype=np.int64)
    host: NDArray[np.int64] = sequences[:, asked.prompt_length:].detach().cpu().numpy().astype(np.int64)
    return host


def lengths_and_reasons(
    generated: NDArray[np.int64], asked: Prepared, stops: NDArray[np.bool_] | None, matched: NDArray[np.bool_] | None,
    traced: list[int] | None, failed: bool, late: bool,
) -> tuple[list[int], list[str]]:
    """Generated tokens of each sequence, and why it ended: `stop`, `length` or `error`.

    stops: bool [sequence, step], where a criterion ended a sequence, None when unknown; matched: which sequences end in a stop
    string; traced: lengths of beams that are known exactly; late: the time limit had passed at the last step.
    """
    steps = generated.shape[1]
    ended = np.isin(generated, _end_ids(asked))
    hit_at = ended if asked.beams > 1 or stops is None else stops
    limits = [steps] * generated.shape[0] if asked.beams == 1 else filled(generated, asked)
    full = steps == 0 or (asked.max_length is not None and asked.prompt_length + steps >= asked.max_length)
    lengths, reasons = [], []
    for i in range(generated.shape[0]):
        hits = np.flatnonzero(hit_at[i])
        length = traced[i] if traced is not None else int(hits[0]) + 1 if hits.size else limits[i]
        at_end = length > 0 and bool(ended[i, length - 1])
        if failed and not at_end and not (hits.size and length < steps):
            reason = "error"
        elif at_end or (matched is not None and bool(matched[i])):
            reason = "stop"
        else:
            reason = "length" if (full and length == steps) or (late and length == steps) else "stop"
        lengths.append(length)
        reasons.append(reason)
    return lengths, reasons


def _end_ids(asked: Prepared) -> NDArray[np.int64]:
    if asked.end_ids is None:
        return np.zeros(0, dtype=np.int64)
    found: NDArray[np.int64] = asked.end_ids.detach().cpu().numpy().reshape(-1)
    return found


def input_tokens(asked: Prepared, sequences: int) -> list[int]:
    """Prompt tokens of each sequence, padding excluded."""
    if asked.input_mask is None:
        return [asked.input_length] * sequences
    sums = asked.input_mask[:, -asked.input_length:].sum(-1).cpu().tolist()
    rows = [int(value) for value in sums]
    if len(rows) != sequences and rows:
        group = max(1, len(rows) // max(1, asked.rows))
        first_of_row = rows[::group]
        rows = [value for value in first_of_row for _ in range(max(1, sequences // max(1, len(first_of_row))))]
    return rows


def followed(values: NDArray[Any], rows: NDArray[np.int64], lengths: list[int]) -> NDArray[Any]:
    """[row, step, ...] -> values of each sequence along the rows it went through, one sequence after another."""
    return np.concatenate([values[rows[i, :length], np.arange(length)] for i, length in enumerate(lengths)])


def joined(values: NDArray[Any], lengths: list[int]) -> NDArray[Any]:
    """[sequence, step] -> the first `lengths[i]` of each row, one after another."""
    return np.concatenate([values[i, :length] for i, length in enumerate(lengths)]) if lengths else values.reshape(-1)[:0]
