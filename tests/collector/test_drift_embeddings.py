"""Embeddings of prompts and answers against those of the reference: planted topics, shuffled controls, another arithmetic."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

import drift_helpers as made
from cutaway_collector.baselines import pin
from cutaway_collector.baselines.attributes import Scope
from cutaway_collector.drift import multivariate
from cutaway_collector.score import embedding
from cutaway_collector.score.device import Device
from cutaway_collector.score.embedding import median_distance, rbf_mmd2
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, open_store
from cutaway_collector.web import create_app
from cutaway_collector.web.map_vectors import Embed, Vectors
from drift_helpers import HOUR_NS, MODEL, SERVICE, START_NS
from store_helpers import maps

DAY = (START_NS, START_NS + 24 * HOUR_NS)
CALM, MOVED = DAY[1], DAY[1] + HOUR_NS
NOW_NS = DAY[1] + 2 * HOUR_NS
TOPICS = {"travel": 0, "law": 7}
WIDTH = 16


def embed(texts: Sequence[str]) -> np.ndarray:
    """A stand-in embedder whose arithmetic is known: noise made of the text's hash, about an axis that its first word names."""
    out = np.zeros((len(texts), WIDTH))
    for row, text in enumerate(texts):
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))
        out[row] = rng.normal(size=WIDTH)
        out[row, TOPICS[text.split()[0]]] += 4
    unit: np.ndarray = out / np.linalg.norm(out, axis=1, keepdims=True)
    return unit


def spoken(rng: np.random.Generator, count: int, start_ns: int, end_ns: int, topic: str, first: int) -> Any:
    """Generations whose prompts are of a topic; the answers never change theirs."""
    block = made.block(made.healthy(rng, count), made.moments(rng, count, start_ns, end_ns), first=first)

    def message(role: str, text: str) -> str:
        return json.dumps([{"role": role, "parts": [{"type": "text", "content": text}]}])

    block.columns["SpanAttributes"] = maps([{
        "gen_ai.input.messages": message("user", f"{topic} {number}"),
        "gen_ai.output.messages": message("assistant", f"travel said {number}"),
    } for number in range(first, first + count)])
    return block


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseStore]:
    """A pinned day, a calm hour and an hour whose prompts are of another topic."""
    opened = open_store(Settings(data=str(tmp_path_factory.mktemp("spoken") / "data"), retention_days=0, scores_retention_days=0))
    rng = np.random.default_rng(41)
    opened.insert(spoken(rng, 300, *DAY, "travel", 0), "day")
    opened.insert(spoken(rng, 120, CALM, CALM + HOUR_NS, "travel", 1000), "calm")
    opened.insert(spoken(rng, 120, MOVED, MOVED + HOUR_NS, "law", 2000), "moved")
    pin(opened, Scope("", SERVICE, MODEL, *DAY))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def vectors(store: ClickHouseStore) -> Iterator[Vectors]:
    made_here = Vectors(store, embed)
    yield made_here
    made_here.close()


def client(store: ClickHouseStore, vectors: Vectors | None) -> FlaskClient:
    return create_app(store, Settings(data="unused", score_device="cpu"), now_ns=lambda: NOW_NS, vectors=vectors).test_client()


def texts_of(asking: FlaskClient, start_ns: int) -> dict[str, dict[str, Any]]:
    """`texts` of the twin by what they are of, asked until every text is embedded."""
    while True:
        answer = asking.get(f"/drift.json?from={start_ns}&to={start_ns + HOUR_NS}&explain=1")
        body: dict[str, Any] = answer.json or {}
        found = {one["of"]: one for one in body["texts"]}
        if not any(one["pending"] for one in found.values()):
            return found


@pytest.mark.slow
def test_prompts_of_another_topic_are_found_and_their_answers_are_not(store: ClickHouseStore, vectors: Vectors) -> None:
    """The smallest p-value there is for the prompts; the answers, which did not change, stay."""
    found = texts_of(client(store, vectors), MOVED)
    assert found["prompt"]["p"] == 1 / (1 + multivariate.PERMUTATIONS)
    assert found["answer"]["p"] > 0.05
    assert (found["prompt"]["reference_n"], found["prompt"]["n"]) == (200, 120)


@pytest.mark.slow
def test_a_calm_window_is_not_told_apart(store: ClickHouseStore, vectors: Vectors) -> None:
    """Neither by its prompts nor by its answers; the page says so in words."""
    asking = client(store, vectors)
    assert all(one["p"] > 0.05 for one in texts_of(asking, CALM).values())
    page = asking.get(f"/drift?from={CALM}&to={CALM + HOUR_NS}&explain=1").text
    assert "Prompts cannot be told apart from those of the reference" in page
    moved = asking.get(f"/drift?from={MOVED}&to={MOVED + HOUR_NS}&explain=1").text
    assert "Prompts differ in meaning from those of the reference" in moved


def test_the_number_is_that_of_the_kernel_and_of_the_double_sums(store: ClickHouseStore, vectors: Vectors) -> None:
    """MMD^2 of the twin equals the scores' own streaming estimate with the same bandwidth, and the plain RBF kernel's."""
    rng = np.random.default_rng(5)
    x, y = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (rng.normal(size=(70, 8)), rng.normal(0.3, 1, (50, 8))))
    ours = multivariate.mmd2(x, y, kernel=partial(embedding.rbf, device=Device("cpu")))
    assert ours[0] == pytest.approx(rbf_mmd2(x, y, median_distance(x, y), Device("cpu")), abs=1e-9)
    assert ours == pytest.approx(multivariate.mmd2(x, y), abs=1e-9)


def failing(texts: Sequence[str]) -> np.ndarray:
    raise ValueError("planted")


@pytest.mark.parametrize(("vectors_of", "said"), [(None, "no sentence embedder"), (failing, "")])
def test_without_embeddings_the_report_says_why(store: ClickHouseStore, vectors_of: Embed | None, said: str) -> None:
    """No embedder, or one that fails: a message for each kind, no figure, and the rest of the report stands."""
    asking = Vectors(store, vectors_of)
    try:
        answer = client(store, asking).get(f"/drift.json?from={MOVED}&to={MOVED + HOUR_NS}&explain=1")
        body: dict[str, Any] = answer.json or {}
        assert all(one["p"] is None and one["message"] and said in one["message"] for one in body["texts"])
        assert body["together"]["p"] is not None
    finally:
        asking.close()


def test_nothing_is_embedded_before_it_is_asked_for(store: ClickHouseStore) -> None:
    """The page without `explain` looks no text up."""
    def never(texts: Sequence[str]) -> np.ndarray:
        raise AssertionError("a text was embedded")

    asking = Vectors(store, never)
    assert "texts" not in (client(store, asking).get("/drift.json").json or {})
    assert asking._thread is None
