"""What a span costs whole collector processes, one after another on the same payload files: `python -m tests.bench peers`.

Not a benchmark of libraries: each contender is the program its users start, and the figure is the CPU time of its processes (never
the load generator's or the sink's) from the first request until it is done with the last. Contenders that are not installed are
named and left out. To install them, each in an environment of its own:

    python -m venv build/peers/rotel && build/peers/rotel/bin/pip install --pre rotel
    python -m venv build/peers/phoenix && build/peers/phoenix/bin/pip install arize-phoenix

`sink` contenders write to a server that discards (collector_sink.py); `queryable` ones are done when every span is found.
rotel runs as configured by default but for compression of its inserts, which is off for every contender, and the limits it needs to
take the larger payloads.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil
from tests.bench.collector_payloads import path_of

ROOT = Path(__file__).parent.parent.parent
PEERS = Path(os.environ.get("CUTAWAY_BENCH_PEERS", ROOT / "build" / "peers"))
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Run:
    """One contender on one payload. cpu_s: user and system, children included; peak_bytes: resident; seconds: until done."""

    contender: str
    payload: str
    gzip: bool
    spans: int
    cpu_s: float
    seconds: float
    peak_bytes: int
    p50_ms: float
    p99_ms: float
    turned_away: int

    @property
    def rate(self) -> float:
        """Spans a CPU second."""
        return self.spans / self.cpu_s


class Contender(Protocol):
    """A running collector: where it takes OTLP/HTTP, its process, and how many spans it is done with."""

    target: str
    process: subprocess.Popen[bytes]

    def done(self) -> int:
        """Spans that reached the sink, or are queryable."""
        ...


@dataclass
class _Running:
    target: str
    process: subprocess.Popen[bytes]
    done: Callable[[], int] = field(repr=False)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


def _get(url: str, body: bytes | None = None) -> bytes:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"} if body else {})
    with urllib.request.urlopen(request, timeout=30) as answer:
        content: bytes = answer.read()
    return content


def wait(until: Callable[[], Any], what: str, deadline_s: float = 120.0, look_s: float = 0.1) -> Any:
    """What `until` answers once it is true, asked every `look_s`. Raises TimeoutError."""
    last_s = time.monotonic() + deadline_s
    while time.monotonic() < last_s:
        with contextlib.suppress(OSError, urllib.error.URLError):
            if result := until():
                return result
        time.sleep(look_s)
    raise TimeoutError(f"{what} within {deadline_s:.0f} s")


@contextlib.contextmanager
def _process(command: list[str], folder: Path, *, read: bool, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """read: its output is read here. What nobody reads goes to the log: Phoenix does not start where its pipe is full."""
    with open(folder / "log", "ab") as log:
        started = subprocess.Popen(command, stdout=subprocess.PIPE if read else log, stderr=log, cwd=ROOT,
                                   env=ENVIRONMENT | environment)
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(30)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


@contextlib.contextmanager
def sink(folder: Path) -> Iterator[str]:
    """A discarding server; its URL."""
    program = str(Path(__file__).parent / "collector_sink.py")
    with _process([sys.executable, program, "0", str(folder / "sink")], folder, read=True) as process:
        assert process.stdout is not None
        port = process.stdout.readline().split()[1].decode()
        yield f"http://127.0.0.1:{port}"


def _taken(url: str) -> Callable[[], int]:
    return lambda: int(json.loads(_get(f"{url}/taken"))["spans"])


@contextlib.contextmanager
def cutaway(
    folder: Path, *arguments: str, program: Sequence[str] = ("-m", "cutaway_collector")
) -> Iterator[tuple[dict[str, str], subprocess.Popen[bytes]]]:
    """`cutaway serve`: what it says when it is ready, and its process."""
    command = [sys.executable, *program, "serve", "--otlp-grpc", "127.0.0.1:0", "--otlp-http", "127.0.0.1:0",
               "--ui", "127.0.0.1:0", "--spool", str(folder / "spool"), *arguments]
    with _process(command, folder, read=True) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline()), process


def count(ui: str, metric: str) -> int:
    """A counter of a collector's /metrics."""
    for line in _get(f"http://{ui}/metrics").decode().splitlines():
        if line.startswith(f"{metric} "):
            return int(float(line.split()[1]))
    raise AssertionError(f"the collector counts {metric}")


@contextlib.contextmanager
def cutaway_sink(folder: Path) -> Iterator[Contender]:
    """`cutaway serve --clickhouse` to the sink."""
    with sink(folder) as url, cutaway(folder, "--clickhouse", url) as (ready, process):
        yield _Running(f"http://{ready['otlp_http']}/v1/traces", process, _taken(url))


@contextlib.contextmanager
def cutaway_sink_grpc(folder: Path) -> Iterator[Contender]:
    """The same over gRPC."""
    with sink(folder) as url, cutaway(folder, "--clickhouse", url) as (ready, process):
        yield _Running(ready["otlp_grpc"], process, _taken(url))


@contextlib.contextmanager
def cutaway_queryable(folder: Path) -> Iterator[Contender]:
    """`cutaway serve --data`: embedded; done when the engine has confirmed the insert, after which any query sees it."""
    with cutaway(folder, "--data", str(folder / "data")) as (ready, process):
        yield _Running(f"http://{ready['otlp_http']}/v1/traces", process, lambda: count(ready["ui"], "cutaway_spans_stored_total"))


@contextlib.contextmanager
def rotel_sink(folder: Path) -> Iterator[Contender]:
    """The binary that rotel's wheel brings, to the sink. FileNotFoundError when it is not installed."""
    program = next(iter(sorted(PEERS.glob("rotel/lib/*/site-packages/rotel/rotel-agent"))), None)
    if program is None:
        raise FileNotFoundError(f"rotel is not installed in {PEERS / 'rotel'}")
    http, grpc = _free_port(), _free_port()
    with sink(folder) as url, _process([
        str(program), "start", "--otlp-http-endpoint", f"127.0.0.1:{http}", "--otlp-grpc-endpoint", f"127.0.0.1:{grpc}",
        "--exporter", "clickhouse", "--clickhouse-exporter-endpoint", url, "--clickhouse-exporter-compression", "none",
        "--otlp-grpc-max-recv-msg-size-mib", "64",
    ], folder, read=False) as process:
        wait(lambda: socket.create_connection(("127.0.0.1", http), 1).close() is None, "rotel answers")
        yield _Running(f"http://127.0.0.1:{http}/v1/traces", process, _taken(url))


@contextlib.contextmanager
def phoenix_queryable(folder: Path) -> Iterator[Contender]:
    """Phoenix with its own SQLite; done when its API counts every span. FileNotFoundError when it is not installed."""
    program = PEERS / "phoenix" / "bin" / "phoenix"
    if not program.exists():
        raise FileNotFoundError(f"arize-phoenix is not installed in {PEERS / 'phoenix'}")
    http, grpc = _free_port(), _free_port()
    environment = {"PHOENIX_PORT": str(http), "PHOENIX_GRPC_PORT": str(grpc), "PHOENIX_HOST": "127.0.0.1",
                   "PHOENIX_WORKING_DIR": str(folder), "PHOENIX_TELEMETRY_ENABLED": "false"}
    with _process([str(program), "serve"], folder, read=False, **environment) as process:
        url = f"http://127.0.0.1:{http}"
        wait(lambda: _get(f"{url}/healthz") is not None, "Phoenix answers", 300)
        question = json.dumps({"query": "{ projects { edges { node { recordCount } } } }"}).encode()

        def found() -> int:
            edges = json.loads(_get(f"{url}/graphql", question))["data"]["projects"]["edges"]
            return sum(edge["node"]["recordCount"] for edge in edges)

        yield _Running(f"{url}/v1/traces", process, found)


CONTENDERS: dict[str, Callable[[Path], contextlib.AbstractContextManager[Contender]]] = {
    "cutaway-sink": cutaway_sink, "rotel-sink": rotel_sink, "cutaway-queryable": cutaway_queryable,
    "phoenix-queryable": phoenix_queryable, "cutaway-sink-grpc": cutaway_sink_grpc,
}
REQUESTS = {"P1": 200, "P2": 60, "P3": 16, "P4": 32}
PHOENIX_REQUESTS = {"P1": 4, "P2": 4, "P3": 1, "P4": 4}
"""Fewer: at its pace the other counts would take minutes each."""


def cpu_s(process: psutil.Process) -> float:
    """User and system, children included."""
    total = 0.0
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            total += times.user + times.system
    return total


def _peak_bytes(process: psutil.Process) -> int:
    total = 0
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{one.pid}/status").read_text()
            total += int(status.split("VmHWM:")[1].split()[0]) * 1024
    return total


def load(target: str, payload: str, requests: int, *options: str) -> Callable[[], dict[str, Any]]:
    """Starts a generator and waits until its requests are made; the result sends them and returns what it reports."""
    generator = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.collector_load", target, str(path_of(payload)), "--requests", str(requests), *options],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=ENVIRONMENT)
    assert generator.stdin is not None
    assert generator.stdout is not None
    if generator.stdout.readline() != b"prepared\n":
        raise RuntimeError("the load generator did not start")

    def go() -> dict[str, Any]:
        report, _ = generator.communicate(b"go\n")
        result: dict[str, Any] = json.loads(report)
        return result

    return go


def measure(name: str, payload: str, *, gzip: bool = False, requests: int | None = None, rate: float = 0.0) -> Run:
    """Starts the contender, sends it half as many requests to warm it up, then measures. Raises FileNotFoundError, RuntimeError.

    Half as many: a collector takes memory from the kernel until it has what its load wants, and that happens once in its life.
    """
    options = [*(["--gzip"] if gzip else []), *(["--rate", str(rate)] if rate else [])]
    count = requests or (PHOENIX_REQUESTS if name.startswith("phoenix") else REQUESTS)[payload]
    with tempfile.TemporaryDirectory(prefix="cutaway-bench-") as made, CONTENDERS[name](Path(made)) as running:
        warm = load(running.target, payload, max(1, count // 2), *options)()
        wait(lambda: running.done() >= warm["accepted"] > 0, f"{name} is done with the first spans ({warm})", 600)
        go = load(running.target, payload, count, *options)
        process = psutil.Process(running.process.pid)
        before, used_s, began = running.done(), cpu_s(process), time.perf_counter()
        report = go()
        if report["refused"]:
            raise RuntimeError(f"{name} refused {payload}: {report['refused']}")
        wait(lambda: running.done() - before >= report["accepted"], f"{name} is done", 900)
        return Run(name, payload, gzip, report["accepted"], cpu_s(process) - used_s, time.perf_counter() - began,
                   _peak_bytes(process), report["p50_ms"], report["p99_ms"], report["turned_away"])


def _line(runs: list[Run]) -> str:
    rates = sorted(run.rate for run in runs)
    first = runs[0]
    return (f"{first.contender:<20} {first.payload}{' gzip' if first.gzip else '     '} "
            f"{statistics.median(rates):>12,.0f} spans/CPU s [{rates[0]:,.0f}, {rates[-1]:,.0f}] of {len(runs)}  "
            f"{statistics.median(run.spans / run.seconds for run in runs):>10,.0f} spans/s  "
            f"peak {max(run.peak_bytes for run in runs) / 2**20:,.0f} MiB  "
            f"ack p99 {statistics.median(run.p99_ms for run in runs):,.0f} ms")


def main(arguments: list[str]) -> int:
    """Every contender in turn, `--rounds` times over, so that none has the machine's good minute to itself."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench peers", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contenders", nargs="*", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--payloads", nargs="*", default=list(REQUESTS), choices=list(REQUESTS))
    parser.add_argument("--gzip", nargs="*", default=["no", "yes"], choices=["no", "yes"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second; 0 is as fast as they are taken")
    parser.add_argument("--requests", type=int, default=None)
    chosen = parser.parse_args(arguments)
    kept: list[Run] = []
    for payload in chosen.payloads:
        for gzipped in (word == "yes" for word in chosen.gzip):
            runs: dict[str, list[Run]] = {name: [] for name in chosen.contenders}
            for _ in range(chosen.rounds):
                for name in list(runs):
                    try:
                        runs[name].append(measure(name, payload, gzip=gzipped, requests=chosen.requests, rate=chosen.rate))
                    except (FileNotFoundError, RuntimeError, TimeoutError) as error:
                        print(f"left out: {name} {payload}{' gzip' if gzipped else ''}: {error}", flush=True)
                        del runs[name]
            for each in runs.values():
                print(_line(each), flush=True)
                kept += each
    out = ROOT / "build" / "bench" / "peers.json"
    out.write_text(json.dumps([asdict(run) | {"rate": run.rate} for run in kept], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
