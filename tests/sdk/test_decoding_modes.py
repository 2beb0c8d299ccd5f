"""Every way to decode, on small random models: values against a teacher-forced pass, the eager kernel, or the loop's own sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import DynamicCache, GenerationMixin, LogitsProcessor

from cutaway import conventions as c
from cutaway.testing import series, tiny_model
from sdk_helpers import batch
from sdk_oracles import Both, both, check, compare, forced, regenerated, statuses

Record = Callable[[str, object], None]
"""pytest's record_property: the largest errors go into the report."""


@pytest.fixture(scope="module")
def llama() -> Any:
    return tiny_model()


@pytest.fixture(scope="module")
def small() -> Any:
    """Few words, so that answers end and repeat."""
    return tiny_model(vocabulary=30)


def reason(span: Any) -> str:
    return str(span.attributes.get(c.STATUS_REASON, ""))


def sampled(span: Any, scores: Any, sequence: int) -> None:
    """The sampled surprisal against the processed scores that `generate` returned."""
    ids = torch.as_tensor(series(span, c.TOKEN_ID, sequence).astype(np.int64))
    rows = torch.stack([step[sequence] for step in scores]).double().log_softmax(-1)[:len(ids)]
    truth = -rows.gather(-1, ids[:, None])[:, 0].numpy()
    np.testing.assert_allclose(series(span, c.TOKEN_SAMPLED_SURPRISAL, sequence), truth, atol=2e-4)


# --- Greedy and sampling -------------------------------------------------------------------------------------------------

PLAIN: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "top_k": 20},
    "several": {"do_sample": True, "num_return_sequences": 3, "temperature": 1.3, "top_k": 0},
    "min-p": {"do_sample": True, "min_p": 0.1, "repetition_penalty": 1.2},
    "several ends": {"do_sample": True, "eos_token_id": [2, 7, 11], "top_k": 25},
}


@pytest.mark.parametrize("mode", PLAIN)
def test_greedy_and_sampling(small: Any, mode: str, record_property: Record) -> None:
    """A padded batch: raw signals equal the forced pass, sampled surprisal the returned scores; nothing else changes."""
    ids, mask = batch(vocabulary=30)
    found = both(small, lambda: small.generate(
        ids, attention_mask=mask, max_new_tokens=36, return_dict_in_generate=True, output_scores=True, **PLAIN[mode],
    ))
    record_property("max_error", check(small, found.span, found.out, ids, mask))

    for i in range(found.sequences.shape[0]):
        if mode == "greedy":
            assert c.TOKEN_SAMPLED_SURPRISAL not in found.span.attributes
        else:
            sampled(found.span, found.out.scores, i)


def test_several_end_ids(small: Any) -> None:
    """Each of them ends a sequence, with the reason `stop`; the id that ended it is counted."""
    ids, mask = batch(6, 11, vocabulary=30)
    ends = [2, 7, 11]
    found = both(small, lambda: small.generate(
        ids, attention_mask=mask, max_new_tokens=36, do_sample=True, top_k=0, eos_token_id=ends,
    ))
    answers = [row[11:].tolist() for row in found.sequences]
    lengths = [next((i + 1 for i, token in enumerate(answer) if token in ends), 36) for answer in answers]

    assert len({answer[length - 1] for answer, length in zip(answers, lengths, strict=True) if length < 36}) > 1
    assert list(found.span.attributes[c.SEQUENCE_OUTPUT_TOKENS]) == lengths
    wanted = ["stop" if answer[length - 1] in ends else "length" for answer, length in zip(answers, lengths, strict=True)]
    assert list(found.span.attributes[c.RESPONSE_FINISH_REASONS]) == wanted


# --- The same generation under the eager kernel, whatever the cache ------------------------------------------------------

CACHES: dict[str, tuple[str, dict[str, Any]]] = {
    "dynamic": ("llama", {}),
    "static": ("llama", {"cache_implementation": "static"}),
    "fp8": ("llama", {"cache_implementation": "quantized", "cache_config": {"backend": "fp8"}}),
    "none": ("llama", {"use_cache": False}),
    "sliding": ("mistral", {}),
    "static sliding": ("mistral", {"cache_implementation": "static"}),
    "mixed sliding": ("gemma2", {}),
    "static mixed sliding": ("gemma2", {"cache_implementation": "static"}),
    "sinks": ("gpt_oss", {}),
    "static sinks": ("gpt_oss", {"cache_implementation": "static"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("prompt", [5, 13])
@pytest.mark.parametrize("cache", CACHES)
def test_caches(cache: str, prompt: int, record_property: Record) -> None:
    """Left padding, prompts shorter and longer than the window: all signals equal those of the eager matrices of the same call."""
    family, options = CACHES[cache]
    model = tiny_model(family)
    if cache == "fp8":  # rounding to 8 bits makes another kernel's last digit a visible difference
        model.set_attn_implementation("eager")
    ids, mask = batch(3 if prompt > 5 else 2, prompt)
    options = {"max_new_tokens": 20, "do_sample": False, **options}
    found = both(model, lambda: model.generate(ids, attention_mask=mask, **options))
    sequences, truths = regenerated(model, ids, mask, **options)

    assert torch.equal(sequences, found.sequences)
    assert statuses(found.span) == ("recorded", "recorded"), reason(found.span)
    errors: dict[str, float] = {}
    for i, truth in enumerate(truths):
        truth.pop(c.TOKEN_SAMPLED_SURPRISAL)
        compare(found.span, i, truth, errors)
    record_property("max_error", errors)


# --- Beams ---------------------------------------------------------------------------------------------------------------

BEAMS: dict[str, dict[str, Any]] = {
    "plain": {}, "several": {"num_return_sequences": 3}, "short": {"length_penalty": 0.4}, "long": {"length_penalty": 2.0},
    "early": {"early_stopping": True}, "sampling": {"do_sample": True, "top_k": 0}, "static": {"cache_implementation": "static"},
    "two ends": {"eos_token_id": [2, 9]},
}


@pytest.mark.parametrize("mode", BEAMS)
def test_beams(small: Any, mode: str, record_property: Record) -> None:
    """Values follow each returned beam, and their sum over len ** length_penalty is the score the search gave it."""
    ids, mask = batch(vocabulary=30)
    options = BEAMS[mode]
    found = both(small, lambda: small.generate(ids, attention_mask=mask, max_new_tokens=18, num_beams=4, **{
        "do_sample": False, "return_dict_in_generate": True, "output_scores": True, **options,
    }))
    errors = check(small, found.span, found.out, ids, mask)
    lengths = found.span.attributes[c.SEQUENCE_OUTPUT_TOKENS]
    sums = [
        -series(found.span, c.TOKEN_SURPRISAL, i).astype(np.float64).sum() / length ** options.get("length_penalty", 1.0)
        for i, length in enumerate(lengths)
    ]

    np.testing.assert_allclose(sums, found.out.sequences_scores.numpy(), atol=1e-4, rtol=1e-4)
    errors["sequences_scores"] = float(np.abs(sums - found.out.sequences_scores.numpy()).max())
    record_property("max_error", errors)


# --- Drafts --------------------------------------------------------------------------------------------------------------

class Counting:
    """A candidate generator that counts what it drafts and what is accepted of it."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.drafted = self.accepted = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def get_candidates(self, input_ids: Any, *args: Any, **kwargs: Any) -> Any:
        ids, logits = self.inner.get_candidates(input_ids, *args, **kwargs)
        self.drafted += ids.shape[1] - input_ids.shape[1]
        return ids, logits

    def update_candidate_strategy(self, input_ids: Any, scores: Any, num_matches: int) -> Any:
        self.accepted += int(num_matches)
        return self.inner.update_candidate_strategy(input_ids, scores, num_matches)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Counting]:
    """Every candidate generator of the test, in order."""
    made: list[Counting] = []
    original = GenerationMixin._get_candidate_generator

    def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        made.append(Counting(original(self, *args, **kwargs)))
        return made[-1]

    monkeypatch.setattr(GenerationMixin, "_get_candidate_generator", counting)
    return made


def drafting(mode: str, model: Any, noise: float = 0.05) -> dict[str, Any]:
    """Arguments of a kind of speculative decoding. The assistant is the model, disturbed: some drafts are right, some are not."""
    if mode == "lookup":
        return {"prompt_lookup_num_tokens": 4}
    if mode == "early exit":
        return {"assistant_early_exit": 2}
    assistant = tiny_model(model.config.model_type, vocabulary=model.config.vocab_size)
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        weight = assistant.lm_head.weight
        assistant.lm_head.weight = torch.nn.Parameter(weight + noise * torch.randn(weight.shape, generator=generator))
    return {"assistant_model": assistant}


@pytest.mark.slow
@pytest.mark.parametrize("prompt", [6, 14])
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt_oss"])
@pytest.mark.parametrize("mode", ["assistant", "lookup"])
def test_greedy_drafts_are_as_plain_greedy(
    mode: str, family: str, prompt: int, counted: list[Counting], record_property: Record
) -> None:
    """Token for token and value for value, attention and strongest keys included; drafts are counted as the generator does."""
    model = tiny_model(family, vocabulary=30)
    ids, mask = batch(1, prompt, vocabulary=30)
    how = {"max_new_tokens": 30, "min_new_tokens": 24, "do_sample": False}
    plain = both(model, lambda: model.generate(ids, attention_mask=mask, **how), attention_sources=3)
    extra = drafting(mode, model, {"gemma2": 0.2, "gpt_oss": 0.15}.get(family, 0.05))
    found = both(model, lambda: model.generate(ids, attention_mask=mask, **how, **extra), attention_sources=3)

    assert torch.equal(found.sequences, plain.sequences)
    errors = check(model, found.span, found.out, ids, mask)
    for name in (c.TOKEN_SURPRISAL, c.TOKEN_ENTROPY, c.ATTENTION_ENTROPY, c.ATTENTION_LOOKBACK, c.SOURCE_MASS):
        np.testing.assert_allclose(series(found.span, name), series(plain.span, name), atol=2e-3 if name == c.SOURCE_MASS else 1e-4)
    strongest_keys(model, found, ids, mask)
    generator = counted[-1]
    assert 0 <= generator.accepted < generator.drafted
    assert mode == "lookup" or generator.accepted > 0
    assert found.span.attributes[c.DRAFTED_TOKENS] == generator.drafted
    assert found.span.attributes[c.ACCEPTANCE_RATE] == pytest.approx(generator.accepted / generator.drafted)
    record_property("max_error", errors)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["assistant", "lookup", "early exit"])
def test_sampled_drafts(llama: Any, mode: str, counted: list[Counting], record_property: Record) -> None:
    """Speculative sampling: the values are those of the tokens that stayed; drafts are counted as the generator does."""
    ids, mask = batch(1, 10)
    extra = drafting(mode, llama)
    found = both(llama, lambda: llama.generate(
        ids, attention_mask=mask, max_new_tokens=30, do_sample=True, top_k=0, temperature=0.5, **extra,
    ))

    record_property("max_error", check(llama, found.span, found.out, ids, mask))
    assert found.span.attributes[c.DECODING_MODE] == "assisted_generation"
    assert found.span.attributes[c.DRAFTED_TOKENS] == counted[-1].drafted > 0
    assert found.span.attributes[c.ACCEPTANCE_RATE] == pytest.approx(counted[-1].accepted / counted[-1].drafted)


def test_drafts_with_processors(llama: Any, record_property: Record) -> None:
    """Processors run once a candidate: raw values stay those of the model."""
    ids, mask = batch(1, 10)
    found = both(llama, lambda: llama.generate(
        ids, attention_mask=mask, max_new_tokens=24, do_sample=False, repetition_penalty=1.5, prompt_lookup_num_tokens=3,
    ))

    record_property("max_error", check(llama, found.span, found.out, ids, mask))


# --- Guidance ------------------------------------------------------------------------------------------------------------

def test_guidance_reports_the_first_pass(llama: Any, record_property: Record) -> None:
    """Classifier-free guidance runs the model twice a token: values are the conditional pass's; sampled surprisal the mixture's."""
    ids, mask = batch(1)
    negative = batch(1, 7, seed=4)[0]
    found = both(llama, lambda: llama.generate(
        ids, attention_mask=mask, max_new_tokens=36, do_sample=True, guidance_scale=2.0, negative_prompt_ids=negative,
        return_dict_in_generate=True, output_scores=True,
    ))

    record_property("max_error", check(llama, found.span, found.out, ids, mask))
    sampled(found.span, found.out.scores, 0)
    assert np.abs(series(found.span, c.TOKEN_SAMPLED_SURPRISAL) - series(found.span, c.TOKEN_SURPRISAL)).max() > 0.1


# --- Loops of the host's own ---------------------------------------------------------------------------------------------

def stepping(model: Any, input_ids: Any, processors: Any, criteria: Any, **model_kwargs: Any) -> Any:
    """A loop that keeps to the protocol: one forward, one call of the processors, one of the criteria a token."""
    mask = model_kwargs["attention_mask"]
    cache = model_kwargs.get("past_key_values")
    going = torch.ones(len(input_ids), dtype=torch.bool)
    fresh = input_ids
    with torch.no_grad():
        while going.any():
            places = (mask.cumsum(-1) - 1).clamp_min(0)[:, -fresh.shape[1]:]
            logits = model(fresh, attention_mask=mask, position_ids=places, past_key_values=cache).logits[:, -1].float()
            scores = processors(input_ids, logits)
            fresh = scores.argmax(-1)[:, None] * going[:, None]
            input_ids = torch.cat([input_ids, fresh], -1)
            mask = torch.cat([mask, torch.ones_like(fresh)], -1)
            going = going & ~criteria(input_ids, None)
    return input_ids


def following(model: Any, input_ids: Any, logits_processor: Any, stopping_criteria: Any, **rest: Any) -> Any:
    return stepping(model, input_ids, logits_processor, stopping_criteria, **rest)


def delegating(model: Any, input_ids: Any, **rest: Any) -> Any:
    return GenerationMixin._sample(model, input_ids, **rest)


def dropping(model: Any, input_ids: Any, logits_processor: Any, stopping_criteria: Any, **rest: Any) -> Any:
    """Takes the last two tokens back."""
    return stepping(model, input_ids, logits_processor, stopping_criteria, **rest)[:, :-2]


def rewriting(model: Any, input_ids: Any, logits_processor: Any, stopping_criteria: Any, **rest: Any) -> Any:
    """Changes a token it chose before, and goes on from there."""
    mask, start = rest["attention_mask"], input_ids.shape[1]
    with torch.no_grad():
        for step in range(6):
            scores = logits_processor(input_ids, model(input_ids, attention_mask=mask).logits[:, -1].float())
            input_ids = torch.cat([input_ids, scores.argmax(-1)[:, None]], -1)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], -1)
            if step == 3:
                input_ids = input_ids.clone()
                input_ids[:, start + 1] = 17
            stopping_criteria(input_ids, None)
    return input_ids


def choosing(model: Any, input_ids: Any, logits_processor: Any, stopping_criteria: Any, **rest: Any) -> Any:
    """Shows two candidate rows for every row, and continues one of them."""
    mask, rows = rest["attention_mask"], len(input_ids)
    with torch.no_grad():
        for _ in range(6):
            shown = input_ids.repeat(2, 1)
            scores = logits_processor(shown, model(shown, attention_mask=mask.repeat(2, 1)).logits[:, -1])
            input_ids = torch.cat([input_ids, scores[rows:].argmax(-1)[:, None]], -1)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], -1)
            stopping_criteria(input_ids, None)
    return input_ids


def exchanging(model: Any, input_ids: Any, logits_processor: Any, stopping_criteria: Any, **rest: Any) -> Any:
    """Swaps its rows while it generates, as a search would."""
    mask = rest["attention_mask"]
    with torch.no_grad():
        for step in range(6):
            scores = logits_processor(input_ids, model(input_ids, attention_mask=mask).logits[:, -1].float())
            input_ids = torch.cat([input_ids, scores.argmax(-1)[:, None]], -1)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], -1)
            if step == 3:
                input_ids, mask = input_ids.flip(0), mask.flip(0)
            stopping_criteria(input_ids, None)
    return input_ids


def looking_ahead(model: Any, input_ids: Any, logits_processor: Any, stopping_criteria: Any, **rest: Any) -> Any:
    """Asks the processors twice a token."""
    mask = rest["attention_mask"]
    with torch.no_grad():
        for _ in range(6):
            logits = model(input_ids, attention_mask=mask).logits[:, -1].float()
            logits_processor(input_ids, logits.clone())
            input_ids = torch.cat([input_ids, logits_processor(input_ids, logits).argmax(-1)[:, None]], -1)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], -1)
            stopping_criteria(input_ids, None)
    return input_ids


@pytest.mark.parametrize("loop", [following, delegating])
def test_a_loop_that_keeps_to_the_protocol_is_recorded(llama: Any, loop: Callable[..., Any], record_property: Record) -> None:
    """`custom_generate` with a function: once a token the processors and the criteria, so everything is known."""
    ids, mask = batch()
    found = both(llama, lambda: llama.generate(ids, attention_mask=mask, max_new_tokens=16, do_sample=False, custom_generate=loop))

    record_property("max_error", check(llama, found.span, found.out, ids, mask))
    assert found.span.attributes[c.DECODING_MODE] == "custom_generate"


@pytest.mark.parametrize("loop", [dropping, rewriting, choosing, exchanging, looking_ahead])
def test_a_loop_that_does_not_is_unsupported(llama: Any, loop: Callable[..., Any]) -> None:
    """What it returned is counted; no value is attributed to a token that was not chosen from it."""
    ids, mask = batch(2)
    found = both(llama, lambda: llama.generate(ids, attention_mask=mask, max_new_tokens=16, do_sample=False, custom_generate=loop))

    assert statuses(found.span) == ("unsupported", "unsupported")
    assert "the loop" in reason(found.span)
    assert c.TOKEN_SURPRISAL not in found.span.attributes
    assert c.ATTENTION_ENTROPY not in found.span.attributes
    assert series(found.span, c.TOKEN_ID).size == found.span.attributes[c.USAGE_OUTPUT_TOKENS] > 0


# --- Processors of the host ----------------------------------------------------------------------------------------------

class _InPlace(LogitsProcessor):  # type: ignore[misc]
    """Writes into the scores it is given."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        scores[:, 5:60] -= 3.0
        return scores


def test_a_processor_that_writes_in_place(llama: Any, record_property: Record) -> None:
    """Raw values are those from before it wrote."""
    ids, mask = batch()
    found = both(llama, lambda: llama.generate(
        ids, attention_mask=mask, max_new_tokens=20, do_sample=True, top_k=0, logits_processor=[_InPlace()],
        return_dict_in_generate=True, output_scores=True,
    ))

    record_property("max_error", check(llama, found.span, found.out, ids, mask))
    for i in range(3):
        sampled(found.span, found.out.scores, i)


# --- Options -------------------------------------------------------------------------------------------------------------

def test_alternatives(llama: Any) -> None:
    """The k most likely tokens of every step with their surprisal, best first, whatever was drawn."""
    ids, mask = batch()
    found = both(llama, lambda: llama.generate(
        ids, attention_mask=mask, max_new_tokens=20, do_sample=True, top_k=0, return_dict_in_generate=True, output_logits=True,
    ), alternatives=5)

    for i, length in enumerate(found.span.attributes[c.SEQUENCE_OUTPUT_TOKENS]):
        logs = torch.stack([step[i] for step in found.out.logits])[:length].double().log_softmax(-1)
        best = logs.sort(-1, descending=True)
        np.testing.assert_array_equal(series(found.span, c.ALTERNATIVE_ID, i), best.indices[:, :5].numpy())
        np.testing.assert_allclose(series(found.span, c.ALTERNATIVE_SURPRISAL, i), -best.values[:, :5].numpy(), atol=2e-4)


@pytest.mark.parametrize("kept", ["off", "layers", "heads", "full"])
def test_attention_options(llama: Any, kept: str) -> None:
    """Which series of every head leave; the rest is as with all of them."""
    ids, mask = batch()
    found = both(
        llama, lambda: llama.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=False), attention=kept
    )
    heads = {name for name in c.HEAD_SERIES if name in found.span.attributes}
    of_self = {name for name in c.HEAD_SERIES if not name.startswith("cutaway.attention.cross")}

    assert heads == {"off": set(), "layers": set(), "heads": {c.ATTENTION_ENTROPY_HEADS}, "full": of_self}[kept]
    assert statuses(found.span) == ("recorded", "off" if kept == "off" else "recorded")
    assert (c.ATTENTION_ENTROPY in found.span.attributes) == (kept != "off")
    for i in range(3):
        answer = found.sequences[i, 9:9 + found.span.attributes[c.SEQUENCE_OUTPUT_TOKENS][i]]
        truth = forced(llama, ids[i], mask[i], answer)
        compare(found.span, i, {name: values for name, values in truth.items() if name in found.span.attributes}, {})


def mean_weights(model: Any, prompt: Any, mask: Any, answer: Any) -> Any:
    """[layer, token, position]: weights of every key, 0 the first real token of the prompt, mean over heads."""
    kept = prompt[mask.bool()]
    used = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        out = model(torch.cat([kept, answer])[None], output_attentions=True)
    model.set_attn_implementation(used)
    layers = torch.stack([layer[0].double().mean(0) for layer in out.attentions])
    return layers[:, len(kept) - 1:len(kept) - 1 + len(answer)].numpy()


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "options"), [
    (1, {}), (3, {}), (3, {"cache_implementation": "static"}), (3, {"num_beams": 3}),
], ids=["one", "padded", "static", "beams"])
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt_oss", "llama4_text"])
def test_strongest_keys(family: str, rows: int, options: dict[str, Any]) -> None:
    """Positions count from the first token of the prompt, with padding and sliding windows too; weights are those of the kernel."""
    model = tiny_model(family)
    ids, mask = batch(rows, 11)
    found = both(model, lambda: model.generate(
        ids, attention_mask=mask, max_new_tokens=20, do_sample=False, **options,
    ), attention_sources=3)
    strongest_keys(model, found, ids, mask)


def strongest_keys(model: Any, found: Both, ids: Any, mask: Any) -> None:
    """Weights are the largest ones, and each is the weight of the position it names (equal keys may stand for each other)."""
    layers, prompt = found.span.attributes[c.SOURCE_LAYERS], ids.shape[1]
    assert list(layers) == [0, 1, 2]
    for i in range(len(ids)):
        answer = found.sequences[i, prompt:prompt + found.span.attributes[c.SEQUENCE_OUTPUT_TOKENS][i]]
        truth = mean_weights(model, ids[i], mask[i], answer)
        for place, layer in enumerate(layers):
            masses = series(found.span, c.SOURCE_MASS, i)[:, place].astype(np.float64)
            np.testing.assert_allclose(masses, -np.sort(-truth[layer], -1)[:, :3], atol=1e-3)
            positions = series(found.span, c.SOURCE_POSITION, i)[:, place].astype(np.int64)
            at = np.take_along_axis(truth[layer], positions.clip(0, truth.shape[-1] - 1), -1)
            np.testing.assert_allclose(np.where(masses > 0, at, 0.0), masses, atol=1e-3)


# --- Prompts that are more than ids --------------------------------------------------------------------------------------

@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"cache_implementation": "static"}], ids=["plain", "beams", "static"])
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_a_prompt_of_embeddings(family: str, options: dict[str, Any], record_property: Record) -> None:
    """`inputs_embeds` alone: prompt tokens are counted, and the prompt ends where it ended, whatever the cache holds."""
    model = tiny_model(family)
    ids, mask = batch(3, 12)
    embedded = model.get_input_embeddings()(ids).detach()
    found = both(model, lambda: model.generate(
        inputs_embeds=embedded, attention_mask=mask, max_new_tokens=16, do_sample=False, **options,
    ), attention_sources=3)
    whole = torch.cat([ids, found.sequences], -1)

    assert found.span.attributes[c.USAGE_INPUT_TOKENS] == int(mask.sum())
    record_property("max_error", check(model, found.span, whole, ids, mask))


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_a_cache_the_program_filled(family: str, record_property: Record) -> None:
    """A conversation that goes on: the beginning of the prompt is in the cache already, and belongs to the prompt."""
    model = tiny_model(family)
    ids, mask = batch(3, 12)
    places = (mask.cumsum(-1) - 1).clamp_min(0)

    def call() -> Any:
        cache = DynamicCache(config=model.config)
        with torch.no_grad():
            model(ids[:, :9], attention_mask=mask[:, :9], position_ids=places[:, :9], past_key_values=cache)
        return model.generate(ids, attention_mask=mask, past_key_values=cache, max_new_tokens=16, do_sample=False)

    found = both(model, call)
    record_property("max_error", check(model, found.span, found.out, ids, mask))


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt_oss"])
def test_a_prompt_in_pieces(family: str, record_property: Record) -> None:
    """Chunked prefill: only the last piece's last row predicts a token."""
    model = tiny_model(family)
    ids, mask = batch(2, 13)
    found = both(model, lambda: model.generate(
        ids, attention_mask=mask, max_new_tokens=16, do_sample=False, prefill_chunk_size=5,
    ))

    record_property("max_error", check(model, found.span, found.out, ids, mask))
