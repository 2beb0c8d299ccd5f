"""Every model family with small random weights: all signals against whole attention matrices, or `unsupported` with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cutaway import conventions as c
from cutaway.testing import series, tiny_model
from sdk_helpers import batch
from sdk_oracles import both, check, compare, forced, forced_pair, statuses, token_truth

Record = Callable[[str, object], None]
"""pytest's record_property: the largest errors go into the report."""

ATTENDING = [
    "llama", "gpt2", "qwen2", "qwen3", "mistral", "gemma2", "gpt_oss", "mixtral", "deepseek_v3", "llama4_text",
]
HYBRID = {"jamba": [1, 3], "lfm2": [1, 3]}
"""Families of which some layers attend -> those layers of the tiny model."""

PAIRS = ["t5", "bart"]


@pytest.mark.parametrize("sampling", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["greedy", "sampling"])
@pytest.mark.parametrize("family", ATTENDING)
def test_families_that_attend(family: str, sampling: bool, record_property: Record) -> None:
    """A padded batch past the sliding window and past a block of steps: every signal of every token, layer and head."""
    model = tiny_model(family)
    ids, mask = batch()
    found = both(model, lambda: model.generate(
        ids, attention_mask=mask, max_new_tokens=40, min_new_tokens=12, do_sample=sampling, top_k=0,
    ))

    record_property("max_error", check(model, found.span, found.out, ids, mask))
    assert c.ATTENTION_LAYERS not in found.span.attributes


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt_oss", "llama4_text", "deepseek_v3"])
def test_families_without_padding(family: str, record_property: Record) -> None:
    """One row: transformers passes no mask where it can, and values are the same."""
    model = tiny_model(family)
    ids, mask = batch(1, 12)
    found = both(model, lambda: model.generate(ids, max_new_tokens=40, min_new_tokens=40, do_sample=True, top_k=0))

    record_property("max_error", check(model, found.span, found.out, ids, mask))


@pytest.mark.parametrize("family", HYBRID)
def test_families_of_which_some_layers_attend(family: str, record_property: Record) -> None:
    """The columns are the layers that attend, and the span says which those are."""
    model = tiny_model(family)
    ids, mask = batch()
    found = both(model, lambda: model.generate(ids, attention_mask=mask, max_new_tokens=20, do_sample=True, top_k=0))

    assert list(found.span.attributes[c.ATTENTION_LAYERS]) == HYBRID[family]
    record_property("max_error", check(model, found.span, found.out, ids, mask, layers=HYBRID[family]))


@pytest.mark.parametrize("family", ["bloom", "falcon", "mamba"])
def test_families_that_cannot_be_heard_say_so(family: str, record_property: Record) -> None:
    """No attention, or none through transformers' interface: `unsupported` with the reason, no series; tokens are right."""
    model = tiny_model(family)
    ids, mask = batch()
    found = both(model, lambda: model.generate(ids, attention_mask=mask, max_new_tokens=20, do_sample=True, top_k=0))

    assert statuses(found.span) == ("recorded", "unsupported")
    assert "attention interface" in found.span.attributes[c.STATUS_REASON]
    assert not set(c.ATTENTION_SERIES) & set(found.span.attributes)
    assert not {c.ATTENTION_ENTROPY_MEAN, c.ATTENTION_ENTROPY_MIN} & set(found.span.attributes)
    record_property("max_error", check(model, found.span, found.out, ids, mask, attention=False))


PAIRED: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False}, "sampling": {"do_sample": True, "top_k": 0}, "beams": {"num_beams": 3},
    "several": {"do_sample": True, "top_k": 0, "num_return_sequences": 2}, "static": {"cache_implementation": "static"},
}


@pytest.mark.parametrize("mode", PAIRED)
@pytest.mark.parametrize("family", PAIRS)
def test_encoder_decoders(family: str, mode: str, record_property: Record) -> None:
    """Self- and cross-attention apart, over the real tokens of a padded encoder's prompt, T5's position bias included."""
    model = tiny_model(family)
    ids, mask = batch()
    found = both(model, lambda: model.generate(ids, attention_mask=mask, max_new_tokens=16, **PAIRED[mode]))

    record_property("max_error", check(model, found.span, found.out, ids, mask))
    assert found.span.attributes[c.USAGE_INPUT_TOKENS] == int(mask.sum())


@pytest.mark.parametrize("family", PAIRS)
def test_encoder_decoders_without_padding(family: str, record_property: Record) -> None:
    """One row: no mask anywhere, and values are the same."""
    model = tiny_model(family)
    ids, mask = batch(1)
    found = both(model, lambda: model.generate(ids, max_new_tokens=40, do_sample=True, top_k=0))

    record_property("max_error", check(model, found.span, found.out, ids, mask))


@pytest.mark.parametrize("masked", [True, False], ids=["padded", "whole"])
@pytest.mark.parametrize("family", PAIRS)
def test_drafts_of_encoder_decoders(family: str, masked: bool, record_property: Record) -> None:
    """Several tokens checked in one pass: both kinds of attention are those of the accepted rows."""
    model, assistant = tiny_model(family, vocabulary=40), tiny_model(family, vocabulary=40)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(2)
        for weight in assistant.get_decoder().parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=generator) * weight.std()
    ids, mask = batch(1, vocabulary=40)
    if masked:
        mask[0, :3] = 0
    found = both(model, lambda: model.generate(
        ids, attention_mask=mask, max_new_tokens=20, min_new_tokens=18, do_sample=False, assistant_model=assistant,
    ))

    record_property("max_error", check(model, found.span, found.out, ids, mask))
    assert found.span.attributes[c.ACCEPTANCE_RATE] > 0


def test_a_prompt_for_the_decoder(record_property: Record) -> None:
    """BART given the beginning of its answer: the signals are those of the tokens that follow it."""
    model = tiny_model("bart")
    ids, mask = batch(2)
    begun = torch.tensor([[2, 11, 12], [2, 13, 14]])
    found = both(model, lambda: model.generate(
        ids, attention_mask=mask, decoder_input_ids=begun, max_new_tokens=10, do_sample=True, top_k=0,
    ))
    errors: dict[str, float] = {}
    for i, length in enumerate(found.span.attributes[c.SEQUENCE_OUTPUT_TOKENS]):
        truth = forced_pair(model, ids[i], mask[i], found.sequences[i, 1:3 + length])
        kept = {name: values[2:] for name, values in truth.items() if "lookback" not in name}  # whose prompt is longer here
        compare(found.span, i, kept, errors)
    record_property("max_error", errors)


# --- Models that see -----------------------------------------------------------------------------------------------------

IMAGE = 119
"""The id that stands for a piece of an image."""


def _seeing(family: str) -> Any:
    """A small random model with a tower that sees: four pieces an image of 8 x 8 points."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    text = {
        "model_type": "llama", "vocab_size": 120, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3, "eos_token_id": 2, "pad_token_id": 0,
    }
    vision: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 8,
        "patch_size": 4, "initializer_range": 0.3,
    }
    if family == "llava":
        config = AutoConfig.for_model(
            "llava", text_config=text, vision_config={**vision, "model_type": "clip_vision_model"}, image_token_index=IMAGE,
            vision_feature_layer=-1,
        )
    else:
        config = AutoConfig.for_model(
            "qwen2_vl", text_config={**text, "model_type": "qwen2_vl_text", "rope_parameters": {
                "rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0,
            }},
            vision_config={
                "depth": 3, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "patch_size": 4, "spatial_merge_size": 1,
                "temporal_patch_size": 1, "mlp_ratio": 1, "initializer_range": 0.3,
            },
            image_token_id=IMAGE, vision_start_token_id=118, vision_end_token_id=117, video_token_id=116,
        )
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config).eval()
    torch.random.set_rng_state(state)
    return model


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
@pytest.mark.parametrize("mode", ["greedy", "sampling", "beams"])
def test_models_that_see(family: str, mode: str, record_property: Record) -> None:
    """The columns are the text tower's layers; the tower that sees attends too and does not mix in."""
    model = _seeing(family)
    ids, _ = batch(1, 10)
    ids[0, 2] = 118
    ids[0, 3:7] = IMAGE
    ids[0, 7] = 117
    generator = torch.Generator().manual_seed(1)
    if family == "llava":
        seen: dict[str, Any] = {"pixel_values": torch.randn(1, 3, 8, 8, generator=generator)}
    else:
        seen = {"pixel_values": torch.randn(4, 3 * 4 * 4, generator=generator), "image_grid_thw": torch.tensor([[1, 2, 2]])}
        seen["mm_token_type_ids"] = (ids == IMAGE).int()
    found = both(model, lambda: model.generate(ids, max_new_tokens=12, **seen, **PAIRED[mode]))
    whole = dict(seen)
    errors: dict[str, float] = {}
    length = found.span.attributes[c.SEQUENCE_OUTPUT_TOKENS][0]
    answer = found.sequences[0, 10:10 + length]
    if "mm_token_type_ids" in whole:
        whole["mm_token_type_ids"] = torch.cat([seen["mm_token_type_ids"], torch.zeros(1, length, dtype=torch.int)], -1)
    truth = forced(model, ids[0], torch.ones_like(ids[0]), answer, **whole)
    assert statuses(found.span) == ("recorded", "recorded"), found.span.attributes.get(c.STATUS_REASON)
    compare(found.span, 0, truth, errors)
    assert series(found.span, c.ATTENTION_ENTROPY).shape == (length, 3)
    record_property("max_error", errors)


def test_a_model_that_hears(record_property: Record) -> None:
    """Whisper, whose prompt is sound: the tokens the decoder begins with are counted, both kinds of attention are right."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        vocab_size=120, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=48, decoder_ffn_dim=48, num_mel_bins=8, max_source_positions=20, max_target_positions=60,
        decoder_start_token_id=3, bos_token_id=1, eos_token_id=2, pad_token_id=0, init_std=0.3,
    )
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(config).eval()
    sound = torch.randn(2, 8, 40)
    torch.random.set_rng_state(state)
    model.generation_config.no_timestamps_token_id = 119
    model.generation_config.suppress_tokens = model.generation_config.begin_suppress_tokens = None
    found = both(model, lambda: model.generate(sound, attention_mask=torch.ones(2, 40), max_new_tokens=8, do_sample=False))

    assert statuses(found.span) == ("recorded", "recorded"), found.span.attributes.get(c.STATUS_REASON)
    errors: dict[str, float] = {}
    for i, length in enumerate(found.span.attributes[c.SEQUENCE_OUTPUT_TOKENS]):
        answer = torch.as_tensor(series(found.span, c.TOKEN_ID, i).astype("int64"))
        assert answer.tolist() == found.sequences[i, -8:][:length].tolist()
        begun = found.span.attributes[c.SEQUENCE_INPUT_TOKENS][i]
        fed = torch.cat([torch.tensor([3, 119])[:begun], answer[:-1]])[None]
        with torch.no_grad():
            logits = model(input_features=sound[i:i + 1], decoder_input_ids=fed).logits[0, begun - 1:]
        compare(found.span, i, token_truth(logits, answer), errors)
    record_property("max_error", errors)
