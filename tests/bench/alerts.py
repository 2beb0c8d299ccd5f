"""What alerts cost and how often they are false: 1,000 rules over 200,000 spans in chDB, and the e-process over 2,000 runs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tests.alerts_helpers import T0_S, Bench, document, put_spans
from tests.alerts_simulation import MEAN, ever_rejects

from cutaway_collector.alerts import Desk
from cutaway_collector.alerts.fields import NS
from cutaway_collector.contracts import Store
from cutaway_collector.settings import Settings
from cutaway_collector.store import open_store

Pairs = list[tuple[float, float]]
RULES, SPANS, MINUTES = 1000, 200_000, 60
ALPHA, RUNS = 0.05, 2000


def figures(rounds: int) -> Iterator[tuple[str, str, str, Pairs]]:
    """CPU seconds to judge all rules on one minute, beside the minute a core has; shares of runs with an alarm, beside alpha."""
    for what, searches in (("50 searches", 50), ("a search of its own each", RULES)):
        with tempfile.TemporaryDirectory() as folder:
            store = open_store(Settings(data=str(Path(folder) / "data")))
            try:
                yield (f"judge {RULES:,} rules a minute, {what}", "CPU s", f"a core's minute; {SPANS:,} spans an hour",
                       [(took, 60.0) for took in judging(store, max(3, min(rounds, 5)), searches)])
            finally:
                store.close()
    for kind in MEAN:
        rejected, peeking = ever_rejects(kind, runs=RUNS, windows=300, alpha=ALPHA, seed=11)
        yield f"false alarms of the e-process ({kind})", "share of runs", f"alpha {ALPHA:g}, {RUNS:,} runs", [(rejected, ALPHA)]
        yield f"the same of a z-test looked at as often ({kind})", "share of runs", f"alpha {ALPHA:g}", [(peeking, ALPHA)]


def judging(store: Store, rounds: int, searches: int) -> list[float]:
    """CPU seconds of each of `rounds` ticks, every one of which judges RULES rules on a minute of its own."""
    rng = np.random.default_rng(1)
    services = [f"service-{number}" for number in rng.integers(0, 20, SPANS)]
    put_spans(store, T0_S, rng.uniform(size=SPANS).tolist(), service=services, every_s=MINUTES * 60 / SPANS)
    Desk(store, Settings(data="unused")).apply({"rules": definitions(searches)})
    bench = Bench(store)
    bench.evaluator.tick((T0_S + 31) * NS)
    took = []
    for minute in range(1, rounds + 1):
        began = time.process_time()
        tally = bench.evaluator.tick((T0_S + minute * 60 + 31) * NS)
        took.append(time.process_time() - began)
        if tally.windows != RULES or tally.failed:
            raise AssertionError("every rule must be judged")
    return took


def definitions(searches: int) -> list[dict[str, Any]]:
    """RULES rules of five kinds over so many different searches; two of the kinds judge each of twenty services by itself."""
    queries = [f"is:generation service:service-{number % 20}" if number < 20 else f"repetition:>{number / searches:g}"
               for number in range(searches)]
    kinds = [
        {"aggregate": "share", "of": "repetition:>0.5"}, {"aggregate": "mean", "of": None, "field": "repetition"},
        {"aggregate": "quantile", "of": None, "field": "repetition", "group_by": ["service"]}, {"aggregate": "count", "of": None},
        {"aggregate": "share", "of": "repetition:>0.9", "group_by": ["service"],
         "condition": {"kind": "e_process", "above": 0.2}},
    ]
    return [document(f"rule-{number}", query=queries[number % searches], **kinds[(number + number // searches) % len(kinds)])
            for number in range(RULES)]
