"""Damaged trace requests by thousands, each compared with the protobuf library; also a program: python decode_fuzz_helpers.py.

CUTAWAY_FUZZ_COUNT requests (20 000 without it) are made from CUTAWAY_FUZZ_SEED (0), so that a long run can be cut into pieces that
do not repeat one another; the last line says how many were read and how many refused. With NUMBA_BOUNDSCHECK=1 (and a
NUMBA_CACHE_DIR of its own, for numba's cache does not tell the two apart) every access of compiled code is checked.
"""

from __future__ import annotations

import math
import os
import random
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent)]

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from cutaway import conventions as c
from cutaway_collector import columns, decode
from cutaway_collector.errors import MalformedRequest
from decode_helpers import RECEIVED_NS, a_span, expected, key_value, request, rows

UPSTREAM = [*(column.name for column in columns.UPSTREAM_COLUMNS), "SpanNumbers"]
SEED = int(os.environ.get("CUTAWAY_FUZZ_SEED", "0"))
COUNT = int(os.environ.get("CUTAWAY_FUZZ_COUNT", "20000"))


def bases() -> list[bytes]:
    """Sound requests that between them take every road of the decoder."""
    header = c.SERIES_HEADER.pack(c.SERIES_VERSION, 1, 0, 2, 1, 1)
    rich = a_span(attributes=[key_value(*pair) for pair in (
        ("a", (1, 2.5, {"b": "c"})), ("gen_ai.request.model", "m"), ("doubles", (0.5, -1e-7, 1e21, 3.0)), ("d", 1 / 3),
        ("odd", (math.nan, math.inf, 0.1)), ("raw", b"\x00\xff\x10"), ("flag", True), ("n", -(2**63)), ("long", "x" * 200),
        ("vector", tuple(index / 3 for index in range(17))),
        ("empty", None), (c.TOKEN_ENTROPY, header + bytes(8)), (c.TOKEN_SURPRISAL, (0.5, 0.25)), (c.TOKEN_TEXT, ("é", "b")),
        (c.SEQUENCE_OUTPUT_TOKENS, (2,)),
    )], trace_state="k=v", kind=3)
    rich.status.message, rich.status.code = "because", 2
    event = rich.events.add(name="e", time_unix_nano=5)
    event.attributes.append(key_value("k", (1.5, 2.5)))
    rich.links.add(trace_id=bytes(range(16)), span_id=bytes(range(8)), trace_state="s").attributes.append(key_value("l", "v"))
    sender = Resource(attributes=[key_value("service.name", "s"), key_value("r", (0.1, 2.0))])
    small = request(a_span(), resource=sender)
    whole = request(rich, a_span(), resource=Resource(attributes=[key_value("service.name", "s")]))
    return [small.SerializeToString(), whole.SerializeToString(), request(rich).SerializeToString()]


def damaged(payload: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """Up to four changes: bytes set, bits turned, pieces removed, repeated or taken from elsewhere, the end cut, lengths moved."""
    made = bytearray(payload)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(made)) if made else 0
        action = chance.randrange(8)
        if action == 0 and made:
            made[at] = chance.randrange(256)
        elif action == 1 and made:
            made[at] ^= 1 << chance.randrange(8)
        elif action == 2:
            del made[at : at + chance.randint(1, 12)]
        elif action == 3:
            made[at:at] = chance.randbytes(chance.randint(1, 12))
        elif action == 4:
            made[at:at] = made[at : at + chance.randint(1, 60)]
        elif action == 5:
            other = chance.choice(others)
            start = chance.randrange(len(other))
            made[at:at] = other[start : start + chance.randint(1, 60)]
        elif action == 6 and chance.random() < 0.3:
            del made[at:]
        elif made:
            made[at] = min(255, max(0, made[at] + chance.choice((-2, -1, 1, 2, 11, -11))))
    return bytes(made)


def agrees(payload: bytes) -> bool:
    """Whether the decoder reads these bytes, and as the library does; AssertionError when it reads them otherwise.

    The library also refuses text that is not UTF-8 and damage inside fields nobody stores; the decoder may read those.
    """
    try:
        wanted = expected(payload)
    except (DecodeError, UnicodeError):
        wanted = None
    try:
        block = decode.decode_protobuf(payload, received_ns=RECEIVED_NS).spans
    except MalformedRequest:
        assert wanted is None, f"the library reads what the decoder refuses: {payload.hex()}"
        return False
    got = [{name: row[name] for name in UPSTREAM} for row in rows(block)]
    assert wanted is None or got == wanted, f"the decoder reads other rows than the library: {payload.hex()}"
    return True


def fuzz(seed: int, count: int) -> tuple[int, int]:
    """(requests read, requests refused) of `count` damaged ones."""
    chance = random.Random(seed)
    sound = bases()
    for payload in sound:
        assert agrees(payload), "a sound request is read"
        ExportTraceServiceRequest.FromString(payload)
    read = sum(agrees(damaged(chance.choice(sound), sound, chance)) for _ in range(count))
    return read, count - read


if __name__ == "__main__":
    decode.warm_up()
    print("read {}, refused {}".format(*fuzz(SEED, COUNT)))
