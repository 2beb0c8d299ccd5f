"""What a span costs the collector: decoding beside python-protobuf, and the whole way to a searchable row."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from cutaway_collector import decode, score
from cutaway_collector.commands.load import make_request
from cutaway_collector.pipeline import Pipeline
from cutaway_collector.settings import Settings
from cutaway_collector.spool import Spool
from cutaway_collector.store import open_store

Pairs = list[tuple[float, float]]
SPANS = 512
REQUESTS = 100


def figures(rounds: int) -> Iterator[tuple[str, str, str, Pairs]]:
    """Spans a CPU second, requests of 512 GenAI spans; ratio above 1 is faster than the baseline."""
    decode.warm_up()
    score.warm_up()
    for tokens in (0, 64):
        payload = make_request(SPANS, tokens, random.Random(1), time.time_ns()).SerializeToString()
        what = f"{tokens} tokens a span, {len(payload) // SPANS} B"
        yield f"decode to columns ({what})", "spans/CPU s", "python-protobuf parse + one loop", [
            (_rate(payload, _decode, 20), _rate(payload, _loop, 2)) for _ in range(rounds)
        ]
        yield f"until queryable, chDB ({what})", "spans/CPU s", "decode alone", [
            (_queryable(payload), _rate(payload, _decode, 20)) for _ in range(max(3, rounds // 3))
        ]


def _decode(payload: bytes) -> None:
    decode.decode(payload, "protobuf", received_ns=time.time_ns(), tenant="", limits=decode.Limits())


def _loop(payload: bytes) -> None:
    request = ExportTraceServiceRequest.FromString(payload)
    rows = [
        (span.trace_id.hex(), span.span_id.hex(), span.name, span.start_time_unix_nano, span.end_time_unix_nano,
         {item.key: str(getattr(item.value, item.value.WhichOneof("value") or "string_value")) for item in span.attributes})
        for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans
    ]
    if len(rows) != SPANS:
        raise AssertionError("the baseline must do the work")


def _rate(payload: bytes, work: object, times: int) -> float:
    began = time.process_time()
    for _ in range(times):
        work(payload)  # type: ignore[operator]  # a callable of this file
    return SPANS * times / (time.process_time() - began)


def _queryable(payload: bytes) -> float:
    """Submit REQUESTS copies with fresh ids' worth of bytes, then wait until a count sees them all; the whole process's CPU."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data=str(Path(folder) / "data"))
        store = open_store(settings)
        spool = Spool.of(settings)
        pipeline = Pipeline(store, spool, settings, scorers=score.scorers("cpu"))
        began = time.process_time()
        for _ in range(REQUESTS):
            pipeline.submit(payload, "protobuf")
        while store.query(f"SELECT count() FROM {settings.database}.otel_traces").rows[0][0] < SPANS * REQUESTS:
            time.sleep(0.05)
        rate = SPANS * REQUESTS / (time.process_time() - began)
        pipeline.close(10)
        spool.close()
        store.close()
    return rate
