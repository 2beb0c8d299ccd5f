"""Floods of names: what a sender may make up grows neither the metrics nor what a page lists, and search goes on."""

from __future__ import annotations

import random
import secrets
import time
from pathlib import Path

import numpy as np
from prometheus_client import generate_latest

from cutaway_collector import search
from cutaway_collector.commands.load import make_request
from cutaway_collector.pipeline import Pipeline
from cutaway_collector.search import SearchRequest
from cutaway_collector.settings import Settings
from cutaway_collector.store import open_store
from pipeline_helpers import running, sample

SPANS = 3000
LABELS = {"encoding", "outcome", "table", "kind", "scorer"}
"""What metrics may be told apart by: words of ours, none of a sender's."""


def _flood(prefix: str) -> bytes:
    """Every span has a name, a service, a model and three attribute keys of its own."""
    request = make_request(SPANS, 2, random.Random(0), time.time_ns())
    (group,) = request.resource_spans
    spans = list(group.scope_spans[0].spans)
    del request.resource_spans[:]
    for number, span in enumerate(spans):
        mine = request.resource_spans.add()
        mine.resource.attributes.add(key="service.name").value.string_value = f"{prefix}-service-{number}"
        copy = mine.scope_spans.add().spans.add()
        copy.CopyFrom(span)
        copy.name, copy.trace_id, copy.span_id = f"{prefix}-name-{number}", secrets.token_bytes(16), secrets.token_bytes(8)
        for key in range(3):
            copy.attributes.add(key=f"{prefix}-key-{number}-{key}").value.string_value = "x"
        for attribute in copy.attributes:
            if attribute.key == "gen_ai.request.model":
                attribute.value.string_value = f"{prefix}-model-{number}"
    return bytes(request.SerializeToString())


def _metrics_when_stored(pipeline: Pipeline, spans: int) -> bytes:
    deadline = time.monotonic() + 60
    while sample(pipeline, "cutaway_spans_stored_total") < spans:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return generate_latest(pipeline.registry)


def _series(text: bytes) -> set[bytes]:
    return {line.rpartition(b" ")[0] for line in text.splitlines() if line and not line.startswith(b"#")}


def test_a_flood_of_names_grows_no_metric_and_no_list(tmp_path: Path) -> None:
    """Thousands of unique names, services, models and keys: the same metrics, ten values a facet, every span found."""
    settings = Settings(data=str(tmp_path / "data"))
    store = open_store(settings)
    try:
        with running(store, settings) as pipeline:
            assert SPANS == pipeline.submit(_flood("first"), "protobuf").accepted
            before = _series(_metrics_when_stored(pipeline, SPANS))
            assert SPANS == pipeline.submit(_flood("second"), "protobuf").accepted
            text = _metrics_when_stored(pipeline, 2 * SPANS)
        assert before == _series(text)
        assert not any(word in text for word in (b"first-", b"second-"))
        found = search.facets(store, SearchRequest(), ["name", "service", "model", "second-key-7-1"])
        assert [10, 10, 10, 1] == [len(facet["values"]) for facet in found.values()]
        rows = search.find(store, SearchRequest(q="second-key-7-1:x"), rows_max=10)["rows"]
        assert ["second-name-7"] == [row["name"] for row in rows]
        assert 2 * SPANS == np.sum(search.histogram(store, SearchRequest(), 10)["counts"])
    finally:
        store.close()


def test_metrics_are_told_apart_by_our_own_words_alone(tmp_path: Path) -> None:
    """No label of any metric can hold what a sender says, so no flood can make the registry grow."""
    settings = Settings(data=str(tmp_path / "data"))
    store = open_store(settings)
    try:
        with running(store, settings) as pipeline:
            collectors = set(pipeline.registry._names_to_collectors.values())
            assert {label for one in collectors for label in getattr(one, "_labelnames", ())} <= LABELS
            assert len(collectors) > 10
    finally:
        store.close()
