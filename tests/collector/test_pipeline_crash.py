"""kill -9, again and again: what was acknowledged is stored exactly once, also when the sender did not hear and sends it again."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline_helpers
from pipeline_helpers import LANE, LANES, SPANS_A_REQUEST

RUN = 1_000_000
"""Numbers of one run of the victim begin this far from those of the last."""


def _start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, pipeline_helpers.__file__, str(folder), *arguments], stdout=subprocess.PIPE, text=True)


def _doubtful(turn: int, acknowledged: list[int]) -> list[int]:
    """What a sender that lost its collector sends again: in every lane the last request it has heard of, and the one after that."""
    again: list[int] = []
    for lane in range(LANES):
        first = turn * RUN + lane * LANE
        last = max((number for number in acknowledged if first <= number < first + LANE), default=first - SPANS_A_REQUEST)
        again += [number for number in (last, last + SPANS_A_REQUEST) if number >= first]
    return again


def _killed(folder: Path, turn: int, again: list[int]) -> list[int]:
    """Runs the victim and kills it at a random moment: the numbers of the requests that were acknowledged."""
    child = _start(folder, str(turn * RUN), " ".join(map(str, again)))
    assert child.stdout is not None
    lines = [child.stdout.readline() for _ in range(random.randrange(1, 60))]
    child.kill()
    # What it printed before it died was acknowledged as well; a line cut in two was not read in full by anyone.
    lines += child.stdout.read().splitlines(keepends=True)
    child.stdout.close()
    child.wait()
    return [int(line) for line in lines if line.endswith("\n") and line.strip()]


def _survives(folder: Path, kills: int) -> None:
    acknowledged: list[int] = []
    again: list[int] = []
    for turn in range(kills):
        heard = _killed(folder, turn, again)
        acknowledged += heard
        again = _doubtful(turn, heard)
    drain = _start(folder, "drain")
    said, found = drain.communicate(timeout=240)[0].splitlines()
    assert said == "drained True"
    numbers = [int(word) for word in found.split()]
    assert len(numbers) == len(set(numbers)), "a span was stored twice"
    expected = {first + index for first in acknowledged for index in range(SPANS_A_REQUEST)}
    assert len(acknowledged) >= kills
    assert expected <= set(numbers), "an acknowledged span is missing"


@pytest.mark.timeout(240)
def test_fault_1_acknowledged_spans_survive_being_killed(tmp_path: Path) -> None:
    """Four times killed at a random moment under load, doubtful requests sent again: every acknowledged span once, none twice."""
    _survives(tmp_path, 4)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fault_1_two_hundred_kills(tmp_path: Path) -> None:
    """The same two hundred times."""
    _survives(tmp_path, 200)
