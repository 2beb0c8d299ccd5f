"""Simulated streams for the e-process of alerts: how often it, and a z-test that is looked at as often, ever reject. Not a test."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from cutaway_collector.alerts import evidence

MEAN: Final = {"rate": 0.05, "mean": 0.3, "drifting": 0.2, "window scores": 0.5}
PER_WINDOW: Final = {"rate": 20, "mean": 20, "drifting": 20, "window scores": 1}
ANSWERS: Final = (8, 200)
"""Of a window, from the quiet to the busy ones: the fewer there are, the more its score varies."""


def ever_rejects(kind: str, *, runs: int, windows: int, alpha: float, seed: int, factor: float = 1.0) -> tuple[float, float]:
    """(share of runs in which the e-process rejects at some window, the same of a one-sided z-test of all values so far).

    kind: "rate", zeros and ones of mean MEAN; "mean", skewed values in [0, 1]; "drifting", a rate that moves beneath its bound and
    depends on what came before; "window scores", one value a look, of as many answers as a window happens to have. factor:
    multiplies the true mean; 1 is the boundary of the hypothesis, where it is hardest.
    """
    rng = np.random.default_rng(seed)
    mean, threshold = MEAN[kind], -math.log(alpha)
    z_limit = _quantile(1 - alpha)
    rejected, peeking = np.zeros(runs, bool), np.zeros(runs, bool)
    logs = np.zeros((runs, evidence.GAMBLERS))
    total, squares, count = np.zeros(runs), np.zeros(runs), 0
    for _ in range(windows):
        values = _window(kind, rng, runs, min(1.0, mean * factor), total / max(1, count))
        logs += evidence.of_values(values, mean)
        top = logs.max(axis=1)
        rejected |= top + np.log(np.exp(logs - top[:, None]).mean(axis=1)) >= threshold
        total, squares, count = total + values.sum(axis=1), squares + (values**2).sum(axis=1), count + values.shape[1]
        sd = np.sqrt(np.maximum(squares / count - (total / count) ** 2, 1e-12))
        peeking |= (total / count - mean) / (sd / math.sqrt(count)) > z_limit
    return float(rejected.mean()), float(peeking.mean())


def _window(kind: str, rng: np.random.Generator, runs: int, mean: float, past: np.ndarray) -> np.ndarray:
    shape = (runs, PER_WINDOW[kind])
    if kind == "rate":
        return (rng.random(shape) < mean).astype(np.float64)
    if kind == "mean":
        return rng.beta(0.5, 0.5 * (1 - mean) / mean, shape)
    if kind == "window scores":
        answers = rng.integers(*ANSWERS, shape)
        return rng.beta(mean * answers, (1 - mean) * answers)
    # Below its bound where the past ran high, at it where it ran low: the hypothesis is about each next value given the past.
    now = np.where(past > mean, 0.7 * mean, mean)
    return (rng.random(shape) < now[:, None]).astype(np.float64)


def _quantile(probability: float) -> float:
    from scipy.stats import norm

    return float(norm.ppf(probability))
