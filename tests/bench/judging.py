"""What judging texts costs: sequences a second of processor time of each text scorer, models among them, and what a budget buys.

Answers of eight sentences to prompts of two, each with a reference and a system prompt, so that every scorer has something to do.
A scorer whose package or model is not installed is named on stderr and left out.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator

import window_helpers as made
from cutaway_collector.contracts import Texts, TextScorer
from cutaway_collector.errors import MissingExtra
from cutaway_collector.judge import registry
from cutaway_collector.judge.models import Models
from cutaway_collector.settings import Settings

Pairs = list[tuple[float, float]]
ROWS = 64
"""Of a batch, as the setting judge_batch_rows_max has it."""
ROWS_OF_MODELS = 8
"""The same for scorers that compute with a language model, tens of milliseconds a text."""
SECONDS_MIN = 0.3
"""Processor time of one measurement: batches are repeated until then."""
SENTENCES = 8
OF_MODELS = ("relevance", "reference_model")


def figures(rounds: int) -> Iterator[tuple[str, str, str, Pairs]]:
    """Rates of each scorer beside the rate of all of them one after the other, of the light ones, and of all within the budget."""
    texts, scorers = batch(ROWS), working()
    light = [scorer for scorer in scorers if scorer.name in registry.LIGHT]
    seconds: dict[str, list[float]] = {scorer.name: [] for scorer in scorers}
    for _ in range(max(2, rounds // 3)):
        for scorer in scorers:
            seconds[scorer.name].append(cost(scorer, texts[:ROWS_OF_MODELS] if scorer.name in OF_MODELS else texts))
    whole = [sum(each) for each in zip(*seconds.values(), strict=True)]
    together = f"all {len(scorers)} one after the other"
    for name, each in seconds.items():
        yield f"text scorer {name}", "sequences/CPU s", together, [
            (1 / one, 1 / every) for one, every in zip(each, whole, strict=True)]
    least = [sum(each) for each in zip(*(seconds[scorer.name] for scorer in light), strict=True)]
    yield f"the {len(light)} light ones together (the default)", "sequences/CPU s", together, [
        (1 / one, 1 / every) for one, every in zip(least, whole, strict=True)]
    percent = Settings(data="unused").judge_core_percent_max
    for name, each in (("light", least), ("all", whole)):
        yield f"judged within the default budget, {name}", "sequences/s", f"one a second; {percent} % of a core", [
            (percent / 100 / one, 1.0) for one in each]


def batch(rows: int) -> Texts:
    """Texts that differ, the same at every call."""
    rng = random.Random(5)

    def said(sentences: int) -> str:
        return " ".join(f"{made.sentence(rng).capitalize()}." for _ in range(sentences))

    return Texts([said(2) for _ in range(rows)], [said(SENTENCES) for _ in range(rows)], [said(SENTENCES) for _ in range(rows)],
                 [said(3)] * rows)


def working() -> list[TextScorer]:
    """Every scorer of ours that has what it needs here; its model is loaded then."""
    try:
        from cutaway.smollm2 import prepare

        reference = str(prepare())
    except Exception as error:  # whatever keeps the model away, the others are measured
        print(f"no reference model: {error}", file=sys.stderr)
        reference = ""
    models = Models(device="cpu", bytes_max=2**31, reference=reference)
    few, found = batch(2), []
    for scorer in registry.text_scorers(",".join(registry.OWN), models, on_failure=lambda name, error: None):
        try:
            scorer.score(few)
            found.append(scorer)
        except MissingExtra as error:
            print(f"not measured: {error}", file=sys.stderr)
    return found


def cost(scorer: TextScorer, texts: Texts) -> float:
    """Seconds of processor time a sequence."""
    began, rows = time.process_time(), 0
    while (took := time.process_time() - began) < SECONDS_MIN:
        scorer.score(texts)
        rows += len(texts)
    return took / rows
