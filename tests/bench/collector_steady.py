"""One collector under a steady load: `python -m tests.bench ack` and `python -m tests.bench soak --minutes N`.

Not a comparison with others. Each run first finds what the collector sustains on this machine at this moment (as fast as requests
are taken, until the last span is queryable), then sends a share of that on a schedule fixed beforehand. Latency counts from the
moment a request was due: a collector that stalls is charged for every request it kept waiting, those not yet sent included.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
from tests.bench.collector_payloads import KINDS, Copies, path_of
from tests.bench.collector_peers import CONTENDERS, ROOT, Contender, load

OUT = ROOT / "build" / "bench"
SAMPLE_S = 5.0
WARM_UP_SHARE = 0.2
"""Of a soak: caches fill and pools grow to their size, which says nothing about what comes after."""
BLOCK_SAMPLES = 12
"""Neighbouring samples of memory are alike: a minute of them is drawn together when the slope's spread is estimated."""
_PATIENCE_S = 600


@dataclass
class Sent:
    """What a scheduled load saw. latencies_s: acknowledged requests, from when each was due; late_s: the sender's own delay."""

    latencies_s: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    turned_away: int = 0
    failures: list[str] = field(default_factory=list)


class Schedule:
    """Sends requests over OTLP/HTTP at fixed moments, whoever of `connections` is free taking the next one."""

    def __init__(self, target: str, copies: Copies, rate: float, *, connections: int = 16) -> None:
        self._place = urllib.parse.urlsplit(target)
        self._copies, self._interval_s = copies, 1.0 / rate
        self._lock = threading.Lock()
        self._next = 0
        self._began_s = self._until_s = 0.0
        self.sent = Sent()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(connections)]

    def start(self, seconds: float) -> None:
        """Begins; ends by itself."""
        self._began_s = time.perf_counter() + 0.2
        self._until_s = self._began_s + seconds
        for thread in self._threads:
            thread.start()

    def join(self) -> Sent:
        """Waits for the last answer."""
        for thread in self._threads:
            thread.join()
        return self.sent

    def _run(self) -> None:
        connection = http.client.HTTPConnection(self._place.hostname or "", self._place.port or 80, timeout=60)
        while True:
            body = self._copies.next()  # made before it is due
            with self._lock:
                due_s = self._began_s + self._next * self._interval_s
                self._next += 1
            if due_s > self._until_s:
                return
            time.sleep(max(0.0, due_s - time.perf_counter()))
            late_s = time.perf_counter() - due_s
            try:
                connection.request("POST", self._place.path, body, {"Content-Type": "application/x-protobuf"})
                answer = connection.getresponse()
                answer.read()
                status = answer.status
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                with self._lock:
                    self.sent.failures.append(type(error).__name__)
                continue
            done_s = time.perf_counter() - due_s
            with self._lock:
                if status == 200:
                    self.sent.latencies_s.append(done_s)
                    self.sent.late_s.append(late_s)
                elif status in (429, 503):
                    self.sent.turned_away += 1
                else:
                    self.sent.failures.append(f"HTTP {status}")


def _wait(running: Contender, spans: int) -> None:
    deadline_s = time.monotonic() + _PATIENCE_S
    while running.done() < spans:
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{spans} spans are stored within {_PATIENCE_S} s")
        time.sleep(0.02)


def sustainable(running: Contender, payload: str, requests: int) -> float:
    """Requests a second: sent as fast as they are taken by four connections, until all their spans are stored."""
    go = load(running.target, payload, requests)
    before, began = running.done(), time.perf_counter()
    report = go()
    if report["refused"]:
        raise RuntimeError(f"the collector refused {payload}: {report['refused']}")
    _wait(running, before + report["accepted"])
    return requests / (time.perf_counter() - began)


@contextmanager
def _warm(contender: str, payload: str) -> Iterator[Contender]:
    with tempfile.TemporaryDirectory(prefix="cutaway-bench-") as made, CONTENDERS[contender](Path(made)) as running:
        warm = load(running.target, payload, 20)()
        _wait(running, warm["accepted"])
        yield running


def acknowledge(arguments: argparse.Namespace) -> int:
    """Percentiles of the acknowledgement at a share of the sustainable load, `--rounds` collectors one after another."""
    rounds: list[dict[str, float]] = []
    for _ in range(arguments.rounds):
        with _warm(arguments.contender, arguments.payload) as running:
            copies = Copies(path_of(arguments.payload).read_bytes())
            most = sustainable(running, arguments.payload, arguments.requests)
            schedule = Schedule(running.target, copies, most * arguments.share)
            schedule.start(arguments.seconds)
            sent = schedule.join()
        ms = np.percentile(sent.latencies_s, [50, 99, 100]) * 1e3
        late_ms = float(np.percentile(sent.late_s, 99)) * 1e3
        rounds.append({"sustainable_spans_s": most * copies.spans, "p50_ms": ms[0], "p99_ms": ms[1], "max_ms": ms[2],
                       "sender_late_p99_ms": late_ms, "acknowledged": len(sent.latencies_s), "turned_away": sent.turned_away,
                       "failed": len(sent.failures)})
        print(f"{arguments.contender} {arguments.payload}: sustains {most * copies.spans:,.0f} spans/s; at {arguments.share:.0%} "
              f"of it p50 {ms[0]:.1f} ms, p99 {ms[1]:.1f} ms, longest {ms[2]:.0f} ms of {len(sent.latencies_s)} acknowledged; "
              f"turned away {sent.turned_away}, failed {len(sent.failures)}; the sender itself was late by {late_ms:.1f} ms (p99)",
              flush=True)
    p99s = sorted(one["p99_ms"] for one in rounds)
    print(f"acknowledgement p99 at {arguments.share:.0%}: median {statistics.median(p99s):.1f} ms [{p99s[0]:.1f}, {p99s[-1]:.1f}] "
          f"of {len(p99s)} rounds", flush=True)
    _keep("ack.json", vars(arguments) | {"rounds": rounds})
    return 0


@dataclass(frozen=True)
class Sample:
    """The collector at one moment. seconds since the load began; bytes resident; open files; threads."""

    seconds: float
    resident_bytes: int
    files: int
    threads: int


def slope_mib_h(samples: list[Sample], draws: int = 400) -> tuple[float, float, float]:
    """(slope, low, high) of resident memory in MiB an hour: least squares, 95 % of a bootstrap over blocks of its residuals.

    The block bootstrap: Künsch, "The jackknife and the bootstrap for general stationary observations", Annals of Statistics 1989.
    """
    hours = np.array([one.seconds for one in samples]) / 3600
    mib = np.array([one.resident_bytes for one in samples]) / 2**20
    line = np.polyfit(hours, mib, 1)
    fitted = np.polyval(line, hours)
    residuals = mib - fitted
    chance = np.random.default_rng(0)
    size = min(BLOCK_SAMPLES, len(samples))
    blocks = -(-len(samples) // size)

    def drawn() -> npt.NDArray[np.float64]:
        starts = chance.integers(0, len(samples) - size + 1, blocks)
        return np.concatenate([residuals[start : start + size] for start in starts])[: len(samples)]

    slopes = [np.polyfit(hours, fitted + drawn(), 1)[0] for _ in range(draws)]
    low, high = np.percentile(slopes, [2.5, 97.5])
    return float(line[0]), float(low), float(high)


def soak(arguments: argparse.Namespace) -> int:
    """Memory under half of the sustainable load: a sample every five seconds, their slope, what it may be by chance."""
    with _warm(arguments.contender, arguments.payload) as running:
        copies = Copies(path_of(arguments.payload).read_bytes())
        most = sustainable(running, arguments.payload, arguments.requests)
        schedule = Schedule(running.target, copies, most * arguments.share)
        before, process = running.done(), psutil.Process(running.process.pid)
        samples: list[Sample] = []
        schedule.start(arguments.minutes * 60)
        began = time.monotonic()
        while (now := time.monotonic() - began) < arguments.minutes * 60:
            samples.append(Sample(now, process.memory_info().rss, process.num_fds(), process.num_threads()))
            time.sleep(max(0.0, SAMPLE_S * len(samples) - (time.monotonic() - began)))
        sent = schedule.join()
        _wait(running, before + len(sent.latencies_s) * copies.spans)
        stored = running.done() - before
    steady = samples[int(len(samples) * WARM_UP_SHARE):]
    slope, low, high = slope_mib_h(steady)
    mib = [one.resident_bytes / 2**20 for one in steady]
    ms = np.percentile(sent.latencies_s, [50, 99]) * 1e3
    print(f"{arguments.contender} {arguments.payload}, {arguments.minutes:g} min at {arguments.share:.0%} of "
          f"{most * copies.spans:,.0f} spans/s: {stored:,} spans stored of {len(sent.latencies_s) * copies.spans:,} acknowledged, "
          f"turned away {sent.turned_away} requests, failed {len(sent.failures)}\n"
          f"resident {min(mib):,.0f} to {max(mib):,.0f} MiB, median {statistics.median(mib):,.0f}; slope {slope:+,.1f} MiB/h, "
          f"95 % within [{low:+,.1f}, {high:+,.1f}] ({len(steady)} samples, the first {WARM_UP_SHARE:.0%} left out)\n"
          f"open files {steady[0].files} to {steady[-1].files}, threads {steady[0].threads} to {steady[-1].threads}; "
          f"acknowledged p50 {ms[0]:.1f} ms, p99 {ms[1]:.1f} ms", flush=True)
    _keep("soak.json", vars(arguments) | {
        "sustainable_spans_s": most * copies.spans, "stored": stored, "slope_mib_h": slope, "slope_low": low, "slope_high": high,
        "p50_ms": ms[0], "p99_ms": ms[1], "turned_away": sent.turned_away, "failures": sent.failures,
        "samples": [asdict(one) for one in samples]})
    return 0


def _keep(name: str, what: dict[str, Any]) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / name).write_text(json.dumps(what, indent=2) + "\n")


def main(mode: str, arguments: list[str]) -> int:
    """mode: "ack" or "soak"."""
    parser = argparse.ArgumentParser(prog=f"python -m tests.bench {mode}", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contender", default="cutaway-queryable", choices=["cutaway-queryable", "cutaway-sink"])
    parser.add_argument("--payload", default="P1", choices=list(KINDS))
    parser.add_argument("--share", type=float, default=0.5, help="of the sustainable load")
    parser.add_argument("--requests", type=int, default=300, help="by which the sustainable load is found")
    if mode == "ack":
        parser.add_argument("--rounds", type=int, default=3)
        parser.add_argument("--seconds", type=float, default=30.0, help="of steady load a round")
    else:
        parser.add_argument("--minutes", type=float, default=30.0)
    chosen = parser.parse_args(arguments)
    return acknowledge(chosen) if mode == "ack" else soak(chosen)
