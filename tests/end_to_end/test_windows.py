"""Window scores of a collector that runs: from OTLP to the page, across a restart, with a corpus registered from outside."""

from __future__ import annotations

import time
import urllib.request
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

import window_helpers as made
from serving import Serving
from store_helpers import wait_until

ANSWERS = 12
NS = 10**9


def _request(service: str, texts: list[str], first: int, start_ns: int) -> bytes:
    """Generations under a server span each, as an instrumented web service sends them."""
    message = ExportTraceServiceRequest()
    resource = message.resource_spans.add()
    resource.resource.attributes.add(key="service.name").value.string_value = service
    spans = resource.scope_spans.add().spans
    for number, text in enumerate(texts, first):
        ids = number.to_bytes(16, "big")
        for span_id, parent, name, values in (
            (2 * number, 0, "POST /ask", {"http.route": "/ask"}),
            (2 * number + 1, 2 * number, "chat m", {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m",
                                                    "gen_ai.prompt.name": "ask-v1", "gen_ai.completion": text}),
        ):
            span = spans.add(trace_id=ids, span_id=span_id.to_bytes(8, "big"), name=name, start_time_unix_nano=start_ns,
                             end_time_unix_nano=start_ns + NS)
            if parent:
                span.parent_span_id = parent.to_bytes(8, "big")
            for key, value in values.items():
                span.attributes.add(key=key).value.string_value = value
    return message.SerializeToString()


def _send(collector: Serving, body: bytes) -> None:
    request = urllib.request.Request(f"http://{collector.addresses['otlp_http']}/v1/traces", body,
                                     {"Content-Type": "application/x-protobuf"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200


@pytest.mark.slow
def test_windows_are_judged_after_a_restart_and_shown(tmp_path: Path) -> None:
    """Sent while nothing judged windows; the next start makes up for it, compares with the corpus, and says so once."""
    data = tmp_path / "data"
    start_ns = (time.time_ns() // NS - 1800) * NS
    document = made.healthy(1, seed=7, sentences=30)[0]
    leaking = made.healthy(ANSWERS, seed=2)
    leaking[5] += " " + document
    with Serving(data, "--windows-minutes", "0") as collector:
        _send(collector, _request("sick", made.collapsed(ANSWERS), 1, start_ns))
        _send(collector, _request("leaking", leaking, 100, start_ns))
        wait_until(lambda: len(collector.json("/search.json", q="op:chat")["rows"]) == 2 * ANSWERS, 60)
        (tmp_path / "book.txt").write_text(document)
        added = Serving.run("corpus", "add", "books", str(tmp_path / "book.txt"), "--data", str(data))
        assert added.returncode == 0, added.stderr
        assert collector.json("/windows.json")["windows"] == []
    for _ in range(2):
        with Serving(data, "--windows-minutes", "1") as collector:
            wait_until(lambda running=collector: len(running.json("/windows.json")["windows"]) == 2, 60)
            leaking_row, sick_row = collector.json("/windows.json")["windows"]
            page = collector.text("/windows")
    group = [sick_row[name] for name in ("service", "model", "route", "template", "answers")]
    assert group == ["sick", "m", "/ask", "ask-v1", ANSWERS]
    assert {score["label"] for score in sick_row["scores"]} == {"", "collapsed", "duplicates"}
    memorised = {score["name"]: score for score in leaking_row["scores"]}["memorised_share"]
    assert (memorised["label"], memorised["examples"]) == ("memorised", [f"{105:032x}"])
    assert "book.txt in the corpus books" in page
    assert len([score for score in sick_row["scores"] if score["name"] == "vendi"]) == 1
