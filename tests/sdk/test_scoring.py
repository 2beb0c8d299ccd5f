"""`cutaway.score`: an event while the span is open, a log record that names it afterwards, and never any trouble for the host."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from opentelemetry import trace as otel
from opentelemetry.sdk._logs.export import LogRecordExportResult
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import cutaway
from cutaway import scoring
from cutaway_collector import decode
from cutaway_collector.receive import GrpcReceiver, HttpReceiver
from decode_helpers import rows
from receive_helpers import Recorder

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
NAME, VALUE = "gen_ai.evaluation.name", "gen_ai.evaluation.score.value"


class Kept:
    """A log exporter that keeps what it is given, fails or hangs as told."""

    def __init__(self, result: LogRecordExportResult = LogRecordExportResult.SUCCESS, gate: threading.Event | None = None) -> None:
        self.records: list[Any] = []
        self.result = result
        self._gate = gate

    def export(self, batch: Sequence[Any]) -> LogRecordExportResult:
        if self._gate is not None:
            self._gate.wait(30)
        self.records += batch
        return self.result

    def shutdown(self) -> None:
        if self._gate is not None:
            self._gate.set()


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    yield
    cutaway.shutdown()


@pytest.fixture
def memory() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def kept(memory: InMemorySpanExporter) -> Kept:
    found = Kept()
    cutaway.configure(span_processor=SimpleSpanProcessor(memory), log_exporter=found, service_name="shop")
    return found


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_an_open_span_gets_an_event(memory: InMemorySpanExporter, kept: Kept) -> None:
    """The current span, with the names of the conventions; nothing goes another way."""
    with cutaway.span("answer"):
        assert cutaway.score("helpful", 0.5, label="yes", explanation="to the point", sequence=1, source="user")
    (span,) = memory.get_finished_spans()
    (event,) = span.events
    assert event.name == "gen_ai.evaluation.result"
    assert dict(event.attributes or {}) == {
        NAME: "helpful", VALUE: 0.5, "gen_ai.evaluation.score.label": "yes", "gen_ai.evaluation.explanation": "to the point",
        "cutaway.sequence.index": 1, "cutaway.evaluation.source": "user"}
    assert cutaway.flush()
    assert kept.records == []


def test_a_given_span_is_scored_and_not_the_current_one(memory: InMemorySpanExporter, kept: Kept) -> None:
    """`span=` decides, also for a span of somebody else's provider."""
    with cutaway.span("outer") as outer, cutaway.span("inner"):
        assert cutaway.score("tone", label="kind", span=outer)
    inner, outer_done = memory.get_finished_spans()
    assert (len(inner.events), len(outer_done.events)) == (0, 1)


def test_a_span_that_has_ended_is_named_by_a_log_record(memory: InMemorySpanExporter, kept: Kept) -> None:
    """From the span itself or from its ids, in any spelling, or of the whole trace."""
    with cutaway.span("answer") as span:
        pass
    context = span.get_span_context()
    assert cutaway.score("a", True, span=span)
    assert cutaway.score("b", 2, trace_id=otel.format_trace_id(context.trace_id).upper(), span_id=context.span_id)
    assert cutaway.score("c", 3, trace_id=context.trace_id)
    assert cutaway.flush()
    found = [(r.log_record.trace_id, r.log_record.span_id, r.log_record.attributes[NAME], r.log_record.attributes[VALUE],
              r.log_record.event_name, r.resource.attributes["service.name"], r.instrumentation_scope.name) for r in kept.records]
    same = ("gen_ai.evaluation.result", "shop", "cutaway")
    assert found == [(context.trace_id, context.span_id, "a", 1.0, *same), (context.trace_id, context.span_id, "b", 2.0, *same),
                     (context.trace_id, 0, "c", 3.0, *same)]


@pytest.mark.parametrize("arguments", [
    {"name": ""}, {"name": 5}, {"name": "n" * 201}, {"name": "cutaway.perplexity"}, {"value": math.nan}, {"value": math.inf},
    {"value": "0.5"}, {"value": object()}, {"value": 10**400}, {"value": None}, {"value": None, "label": ""}, {"label": 5},
    {"sequence": -1}, {"sequence": True}, {"explanation": 5}, {"source": 5}, {"trace_id": "abc"}, {"trace_id": 0},
    {"trace_id": 2**128}, {"trace_id": True}, {"trace_id": None, "span_id": SPAN}, {"span_id": "0x" + SPAN[2:]},
    {"trace_id": TRACE[:-1] + " "},
])
def test_a_call_that_means_nothing_is_told_and_harmless(
    kept: Kept, caplog: pytest.LogCaptureFixture, arguments: dict[str, Any],
) -> None:
    """False, one line however often, and no value in it."""
    for _ in range(3):
        given: dict[str, Any] = {"name": "helpful", "value": 1.0, "trace_id": TRACE, **arguments}
        assert cutaway.score(**given) is False
    (line,) = warnings(caplog)
    assert line.startswith("a score was not taken: ")
    assert cutaway.flush()
    assert kept.records == []


def test_without_a_span_there_is_nothing_to_score(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    """And the line says what to pass."""
    assert cutaway.score("helpful", 1.0) is False
    assert "pass span=, or the trace_id" in warnings(caplog)[0]


def test_nothing_is_sent_where_tracing_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disabled, or without an exporter."""
    cutaway.configure(disabled=True)
    assert cutaway.score("helpful", 1.0, trace_id=TRACE) is False
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    cutaway.configure()
    assert cutaway.score("helpful", 1.0, trace_id=TRACE) is False


def test_an_unsampled_span_is_not_scored_afterwards(monkeypatch: pytest.MonkeyPatch, memory: InMemorySpanExporter) -> None:
    """It is not stored, so nobody could see the score beside it."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    kept = Kept()
    cutaway.configure(span_processor=SimpleSpanProcessor(memory), log_exporter=kept)
    with cutaway.span("answer") as span:
        assert cutaway.score("helpful", 1.0) is False
    assert cutaway.score("helpful", 1.0, span=span) is False
    assert cutaway.flush()
    assert kept.records == []


def test_the_redaction_hook_sees_the_words(memory: InMemorySpanExporter) -> None:
    """Label and explanation, changed or dropped, on both ways; a score that loses its only content is not sent."""
    kept = Kept()
    cutaway.configure(span_processor=SimpleSpanProcessor(memory), log_exporter=kept,
                      redact=lambda name, text: None if "drop" in text else text.replace("secret", "***"))
    with cutaway.span("answer"):
        assert cutaway.score("tone", 1, explanation="a secret", label="drop me")
        assert cutaway.score("tone", label="drop me") is False
    assert cutaway.score("tone", 1, explanation="a secret", trace_id=TRACE)
    assert cutaway.flush()
    (event,) = memory.get_finished_spans()[0].events
    for attributes in (event.attributes, kept.records[0].log_record.attributes):
        assert dict(attributes or {}) == {NAME: "tone", VALUE: 1.0, "gen_ai.evaluation.explanation": "a ***"}


def test_the_queue_is_bounded_and_nobody_waits(caplog: pytest.LogCaptureFixture, memory: InMemorySpanExporter) -> None:
    """A collector that hangs: the host goes on, the oldest scores are dropped, one line says so."""
    gate = threading.Event()
    kept = Kept(gate=gate)
    cutaway.configure(span_processor=SimpleSpanProcessor(memory), log_exporter=kept, queue_spans_max=50, delay_ms=1)
    for number in range(2000):
        assert cutaway.score("helpful", number, trace_id=TRACE)
    gate.set()
    cutaway.flush()
    assert len(kept.records) < 2000
    assert kept.records[-1].log_record.attributes[VALUE] == 1999


def test_an_outage_is_told_once(caplog: pytest.LogCaptureFixture, memory: InMemorySpanExporter) -> None:
    """In the words of scores."""
    cutaway.configure(span_processor=SimpleSpanProcessor(memory), log_exporter=Kept(LogRecordExportResult.FAILURE), delay_ms=1)
    for number in range(5):
        cutaway.score("helpful", number, trace_id=TRACE)
        assert cutaway.flush() is False
    assert [line for line in warnings(caplog) if "scores cannot be delivered" in line] == warnings(caplog)
    assert len(warnings(caplog)) == 1


def test_a_fault_of_ours_does_not_reach_the_host(monkeypatch: pytest.MonkeyPatch, kept: Kept, unguarded: Any) -> None:
    """Whatever breaks inside."""
    unguarded()
    monkeypatch.setattr(scoring.configuration, "score_queue", lambda: 1 / 0)
    assert cutaway.score("helpful", 1.0, trace_id=TRACE) is False


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_the_collector_stores_both_ways(protocol: str) -> None:
    """Through the official exporters and our receivers: the event on the span and the record become rows of the same shape."""
    submit = Recorder()
    if protocol == "grpc":
        receiver: Any = GrpcReceiver(submit, "127.0.0.1", 0, body_bytes_max=2**20, threads=2)
    else:
        receiver = HttpReceiver(submit, "127.0.0.1", 0, body_bytes_max=2**20, concurrency_max=4, threads=2)
    try:
        cutaway.configure(endpoint=f"http://127.0.0.1:{receiver.address[1]}", protocol=protocol, service_name="shop")
        with cutaway.span("answer") as span:
            cutaway.score("helpful", 0.25, sequence=2)
        cutaway.score("helpful", 0.75, sequence=3, span=span, source="user")
        assert cutaway.flush()
        cutaway.shutdown()
    finally:
        receiver.close()
    made = [decode.decode(payload, encoding, received_ns=1_700_000_000 * 10**9).scores for payload, encoding in submit.payloads]
    stored = [row for block in made if block for row in rows(block)]
    found = sorted((row["SeqIndex"], row["Value"], row["Source"], row["SpanId"]) for row in stored)
    ids = otel.format_span_id(span.get_span_context().span_id).encode()
    assert found == [(2, 0.25, b"shop", ids), (3, 0.75, b"user", ids)]


def test_what_waits_is_sent_when_the_program_ends() -> None:
    """Without a flush, within the usual limit."""
    submit = Recorder()
    receiver = HttpReceiver(submit, "127.0.0.1", 0, body_bytes_max=2**20, concurrency_max=4, threads=2)
    program = (f"import cutaway\ncutaway.configure(endpoint='http://127.0.0.1:{receiver.address[1]}', protocol='http/protobuf')\n"
               f"assert cutaway.score('helpful', 1, trace_id='{TRACE}', span_id='{SPAN}')\n")
    try:
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240)
    finally:
        receiver.close()
    assert (done.returncode, done.stderr) == (0, "")
    assert [encoding for _, encoding in submit.payloads] == ["logs/protobuf"]
