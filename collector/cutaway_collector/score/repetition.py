"""Did the model go round in circles? All that token ids say alone. Not a judgement of meaning: a paraphrase is no repeat.

    seq_rep_4                1 - unique 4-grams / 4-grams (Welleck et al. 2019, arXiv 1908.04319, equation 9): 0 for a text that
                             never repeats four tokens, towards 1 in a loop
    distinct_1, distinct_2   unique n-grams / n-grams (Li et al. 2016, arXiv 1510.03055, who divide by the words)
    loop_period              shortest period, up to 16 384 tokens, whose last three repetitions end the sequence, 0 without one (a
                             model that loops reinforces the loop: Xu et al. 2022, arXiv 2206.02369)

A sequence with fewer than n ids has no n-gram, one without ids no period: NaN, "does not apply". Everything is exact (grams are
compared, a hash only finds the candidates), so CPU, CUDA and reference agree to the last bit of one float64 division.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import float64, int32, prange

from cutaway_collector.blocks import Block, Offsets
from cutaway_collector.score.device import THREADS, Device, block_sum, cpu_helper, cpu_kernel, cuda, cuda_helper, cuda_kernel
from cutaway_collector.score.ragged import Floats, powers_of_two, series

NAMES: Final = ("distinct_1", "distinct_2", "seq_rep_4", "loop_period")
GRAMS: Final = (1, 2, 4)
SEQ_REP, LOOP_PERIOD = 2, 3
"""Rows of the result; the first rows are those of GRAMS."""
LOOP_REPETITIONS: Final = 3
"""Said twice is emphasis, said three times is a loop."""
LOOP_PERIOD_MAX: Final = 16_384
"""As in the SDK: a longer text said three times is found by `seq_rep_4`."""

_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)
_SHIFT: Final = np.uint64(32)
_SEED: Final = np.uint64(secrets.randbits(64))
"""Secret of the process: token ids come from strangers, who must not be able to choose ids that all fall into one slot."""


def reference(ids: npt.NDArray[Any], offsets: Offsets) -> Floats:
    """Token ids [total], offsets [n + 1] -> [4, n] in the order of NAMES. The readable one."""
    out = np.full((len(NAMES), offsets.size - 1), np.nan)
    for row in range(out.shape[1]):
        sequence = ids[offsets[row] : offsets[row + 1]]
        for index, gram in enumerate(GRAMS):
            if sequence.size >= gram:
                grams = np.lib.stride_tricks.sliding_window_view(sequence, gram)
                out[index, row] = len(np.unique(grams, axis=0)) / len(grams)
        longest = min(sequence.size // LOOP_REPETITIONS, LOOP_PERIOD_MAX)
        if sequence.size:
            loops = (r for r in range(1, longest + 1) if np.array_equal(sequence[-3 * r : -r], sequence[sequence.size - 2 * r :]))
            out[LOOP_PERIOD, row] = next(loops, 0)
    out[SEQ_REP] = 1.0 - out[SEQ_REP]
    return out


def _slot(key: Any, seed: Any, mask: Any) -> Any:
    """Where in its table a key is looked for first: multiply and fold."""
    state = (key ^ seed) * _MULTIPLIER
    return np.int64((state ^ (state >> _SHIFT)) & np.uint64(mask))


def _key(names: Any, at: int, gap: int) -> Any:
    """A gram of 2 * gap ids as the names of its two halves, exactly; without a gap the name itself."""
    return np.uint64(names[at]) << _SHIFT | np.uint64(names[at + gap]) if gap > 0 else np.uint64(names[at])


_slot_on_cpu, _key_on_cpu = cpu_helper(_slot), cpu_helper(_key)
_slot_on_cuda, _key_on_cuda = cuda_helper(_slot), cuda_helper(_key)


@cpu_helper
def _unique(names: Any, start: int, grams: int, gap: int, table: Any, seed: Any, firsts: Any) -> int:
    """How many different grams begin in names[start:start + grams], those of 2 * gap ids, or of one id without a gap.

    names: what the halves are called; firsts, as long: what the grams are called, by where the first like it begins. table: int32,
    a power of two of slots, at least twice as many as grams.
    """
    table[:] = -1
    mask = table.size - 1
    unique = 0
    for at in range(grams):
        key = _key_on_cpu(names, start + at, gap)
        slot = _slot_on_cpu(key, seed, mask)
        seen = table[slot]
        while seen >= 0 and _key_on_cpu(names, start + seen, gap) != key:
            slot = (slot + 1) & mask
            seen = table[slot]
        if seen < 0:
            table[slot] = at
            seen = at
            unique += 1
        firsts[start + at] = seen
    return unique


@cpu_helper
def _loop(ids: Any, start: int, stop: int, same: Any) -> int:
    """The shortest period, 0 without one. same: int32 scratch, an entry a third of the tokens.

    Read backwards, a sequence has period r over 3 r tokens when from r on it agrees with itself for 2 r tokens. How far it agrees
    from every r on, in linear time, is the Z function (Gusfield 1997).
    """
    tokens = min(stop - start, LOOP_REPETITIONS * LOOP_PERIOD_MAX)
    last, left, right = stop - 1, 0, 0
    for period in range(1, tokens // LOOP_REPETITIONS + 1):
        agree = min(right - period, same[period - left]) if period < right else 0
        while period + agree < tokens and ids[last - agree] == ids[last - period - agree]:
            agree += 1
        if agree >= 2 * period:
            return period
        if period + agree > right:
            left, right = period, period + agree
        same[period] = agree
    return 0


@cpu_helper
def _share(unique: int, grams: int) -> float:
    return unique / grams if grams > 0 else math.nan


@cpu_kernel
def _cpu(
    ids: npt.NDArray[Any], offsets: Offsets, rooms: Offsets, tables: npt.NDArray[np.int32], names: npt.NDArray[np.uint32],
    seed: Any, out: Floats,
) -> None:
    for row in prange(out.shape[1]):
        start, tokens = offsets[row], offsets[row + 1] - offsets[row]
        table = tables[rooms[row] : rooms[row + 1]]
        # Ids get names, pairs of names get names, pairs of those are the 4-grams: every comparison is one of two numbers.
        out[0, row] = _share(_unique(ids, start, tokens, 0, table, seed, names[0]), tokens)
        pairs = _unique(names[0], start, tokens - 1, 1, table, seed, names[1])
        out[1, row] = _share(pairs, tokens - 1)
        # Where no pair comes back, no four ids do.
        fours = _unique(names[1], start, tokens - 3, 2, table, seed, names[0]) if pairs < tokens - 1 else tokens - 3
        out[SEQ_REP, row] = 1.0 - _share(fours, tokens - 3)
        out[LOOP_PERIOD, row] = _loop(ids, start, start + tokens, table) if tokens > 0 else math.nan


@cuda_kernel
def _cuda(ids: Any, offsets: Any, rooms: Any, tables: Any, names: Any, seed: Any, out: Any) -> None:
    row, thread = cuda.blockIdx.x, cuda.threadIdx.x
    shared = cuda.shared.array(THREADS, float64)
    shortest = cuda.shared.array(1, int32)
    start, tokens = offsets[row], offsets[row + 1] - offsets[row]
    base, mask = rooms[row], rooms[row + 1] - rooms[row] - 1
    for at in range(start + thread, start + tokens, THREADS):
        names[0, at] = ids[at]
    for level in range(3):
        gap = level
        grams = tokens - 2 * gap + 1 if gap > 0 else tokens
        for slot in range(thread, mask + 1, THREADS):
            tables[base + slot] = -1
        cuda.syncthreads()
        found = 0.0
        for at in range(thread, grams, THREADS):
            key = _key_on_cuda(names[level], start + at, gap)
            slot = _slot_on_cuda(key, seed, mask)
            # Whoever finds the slot empty owns the gram and names it. Taking it is one atomic step: equal grams are counted once.
            seen = cuda.atomic.cas(tables, base + slot, int32(-1), int32(at))
            while seen >= 0 and _key_on_cuda(names[level], start + seen, gap) != key:
                slot = (slot + 1) & mask
                seen = cuda.atomic.cas(tables, base + slot, int32(-1), int32(at))
            if seen < 0:
                found += 1.0
                seen = int32(at)
            names[level + 1, start + at] = seen
        shared[thread] = found
        unique = block_sum(shared, thread)
        if thread == 0:
            out[level, row] = unique / grams if grams > 0 else math.nan
    if thread == 0:
        out[SEQ_REP, row] = 1.0 - out[SEQ_REP, row]
        shortest[0] = LOOP_PERIOD_MAX + 1
    cuda.syncthreads()
    last, longest = start + tokens - 1, tokens // LOOP_REPETITIONS
    period = thread + 1
    while period <= longest and period < shortest[0]:
        agree = 0
        while agree < 2 * period and ids[last - agree] == ids[last - period - agree]:
            agree += 1
        if agree == 2 * period:
            cuda.atomic.min(shortest, 0, period)
        period += THREADS
    cuda.syncthreads()
    if thread == 0:
        out[LOOP_PERIOD, row] = math.nan if tokens == 0 else float64(shortest[0]) if shortest[0] <= LOOP_PERIOD_MAX else 0.0


def on_cpu(ids: npt.NDArray[Any], offsets: Offsets) -> Floats:
    """As `reference`, on all cores: a row a core. Takes at most 24 bytes of scratch a token."""
    rooms = powers_of_two(2 * np.diff(offsets))
    out = np.empty((len(NAMES), offsets.size - 1))
    _cpu(ids, offsets, rooms, np.empty(int(rooms[-1]), np.int32), np.empty((2, ids.size), np.uint32), _SEED, out)
    return out


def on_cuda(ids: npt.NDArray[Any], offsets: Offsets) -> Floats:
    """As `reference`, on the GPU: a row a block, a gram or a period a thread. Takes at most 32 bytes of scratch a token."""
    out = np.empty((len(NAMES), offsets.size - 1))
    if out.size:
        rooms = powers_of_two(2 * np.diff(offsets))
        out_there = cuda.device_array(out.shape, np.float64)
        _cuda[out.shape[1], THREADS](
            cuda.to_device(ids), cuda.to_device(offsets), cuda.to_device(rooms), cuda.device_array(int(rooms[-1]) + 1, np.int32),
            cuda.device_array((4, ids.size + 1), np.uint32), _SEED, out_there,
        )
        out_there.copy_to_host(out)
    return out


class Repetition:
    """Scorer of `distinct_1`, `distinct_2`, `seq_rep_4` (0 to 1) and `loop_period` (tokens), from the TokenIds of a block."""

    name = "repetition"
    version = "2"
    columns = ("TokenIds",)

    def __init__(self, device: Device) -> None:
        self._device = device

    def score(self, tokens: Block) -> Mapping[str, Floats]:
        """tokens: n rows -> the four NAMES, each [n], NaN without ids (also when the sender captures numbers only)."""
        ids, offsets = series(tokens, "TokenIds", np.uint32)
        return dict(zip(NAMES, self._device.run(on_cpu, on_cuda, ids, offsets), strict=True))
