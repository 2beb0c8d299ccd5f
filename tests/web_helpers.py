"""Shared by the tests of the pages: a small world of spans and token series in a real store, and a server over it."""

from __future__ import annotations

import html.parser
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from flask.testing import FlaskClient

import search_helpers as spans_of
from cutaway_collector.blocks import Block, Lists, Strings
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, open_store
from cutaway_collector.web import create_app
from cutaway_collector.web.site import Site
from flask_serving import serving
from search_helpers import Event, Span

NOW_NS = spans_of.START_NS + 1_200_000_000_000
"""What the pages take for the present: twenty minutes after the newest spans."""
LAYERS, HEADS = 30, 9
CHAT, SLOW, BATCH, FAILED, LONG, BARE = 101, 102, 103, 104, 105, 106
"""Numbers of the generations' spans."""
RAG_TRACE = 7
TRACE = f"/trace/{RAG_TRACE:032x}"

XSS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "javascript:alert(1)",
    "'-alert(1)-'",
    "</textarea><svg/onload=alert(1)>",
    "{{7*7}}",
    "<!--<script>",
    "\u202egnp.exe",
    "&lt;b&gt;",
    "]]><script>alert(1)</script>",
    "%3Cscript%3E",
    "\x00<script>\x07",
)
"""Texts that break out of careless markup."""

PIECES = "".join(
    (
        "The| answer| depends| on| where| you| stand|.|\n|\n|Ly|on| is| the| second|-|largest| metropolitan| area| of|",
        " France|,| and| its| old| town| lies| between| the| Rh|ô|ne| and| the| Sa|ô|ne|.|\n|If| you| only| have| one|",
        " afternoon|,| walk| up| to| Four|vi|ère|:| from| the| terrace| you| can| see| the| whole| pen|insula|,| the|",
        " two| rivers|,| and|,| on| a| clear| day|,| Mont| Blanc|.|\n|\n|Then| take| a| tra|b|oule| back| down|",
        " through| the| si|lk| weavers|’| quarter|.| The| pass|ages| were| built| so| that| cloth| could| be| carried|",
        " without| getting| wet|\t|;| later| they| hid| the| Res|istance|.|<|eos|>",
    )
).split("|")
"""An answer in the pieces of a byte-pair tokenizer: blanks lead, words break, a tab and new lines stand alone."""


def _series(rng: np.random.Generator, length: int) -> dict[str, np.ndarray]:
    """Plausible series: mostly calm, with a few hesitations that show in every signal."""
    hesitation = rng.random(length) < 0.14
    entropy = np.where(hesitation, rng.gamma(6, 0.55, length), rng.gamma(1.4, 0.35, length))
    surprisal = np.where(hesitation, entropy * rng.gamma(3, 0.4, length), rng.gamma(1.0, 0.3, length))
    rank = np.floor(np.expm1(np.minimum(surprisal, 14) / 1.3)).astype(np.uint32)  # of some 49 000 tokens
    margin = np.maximum(0.01, 5 - entropy * 1.6 + rng.normal(0, 0.4, length))
    pace = rng.gamma(40, 0.0006, length)
    pace[0] = 0.31
    return {"Surprisals": surprisal, "Entropies": entropy, "Margins": margin, "Ranks": rank, "InterTokenS": pace}


def _attention(rng: np.random.Generator, length: int) -> np.ndarray:
    """[length, LAYERS, HEADS]: entropy grows with the context, early layers look widely, some layers fix on one place."""
    token = np.log(np.arange(length) + 24)[:, None, None]
    layer = np.linspace(0, 1, LAYERS)[None, :, None]
    focus = 0.85 - 0.5 * layer + 0.22 * np.sin(layer * 17) + 0.1 * np.sin(np.arange(length) / 9)[:, None, None] * layer
    values = token * np.clip(focus, 0.08, 1) + rng.normal(0, 0.09, (length, LAYERS, 1)) + rng.normal(0, 0.25, (1, LAYERS, HEADS))
    return np.maximum(values, 0.02)


def _flat(values: Sequence[np.ndarray], dtype: type) -> Lists:
    offsets = np.cumsum([0, *(part.size for part in values)], dtype=np.int64)
    return Lists(offsets, np.concatenate([part.ravel() for part in values]).astype(dtype))


def tokens_block(
    span: Span, lengths: Sequence[int], *, texts: Sequence[str] | None, attention: bool = True, heads: bool = True
) -> Block:
    """gen_ai_tokens rows of one generation, one a sequence. texts: the pieces, repeated to the length; None for ids alone."""
    rng = np.random.default_rng(span.number)
    count = len(lengths)
    series = [_series(rng, length) for length in lengths]
    cubes = [_attention(rng, length) for length in lengths] if attention else []
    pieces = [[texts[i % len(texts)] for i in range(length)] for length in lengths] if texts else [[] for _ in lengths]
    columns = {
        "Timestamp": np.full(count, span.start_ns, np.int64),
        "ServiceName": Strings.of([span.service] * count),
        "GenAiModel": Strings.of([span.attributes[spans_of.MODEL]] * count),
        "TraceId": Strings.of([span.trace_id] * count),
        "SpanId": Strings.of([span.span_id] * count),
        "SeqIndex": np.arange(count, dtype=np.uint16),
        "InputTokens": np.full(count, 31, np.uint32),
        "OutputTokens": np.array(lengths, np.uint32),
        "TokenIds": _flat([rng.integers(0, 49_152, length) for length in lengths], np.uint32),
        "TokenTexts": Lists(np.cumsum([0, *map(len, pieces)], dtype=np.int64), Strings.of([p for part in pieces for p in part])),
        **{name: _flat([one[name] for one in series], np.uint32 if name == "Ranks" else np.float32) for name in series[0]},
    }
    if attention:
        columns["AttentionLayers"] = np.full(count, LAYERS, np.uint16)
        columns["AttentionHeads"] = np.full(count, HEADS if heads else 0, np.uint16)
        columns["AttentionEntropies"] = _flat([cube.mean(2) for cube in cubes], np.float32)
        if heads:
            columns["AttentionEntropyHeads"] = _flat(cubes, np.float32)
    return Block("gen_ai_tokens", count, columns)


def scores_block(span: Span) -> Block:
    """Three scores of a generation's first sequence."""
    names = ["worst_window_surprisal", "repetition", "surprisal_last_quarter"]
    return Block(
        "gen_ai_scores",
        3,
        {
            "Timestamp": np.full(3, span.start_ns, np.int64),
            "ServiceName": Strings.of([span.service] * 3),
            "GenAiModel": Strings.of([span.attributes[spans_of.MODEL]] * 3),
            "TraceId": Strings.of([span.trace_id] * 3),
            "SpanId": Strings.of([span.span_id] * 3),
            "SeqIndex": np.zeros(3, np.uint16),
            "ScoreName": Strings.of(names),
            "ScorerVersion": Strings.of(["1"] * 3),
            "Source": Strings.of(["collector"] * 3),
            "Value": np.array([3.21, 0.04, 0.91]),
            "Label": Strings.of(["", "low", ""]),
        },
    )


def generation_attributes(
    rng: np.random.Generator, length: int, *, model: str = "SmolLM2-135M-Instruct", **more: str
) -> dict[str, str]:
    """What the SDK puts on a generation's span."""
    mean = float(rng.gamma(2.2, 0.7))
    return {
        spans_of.MODEL: model,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "huggingface",
        "gen_ai.response.model": model,
        "gen_ai.request.max_tokens": "256",
        "gen_ai.request.temperature": "0.8",
        "gen_ai.response.finish_reasons": json.dumps(["stop"]),
        spans_of.INPUT: "31",
        spans_of.OUTPUT: str(length),
        spans_of.TTFT: f"{rng.gamma(8, 0.04):.4f}",
        "cutaway.time_per_output_token": f"{rng.gamma(40, 0.0006):.5f}",
        spans_of.PERPLEXITY: f"{np.exp(mean):.4f}",
        "cutaway.output.surprisal.mean": f"{mean:.4f}",
        "cutaway.output.surprisal.max": f"{mean * 4.4:.4f}",
        "cutaway.output.entropy.mean": f"{mean * 1.1:.4f}",
        "cutaway.attention.entropy.mean": "2.3145",
        "cutaway.attention.entropy.min": "0.1204",
        "cutaway.token.status": "recorded",
        "cutaway.attention.status": "recorded",
        "cutaway.decoding.mode": "sample",
        **more,
    }


RESOURCE = {
    "service.name": "concierge",
    "service.version": "1.4.2",
    "deployment.environment.name": "prod",
    "host.name": "gpu-7",
    "telemetry.sdk.name": "opentelemetry",
    "process.pid": "4711",
}


def _answer_trace() -> list[Span]:
    """One request that retrieves, reranks, generates twice and fails in a tool: three services, four levels."""
    rng = np.random.default_rng(3)
    ms = 1_000_000
    start = spans_of.START_NS

    def span(number: int, name: str, parent: int, at_ms: float, took_ms: float, service: str = "concierge", **more: object) -> Span:
        return Span(
            number,
            name,
            RAG_TRACE,
            parent,
            service,
            start_ns=start + int(at_ms * ms),
            duration_ns=int(took_ms * ms),
            resource={**RESOURCE, "service.name": service},
            **more,
        )  # type: ignore[arg-type]

    chat = generation_attributes(rng, len(PIECES), model="SmolLM2-135M-Instruct")
    chat |= {spans_of.TTFT: "0.3120", "cutaway.time_per_output_token": "0.0182"}
    slow = generation_attributes(rng, 40, model="Qwen2.5-7B-Instruct") | {spans_of.TTFT: "0.2410"}
    return [
        span(
            1,
            "POST /answer",
            0,
            0,
            4210,
            kind="Server",
            attributes={"http.request.method": "POST", "http.route": "/answer", "user.plan": "pro"},
        ),
        span(2, "retrieve", 1, 12, 640, attributes={"top_k": "8"}),
        span(3, "embed query", 2, 14, 92, "encoder", attributes={"gen_ai.operation.name": "embeddings"}),
        span(
            4,
            "SELECT documents",
            2,
            110,
            318,
            "postgres",
            kind="Client",
            attributes={
                "db.system": "postgresql",
                "db.statement": "SELECT id, text FROM documents ORDER BY embedding <=> $1 LIMIT 8",
            },
        ),
        span(5, "rerank", 2, 432, 214, "encoder"),
        span(6, "plan", 1, 660, 930),
        span(SLOW, "chat Qwen2.5-7B-Instruct", 6, 668, 900, attributes=slow, kind="Internal"),
        span(8, "call tools", 1, 1600, 480),
        span(9, "weather", 8, 1604, 120, "tools", kind="Client"),
        span(
            10,
            "opening_hours",
            8,
            1610,
            452,
            "tools",
            kind="Client",
            status="Error",
            message="timed out after 450 ms",
            attributes={"error.type": "TimeoutError", "tool.name": "opening_hours"},
            events=[
                Event(
                    "exception",
                    {
                        "exception.type": "TimeoutError",
                        "exception.message": "timed out after 450 ms",
                        "exception.stacktrace": 'Traceback (most recent call last):\n  File "tools.py", line 71, in call\n'
                        '    raise TimeoutError("timed out after 450 ms")',
                    },
                ),
                Event("retry", {"attempt": "1"}),
            ],
        ),
        span(11, "answer", 1, 2090, 2100),
        span(CHAT, "chat SmolLM2-135M-Instruct", 11, 2101, 2075, attributes=chat, links=[99]),
        span(13, "moderate", 11, 4180, 9, "encoder"),
        span(14, "late callback", 4242, 4195, 12, "tools"),
    ]


def world() -> tuple[list[Span], list[Block]]:
    """Spans and the token and score rows of some of them."""
    spans = _answer_trace()
    by_number = {span.number: span for span in spans}
    blocks = [
        tokens_block(by_number[CHAT], [len(PIECES)], texts=PIECES),
        scores_block(by_number[CHAT]),
        tokens_block(by_number[SLOW], [40], texts=PIECES, attention=False),
    ]
    rng = np.random.default_rng(11)
    models = ("SmolLM2-135M-Instruct", "Qwen2.5-7B-Instruct", "gpt2")
    for index in range(160):
        number = 1000 + index
        model = models[int(rng.choice(3, p=[0.6, 0.25, 0.15]))]
        length = int(rng.gamma(3, 30)) + 4
        failed = rng.random() < 0.09
        attributes = generation_attributes(rng, length, model=model)
        took = (float(attributes[spans_of.TTFT]) + length * float(attributes["cutaway.time_per_output_token"])) * 1e9
        spans.append(
            Span(
                number,
                f"chat {model}",
                number,
                0,
                str(rng.choice(["concierge", "summaries", "evals"])),
                attributes=attributes,
                start_ns=spans_of.START_NS - int(rng.beta(2, 1.4) * 3000e9),
                duration_ns=int(took),
                resource=RESOURCE,
                status="Error" if failed else "Ok",
                message="CUDA out of memory" if failed else "",
            )
        )
    batch = Span(
        BATCH,
        "chat SmolLM2-135M-Instruct",
        8,
        0,
        "evals",
        start_ns=spans_of.START_NS + 9_000_000_000,
        duration_ns=3_100_000_000,
        attributes=generation_attributes(
            rng,
            120,
            **{
                "gen_ai.request.choice.count": "3",
                "cutaway.attention.status": "truncated",
                "cutaway.status.reason": "attention of single heads exceeds series_bytes_max",
            },
        ),
    )
    long = Span(
        LONG,
        "chat long",
        9,
        0,
        "evals",
        start_ns=spans_of.START_NS + 12_000_000_000,
        duration_ns=91_000_000_000,
        attributes=generation_attributes(rng, 9000),
    )
    bare = Span(
        BARE,
        "chat bare",
        10,
        0,
        "evals",
        start_ns=spans_of.START_NS + 14_000_000_000,
        duration_ns=1_000_000_000,
        attributes=generation_attributes(
            rng,
            12,
            **{
                "cutaway.attention.status": "unsupported",
                "cutaway.status.reason": "this model does not route attention through AttentionInterface",
            },
        ),
    )
    failed = Span(
        FAILED,
        "chat broken",
        11,
        0,
        "evals",
        start_ns=spans_of.START_NS + 15_000_000_000,
        duration_ns=20_000_000,
        status="Error",
        message="CUDA out of memory",
        attributes={spans_of.MODEL: "gpt2", "gen_ai.operation.name": "chat", "cutaway.token.status": "error"},
    )
    spans += [batch, long, bare, failed]
    blocks += [
        tokens_block(batch, [52, 40, 28], texts=PIECES, heads=False),
        tokens_block(long, [9000], texts=PIECES, heads=False),
        tokens_block(bare, [12], texts=None, attention=False),
    ]
    return spans, blocks


def hostile_world() -> tuple[list[Span], list[Block]]:
    """The world, and a trace in which every text a sender may choose is an attack on the pages."""
    spans, blocks = world()
    hostile = [
        Span(
            9000 + index,
            text.replace("\x00", ""),
            9000,
            0,
            text,
            status="Error",
            message=text,
            attributes={
                spans_of.MODEL: text,
                "gen_ai.operation.name": text,
                text: text,
                "cutaway.status.reason": text,
                "cutaway.attention.status": "truncated",
                "cutaway.decoding.mode": text,
                spans_of.OUTPUT: "3",
            },
            resource={text: text},
            events=[Event(text, {text: text})],
            start_ns=spans_of.START_NS + index,
        )
        for index, text in enumerate(XSS)
    ]
    blocks += [tokens_block(span, [len(XSS)], texts=XSS, heads=False) for span in hostile]
    return spans + hostile, blocks


@contextmanager
def stored(directory: Path, spans: Sequence[Span], blocks: Sequence[Block]) -> Iterator[ClickHouseStore]:
    """A store that holds these, closed at the end."""
    store = open_store(Settings(data=str(directory), query_seconds_max=60))
    try:
        if spans:
            store.insert(spans_of.spans_block(spans), "spans")
        for index, block in enumerate(blocks):
            store.insert(block, f"block-{index}")
        yield store
    finally:
        store.close()


@contextmanager
def served(store: ClickHouseStore) -> Iterator[str]:
    """The pages on a free port of loopback; gives "http://127.0.0.1:port"."""
    app = create_app(store, Settings(data="unused"), now_ns=lambda: NOW_NS)
    with serving(app) as address:
        yield address


def gen(number: int) -> str:
    """Address of a generation's page."""
    return f"/gen/{number:016x}"


class Page(html.parser.HTMLParser):
    """Tags with their attributes, and the text outside of them."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(markup)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def links(self, start: str) -> list[str]:
        return [str(attrs["href"]) for tag, attrs in self.tags if tag == "a" and str(attrs.get("href", "")).startswith(start)]

    def with_class(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for _, attrs in self.tags if name in str(attrs.get("class") or "").split()]

    def named(self, name: str) -> list[dict[str, str | None]]:
        """Fields of forms."""
        return [attrs for _, attrs in self.tags if attrs.get("name") == name]


def get(client: FlaskClient, path: str, status: int = 200) -> Page:
    """The parsed page; fails when it does not answer with `status`."""
    answer = client.get(path)
    assert status == answer.status_code, answer.text[:2000]
    return Page(answer.text)


def with_token(client: FlaskClient, base_url: str | None = None) -> FlaskClient:
    """The client, sending the token of the session it has now with everything, as a page's forms do."""
    client.environ_base["HTTP_X_FORM_TOKEN"] = json.loads(client.get("/form-token.json", base_url=base_url).text)["token"]
    return client


def site_of(client: FlaskClient) -> Site:
    """What the application's pages are made from."""
    views = client.application.view_functions["search_page"]
    return next(cell.cell_contents for cell in (views.__closure__ or ()) if isinstance(cell.cell_contents, Site))
