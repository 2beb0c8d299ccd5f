"""Surprisal of the prompt: against one full forward pass of each row without padding, and without a trace in the program."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from cutaway import conventions as c
from cutaway import prompt as prompt_module
from cutaway.testing import recorded, series, tiny_model
from sdk_helpers import batch

FAMILIES = ["llama", "gpt2", "mistral", "gemma2", "bloom"]


def other_model(family: str) -> Any:
    """A tiny model of a family `tiny_model` does not build."""
    shapes: dict[str, dict[str, Any]] = {
        "mixtral": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
                    "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2},
        "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    }
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family, vocab_size=120, bos_token_id=1, eos_token_id=2, pad_token_id=0, initializer_range=0.3, **shapes[family],
    )
    return AutoModelForCausalLM.from_config(config).eval()


@torch.no_grad()
def truth(model: Any, ids: Any, mask: Any) -> list[Any]:
    """Surprisal of each row's tokens but the first: one forward pass a row, without padding, without a cache."""
    found = []
    for row, kept in zip(ids, mask, strict=True):
        real = row[kept.bool()]
        logits = model(real[None], use_cache=False).logits[0, :-1].float()
        found.append(torch.nn.functional.cross_entropy(logits, real[1:], reduction="none").numpy())
    return found


def check(span: Any, model: Any, ids: Any, mask: Any, atol: float = 1e-4) -> None:
    """Ids, lengths, NaN at each row's first token, and every other value."""
    expected = truth(model, ids, mask)
    lengths = mask.sum(-1).tolist()
    assert list(span.attributes[c.PROMPT_TOKENS]) == lengths
    assert series(span, c.PROMPT_TOKEN_ID).tolist() == ids[mask.bool()].tolist()
    values = np.split(series(span, c.PROMPT_SURPRISAL), np.cumsum(lengths)[:-1])
    for got, right in zip(values, expected, strict=True):
        assert np.isnan(got[0])
        np.testing.assert_allclose(got[1:], right, atol=atol)
    perplexity = np.exp(np.concatenate(expected).astype(np.float64).mean())
    assert span.attributes[c.PROMPT_PERPLEXITY] == pytest.approx(perplexity, rel=1e-3)


def run(model: Any, ids: Any, mask: Any, **options: Any) -> tuple[Any, Any]:
    """(output, span) of a call with prompt surprisal."""
    settings = options.pop("settings", {})
    with recorded(prompt_surprisal=True, **settings) as spans:
        out = model.generate(ids, attention_mask=mask, **{"max_new_tokens": 4, "do_sample": False, **options})
    (span,) = spans.get_finished_spans()
    return out, span


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("positions", [1, 5, 1000])
def test_surprisal_equals_a_full_forward_pass(family: str, positions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch padded on the left, in pieces of one position, of a few, and whole; windows slide within the prompt."""
    monkeypatch.setitem(prompt_module.LOGITS_BYTES_MAX, "cpu", positions * 120 * 4)
    model = tiny_model(family)
    ids, mask = batch(3, 24)
    _, span = run(model, ids, mask)

    check(span, model, ids, mask)


def test_rows_are_taken_together_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for a few positions of all rows at once: padding of one row beside tokens of another changes nothing."""
    monkeypatch.setattr(prompt_module, "_POSITIONS", 2)
    monkeypatch.setitem(prompt_module.LOGITS_BYTES_MAX, "cpu", 3 * 2 * 120 * 4)
    model = tiny_model("mistral")
    ids, mask = batch(3, 21)
    _, span = run(model, ids, mask)

    check(span, model, ids, mask)


def test_a_mixture_of_experts() -> None:
    """Mixtral routes tokens one by one: pieces of a prompt go the same ways."""
    model = other_model("mixtral")
    ids, mask = batch(2, 12)
    _, span = run(model, ids, mask)

    check(span, model, ids, mask)


def test_a_model_without_such_a_cache_runs_once() -> None:
    """Mamba has a state instead of a cache: its prompt runs in one pass, as long as its logits fit the limit."""
    model = other_model("mamba")
    ids, mask = batch(1, 12)
    _, span = run(model, ids, mask)

    check(span, model, ids, mask)


def test_a_model_without_such_a_cache_over_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the one pass does not fit, nothing is reported and the reason is told."""
    monkeypatch.setitem(prompt_module.LOGITS_BYTES_MAX, "cpu", 5 * 120 * 4)
    ids, mask = batch(1, 12)
    _, span = run(other_model("mamba"), ids, mask)

    assert c.PROMPT_SURPRISAL not in span.attributes
    assert "no prompt surprisal: the model has no cache" in span.attributes[c.STATUS_REASON]


def test_no_piece_is_larger_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The logits of all positions never exist at once."""
    monkeypatch.setitem(prompt_module.LOGITS_BYTES_MAX, "cpu", 7 * 120 * 4)
    sizes = []
    honest = prompt_module._Pass.logits

    def watched(self: Any, *args: Any) -> Any:
        found = honest(self, *args)
        sizes.append(found.numel() * 4)
        return found
    monkeypatch.setattr(prompt_module._Pass, "logits", watched)
    run(tiny_model(), *batch(2, 30))

    assert len(sizes) == 2 * 5
    assert max(sizes) <= 7 * 120 * 4


@pytest.mark.parametrize("options", [
    {"num_return_sequences": 3, "do_sample": True}, {"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2},
], ids=lambda options: ",".join(options))
def test_rows_count_once(options: dict[str, Any]) -> None:
    """Several answers or beams share a prompt: it is measured once a row."""
    model = tiny_model()
    ids, mask = batch(2, 9)
    torch.manual_seed(1)
    _, span = run(model, ids, mask, **options)

    check(span, model, ids, mask)


def test_a_prompt_of_one_token_has_no_surprisal() -> None:
    """Nothing comes before it: NaN, and no perplexity."""
    ids = torch.tensor([[7]])
    _, span = run(tiny_model(), ids, torch.ones_like(ids))

    assert np.isnan(series(span, c.PROMPT_SURPRISAL)).tolist() == [True]
    assert c.PROMPT_PERPLEXITY not in span.attributes


def test_off_by_default() -> None:
    """Nobody asked: no second pass, no series."""
    model, (ids, mask) = tiny_model(), batch(1, 9)
    with recorded() as spans:
        model.generate(ids, attention_mask=mask, max_new_tokens=3)
    (span,) = spans.get_finished_spans()

    assert not {c.PROMPT_SURPRISAL, c.PROMPT_TOKEN_ID, c.PROMPT_TOKENS, c.PROMPT_PERPLEXITY} & set(span.attributes)


def test_numbers_hold_no_prompt_ids() -> None:
    """`capture="numbers"`: surprisal leaves, ids do not."""
    _, span = run(tiny_model(), *batch(2, 9), settings={"capture": "numbers"})

    assert c.PROMPT_SURPRISAL in span.attributes
    assert c.PROMPT_TOKEN_ID not in span.attributes


def test_a_redacted_prompt_keeps_its_ids() -> None:
    """Where the hook changed the prompt's text, the ids that spell it stay here; surprisal leaves."""
    class Tokenizer:
        def decode(self, ids: Any, **_: Any) -> str:
            return " ".join(str(int(each)) for each in ids)

    def redact(attribute: str, text: str) -> str:
        return "***" if attribute == c.INPUT_MESSAGES else text
    _, span = run(tiny_model(), *batch(2, 9), settings={"redact": redact, "tokenizer": Tokenizer()})

    assert c.PROMPT_SURPRISAL in span.attributes
    assert c.PROMPT_TOKEN_ID not in span.attributes
    assert c.TOKEN_ID in span.attributes


def test_inference_mode_is_no_hindrance() -> None:
    """A program that runs in inference mode gets the same values; its tensors are copied on another thread."""
    model, (ids, mask) = tiny_model(), batch(2, 9)
    with torch.inference_mode():
        _, span = run(model, ids, mask)

    check(span, model, ids, mask)


def test_the_generated_tokens_keep_their_signals() -> None:
    """The second pass is heard by nobody: all other series are those of a call without it."""
    model, (ids, mask) = tiny_model(), batch(2, 9)
    with recorded() as spans:
        model.generate(ids, attention_mask=mask, max_new_tokens=40, do_sample=False)
    (without,) = spans.get_finished_spans()
    _, span = run(model, ids, mask, max_new_tokens=40)

    for name in (*c.TOKEN_SERIES, *c.LAYER_SERIES):
        if name in without.attributes and name != c.TOKEN_INTER_TOKEN_TIME:
            assert span.attributes[name] == without.attributes[name], name


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_program_does_not_notice(family: str) -> None:
    """Sampled output, random state, parameters, buffers, modes, hooks and the returned cache are those of an untraced call."""
    model, (ids, mask) = tiny_model(family), batch(2, 9)
    options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": True, "return_dict_in_generate": True, "output_logits": True}
    torch.manual_seed(3)
    plain = model.generate(ids, attention_mask=mask, **options)
    after = torch.get_rng_state()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    attributes = {id(module): set(vars(module)) for module in model.modules()}
    torch.manual_seed(3)
    out, span = run(model, ids, mask, **options)

    assert c.PROMPT_SURPRISAL in span.attributes
    assert torch.equal(torch.get_rng_state(), after)
    assert torch.equal(out.sequences, plain.sequences)
    assert all(torch.equal(a, b) for a, b in zip(out.logits, plain.logits, strict=True))
    assert out.past_key_values.get_seq_length() == plain.past_key_values.get_seq_length()
    assert all(torch.equal(a.keys, b.keys) for a, b in zip(out.past_key_values.layers, plain.past_key_values.layers, strict=True))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert {id(module): set(vars(module)) for module in model.modules()} == attributes
    assert torch.is_grad_enabled()
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_autocast_stays_as_the_program_has_it() -> None:
    """Inside autocast the pass runs in its type, as the generation did, and autocast is on afterwards."""
    model, (ids, mask) = tiny_model(), batch(2, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, span = run(model, ids, mask)
        assert torch.is_autocast_enabled("cpu")
        expected = np.concatenate(truth(model, ids, mask))
    got = series(span, c.PROMPT_SURPRISAL)

    np.testing.assert_allclose(got[~np.isnan(got)], expected, atol=0.5)
    exact = np.concatenate(truth(model, ids, mask))
    assert np.abs(got[~np.isnan(got)] - exact).max() > 1e-3  # bfloat16 it was


def _training(model: Any) -> None:
    model.train()


def _hooked(model: Any) -> None:
    model.model.layers[0].register_forward_hook(lambda module, args, output: None)


def _wrapped(model: Any) -> None:
    inner = model.forward
    model.forward = lambda *args, **kwargs: inner(*args, **kwargs)


@pytest.mark.parametrize(("change", "reason"), [
    (_training, "training mode"), (_hooked, "hooks"), (_wrapped, "replaced"),
])
def test_where_a_second_pass_would_differ_or_be_heard(change: Any, reason: str) -> None:
    """Dropout, hooks of the program and replaced forwards: no second pass, and the reason says so."""
    model, (ids, mask) = tiny_model(attention_dropout=0.1), batch(1, 9)
    change(model)
    _, span = run(model, ids, mask)

    assert c.PROMPT_SURPRISAL not in span.attributes
    assert reason in span.attributes[c.STATUS_REASON]


def test_training_mode_without_dropout_is_harmless() -> None:
    """A model that was never put in eval mode but drops nothing out gives the same values."""
    model, (ids, mask) = tiny_model(), batch(2, 9)
    model.train()
    _, span = run(model, ids, mask)

    assert model.training
    check(span, model, ids, mask)


def test_hooks_of_the_program_hear_what_they_would_hear_alone() -> None:
    """A hook that counts passes counts as many with the setting as without."""
    counts = []
    for setting in (False, True):
        model, (ids, mask) = tiny_model(), batch(1, 9)
        heard: list[int] = []
        model.register_forward_hook(lambda module, args, output, heard=heard: heard.append(1))
        with recorded(prompt_surprisal=setting):
            model.generate(ids, attention_mask=mask, max_new_tokens=5, min_new_tokens=5)
        counts.append(len(heard))

    assert counts == [5, 5]


@pytest.mark.parametrize(("arguments", "reason"), [
    ({"past_key_values": "filled"}, "a cache of the program's own"),
    ({"inputs_embeds": "embeddings"}, "more than ids (inputs_embeds)"),
])
def test_prompts_that_are_more_than_ids(arguments: dict[str, Any], reason: str) -> None:
    """A cache that holds the beginning, embeddings: nothing is made up."""
    model, (ids, mask) = tiny_model(), batch(1, 9)
    given: dict[str, Any] = {}
    if "past_key_values" in arguments:
        cache = DynamicCache(config=model.config)
        with torch.no_grad():
            model(ids[:, :4], past_key_values=cache)
        given = {"input_ids": ids, "past_key_values": cache}
    else:
        given = {"inputs_embeds": model.get_input_embeddings()(ids).detach()}
    with recorded(prompt_surprisal=True) as spans:
        model.generate(attention_mask=mask, max_new_tokens=3, **given)
    (span,) = spans.get_finished_spans()

    assert c.PROMPT_SURPRISAL not in span.attributes
    assert reason in span.attributes[c.STATUS_REASON]


def test_encoder_decoder_models_have_none() -> None:
    """The prompt of T5 is read by its encoder, which predicts nothing."""
    ids, mask = batch(2, 9)
    _, span = run(tiny_model("t5"), ids, mask)

    assert c.PROMPT_SURPRISAL not in span.attributes
    assert "encoder-decoder" in span.attributes[c.STATUS_REASON]


def test_a_mask_with_holes_is_not_guessed_at() -> None:
    """Tokens hidden between others: which one predicts the next is the model's affair."""
    ids, mask = batch(1, 9)
    mask[0, 4] = 0
    _, span = run(tiny_model(), ids, mask)

    assert c.PROMPT_SURPRISAL not in span.attributes
    assert "hides tokens between others" in span.attributes[c.STATUS_REASON]


def test_a_fault_stays_inside(monkeypatch: pytest.MonkeyPatch, unguarded: Any) -> None:
    """The pass breaks: the output is there, the signals of the answer are there, the reason names the fault."""
    unguarded()

    def broken(*_: Any) -> Any:
        raise RuntimeError("secret")
    monkeypatch.setattr(prompt_module, "_surprisal", broken)
    ids, mask = batch(1, 9)
    out, span = run(tiny_model(), ids, mask)

    assert out.shape[0] == 1
    assert span.attributes[c.TOKENS_STATUS] == "recorded"
    assert "a fault in cutaway (RuntimeError)" in span.attributes[c.STATUS_REASON]
    assert "secret" not in span.attributes[c.STATUS_REASON]


def test_a_failed_call_is_not_run_again() -> None:
    """The program's own failure ends the call at once."""
    def fails(ids: Any, scores: Any) -> Any:
        raise ValueError("stop here")
    ids, mask = batch(1, 9)
    with recorded(prompt_surprisal=True) as spans, pytest.raises(ValueError, match="stop here"):
        tiny_model().generate(ids, attention_mask=mask, logits_processor=[fails])
    (span,) = spans.get_finished_spans()

    assert c.PROMPT_SURPRISAL not in span.attributes


@pytest.mark.slow
def test_the_real_model(smollm2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """SmolLM2 on English of unequal length, padded on the left, in pieces: as one full pass gives it."""
    model, tokenizer = smollm2
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.padding_side = "left"
    texts = ["The old lighthouse keeper climbed the stairs every night to light the lamp.", "Gravity is a force"]
    given = tokenizer(texts, return_tensors="pt", padding=True)
    monkeypatch.setitem(prompt_module.LOGITS_BYTES_MAX, "cpu", 4 * 49152 * 4)
    _, span = run(model, given["input_ids"], given["attention_mask"])

    check(span, model, given["input_ids"], given["attention_mask"], atol=1e-3)
