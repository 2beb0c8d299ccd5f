"""Charts that follow a stream value by value, and the standard errors they are fed with, against simulation and closed forms."""

from __future__ import annotations

import json
import math
from importlib.util import find_spec

import numpy as np
import pytest
from river.drift import ADWIN

from cutaway_collector.baselines.deviation import Hours, between_variance, deviation, neighbours_variance
from cutaway_collector.drift import chart, streams
from cutaway_collector.drift.chart import Kind
from cutaway_collector.drift.rule import Comparison


def readings(kind: Kind, stream: list[float], run_length: float = 1000) -> list[chart.Reading]:
    """The chart over a stream; between any two values its memory goes through JSON, as between two processes."""
    memory: tuple[float, ...] = ()
    found = []
    for z in stream:
        found.append(chart.follow(kind, memory, z, run_length))
        memory = tuple(json.loads(json.dumps(found[-1].memory)))
    return found


def test_the_cusum_is_its_recursion() -> None:
    """Page's two sums with allowance one half, up to the alarm, against NumPy's running extremes: S_n = W_n - min W."""
    stream = np.random.default_rng(1).normal(0.8, 1, 300)
    ups, downs = np.cumsum(stream - 0.5), np.cumsum(-stream - 0.5)
    high, low = (np.concatenate([[0.0], one]) - np.minimum.accumulate(np.concatenate([[0.0], one])) for one in (ups, downs))
    alarm = int(np.argmax(np.maximum(high, low) > streams.cusum_limit(1000, 0.5))) - 1
    found = readings("cusum", stream.tolist())
    assert next(index for index, one in enumerate(found) if one.alarm) == alarm > 3
    expected = [up if up >= down else -down for up, down in zip(high[1:alarm], low[1:alarm], strict=True)]
    assert [one.value for one in found[: alarm - 1]] == pytest.approx(expected)


def test_the_ewma_is_a_weighted_sum() -> None:
    """With the weights 0.1 (0.9)^k, written out."""
    stream = np.random.default_rng(2).normal(size=60)
    expected = [sum(0.1 * 0.9 ** (n - k) * stream[k] for k in range(n + 1)) for n in range(60)]
    assert [one.value for one in readings("ewma", stream.tolist())] == pytest.approx(expected)


def test_adwin_cuts_where_rivers_own_does() -> None:
    """Fed value by value through its memory, the first cut falls on the value at which river's, left alone, finds it."""
    rng = np.random.default_rng(3)
    stream = [*rng.normal(size=200), *rng.normal(1.5, 1, 100)]
    alone = ADWIN(delta=1 / 2000, clock=1)  # type: ignore[no-untyped-call]  # river is not typed
    theirs = -1
    for index, z in enumerate(stream):
        alone.update(z)  # type: ignore[no-untyped-call]  # river is not typed
        if alone.drift_detected:
            theirs = index
            break
    found = readings("adwin", stream)
    ours = [index for index, one in enumerate(found) if one.alarm]
    assert 200 < ours[0] == theirs < 250
    assert found[theirs].value == pytest.approx(alone.estimation)


def test_adwin_remembers_within_bounds() -> None:
    """A stream of any length leaves a memory of at most a thousand values."""
    memory = tuple(np.random.default_rng(4).normal(size=chart.ADWIN_VALUES_MAX).tolist())
    assert len(chart.follow("adwin", memory, 0.0, 1000).memory) <= chart.ADWIN_VALUES_MAX


@pytest.mark.parametrize("kind", chart.KINDS)
def test_a_chart_alarms_after_a_shift_and_calms_down_after_it(kind: Kind) -> None:
    """Two standard errors for forty windows: an alarm within twenty of the shift, calm within forty of its end."""
    rng = np.random.default_rng(5)
    found = readings(kind, [*rng.normal(size=100), *rng.normal(2, 1, 40), *rng.normal(size=60)])
    alarms = [index for index, one in enumerate(found) if one.alarm]
    assert 100 <= alarms[0] < 120
    assert any(one.calm for one in found[141:180])


def test_a_chart_that_was_away_for_long_comes_back_as_soon() -> None:
    """A thousand windows far off cost no more windows of calm than ten do."""
    for kind in ("cusum", "ewma"):
        back = []
        for away in (10, 1000):
            found = readings(kind, [9.0] * away + [0.0] * 60)
            back.append(next(index - away for index, one in enumerate(found) if index >= away and one.calm))
        assert back[0] == back[1] < 30


@pytest.mark.parametrize("kind", ["cusum", "ewma"])
def test_the_run_length_is_the_stated_one(kind: Kind) -> None:
    """Over 300 streams in control, through the memory, within four standard errors of the mean."""
    rng = np.random.default_rng(6)
    lengths = []
    for _ in range(300):
        memory: tuple[float, ...] = ()
        count = 0
        while True:
            count += 1
            reading = chart.follow(kind, memory, float(rng.normal()), 100)
            memory = reading.memory
            if reading.alarm:
                break
        lengths.append(count)
    assert np.mean(lengths) == pytest.approx(100, abs=4 * float(np.std(lengths)) / math.sqrt(len(lengths)))


def test_every_chart_says_how_often_it_is_wrong() -> None:
    """In words, with the number; of ADWIN it is a bound, and 1 / (2 delta) is what the bound gives."""
    assert chart.words("cusum", 1000) == "CUSUM, a false alarm every 1,000 windows on average"
    assert "at least 500" in chart.words("adwin", 500)
    delta = chart.adwin_delta(500)
    assert sum(max(0.0, 1 - n * delta) for n in range(10_000)) >= 500


def test_what_is_missing_is_named() -> None:
    """Nothing where river is there."""
    assert find_spec("river") is not None
    assert [chart.missing(kind) for kind in chart.KINDS] == ["", "", ""]


def comparison(**changes: float) -> Comparison:
    """A window of 400 numbers against 5,000."""
    said = {"attribute": "x", "kind": "number", "reference_n": 5000, "n": 400, "p": 0.5, "psi": 0.0, "jensen_shannon": 0.0,
            "ks": 0.0, "wasserstein": 0.0, "chi_square": None, "level": 0.0, "reference_level": 0.0, "reference_sd": 1.0, **changes}
    return Comparison(**said)  # type: ignore[arg-type]  # a mapping of mixed types


def hours(means: np.ndarray, count: float = 200) -> Hours:
    return Hours(np.arange(len(means), dtype=np.float64), np.full(len(means), count), means)


@pytest.mark.parametrize("by_hour", [False, True], ids=["all", "hour"])
@pytest.mark.parametrize("between", [0.0, 0.3])
def test_healthy_windows_spread_no_wider_than_a_standard_normal(by_hour: bool, between: float) -> None:
    """Fifty references of a week, sixty windows each, hours that differ by nothing or by four sampling errors: the mean square of
    the deviations is at most 1, beyond simulation's error; without the hours' own spread it would be seventeen."""
    rng = np.random.default_rng(7)
    squares = []
    for _ in range(50):
        means = rng.normal(0, math.hypot(between, math.sqrt(1 / 200)), 168)
        for window in range(60):
            level = rng.normal(0, math.hypot(between, math.sqrt(1 / 400)))
            reference = {"reference_level": means[window], "reference_n": 200} if by_hour else {
                "reference_level": means.mean(), "reference_n": 200 * 168}
            squares.append(deviation(comparison(level=level, **reference), hours(means), by_hour=by_hour))
    assert np.mean(np.square(np.array(squares, np.float64))) < 1.1


def test_a_planted_shift_is_seen_at_its_size() -> None:
    """Half a standard deviation on 400 values is ten sampling errors; with equal hours nearly all of them are left."""
    means = np.random.default_rng(8).normal(0, math.sqrt(1 / 200), 168)
    found = deviation(comparison(level=0.5, reference_n=33600), hours(means), by_hour=False)
    assert found is not None
    assert 8 < found <= 10
    assert deviation(comparison(level=-0.5, reference_n=33600), hours(means), by_hour=False) == pytest.approx(-found)


def test_the_spread_between_hours_is_found() -> None:
    """By both estimates, within a tenth over 2,000 hours; the course of a day is in the first and not in the second."""
    rng = np.random.default_rng(9)
    known = hours(rng.normal(0, math.hypot(0.3, math.sqrt(1 / 200)), 2000))
    assert between_variance(known, 1.0) == pytest.approx(0.09, rel=0.1)
    assert neighbours_variance(known, 1.0) == pytest.approx(0.09, rel=0.1)
    course = known._replace(means=known.means + 2 * np.sin(2 * np.pi * known.hours / 24))
    assert between_variance(course, 1.0) > 1.5
    assert neighbours_variance(course, 1.0) < 0.3


@pytest.mark.parametrize("one", [
    {"kind": "category"}, {"n": 29}, {"reference_n": 29}, {"reference_sd": 0.0},
])
def test_what_says_nothing_has_no_deviation(one: dict[str, float]) -> None:
    """Categories, few values on either side, a reference that never varied."""
    assert deviation(comparison(level=1.0, **one), hours(np.zeros(168)), by_hour=False) is None


def test_a_short_reference_has_no_deviation() -> None:
    """Eleven hours do not say how hours differ."""
    assert deviation(comparison(level=1.0), hours(np.zeros(11)), by_hour=False) is None
    assert deviation(comparison(level=1.0), None, by_hour=False) is None
