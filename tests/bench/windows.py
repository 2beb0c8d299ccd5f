"""What window scores cost: CPU seconds of a window's answers, of the measures alone and with a corpus, and out of a real store.

The window has five groups, as a service with five routes. Beside the last figure stands what one core has in such a window.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry

import window_helpers as made
from cutaway_collector.settings import Settings
from cutaway_collector.store import open_store
from cutaway_collector.windowing import LATENESS_SECONDS, Windows
from cutaway_collector.windows import Answer, Index, corpora, window_scores
from search_helpers import spans_block

Pairs = list[tuple[float, float]]
GROUPS, ANSWERS, WORDS = 5, 200, 200
CORPUS_WORDS = 400_000
WINDOW_S = 900
GENERATIONS = 10_000
"""Of the stored window: of each group ANSWERS are judged."""


def figures(rounds: int) -> Iterator[tuple[str, str, str, Pairs]]:
    """CPU seconds of the scores of GROUPS x ANSWERS answers, each beside the simpler case of the same round."""
    rounds = max(2, rounds // 3)
    groups = [answers(seed) for seed in range(GROUPS)]
    words = [[Answer(one.trace_id, text=one.text, surprisals=one.surprisals) for one in group] for group in groups]
    with tempfile.TemporaryDirectory() as folder:
        corpora.add(Path(folder), "texts", [(str(number), " ".join(vocabulary(np.random.default_rng(number), 1000)))
                                            for number in range(CORPUS_WORDS // 1000)])
        indexes = corpora.load(Path(folder))
        taken = [(cpu_s(lambda: judge(groups, [])), cpu_s(lambda: judge(words, [])), cpu_s(lambda: judge(groups, indexes)))
                 for _ in range(rounds)]
    what = f"window scores, {GROUPS * ANSWERS:,} answers of {WORDS} tokens"
    yield what, "CPU s", f"a core in a window of {WINDOW_S} s", [(ids, float(WINDOW_S)) for ids, _, _ in taken]
    yield "the same by words, without token ids", "CPU s", "with token ids", [(text, ids) for ids, text, _ in taken]
    yield f"the same with a corpus of {CORPUS_WORDS:,} words", "CPU s", "without a corpus", [(long, ids) for ids, _, long in taken]
    yield f"a window of {GENERATIONS:,} generations, chDB", "CPU s", f"a core in a window of {WINDOW_S} s", [
        (took, float(WINDOW_S)) for took in stored(rounds)]


def vocabulary(rng: np.random.Generator, count: int) -> list[str]:
    """Words as frequent as words are (Zipf), of 20,000."""
    return [f"w{number}" for number in np.minimum(rng.zipf(1.3, count), 20_000)]


def answers(seed: int) -> list[Answer]:
    """A healthy group: ids, text and surprisals."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(ANSWERS):
        said = vocabulary(rng, WORDS)
        found.append(Answer(f"{seed * ANSWERS + number:032x}", ids=np.array([int(word[1:]) for word in said], np.int64),
                            text=" ".join(said), surprisals=made.surprisals(rng, WORDS)))
    return found


def judge(groups: list[list[Answer]], indexes: list[Index]) -> None:
    """Scores of every group, one after the other."""
    for group in groups:
        if len(window_scores(group, corpora=indexes)) < 8:
            raise AssertionError("a group of this size has every measure")


def cpu_s(work: Callable[[], object]) -> float:
    """Processor time of the whole process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def stored(rounds: int) -> list[float]:
    """CPU seconds of reading, judging and storing one window after the other, the engine's threads included."""
    start_s = int(time.time()) // WINDOW_S * WINDOW_S - (rounds + 2) * WINDOW_S
    rng = np.random.default_rng(1)
    texts = [" ".join(vocabulary(rng, WORDS)) for _ in range(ANSWERS)]
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(Settings(data=str(Path(folder) / "data")))
        try:
            for window in range(rounds):
                for group in range(GROUPS):
                    first, count = 1 + (window * GROUPS + group) * GENERATIONS, GENERATIONS // GROUPS
                    begin_ns, step_ns = (start_s + window * WINDOW_S) * 10**9, WINDOW_S * 10**9 // count
                    spans = [made.generation(first + number, begin_ns + number * step_ns, service=f"service-{group}")
                             for number in range(count)]
                    store.insert(spans_block(spans), f"spans {first}")
                    store.insert(made.tokens_block(spans, [texts[number % ANSWERS] for number in range(count)]), f"tokens {first}")
            now_s = [0.0]
            flow = Windows(store, minutes=WINDOW_S // 60, answers_max=ANSWERS, groups_max=50, folder=Path(folder) / "corpora",
                           registry=CollectorRegistry(), now_s=lambda: now_s[0])
            took = []
            for window in range(rounds):
                now_s[0] = start_s + (window + 1) * WINDOW_S + LATENESS_SECONDS
                began = time.process_time()
                if flow.catch_up() != 1:
                    raise AssertionError("each window is judged once")
                took.append(time.process_time() - began)
        finally:
            store.close()
    return took
