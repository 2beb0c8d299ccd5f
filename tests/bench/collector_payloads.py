"""The payloads every contender is sent: files of one OTLP request each, made once, and fresh ids patched into copies of them.

It sends nothing. Requests that are equal byte for byte are one request to a collector that forgets duplicates, so each copy gets
new trace and span ids at the places where the file has them; lengths do not change, so that nothing is encoded twice.
"""

from __future__ import annotations

import os
import random
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from cutaway import conventions as c

FOLDER = Path(__file__).parent.parent.parent / "build" / "bench"
MARK = b"chatcmpl-"
"""Begins the response id that every span carries once: a sink counts spans by it, in whatever format they come."""
MODELS = ("llama-3.1-8b", "qwen2.5-7b", "smollm2-135m", "mistral-7b")


@dataclass(frozen=True)
class Kind:
    """spans: a request; fill: what a span has beside its name, ids and response id."""

    name: str
    what: str
    spans: int
    fill: Callable[[Any, random.Random], None]


def _put(span: Any, key: str, value: Any) -> None:
    target = span.attributes.add(key=key).value
    kind = {str: "string_value", int: "int_value", float: "double_value", bytes: "bytes_value"}[type(value)]
    setattr(target, kind, value)


def _generation(span: Any, chance: random.Random) -> None:
    """The nine attributes that, with the response id, make ten."""
    model = span.name.split()[1]
    for key, value in {
        c.OPERATION_NAME: "chat", c.PROVIDER_NAME: c.PROVIDER_HUGGINGFACE, c.REQUEST_MODEL: model,
        "app.user": f"u-{chance.randrange(1000)}", "gen_ai.request.temperature": round(chance.random(), 2),
        "app.turn": chance.randrange(20),
        c.USAGE_INPUT_TOKENS: chance.randrange(8, 2000), c.USAGE_OUTPUT_TOKENS: chance.randrange(8, 900),
        c.TIME_TO_FIRST_TOKEN: chance.lognormvariate(-1.5, 0.6),
    }.items():
        _put(span, key, value)


def _arrays(span: Any, chance: random.Random) -> None:
    _generation(span, chance)
    for key in ("app.scores", "app.weights"):
        array = span.attributes.add(key=key).value.array_value
        for _ in range(64):
            array.values.add(double_value=chance.gauss(0, 1))


def _series(span: Any, chance: random.Random, tokens: int = 512) -> None:
    _generation(span, chance)
    _put(span, c.TOKEN_ID, c.SERIES_HEADER.pack(c.SERIES_VERSION, 2, 0, tokens, 1, 1)
         + struct.pack(f"<{tokens}I", *(chance.randrange(49_152) for _ in range(tokens))))
    for key in (c.TOKEN_SURPRISAL, c.TOKEN_ENTROPY, c.TOKEN_MARGIN, c.TOKEN_INTER_TOKEN_TIME, c.TOKEN_VARENTROPY):
        _put(span, key, c.SERIES_HEADER.pack(c.SERIES_VERSION, 1, 0, tokens, 1, 1)
             + struct.pack(f"<{tokens}f", *(chance.expovariate(1.0) for _ in range(tokens))))


def _long(span: Any, chance: random.Random) -> None:
    words = [chance.randbytes(4).hex() for _ in range(400)]
    for index in range(20):
        _put(span, f"app.document.{index}", " ".join(chance.choices(words, k=556))[:5000])


KINDS = {kind.name: kind for kind in (
    Kind("P1", "GenAI span, 10 attributes", 512, _generation),
    Kind("P2", "the same and two arrays of 64 doubles", 512, _arrays),
    Kind("P3", "the same and six packed series of 512 tokens", 512, _series),
    Kind("P4", "20 attributes of 5 kB", 64, _long),
    Kind("P5", "P1 and six packed series of 64 tokens", 512, partial(_series, tokens=64)),
)}


def path_of(name: str) -> Path:
    """The payload's file; made when it is not there."""
    file = FOLDER / f"{name}.otlp"
    if not file.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        made = file.with_suffix(".new")
        made.write_bytes(_make(KINDS[name]))
        made.rename(file)
    return file


def _make(kind: Kind) -> bytes:
    chance = random.Random(kind.name)
    now_ns = time.time_ns()
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    for key, value in {"service.name": "assistant", "service.version": "1.4.2", "host.name": "node-17"}.items():
        resource.resource.attributes.add(key=key).value.string_value = value
    scope = resource.scope_spans.add()
    scope.scope.name = c.SCOPE_NAME
    for _ in range(kind.spans):
        start_ns = now_ns - chance.randrange(10**9, 60 * 10**9)
        span = scope.spans.add(
            trace_id=chance.randbytes(16), span_id=chance.randbytes(8), name=f"chat {chance.choice(MODELS)}", kind=3,
            start_time_unix_nano=start_ns, end_time_unix_nano=start_ns + chance.randrange(10**8, 10**10))
        kind.fill(span, chance)
        _put(span, "gen_ai.response.id", MARK.decode() + chance.randbytes(4).hex())
    return request.SerializeToString()


class Copies:
    """Requests like the file's, each with ids of its own."""

    def __init__(self, payload: bytes) -> None:
        self._payload = np.frombuffer(payload, np.uint8)
        request = ExportTraceServiceRequest.FromString(payload)
        places, at = [], 0
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    for identifier in (span.trace_id, span.span_id):
                        at = payload.index(identifier, at)
                        places.append(np.arange(at, at + len(identifier)))
                        at += len(identifier)
        self._places = np.concatenate(places)
        self.spans = len(places) // 2

    def next(self) -> bytes:
        """One request."""
        copy = self._payload.copy()
        copy[self._places] = np.frombuffer(os.urandom(self._places.size), np.uint8)
        return copy.tobytes()
