"""Ragged arrays, the kernels' only food: values of all sequences end to end, with offsets. Not a copy of the data.

Sequence i is `values[offsets[i]:offsets[i + 1]]`; offsets are int64 [n + 1] and never decrease.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cutaway_collector.blocks import Block, Lists, Offsets

Floats = npt.NDArray[np.float64]


def series(tokens: Block, name: str, dtype: npt.DTypeLike) -> tuple[npt.NDArray[Any], Offsets]:
    """One list column of a gen_ai_tokens block -> (values [total], offsets [rows + 1]), both read-only and contiguous.

    Raises ValueError when the block has no such list column, or when its offsets do not fit its values: a kernel checks no bounds.
    """
    column = tokens.columns.get(name)
    if not isinstance(column, Lists) or not isinstance(column.values, np.ndarray):
        raise ValueError(f"a scorer reads lists of numbers: {tokens.table}.{name} is {type(column).__name__}")
    offsets = read_only(column.offsets, np.int64)
    values = read_only(column.values, dtype)
    if offsets.size != tokens.rows + 1 or offsets[0] < 0 or offsets[-1] > values.size or bool(np.any(np.diff(offsets) < 0)):
        raise ValueError(f"offsets rise from 0 to the number of values: those of {tokens.table}.{name} do not fit its "
                         f"{tokens.rows} rows and {values.size} values")
    return values, offsets


def read_only(array: npt.NDArray[Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A contiguous read-only view of that dtype, copied only when it has to be."""
    # Arrays cut out of received bytes are read-only, others are not; numba compiles a kernel anew for each kind. One kind for all.
    view = np.ascontiguousarray(array, dtype).view()
    view.flags.writeable = False
    return view


def measured(values: npt.NDArray[Any], offsets: Offsets) -> tuple[npt.NDArray[Any], Offsets]:
    """Leaves out the tokens that were not measured (NaN or infinite), so that kernels that do not care for positions see none.

    An infinite surprisal is a token the raw logits forbid and a processor forced: it says nothing about the model's doubt.
    """
    keep = np.isfinite(values)
    if bool(keep.all()):
        return values, offsets
    before = np.zeros(values.size + 1, np.int64)
    np.cumsum(keep, out=before[1:])
    return read_only(values[keep], values.dtype), read_only(before[offsets], np.int64)


def powers_of_two(lengths: Offsets) -> Offsets:
    """Offsets of rooms that hold these many entries each, rounded up to a power of two; none for none."""
    sizes = np.where(lengths > 0, 2 ** np.ceil(np.log2(np.maximum(lengths, 1))).astype(np.int64), 0)
    starts = np.zeros(lengths.size + 1, np.int64)
    np.cumsum(sizes, out=starts[1:])
    return starts


def whole_numbers(tokens: Block, name: str) -> Offsets:
    """One plain column of a gen_ai_tokens block as int64 [rows]. Raises ValueError when the block has none."""
    column = tokens.columns.get(name)
    if not isinstance(column, np.ndarray) or column.size != tokens.rows:
        raise ValueError(f"a scorer reads numbers, one a row: {tokens.table}.{name} is {type(column).__name__}")
    return read_only(column, np.int64)


def shaped(offsets: Offsets, widths: Offsets) -> Offsets:
    """Entries a token of each row [n] as a kernel takes them: 0 for a row without values.

    Raises ValueError when a row's values are no whole number of tokens: a kernel checks no bounds.
    """
    lengths = np.diff(offsets)
    wrong = (lengths > 0) & ((widths <= 0) | (lengths % np.maximum(widths, 1) != 0))
    if bool(wrong.any()):
        row = int(np.argmax(wrong))
        raise ValueError(f"a token has the same number of entries everywhere: {lengths[row]} values in a row of {widths[row]}")
    return read_only(np.where(lengths > 0, widths, 0), np.int64)
