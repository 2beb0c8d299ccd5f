"""Send generated GenAI spans to any OTLP endpoint at a steady rate: for trying out a collector, and for measuring one."""

from __future__ import annotations

import argparse
import os
import random
import struct
import sys
import time
from pathlib import Path
from typing import Any, Final

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from cutaway import conventions as c
from cutaway_collector.commands.running import KEY_VARIABLE
from cutaway_collector.errors import CutawayError, SettingsError
from cutaway_collector.settings import split_address

RATE_MIN: Final = 0.01
MODELS: Final = ("llama-3.1-8b", "qwen2.5-7b", "smollm2-135m", "mistral-7b")
SERVICES: Final = ("assistant", "summariser", "search")


def add_arguments(to: argparse.ArgumentParser) -> None:
    """Flags of `cutaway load`."""
    to.add_argument("--endpoint", default="127.0.0.1:4317", help="OTLP/gRPC host:port")
    to.add_argument("--tls", action="store_true", help="speak TLS to it")
    to.add_argument("--ca", default="", metavar="FILE", help="PEM file of who signed its certificate; implies --tls")
    to.add_argument("--spans", type=int, default=10_000, help="spans to send in all")
    to.add_argument("--rate", type=float, default=0.0, help="spans a second; 0 is as fast as it goes")
    to.add_argument("--batch", type=int, default=512, help="spans a request")
    to.add_argument("--tokens", type=int, default=64, help="tokens in each span's series; 0 sends none")
    to.epilog = f"An API key, where the endpoint demands one, comes from the variable {KEY_VARIABLE}; it needs the scope ingest."
    to.add_argument("--seed", type=int, default=0, help="the same seed sends the same spans, but for ids and times")


def run(arguments: argparse.Namespace) -> int:
    """Sends and reports. Exit 1 when spans were refused."""
    if arguments.batch < 1 or arguments.spans < 1 or arguments.tokens < 0:
        raise CutawayError("--spans and --batch are at least 1, --tokens at least 0")
    if arguments.rate and not arguments.rate >= RATE_MIN:
        raise CutawayError(f"--rate is 0 (as fast as it goes) or at least {RATE_MIN} spans a second, it is {arguments.rate}")
    split_address("--endpoint", arguments.endpoint)
    chance = random.Random(arguments.seed)
    sent = refused = 0
    began = time.monotonic()
    with _channel(arguments) as channel:
        stub = TraceServiceStub(channel)
        while sent < arguments.spans:
            count = min(arguments.batch, arguments.spans - sent)
            request = make_request(count, arguments.tokens, chance, time.time_ns())
            refused += _send(stub, request, arguments.endpoint)
            sent += count
            if arguments.rate > 0:
                time.sleep(max(0.0, began + sent / arguments.rate - time.monotonic()))
    took = time.monotonic() - began
    print(f"{sent} spans in {took:.2f} s, {sent / took:,.0f} spans/s, {refused} refused")
    return 1 if refused else 0


def _channel(arguments: argparse.Namespace) -> grpc.Channel:
    if not arguments.tls and not arguments.ca:
        return grpc.insecure_channel(arguments.endpoint)
    try:
        authority = Path(arguments.ca).read_bytes() if arguments.ca else None
    except OSError as error:
        raise SettingsError(f"--ca {arguments.ca} cannot be read: {error.strerror}") from None
    return grpc.secure_channel(arguments.endpoint, grpc.ssl_channel_credentials(authority))


def _send(stub: TraceServiceStub, request: ExportTraceServiceRequest, endpoint: str) -> int:
    wait_s = 0.5
    key = os.environ.get(KEY_VARIABLE, "")
    metadata = (("authorization", f"Bearer {key}"),) if key else ()
    for _ in range(8):
        try:
            return int(stub.Export(request, timeout=30, metadata=metadata).partial_success.rejected_spans)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise CutawayError(f"{endpoint} refused: {error.code().name}: {error.details()}") from None
            print(f"{endpoint} is not taking spans ({error.details()}): again in {wait_s:.1f} s", file=sys.stderr)
            time.sleep(wait_s)
            wait_s = min(8.0, wait_s * 2)
    raise CutawayError(f"{endpoint} took no spans for half a minute: is a collector listening there?")


def make_request(spans: int, tokens: int, chance: random.Random, now_ns: int) -> ExportTraceServiceRequest:
    """One request of `spans` generations, ended at `now_ns`, each with series of `tokens` tokens, as our SDK would send them."""
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.add(key="service.name").value.string_value = chance.choice(SERVICES)
    scope = resource.scope_spans.add()
    scope.scope.name = c.SCOPE_NAME
    for _ in range(spans):
        _add_span(scope, tokens, chance, now_ns)
    return request


def _add_span(scope: Any, tokens: int, chance: random.Random, now_ns: int) -> None:
    model = chance.choice(MODELS)
    pace_s = chance.lognormvariate(-3.5, 0.4)
    first_s = chance.lognormvariate(-1.5, 0.6)
    duration_ns = int((first_s + pace_s * tokens) * 1e9)
    span = scope.spans.add(
        trace_id=random.randbytes(16), span_id=random.randbytes(8), name=f"chat {model}", kind=1,
        start_time_unix_nano=now_ns - duration_ns, end_time_unix_nano=now_ns,
    )
    surprisals = [chance.expovariate(1.2) for _ in range(tokens)]
    mean = sum(surprisals) / tokens if tokens else 0.0
    values: dict[str, Any] = {
        c.OPERATION_NAME: "chat", c.PROVIDER_NAME: c.PROVIDER_HUGGINGFACE, c.REQUEST_MODEL: model,
        c.USAGE_INPUT_TOKENS: chance.randrange(8, 2000), c.USAGE_OUTPUT_TOKENS: tokens,
        c.TIME_TO_FIRST_TOKEN: first_s, c.TIME_PER_OUTPUT_TOKEN: pace_s,
    }
    if tokens:
        values |= {
            c.OUTPUT_PERPLEXITY: 2.718281828459045**mean, c.OUTPUT_SURPRISAL_MEAN: mean, c.OUTPUT_SURPRISAL_MAX: max(surprisals),
            c.TOKEN_ID: _series(2, "I", [chance.randrange(49_152) for _ in range(tokens)]),
            c.TOKEN_SURPRISAL: _series(1, "f", surprisals),
            c.TOKEN_ENTROPY: _series(1, "f", [chance.expovariate(1.0) for _ in range(tokens)]),
            c.TOKEN_INTER_TOKEN_TIME: _series(1, "f", [first_s] + [pace_s] * (tokens - 1)),
        }
    for key, value in values.items():
        target = span.attributes.add(key=key).value
        kind = {str: "string_value", int: "int_value", float: "double_value", bytes: "bytes_value"}[type(value)]
        setattr(target, kind, value)


def _series(dtype: int, letter: str, values: list[Any]) -> bytes:
    return c.SERIES_HEADER.pack(c.SERIES_VERSION, dtype, 0, len(values), 1, 1) + struct.pack(f"<{len(values)}{letter}", *values)
