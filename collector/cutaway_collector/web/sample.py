"""Sample data: a handful of made-up traces, as the OTLP/JSON request a sender would send. No model runs, and every span says so.

Not a demonstration of any model (`cutaway demo` is): the numbers are drawn from distributions that look like those of a small
model, so that an empty collector has something to look at. It goes the way of all spans, and `search.sample` removes it again.
"""

from __future__ import annotations

import base64
import re
import secrets
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from cutaway import conventions as c
from cutaway_collector.search.sample import SERVICE

MODELS: Final = ("sample-model-small", "sample-model-large")
LAYERS: Final = 12
CHOICES: Final = 4
SPREAD_S: Final = 1500
"""The traces began within so many seconds before now."""
SAYS_SO: Final = "made up by the collector, no model ran"

CALM, UNSURE, LOOP = "calm", "unsure", "loop"
TALKS: Final = tuple(tuple(line.split("\t")) for line in
                     (Path(__file__).parent / "sample_talks.txt").read_text(encoding="utf-8").splitlines())
"""Topic, manner, question, answer."""
_PIECES: Final = re.compile(r" ?[A-Za-z]{1,6}|[a-z]+| ?\d|\s?[^\sA-Za-z0-9]|\s")


def request(now_ns: int, seed: int | None = None) -> bytes:
    """An ExportTraceServiceRequest as OTLP/JSON: a trace of three or four spans for each of TALKS, the newest one just now."""
    rng = np.random.default_rng(secrets.randbits(64) if seed is None else seed)
    spans: list[dict[str, Any]] = []
    for number, talk in enumerate(TALKS):
        began_ns = now_ns - int((len(TALKS) - 1 - number) * SPREAD_S / len(TALKS) * 1e9) - 6_000_000_000
        spans += _trace(rng, began_ns, number, *talk)
    resource = {"service.name": SERVICE, "service.version": "0", "deployment.environment.name": "sample", "cutaway.sample": SAYS_SO}
    return orjson.dumps({"resourceSpans": [{
        "resource": {"attributes": _attributes(resource)},
        "scopeSpans": [{"scope": {"name": "cutaway.sample", "version": "0"}, "spans": spans}],
    }]})


def _trace(rng: np.random.Generator, began_ns: int, number: int, topic: str, manner: str, question: str,
           answer: str) -> list[dict[str, Any]]:
    trace_id = rng.bytes(16).hex()
    root, found, chat, tool = (rng.bytes(8).hex() for _ in range(4))
    pieces = _PIECES.findall(answer)
    generation, took_s = _generation(rng, MODELS[number % 3 == 2], manner, question, answer, pieces)
    look_s = float(rng.gamma(4, 0.02))
    failed = number == len(TALKS) - 5  # one trace in which a tool gives up
    tool_s = 0.45 if failed else 0.0

    def span(span_id: str, name: str, parent: str, at_s: float, seconds: float, kind: int, attributes: dict[str, Any],
             error: str = "") -> dict[str, Any]:
        start_ns = began_ns + int(at_s * 1e9)
        status = {"code": 2, "message": error} if error else {"code": 1}
        return {"traceId": trace_id, "spanId": span_id, "parentSpanId": parent, "name": name, "kind": kind, "status": status,
                "startTimeUnixNano": str(start_ns), "endTimeUnixNano": str(start_ns + int(seconds * 1e9)),
                "attributes": _attributes(attributes)}

    whole_s = 0.01 + look_s + tool_s + took_s + 0.004
    spans = [
        span(root, "POST /ask", "", 0, whole_s, 2, {"http.request.method": "POST", "http.route": "/ask", "sample.topic": topic}),
        span(found, "retrieve", root, 0.002, look_s, 1, {"retrieval.documents": int(rng.integers(3, 9))}),
        span(chat, f"chat {generation[c.REQUEST_MODEL]}", root, 0.01 + look_s + tool_s, took_s, 1, generation),
    ]
    if failed:
        spans.append(span(tool, "look up order", root, 0.006 + look_s, tool_s, 3, {c.ERROR_TYPE: "TimeoutError"},
                          "timed out after 450 ms"))
    return spans


def _generation(rng: np.random.Generator, model: str, manner: str, question: str, answer: str,
                pieces: list[str]) -> tuple[dict[str, Any], float]:
    """(attributes of a generation as the SDK writes them, its seconds). Its signals are calm, with hesitations that show in all."""
    count = len(pieces)
    hesitates = rng.random(count) < {CALM: 0.07, UNSURE: 0.32, LOOP: 0.03}[manner]
    entropy = np.where(hesitates, rng.gamma(6, 0.5, count), rng.gamma(1.3, 0.25, count))
    surprisal = np.where(hesitates, entropy * rng.gamma(3, 0.4, count), rng.gamma(1.0, 0.22, count))
    if manner == LOOP:
        surprisal *= np.exp(-np.arange(count) / 12)
        entropy *= np.exp(-np.arange(count) / 12)
    rank = np.floor(np.expm1(surprisal / 1.3)).astype(np.uint32)
    pace = rng.gamma(40, 0.0009 if model == MODELS[1] else 0.0005, count)
    pace[0] = first_s = float(rng.gamma(9, 0.03 if model == MODELS[1] else 0.015))
    depth = np.linspace(0, 1, LAYERS)[None, :]
    attention = np.log(np.arange(count) + 20)[:, None] * np.clip(0.85 - 0.5 * depth + 0.2 * np.sin(depth * 17), 0.05, 1)
    attention = np.maximum(attention + rng.normal(0, 0.12, attention.shape), 0.02)
    ids: dict[str, int] = {}
    token_ids = np.array([ids.setdefault(piece, 100 + len(ids)) for piece in pieces], np.uint32)
    choices, their_surprisal = _choices(token_ids, surprisal, rank)
    mean = float(surprisal.mean())
    return {
        "cutaway.sample": SAYS_SO, c.OPERATION_NAME: "chat", c.PROVIDER_NAME: "sample",
        c.REQUEST_MODEL: model, c.RESPONSE_MODEL: model,
        c.REQUEST_TEMPERATURE: 0.7, c.REQUEST_MAX_TOKENS: 256, c.RESPONSE_FINISH_REASONS: ["length" if manner == LOOP else "stop"],
        c.USAGE_INPUT_TOKENS: len(_PIECES.findall(question)), c.USAGE_OUTPUT_TOKENS: count, c.SEQUENCE_OUTPUT_TOKENS: [count],
        c.SEQUENCE_INPUT_TOKENS: [len(_PIECES.findall(question))], c.DECODING_MODE: "sample", c.TOKENS_STATUS: "recorded",
        c.ATTENTION_STATUS: "recorded", c.TIME_TO_FIRST_TOKEN: first_s, c.TIME_PER_OUTPUT_TOKEN: float(pace[1:].mean()),
        c.OUTPUT_PERPLEXITY: float(np.exp(mean)), c.OUTPUT_SURPRISAL_MEAN: mean, c.OUTPUT_SURPRISAL_MAX: float(surprisal.max()),
        c.OUTPUT_NLL: float(surprisal.sum()), c.OUTPUT_ENTROPY_MEAN: float(entropy.mean()),
        c.ATTENTION_ENTROPY_MEAN: float(attention.mean()), c.ATTENTION_ENTROPY_MIN: float(attention.min()),
        **({c.OUTPUT_REPETITION: 0.62, c.OUTPUT_LOOP_PERIOD: 7} if manner == LOOP else {c.OUTPUT_REPETITION: 0.0}),
        c.INPUT_MESSAGES: _message("user", question), c.OUTPUT_MESSAGES: _message("assistant", answer),
        c.TOKEN_TEXT: pieces, c.TOKEN_ID: _packed(token_ids), c.TOKEN_SURPRISAL: _packed(surprisal.astype(np.float32)),
        c.TOKEN_ENTROPY: _packed(entropy.astype(np.float32)), c.TOKEN_RANK: _packed(rank),
        c.TOKEN_MARGIN: _packed(np.maximum(0.01, 5 - 1.6 * entropy).astype(np.float32)),
        c.ALTERNATIVE_ID: _packed(choices), c.ALTERNATIVE_SURPRISAL: _packed(their_surprisal),
        c.TOKEN_INTER_TOKEN_TIME: _packed(pace.astype(np.float32)), c.ATTENTION_ENTROPY: _packed(attention.astype(np.float32)),
    }, float(pace.sum())


def _choices(token_ids: npt.NDArray[np.uint32], surprisal: npt.NDArray[np.float64],
             rank: npt.NDArray[np.uint32]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float32]]:
    """The CHOICES likeliest tokens [token, choice] and their surprisal in nats: words of the answer, the chosen one at its rank.

    What is above the chosen token's probability is likelier by halves of what is left over, what is below has halves of it.
    """
    others = np.unique(token_ids)
    ids = np.zeros((len(token_ids), CHOICES), np.uint32)
    chances = np.zeros((len(token_ids), CHOICES))
    halves = 0.5 ** np.arange(1, CHOICES + 1)
    for at, (own, chance, place) in enumerate(zip(token_ids, np.exp(-surprisal), rank, strict=True)):
        above = min(int(place), CHOICES)
        left = max(0.0, 1 - (above + 1) * chance)
        chances[at, :above] = chance + left * halves[:above]
        chances[at, above : above + 1] = chance
        below = min(chance, left * 0.5**above)
        chances[at, above + 1 :] = below * halves[: max(0, CHOICES - above - 1)]
        rest = np.roll(others[others != own], -3 * at)[: CHOICES]
        ids[at] = np.insert(rest, above, own)[:CHOICES] if above < CHOICES else rest
    return ids, -np.log(np.maximum(chances, 1e-9)).astype(np.float32)


def _message(role: str, text: str) -> str:
    return orjson.dumps([{"role": role, "parts": [{"type": "text", "content": text}]}]).decode()


def _packed(values: npt.NDArray[Any]) -> bytes:
    """[token] or [token, layer] as a packed series."""
    code = {np.dtype(name): code for code, name in c.SERIES_DTYPES.items()}[values.dtype]
    tokens, layers = (*values.shape, 1)[:2]
    return c.SERIES_HEADER.pack(c.SERIES_VERSION, code, 0, tokens, layers, 1) + np.ascontiguousarray(values).tobytes()


def _attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in values.items()]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, list):
        return {"arrayValue": {"values": [_value(item) for item in value]}}
    if isinstance(value, bytes):
        return {"bytesValue": base64.b64encode(value).decode()}
    if isinstance(value, str):
        return {"stringValue": value}
    return {"intValue": str(value)} if isinstance(value, int) else {"doubleValue": value}
