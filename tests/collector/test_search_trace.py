"""Traces, generations and look-ups by id, as the JSON twins answer them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cutaway_collector.blocks import Block, Lists, Strings
from cutaway_collector.contracts import Store
from cutaway_collector.errors import QueryError
from cutaway_collector.search import SearchRequest, find, generation, locate, trace
from search_helpers import MODEL, OUTPUT, START_NS, TTFT, Event, Span, spans_block, stored

LAYERS, HEADS, LENGTHS = 3, 2, (4, 2)
GENERATION = Span(2, name="chat gpt2", parent=1, start_ns=START_NS + 5, attributes={
    "gen_ai.operation.name": "chat", MODEL: "gpt2", OUTPUT: "6", TTFT: "0.25", "cutaway.attention.status": "recorded",
})
SPANS = [
    Span(1, name="answer", start_ns=START_NS, attributes={"a": "1"}, resource={"host.name": "node"},
         events=[Event("seen", {"k": "v"})], links=[77]),
    GENERATION,
    Span(3, name="late", parent=1, start_ns=START_NS + 3 * 10**9, status="Error", message="no"),
    Span(4, name="other trace", trace=2),
    Span(5, name="no heads", trace=3, attributes={
        MODEL: "m", "cutaway.attention.status": "off", "cutaway.status.reason": "switched off"}),
    *(Span(100 + index, name="paged", trace=9, service="paged", start_ns=START_NS + index) for index in range(6)),
]
RNG = np.random.default_rng(3)
BY_HEAD = [RNG.random((length, LAYERS, HEADS)).astype(np.float32) for length in LENGTHS]


def _tokens(span: Span, heads: bool) -> Block:
    """Two sequences of 4 and 2 tokens; the surprisal of the first token is NaN."""
    offsets = np.cumsum([0, *LENGTHS], dtype=np.int64)
    total = int(offsets[-1])
    surprisals = np.arange(total, dtype=np.float32) / 3
    surprisals[0] = np.nan
    count = len(LENGTHS)
    by_head = np.concatenate([values.ravel() for values in BY_HEAD])
    return Block("gen_ai_tokens", count, {
        "Timestamp": np.full(count, span.start_ns, np.int64),
        "TraceId": Strings.of([span.trace_id] * count),
        "SpanId": Strings.of([span.span_id] * count),
        "SeqIndex": np.arange(count, dtype=np.uint16),
        "InputTokens": np.array([10, 11], np.uint32),
        "OutputTokens": np.array(LENGTHS, np.uint32),
        "TokenIds": Lists(offsets, np.arange(100, 100 + total, dtype=np.uint32)),
        "TokenTexts": Lists(offsets, Strings.of([f" t{i}" for i in range(total)])) if heads else Lists(offsets * 0, Strings.of([])),
        "Surprisals": Lists(offsets, surprisals),
        "Ranks": Lists(offsets, np.arange(total, dtype=np.uint32)),
        "AttentionLayers": np.full(count, LAYERS, np.uint16),
        "AttentionHeads": np.full(count, HEADS if heads else 0, np.uint16),
        "AttentionEntropies": Lists(offsets * LAYERS, np.concatenate([h.mean(axis=2).ravel() for h in BY_HEAD])),
        "AttentionEntropyHeads": Lists(offsets * LAYERS * HEADS * heads, by_head[: None if heads else 0]),
    })


def _with_states() -> Block:
    """One span of trace 4 with a tracestate and two links, one of them with its own."""
    block = spans_block([Span(6, name="stateful", trace=4, links=[88, 89])])
    states = Lists(np.array([0, 2], np.int64), Strings.of(["congo=t61rcWkgMzE", ""]))
    return Block(block.table, block.rows, {
        **block.columns, "TraceState": Strings.of(["rojo=00f067aa0ba902b7"]), "Links.TraceState": states,
    })


def _scores(span: Span) -> Block:
    """`loop` scored by versions 1 and 2, `gone` deleted, `void` not a number."""
    rows = [("loop", "1", 0.1, 1, 0), ("loop", "2", 0.9, 2, 0), ("gone", "1", 0.5, 1, 1), ("void", "1", float("nan"), 1, 0)]
    count = len(rows)
    return Block("gen_ai_scores", count, {
        "Timestamp": np.full(count, span.start_ns, np.int64),
        "TraceId": Strings.of([span.trace_id] * count),
        "SpanId": Strings.of([span.span_id] * count),
        "SeqIndex": np.zeros(count, np.uint16),
        "ScoreName": Strings.of([row[0] for row in rows]),
        "ScorerVersion": Strings.of([row[1] for row in rows]),
        "Source": Strings.of(["collector"] * count),
        "Value": np.array([row[2] for row in rows]),
        "Version": np.array([row[3] for row in rows], np.uint64),
        "IsDeleted": np.array([row[4] for row in rows], np.uint8),
    })


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    blocks = (_tokens(GENERATION, True), _tokens(SPANS[4], False), _scores(GENERATION), spans_block([SPANS[3]]), _with_states())
    with stored(Path(tmp_path_factory.mktemp("search-trace")), SPANS, *blocks) as opened:
        yield opened


def test_a_trace_has_its_spans_by_start_with_everything_they_carry(store: Store) -> None:
    """Attributes, resource, scope, events and links come with each span; times are exact; the whole is JSON."""
    found = trace(store, SPANS[0].trace_id, spans_max=100)
    assert found is not None
    assert not found["truncated"]
    assert [span["name"] for span in found["spans"]] == ["answer", "chat gpt2", "late"]
    first = found["spans"][0]
    assert first["start_ns"] == START_NS
    assert first["attributes"] == {"a": "1"}
    assert first["resource"] == {"host.name": "node"}
    assert first["scope"] == {"name": "cutaway", "version": ""}
    assert first["events"] == [{"time_ns": START_NS + 7, "name": "seen", "attributes": {"k": "v"}}]
    assert first["links"] == [{"trace_id": f"{77:032x}", "span_id": f"{77:016x}", "trace_state": "", "attributes": {"why": "test"}}]
    assert (found["spans"][1]["model"], found["spans"][1]["ttft_s"], first["model"]) == ("gpt2", 0.25, None)
    assert found["spans"][2]["status_message"] == "no"
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_trace_states_come_along(store: Store) -> None:
    """The W3C tracestate of a span and of each link is in the answer as it was sent."""
    found = trace(store, f"{4:032x}", spans_max=10)
    assert found is not None
    assert found["spans"][0]["trace_state"] == "rojo=00f067aa0ba902b7"
    assert [link["trace_state"] for link in found["spans"][0]["links"]] == ["congo=t61rcWkgMzE", ""]


def test_a_trace_is_cut_where_the_limit_bites_and_says_so(store: Store) -> None:
    """The earliest spans stay, `truncated` is true."""
    found = trace(store, SPANS[0].trace_id, spans_max=2)
    assert found is not None
    assert ([span["name"] for span in found["spans"]], found["truncated"]) == (["answer", "chat gpt2"], True)


def test_a_span_that_was_stored_twice_appears_once(store: Store) -> None:
    """A sender that repeats a span does not double it on the page."""
    found = trace(store, SPANS[3].trace_id, spans_max=100)
    assert found is not None
    assert len(found["spans"]) == 1


@pytest.mark.parametrize("trace_id", ["", "xyz", f"{8:032x}", f"{1:016x}", "'" * 32])
def test_an_unknown_trace_is_none(store: Store, trace_id: str) -> None:
    """What is no id of a stored trace gives None."""
    assert trace(store, trace_id, spans_max=10) is None


def test_a_generation_has_its_series(store: Store) -> None:
    """Series come back as sent, a sequence at a time; NaN is None; series that were not sent are empty."""
    found = generation(store, GENERATION.span_id)
    assert found is not None
    assert (found["trace_id"], found["start_ns"]) == (GENERATION.trace_id, GENERATION.start_ns)
    assert (found["model"], found["output_tokens"]) == ("gpt2", 6)
    first, second = found["sequences"]
    assert (first["index"], first["input_tokens"], first["output_tokens"]) == (0, 10, 4)
    assert (first["token_ids"], second["token_ids"]) == ([100, 101, 102, 103], [104, 105])
    assert second["tokens"] == [" t4", " t5"]
    assert first["signals"]["surprisal"][0] is None
    np.testing.assert_array_equal(np.float32(first["signals"]["surprisal"][1:]), np.arange(1, 4, dtype=np.float32) / 3)
    assert second["signals"]["rank"] == [4, 5]
    assert second["signals"]["entropy"] == []
    assert found["attention"] == {"layers": LAYERS, "heads": HEADS, "status": "recorded", "reason": ""}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_attention_entropy_by_mean_head_and_all(store: Store) -> None:
    """[token][layer] for the mean and for one head, [token][layer][head] for all, to a millionth of a nat."""
    for index, expected in enumerate(BY_HEAD):
        for heads, values in ((None, expected.mean(axis=2)), (1, expected[:, :, 1]), ("all", expected)):
            found = generation(store, GENERATION.span_id, heads=heads)  # type: ignore[arg-type]  # a loop widens the literal
            assert found is not None
            np.testing.assert_allclose(found["sequences"][index]["attention_entropy"], values, atol=1e-6)


@pytest.mark.parametrize("head", [-1, HEADS])
def test_a_head_that_is_not_there_is_refused(store: Store, head: int) -> None:
    """The message says which heads there are."""
    with pytest.raises(QueryError, match="0 to 1"):
        generation(store, GENERATION.span_id, heads=head)


def test_a_generation_without_heads_says_so(store: Store) -> None:
    """Asked for heads that were not recorded, the answer gives no values and the reason; tokens are absent when not captured."""
    found = generation(store, SPANS[4].span_id, heads="all")
    assert found is not None
    assert [len(sequence["attention_entropy"]) for sequence in found["sequences"]] == [0, 0]
    assert "was not recorded" in found["attention"]["reason"]
    mean = generation(store, SPANS[4].span_id)
    assert mean is not None
    assert mean["attention"] == {"layers": LAYERS, "heads": 0, "status": "off", "reason": "switched off"}
    assert "tokens" not in mean["sequences"][0]
    np.testing.assert_allclose(mean["sequences"][0]["attention_entropy"], BY_HEAD[0].mean(axis=2), atol=1e-6)


def test_scores_are_the_newest_and_not_the_deleted(store: Store) -> None:
    """A newer scorer version replaces the older, deleted scores are gone, a value that is no number is None."""
    found = generation(store, GENERATION.span_id)
    assert found is not None
    scores = {score["name"]: (score["value"], score["scorer_version"]) for score in found["scores"]}
    assert scores == {"loop": (0.9, "2"), "void": (None, "1")}
    assert {key: found["scores"][0][key] for key in ("span_id", "sequence", "label", "source")} == {
        "span_id": GENERATION.span_id, "sequence": 0, "label": "", "source": "collector"}


def test_a_span_without_series_is_a_generation_without_sequences(store: Store) -> None:
    """The page can still show the span; an id that no span has gives None."""
    found = generation(store, SPANS[0].span_id)
    assert found is not None
    assert (found["sequences"], found["scores"]) == ([], [])
    assert generation(store, f"{999:016x}") is None
    assert generation(store, "nonsense") is None


def test_pasted_ids_are_located(store: Store) -> None:
    """Ids lead to their page whatever their letter case; a traceparent leads to its span."""
    assert locate(store, f" {GENERATION.trace_id.upper()} ") == ("trace", GENERATION.trace_id)
    assert locate(store, GENERATION.span_id) == ("gen", GENERATION.span_id)
    assert locate(store, SPANS[2].span_id) == ("span", SPANS[2].trace_id, SPANS[2].span_id)
    assert locate(store, f"00-{GENERATION.trace_id}-{GENERATION.span_id}-01") == ("gen", GENERATION.span_id)
    for text in ("", "gpt2", f"{999:032x}", f"{999:016x}", "0" * 31):
        assert locate(store, text) is None


def test_pages_hold_still_while_spans_arrive(store: Store) -> None:
    """Spans that arrive between two pages of an open-ended search neither repeat nor displace a row."""
    first = find(store, SearchRequest(q="service:paged", limit=4), rows_max=500)
    newer = [Span(200 + index, name="paged", trace=9, service="paged", start_ns=START_NS + 10**9 + index) for index in range(3)]
    store.insert(spans_block(newer), "arriving")
    second = find(store, SearchRequest(q="service:paged", limit=4, after=first["next"]), rows_max=500)
    assert [int(row["span_id"], 16) for row in first["rows"] + second["rows"]] == [105, 104, 103, 102, 101, 100]
    assert second["next"] is None
