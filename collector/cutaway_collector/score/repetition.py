"""Repetition: did the model go round in circles? seq-rep-4, the share of 4-grams of token ids that were there before.

    seq-rep-4 = 1 - unique 4-grams / 4-grams          (Welleck et al. 2019, arXiv 1908.04319, equation 9)

0 for a text that never repeats four tokens, towards 1 in a loop. Not a judgement of meaning: a paraphrase does not count.
A sequence of fewer than four ids has no 4-gram: NaN, "does not apply". The counts are exact (grams are compared, a hash only
finds the candidates), so CPU, CUDA and reference agree to the last bit of one float64 division.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import prange

from cutaway_collector.blocks import Block, Offsets
from cutaway_collector.score.device import THREADS, Device, cpu_helper, cpu_kernel, cuda, cuda_helper, cuda_kernel
from cutaway_collector.score.ragged import Floats, series

GRAM: Final = 4

_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)
_SHIFT: Final = np.uint64(32)
_SEED: Final = np.uint64(secrets.randbits(64))
"""Secret of the process: token ids come from strangers, who must not be able to choose ids that all fall into one slot."""


def reference(ids: npt.NDArray[Any], offsets: Offsets) -> Floats:
    """Token ids [total], offsets [n + 1] -> seq-rep-4 [n]. The readable one."""
    out = np.full(offsets.size - 1, np.nan)
    for row in range(out.size):
        sequence = ids[offsets[row] : offsets[row + 1]]
        if sequence.size >= GRAM:
            grams = np.lib.stride_tricks.sliding_window_view(sequence, GRAM)
            out[row] = 1.0 - len(np.unique(grams, axis=0)) / len(grams)
    return out


def _slot(ids: Any, first: int, seed: Any, mask: Any) -> Any:
    """Where in its table the gram ids[first:first + 4] is looked for first: a multiply and a fold a token."""
    state = seed
    for token in range(first, first + GRAM):
        state = (state ^ np.uint64(ids[token])) * _MULTIPLIER
        state = state ^ (state >> _SHIFT)
    return np.int64(state & mask)


def _same(ids: Any, a: int, b: int) -> bool:
    return bool(ids[a] == ids[b] and ids[a + 1] == ids[b + 1] and ids[a + 2] == ids[b + 2] and ids[a + 3] == ids[b + 3])


_slot_on_cpu, _same_on_cpu = cpu_helper(_slot), cpu_helper(_same)
_slot_on_cuda, _same_on_cuda = cuda_helper(_slot), cuda_helper(_same)


def _tables(offsets: Offsets) -> Offsets:
    """Start of each row's hash table: a power of two of slots, at most half of them full, so every search ends at an empty one."""
    grams = np.maximum(np.diff(offsets) - (GRAM - 1), 0)
    slots = np.where(grams > 0, 2 ** np.ceil(np.log2(np.maximum(2 * grams, 1))).astype(np.int64), 0)
    starts = np.zeros(offsets.size, np.int64)
    np.cumsum(slots, out=starts[1:])
    return starts


@cpu_kernel
def _cpu(ids: npt.NDArray[Any], offsets: Offsets, starts: Offsets, table: npt.NDArray[np.int32], seed: Any, out: Floats) -> None:
    for row in prange(out.size):
        start, base = offsets[row], starts[row]
        grams = offsets[row + 1] - start - (GRAM - 1)
        if grams <= 0:
            out[row] = math.nan
            continue
        mask = starts[row + 1] - base - 1
        unique = 0
        for gram in range(grams):
            slot = _slot_on_cpu(ids, start + gram, seed, np.uint64(mask))
            seen = table[base + slot]
            while seen >= 0 and not _same_on_cpu(ids, start + seen, start + gram):
                slot = (slot + 1) & mask
                seen = table[base + slot]
            if seen < 0:
                table[base + slot] = gram
                unique += 1
        out[row] = 1.0 - unique / grams


@cuda_kernel
def _cuda(ids: Any, offsets: Any, starts: Any, table: Any, seed: Any, unique: Any) -> None:
    row, thread = cuda.blockIdx.x, cuda.threadIdx.x
    start, base = offsets[row], starts[row]
    mask = starts[row + 1] - base - 1
    found = 0
    for gram in range(thread, offsets[row + 1] - start - (GRAM - 1), THREADS):
        slot = _slot_on_cuda(ids, start + gram, seed, np.uint64(mask))
        # Whoever finds the slot empty owns the gram: taking it is one atomic step, so equal grams are counted once in any order.
        seen = cuda.atomic.cas(table, base + slot, np.int32(-1), np.int32(gram))
        while seen >= 0 and not _same_on_cuda(ids, start + seen, start + gram):
            slot = (slot + 1) & mask
            seen = cuda.atomic.cas(table, base + slot, np.int32(-1), np.int32(gram))
        if seen < 0:
            found += 1
    cuda.atomic.add(unique, row, found)


def on_cpu(ids: npt.NDArray[Any], offsets: Offsets) -> Floats:
    """As `reference`, on all cores: a row a core. Takes at most 16 bytes of scratch a token."""
    starts = _tables(offsets)
    out = np.empty(offsets.size - 1)
    _cpu(ids, offsets, starts, np.full(int(starts[-1]), -1, np.int32), _SEED, out)
    return out


def on_cuda(ids: npt.NDArray[Any], offsets: Offsets) -> Floats:
    """As `reference`, on the GPU: a row a block, a gram a thread. Takes at most 16 bytes of scratch a token."""
    grams = np.diff(offsets) - (GRAM - 1)
    out = np.full(grams.size, np.nan)
    if not bool((grams > 0).any()):
        return out
    starts = _tables(offsets)
    unique = cuda.to_device(np.zeros(grams.size, np.int32))
    table = cuda.to_device(np.full(int(starts[-1]), -1, np.int32))
    _cuda[grams.size, THREADS](cuda.to_device(ids), cuda.to_device(offsets), cuda.to_device(starts), table, _SEED, unique)
    np.divide(unique.copy_to_host(), grams, out=out, where=grams > 0)
    return 1.0 - out


class Repetition:
    """Scorer of `seq_rep_4` (0 to 1), from the TokenIds of a gen_ai_tokens block."""

    name = "repetition"
    version = "1"
    columns = ("TokenIds",)

    def __init__(self, device: Device) -> None:
        self._device = device

    def score(self, tokens: Block) -> Mapping[str, Floats]:
        """tokens: n rows -> {"seq_rep_4": [n]}, NaN below four ids (also when the sender captures numbers only)."""
        ids, offsets = series(tokens, "TokenIds", np.uint32)
        return {"seq_rep_4": self._device.run(on_cpu, on_cuda, ids, offsets)}
