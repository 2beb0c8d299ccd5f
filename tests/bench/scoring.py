"""What scoring costs: kernels beside NumPy loops and vectorised torch of the same work on one core; ingest with and without.

The torch forms are what one would write without kernels: rows padded to the longest, everything a tensor operation over the batch.
Their figures are compared with ours before anything is timed, so that the baseline does the work.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch

from cutaway_collector import decode, score
from cutaway_collector.commands.load import make_request
from cutaway_collector.pipeline import Pipeline
from cutaway_collector.score import attention, rauq, repetition, surprisal, trend
from cutaway_collector.settings import Settings
from cutaway_collector.spool import Spool
from cutaway_collector.store import native, open_store

Pairs = list[tuple[float, float]]
ROWS = 400
LAYERS, HEADS = 12, 4
SPANS = 512
FIGURES = 18
"""Scores of a sequence with surprisals, entropies and ids."""


class Work:
    """Series of ROWS sequences, of 16 to 1,000 tokens, ids as frequent as words are (Zipf)."""

    def __init__(self, rows: int, seed: int = 1) -> None:
        random_ = np.random.default_rng(seed)
        lengths = np.clip(random_.lognormal(5.3, 0.7, rows), 16, 1000).astype(np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(lengths)])
        self.tokens = int(self.offsets[-1])
        self.surprisals = random_.exponential(2.0, self.tokens).astype(np.float32)
        self.entropies = random_.exponential(1.5, self.tokens).astype(np.float32)
        self.ids = np.minimum(random_.zipf(1.3, self.tokens), 49_151).astype(np.uint32)
        self.heads = random_.beta(0.5, 1.0, self.tokens * LAYERS * HEADS).astype(np.float32)
        self.head_offsets = self.offsets * LAYERS * HEADS
        self.one, self.layers, self.per_layer, self.width = (np.full(rows, count) for count in (1, LAYERS, HEADS, LAYERS * HEADS))
        for array in vars(self).values():
            if isinstance(array, np.ndarray):
                array.flags.writeable = False

    def by(self, which: str) -> list[Any]:
        """Every figure of the token series, by the kernels named `reference` or `on_cpu`."""
        return [getattr(surprisal, which)(self.surprisals, self.offsets), getattr(repetition, which)(self.ids, self.offsets),
                getattr(trend, which)(self.surprisals, self.offsets, self.one),
                getattr(trend, which)(self.entropies, self.offsets, self.one)]

    def attention_by(self, which: str) -> list[Any]:
        """The same of the attention series: shares, RAUQ, a trend."""
        return [getattr(attention, which)(self.heads, self.head_offsets, self.width, 0.05, False),
                getattr(attention, which)(self.heads, self.head_offsets, self.width, 0.3, True),
                getattr(trend, which)(self.heads, self.head_offsets, self.width),
                getattr(rauq, which)(self.surprisals, self.offsets, self.heads, self.head_offsets, self.layers, self.per_layer)]

    def by_torch(self) -> list[Any]:
        """The token series' figures, padded and vectorised."""
        lengths = torch.from_numpy(np.diff(self.offsets))
        longest = int(lengths.max())
        place = torch.arange(longest)
        inside = place < lengths[:, None]
        padded = {name: torch.zeros(len(lengths), longest, dtype=dtype) for name, dtype in (
            ("surprisals", torch.float64), ("entropies", torch.float64), ("ids", torch.int64))}
        for name, table in padded.items():
            table[inside] = torch.from_numpy(getattr(self, name).astype(np.int64 if name == "ids" else np.float64))
        trends = [_trend(padded[name], inside, lengths).numpy() for name in ("surprisals", "entropies")]
        return [_surprisal(padded["surprisals"], inside, lengths), _repetition(padded["ids"], inside, lengths), *trends]


def _surprisal(values: torch.Tensor, inside: torch.Tensor, lengths: torch.Tensor) -> Any:
    total = values.sum(1)
    holed = torch.where(inside, values, torch.nan)
    sums = torch.nn.functional.pad(values.cumsum(1), (1, 0))
    windows = (sums[:, 16:] - sums[:, :-16]) / 16
    windows = torch.where(inside[:, 15:], windows, -torch.inf)
    high = torch.nn.functional.pad((values > 5) & inside, (1, 0))
    bursts = (~high[:, :-3] & high[:, 1:-2] & high[:, 2:-1] & high[:, 3:]).sum(1)
    firsts = -(-torch.arange(5) * lengths[:, None] // 4)
    quarters = sums.gather(1, firsts).diff(dim=1) / firsts.diff(dim=1)
    return torch.stack([
        (total / lengths).exp(), total / ((5 + lengths) / 6) ** 0.6,
        *torch.nanquantile(holed, torch.tensor([0.5, 0.9, 0.99], dtype=torch.float64), dim=1), windows.max(1).values,
        bursts.double(), *quarters.T, quarters[:, 3] - quarters[:, 0],
    ]).numpy()


def _trend(values: torch.Tensor, inside: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    x = torch.where(inside, torch.arange(values.shape[1]) - 0.5 * (lengths[:, None] - 1), 0.0)
    return (x * values).sum(1) / (x * x).sum(1)


def _repetition(ids: torch.Tensor, inside: torch.Tensor, lengths: torch.Tensor) -> Any:
    figures = []
    names = torch.where(inside, ids, -1)
    for gap in (0, 1, 2):
        keys = names if gap == 0 else (names[:, :-gap] << 32) | names[:, gap:]
        there = inside[:, 2 * gap - 1 :] if gap else inside
        keys = torch.where(there, keys[:, : there.shape[1]], -1)
        ordered, order = keys.sort(1)
        fresh = torch.nn.functional.pad(ordered[:, 1:] != ordered[:, :-1], (1, 0), value=True)
        figures.append((fresh & (ordered >= 0)).sum(1).double() / there.sum(1))
        names = torch.zeros_like(order).scatter(1, order, fresh.cumsum(1))
    places = (lengths[:, None] - 1 - torch.arange(ids.shape[1])).clamp(min=0)
    backwards = ids.gather(1, places)
    period = torch.zeros_like(lengths)
    for r in range(int(lengths.max()) // 3, 0, -1):
        loops = (lengths >= 3 * r) & (backwards[:, : 2 * r] == backwards[:, r : 3 * r]).all(1)
        period = torch.where(loops, r, period)
    return torch.stack([figures[0], figures[1], 1.0 - figures[2], period.double()]).numpy()


def figures(rounds: int) -> Iterator[tuple[str, str, str, Pairs]]:
    """Tokens a second on one core; then spans a CPU second of the ingest with scorers, beside the same without."""
    decode.warm_up()
    score.warm_up("cpu")
    native.warm_up()
    work, small = Work(ROWS), Work(ROWS // 10, seed=2)
    for one, other in zip(work.by("on_cpu"), work.by_torch(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)
    threads = numba.get_num_threads(), torch.get_num_threads()
    numba.set_num_threads(1)
    torch.set_num_threads(1)
    what = f"{work.tokens // ROWS} tokens a sequence, {FIGURES} figures"
    yield f"token series ({what})", "tokens/s a core", "NumPy, a loop over sequences", [
        (_rate(lambda: work.by("on_cpu"), work.tokens, 5), _rate(lambda: small.by("reference"), small.tokens))
        for _ in range(rounds)]
    yield f"token series ({what})", "tokens/s a core", "torch, padded and vectorised", [
        (_rate(lambda: work.by("on_cpu"), work.tokens, 5), _rate(work.by_torch, work.tokens)) for _ in range(rounds)]
    yield f"attention ({LAYERS} x {HEADS} heads, 4 figures)", "tokens/s a core", "NumPy, a loop over sequences", [
        (_rate(lambda: work.attention_by("on_cpu"), work.tokens), _rate(lambda: small.attention_by("reference"), small.tokens))
        for _ in range(rounds)]
    numba.set_num_threads(threads[0])
    torch.set_num_threads(threads[1])
    for tokens in (64, 512):
        payload = make_request(SPANS, tokens, random.Random(1), time.time_ns()).SerializeToString()
        yield f"decode and encode with scores ({tokens} tokens)", "spans/CPU s", "the same without scores", [
            (_sink(payload, scored=True), _sink(payload, scored=False)) for _ in range(rounds)]
        yield f"until queryable, chDB, with scores ({tokens} tokens)", "spans/CPU s", "the same without scores", [
            (_queryable(tokens, scored=True), _queryable(tokens, scored=False)) for _ in range(max(3, rounds // 3))]


def _rate(work: Callable[[], object], tokens: int, times: int = 1) -> float:
    began = time.process_time()
    for _ in range(times):
        work()
    return tokens * times / (time.process_time() - began)


def _sink(payload: bytes, *, scored: bool, times: int = 10) -> float:
    """Decodes a request and encodes its blocks for the store, their scores among them; the bytes go nowhere."""
    scorers = score.scorers("cpu")
    began = time.process_time()
    for _ in range(times):
        found = decode.decode(payload, "protobuf", received_ns=time.time_ns(), tenant="", limits=decode.Limits())
        blocks = [found.spans, found.tokens]
        if scored:
            blocks.append(score.score_block(found.tokens, scorers, now_ms=1, on_failure=_raise))
        if not sum(len(piece) for block in blocks for piece in native.Pieces(block)):
            raise AssertionError("the sink takes bytes")
    return SPANS * times / (time.process_time() - began)


def _queryable(tokens: int, *, scored: bool, requests: int = 12) -> float:
    """Submits requests to a collector's pipeline and waits until every span, and every score, is found; the whole process's CPU."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data=str(Path(folder) / "data"))
        store = open_store(settings)
        spool = Spool.of(settings)
        pipeline = Pipeline(store, spool, settings, scorers=score.scorers("cpu") if scored else ())
        payloads = [make_request(SPANS, tokens, random.Random(seed), time.time_ns()).SerializeToString()
                    for seed in range(requests)]
        began = time.process_time()
        for payload in payloads:
            pipeline.submit(payload, "protobuf")
        # The last rows of a batch: those of the token series, or as many scores as a sequence with surprisals and ids has.
        table, rows = ("gen_ai_scores", FIGURES) if scored else ("gen_ai_tokens", 1)
        while store.query(f"SELECT count() FROM {settings.database}.{table}").rows[0][0] < SPANS * requests * rows:
            time.sleep(0.05)
        rate = SPANS * requests / (time.process_time() - began)
        pipeline.close(10)
        spool.close()
        store.close()
    return rate


def _raise(name: str, error: Exception) -> None:
    raise AssertionError(f"{name} failed") from error

