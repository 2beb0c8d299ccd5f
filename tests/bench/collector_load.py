"""The load generator, a program of its own so that its work is nobody's cost: python -m tests.bench.collector_load OPTIONS.

Prepares every request in memory, prints `prepared`, waits for a line on stdin, sends over OTLP/HTTP or gRPC and prints one JSON
line: spans accepted and refused, tries that were turned away, seconds, latencies of acknowledged requests. Measures no collector.
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import json
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
from tests.bench.collector_payloads import Copies

_EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_AGAIN = ("UNAVAILABLE", "RESOURCE_EXHAUSTED")
_PATIENCE_S = 120


def _over_http(url: str, gzipped: bool) -> Callable[[bytes], str]:
    place = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port or 80, timeout=60)
    headers = {"Content-Type": "application/x-protobuf"} | ({"Content-Encoding": "gzip"} if gzipped else {})

    def send(body: bytes) -> str:
        connection.request("POST", place.path, body, headers)
        answer = connection.getresponse()
        answer.read()
        return {200: "taken", 429: "again", 503: "again"}.get(answer.status, f"HTTP {answer.status}")

    return send


def _over_grpc(place: str, gzipped: bool) -> Callable[[bytes], str]:
    # A channel of its own for each sender: channels to one address share a connection otherwise.
    channel = grpc.insecure_channel(place, options=[("grpc.use_local_subchannel_pool", 1)])
    export = channel.unary_unary(_EXPORT)
    compression = grpc.Compression.Gzip if gzipped else grpc.Compression.NoCompression

    def send(body: bytes) -> str:
        try:
            export(body, timeout=60, compression=compression)
        except grpc.RpcError as error:
            return "again" if error.code().name in _AGAIN else f"gRPC {error.code().name}"
        return "taken"

    return send


class Sender(threading.Thread):
    """One connection, one request at a time; `latencies_s` of the acknowledged ones."""

    def __init__(self, send: Callable[[bytes], str], bodies: list[bytes], interval_s: float) -> None:
        super().__init__()
        self._send, self._bodies, self._interval_s = send, bodies, interval_s
        self.latencies_s: list[float] = []
        self.refused: list[str] = []
        self.turned_away = 0

    def run(self) -> None:
        """Sends everything. A late answer does not move later requests: latency counts from when a request was due."""
        began = time.perf_counter()
        for index, body in enumerate(self._bodies):
            due = began + index * self._interval_s
            time.sleep(max(0.0, due - time.perf_counter()))
            from_s = due if self._interval_s else time.perf_counter()
            self._one(body, from_s)

    def _one(self, body: bytes, from_s: float) -> None:
        wait_s = 0.05
        while (answer := self._send(body)) == "again" and time.perf_counter() - from_s < _PATIENCE_S:
            self.turned_away += 1
            time.sleep(wait_s)
            wait_s = min(1.0, wait_s * 2)
        if answer == "taken":
            self.latencies_s.append(time.perf_counter() - from_s)
        else:
            self.refused.append(answer)


def main() -> int:
    """Runs one load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", help="http://host:port/v1/traces, or host:port for gRPC")
    parser.add_argument("payload", type=Path)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--gzip", action="store_true")
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second over all connections, 0 for as fast as it goes")
    arguments = parser.parse_args()
    copies = Copies(arguments.payload.read_bytes())
    over_http = arguments.target.startswith("http")
    bodies = [copies.next() for _ in range(arguments.requests)]
    if arguments.gzip and over_http:
        bodies = [gzip.compress(body, 6) for body in bodies]
    connect = _over_http if over_http else _over_grpc
    interval_s = arguments.connections / arguments.rate if arguments.rate else 0.0
    senders = [Sender(connect(arguments.target, arguments.gzip), bodies[first :: arguments.connections], interval_s)
               for first in range(arguments.connections)]
    print("prepared", flush=True)
    sys.stdin.readline()
    began = time.perf_counter()
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    took_s = time.perf_counter() - began
    latencies_s = np.array([latency for sender in senders for latency in sender.latencies_s] or [np.nan])
    print(json.dumps({
        "accepted": copies.spans * sum(len(sender.latencies_s) for sender in senders),
        "refused": sorted({answer for sender in senders for answer in sender.refused}),
        "turned_away": sum(sender.turned_away for sender in senders), "seconds": took_s,
        "p50_ms": float(np.percentile(latencies_s, 50)) * 1e3, "p99_ms": float(np.percentile(latencies_s, 99)) * 1e3,
    }), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
