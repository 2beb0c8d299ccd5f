"""A program that forks while its threads work (web servers, data loaders): the child never hangs and sends its own spans."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

PROGRAM = """
import os, signal, sys, threading
import cutaway
from cutaway import configuration, export, guard, machine
from opentelemetry.sdk.trace.export import SpanExportResult

def in_child(work):
    pid = os.fork()
    if not pid:
        signal.alarm(30)     # a child that hangs ends by this signal: its status is not 0
        try:
            work()
        except BaseException as error:
            print("child:", repr(error), flush=True)
            os._exit(3)
        os._exit(0)
    print(os.waitpid(pid, 0)[1], flush=True)
"""

LOCKED = """
class Kept:
    closed = 0
    def export(self, spans): return SpanExportResult.SUCCESS
    def shutdown(self): Kept.closed += 1

cutaway.configure(exporter=Kept())
cutaway.instrument()
from cutaway.diffusion import classes
from cutaway.tap import patches
processor = export._processors[-1]()
held = threading.Event()

def hold():
    with (
        configuration._lock, guard._lock, patches._lock, processor._changed, configuration.finisher._changed, classes._lock,
        machine._lock,
    ):
        held.set()
        threading.Event().wait()

threading.Thread(target=hold, daemon=True).start()
held.wait()

def work():
    assert cutaway.flush() is True
    with cutaway.span("child"):
        guard.once("key", "said %s", "once")
    assert cutaway.flush() is True
    cutaway.instrument()
    cutaway.uninstrument()
    cutaway.shutdown()

in_child(work)
os._exit(0)
"""

UNSENT = """
release = threading.Event()
class Hanging:
    closed = 0
    def export(self, spans): release.wait(); return SpanExportResult.SUCCESS
    def shutdown(self): Hanging.closed += 1

cutaway.configure(exporter=Hanging(), delay_ms=0, flush_seconds_max=3600)
with cutaway.span("the parent's"):
    pass

def work():
    assert cutaway.flush() is True
    cutaway.shutdown()
    assert Hanging.closed == 0, "the child closed the parent's connection"

in_child(work)
os._exit(0)
"""

DELIVERING = """
cutaway.configure(endpoint=sys.argv[1])
with cutaway.span("before"):
    pass
assert cutaway.flush()
mine = export._processors[-1]()._exporter

def work():
    with cutaway.span("child"):
        pass
    assert cutaway.flush()
    assert export._processors[-1]()._exporter is not mine

in_child(work)
with cutaway.span("after"):
    pass
assert cutaway.flush()
"""


def run(program: str, *arguments: str) -> tuple[str, str]:
    """(standard output, standard error) of a program in an interpreter of its own."""
    done = subprocess.run([sys.executable, "-c", PROGRAM + program, *arguments], capture_output=True, text=True, timeout=120)
    return done.stdout, done.stderr


@pytest.mark.slow
def test_no_lock_of_another_thread_reaches_the_child() -> None:
    """Every lock of ours is held by another thread at the fork: the child traces, logs, flushes, patches and shuts down."""
    out, err = run(LOCKED)

    assert out == "0\n"
    assert err == "said once\n"


def test_a_child_with_nothing_of_its_own_does_not_wait() -> None:
    """The parent's spans are stuck; flush and shutdown in the child return at once, say nothing and leave the exporter open."""
    assert run(UNSENT) == ("0\n", "")


def test_parent_and_child_deliver_each_its_own() -> None:
    """Over HTTP the child uses an exporter of its own; every span arrives once."""
    for arrived, endpoint in _receiving():
        out, err = run(DELIVERING, endpoint)
        assert (out, err) == ("0\n", "")
        assert sorted(arrived) == ["after", "before", "child"]


def _receiving() -> Iterator[tuple[list[str], str]]:
    arrived: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # connections stay open, as collectors keep them

        def do_POST(self) -> None:
            request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
            arrived.extend(span.name for rs in request.resource_spans for ss in rs.scope_spans for span in ss.spans)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield arrived, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
