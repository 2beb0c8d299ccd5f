"""`cutaway demo`: the whole chain on a real model. A user of the SDK like any other; the collector runs as its own process.

Starts `cutaway serve` on chDB, runs about twenty varied generations of SmolLM2-135M-Instruct under `cutaway.instrument()`, waits
until search has found them, prints where to look. Every step is said as it begins, on a terminal and in a log alike.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import cutaway
from cutaway_collector.demo_scenes import SCENES, Stage
from cutaway_collector.errors import CutawayError
from cutaway_collector.settings import split_address

FOUND_SECONDS_MAX: Final = 60.0


def run(*, once: bool, data: str | None, ui: str) -> int:
    """Runs the demo. Exit 0 after search has found every trace; without `once` it first stays up until interrupted."""
    with tempfile.TemporaryDirectory(prefix="cutaway-demo-") as scratch:
        directory = data or (scratch if once else _state_directory())
        print("starting the collector (a minute the first time: it compiles its kernels)", flush=True)
        with _collector(directory, _free_or_any(ui)) as addresses:
            link = f"http://{addresses['ui']}"
            print(f"collector is up: {link}", flush=True)
            began_ns = time.time_ns()
            traces = _generate(addresses["otlp_grpc"])
            _wait_until_found(link, traces, began_ns)
            _show(link, began_ns)
            if not once:
                print("\nIt stays up until you press Ctrl-C.", flush=True)
                _sleep_until_interrupted()
    return 0


def _state_directory() -> str:
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return str(Path(base) / "cutaway" / "demo")


def _free_or_any(address: str) -> str:
    host, port = split_address("--ui", address)
    try:
        with socket.create_server((host, port)):
            return address
    except OSError:
        return f"{host}:0"


@contextmanager
def _collector(directory: str, ui: str) -> Iterator[dict[str, str]]:
    """`cutaway serve` in a process of its own; yields its addresses, stops it afterwards."""
    command = [sys.executable, "-m", "cutaway_collector", "serve", "--data", directory,
               "--otlp-grpc", "127.0.0.1:0", "--otlp-http", "127.0.0.1:0", "--ui", ui]
    log_path = Path(directory).parent / f"{Path(directory).name}.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("w") as log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise CutawayError(f"the collector did not start: {_last_line(log_path)}")
            yield json.loads(line)
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _generate(endpoint: str) -> list[str]:
    """Runs every scene under instrumentation; returns the trace ids."""
    with _steps(len(SCENES) + 2) as begin:
        begin("loading SmolLM2-135M (a minute the first time)")
        from cutaway import smollm2

        _quiet_transformers()
        model, tokenizer = smollm2.load()
        cutaway.configure(endpoint=f"http://{endpoint}", protocol="grpc", service_name="cutaway-demo", capture="text",
                          tokenizer=tokenizer, attention_layers_max=0, alternatives=5)  # what the product shows, whatever it costs
        cutaway.instrument()
        stage = Stage(model, tokenizer)
        traces = []
        for scene in SCENES:
            begin(f"generating: {scene.title}")
            traces.append(scene.play(stage))
        begin("sending what is left")
        cutaway.uninstrument()
        cutaway.flush()
        cutaway.shutdown()
    return traces


@contextmanager
def _steps(total: int) -> Iterator[Callable[[str], None]]:
    """Gives what says that a step begins: on a terminal a bar that moves in place, anywhere else a line, at once, so that a log
    shows how far things are."""
    place = itertools.count(1)
    if not sys.stdout.isatty():
        yield lambda title: print(f"[{next(place)}/{total}] {title}", flush=True)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description:<46}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("", total=total)
        yield lambda title: bar.update(task, description=title, completed=next(place) - 1)
        bar.update(task, description="done", completed=total)


def _quiet_transformers() -> None:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def _search(link: str, began_ns: int, q: str, limit: int = 200, sort: str = "") -> list[dict[str, Any]]:
    asked = {"q": q, "from": str(began_ns), "limit": str(limit), "sort": sort}
    url = f"{link}/search.json?{urllib.parse.urlencode({k: v for k, v in asked.items() if v})}"
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310  our own loopback address
        rows: list[dict[str, Any]] = json.load(answer)["rows"]
    return rows


def _wait_until_found(link: str, traces: list[str], began_ns: int) -> None:
    print("waiting until search finds every trace", flush=True)
    missing = set(traces)
    deadline = time.monotonic() + FOUND_SECONDS_MAX
    while missing:
        missing -= {row["trace_id"] for row in _search(link, began_ns, "")}
        if missing and time.monotonic() > deadline:
            raise CutawayError(f"{len(missing)} of {len(traces)} traces were not found within {FOUND_SECONDS_MAX:.0f} s")
        if missing:
            time.sleep(0.1)
    print(f"search found all {len(traces)} traces", flush=True)


def _show(link: str, began_ns: int) -> None:
    rows = _search(link, began_ns, "is:generation", sort="-perplexity")
    least = rows[0] if rows else None
    print(f"\nLook here:\n\n  search           {link}/search")
    if least is not None:
        print(f"  least certain    {link}/gen/{least['span_id']}")
        print(f"  its trace        {link}/trace/{least['trace_id']}")
    print(f"  perplexity > 20  {link}/search?{urllib.parse.urlencode({'q': 'perplexity:>20'})}", flush=True)


def _sleep_until_interrupted() -> None:
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        print("\nstopping", flush=True)
