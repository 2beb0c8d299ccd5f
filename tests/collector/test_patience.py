"""Plug-ins that never come back: whoever waits for them goes on, and asks again once they have."""

from __future__ import annotations

import threading
import time
import types
from collections.abc import Mapping
from functools import partial
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import numpy as np
import pytest

from cutaway_collector import judge, score
from cutaway_collector.blocks import Block
from cutaway_collector.contracts import Judged, Texts
from cutaway_collector.judge import registry as texts_registry
from cutaway_collector.patience import NoAnswer, Patience
from cutaway_collector.score import registry
from score_helpers import id_rows, surprisal_rows, token_block


def _wait_for_plug_ins() -> None:
    while any(thread.name == "plug-in" for thread in threading.enumerate()):
        time.sleep(0.001)


def test_a_call_that_hangs_is_left_and_asked_again_once_it_has_come_back() -> None:
    """The caller goes on after its time; while the call hangs nothing else is asked; then a pause, then it works as before."""
    release, clock, calls = threading.Event(), [0.0], []
    patience = Patience[int](0.05, pause_s=30, clock=lambda: clock[0])

    def slow() -> int:
        calls.append("slow")
        assert release.wait(60)
        return 1

    with pytest.raises(NoAnswer, match=r"did not answer within 0\.05 s"):
        patience.call(slow)
    clock[0] = 31.0
    with pytest.raises(NoAnswer, match="has not come back"):
        patience.call(slow)
    assert ["slow"] == calls
    release.set()
    _wait_for_plug_ins()
    assert 2 == patience.call(lambda: 2)


def test_who_was_late_is_left_out_for_a_while_that_doubles() -> None:
    """30 s, then 60: a callee that is always late costs its time once a pause."""
    clock = [0.0]
    patience = Patience[bool | None](0.01, pause_s=30, clock=lambda: clock[0])

    for pause_s in (30.0, 60.0):
        release = threading.Event()
        with pytest.raises(NoAnswer, match="did not answer"):
            patience.call(partial(release.wait, 60))
        release.set()
        _wait_for_plug_ins()
        clock[0] += pause_s - 1
        with pytest.raises(NoAnswer, match="left out for a while"):
            patience.call(lambda: None)
        clock[0] += 1
    assert patience.call(lambda: None) is None


def test_an_answer_and_an_error_come_through() -> None:
    """As if it had been called here; the time of its thread is told."""
    patience = Patience[int](30)

    def working() -> int:
        return sum(range(300_000))

    assert sum(range(300_000)) == patience.call(working)
    assert patience.spent_s > 0
    with pytest.raises(ZeroDivisionError):
        patience.call(lambda: 1 // 0)


class Hanging:
    """A plug-in of either kind that waits until it is let go."""

    name = "hanging"
    version = "3"
    columns = ("Surprisals",)
    release = threading.Event()

    def score(self, given: Any) -> Mapping[str, Any]:
        assert self.release.wait(60)
        return {"hung": np.ones(given.rows) if isinstance(given, Block) else Judged(np.ones(len(given)))}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Hanging as an entry point of both groups; setting the event lets it go."""
    monkeypatch.setattr(Hanging, "release", threading.Event())
    monkeypatch.setitem(__import__("sys").modules, "hanging", types.SimpleNamespace(Hanging=Hanging))
    points = EntryPoints([EntryPoint("hanging", "hanging:Hanging", group)
                          for group in (score.ENTRY_POINT_GROUP, judge.ENTRY_POINT_GROUP)])
    for module in (registry, texts_registry):
        monkeypatch.setattr(module, "entry_points", lambda group: points.select(group=group))
    return Hanging.release


def test_a_scorer_that_hangs_costs_its_own_scores_alone(installed: threading.Event) -> None:
    """A block is scored by the others and the ingest behind it goes on; let go, the plug-in is asked again."""
    block = token_block(surprisal_rows(2)[:4], (id_rows(2) * 2)[:4])
    failures: list[str] = []
    found = score.scorers("cpu", seconds_max=0.05)
    assert ("hanging", "3", ("Surprisals",)) == (found[-1].name, found[-1].version, getattr(found[-1], "columns", None))

    scored = score.score_block(block, found, now_ms=0, on_failure=lambda name, error: failures.append(f"{name}: {error}"))
    assert ["hanging: it did not answer within 0.05 s"] == failures
    assert b"surprisal_p50" in set(scored.columns["ScoreName"])
    installed.set()
    again = score.score_block(block, score.scorers("cpu"), now_ms=0, on_failure=lambda name, error: pytest.fail(f"{name}: {error}"))
    assert b"hung" in set(again.columns["ScoreName"])


def test_a_text_scorer_that_hangs_says_so(installed: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that judges goes on with the others, and /readyz can say why without a text."""
    monkeypatch.setattr(texts_registry, "PLUG_IN_SECONDS_MAX", 0.05)
    models = judge.Models(device="cpu", bytes_max=0)
    (plug_in,) = judge.text_scorers("hanging", models, on_failure=lambda name, error: pytest.fail(name))
    texts = Texts(["hi"], ["hello"], [""], [""])

    with pytest.raises(NoAnswer, match="did not answer"):
        plug_in.score(texts)
    installed.set()
