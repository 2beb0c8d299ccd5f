"""The generation of a span that carries every signal, from its OTLP bytes to the answer of the JSON twin."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from cutaway import conventions as c
from cutaway_collector import decode
from cutaway_collector.contracts import Store
from cutaway_collector.errors import QueryError
from cutaway_collector.search import SearchRequest, explain, find, generation, trace
from cutaway_collector.settings import Settings
from cutaway_collector.store import open_store
from decode_helpers import a_span, key_value, request
from every_signal_helpers import Shape, cuts, packed, sequence_attributes, values_of
from store_helpers import NOW_NS

SHAPE = Shape(lengths=(3, 1, 2, 4), prompts=(5, 2))
VALUES = values_of(SHAPE)
VALUES[c.PROMPT_SURPRISAL][[0, 5]] = np.nan
VALUES[c.ALTERNATIVE_ID][0, 0] = VALUES[c.TOKEN_ID][0]
STEPS = {name: VALUES.pop(name) for name in c.DIFFUSION_SERIES}
STEPS[c.DIFFUSION_LATENT_CHANGE][0] = np.nan
TEXTS = [f" t{index}" for index in range(SHAPE.tokens)]
SCALARS: dict[str, Any] = {
    c.OPERATION_NAME: "chat", c.REQUEST_MODEL: "m", c.OUTPUT_NLL: 12.5, c.OUTPUT_BITS_PER_BYTE: 0.75, c.OUTPUT_LOOP_PERIOD: 3,
    c.MACHINE_MEMORY_RSS: 3 * 2**30, c.MACHINE_CPU_TIME: 1.5, c.ACCEPTANCE_RATE: 0.8, c.ATTENTION_LOOKBACK_MEAN: 0.25,
}
GENERATION, PIPELINE, PLAIN, COSTLY = (bytes([number]) * 8 for number in (1, 2, 3, 4))
LAYERS = {"entropy": c.ATTENTION_ENTROPY, "normalized_entropy": c.ATTENTION_NORMALIZED_ENTROPY, "sink": c.ATTENTION_SINK,
          "last_key": c.ATTENTION_LAST_KEY, "lookback": c.ATTENTION_LOOKBACK, "cross_entropy": c.CROSS_ATTENTION_ENTROPY}
HEADS = {kind: f"{name}.heads" for kind, name in LAYERS.items()}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Four spans of one trace: everything, a diffusion pipeline, nothing, and a GPU that counts energy."""
    everything = [
        *cuts(SHAPE), *packed(VALUES), key_value(c.TOKEN_TEXT, TEXTS), *sequence_attributes(SHAPE),
        key_value(c.ATTENTION_LAYERS, [0, 4, 8]), key_value(c.SOURCE_LAYERS, [4, 8]),
        *(key_value(name, value) for name, value in SCALARS.items()),
    ]
    pipeline = [key_value(c.DIFFUSION_PIPELINE, "SdPipeline"), key_value(c.DIFFUSION_STEPS, 6), *packed(STEPS)]
    spans = [
        a_span(span_id=GENERATION, start_time_unix_nano=NOW_NS, attributes=everything),
        a_span(span_id=PIPELINE, start_time_unix_nano=NOW_NS + 1, attributes=pipeline),
        a_span(span_id=PLAIN, start_time_unix_nano=NOW_NS + 2),
        a_span(span_id=COSTLY, start_time_unix_nano=NOW_NS + 3, attributes=[key_value(c.MACHINE_GPU_ENERGY, [400.5, 99.5])]),
    ]
    found = decode.decode_protobuf(request(*spans).SerializeToString(), received_ns=NOW_NS)
    assert (found.rejected, found.message) == (0, "")
    opened = open_store(Settings(data=str(tmp_path_factory.mktemp("signals"))))
    opened.insert(found.spans, "spans")
    opened.insert(found.tokens, "tokens")
    yield opened
    opened.close()


def generated(store: Store, **options: Any) -> dict[str, Any]:
    found = generation(store, GENERATION.hex(), **options)
    assert found is not None
    return found


def cut(name: str) -> list[np.ndarray]:
    """A series by sequence."""
    return np.split(VALUES[name], np.cumsum(SHAPE.lengths)[:-1])


def test_new_signals_stand_beside_the_old(store: Store) -> None:
    """Each of them as sent, one value a token, in the float32 it was recorded in."""
    names = {"varentropy": c.TOKEN_VARENTROPY, "min_p_mass": c.TOKEN_MIN_P_MASS, "sampled_surprisal": c.TOKEN_SAMPLED_SURPRISAL}
    found = generated(store)
    for key, name in names.items():
        for sequence, wanted in zip(found["sequences"], cut(name), strict=True):
            np.testing.assert_array_equal(np.float32(sequence["signals"][key]), wanted)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_alternatives_are_the_choices_of_each_token(store: Store) -> None:
    """Best first, with the id and the surprisal; the text where this very call generated the same token."""
    found = generated(store)["sequences"]
    ids, surprisals = cut(c.ALTERNATIVE_ID), cut(c.ALTERNATIVE_SURPRISAL)
    for sequence, wanted_ids, wanted in zip(found, ids, surprisals, strict=True):
        assert [[one["id"] for one in token] for token in sequence["alternatives"]] == wanted_ids.tolist()
        given = [[one["surprisal"] for one in token] for token in sequence["alternatives"]]
        np.testing.assert_array_equal(np.float32(given), wanted)
    assert found[0]["alternatives"][0][0]["text"] == TEXTS[0]
    spoken = set(VALUES[c.TOKEN_ID].tolist())
    for token in [token for sequence in found for token in sequence["alternatives"]]:
        assert [("text" in one) for one in token] == [one["id"] in spoken for one in token]


def test_the_choices_of_a_prompt_share_its_series(store: Store) -> None:
    """Stored once, answered with every sequence of the prompt; the first token of a prompt has no surprisal."""
    prompts = [sequence["prompt"] for sequence in generated(store)["sequences"]]
    ids = VALUES[c.PROMPT_TOKEN_ID].tolist()
    assert [prompt["token_ids"] for prompt in prompts] == [ids[:5], ids[:5], ids[5:], ids[5:]]
    assert [prompt["surprisal"][0] for prompt in prompts] == [None] * 4
    np.testing.assert_array_equal(np.float32(prompts[2]["surprisal"][1:]), VALUES[c.PROMPT_SURPRISAL][6:])
    stored = store.query("SELECT length(PromptTokenIds) FROM otel.gen_ai_tokens WHERE OutputTokens > 0 ORDER BY SeqIndex").rows
    assert [row[0] for row in stored] == [5, 0, 2, 0]


def values(sequence: dict[str, Any], kind: str) -> Any:
    return sequence["attention_entropy"] if kind == "entropy" else sequence["attention"][kind]


@pytest.mark.parametrize("kind", LAYERS)
def test_every_map_by_mean_head_and_all(store: Store, kind: str) -> None:
    """[token][layer] for the mean and one head, [token][layer][head] for all; cross-attention has its own layers."""
    for heads, name in ((None, LAYERS[kind]), (1, HEADS[kind]), ("all", HEADS[kind])):
        found = generated(store, heads=heads)["sequences"]
        for sequence, wanted in zip(found, cut(name), strict=True):
            expected = wanted[:, :, 1] if heads == 1 else wanted
            np.testing.assert_allclose(values(sequence, kind), expected, atol=1e-6)


def test_one_map_may_be_asked_for_alone(store: Store) -> None:
    """The others stay empty, and what was recorded is told all the same; an unknown kind is refused with those there are."""
    found = generated(store, attention="sink")
    assert [kind for kind in LAYERS if values(found["sequences"][0], kind)] == ["sink"]
    assert found["attention_series"] == {
        "recorded": list(LAYERS), "heads": {kind: 3 if kind == "cross_entropy" else 2 for kind in LAYERS}, "layers": [0, 4, 8]}
    assert not any(values(generated(store, attention="none")["sequences"][0], kind) for kind in LAYERS)
    with pytest.raises(QueryError, match="normalized_entropy"):
        generated(store, attention="entropie")


def test_sources_say_where_each_layer_looked(store: Store) -> None:
    """[token][layer][k] with the model's own layer numbers."""
    found = generated(store)["sequences"]
    for sequence, positions, masses in zip(found, cut(c.SOURCE_POSITION), cut(c.SOURCE_MASS), strict=True):
        assert sequence["sources"]["layers"] == [4, 8]
        assert sequence["sources"]["positions"] == positions.tolist()
        np.testing.assert_allclose(sequence["sources"]["masses"], masses, atol=1e-6)


def test_the_senders_scores_come_by_sequence(store: Store) -> None:
    """One of each, the quarters four at a time; a score that does not apply is None, one that was not measured is absent."""
    found = [sequence["scores"] for sequence in generated(store)["sequences"]]
    assert found[0] == {"perplexity": 1.5, "nll": 1.5, "rauq": 1.5, "loop_period": 0, "surprisal_quarters": [0, 1, 2, 3]}
    assert (found[3]["perplexity"], found[3]["surprisal_quarters"]) == (None, [12, 13, 14, 15])


def test_details_may_be_left_unread(store: Store) -> None:
    """A list of many generations needs neither alternatives nor prompts."""
    assert {"alternatives", "prompt", "sources"}.isdisjoint(generated(store, details=False)["sequences"][0])


def test_a_pipeline_has_curves_and_no_sequence(store: Store) -> None:
    """The same in the answer of the generation and in the trace, where other spans have no such key."""
    found = generation(store, PIPELINE.hex())
    whole = trace(store, bytes(range(16)).hex(), spans_max=10)
    assert found is not None
    assert whole is not None
    assert found["sequences"] == []
    assert found["diffusion"]["latent_change"][0] is None
    curves = {"time_s": c.DIFFUSION_STEP_TIME, "timestep": c.DIFFUSION_STEP_TIMESTEP, "latent_norm": c.DIFFUSION_LATENT_NORM}
    for key, name in curves.items():
        np.testing.assert_array_equal(np.float32(found["diffusion"][key]), STEPS[name])
    spans = {span["span_id"]: span for span in whole["spans"]}
    assert spans[PIPELINE.hex()]["diffusion"] == found["diffusion"]
    assert "diffusion" not in spans[GENERATION.hex()]
    assert generated(store)["diffusion"] is None


@pytest.mark.parametrize(("query", "found"), [
    ("nll:>12", [GENERATION]), ("nll:>20bits", []), ("bpb:<1", [GENERATION]), ("loop:3", [GENERATION]),
    ("memory:>2GiB", [GENERATION]), ("memory:<2GB", []),
    ("cpu:>1s", [GENERATION]), ("acceptance:>70%", [GENERATION]), ("lookback:<0.3", [GENERATION]),
    ("steps:6", [PIPELINE]), ("has:steps", [PIPELINE]), ("energy:500", [COSTLY]), ("energy:>0.1Wh", [COSTLY]),
    ("has:energy", [COSTLY]),
    ("-has:energy", [GENERATION, PIPELINE, PLAIN]), (f"{c.OUTPUT_NLL}:12.5", [GENERATION]), ("nonfinite:*", []),
])
def test_new_fields_find_their_spans(store: Store, query: str, found: list[bytes]) -> None:
    """By short name, by attribute name, with units and presence."""
    answer = find(store, SearchRequest(q=query), rows_max=10)
    assert {row["span_id"] for row in answer["rows"]} == {span_id.hex() for span_id in found}


def test_new_fields_are_said_in_english() -> None:
    """The phrase of the registry, not the column."""
    said = explain("memory:>2GiB attn.sink:<0.5")
    assert said == "Spans whose resident memory is above 2GiB and whose mean sink mass is below 0.5."
