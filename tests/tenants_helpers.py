"""Shared by the tests of security: spans of two tenants in one store, the same in shape, each full of its owner's word."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from cutaway_collector import decode, score
from cutaway_collector.commands.load import make_request
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, open_store

ACME, ZOO = "acme", "zoo"
WORDS = {ACME: "anvil", ZOO: "zebra"}
"""Stands in every text of a tenant's spans, and in none of the other's."""
SPANS = 30
SHARED_TRACE, SHARED_SPAN = bytes([7] * 16), bytes([9] * 8)
"""Ids that both tenants use: ids come from senders, and a hostile one can repeat what it has seen."""
NOW_NS = time.time_ns()


@dataclass(frozen=True)
class Ids:
    """Ids of a generation that one tenant alone has."""

    trace: str
    span: str


def request_of(tenant: str) -> tuple[ExportTraceServiceRequest, Ids]:
    """A request whose spans, events, resource and scores say the tenant's word; the last span has the shared ids."""
    word = WORDS[tenant]
    request = make_request(SPANS, 8, random.Random(3), NOW_NS)
    resource = request.resource_spans[0].resource
    resource.attributes[0].value.string_value = f"{word}-service"
    spans = request.resource_spans[0].scope_spans[0].spans
    for number, span in enumerate(spans):
        span.trace_id = (number + 1).to_bytes(2, "big") + (word * 3)[:14].encode()
        span.span_id = (number + 1).to_bytes(2, "big") + (word * 2)[:6].encode()
        span.name = f"chat {word}"
        for attribute in span.attributes:
            if attribute.key == "gen_ai.request.model":
                attribute.value.string_value = f"{word}-model"
        span.attributes.add(key="prompt").value.string_value = f"tell me of the {word}"
        span.events.add(name=f"{word}-event", time_unix_nano=NOW_NS)
        span.status.message = f"{word} status"
    spans[-1].trace_id, spans[-1].span_id = SHARED_TRACE, SHARED_SPAN
    return request, Ids(spans[0].trace_id.hex(), spans[0].span_id.hex())


@contextmanager
def two_tenants(directory: Path) -> Iterator[tuple[ClickHouseStore, dict[str, Ids]]]:
    """A store with spans, token series and scores of both, decoded and scored as the pipeline does, and their ids."""
    limits = decode.Limits(attribute_depth_max=32, attributes_max=100, sequence_tokens_max=1000)
    store = open_store(Settings(data=str(directory)))
    ids = {}
    try:
        for tenant in (ACME, ZOO):
            request, ids[tenant] = request_of(tenant)
            rows = decode.decode(request.SerializeToString(), "protobuf", received_ns=NOW_NS, tenant=tenant, limits=limits)
            scores = score.score_block(rows.tokens, score.scorers("cpu"), now_ms=NOW_NS // 10**6, on_failure=_fail)
            for block in (rows.spans, rows.tokens, scores):
                assert block.rows
                store.insert(block, f"{tenant}-{block.table}")
        yield store, ids
    finally:
        store.close()


def _fail(name: str, error: Exception) -> None:
    raise AssertionError(name) from error
