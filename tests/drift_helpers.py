"""Shared by the tests of baselines and drift: generations with plausible numbers, made by the thousand as blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cutaway_collector.blocks import Block, Nullable, Strings
from store_helpers import maps

HOUR_NS = 3_600_000_000_000
MINUTE_NS = 60_000_000_000
START_NS = 1_790_000_000_000_000_000 // HOUR_NS * HOUR_NS
"""A full hour in September 2026; tests that must not meet retention use stores without any."""
SERVICE, MODEL = "concierge", "SmolLM2-135M-Instruct"


def healthy(rng: np.random.Generator, count: int) -> dict[str, Any]:
    """Numbers of `count` generations of a model that is well."""
    entropy = rng.gamma(6, 0.25, count)
    return {
        "InputTokens": rng.poisson(rng.lognormal(4, 0.6, count)), "OutputTokens": 1 + rng.poisson(rng.lognormal(4.5, 0.5, count)),
        "Perplexity": np.exp(entropy * 0.8 + rng.normal(0, 0.1, count)), "EntropyMean": entropy,
        "AttentionEntropyMean": rng.normal(2.4, 0.3, count), "PromptPerplexity": rng.lognormal(3, 0.4, count),
        "TimeToFirstTokenS": rng.gamma(4, 0.05, count), "TimePerOutputTokenS": rng.gamma(30, 0.001, count),
        "finish": rng.choice(["stop", "length"], count, p=[0.8, 0.2]), "status": rng.choice(["Ok", "Error"], count, p=[0.97, 0.03]),
    }


def cold(numbers: dict[str, Any]) -> dict[str, Any]:
    """The same generations with a collapsed temperature: the model hardly hesitates any more."""
    entropy = numbers["EntropyMean"] * 0.35
    return {**numbers, "EntropyMean": entropy, "Perplexity": np.exp(entropy * 0.8)}


def longer(numbers: dict[str, Any]) -> dict[str, Any]:
    """The same generations with another mix of prompts: a quarter of them now paste whole documents."""
    tokens = numbers["InputTokens"].copy()
    tokens[::4] = tokens[::4] * 6 + 400
    return {**numbers, "InputTokens": tokens}


_WHOLE = ("InputTokens", "OutputTokens")


def block(numbers: Mapping[str, Any], at_ns: Sequence[int] | np.ndarray, *, first: int = 0, version: str | Sequence[str] = "1.0",
          service: str = SERVICE, model: str = MODEL, tenant: str = "") -> Block:
    """otel_traces rows of these numbers at these moments; span i is number first + i."""
    count = len(at_ns)
    names = [f"{first + index + 1:016x}" for index in range(count)]
    versions = [version] * count if isinstance(version, str) else list(version)
    columns: dict[str, Any] = {
        "Timestamp": np.asarray(at_ns, np.int64), "TenantId": Strings.repeat(tenant, count),
        "TraceId": Strings.of([name * 2 for name in names]), "SpanId": Strings.of(names), "ParentSpanId": Strings.repeat("", count),
        "SpanName": Strings.repeat(f"chat {model}", count), "SpanKind": Strings.repeat("Internal", count),
        "ServiceName": Strings.repeat(service, count), "GenAiModel": Strings.repeat(model, count),
        "GenAiOperation": Strings.repeat("chat", count), "Duration": np.full(count, 1_500_000_000, np.uint64),
        "ResourceAttributes": maps([{"service.version": each} for each in versions]),
        "SpanAttributes": maps([{"gen_ai.response.finish_reasons": f'["{word}"]'} for word in numbers["finish"]]),
        "StatusCode": Strings.of([str(word) for word in numbers["status"]]),
    }
    for name, values in numbers.items():
        if name not in ("finish", "status"):
            columns[name] = Nullable(np.asarray(values).astype(np.uint64 if name in _WHOLE else np.float64), np.zeros(count, bool))
    return Block("otel_traces", count, columns)


def moments(rng: np.random.Generator, count: int, start_ns: int, end_ns: int) -> np.ndarray:
    """`count` moments of a window, in order."""
    return np.sort(rng.integers(start_ns, end_ns, count))


def scores_block(name: str, values: Sequence[float] | np.ndarray, labels: Sequence[str], at_ns: Sequence[int] | np.ndarray, *,
                 first: int = 0) -> Block:
    """gen_ai_scores rows of the generations of `block`."""
    count = len(at_ns)
    names = [f"{first + index + 1:016x}" for index in range(count)]
    return Block("gen_ai_scores", count, {
        "Timestamp": np.asarray(at_ns, np.int64), "ServiceName": Strings.repeat(SERVICE, count),
        "GenAiModel": Strings.repeat(MODEL, count), "TraceId": Strings.of([each * 2 for each in names]),
        "SpanId": Strings.of(names), "SeqIndex": np.zeros(count, np.uint16), "ScoreName": Strings.repeat(name, count),
        "ScorerVersion": Strings.repeat("1", count), "Source": Strings.repeat("tests", count),
        "Value": np.asarray(values, np.float64), "Label": Strings.of(list(labels))})
