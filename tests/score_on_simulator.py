"""Runs the CUDA kernels on numba's simulator, in a process of its own: `python score_on_simulator.py IN.npz OUT.npz`.

The simulator is chosen when numba is imported and replaces numba.cuda as a whole, so it must not share a process with other tests.
"""

from __future__ import annotations

import logging
import sys
import warnings

import numpy as np
from numba import cuda

from cutaway_collector.score import device, quarters, repetition, scorers, worst_window

FEW_THREADS = 8
"""A simulated thread is a Python thread and a barrier a round of them all: 128 a row takes seconds. Few stride more, too."""


def set_threads(count: int) -> None:
    """The simulator looks the block size up at every launch (compiled kernels have it built in)."""
    for module in (device, quarters, repetition, worst_window):
        module.THREADS = count


def main(source: str, target: str) -> None:
    """Reads surprisals, ids and their offsets, writes every result and which device `auto` chose."""
    assert "simulator" in cuda.current_context.__module__, "start me with NUMBA_ENABLE_CUDASIM=1"
    warnings.simplefilter("ignore", RuntimeWarning)  # the hash is meant to overflow; NumPy scalars say so, compiled code does not
    data = np.load(source)
    surprisals = data["surprisals"], data["surprisal_offsets"]
    ids = data["ids"], data["id_offsets"]
    empty = np.zeros(0, np.float32), np.zeros(1, np.int64)
    last, offsets = slice(-450, None), np.array([0, 200, 201], np.int64)
    few, kernels = {"s": surprisals[0][last], "i": ids[0][last]}, (("s", worst_window), ("i", repetition), ("s", quarters))
    full_blocks = [family.on_cuda(few[series], offsets) for series, family in kernels]
    set_threads(FEW_THREADS)
    np.savez(
        target,
        full_blocks=np.vstack(full_blocks),
        worst_window=worst_window.on_cuda(*surprisals),
        repetition=repetition.on_cuda(*ids),
        quarters=quarters.on_cuda(*surprisals),
        rows_of_nothing=[worst_window.on_cuda(*empty).size, repetition.on_cuda(*empty).size, quarters.on_cuda(*empty).shape[1]],
        auto=device.Device("auto").name,
        scorers=len(scorers("cuda")),
    )


if __name__ == "__main__":
    logging.basicConfig()
    main(sys.argv[1], sys.argv[2])
