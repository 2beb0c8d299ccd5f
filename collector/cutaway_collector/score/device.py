"""Where a kernel runs: the decorators for CPU and CUDA, and the choice between the two. Holds no kernel of its own but reductions.

`Device` remembers the choice for all scorers that share it, so the loss of a GPU is noticed once and said once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Final, Literal, ParamSpec, TypeVar, cast

import numba
import numba.cuda
import numpy as np

from cutaway_collector.errors import SettingsError

Choice = Literal["auto", "cpu", "cuda"]
F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
R = TypeVar("R")

cuda: Any = numba.cuda
"""numba.cuda, whose names (blockIdx, shared, atomic) a type checker cannot see: they mean something inside kernels only."""

THREADS: Final = 128
"""Threads a block; one block works on one sequence. A power of two, because the reductions halve it."""

VALUES_A_THREAD: Final = 500_000
"""Some milliseconds of work. Waking another core for less costs more CPU time than it saves: OpenMP's threads spin for a while."""

_log = logging.getLogger(__name__)

numba.config.CUDA_LOW_OCCUPANCY_WARNINGS = 0  # type: ignore[attr-defined]  # numba sets it from its environment
"""A block of a few rows cannot fill a GPU, and numba would say so at every launch."""

_parallel_region = threading.Lock()
"""numba's workqueue threading layer (the one without OpenMP or TBB) ends the process when two threads enter parallel kernels."""


def cpu_kernel(function: F) -> F:
    """Compiles for all cores on the first call, kept on disk; the GIL is let go, so receivers are not held up by scores."""
    return cast("F", numba.njit(parallel=True, nogil=True, cache=True)(function))


def cpu_helper(function: F) -> F:
    """A function that CPU kernels call."""
    return cast("F", numba.njit(nogil=True, cache=True)(function))


def cpu_sum(function: F) -> F:
    """As `cpu_helper`, of sums whose terms may be added in another order, as vector registers do."""
    return cast("F", numba.njit(nogil=True, cache=True, fastmath={"reassoc"})(function))


def cpu_loop(function: F) -> F:
    """As `cpu_sum`, for numbers alone: what it says of NaN means nothing."""
    return cast("F", numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nnan"})(function))


def cuda_kernel(function: Callable[..., None]) -> Any:
    """Compiles for the GPU on the first launch: `kernel[blocks, THREADS](...)`. Importing needs no GPU."""
    return cuda.jit(function)


def cuda_helper(function: F) -> F:
    """A function that CUDA kernels call."""
    return cast("F", cuda.jit(device=True)(function))


@cuda_helper
def block_sum(shared: Any, thread: int) -> Any:
    """Sum of `shared[0:THREADS]`, known to every thread of the block; `shared` is free for use again afterwards."""
    cuda.syncthreads()
    half = THREADS // 2
    while half > 0:
        if thread < half:
            shared[thread] += shared[thread + half]
        cuda.syncthreads()
        half //= 2
    total = shared[0]
    cuda.syncthreads()
    return total


@cuda_helper
def block_max(shared: Any, thread: int) -> Any:
    """Largest of `shared[0:THREADS]`, known to every thread of the block; `shared` is free for use again afterwards."""
    cuda.syncthreads()
    half = THREADS // 2
    while half > 0:
        if thread < half and shared[thread + half] > shared[thread]:
            shared[thread] = shared[thread + half]
        cuda.syncthreads()
        half //= 2
    largest = shared[0]
    cuda.syncthreads()
    return largest


@cuda_helper
def block_sort(values: Any, start: int, size: int, thread: int) -> None:
    """Sorts `values[start:start + size]` upwards, `size` a power of two: a bitonic network, a pair a thread."""
    cuda.syncthreads()
    width = 2
    while width <= size:
        step = width // 2
        while step > 0:
            for pair in range(thread, size // 2, THREADS):
                low = start + 2 * step * (pair // step) + pair % step
                a, b = values[low], values[low + step]
                if (a > b) == ((low - start) & width == 0):
                    values[low], values[low + step] = b, a
            cuda.syncthreads()
            step //= 2
        width *= 2


class Device:
    """The chosen place, "cpu" or "cuda", shared by the scorers. Thread-safe.

    "auto" takes a GPU when numba sees one. "cuda" without one raises SettingsError. A GPU that fails later is given up for good.
    """

    def __init__(self, choice: Choice = "auto") -> None:
        available = choice != "cpu" and bool(cuda.is_available())
        if choice == "cuda" and not available:
            raise SettingsError("score_device cuda needs a GPU that numba can use, there is none: install the NVIDIA driver, "
                                "or take auto or cpu.")
        self.name: Literal["cpu", "cuda"] = "cuda" if available else "cpu"
        self._giving_up = threading.Lock()

    def run(self, on_cpu: Callable[P, R], on_cuda: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs the kernel where the choice points; the same arguments and result either way."""
        if self.name == "cuda":
            try:
                return on_cuda(*args, **kwargs)
            except Exception as error:
                self._give_up(error)
        values = sum(argument.size for argument in args if isinstance(argument, np.ndarray))
        with _parallel_region:
            cores: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]  # numba sets it from its environment
            numba.set_num_threads(max(1, min(cores, values // VALUES_A_THREAD)))
            return on_cpu(*args, **kwargs)

    def _give_up(self, error: Exception) -> None:
        with self._giving_up:
            if self.name == "cuda":
                self.name = "cpu"
                _log.warning("scores are computed on the CPU from now on, the GPU failed: %s: %s", type(error).__name__, error)
