"""What every test shares: no network beyond this machine, no colour, faults of the SDK raised instead of logged."""

from __future__ import annotations

import ipaddress
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Workers fill the cores already: threads of torch beside them wait by spinning, and a tiny model takes ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# An example takes as long as a busy machine makes it: nothing here is judged by the clock.
settings.register_profile("cutaway", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("cutaway")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


_SDK = Path(__file__).parent / "sdk"
_KERNELS = """
from cutaway_collector import decode, score
from cutaway_collector.scores_out import tally
decode.warm_up()
score.warm_up("cpu")
tally.warm_up()
"""


def pytest_sessionstart(session: pytest.Session) -> None:
    """Where several workers run, kernels are compiled beside them once, instead of by each of them."""
    config = session.config
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        compiler = subprocess.Popen([sys.executable, "-c", _KERNELS])

        def end() -> None:
            compiler.kill()
            compiler.wait()

        config.add_cleanup(end)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Workers take the files with most work first, so that they end together; the SDK's before all, which need no kernels."""
    if not hasattr(config, "workerinput"):
        return
    work: Counter[Path] = Counter()
    for item in items:
        usual = 30 if item.get_closest_marker("slow") else 5 if item.path.parent.name == "end_to_end" else 1
        allowed = item.get_closest_marker("timeout")  # what takes longest has a limit of its own
        work[item.path] += max(usual, allowed.args[0] // 10 if allowed else 0)
    items.sort(key=lambda item: (item.path.parent != _SDK, -work[item.path]))


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
