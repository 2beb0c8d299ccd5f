"""What becomes of stored scores: figures with a bounded number of series, and log records at another collector."""

from __future__ import annotations

import http.server
import math
import random
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from prometheus_client import CollectorRegistry, generate_latest

from cutaway_collector import decode
from cutaway_collector.blocks import Block, Strings
from cutaway_collector.errors import SettingsError, StoreError
from cutaway_collector.receive import HttpReceiver
from cutaway_collector.scores_out import Forwarder, ScoresTold, Tally
from cutaway_collector.scores_out.tally import EDGES, warm_up
from cutaway_collector.settings import Settings
from decode_helpers import RECEIVED_NS, rows
from receive_helpers import Recorder, eventually
from scores_helpers import ScoreRow, scores_block
from search_helpers import START_NS


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    warm_up()


def samples(tally: Tally) -> dict[tuple[str, ...], float]:
    """(name, score, model, source, le) -> value, as Prometheus would read them."""
    (family,) = tally.collect()
    keys = ("score", "model", "source", "le")
    return {(sample.name, *(sample.labels.get(key, "") for key in keys)): sample.value for sample in family.samples}


def test_the_figures_are_those_of_a_plain_count() -> None:
    """Count, sum and every bucket of each series, over several blocks with names and models in any order."""
    dice = random.Random(3)
    scores = [ScoreRow(1, 1, dice.choice(["a", "tone", "ab"]), dice.choice([*EDGES, -5.0, 0.3, 4e6, math.nan]),
                       model=dice.choice(["", "b", "gpt2"]), source=dice.choice(["collector", "user", "collectos"]))
              for _ in range(3000)]
    tally = Tally(series_max=50)
    for start in range(0, 3000, 700):
        tally.add(scores_block(scores[start:start + 700]))
    found = samples(tally)
    series: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for score in scores:
        if math.isfinite(score.value):
            series[score.name, score.model, "collector" if score.source == "collector" else "sent"].append(score.value)
    assert len(found) == len(series) * (len(EDGES) + 3)
    for key, values in series.items():
        assert found["cutaway_score_count", *key, ""] == len(values)
        assert found["cutaway_score_sum", *key, ""] == pytest.approx(sum(values))
        for edge in EDGES:
            assert found["cutaway_score_bucket", *key, f"{edge:g}"] == sum(value <= edge for value in values)
    registry = CollectorRegistry()
    registry.register(tally)
    assert b'cutaway_score_count{model="gpt2",score="tone",source="collector"}' in generate_latest(registry)


def test_a_flood_of_names_has_one_series() -> None:
    """Of each kind of source: what senders invent takes no place from the collector's own scores, in one block or in many."""
    tally = Tally(series_max=5)
    tally.add(scores_block([ScoreRow(1, 1, f"sent-{number}", 1.0, source="user") for number in range(2000)]))
    for number in range(20):
        tally.add(scores_block([ScoreRow(1, 1, f"own-{number}", 1.0)]))
    counts = {key[1:4]: value for key, value in samples(tally).items() if key[0] == "cutaway_score_count"}
    assert len(counts) == 12
    assert counts["other", "other", "sent"] == 1995
    assert counts["other", "other", "collector"] == 15


def test_a_tenant_is_not_named() -> None:
    """Its scores count, without its models, and without names it chose."""
    tally = Tally(series_max=50)
    tally.add(scores_block([ScoreRow(1, 1, "their-score", 1.0, source="user", tenant="zoo", model="their-model"),
                            ScoreRow(1, 1, "own", 2.0, tenant="zoo", model="their-model")]))
    assert {key[1:4]: value for key, value in samples(tally).items() if key[0] == "cutaway_score_count"} == {
        ("other", "other", "sent"): 1.0, ("own", "other", "collector"): 1.0}


# --- sent on ------------------------------------------------------------------------------------------------------------------


@contextmanager
def collecting(submit: Recorder) -> Iterator[str]:
    """Our own receiver; gives its address."""
    receiver = HttpReceiver(submit, "127.0.0.1", 0, body_bytes_max=2**22, concurrency_max=4, threads=2)
    try:
        yield f"http://127.0.0.1:{receiver.address[1]}"
    finally:
        receiver.close()


class Peer(http.server.BaseHTTPRequestHandler):
    """Answers each request with the next of `answers`, the last one for ever."""

    answers: list[tuple[int, bytes]]
    seen: list[dict[str, str]]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append({"path": self.path, **dict(self.headers.items())})
        status, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if status == 307:
            self.send_header("Location", "http://127.0.0.1:1/")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Nothing."""


@contextmanager
def peer(*answers: tuple[int, bytes]) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A receiver of somebody else's; gives its address and the requests it saw."""
    handler = type("Handler", (Peer,), {"answers": list(answers), "seen": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler.seen  # type: ignore[attr-defined]  # made above
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def forwarding(endpoint: str, **options: Any) -> Iterator[tuple[Forwarder, CollectorRegistry]]:
    registry = CollectorRegistry()
    forwarder = Forwarder(endpoint, registry=registry, **{"rows_max": 1000, **options})
    try:
        yield forwarder, registry
    finally:
        forwarder.close()


def value(registry: CollectorRegistry, name: str, **labels: str) -> float:
    return registry.get_sample_value(f"cutaway_scores_{name}", labels) or 0.0


def test_computed_scores_arrive_as_evaluation_results() -> None:
    """At a real OTLP logs receiver, decoded as it would store them; explanations and others' scores stay here."""
    sent = [ScoreRow(3, 7, "tone", 0.25, label="kind", explanation="he said secret", sequence=2, version="v4", service="shop",
                     model="gpt2", time_ns=START_NS + 5),
            ScoreRow(3, None, "whole", 1.0), ScoreRow(3, 7, "label", math.nan, label="x"),
            ScoreRow(3, 7, "theirs", 1.0, source="user"), ScoreRow(3, 7, "gone", 1.0, deleted=True)]
    submit = Recorder()
    with collecting(submit) as address, forwarding(address) as (forwarder, registry):
        forwarder.put(scores_block(sent))
        eventually(lambda: value(registry, "forwarded_total") == 3)
    ((payload, encoding),) = submit.payloads
    assert encoding == "logs/protobuf"
    assert b"secret" not in payload
    made = decode.decode(payload, "logs/protobuf", received_ns=RECEIVED_NS)
    assert made.scores is not None
    assert (made.rejected, made.message) == (0, "")
    first, second, third = sorted(rows(made.scores), key=lambda row: [b"tone", b"whole", b"label"].index(row["ScoreName"]))
    assert {key: first[key] for key in ("Timestamp", "ServiceName", "GenAiModel", "TraceId", "SpanId", "SeqIndex", "ScoreName",
                                        "ScorerVersion", "Source", "Value", "Label", "Explanation")} == {
        "Timestamp": START_NS + 5, "ServiceName": b"shop", "GenAiModel": b"gpt2", "TraceId": sent[0].trace_id.encode(),
        "SpanId": sent[0].span_id.encode(), "SeqIndex": 2, "ScoreName": b"tone", "ScorerVersion": b"v4",
        "Source": b"collector (sent)", "Value": 0.25, "Label": b"kind", "Explanation": b""}
    assert (second["SpanId"], second["Value"]) == (b"", 1.0)
    assert (third["Label"], math.isnan(third["Value"])) == (b"x", True)


def test_what_another_collector_sent_does_not_go_in_circles() -> None:
    """Rows that were received, with whatever source, are not sent on."""
    submit = Recorder()
    with collecting(submit) as address, forwarding(address) as (forwarder, registry):
        forwarder.put(scores_block([ScoreRow(1, 1, "a", 1.0, source="collector (sent)"), ScoreRow(1, 1, "a", 1.0, source="judge")]))
        forwarder.put(scores_block([ScoreRow(1, 1, "a", 1.0)]))
        eventually(lambda: value(registry, "forwarded_total") == 1)
    assert len(submit.payloads) == 1


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_busy_receiver_is_asked_again(status: int) -> None:
    """As OTLP says; nothing is lost and nothing sent twice after it was taken."""
    with peer((status, b""), (200, b"")) as (address, seen), forwarding(address) as (forwarder, registry):
        forwarder.put(scores_block([ScoreRow(1, 1, "a", 1.0)]))
        eventually(lambda: value(registry, "forwarded_total") == 1)
        assert [request["path"] for request in seen] == ["/v1/logs"] * 2
        assert value(registry, "forward_waiting") == 0


@pytest.mark.parametrize("answer", [(400, b""), (404, b""), (307, b""), (500, b"")])
def test_what_is_refused_for_good_is_counted(answer: tuple[int, bytes]) -> None:
    """And the next is tried all the same; a redirect is not followed."""
    with (peer(answer, (200, b"")) as (address, seen),
          forwarding(f"{address}/own/path", authorization="Bearer x") as (forwarder, registry)):
        forwarder.put(scores_block([ScoreRow(1, 1, "a", 1.0)] * 3))
        forwarder.put(scores_block([ScoreRow(1, 1, "b", 1.0)]))
        eventually(lambda: value(registry, "forwarded_total") == 1)
        assert value(registry, "forward_dropped_total", reason="refused") == 3
        assert {(request["path"], request["Authorization"]) for request in seen} == {("/own/path", "Bearer x")}


def test_a_receiver_that_keeps_only_some_is_believed() -> None:
    """partial_success counts."""
    response = ExportLogsServiceResponse()
    response.partial_success.rejected_log_records = 2
    with peer((200, response.SerializeToString())) as (address, _), forwarding(address) as (forwarder, registry):
        forwarder.put(scores_block([ScoreRow(1, 1, "a", 1.0)] * 5))
        eventually(lambda: value(registry, "forwarded_total") == 3)
        assert value(registry, "forward_dropped_total", reason="refused") == 2


def test_an_outage_fills_the_queue_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    """The oldest go, all are counted, one line says so, and a stop does not wait for ever."""
    forwarder = Forwarder("http://127.0.0.1:1", rows_max=50, registry=(registry := CollectorRegistry()))
    for number in range(30):
        forwarder.put(scores_block([ScoreRow(1, number + 1, "a", 1.0)] * 10))
        assert value(registry, "forward_waiting") <= 60
    eventually(lambda: "not sent on" in caplog.text)
    forwarder.close()
    forwarder.close()
    dropped = sum(value(registry, "forward_dropped_total", reason=reason) for reason in ("full", "stopped"))
    assert dropped == 300
    assert caplog.text.count("not sent on") == 1


@pytest.mark.parametrize("change", [
    {"scores_forward": "ftp://host/v1/logs"}, {"scores_forward": "http://"}, {"scores_forward": "http://127.0.0.1:4318/v1/logs"},
    {"scores_forward": "http://other:4318", "scores_forward_authorization_file": "/nowhere"},
])
def test_settings_that_cannot_work_are_refused(change: dict[str, Any]) -> None:
    """The collector itself among them."""
    with pytest.raises(SettingsError, match="scores_forward"):
        Forwarder.of(Settings(data="unused", **change), CollectorRegistry())


def test_nothing_is_sent_on_unasked() -> None:
    """The default."""
    assert Forwarder.of(Settings(data="unused"), CollectorRegistry()) is None


class Memory:
    """A store that keeps blocks, or refuses."""

    database = "otel"

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.error: StoreError | None = None

    def insert(self, block: Block, deduplication_token: str) -> None:
        if self.error:
            raise self.error
        self.blocks.append(block)


def test_only_stored_scores_are_told() -> None:
    """Not other tables, not what the store refused; and a listener that breaks costs nothing."""
    memory, told = Memory(), []

    def broken(block: Block) -> None:
        raise ValueError("no")

    store = ScoresTold(memory, [broken, told.append])  # type: ignore[arg-type]  # only insert is asked for
    block = scores_block([ScoreRow(1, 1, "a", 1.0)])
    store.insert(block, "t")
    store.insert(Block("otel_traces", 1, {"SpanId": Strings.of(["x"])}), "t")
    memory.error = StoreError("away", retryable=True)
    with pytest.raises(StoreError):
        store.insert(block, "t")
    assert told == [block]
    assert len(memory.blocks) == 2


def test_a_collector_tells_and_counts(tmp_path: Path) -> None:
    """The whole: scores over HTTP into one collector appear in its figures, and what it computes at the other's door."""
    import json
    import urllib.request

    from cutaway_collector.app import Collector

    submit = Recorder()
    with collecting(submit) as other:
        collector = Collector(Settings(data=str(tmp_path), otlp_grpc="127.0.0.1:0", otlp_http="127.0.0.1:0", ui="127.0.0.1:0",
                                       batch_age_ms_max=20, scores_forward=other, score_device="cpu"))
        try:
            address = f"http://{collector.addresses.otlp_http}"
            scores = [{"trace_id": "1" * 32, "span_id": "2" * 16, "name": "helpful", "value": 1, "model": "gpt2"}, {"name": "no"}]
            for _ in range(2):
                request = urllib.request.Request(f"{address}/v1/scores", json.dumps(scores).encode(),
                                                 {"Content-Type": "application/json"})
                with urllib.request.urlopen(request, timeout=20) as answer:
                    said = json.loads(answer.read())
                assert (said["accepted"], said["rejected"]) == (1, 1)
                assert "score 1: " in said["message"]

            def figures() -> str:
                with urllib.request.urlopen(f"http://{collector.addresses.ui}/metrics", timeout=20) as answer:
                    return str(answer.read().decode())

            from pipeline_helpers import request as spans

            eventually(lambda: 'cutaway_score_count{model="gpt2",score="helpful",source="sent"} 1.0' in figures(), 30)
            body = spans(0, 3, tokens=40)
            with urllib.request.urlopen(urllib.request.Request(
                    f"{address}/v1/traces", body, {"Content-Type": "application/x-protobuf"}), timeout=20):
                pass
            eventually(lambda: bool(submit.payloads), 30)
            eventually(lambda: 'source="collector"' in figures(), 30)
        finally:
            collector.close()
    made = decode.decode(submit.payloads[0][0], "logs/protobuf", received_ns=RECEIVED_NS)
    assert made.scores is not None
    assert {row["Source"] for row in rows(made.scores)} == {b"collector (sent)"}
