"""Shared by the tests of window scores: answers of a healthy and of three sick generators, as values and as stored spans."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

import search_helpers
from cutaway_collector.blocks import Block, Lists, Strings
from cutaway_collector.windows import Answer
from search_helpers import Span

SUBJECTS = ("the harbour", "a violin", "our neighbour", "the old mill", "this theorem", "her garden", "the night train", "a comet",
            "the archive", "an apprentice", "the glacier", "his bicycle", "the orchard", "a lighthouse", "the council", "the fox")
VERBS = ("remembers", "outlives", "questions", "repairs", "carries", "measures", "forgets", "paints", "follows", "warms", "hides",
         "translates", "weighs", "borrows", "defends", "unsettles")
OBJECTS = ("every winter", "a quiet debt", "the long road", "its own echo", "some borrowed light", "the first rule",
           "a broken promise", "seven small towns", "the last word", "an honest map", "the river's name",
           "a patient answer", "two kinds of silence",
           "the missing page", "a stubborn hope", "the morning bread")


def sentence(rng: random.Random) -> str:
    """Subject, verb, object: 4,096 of them."""
    return f"{rng.choice(SUBJECTS)} {rng.choice(VERBS)} {rng.choice(OBJECTS)}"


def healthy(count: int, seed: int = 1, *, sentences: int = 6) -> list[str]:
    """Answers that share words and little else."""
    rng = random.Random(seed)
    return [". ".join(sentence(rng) for _ in range(sentences)) for _ in range(count)]


def collapsed(count: int, seed: int = 1) -> list[str]:
    """One answer again and again, with one word changed in each."""
    rng = random.Random(seed)
    words = healthy(1, seed, sentences=12)[0].split()
    out = []
    for _ in range(count):
        mine = list(words)
        mine[rng.randrange(len(mine))] = rng.choice(words)
        out.append(" ".join(mine))
    return out


def surprisals(rng: np.random.Generator, length: int, *, rise: float = 0.0) -> np.ndarray:
    """Skewed and correlated, with an own level an answer; `rise` nats from beginning to end."""
    noise = rng.gamma(1.0, 1.0, length + 3)
    level = (noise[:-3] + noise[1:-2] + noise[2:-1] + noise[3:]) / 4 + rng.gamma(1.0, 0.5)
    return np.asarray(level + rise * np.arange(length) / length)


def answers(texts: Sequence[str], *, rise: float = 0.0, seed: int = 1, tokens: int = 60) -> list[Answer]:
    """Answers with these texts and surprisals; trace ids are numbers."""
    rng = np.random.default_rng(seed)
    return [Answer(f"{number:032x}", f"{number:016x}", 0, text=text, surprisals=surprisals(rng, tokens, rise=rise))
            for number, text in enumerate(texts)]


def generation(number: int, start_ns: int, *, service: str = "chat", parent: int = 0, model: str = "m", template: str = "",
               **attributes: str) -> Span:
    """A generation's span in a trace of its own number."""
    held = {search_helpers.MODEL: "asked", "gen_ai.response.model": model, "gen_ai.operation.name": "chat", **attributes}
    if template:
        held["gen_ai.prompt.name"] = template
    return Span(number, f"chat {model}", number, parent, service, start_ns=start_ns, attributes=held)


def tokens_block(spans: Sequence[Span], texts: Sequence[str], *, rise: float = 0.0, tenant: str = "", seed: int = 5) -> Block:
    """gen_ai_tokens rows of these spans: a token a word, ids by the word, and surprisals."""
    rng = np.random.default_rng(seed)
    known: dict[str, int] = {}
    pieces = [[f" {word}" for word in text.split()] for text in texts]
    ids = [[known.setdefault(piece, len(known)) for piece in row] for row in pieces]
    offsets = np.cumsum([0, *map(len, pieces)], dtype=np.int64)
    series = np.concatenate([surprisals(rng, len(row), rise=rise) for row in pieces]).astype(np.float32)
    return Block("gen_ai_tokens", len(spans), {
        "Timestamp": np.array([span.start_ns for span in spans], np.int64),
        "TenantId": Strings.of([tenant] * len(spans)),
        "ServiceName": Strings.of([span.service for span in spans]),
        "GenAiModel": Strings.of(["asked"] * len(spans)),
        "TraceId": Strings.of([span.trace_id for span in spans]),
        "SpanId": Strings.of([span.span_id for span in spans]),
        "SeqIndex": np.zeros(len(spans), np.uint16),
        "OutputTokens": np.array([len(row) for row in pieces], np.uint32),
        "TokenIds": Lists(offsets, np.array([one for row in ids for one in row], np.uint32)),
        "TokenTexts": Lists(offsets, Strings.of([piece for row in pieces for piece in row])),
        "Surprisals": Lists(offsets, series),
    })
