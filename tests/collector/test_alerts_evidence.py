"""The e-process: never more false alarms than it says, however often one looks, and alarms where there is reason."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from alerts_simulation import ever_rejects
from cutaway_collector.alerts import evidence

ALPHA = 0.05


def _exact(values: npt.NDArray[np.float64], mean: float) -> float:
    """The wealth as its definition says, value by value, in plain Python."""
    return sum(math.prod(1 + bet * (value - mean) for value in values) for bet in evidence.stakes(mean)) / evidence.GAMBLERS


def test_the_wealth_is_what_its_definition_says() -> None:
    """Logarithms, summed in any order, against the product written out."""
    values = np.random.default_rng(2).uniform(size=40)
    expected = math.log(_exact(values, 0.3))

    assert expected == pytest.approx(evidence.log_wealth(evidence.of_values(values, 0.3)), rel=1e-9)
    assert expected == pytest.approx(evidence.log_wealth(evidence.of_values(values[::-1], 0.3)), rel=1e-9)


def test_a_rate_is_the_case_of_zeros_and_ones() -> None:
    """Counts say as much as the values."""
    values = np.array([1.0] * 7 + [0.0] * 93)
    assert evidence.of_values(values, 0.05) == pytest.approx(evidence.of_rate(100, 7, 0.05), rel=1e-12)


@pytest.mark.parametrize("mean", [0.001, 0.05, 0.5, 0.99])
def test_no_gambler_can_be_ruined(mean: float) -> None:
    """Every wealth stays positive whatever comes, so that its logarithm exists."""
    bets = evidence.stakes(mean)
    assert np.all(1 - bets * mean > 0)
    assert evidence.GAMBLERS == len(bets)


@pytest.mark.parametrize("mean", [0.01, 0.1, 0.5])
def test_the_expected_wealth_never_grows_under_the_hypothesis(mean: float) -> None:
    """The supermartingale itself: one step in expectation, exactly, for means up to the one that is tested."""
    for true in np.linspace(0, mean, 5):
        gained = true * np.exp(evidence.of_rate(1, 1, mean)) + (1 - true) * np.exp(evidence.of_rate(1, 0, mean))
        assert np.all(gained <= 1 + 1e-12)


@pytest.mark.parametrize("kind", ["rate", "mean", "drifting", "window scores"])
def test_false_alarms_stay_below_alpha_when_one_looks_every_window(kind: str) -> None:
    """400 runs of 300 windows on the boundary of the hypothesis, looked at after each: far fewer than alpha ever reject.

    A fixed-size z-test looked at as often rejects several times as many of the same runs.
    """
    rejected, peeking = ever_rejects(kind, runs=400, windows=300, alpha=ALPHA, seed=7)

    assert rejected <= ALPHA + 2 * math.sqrt(ALPHA * (1 - ALPHA) / 400)
    if kind == "rate":
        assert peeking > 3 * ALPHA


def test_a_changed_rate_is_found() -> None:
    """Power: at three times the tested rate every run alarms within some windows."""
    rejected, _ = ever_rejects("rate", runs=100, windows=100, alpha=0.01, seed=3, factor=3.0)
    assert 1.0 == rejected
