"""What every test shares: no network beyond this machine, no colour, faults of the SDK raised instead of logged."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# An example takes as long as a busy machine makes it: nothing here is judged by the clock.
settings.register_profile("cutaway", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("cutaway")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _is_loopback(host: str) -> bool:
    return host == "localhost" or ipaddress.ip_address(host.split("%")[0]).is_loopback


@pytest.fixture(autouse=True, scope="session")
def _loopback_only() -> Iterator[None]:
    """A test that reaches beyond this machine fails instead of passing by luck."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(address[0]):
            raise RuntimeError(f"tests talk to this machine only, not to {address[0]}")
        return connect(self, address)

    socket.socket.connect = guarded  # type: ignore[method-assign, assignment]  # undone below
    yield
    socket.socket.connect = connect  # type: ignore[method-assign]  # as it was
