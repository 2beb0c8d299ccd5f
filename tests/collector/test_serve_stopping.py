"""The end of `cutaway serve`, once everything is closed."""

from __future__ import annotations

from pathlib import Path

from serving import Serving

_HANGS_AT_ITS_END = """
import atexit, sys, time
from cutaway_collector import cli
atexit.register(time.sleep, 300)
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_stopped_collector_ends_whatever_the_interpreter_would_wait_for(tmp_path: Path) -> None:
    """After a drained stop nothing of the process is waited for: the engine taking itself apart under queries has hung for ever."""
    with Serving(tmp_path / "data", program=("-c", _HANGS_AT_ITS_END)) as collector:
        assert collector.stop() == 0
