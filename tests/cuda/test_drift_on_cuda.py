"""MMD^2 in the drift report, on a real GPU: what the CPU says, a planted topic that is found, and windows that differ in nothing.

The machine needs no database: a store that answers from memory stands in for it. The same road with chDB is tested without a GPU
(tests/collector/test_drift_embeddings.py), and the loss of the GPU by the simulator (tests/score_on_simulator.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cutaway_collector.baselines import together as numbers
from cutaway_collector.baselines.attributes import NUMBERS
from cutaway_collector.baselines.embeddings import TEXTS_MAX, Known, of_texts
from cutaway_collector.baselines.pins import Baseline
from cutaway_collector.drift import multivariate
from cutaway_collector.score import embedding
from cutaway_collector.score.device import Device

WIDTH = 384
PINNED, CALM, MOVED = 0, 1, 2
"""Windows, by their number: they begin at so many hours."""
HOUR_NS = 3_600_000_000_000
BASELINE = Baseline(id="one", tenant="", service="concierge", model="SmolLM2", version="", start_ns=PINNED, end_ns=HOUR_NS,
                    spans=TEXTS_MAX)


class Memory:
    """Answers the two questions of the report: which generations a window has, and their numbers."""

    database = "otel"

    def query(self, sql: str, parameters: Mapping[str, Any]) -> Any:
        window, count = parameters["start"] // HOUR_NS, TEXTS_MAX
        names = [f"{window:02d}{row:014d}" for row in range(count)]
        if "toUnixTimestamp64Nano(Timestamp)" in sql:
            return SimpleNamespace(rows=[(name * 2, name, parameters["start"]) for name in names])
        rng = np.random.default_rng(window)
        values = rng.normal(1.0 if window == MOVED else 0.0, 1.0, (count, len(NUMBERS)))
        return SimpleNamespace(rows=[(name, *row) for name, row in zip(names, values.tolist(), strict=True)])


def embed(of: str, keys: Sequence[Any]) -> Known:
    """Vectors of length 1 about an axis; the prompts of the moved window are about another one."""
    vectors = {}
    for key in keys:
        vector = np.random.default_rng(int(key.span_id) + (1 if of == "prompt" else 2) * 10**16).normal(size=WIDTH)
        vector[1 if of == "prompt" and key.start_ns == MOVED * HOUR_NS else 0] += 8
        vectors[key] = vector / np.linalg.norm(vector)
    return Known(vectors, 0, "")


@pytest.mark.parametrize(("window", "moved"), [(CALM, ()), (MOVED, ("prompt",))])
def test_texts_are_compared_on_the_gpu_as_on_the_cpu(window: int, moved: tuple[str, ...]) -> None:
    """The planted topic has the smallest p-value there is, the others none that says anything; figure and p-value are the CPU's."""
    gpu = Device("auto")
    found, wanted = (of_texts(Memory(), BASELINE, window * HOUR_NS, (window + 1) * HOUR_NS, embed, place, reference="all")
                     for place in (gpu, Device("cpu")))
    assert gpu.name == "cuda"
    for here, there in zip(found, wanted, strict=True):
        assert (here.n, here.reference_n, here.message) == (TEXTS_MAX, TEXTS_MAX, "")
        assert here.p == there.p
        assert here.mmd2 == pytest.approx(there.mmd2, abs=1e-9)
        assert (here.p == 1 / (1 + multivariate.PERMUTATIONS)) is (here.of in moved)
        assert here.of in moved or here.p > 0.05


@pytest.mark.parametrize(("window", "moved"), [(CALM, False), (MOVED, True)])
def test_numbers_are_compared_on_the_gpu_as_on_the_cpu(window: int, moved: bool) -> None:
    """The same of all numbers of a generation together."""
    gpu = Device("auto")
    found, wanted = (numbers.together(Memory(), BASELINE, window * HOUR_NS, (window + 1) * HOUR_NS, place, reference="all")
                     for place in (gpu, Device("cpu")))
    assert gpu.name == "cuda"
    assert found.p == wanted.p
    assert found.mmd2 == pytest.approx(wanted.mmd2, abs=1e-9)
    assert (found.p == 1 / (1 + multivariate.PERMUTATIONS)) is moved


def test_windows_of_thousands_of_vectors() -> None:
    """MMD^2 of 3,000 and 2,500 vectors, and the kernel matrix behind a permutation test: as plain NumPy on the host."""
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(3000, WIDTH)), rng.normal(0.01, 1.0, (2500, WIDTH))
    gpu, bandwidth = Device("auto"), embedding.median_distance(x, y)
    assert embedding.rbf_mmd2(x, y, bandwidth, gpu) == pytest.approx(embedding.rbf_mmd2(x, y, bandwidth, Device("cpu")), abs=1e-9)
    few = (x[:600], y[:500])
    assert multivariate.mmd2(*few, kernel=partial(embedding.rbf, device=gpu)) == pytest.approx(multivariate.mmd2(*few), abs=1e-9)
    assert gpu.name == "cuda"
