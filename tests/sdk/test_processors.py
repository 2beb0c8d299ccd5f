"""Processors of scores: those of transformers leave what they are given, and one that does not is seen."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, StoppingCriteria
from transformers.generation import logits_process
from transformers.generation.logits_process import LogitsProcessor

from cutaway import conventions as c
from cutaway.tap import hearing
from cutaway.testing import recorded, tiny_model
from sdk_helpers import batch
from sdk_oracles import both, check

Record = Callable[[str, object], None]

ARGUMENTS: dict[str, dict[str, Any]] = {
    "EpsilonLogitsWarper": {"epsilon": 0.02},
    "EtaLogitsWarper": {"epsilon": 0.02},
    "ForcedBOSTokenLogitsProcessor": {"bos_token_id": 1},
    "ForcedEOSTokenLogitsProcessor": {"max_length": 10, "eos_token_id": 2},
    "InfNanRemoveLogitsProcessor": {},
    "MinLengthLogitsProcessor": {"min_length": 30, "eos_token_id": 2},
    "MinNewTokensLengthLogitsProcessor": {"prompt_length_to_skip": 9, "min_new_tokens": 30, "eos_token_id": 2},
    "MinPLogitsWarper": {"min_p": 0.2},
    "NoBadWordsLogitsProcessor": {"bad_words_ids": [[7], [8, 9]], "eos_token_id": 2},
    "NoRepeatNGramLogitsProcessor": {"ngram_size": 1},
    "RepetitionPenaltyLogitsProcessor": {"penalty": 1.5},
    "SequenceBiasLogitsProcessor": {"sequence_bias": [[[7], -4.0]]},
    "SuppressTokensAtBeginLogitsProcessor": {"begin_suppress_tokens": [7, 8], "begin_index": 9},
    "SuppressTokensLogitsProcessor": {"suppress_tokens": [7, 8]},
    "TemperatureLogitsWarper": {"temperature": 0.5},
    "TopKLogitsWarper": {"top_k": 5},
    "TopPLogitsWarper": {"top_p": 0.5},
    "TypicalLogitsWarper": {"mass": 0.5},
}
"""Arguments with which each of them has something to change."""

LENGTHS = {"ForcedBOSTokenLogitsProcessor": 1}
"""Prompt lengths at which it does, where 9 is none."""


def test_every_trusted_processor_is_tried_below() -> None:
    """The list of the tap and the list of these tests are the same."""
    assert {each.__name__ for each in hearing.LEAVE_SCORES} == set(ARGUMENTS)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_trusted_processor_leaves_its_input(name: str) -> None:
    """It changes scores, and those it was given are bit for bit what they were: they need no copy."""
    ids, _ = batch(3, 9)
    ids = ids[:, :LENGTHS.get(name, 9)]
    scores = torch.randn(3, 120, generator=torch.Generator().manual_seed(1))
    if name == "InfNanRemoveLogitsProcessor":
        scores[0, 3] = float("inf")
    given, version = scores.clone(), scores._version

    answer = getattr(logits_process, name)(**ARGUMENTS[name])(ids, scores)

    assert not torch.equal(answer, given)
    assert torch.equal(scores, given)
    assert scores._version == version


@pytest.mark.parametrize("rows", [3, 9], ids=["rows that wait", "rows that are read at once"])
@pytest.mark.parametrize("inference", [False, True], ids=["without gradients", "inference mode"])
def test_signals_below_trusted_processors(rows: int, inference: bool, record_property: Record) -> None:
    """Under several of them every signal is that of the raw scores."""
    model, (ids, mask) = tiny_model(), batch(rows, 20)

    def call() -> Any:
        with torch.inference_mode(inference):
            return model.generate(
                ids, attention_mask=mask, max_new_tokens=20, min_new_tokens=12, do_sample=True, top_k=40, temperature=0.7,
                repetition_penalty=1.3, return_dict_in_generate=True,
            )

    found = both(model, call)
    record_property("max_error", check(model, found.span, found.out.sequences.clone(), ids, mask))


class _InPlace(LogitsProcessor):  # type: ignore[misc]
    """Writes into the scores it is given."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        scores[:, 5:60] -= 3.0
        return scores


def test_a_trusted_processor_that_writes_after_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later transformers may break what was tested: then the call says that its signals are not to be had."""
    monkeypatch.setattr(hearing, "LEAVE_SCORES", frozenset({*hearing.LEAVE_SCORES, _InPlace}))
    model, (ids, mask) = tiny_model(), batch()

    with recorded() as spans:
        model.generate(ids, attention_mask=mask, max_new_tokens=5, do_sample=False, logits_processor=[_InPlace()])

    (span,) = spans.get_finished_spans()
    assert span.attributes[c.TOKENS_STATUS] == c.STATUS_ERROR
    assert "wrote into the scores" in span.attributes[c.STATUS_REASON]
    assert c.TOKEN_SURPRISAL not in span.attributes


@pytest.mark.parametrize("options", [{}, {"no_repeat_ngram_size": 15}], ids=["no processor", "one that returns its input"])
def test_a_loop_that_writes_into_what_the_processors_returned(options: dict[str, Any], record_property: Record) -> None:
    """It may be the raw scores themselves: they are those from before."""
    def loop(model: Any, input_ids: Any, logits_processor: Any, stopping_criteria: Any, **kwargs: Any) -> Any:
        while True:
            scores = logits_processor(input_ids, model(input_ids, use_cache=False).logits[:, -1].clone())
            scores[:, 50:] = -float("inf")
            input_ids = torch.cat([input_ids, scores.argmax(-1)[:, None]], dim=-1)
            if stopping_criteria(input_ids, None).all():
                return input_ids

    model, (ids, mask) = tiny_model(), batch(1)
    with torch.no_grad():
        found = both(model, lambda: model.generate(
            ids, attention_mask=mask, custom_generate=loop, max_new_tokens=8, eos_token_id=None, **options,
        ))
    record_property("max_error", check(model, found.span, found.out, ids, mask))


class _Spoils(StoppingCriteria):  # type: ignore[misc]
    """Writes into the scores it is shown."""

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        scores[-1][:, :60] = 77.0
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


def test_a_criterion_that_a_model_class_adds(monkeypatch: pytest.MonkeyPatch, record_property: Record) -> None:
    """Added behind ours, it may write into the scores like any of the program's own."""
    class Adds(LlamaForCausalLM):  # type: ignore[misc]
        def _get_stopping_criteria(self, *args: Any, **kwargs: Any) -> Any:
            found = super()._get_stopping_criteria(*args, **kwargs)
            found.append(_Spoils())
            return found

    model, (ids, mask) = tiny_model(), batch(1)
    monkeypatch.setattr(model, "__class__", Adds)
    found = both(model, lambda: model.generate(
        ids, attention_mask=mask, max_new_tokens=8, min_new_tokens=8, no_repeat_ngram_size=15, output_scores=True,
        return_dict_in_generate=True,
    ))
    record_property("max_error", check(model, found.span, found.out.sequences, ids, mask))


def test_layers_with_different_kernels(record_property: Record) -> None:
    """The registry of attention functions is asked for one kernel by one layer and for another by the next: each gets its own,
    and the signals of both are right."""
    model, (ids, mask) = tiny_model(), batch()
    model.set_attn_implementation("eager")  # its additive masks are understood by both
    attention = model.model.layers[1].self_attn
    attention.config = copy.deepcopy(attention.config)
    attention.config._attn_implementation = "sdpa"

    found = both(model, lambda: model.generate(
        ids, attention_mask=mask, max_new_tokens=40, do_sample=False, return_dict_in_generate=True, output_logits=True,
    ))
    attention.config = model.config
    record_property("max_error", check(model, found.span, found.out, ids, mask))
