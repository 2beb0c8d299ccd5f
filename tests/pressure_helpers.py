"""Shared by the tests that press a real collector process: one over a ClickHouse server, a sender, a look at its memory."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from serving import Serving


class Collecting(Serving):
    """`cutaway serve --clickhouse URL` on free ports."""

    def __init__(self, folder: Path, url: str, *flags: str) -> None:
        self.data = folder
        self.log = folder.parent / f"{folder.name}.log"
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cutaway_collector", "serve", "--clickhouse", url, "--spool", str(folder / "spool"),
                 "--otlp-grpc", "127.0.0.1:0", "--otlp-http", "127.0.0.1:0", "--ui", "127.0.0.1:0", *flags],
                stdout=subprocess.PIPE, stderr=log, text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        self.addresses: dict[str, str] = json.loads(line)


def post(address: str, payload: bytes) -> tuple[int, str]:
    """One OTLP/HTTP request over a connection of its own: (status, Retry-After or "")."""
    connection = http.client.HTTPConnection(address, timeout=120)
    try:
        connection.request("POST", "/v1/traces", payload, {"Content-Type": "application/x-protobuf"})
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.headers.get("Retry-After", "")
    finally:
        connection.close()


def metric(serving: Serving, name: str) -> float:
    """The sum of a series over its labels, as /metrics tells it."""
    lines = [line for line in serving.text("/metrics").splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


class Peak:
    """The largest resident memory that was seen, in bytes."""

    def __init__(self, now: int) -> None:
        self.nbytes = now


@contextmanager
def watched(process: int) -> Iterator[Peak]:
    """Looks at a process's resident memory fifty times a second."""
    memory = psutil.Process(process).memory_info
    peak, over = Peak(memory().rss), threading.Event()

    def look() -> None:
        while not over.wait(0.02):
            peak.nbytes = max(peak.nbytes, memory().rss)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()
