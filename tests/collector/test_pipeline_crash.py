"""kill -9, again and again: what was acknowledged is stored exactly once."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline_helpers

pytestmark = pytest.mark.timeout(120)


def _start(folder: Path, first: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, pipeline_helpers.__file__, str(folder), first], stdout=subprocess.PIPE, text=True)


def test_acknowledged_spans_survive_being_killed(tmp_path: Path) -> None:
    """Three times killed at a random moment under load; every acknowledged span is stored once, no span twice."""
    acknowledged: list[int] = []
    for turn in range(3):
        child = _start(tmp_path, str(turn * 1_000_000))
        assert child.stdout is not None
        wanted = random.randrange(20, 150)
        lines = [child.stdout.readline() for _ in range(wanted)]
        child.kill()
        # What it printed before it died was acknowledged as well; a line cut in two was not read in full by anyone.
        rest = child.stdout.read().splitlines(keepends=True)
        child.stdout.close()
        child.wait()
        acknowledged += [int(line) for line in [*lines, *rest] if line.endswith("\n") and line.strip()]
    drain = _start(tmp_path, "drain")
    said, found = drain.communicate(timeout=120)[0].splitlines()
    assert said == "drained True"
    numbers = [int(word) for word in found.split()]
    assert len(numbers) == len(set(numbers)), "a span was stored twice"
    expected = {first + index for first in acknowledged for index in range(pipeline_helpers.SPANS_A_REQUEST)}
    assert len(acknowledged) >= 60
    assert expected <= set(numbers), "an acknowledged span is missing"
