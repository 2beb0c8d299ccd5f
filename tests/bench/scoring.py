"""What scoring costs: kernels beside NumPy loops and vectorised torch of the same work on one core; ingest with and without.

The torch forms (`scoring_torch`) are what one would write without kernels; the loops are the readable references. The figures of
all three are compared before anything is timed, so that the baselines do the work.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch
from tests.bench import scoring_beside, scoring_torch
from threadpoolctl import threadpool_limits

from cutaway_collector import decode, score
from cutaway_collector.commands.load import make_request
from cutaway_collector.score import attention, embedding, histogram, length, rauq, repetition, surprisal, tdigest, trend
from cutaway_collector.store import native
from cutaway_collector.windows import diversity

Pairs = list[tuple[float, float]]
Kernel = Callable[..., Any]
ROWS = 400
LAYERS, HEADS = 12, 4
SPANS = 512
EDGES = np.linspace(0.0, 20.0, 65)
GROUP = 50
VECTORS, WIDTH = 400, 384


class Work:
    """Series of `rows` sequences, of 16 to 1,000 tokens, ids as frequent as words are (Zipf)."""

    def __init__(self, rows: int, seed: int = 1) -> None:
        random_ = np.random.default_rng(seed)
        lengths = np.clip(random_.lognormal(5.3, 0.7, rows), 16, 1000).astype(np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(lengths)])
        self.tokens = int(self.offsets[-1])
        self.surprisals = random_.exponential(2.0, self.tokens).astype(np.float32)
        self.entropies = random_.exponential(1.5, self.tokens).astype(np.float32)
        self.ids = np.minimum(random_.zipf(1.3, self.tokens), 49_151).astype(np.uint32)
        self.doubles = self.surprisals.astype(np.float64)
        self.heads = random_.beta(0.5, 1.0, self.tokens * LAYERS * HEADS).astype(np.float32)
        self.head_offsets = self.offsets * LAYERS * HEADS
        self.one, self.layers, self.per_layer, self.width = (np.full(rows, count) for count in (1, LAYERS, HEADS, LAYERS * HEADS))
        # For figures of windows: a mean and a length of each sequence of groups, and vectors of two windows.
        self.lengths = np.clip(random_.lognormal(5.3, 0.7, rows * GROUP), 16, 1000)
        self.means = 2.0 + 0.001 * self.lengths + random_.normal(0, 0.3, rows * GROUP)
        self.groups = np.arange(rows + 1) * GROUP
        self.x, self.y = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in random_.normal(size=(2, max(2, rows), WIDTH)))
        for array in vars(self).values():
            if isinstance(array, np.ndarray):
                array.flags.writeable = False


@dataclass(frozen=True)
class Family:
    """One family of kernels. arguments: of a Work; counted: what a rate counts of it, in `unit`. large: rows of the Work."""

    name: str
    kernel: Kernel
    loops: Kernel
    torch: Kernel
    arguments: Callable[[Work], tuple[Any, ...]]
    counted: Callable[[Work], int] = lambda work: work.tokens
    unit: str = "tokens/s a core"
    large: int = ROWS


def _family(name: str, module: Any, vectorised: Kernel, arguments: Callable[[Work], tuple[Any, ...]], **more: Any) -> Family:
    return Family(name, module.on_cpu, module.reference, vectorised, arguments, **more)


def _mean_cosine(x: Any) -> float:
    pairs = [a @ b for row, a in enumerate(x) for b in x[row + 1:]]
    return float(np.mean(pairs))


SERIES = (
    _family("surprisal (12 figures)", surprisal, scoring_torch.surprisal, lambda work: (work.surprisals, work.offsets)),
    _family("repetition (4 figures)", repetition, scoring_torch.repetition, lambda work: (work.ids, work.offsets)),
    _family("trend of surprisals", trend, scoring_torch.trend, lambda work: (work.surprisals, work.offsets, work.one)),
    _family("trend of entropies", trend, scoring_torch.trend, lambda work: (work.entropies, work.offsets, work.one)),
)
"""What every sequence with surprisals, entropies and ids is scored by."""
OF_HEADS = (
    _family(f"collapsed share ({LAYERS} x {HEADS} heads)", attention, scoring_torch.attention,
            lambda work: (work.heads, work.head_offsets, work.width, 0.05, False), large=ROWS // 4),
    _family("sink share", attention, scoring_torch.attention,
            lambda work: (work.heads, work.head_offsets, work.width, 0.3, True), large=ROWS // 4),
    _family("lookback trend", trend, scoring_torch.trend,
            lambda work: (work.heads, work.head_offsets, work.width), large=ROWS // 4),
    _family("RAUQ", rauq, scoring_torch.rauq, lambda work: (
        work.surprisals, work.offsets, work.heads, work.head_offsets, work.layers, work.per_layer), large=ROWS // 4),
)
"""What is added where attention was recorded."""
OF_WINDOWS = (
    _family("length-adjusted uncertainty", length, scoring_torch.length, lambda work: (work.means, work.lengths, work.groups),
            counted=lambda work: work.means.size, unit="figures/s a core"),
    _family("histogram (64 bins)", histogram, scoring_torch.histogram, lambda work: (work.doubles, work.offsets, EDGES)),
    _family("t-digest", tdigest, scoring_torch.tdigest, lambda work: (work.doubles, work.offsets)),
    Family("cosines of a window, each (384 wide)", embedding.products_on_cpu, embedding.reference_cosine, scoring_torch.cosine,
           lambda work: (work.x, work.x), counted=lambda work: len(work.x) ** 2, unit="pairs/s a core"),
    Family("cosines of a window, their mean", diversity.mean_pairwise_cosine, _mean_cosine, scoring_torch.mean_cosine,
           lambda work: (work.x,), counted=lambda work: len(work.x) ** 2, unit="pairs/s a core"),
    Family("RBF-MMD of two windows (384 wide)", embedding.sums_on_cpu, embedding.reference_sums, scoring_torch.sums,
           lambda work: (work.x, work.y, 1.4), counted=lambda work: 2 * len(work.x) ** 2, unit="pairs/s a core"),
)
"""What jobs call for windows of many sequences."""


def figures(rounds: int) -> Iterator[tuple[str, str, str, Pairs]]:
    """Tokens a second on one core, of each family and in all; then spans a CPU second with scorers and without."""
    decode.warm_up()
    score.warm_up("cpu")
    native.warm_up()
    threads = numba.get_num_threads(), torch.get_num_threads()
    numba.set_num_threads(1)
    torch.set_num_threads(1)
    blas = threadpool_limits(1, "blas")
    together = f"all token series ({scoring_beside.FIGURES} figures)"
    for families, what in ((SERIES, together), (OF_HEADS, "all of attention (4 figures)"), (OF_WINDOWS, "")):
        measured = [(family.name, family.unit, *_measured(family, rounds)) for family in families]
        if what:
            loops, vectorised = (_together([one[place] for one in measured]) for place in (2, 3))
            measured.append((what, families[0].unit, loops, vectorised))
        for name, unit, loops, vectorised in measured:
            yield name, unit, "NumPy, a loop over sequences", loops
            yield name, unit, "torch, padded and vectorised", vectorised
    numba.set_num_threads(threads[0])
    torch.set_num_threads(threads[1])
    blas.restore_original_limits()
    for tokens in (64, 512):
        payload = make_request(SPANS, tokens, random.Random(1), time.time_ns()).SerializeToString()
        yield f"decode and encode with scores ({tokens} tokens)", "spans/CPU s", "the same without scores", [
            (_sink(payload, scored=True), _sink(payload, scored=False)) for _ in range(rounds)]
    yield from scoring_beside.figures(max(3, rounds // 3))


def _measured(family: Family, rounds: int) -> tuple[Pairs, Pairs]:
    """Rates of the kernel beside the loops', and beside torch's, one right after the other."""
    work, small = Work(family.large), Work(max(2, family.large // 20), seed=2)
    mine, less = family.arguments(work), family.arguments(small)
    np.testing.assert_allclose(family.kernel(*mine), family.torch(*mine), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(family.kernel(*less), family.loops(*less), rtol=1e-9, atol=1e-9)

    def ours() -> float:
        return _rate(lambda: family.kernel(*mine), family.counted(work), 5)

    return ([(ours(), _rate(lambda: family.loops(*less), family.counted(small))) for _ in range(rounds)],
            [(ours(), _rate(lambda: family.torch(*mine), family.counted(work))) for _ in range(rounds)])


def _together(families: list[Pairs]) -> Pairs:
    """Rates of doing all of them, one after the other: the times of a token add up."""
    return [(1 / sum(1 / measured for measured, _ in each), 1 / sum(1 / base for _, base in each))
            for each in zip(*families, strict=True)]


def _rate(work: Callable[[], object], tokens: int, times: int = 1) -> float:
    began = time.process_time()
    for _ in range(times):
        work()
    return tokens * times / (time.process_time() - began)


def _sink(payload: bytes, *, scored: bool, times: int = 10) -> float:
    """Decodes a request and encodes its blocks for the store, their scores among them; the bytes go nowhere."""
    scorers, encoder = score.scorers("cpu"), native.Encoder()
    began = time.process_time()
    for _ in range(times):
        found = decode.decode(payload, "protobuf", received_ns=time.time_ns(), tenant="", limits=decode.Limits())
        blocks = [found.spans, found.tokens]
        if scored:
            blocks.append(score.score_block(found.tokens, scorers, now_ms=1, on_failure=_raise))
        if not sum(len(encoder.encode(block)) for block in blocks):
            raise AssertionError("the sink takes bytes")
    return SPANS * times / (time.process_time() - began)


def _raise(name: str, error: Exception) -> None:
    raise AssertionError(f"{name} failed") from error

