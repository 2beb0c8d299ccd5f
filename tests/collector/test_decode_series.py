"""Token series: packed and plain, cut into sequences, and what happens when they contradict one another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from cutaway import conventions as c
from cutaway_collector import decode
from cutaway_collector.contracts import Decoded
from cutaway_collector.decode import Limits
from decode_helpers import RECEIVED_NS, a_span, key_value, request, rows


@pytest.fixture(autouse=True, scope="module")
def _compiled() -> None:
    decode.warm_up()


CODES = {dtype: code for code, dtype in c.SERIES_DTYPES.items()}


def packed(values: Any, dtype: str = "<f4", layers: int = 1, heads: int = 1, tokens: int | None = None) -> bytes:
    """A packed series as the conventions describe it, by struct and numpy alone."""
    array = np.asarray(values).astype(dtype)
    count = array.size // (layers * heads) if tokens is None else tokens
    return c.SERIES_HEADER.pack(c.SERIES_VERSION, CODES[dtype], 0, count, layers, heads) + array.tobytes()


def series(*pairs: Any, **options: Any) -> Decoded:
    span = a_span(attributes=[key_value(*pair) for pair in pairs])
    resource = Resource(attributes=[key_value("service.name", "writer")])
    payload = request(span, resource=resource).SerializeToString()
    return decode.decode_protobuf(payload, received_ns=RECEIVED_NS, tenant="team", **options)


FLOATS = [0.5, float("nan"), float("inf"), -0.0, 1e-40, 7.25]


def same_bits(found: list[float], wanted: Any) -> bool:
    return np.array(found, np.float32).tobytes() == np.asarray(wanted).astype(np.float32).tobytes()


def test_a_packed_series_becomes_the_row_of_its_sequence() -> None:
    """Every series lands in its column, bit for bit, beside the identity of its span."""
    ids = [1, 2**32 - 1, 0, 5, 6, 7]
    decoded = series(
        (c.REQUEST_MODEL, "m"), (c.USAGE_INPUT_TOKENS, 9), (c.TOKEN_ID, packed(ids, "<u4")), (c.TOKEN_SURPRISAL, packed(FLOATS)),
        (c.TOKEN_ENTROPY, packed(FLOATS[::-1])), (c.TOKEN_MARGIN, packed(range(6))), (c.TOKEN_RANK, packed(ids[::-1], "<u4")),
        (c.TOKEN_INTER_TOKEN_TIME, packed([0.125] * 6)), (c.TOKEN_TEXT, ["a", "", "\u00e9", "d", "e", "f"]),
    )
    (row,) = rows(decoded.tokens)
    assert decoded.message == ""
    identity = ("TenantId", "ServiceName", "GenAiModel", "TraceId", "SpanId", "SeqIndex", "InputTokens", "OutputTokens")
    assert [row[name] for name in identity] == [
        b"team", b"writer", b"m", bytes(range(16)).hex().encode(), bytes(range(1, 9)).hex().encode(), 0, 9, 6]
    assert row["Timestamp"] == 1_700_000_000_000_000_000
    assert (row["TokenIds"], row["Ranks"]) == (ids, ids[::-1])
    assert same_bits(row["Surprisals"], FLOATS)
    assert same_bits(row["Entropies"], FLOATS[::-1])
    assert (row["Margins"], row["InterTokenS"]) == ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [0.125] * 6)
    assert row["TokenTexts"] == [b"a", b"", "\u00e9".encode(), b"d", b"e", b"f"]
    assert (row["AttentionLayers"], row["AttentionHeads"], row["AttentionEntropies"]) == (0, 0, [])


def test_series_leave_the_attribute_map() -> None:
    """Base64 of thousands of floats has no place in the map; everything else stays."""
    decoded = series(("before", 1), (c.TOKEN_SURPRISAL, packed(FLOATS)), (c.TOKEN_TEXT, ["x"] * 6), ("after", 2))
    assert rows(decoded.spans)[0]["SpanAttributes"] == [(b"before", b"1"), (b"after", b"2")]


def test_sequences_are_cut_by_their_token_counts() -> None:
    """Rows of a batch differ in length, one may be empty, and each carries its own prompt length."""
    decoded = series(
        (c.SEQUENCE_OUTPUT_TOKENS, [2, 0, 3]), (c.SEQUENCE_INPUT_TOKENS, [7, 8, 9]), (c.TOKEN_ENTROPY, packed([1, 2, 3, 4, 5])),
        (c.TOKEN_TEXT, list("abcde")), (c.ATTENTION_ENTROPY, packed(range(10), layers=2)),
    )
    found = rows(decoded.tokens)
    assert [(r["SeqIndex"], r["InputTokens"], r["OutputTokens"]) for r in found] == [(0, 7, 2), (1, 8, 0), (2, 9, 3)]
    assert [r["Entropies"] for r in found] == [[1, 2], [], [3, 4, 5]]
    assert [r["TokenTexts"] for r in found] == [[b"a", b"b"], [], [b"c", b"d", b"e"]]
    assert [r["AttentionEntropies"] for r in found] == [[0, 1, 2, 3], [], [4, 5, 6, 7, 8, 9]]
    assert rows(decoded.spans)[0]["SpanAttributes"][0] == (c.SEQUENCE_OUTPUT_TOKENS.encode(), b"[2,0,3]")


def test_attention_keeps_its_shape() -> None:
    """Layers and heads are stored beside the flat values, and float16 is widened exactly, subnormals and all."""
    halves = np.array([0.1, 6e-8, 65504, np.inf, -0.0, 2**-15, 1.5, 0, 3, 4, 5, 6], "<f2")
    means, heads = packed(range(6), layers=3), packed(halves, "<f2", 3, 2)
    (row,) = rows(series((c.ATTENTION_ENTROPY, means), (c.ATTENTION_ENTROPY_HEADS, heads)).tokens)
    assert (row["OutputTokens"], row["AttentionLayers"], row["AttentionHeads"]) == (2, 3, 2)
    assert row["AttentionEntropies"] == [0, 1, 2, 3, 4, 5]
    assert same_bits(row["AttentionEntropyHeads"], halves)


def test_only_a_span_that_recorded_every_layer_tells_how_many_the_model_has() -> None:
    """Some layers are named by the span, and then the model's number is not known: what needs every layer does not apply."""
    means = (c.ATTENTION_ENTROPY, packed(range(6), layers=3))
    named = (c.ATTENTION_LAYERS, [0, 7, 9])
    assert [rows(series(means, *some).tokens)[0]["AttentionModelLayers"] for some in ([], [named])] == [3, 0]


def test_every_half_is_widened_as_numpy_does() -> None:
    """All 65536 of them."""
    halves = np.arange(65536, dtype=np.uint16).view("<f2")
    (row,) = rows(series((c.TOKEN_ENTROPY, packed(halves, "<f2"))).tokens)
    found, wanted = np.array(row["Entropies"], np.float32), halves.astype(np.float32)
    np.testing.assert_array_equal(found, wanted)
    assert np.array_equal(np.signbit(found), np.signbit(wanted))


def test_plain_arrays_of_other_senders_are_accepted() -> None:
    """Doubles and ints for measures, ints for ids, and a flat layer array whose layers the token count gives."""
    (row,) = rows(series(
        (c.TOKEN_SURPRISAL, [0.1, 2, float("nan")]), (c.TOKEN_ID, [1, 2, 2**32 - 1]),
        (c.ATTENTION_ENTROPY, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
    ).tokens)
    assert same_bits(row["Surprisals"], [0.1, 2, np.nan])
    assert (row["TokenIds"], row["AttentionLayers"], row["AttentionEntropies"]) == ([1, 2, 2**32 - 1], 2, [1, 2, 3, 4, 5, 6])


@pytest.mark.parametrize(("name", "value", "word"), [
    (c.TOKEN_ENTROPY, b"", "header"), (c.TOKEN_ENTROPY, b"\x02" + packed([1, 2])[1:], "header"),
    (c.TOKEN_ENTROPY, packed([1, 2])[:-1], "header"), (c.TOKEN_ENTROPY, packed([1, 2]) + b"\0", "header"),
    (c.TOKEN_ENTROPY, packed([1, 2], "<u4"), "header"), (c.TOKEN_ID, packed([1, 2]), "header"),
    (c.TOKEN_ENTROPY, packed([1, 2], layers=1, heads=0, tokens=2), "header"),
    (c.TOKEN_ENTROPY, packed([1, 2], tokens=2**32 - 1, layers=2**32 - 1, heads=2**32 - 1), "header"),
    (c.TOKEN_ENTROPY, "text", "header"), (c.TOKEN_ENTROPY, 1.5, "header"), (c.TOKEN_ENTROPY, [1.0, "x"], "header"),
    (c.TOKEN_ID, [1, -1], "header"), (c.TOKEN_ID, [1.0, 2.0], "header"), (c.TOKEN_TEXT, ["a", 1], "header"),
    (c.TOKEN_ENTROPY, packed([1, 2, 3]), "lengths"), (c.TOKEN_TEXT, ["a"], "lengths"),
    (c.TOKEN_ENTROPY, packed(range(4), layers=2), "lengths"),
    (c.ATTENTION_ENTROPY, packed(range(8), layers=2, heads=2), "lengths"), (c.ATTENTION_ENTROPY, [1.0, 2.0, 3.0], "lengths"),
    (c.ATTENTION_ENTROPY, [], "lengths"),
    (c.ATTENTION_ENTROPY_HEADS, packed(range(8), "<f2", 4, 2), "lengths"), (c.SEQUENCE_OUTPUT_TOKENS, [1, 2], "lengths"),
    (c.SEQUENCE_OUTPUT_TOKENS, 2, "token counts"), (c.SEQUENCE_OUTPUT_TOKENS, [2, -0.5], "token counts"),
    (c.SEQUENCE_OUTPUT_TOKENS, [3, -1], "token counts"), (c.SEQUENCE_INPUT_TOKENS, [1, 2], "token counts"),
    (c.SEQUENCE_OUTPUT_TOKENS, [1, 1, 0, 0], "more tokens"), (c.SEQUENCE_OUTPUT_TOKENS, [2**62, 2**62], "more tokens"),
])
def test_contradictory_series_are_left_out_and_the_span_is_kept(name: str, value: Any, word: str) -> None:
    """The sender is told, nothing counts as rejected, and neighbours keep theirs."""
    good = a_span(name="good", attributes=[key_value(c.TOKEN_RANK, packed([5, 6], "<u4"))])
    bad = a_span(name="bad", attributes=[key_value(c.TOKEN_SURPRISAL, packed([1, 2])), key_value(name, value), key_value("k", 1)])
    decoded = decode.decode_protobuf(
        request(good, bad, good).SerializeToString(), received_ns=RECEIVED_NS, limits=Limits(sequences_max=3)
    )
    assert [row["SpanName"] for row in rows(decoded.spans)] == [b"good", b"bad", b"good"]
    assert rows(decoded.spans)[1]["SpanAttributes"][-1] == (b"k", b"1")
    assert [row["Ranks"] for row in rows(decoded.tokens)] == [[5, 6], [5, 6]]
    assert decoded.rejected == 0
    assert "token series of 1 span(s) left out, the spans are kept" in decoded.message
    assert word in decoded.message


def test_too_many_tokens_are_left_out() -> None:
    """With and without a list of sequences."""
    limits = Limits(sequence_tokens_max=3)
    assert series((c.TOKEN_ENTROPY, packed([1, 2, 3])), limits=limits).tokens.rows == 1
    assert "more tokens" in series((c.TOKEN_ENTROPY, packed([1, 2, 3, 4])), limits=limits).message
    assert "more tokens" in series((c.SEQUENCE_OUTPUT_TOKENS, [4]), (c.TOKEN_ENTROPY, packed([1, 2, 3, 4])), limits=limits).message


def test_series_of_a_rejected_span_are_not_stored() -> None:
    """Tokens never outlive their span."""
    span = a_span(trace_id=b"", attributes=[key_value(c.TOKEN_ENTROPY, packed([1]))])
    decoded = decode.decode_protobuf(request(span).SerializeToString(), received_ns=RECEIVED_NS)
    assert (decoded.spans.rows, decoded.tokens.rows, decoded.rejected) == (0, 0, 1)


def test_a_span_without_series_has_no_token_row() -> None:
    """Counts alone make no sequence rows: capture was off."""
    assert series((c.SEQUENCE_OUTPUT_TOKENS, [5]), (c.USAGE_OUTPUT_TOKENS, 5)).tokens.rows == 0


def test_a_generation_that_said_nothing_has_an_empty_row() -> None:
    """Zero tokens are a result too."""
    (row,) = rows(series((c.TOKEN_ENTROPY, packed([])), (c.ATTENTION_ENTROPY, packed([], layers=30, tokens=0))).tokens)
    assert (row["OutputTokens"], row["Entropies"], row["AttentionLayers"]) == (0, [], 30)


def test_series_names_elsewhere_are_ordinary_attributes() -> None:
    """Only a span's own attributes are lifted; the same name on an event stays where it was sent."""
    span = a_span()
    span.events.add(attributes=[key_value(c.TOKEN_ENTROPY, [0.5, 1.5])])
    decoded = decode.decode_protobuf(request(span).SerializeToString(), received_ns=RECEIVED_NS)
    assert rows(decoded.spans)[0]["Events.Attributes"] == [[(c.TOKEN_ENTROPY.encode(), b"[0.5,1.5]")]]
    assert decoded.tokens.rows == 0


def test_many_random_generations_keep_every_value() -> None:
    """Two hundred generations of random shape against numpy's own slicing."""
    random = np.random.default_rng(3)
    spans, wanted = [], []
    for number in range(200):
        lengths = random.integers(0, 6, random.integers(1, 4)).tolist()
        total, layers = sum(lengths), int(random.integers(1, 4))
        values, attention = random.standard_normal(total).astype("<f4"), random.standard_normal(total * layers).astype("<f4")
        ids = random.integers(0, 2**32, total, dtype=np.uint32)
        spans.append(a_span(name=str(number), attributes=[
            key_value(c.SEQUENCE_OUTPUT_TOKENS, lengths), key_value(c.TOKEN_ENTROPY, packed(values)),
            key_value("between", number / 3), key_value(c.TOKEN_ID, packed(ids, "<u4")),
            key_value(c.ATTENTION_ENTROPY, packed(attention, layers=layers, tokens=total)),
        ]))
        start = 0
        for index, length in enumerate(lengths):
            stop = start + length
            rectangle = attention[start * layers : stop * layers].tolist()
            wanted.append((index, values[start:stop].tolist(), ids[start:stop].tolist(), rectangle))
            start = stop
    decoded = decode.decode_protobuf(request(*spans).SerializeToString(), received_ns=RECEIVED_NS)
    found = [(r["SeqIndex"], r["Entropies"], r["TokenIds"], r["AttentionEntropies"]) for r in rows(decoded.tokens)]
    assert found == wanted
