"""The collector's CUDA kernels on a real GPU: what the oracles say, what the CPU says, and rows of a million tokens."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from cutaway_collector.score import attention, device, registry, repetition, surprisal, trend
from score_cases import cases
from score_helpers import id_rows, surprisal_rows, token_block

CASES = cases(1000)


@pytest.mark.parametrize("name", CASES)
def test_a_real_gpu_says_what_the_oracle_and_the_cpu_say(name: str) -> None:
    """The same rows, the same tolerance as on the CPU."""
    case = CASES[name]
    got = case.kernels[2](*case.arguments)
    np.testing.assert_allclose(got, case.expected(), rtol=case.rtol, atol=case.atol)
    np.testing.assert_allclose(got, case.kernels[1](*case.arguments), rtol=case.rtol, atol=case.atol)


def test_auto_takes_the_gpu() -> None:
    """And all of a block's scores are those of the CPU."""
    place, host = device.Device("auto"), device.Device("cpu")
    block = token_block(surprisal_rows(4, 600)[:20], id_rows(4, 600)[:20])
    assert place.name == "cuda"
    for here, there in zip(registry._ours(place), registry._ours(host), strict=True):
        got, wanted = here.score(block), there.score(block)
        assert got.keys() == wanted.keys()
        for name in wanted:
            np.testing.assert_allclose(got[name], wanted[name], rtol=1e-9, atol=1e-12, err_msg=name)
    assert place.name == "cuda"


@pytest.mark.parametrize("family", [surprisal, repetition])
def test_a_row_of_a_million_tokens_beside_short_and_empty_ones(family: object) -> None:
    """The long row does not change its neighbours, nor they it."""
    random = np.random.default_rng(3)
    lengths = np.array([0, 5, 1_000_000, 1, 0, 300])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    if family is surprisal:
        values = random.exponential(2, offsets[-1]).astype(np.float32)
    else:
        values = np.minimum(random.zipf(1.3, offsets[-1]), 49_151).astype(np.uint32)
    got = family.on_cuda(values, offsets)  # type: ignore[attr-defined]  # both modules have it
    np.testing.assert_allclose(got, family.on_cpu(values, offsets), rtol=1e-9, atol=1e-9)  # type: ignore[attr-defined]  # both


def test_threads_share_the_gpu() -> None:
    """Several threads score at once: each has its own rows' values."""
    random = np.random.default_rng(1)
    rows = [random.exponential(2, 5000).astype(np.float32) for _ in range(8)]
    offsets = np.arange(0, 5001, 500)
    counts = np.ones(10, np.int64)
    found: dict[int, np.ndarray] = {}

    def run(number: int) -> None:
        for _ in range(20):
            found[number] = np.vstack([surprisal.on_cuda(rows[number], offsets), trend.on_cuda(rows[number], offsets, counts)])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, values in enumerate(rows):
        wanted = np.vstack([surprisal.on_cpu(values, offsets), trend.on_cpu(values, offsets, counts)])
        np.testing.assert_allclose(found[number], wanted, rtol=1e-9, atol=1e-12)


def test_attention_of_many_heads() -> None:
    """Shares of 100 tokens of 30 layers of 9 heads, a row a block of threads."""
    random = np.random.default_rng(2)
    values = random.beta(0.5, 1, 3 * 100 * 270).astype(np.float32)
    offsets, width = np.arange(4) * 100 * 270, np.full(3, 270)
    got = attention.on_cuda(values, offsets, width, 0.3, True)
    np.testing.assert_allclose(got, attention.on_cpu(values, offsets, width, 0.3, True), rtol=1e-12)
