"""Every example and the demo run as a user would run them, and their traces are found."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from serving import Serving

EXAMPLES = Path(__file__).parent.parent.parent / "examples"

EXPECTED = {
    "quickstart": ("quickstart", {"answer": "", "generation": "answer"}, 1),
    "batch": ("batch", {"complete prompts": "", "generation": "complete prompts"}, 3),
    "streaming": ("streaming", {"stream": "", "generation": "stream"}, 1),
    "own_provider": ("own-provider", {"handle request": "", "generation": "handle request"}, 1),
    "diffusion": ("diffusion", {"paint": "", "generation": "paint"}, 0),
}
"""Example -> its service, its spans with their parents, the sequences of its generation (a picture has none)."""


def test_every_example_is_expected_something_of() -> None:
    """A new example gets a line above."""
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(EXPECTED)


# The first is what a newcomer runs; the others are the same road again, each with a model to load.
@pytest.mark.parametrize("name", [name if name == "quickstart" else pytest.param(name, marks=pytest.mark.slow)
                                  for name in sorted(EXPECTED)])
def test_example(serving: Serving, name: str) -> None:
    """An example runs, prints what the model said, and its spans are found with the right parents and sequences."""
    service, parents, sequences = EXPECTED[name]
    environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{serving.addresses['otlp_grpc']}",
                   "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_INSECURE": "true"}
    command = [sys.executable, str(EXAMPLES / f"{name}.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    rows = _rows(serving, f"service:{service}", len(parents))
    names = {row["span_id"]: "generation" if row["operation"] else row["name"] for row in rows}
    assert {names[row["span_id"]]: names.get(row["parent_span_id"], "") for row in rows} == parents
    generation = next(row for row in rows if row["operation"])
    page = serving.json(f"/gen/{generation['span_id']}.json")
    assert len(page["sequences"]) == sequences
    if not sequences:
        assert [len(page["diffusion"][name]) for name in ("time_s", "timestep", "latent_norm", "latent_change")] == [12] * 4
        return
    assert page["attention"]["status"] == "recorded"
    assert {score["name"] for score in page["scores"]} >= {"worst_window_surprisal", "seq_rep_4", "surprisal_q1"}
    has_text = ["tokens" in sequence for sequence in page["sequences"]]
    assert has_text == [name in ("quickstart", "streaming")] * sequences


def _rows(serving: Serving, q: str, count: int) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 5
    while True:
        rows: list[dict[str, Any]] = serving.json("/search.json", q=q)["rows"]
        if len(rows) >= count or time.monotonic() > deadline:
            return rows
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_demo_once(tmp_path: Path) -> None:
    """`cutaway demo --once` exits 0 after search has found its traces, and leaves them on disk for the next start. Into a pipe it
    says its steps in plain lines."""
    done = subprocess.run([sys.executable, "-m", "cutaway_collector", "demo", "--once", "--data", str(tmp_path / "data"),
                           "--ui", "127.0.0.1:0"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "search found all 20 traces" in done.stdout
    steps = re.findall(r"^\[(\d+)/22\] (.+)$", done.stdout, re.MULTILINE)
    assert [str(place) for place in range(1, 23)] == [place for place, _ in steps]
    assert ("loading", "generating: an error") == (steps[0][1].split()[0], steps[-2][1])
    assert all(char.isprintable() for line in done.stdout.split("\n") for char in line)
    with Serving(tmp_path / "data") as again:
        rows = again.json("/search.json", limit="200")["rows"]
        reasons = [json.dumps(row) for row in rows if row["status"] == "Error"]
        assert len({row["trace_id"] for row in rows}) == 20
        assert len(reasons) == 2  # the failed generation and the function around it
