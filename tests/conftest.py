"""What every test shares: no network beyond this machine, no colour, faults of the SDK raised instead of logged."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(autouse=True, scope="session")
def _loopback_only() -> Iterator[None]:
    """A test that reaches beyond this machine fails instead of passing by luck."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] != "localhost":
            if not ipaddress.ip_address(address[0].split("%")[0]).is_loopback:
                raise RuntimeError(f"tests talk to this machine only, not to {address[0]}")
        return connect(self, address)

    socket.socket.connect = guarded  # type: ignore[method-assign]  # undone below
    yield
    socket.socket.connect = connect  # type: ignore[method-assign]  # as it was
