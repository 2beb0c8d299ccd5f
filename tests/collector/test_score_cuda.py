"""The CUDA kernels: run on numba's simulator against the oracles and the CPU, and compiled by NVIDIA's real compiler."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from cutaway_collector.drift import multivariate
from cutaway_collector.score import repetition, surprisal
from score_cases import cases
from score_helpers import fixed

HERE = Path(__file__).parents[1]
CASES = cases(130)


def _python(*arguments: str, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, *arguments], env={**os.environ, **environment}, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """What the CUDA kernels gave on the simulator, from one process of their own."""
    target = tmp_path_factory.mktemp("cuda") / "out.npz"
    _python(str(HERE / "score_on_simulator.py"), str(target), NUMBA_ENABLE_CUDASIM="1")
    return np.load(target)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_cuda_says_what_the_oracle_and_the_cpu_say(simulated, name):
    """The same rows, the same tolerance; where threads race for slots the counts are exact all the same."""
    case, got = CASES[name], simulated[f"case_{name}"]
    np.testing.assert_allclose(got, case.expected(), rtol=case.rtol, atol=case.atol)
    np.testing.assert_allclose(got, case.kernels[1](*case.arguments), rtol=case.rtol, atol=case.atol)


@pytest.mark.slow
def test_blocks_of_full_size_on_cuda(simulated):
    """With the block size that real GPUs get, a handful of rows equal the CPU's."""
    offsets = fixed(np.array([0, 140, 141]))
    values, ids = fixed(np.arange(201, dtype=np.float32) % 7), fixed(np.arange(201, dtype=np.uint32) % 50)
    expected = np.vstack([surprisal.on_cpu(values, offsets), repetition.on_cpu(ids, offsets)])
    np.testing.assert_allclose(simulated["full_blocks"], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_no_rows_on_cuda(simulated):
    """A block of no rows launches nothing and gives no values."""
    np.testing.assert_array_equal(simulated["rows_of_nothing"], np.zeros(6))


@pytest.mark.slow
def test_auto_takes_the_gpu_that_numba_sees(simulated):
    """With a (simulated) GPU, `auto` is cuda, and asking for cuda gives all our scorers."""
    assert simulated["auto"] == "cuda"
    assert simulated["scorers"] >= 5


@pytest.mark.slow
def test_a_gpu_lost_between_two_scores_costs_none(simulated):
    """It dies in the second of three blocks: every block has the same scores, the log says it once, and the CPU stays chosen."""
    first, second, third = simulated["lost_rounds"]
    np.testing.assert_allclose(second, first, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(third, first, rtol=1e-9, atol=1e-12)
    assert simulated["lost_names"].tolist() == ["cuda", "cuda", "cpu", "cpu"]
    assert len(simulated["lost_said"]) == 1
    assert "CUDA_ERROR_LAUNCH_FAILED" in simulated["lost_said"][0]


@pytest.mark.slow
def test_drift_compares_on_the_gpu_and_goes_on_without(simulated):
    """MMD^2 and its p-value of the drift report are plain NumPy's, on the GPU and when it dies; then the CPU stays chosen."""
    expected = multivariate.mmd2(simulated["drift_x"], simulated["drift_y"])
    np.testing.assert_allclose(simulated["drift_found"], [expected, expected], rtol=1e-9)
    assert simulated["drift_names"].tolist() == ["cuda", "cpu"]


COMPILE = """
import types
import numba.cuda.dispatcher
from numba import boolean, cuda, float32, float64, int32, int64, uint32, uint64, void
from numba.core.types import Array
from cutaway_collector.score import attention, embedding, histogram, length, rauq, repetition, surprisal, tdigest, trend
# Compiling the helpers asks the GPU for its generation; there is none here, so we answer for it.
numba.cuda.dispatcher.get_current_device = lambda: types.SimpleNamespace(compute_capability=(8, 0))
one, two = (lambda of: Array(of, 1, "C")), (lambda of: Array(of, 2, "C"))
for kernel, signature in (
    (surprisal._cuda,
     void(one(float32), one(int64), one(float32), one(int64), one(int64), one(float32), one(float64), two(float64))),
    (repetition._cuda, void(one(uint32), one(int64), one(int64), one(int32), two(uint32), uint64, two(float64))),
    (trend._cuda, void(one(float32), one(int64), one(int64), one(float64))),
    (attention._cuda, void(one(float32), one(int64), one(int64), float64, boolean, one(float64))),
    (rauq._cuda, void(one(float32), one(int64), one(float32), one(int64), one(int64), one(int64), one(float64), one(float64))),
    (length._cuda, void(one(float64), one(float64), one(int64), one(float64))),
    (embedding._exp_sums_there, void(two(float64), two(float64), float64, boolean, one(float64))),
    (embedding._gram_there, void(two(float64), float64, two(float64))),
    (embedding._products_there, void(two(float64), two(float64), boolean, two(float64))),
    (histogram._cuda, void(one(float64), one(int64), one(float64), two(int64))),
    (tdigest._cuda, void(one(float64), one(int64), one(int64), one(float64), two(int64), two(float64))),
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
