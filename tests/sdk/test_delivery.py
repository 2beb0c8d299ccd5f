"""What a program that ends, or waits, while nobody answers is told: one line that counts the spans, in bounded time."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

import cutaway


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    yield
    cutaway.shutdown()


@pytest.fixture
def mute() -> Iterator[str]:
    """The endpoint of a collector that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


class Gated(SpanExporter):
    """Answers when the gate is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.gate.wait(60)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass


@pytest.mark.parametrize("waits", ["", "cutaway.flush()\n", "cutaway.flush()\ncutaway.shutdown()\n"])
def test_a_program_that_ends_before_the_exporter_gives_up_says_what_is_lost(mute: str, waits: str) -> None:
    """The exporter would wait an hour, the program may wait two seconds in all: it ends, exit code 0, one line with the count."""
    program = (
        f"import cutaway\ncutaway.configure(endpoint='{mute}', timeout_seconds=3600, flush_seconds_max=2)\n"
        f"for _ in range(7):\n    with cutaway.span('x'):\n        pass\n{waits}"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240)
    (line,) = done.stderr.strip().splitlines()

    assert done.returncode == 0
    assert "cannot be delivered" in line
    assert "7 not sent so far" in line if waits else "7 lost" in line


def test_a_flush_in_vain_is_part_of_the_limit_of_shutdown() -> None:
    """A flush waited the whole `flush_seconds_max`; the shutdown after it does not wait again."""
    exporter = Gated()
    cutaway.configure(exporter=exporter, flush_seconds_max=5, delay_ms=0)
    with cutaway.span("x"):
        pass
    assert cutaway.flush(5) is False
    begin = time.monotonic()
    cutaway.shutdown()
    waited = time.monotonic() - begin
    left = [thread for thread in threading.enumerate() if thread.name == "cutaway-export"]
    exporter.gate.set()
    for thread in left:
        thread.join(30)  # what it says when it comes back belongs to this test

    assert left
    assert waited < 4  # a second wait would be 5


def test_a_flush_in_vain_and_the_recovery_are_one_line_each(caplog: pytest.LogCaptureFixture) -> None:
    """Two flushes that time out are one warning; delivery afterwards is one INFO line that says nothing was lost."""
    caplog.set_level(logging.INFO, "cutaway")
    exporter = Gated()
    cutaway.configure(exporter=exporter, delay_ms=0)
    with cutaway.span("x"):
        pass
    flushed = [cutaway.flush(0.2), cutaway.flush(0.2)]
    exporter.gate.set()
    flushed.append(cutaway.flush(30))

    assert flushed == [False, False, True]
    assert [(record.levelname, record.getMessage().split(";")[0]) for record in caplog.records] == [
        ("WARNING", "spans cannot be delivered (no answer within 0.2 s): 1 not sent so far"), ("INFO", "spans are delivered again"),
    ]
    assert caplog.records[1].getMessage().endswith("0 were lost")
