"""Shared by the tests of text scorers: texts in one line, spans that carry text, judging run to its end, and scores read back.

Run as a program it is the victim of the kill test: python tests/judge_helpers.py DIR judges what is stored in DIR, a span a batch,
and prints a line for every score that a scorer gave.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

import store_helpers
from cutaway_collector.blocks import Strings
from cutaway_collector.contracts import Judged, Store, Texts, TextScorer
from cutaway_collector.judging import Judging, notes
from cutaway_collector.settings import Settings
from cutaway_collector.store import open_store
from search_helpers import START_NS, Span, spans_block

SCORES = ("SELECT TenantId, SpanId, SeqIndex, ScoreName, Value, Label, ScorerVersion, Source, Explanation FROM otel.gen_ai_scores "
          "FINAL ORDER BY ALL")


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """As store_helpers' own, with the patience that a thread beside others needs."""
    store_helpers.wait_until(condition, seconds)


def texts(*answers: str, prompt: str = "", reference: str = "", system: str = "") -> Texts:
    """Answers, all to the same prompt."""
    count = len(answers)
    return Texts([prompt] * count, list(answers), [reference] * count, [system] * count)


def value(scorer: TextScorer, name: str, answer: str = "", **others: str) -> float:
    """One score of one answer."""
    return float(scorer.score(texts(answer, **others))[name].values[0])


def label(scorer: TextScorer, name: str, answer: str = "", **others: str) -> str:
    """Its label."""
    labels = scorer.score(texts(answer, **others))[name].labels
    return "" if labels is None else labels[0]


def chat(number: int, prompt: str, *answers: str, system: str = "", reference: str = "", operation: str = "chat",
         trace: int = 0) -> Span:
    """A span that says this, as OpenTelemetry's conventions write it."""
    def message(role: str, text: str) -> dict[str, Any]:
        return {"role": role, "parts": [{"type": "text", "content": text}]}

    asked = [message("system", system)] * bool(system) + [message("user", prompt)]
    attributes = {"gen_ai.operation.name": operation, "gen_ai.request.model": "m", "gen_ai.input.messages": json.dumps(asked),
                  "gen_ai.output.messages": json.dumps([message("assistant", answer) for answer in answers])}
    if reference:
        attributes["cutaway.reference.text"] = reference
    return Span(number, trace=trace or number, start_ns=START_NS + number, attributes=attributes)


def stored_spans(store: Store, spans: Sequence[Span], tenant: str = "", token: str = "") -> None:
    """Puts them into the store, as spans of a tenant."""
    block = spans_block(spans)
    block.columns["TenantId"] = Strings.repeat(tenant, block.rows)
    store.insert(block, token or f"{tenant}:{spans[0].number}:{len(spans)}:{time.time_ns()}")


class Counting:
    """A text scorer: the length of each answer. raises: what it does instead, while it is set; refuses: answers it fails on."""

    def __init__(self, name: str = "length", *, raises: Exception | None = None, refuses: str = "", slow_s: float = 0.0) -> None:
        self.name, self.version = name, "1"
        self.raises = raises
        self.refuses = refuses
        self.slow_s = slow_s
        self.seen: list[list[str]] = []

    def score(self, texts: Texts) -> Mapping[str, Judged]:
        if self.raises:
            raise self.raises
        if self.refuses and self.refuses in texts.answer:
            raise ValueError(f"cannot read {self.refuses}")
        self.seen.append(list(texts.answer))
        return {self.name: Judged(np.array([len(answer) for answer in texts.answer], np.float64))}


class Running:
    """A judging thread with its registry."""

    def __init__(self, store: Store, scorers: Sequence[TextScorer], **options: Any) -> None:
        self.registry = CollectorRegistry()
        self.judging = Judging(store, scorers, registry=self.registry,
                               **{"settle_ms": 0, "poll_s": 0.02, "retry_s": 0.02, **options})

    def sample(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


@contextmanager
def running(store: Store, *scorers: TextScorer, **options: Any) -> Iterator[Running]:
    """Judging while the block lasts."""
    made = Running(store, scorers, **options)
    made.judging.start()
    try:
        yield made
    finally:
        made.judging.close()


def begun(store: Store) -> None:
    """Judging has been here once: what is stored from now on is its matter."""
    with running(store, Counting()):
        wait_until(lambda: bool(store.query("SELECT 1 FROM otel.cutaway_judging").rows))


def scores(store: Store, name: str = "") -> list[tuple[Any, ...]]:
    """(tenant, span number, sequence, score name, value), of one score or all."""
    rows = store.query(SCORES).rows
    return [(row[0], int(row[1], 16), int(row[2]), row[3], float(row[4])) for row in rows if not name or row[3] == name]


def notes_of(store: Store) -> notes.Note:
    """Where judging is, as the store has it."""
    found = notes.read(store)
    assert found is not None
    return found


def _victim(folder: str) -> None:
    class Telling(Counting):
        def score(self, texts: Texts) -> Mapping[str, Judged]:
            print("judged", len(texts), flush=True)
            return super().score(texts)

    store = open_store(Settings(data=folder))
    running = Running(store, [Telling()], batch_rows_max=3)
    running.judging.start()
    while True:
        time.sleep(1)


if __name__ == "__main__":
    _victim(sys.argv[1])
