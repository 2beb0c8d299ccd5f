"""Detectors seldom cry wolf: the simulation of the bench, with fewer runs and a fixed seed."""

from __future__ import annotations

import pytest

from bench import detectors

QUICK = dict.fromkeys(detectors.RATES, 300) | {"domain classifier": 100, f"ADWIN, {detectors.STREAM} values": 100,
                                               "a window of twelve attributes": 80,
                                               f"a step in {detectors.SERIES} windows' scores": 100}


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name == "domain classifier" else ())
                                  for name in detectors.RATES])
def test_false_alarms_are_no_more_than_claimed(name: str) -> None:
    """With nothing wrong, a detector at its default alarms at most as often as it says, within three standard errors."""
    found = detectors.rate(name, runs=QUICK[name], seed=20)
    assert found.measured <= found.nominal + 3 * found.error


@pytest.mark.parametrize("name", detectors.CHARTS)
def test_charts_run_as_long_as_stated(name: str) -> None:
    """The mean run length in control, within three standard errors."""
    found = detectors.run_length(name, runs=200, seed=21)
    assert abs(found.measured - found.nominal) <= 3 * found.error
