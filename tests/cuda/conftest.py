"""Tests that need a real GPU, `pytest tests/cuda`; skipped, with the reason, where torch sees none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from cutaway import guard


@pytest.fixture(autouse=True)
def _a_gpu() -> Iterator[None]:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    guard.reraise(True)
    guard.forget()
    yield
    guard.reraise(False)
