"""The CUDA kernels: run on numba's simulator against the oracles and the CPU, and compiled by NVIDIA's real compiler."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from cutaway_collector.score import quarters, repetition, worst_window
from score_helpers import id_rows, quarters_oracle, ragged, seq_rep_4_oracle, surprisal_rows, worst_window_oracle

HERE = Path(__file__).parents[1]
SURPRISALS, IDS = surprisal_rows(11, longest=600), id_rows(11, longest=600)


def _python(*arguments: str, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, *arguments], env={**os.environ, **environment}, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """What the CUDA kernels gave on the simulator, from one process of their own."""
    folder = tmp_path_factory.mktemp("cuda")
    values, offsets = ragged(SURPRISALS, np.float32)
    ids, id_offsets = ragged(IDS, np.uint32)
    np.savez(folder / "in.npz", surprisals=values, surprisal_offsets=offsets, ids=ids, id_offsets=id_offsets)
    script = str(HERE / "score_on_simulator.py")
    _python(script, str(folder / "in.npz"), str(folder / "out.npz"), NUMBA_ENABLE_CUDASIM="1")
    return np.load(folder / "out.npz")


def test_worst_window_on_cuda(simulated):
    """CUDA equals the oracle and the CPU within 1e-12 relative."""
    np.testing.assert_allclose(simulated["worst_window"], [worst_window_oracle(row) for row in SURPRISALS], rtol=1e-12)
    np.testing.assert_allclose(simulated["worst_window"], worst_window.on_cpu(*ragged(SURPRISALS, np.float32)), rtol=1e-12)


def test_repetition_on_cuda(simulated):
    """CUDA counts exactly what the oracle and the CPU count, though its threads race for the slots."""
    np.testing.assert_allclose(simulated["repetition"], [seq_rep_4_oracle(row) for row in IDS], rtol=0, atol=2**-53)
    np.testing.assert_array_equal(simulated["repetition"], repetition.on_cpu(*ragged(IDS, np.uint32)))


def test_quarters_on_cuda(simulated):
    """CUDA equals the oracle and the CPU within 1e-9."""
    np.testing.assert_allclose(simulated["quarters"].T, [quarters_oracle(row) for row in SURPRISALS], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(simulated["quarters"], quarters.on_cpu(*ragged(SURPRISALS, np.float32)), rtol=1e-9, atol=1e-12)


def test_blocks_of_full_size_on_cuda(simulated):
    """With the block size that real GPUs get, a handful of rows equal the CPU's."""
    values, ids, offsets = ragged(SURPRISALS, np.float32)[0][-450:], ragged(IDS, np.uint32)[0][-450:], np.array([0, 200, 201])
    expected = [worst_window.on_cpu(values, offsets), repetition.on_cpu(ids, offsets), quarters.on_cpu(values, offsets)]
    np.testing.assert_allclose(simulated["full_blocks"], np.vstack(expected), rtol=1e-9, atol=1e-12)


def test_no_rows_on_cuda(simulated):
    """A block of no rows launches nothing and gives no values."""
    np.testing.assert_array_equal(simulated["rows_of_nothing"], [0, 0, 0])


def test_auto_takes_the_gpu_that_numba_sees(simulated):
    """With a (simulated) GPU, `auto` is cuda, and asking for cuda gives all three scorers."""
    assert simulated["auto"] == "cuda"
    assert simulated["scorers"] >= 3


COMPILE = """
import types
import numba.cuda.dispatcher
from numba import cuda, float32, float64, int32, int64, uint32, uint64, void
from numba.core.types import Array
from cutaway_collector.score import quarters, repetition, worst_window
# Compiling the helpers asks the GPU for its generation; there is none here, so we answer for it.
numba.cuda.dispatcher.get_current_device = lambda: types.SimpleNamespace(compute_capability=(8, 0))
one = lambda of: Array(of, 1, "C")
for kernel, signature in (
    (worst_window._cuda, void(one(float32), one(int64), int64, one(float64))),
    (repetition._cuda, void(one(uint32), one(int64), one(int64), one(int32), uint64, one(int32))),
    (quarters._cuda, void(one(float32), one(int64), Array(float64, 2, "C"))),
):
    assembly, _ = cuda.compile_ptx(kernel.py_func, signature, cc=(8, 0))
    assert ".entry" in assembly
"""


def test_kernels_compile_for_a_real_gpu():
    """NVVM compiles every kernel to PTX: the simulator also runs Python that the compiler refuses."""
    package = find_spec("nvidia.cuda_nvcc") if find_spec("nvidia") else None
    if package is None or not package.submodule_search_locations:
        pytest.skip("NVIDIA's compiler is not installed: pip install nvidia-cuda-nvcc-cu12")
    _python("-c", COMPILE, CUDA_HOME=str(next(iter(package.submodule_search_locations))), NUMBA_ENABLE_CUDASIM="0")
