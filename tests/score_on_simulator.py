"""Runs the CUDA kernels on numba's simulator, in a process of its own: `python score_on_simulator.py OUT.npz`.

The simulator is chosen when numba is imported and replaces numba.cuda as a whole, so it must not share a process with other tests.
"""

from __future__ import annotations

import logging
import sys
import warnings
from functools import partial
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda.cudadrv.driver import CudaAPIError

from cutaway_collector.drift import multivariate
from cutaway_collector.score import (
    attention,
    device,
    embedding,
    histogram,
    length,
    rauq,
    registry,
    repetition,
    scorers,
    surprisal,
    tdigest,
    trend,
)
from score_cases import cases
from score_helpers import id_rows, surprisal_rows, token_block

FAMILIES = (attention, embedding, histogram, length, rauq, repetition, surprisal, tdigest, trend)
FEW_THREADS = 4
"""A simulated thread is a Python thread and a barrier a round of them all: 128 a row takes seconds. Few stride more, too."""


def set_threads(count: int) -> None:
    """The simulator looks the block size up at every launch (compiled kernels have it built in)."""
    for module in (device, *FAMILIES):
        module.THREADS = count


def full_blocks() -> np.ndarray:
    """Two rows with the block size that real GPUs get."""
    values, ids, offsets = np.arange(201, dtype=np.float32) % 7, np.arange(201, dtype=np.uint32) % 50, np.array([0, 140, 141])
    return np.vstack([surprisal.on_cuda(values, offsets), repetition.on_cuda(ids, offsets)])


def of_nothing() -> list[int]:
    """How many values no rows give."""
    floats, none = np.zeros(0, np.float32), np.zeros(1, np.int64)
    counts = np.zeros(0, np.int64)
    return [surprisal.on_cuda(floats, none).size, repetition.on_cuda(floats.astype(np.uint32), none).size,
            trend.on_cuda(floats, none, counts).size, attention.on_cuda(floats, none, counts, 0.5, True).size,
            rauq.on_cuda(floats, none, floats, none, counts, counts).size, tdigest.on_cuda(floats, none).size]


def lost_in_the_middle() -> dict[str, Any]:
    """Scores the same block three times; the GPU dies in the second, between two families. What was said and found."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]  # a list is all we need
    logging.getLogger("cutaway_collector.score.device").addHandler(handler)
    place = device.Device("auto")
    ours, block = registry._ours(place), token_block(surprisal_rows(4, 60)[:9], id_rows(4, 60)[:9])
    rounds, names = [], [place.name]
    working = cuda.to_device
    for number in range(3):
        found = {}
        for scorer in ours:
            if number == 1 and scorer.name == "repetition":
                def dead(*_: Any) -> None:
                    raise CudaAPIError(719, "CUDA_ERROR_LAUNCH_FAILED")
                cuda.to_device = dead
            found |= scorer.score(block)
        rounds.append(np.vstack(list(found.values())))
        names.append(place.name)
    cuda.to_device = working
    logging.getLogger("cutaway_collector.score.device").removeHandler(handler)
    return {"lost_said": said, "lost_rounds": np.array(rounds), "lost_names": names}


def drifted() -> dict[str, Any]:
    """MMD^2 and its p-value as the drift report computes them: on the GPU, and on one that is lost; which device is left."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(12, 3)), rng.normal(0.7, 1, size=(9, 3))
    place = device.Device("auto")
    kernel = partial(embedding.rbf, device=place)
    found, names, working = [multivariate.mmd2(x, y, kernel=kernel)], [place.name], cuda.to_device

    def dead(*_: Any) -> None:
        raise CudaAPIError(719, "CUDA_ERROR_LAUNCH_FAILED")

    cuda.to_device = dead
    found.append(multivariate.mmd2(x, y, kernel=kernel))
    cuda.to_device = working
    return {"drift_found": np.array(found), "drift_names": [*names, place.name], "drift_x": x, "drift_y": y}


def main(target: str) -> None:
    """Writes what every kernel gives, and which device `auto` chose."""
    assert "simulator" in cuda.current_context.__module__, "start me with NUMBA_ENABLE_CUDASIM=1"
    warnings.simplefilter("ignore", RuntimeWarning)  # the hash is meant to overflow; NumPy scalars say so, compiled code does not
    several = full_blocks()
    set_threads(FEW_THREADS)
    found = {f"case_{name}": case.kernels[2](*case.arguments) for name, case in cases(130).items()}
    np.savez(target, full_blocks=several, rows_of_nothing=of_nothing(), auto=device.Device("auto").name,
             scorers=len(scorers("cuda")), **found, **lost_in_the_middle(), **drifted())


if __name__ == "__main__":
    main(sys.argv[1])
