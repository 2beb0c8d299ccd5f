"""Shared by the SDK's tests: faults of ours are raised, the configuration is fresh, and the real model is loaded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cutaway import guard


@pytest.fixture(autouse=True)
def _faults_are_raised() -> Iterator[None]:
    guard.reraise(True)
    guard.forget()
    yield
    guard.reraise(False)


@pytest.fixture
def unguarded() -> Callable[[], None]:
    """Call it to let faults be contained, as in a program."""
    return lambda: guard.reraise(False)


@pytest.fixture(scope="session")
def smollm2() -> Any:
    """(model, tokenizer) of the real SmolLM2-135M-Instruct."""
    from cutaway import smollm2 as real

    return real.load()
