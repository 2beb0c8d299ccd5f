"""How often each detector of drift cries wolf: simulated at its default setting, with nothing wrong, against its nominal level.

A figure is the share of runs with a false alarm, and its ratio is to the level that is claimed: at most 1, give or take the
simulation's own error, which `Outcome.error` holds. Of the charts it is the mean run length against the stated one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from cutaway_collector.drift import chart, multivariate, rule, sketch, streams
from cutaway_collector.drift.rule import ALPHA, Comparison
from cutaway_collector.windows import slope
from window_helpers import surprisals

RUNS = 2000
STREAM = 1000
ADWIN_LOOKS = STREAM // 32
"""River's ADWIN looks for a cut at every 32nd value."""
ADWIN_DELTA = 0.002
WEEK = 168
"""Hourly windows that a chart follows."""
SERIES = 24
"""Windows among which the page of windows looks for a step."""
REFERENCE = 5000
ONCE_IN_A_WEEK = 1 - (1 - 1 / streams.RUN_LENGTH) ** WEEK
"""How likely an alarm within WEEK windows is at the stated run length, when it is as likely in each."""
SHARES = np.array([0.5, 0.3, 0.12, 0.05, 0.02, 0.008, 0.002])
"""Categories of a language mix: the rare ones are what makes chi-square err."""


@dataclass(frozen=True)
class Outcome:
    """Of one detector: measured and claimed, in `unit`; error: standard error of the measurement."""

    name: str
    unit: str
    measured: float
    nominal: float
    error: float


def numbers(rng: np.random.Generator, n: int, *, whole: bool = False) -> Comparison:
    """A window of n values against REFERENCE values of the same distribution, both in the sketches' bins."""
    sides = [rng.lognormal(4, 0.6, size) for size in (REFERENCE, n)]
    bins = [sketch.bins(rng.poisson(side).astype(np.float64) if whole else side) for side in sides]
    cells = np.unique(np.concatenate(bins))
    counts = [np.bincount(np.searchsorted(cells, each), minlength=cells.size).astype(np.float64) for each in bins]
    return rule.compare_numbers("x", sketch.representative(cells), counts[0], counts[1])


def categories(rng: np.random.Generator, n: int) -> Comparison:
    """The same of labels."""
    counts = [rng.multinomial(size, SHARES).astype(np.float64) for size in (REFERENCE, n)]
    seen = counts[0] + counts[1] > 0
    labels = [f"label {index}" for index in np.flatnonzero(seen)]
    return rule.compare_categories("x", labels, counts[0][seen], counts[1][seen])


def shifted(found: list[Comparison]) -> bool:
    """Whether the rule says of any of them that it shifted."""
    return any(label == "shifted" for _, label in rule.judge(found))


def window(rng: np.random.Generator) -> bool:
    """A window of twelve attributes of 400 generations: does any shift?"""
    return shifted([*(numbers(rng, 400, whole=index < 2) for index in range(9)), *(categories(rng, 400) for _ in range(3))])


def mmd(rng: np.random.Generator) -> bool:
    """Two samples of 50 vectors."""
    points = rng.normal(size=(100, 6))
    return multivariate.mmd2(points[:50], points[50:], seed=int(rng.integers(2**31)))[1] <= ALPHA


def classifier(rng: np.random.Generator) -> bool:
    """Two samples of 60 vectors."""
    points = rng.normal(size=(120, 6))
    return multivariate.domain_classifier(points[:60], points[60:], seed=int(rng.integers(2**31)))[1] <= ALPHA


def adwin(rng: np.random.Generator) -> bool:
    """A stream of STREAM values."""
    return bool(streams.adwin(rng.normal(size=STREAM).tolist(), delta=ADWIN_DELTA))


def alarms(kind: chart.Kind, rng: np.random.Generator) -> bool:
    """A calm week of hourly windows under the chart of alerts and of the drift page: does it alarm at all?"""
    values = rng.normal(size=WEEK).tolist()
    if kind == "adwin":  # its first cut is that of one detector that looks at every value, at a hundredth of the cost
        return bool(streams.adwin(values, delta=chart.adwin_delta(streams.RUN_LENGTH), looks_every=1))
    memory: tuple[float, ...] = ()
    for z in values:
        reading = chart.follow(kind, memory, z, streams.RUN_LENGTH)
        if reading.alarm:
            return True
        memory = reading.memory
    return False


def rising(rng: np.random.Generator) -> bool:
    """A window of the fewest answers that a verdict needs, whose surprisals are skewed, correlated and level."""
    return slope.slope([surprisals(rng, 60) for _ in range(slope.ANSWERS_MIN)]).rising


def step(rng: np.random.Generator) -> bool:
    """A level series of window scores."""
    return streams.step(rng.normal(size=SERIES).tolist(), seed=int(rng.integers(2**31)))[1] <= ALPHA


RATES: dict[str, tuple[Callable[[np.random.Generator], bool], float]] = {
    "KS, 300 numbers": (lambda rng: shifted([numbers(rng, 300)]), ALPHA),
    "KS, 300 whole numbers": (lambda rng: shifted([numbers(rng, 300, whole=True)]), ALPHA),
    "Wasserstein with KS, 2000 numbers": (lambda rng: shifted([numbers(rng, 2000)]), ALPHA),
    "chi-square, 300 labels": (lambda rng: shifted([categories(rng, 300)]), ALPHA),
    "Jensen-Shannon with chi-square, 2000 labels": (lambda rng: shifted([categories(rng, 2000)]), ALPHA),
    "a window of twelve attributes": (window, ALPHA),
    "MMD^2 by permutation": (mmd, ALPHA),
    "domain classifier": (classifier, ALPHA),
    f"ADWIN, {STREAM} values": (adwin, ADWIN_LOOKS * ADWIN_DELTA),
    f"CUSUM as alerts follow it, {WEEK} windows": (partial(alarms, "cusum"), ONCE_IN_A_WEEK),
    f"EWMA as alerts follow it, {WEEK} windows": (partial(alarms, "ewma"), ONCE_IN_A_WEEK),
    f"ADWIN as alerts follow it, {WEEK} windows": (partial(alarms, "adwin"), WEEK * chart.adwin_delta(streams.RUN_LENGTH)),
    f"a step in {SERIES} windows' scores": (step, ALPHA),
    f"rising surprisal of {slope.ANSWERS_MIN} answers": (rising, 0.01),
}
"""Detector -> (one run, which may alarm; the level it claims)."""
CHARTS: dict[str, Callable[[], streams.Cusum | streams.Ewma]] = {"CUSUM": streams.Cusum, "EWMA": streams.Ewma}


def rate(name: str, *, runs: int = RUNS, seed: int = 0) -> Outcome:
    """Share of runs in which this detector alarms."""
    run, nominal = RATES[name]
    rng = np.random.default_rng(seed)
    alarms = sum(run(rng) for _ in range(runs))
    return Outcome(name, "false alarms", alarms / runs, nominal, math.sqrt(nominal * (1 - nominal) / runs))


def run_length(name: str, *, runs: int = RUNS, seed: int = 0) -> Outcome:
    """Mean values until this chart alarms."""
    rng = np.random.default_rng(seed)
    lengths = []
    for _ in range(runs):
        chart, count = CHARTS[name](), 1
        while True:
            hit = next((index for index, z in enumerate(rng.normal(size=500).tolist()) if chart.update(z)), -1)
            if hit >= 0:
                lengths.append(count + hit)
                break
            count += 500
    return Outcome(name, "values to an alarm", float(np.mean(lengths)), streams.RUN_LENGTH,
                   float(np.std(lengths) / math.sqrt(runs)))


def figures(rounds: int) -> Iterator[tuple[str, str, str, list[tuple[float, float]]]]:
    """Every detector over RUNS runs; rounds are for what is timed, which nothing here is."""
    for one in [*map(rate, RATES), *map(run_length, CHARTS)]:
        yield one.name, one.unit, f"nominal {one.nominal:.4g} (error {one.error / one.nominal:.1%})", [(one.measured, one.nominal)]
