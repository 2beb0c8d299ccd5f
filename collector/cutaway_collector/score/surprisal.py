"""How unlikely was the answer, where was it least sure, did it get worse? All that surprisals say alone. Not what ids say.

    perplexity               exp(mean surprisal); a token that was not measured: NaN, as the SDK has it
    surprisal_p50, _p90, _p99    quantiles, interpolated linearly
    worst_window_surprisal   largest mean of 16 tokens in a row, of all tokens of a shorter sequence. Judging an answer by its
                             least confident window is DeepConf's idea (Fu et al. 2025, arXiv 2508.15260)
    surprisal_bursts         runs of at least 3 tokens in a row above 5 nats each, every run as long as it can be
    surprisal_q1 .. _q4      mean of each quarter: token i of n belongs to quarter floor(4 i / n); NaN below 8 tokens
    surprisal_slope          last quarter less first, a proxy of exposure bias; the bias itself is the excess error of a model that
                             reads its own words (Arora et al. 2022, arXiv 2204.01171), and needs reference text
    length_adjusted_surprisal    sum / ((5 + n) / 6)^0.6, the length penalty of Wu et al. 2016 (arXiv 1609.08144, equation 14): a
                             sum grows with length, a mean forgets it; NaN where a token was not measured

Tokens that were not measured (NaN, infinite: forbidden by the raw logits and forced by a processor) keep their position for the
quarters and are left out of everything else, so "in a row" is in a row of measured tokens. No measured token: all NaN. A figure too
large for a float64 is NaN, "does not apply". Sums are float64: CPU, CUDA and reference agree within 1e-12 relative.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import float64, prange

from cutaway_collector.blocks import Block, Offsets
from cutaway_collector.score.device import (
    THREADS,
    Device,
    block_max,
    block_sort,
    block_sum,
    cpu_helper,
    cpu_kernel,
    cuda,
    cuda_helper,
    cuda_kernel,
)
from cutaway_collector.score.ragged import Floats, measured, powers_of_two, series

QUANTILES: Final = (0.5, 0.9, 0.99)
WINDOW_TOKENS: Final = 16
"""About a clause: long enough that one rare name does not decide, short enough to point at a place."""
BURST_NATS: Final = 5.0
"""Less than 1 in 148: in healthy text about one token in twelve, so three in a row are one place in two thousand."""
BURST_TOKENS_MIN: Final = 3
QUARTERS: Final = 4
QUARTERED_TOKENS_MIN: Final = 8
"""As in the SDK: below two tokens a quarter, a quarter's mean is one token's surprisal."""
PENALTY_FROM: Final = 5.0
PENALTY_POWER: Final = 0.6

NAMES: Final = ("perplexity", "length_adjusted_surprisal", "surprisal_p50", "surprisal_p90", "surprisal_p99",
                "worst_window_surprisal", "surprisal_bursts", "surprisal_q1", "surprisal_q2", "surprisal_q3", "surprisal_q4",
                "surprisal_slope")
PERPLEXITY, ADJUSTED, FIRST_QUANTILE, WORST, BURSTS, FIRST_QUARTER, SLOPE = 0, 1, 2, 5, 6, 7, 11
"""Rows of the result."""

BUCKETS: Final = 256
BUCKET_SHIFT: Final = 20
BUCKET_FIRST: Final = (127 - 24) << 3
"""Buckets of the quantiles: exponent and three bits of the mantissa, from 2^-24 nats to 2^8; others join the outermost."""

_SEED: Final = np.uint64(secrets.randbits(64))
"""Secret of the process: surprisals come from strangers, who must not be able to choose an order that makes selecting slow."""


def reference(values: npt.NDArray[Any], offsets: Offsets) -> Floats:
    """Surprisals [total] in nats, offsets [n + 1] -> [12, n] in the order of NAMES. The readable one."""
    out = np.full((len(NAMES), offsets.size - 1), np.nan)
    for row in range(out.shape[1]):
        sequence = values[offsets[row] : offsets[row + 1]].astype(np.float64)
        finite = np.isfinite(sequence)
        kept = sequence[finite]
        if not kept.size:
            continue
        if finite.all():
            with np.errstate(over="ignore"):
                out[PERPLEXITY, row] = np.exp(kept.mean())
            out[ADJUSTED, row] = kept.sum() / ((PENALTY_FROM + kept.size) / (PENALTY_FROM + 1.0)) ** PENALTY_POWER
        out[FIRST_QUANTILE:WORST, row] = np.quantile(kept, QUANTILES)
        windows = np.lib.stride_tricks.sliding_window_view(kept, min(WINDOW_TOKENS, kept.size))
        out[WORST, row] = windows.mean(axis=1).max()
        begins_and_ends = np.flatnonzero(np.diff(np.concatenate([[0], kept > BURST_NATS, [0]])))
        out[BURSTS, row] = np.sum(np.diff(begins_and_ends)[::2] >= BURST_TOKENS_MIN)
        if sequence.size >= QUARTERED_TOKENS_MIN:
            quarter_of = QUARTERS * np.arange(sequence.size) // sequence.size
            for quarter in range(QUARTERS):
                mine = sequence[finite & (quarter_of == quarter)]
                out[FIRST_QUARTER + quarter, row] = mine.mean() if mine.size else np.nan
            out[SLOPE, row] = out[FIRST_QUARTER + QUARTERS - 1, row] - out[FIRST_QUARTER, row]
    return np.where(np.isfinite(out), out, np.nan)


def _likelihood(total: float, tokens: int, whole: bool, out: Any, row: int) -> None:
    """Perplexity and the length-adjusted sum, of the sum of all surprisals."""
    out[PERPLEXITY, row], out[ADJUSTED, row] = math.nan, math.nan
    if whole and tokens > 0:
        perplexity = math.exp(total / tokens) if total / tokens < 709.0 else math.inf
        if perplexity < math.inf:
            out[PERPLEXITY, row] = perplexity
        out[ADJUSTED, row] = total / ((PENALTY_FROM + tokens) / (PENALTY_FROM + 1.0)) ** PENALTY_POWER


def _first_of(quarter: int, start: int, stop: int) -> int:
    """The first position of a quarter: the smallest i with 4 i >= quarter * n."""
    return start + (quarter * (stop - start) + QUARTERS - 1) // QUARTERS


_likelihood_on_cpu, _first_of_on_cpu = cpu_helper(_likelihood), cpu_helper(_first_of)
_likelihood_on_cuda, _first_of_on_cuda = cuda_helper(_likelihood), cuda_helper(_first_of)


@cpu_helper
def _sums(values: Any, start: int, stop: int, kept: Any, out: Any, row: int) -> int:
    """Likelihood, quarters and slope; copies what was measured to `kept` and says how much that is."""
    to, total = start, 0.0
    for quarter in range(QUARTERS):
        before, sum_here = to, 0.0
        for token in range(_first_of_on_cpu(quarter, start, stop), _first_of_on_cpu(quarter + 1, start, stop)):
            value = values[token]
            kept[to] = value
            if math.isfinite(value):
                to += 1
                sum_here += float64(value)
        quartered = to > before and stop - start >= QUARTERED_TOKENS_MIN
        out[FIRST_QUARTER + quarter, row] = sum_here / (to - before) if quartered else math.nan
        total += sum_here
    out[SLOPE, row] = out[FIRST_QUARTER + QUARTERS - 1, row] - out[FIRST_QUARTER, row]
    _likelihood_on_cpu(total, to - start, to == stop, out, row)
    return to - start


@cpu_helper
def _runs(kept: Any, start: int, count: int, out: Any, row: int) -> None:
    """Worst window and bursts, in one pass over what was measured."""
    width = min(WINDOW_TOKENS, count)
    largest, total, run, bursts = -math.inf, 0.0, 0, 0
    # A running sum: float32 values in a float64 sum leave 29 bits of room, so adding and taking away does not drift.
    for token in range(start, start + count):
        value = kept[token]
        total += float64(value)
        if token >= start + width:
            total -= float64(kept[token - width])
        if token >= start + width - 1:
            largest = max(largest, total)
        run = run + 1 if value > BURST_NATS else 0
        bursts += run == BURST_TOKENS_MIN
    out[WORST, row], out[BURSTS, row] = largest / width, bursts


@cpu_helper
def _place(kept: Any, low: int, high: int, rank: int, state: Any) -> Any:
    """Reorders kept[low:high] so that kept[rank] is what sorting would put there, smaller ones before; gives the random state."""
    while high - low > 1:
        state ^= state << np.uint64(13)
        state ^= state >> np.uint64(7)
        state ^= state << np.uint64(17)
        pivot = kept[low + np.int64(state % np.uint64(high - low))]
        # Swaps without branches: which side a value falls on cannot be foretold, and a wrong guess costs more than a swap.
        smaller = low
        for at in range(low, high):
            value = kept[at]
            kept[at] = kept[smaller]
            kept[smaller] = value
            smaller += value < pivot
        if rank < smaller:
            high = smaller
            continue
        equal = smaller
        for at in range(smaller, high):
            value = kept[at]
            kept[at] = kept[equal]
            kept[equal] = value
            equal += value == pivot
        if rank < equal:
            break
        low = equal
    return state


@cpu_helper
def _bucket(bits: int) -> int:
    """Which bucket a float32 belongs to, by its bits read as int32: it rises with the value; negative ones are in the first."""
    return min(max((bits >> BUCKET_SHIFT) - BUCKET_FIRST, 0), BUCKETS - 1)


@cpu_helper
def _spread(kept: Any, start: int, count: int, ordered: Any) -> Any:
    """Copies kept[start:start + count] to these places of `ordered`, bucket by bucket; gives where each bucket ends."""
    bits = kept.view(np.int32)
    ends = np.zeros(BUCKETS + 1, np.int64)
    for at in range(start, start + count):
        ends[_bucket(bits[at]) + 1] += 1
    ends[0] = start
    for bucket in range(BUCKETS):
        ends[bucket + 1] += ends[bucket]
    for at in range(start, start + count):
        bucket = _bucket(bits[at])
        ordered[ends[bucket]] = kept[at]
        ends[bucket] += 1
    return ends


@cpu_helper
def _quantiles(kept: Any, start: int, count: int, ordered: Any, state: Any, out: Any, row: int) -> None:
    """Two passes put the values into buckets, an eighth of a power of two each; only the buckets of the ranks are looked into."""
    ends = _spread(kept, start, count, ordered)
    bucket = 0
    for index in range(len(QUANTILES)):
        position = QUANTILES[index] * (count - 1)
        rank = start + int(position)
        while ends[bucket] <= rank:
            bucket += 1
        high = ends[bucket]
        state = _place(ordered, ends[bucket - 1] if bucket > 0 else start, high, rank, state)
        low_value, next_value, fraction = float64(ordered[rank]), math.inf, position - int(position)
        following = bucket
        if rank + 1 == high and fraction > 0.0:  # the next larger one is in the next bucket that holds any
            while ends[following] == high:
                following += 1
        for at in range(rank + 1, ends[following]):
            next_value = min(next_value, float64(ordered[at]))
        out[FIRST_QUANTILE + index, row] = low_value + (next_value - low_value) * fraction if fraction > 0.0 else low_value


@cpu_kernel
def _cpu(
    values: npt.NDArray[Any], offsets: Offsets, kept: npt.NDArray[Any], ordered: npt.NDArray[Any], seed: Any, out: Floats
) -> None:
    for row in prange(out.shape[1]):
        count = _sums(values, offsets[row], offsets[row + 1], kept, out, row)
        if count > 0:
            _runs(kept, offsets[row], count, out, row)
            _quantiles(kept, offsets[row], count, ordered, seed | np.uint64(1), out, row)
        else:
            out[FIRST_QUANTILE:FIRST_QUARTER, row] = math.nan


@cuda_helper
def _quarters_there(values: Any, start: int, stop: int, kept: int, shared: Any, thread: int, out: Any, row: int) -> None:
    """Quarters, slope and likelihood: a token a thread. kept: how many of the tokens were measured."""
    total = 0.0
    for quarter in range(QUARTERS):
        mine, count_mine = 0.0, 0.0
        last = _first_of_on_cuda(quarter + 1, start, stop)
        for token in range(_first_of_on_cuda(quarter, start, stop) + thread, last, THREADS):
            if math.isfinite(values[token]):
                mine += float64(values[token])
                count_mine += 1.0
        shared[thread] = mine
        sum_here = block_sum(shared, thread)
        shared[thread] = count_mine
        count = block_sum(shared, thread)
        if thread == 0:
            quartered = count > 0.0 and stop - start >= QUARTERED_TOKENS_MIN
            out[FIRST_QUARTER + quarter, row] = sum_here / count if quartered else math.nan
        total += sum_here
    if thread == 0:
        out[SLOPE, row] = out[FIRST_QUARTER + QUARTERS - 1, row] - out[FIRST_QUARTER, row]
        _likelihood_on_cuda(total, kept, kept == stop - start, out, row)


@cuda_helper
def _runs_there(kept: Any, start: int, count: int, shared: Any, thread: int, out: Any, row: int) -> None:
    """Worst window and bursts: a window a thread."""
    width = WINDOW_TOKENS if count > WINDOW_TOKENS else count  # numba 0.68 cannot compile min() and max() for CUDA
    largest, bursts = -math.inf, 0.0
    for first in range(start + thread, start + count - width + 1, THREADS):
        total = 0.0
        for token in range(first, first + width):
            total += float64(kept[token])
        if total > largest:
            largest = total
    for first in range(start + thread, start + count - BURST_TOKENS_MIN + 1, THREADS):
        begins = first == start or not kept[first - 1] > BURST_NATS
        for token in range(first, first + BURST_TOKENS_MIN):
            begins = begins and kept[token] > BURST_NATS
        if begins:
            bursts += 1.0
    shared[thread] = largest
    largest = block_max(shared, thread)
    shared[thread] = bursts
    bursts = block_sum(shared, thread)
    if thread == 0:
        out[WORST, row] = largest / width if count > 0 else math.nan
        out[BURSTS, row] = bursts if count > 0 else math.nan


@cuda_kernel
def _cuda(values: Any, offsets: Any, kept: Any, kept_offsets: Any, rooms: Any, ordered: Any, levels: Any, out: Any) -> None:
    row, thread = cuda.blockIdx.x, cuda.threadIdx.x
    shared = cuda.shared.array(THREADS, float64)
    start, count = kept_offsets[row], kept_offsets[row + 1] - kept_offsets[row]
    _quarters_there(values, offsets[row], offsets[row + 1], count, shared, thread, out, row)
    _runs_there(kept, start, count, shared, thread, out, row)
    room, size = rooms[row], rooms[row + 1] - rooms[row]
    for at in range(thread, size, THREADS):
        ordered[room + at] = kept[start + at] if at < count else math.inf
    block_sort(ordered, room, size, thread)
    for index in range(thread, levels.size, THREADS):
        position = levels[index] * (count - 1)
        rank = int(position)
        following = rank + 1 if rank + 1 < count else rank
        if count > 0:
            low = float64(ordered[room + rank])
            out[FIRST_QUANTILE + index, row] = low + (float64(ordered[room + following]) - low) * (position - rank)
        else:
            out[FIRST_QUANTILE + index, row] = math.nan


def on_cpu(values: npt.NDArray[Any], offsets: Offsets) -> Floats:
    """As `reference`, on all cores: a row a core. Takes 8 bytes of scratch a token."""
    out = np.empty((len(NAMES), offsets.size - 1))
    _cpu(values, offsets, np.empty(values.size, np.float32), np.empty(values.size, np.float32), _SEED, out)
    return out


def on_cuda(values: npt.NDArray[Any], offsets: Offsets) -> Floats:
    """As `reference`, on the GPU: a row a block, a token a thread. Takes at most 8 bytes of scratch a token."""
    out = np.empty((len(NAMES), offsets.size - 1))
    if out.size:
        kept, kept_offsets = measured(values, offsets)
        rooms = powers_of_two(np.diff(kept_offsets))
        out_there = cuda.device_array(out.shape, np.float64)
        there = [cuda.to_device(array) for array in (values, offsets, kept, kept_offsets, rooms)]
        ordered = cuda.device_array(int(rooms[-1]) + 1, np.float32)
        _cuda[out.shape[1], THREADS](*there, ordered, cuda.to_device(np.array(QUANTILES)), out_there)
        out_there.copy_to_host(out)
    return out


class Surprisal:
    """Scorer of the twelve NAMES, from the Surprisals of a gen_ai_tokens block."""

    name = "surprisal"
    version = "1"
    columns = ("Surprisals",)

    def __init__(self, device: Device) -> None:
        self._device = device

    def score(self, tokens: Block) -> Mapping[str, Floats]:
        """tokens: n rows -> the NAMES, each [n], NaN where it does not apply."""
        values, offsets = series(tokens, "Surprisals", np.float32)
        return dict(zip(NAMES, self._device.run(on_cpu, on_cuda, values, offsets), strict=True))
