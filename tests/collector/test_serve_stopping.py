"""The end of `cutaway serve`, once everything is closed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

STOP_SECONDS_MAX = 20
_HANGS_AT_ITS_END = """
import atexit, sys, time
from cutaway_collector import cli
atexit.register(time.sleep, 1000)
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_stopped_collector_ends_whatever_the_interpreter_would_wait_for(tmp_path: Path) -> None:
    """After a drained stop nothing of the process is waited for: the engine taking itself apart under queries has hung for ever."""
    addresses = ("--otlp-grpc", "127.0.0.1:0", "--otlp-http", "127.0.0.1:0", "--ui", "127.0.0.1:0")
    process = subprocess.Popen([sys.executable, "-c", _HANGS_AT_ITS_END, "serve", "--data", str(tmp_path / "data"), *addresses],
                               stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=STOP_SECONDS_MAX) == 0
    finally:
        process.kill()
        process.wait()
