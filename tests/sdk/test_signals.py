"""The whole way from `generate` to the span, against a teacher-forced replay and eager attention, on small random models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import StoppingCriteria

from cutaway import conventions as c
from cutaway.record import attention as attention_module
from cutaway.record import beams as beams_module
from cutaway.testing import recorded, series, tiny_model
from sdk_helpers import batch, replay

FAMILIES = ["llama", "gpt2", "mistral", "gemma2"]


def check(model: Any, span: Any, out: Any, ids: Any, mask: Any, attention: bool = True) -> None:
    """Every sequence of the span equals its replay."""
    copies = out.shape[0] // ids.shape[0]
    for i in range(out.shape[0]):
        length = span.attributes[c.SEQUENCE_OUTPUT_TOKENS][i]
        answer = out[i, ids.shape[1]:ids.shape[1] + length]
        truth = replay(model, ids[i // copies], mask[i // copies], answer, attention)
        assert series(span, c.TOKEN_ID, i).tolist() == truth.ids.tolist()
        np.testing.assert_allclose(series(span, c.TOKEN_SURPRISAL, i), truth.surprisal, atol=1e-4)
        np.testing.assert_allclose(series(span, c.TOKEN_ENTROPY, i), truth.entropy, atol=1e-4)
        np.testing.assert_allclose(series(span, c.TOKEN_MARGIN, i), truth.margin, atol=1e-4)
        assert series(span, c.TOKEN_RANK, i).tolist() == truth.rank.tolist()
        if attention:
            np.testing.assert_allclose(series(span, c.ATTENTION_ENTROPY, i), truth.attention.mean(-1), atol=1e-3)
            np.testing.assert_allclose(series(span, c.ATTENTION_ENTROPY_HEADS, i), truth.attention, atol=3e-3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sampling", [False, True])
def test_signals_of_a_padded_batch_equal_a_replay(family: str, sampling: bool) -> None:
    """Rows of unequal length, greedy and sampled, over more than two blocks: every token, layer and head is right."""
    model = tiny_model(family)
    ids, mask = batch()
    torch.manual_seed(5)
    with recorded() as spans:
        out = model.generate(ids, attention_mask=mask, max_new_tokens=70, do_sample=sampling, top_k=0)
    (span,) = spans.get_finished_spans()

    assert (span.attributes[c.TOKENS_STATUS], span.attributes[c.ATTENTION_STATUS]) == ("recorded", "recorded")
    check(model, span, out, ids, mask)


@pytest.mark.parametrize("options", [
    {"cache_implementation": "static"}, {"use_cache": False}, {"prefill_chunk_size": 4},
    {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
    {"num_return_sequences": 2, "do_sample": True}, {"guidance_scale": 1.5}, {"min_new_tokens": 12},
], ids=lambda options: ",".join(options))
def test_signals_hold_under_other_ways_to_decode(options: dict[str, Any]) -> None:
    """Static cache, no cache, chunked prefill, processors, several returned sequences, guidance: raw signals are still right."""
    model = tiny_model()
    ids, mask = batch(2, 9)
    if "prefill_chunk_size" in options or "guidance_scale" in options:
        ids, mask = ids[:1], mask[:1]
    torch.manual_seed(5)
    with recorded() as spans:
        out = model.generate(ids, attention_mask=mask, max_new_tokens=40, **{"do_sample": False, **options})
    (span,) = spans.get_finished_spans()

    assert (span.attributes[c.TOKENS_STATUS], span.attributes[c.ATTENTION_STATUS]) == ("recorded", "recorded")
    check(model, span, out, ids, mask)


@pytest.mark.parametrize("family", ["mistral", "gemma2"])
def test_a_window_that_fills_while_generating(family: str) -> None:
    """A prompt shorter than the sliding window: steps that wait when the window begins to slide keep the keys they saw."""
    model = tiny_model(family)
    ids, mask = batch(2, 4)
    with recorded() as spans:
        out = model.generate(ids, attention_mask=mask, max_new_tokens=30, min_new_tokens=30, do_sample=False)
    (span,) = spans.get_finished_spans()

    assert span.attributes[c.ATTENTION_STATUS] == "recorded"
    check(model, span, out, ids, mask)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral"])
@pytest.mark.parametrize("options", [
    {}, {"num_return_sequences": 2}, {"do_sample": True, "top_k": 0}, {"repetition_penalty": 1.4}, {"length_penalty": -1.0},
], ids=lambda options: ",".join(options) or "plain")
def test_beams_carry_the_values_of_the_path_they_took(family: str, options: dict[str, Any]) -> None:
    """Beam search reorders rows and cache at every step: each returned sequence still has its own values, all of them right."""
    model = tiny_model(family, vocabulary=40)
    ids, mask = batch(vocabulary=40)
    torch.manual_seed(5)
    with recorded() as spans:
        out = model.generate(ids, attention_mask=mask, max_new_tokens=20, num_beams=4, **options)
    (span,) = spans.get_finished_spans()

    assert (span.attributes[c.TOKENS_STATUS], span.attributes[c.ATTENTION_STATUS]) == ("recorded", "recorded")
    check(model, span, out, ids, mask)


def test_blocks_give_what_single_steps_give(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for a block of steps changes no value beyond rounding."""
    model = tiny_model()
    ids, mask = batch()
    values = []
    for steps in (1, 32):
        monkeypatch.setattr(attention_module, "BLOCK_STEPS", steps)
        with recorded() as spans:
            model.generate(ids, attention_mask=mask, max_new_tokens=45, do_sample=False)
        values.append(series(spans.get_finished_spans()[0], c.ATTENTION_ENTROPY))

    np.testing.assert_allclose(values[0], values[1], atol=2e-5)


def test_span_means_are_over_generated_tokens_only() -> None:
    """Perplexity and means come from real tokens of all sequences: finished rows and padding do not enter."""
    model = tiny_model(vocabulary=25)
    ids, mask = batch(vocabulary=25)
    torch.manual_seed(11)
    with recorded() as spans:
        model.generate(ids, attention_mask=mask, max_new_tokens=60, do_sample=True, top_k=0)
    (span,) = spans.get_finished_spans()
    surprisal = series(span, c.TOKEN_SURPRISAL).astype(np.float64)
    lengths = span.attributes[c.SEQUENCE_OUTPUT_TOKENS]

    assert len(set(lengths)) > 1
    assert sum(lengths) == len(surprisal) == span.attributes[c.USAGE_OUTPUT_TOKENS]
    assert span.attributes[c.OUTPUT_PERPLEXITY] == pytest.approx(np.exp(surprisal.mean()))
    parts = np.split(surprisal, np.cumsum(lengths)[:-1])
    assert span.attributes[c.SEQUENCE_PERPLEXITY] == pytest.approx([np.exp(part.mean()) for part in parts])
    by_layer = series(span, c.ATTENTION_ENTROPY)
    assert span.attributes[c.ATTENTION_ENTROPY_MEAN] == pytest.approx(by_layer.mean(), abs=1e-5)
    assert span.attributes[c.ATTENTION_ENTROPY_MIN] == pytest.approx(by_layer.min(), abs=1e-5)


def test_families_without_the_interface_say_so() -> None:
    """Bloom computes attention on its own: the status is `unsupported` with a reason, there is no series, tokens are recorded."""
    model = tiny_model("bloom")
    ids, mask = batch()
    with recorded() as spans:
        out = model.generate(ids, attention_mask=mask, max_new_tokens=10, do_sample=False)
    (span,) = spans.get_finished_spans()

    assert span.attributes[c.ATTENTION_STATUS] == "unsupported"
    assert "attention interface" in span.attributes[c.STATUS_REASON]
    assert c.ATTENTION_ENTROPY not in span.attributes
    assert c.ATTENTION_ENTROPY_MEAN not in span.attributes
    check(model, span, out, ids, mask, attention=False)


def test_encoder_decoder_counts_the_encoder_prompt() -> None:
    """T5: what is counted and recorded of the prompt is the encoder's, without padding."""
    model = tiny_model("t5")
    ids, mask = batch()
    with recorded() as spans:
        out = model.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=False)
    (span,) = spans.get_finished_spans()

    assert span.attributes[c.USAGE_INPUT_TOKENS] == int(mask.sum())
    assert (span.attributes[c.TOKENS_STATUS], span.attributes[c.ATTENTION_STATUS]) == ("recorded", "recorded")
    assert series(span, c.CROSS_ATTENTION_ENTROPY).shape == series(span, c.ATTENTION_ENTROPY).shape
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask, decoder_input_ids=out[:, :-1]).logits.log_softmax(-1)
    for i, length in enumerate(span.attributes[c.SEQUENCE_OUTPUT_TOKENS]):
        truth = -logits[i, :length].gather(-1, out[i, 1:1 + length, None])[:, 0]
        np.testing.assert_allclose(series(span, c.TOKEN_SURPRISAL, i), truth.numpy(), atol=1e-4)


@pytest.mark.parametrize("options", [
    {"prompt_lookup_num_tokens": 3}, {"prompt_lookup_num_tokens": 2, "do_sample": True},
], ids=lambda options: ",".join(options))
def test_drafts_count_only_where_they_were_accepted(options: dict[str, Any]) -> None:
    """Speculative decoding: values of accepted tokens alone, all of them right; how many drafts held is told."""
    model = tiny_model()
    ids, mask = batch(1, 9)
    with recorded() as spans:
        out = model.generate(ids, attention_mask=mask, max_new_tokens=15, **{"do_sample": False, **options})
    (span,) = spans.get_finished_spans()

    assert (span.attributes[c.TOKENS_STATUS], span.attributes[c.ATTENTION_STATUS]) == ("recorded", "recorded")
    assert span.attributes[c.DRAFTED_TOKENS] > 0
    check(model, span, out, ids, mask)


def test_what_is_not_exact_is_unsupported_and_still_counted() -> None:
    """A loop that returns other tokens than it was shown: no numbers rather than wrong ones; ids and counts stay exact."""
    model = tiny_model()
    ids, mask = batch(1, 9)

    def loop(model: Any, input_ids: Any, logits_processor: Any, stopping_criteria: Any, **rest: Any) -> Any:
        scores = model(input_ids).logits[:, -1].float()
        logits_processor(input_ids, scores)
        shown = torch.cat([input_ids, scores.argmax(-1, keepdim=True)], dim=1)
        stopping_criteria(shown, None)
        return torch.cat([input_ids, torch.tensor([[2 + (int(shown[0, -1]) == 2)]])], dim=1)

    with recorded() as spans:
        out = model.generate(ids, attention_mask=mask, max_new_tokens=15, do_sample=False, custom_generate=loop)
    (span,) = spans.get_finished_spans()

    assert span.attributes[c.TOKENS_STATUS] == "unsupported"
    assert span.attributes[c.ATTENTION_STATUS] == "unsupported"
    assert "other tokens than it showed" in span.attributes[c.STATUS_REASON]
    assert c.TOKEN_SURPRISAL not in span.attributes
    assert series(span, c.TOKEN_ID, 0).tolist() == out[0, 9:].tolist()
    assert span.attributes[c.USAGE_INPUT_TOKENS] == 9


def test_series_that_do_not_fit_are_left_out_and_named() -> None:
    """With little room tokens come first and the heads go; the status says `truncated` and the reason names what is missing."""
    model = tiny_model()
    ids, mask = batch(1)
    with recorded(series_bytes_max=1200) as spans:
        model.generate(ids, attention_mask=mask, max_new_tokens=20, min_new_tokens=20, do_sample=False)
    (span,) = spans.get_finished_spans()

    assert span.attributes[c.TOKENS_STATUS] == "recorded"
    assert span.attributes[c.ATTENTION_STATUS] == "truncated"
    assert c.ATTENTION_ENTROPY in span.attributes
    assert c.ATTENTION_ENTROPY_HEADS not in span.attributes
    assert c.ATTENTION_ENTROPY_HEADS in span.attributes[c.STATUS_REASON]
    assert "series_bytes_max" in span.attributes[c.STATUS_REASON]


def test_attention_can_be_switched_off() -> None:
    """`attention="off"`: status `off`, no series, tokens as before."""
    model = tiny_model()
    ids, mask = batch(1)
    with recorded(attention="off") as spans:
        model.generate(ids, attention_mask=mask, max_new_tokens=5, do_sample=False)
    (span,) = spans.get_finished_spans()

    assert span.attributes[c.ATTENTION_STATUS] == "off"
    assert c.ATTENTION_ENTROPY not in span.attributes
    assert span.attributes[c.TOKENS_STATUS] == "recorded"


def test_a_loop_of_the_programs_own_is_counted() -> None:
    """`custom_generate` as a function: signals are `unsupported`, tokens are counted from what comes back."""
    model = tiny_model()
    ids, mask = batch()

    def loop(model: Any, input_ids: Any, **rest: Any) -> Any:
        return torch.cat([input_ids, torch.tensor([[7, 8, 9], [7, 2, 0], [2, 0, 0]])], dim=1)

    with recorded() as spans:
        model.generate(ids, attention_mask=mask, custom_generate=loop, max_new_tokens=3)
    (span,) = spans.get_finished_spans()

    assert span.attributes[c.TOKENS_STATUS] == "unsupported"
    assert span.attributes[c.SEQUENCE_OUTPUT_TOKENS] == (3, 2, 1)
    assert span.attributes[c.USAGE_INPUT_TOKENS] == int(mask.sum())
    assert span.attributes[c.RESPONSE_FINISH_REASONS] == ("length", "stop", "stop")


class _Asking(StoppingCriteria):  # type: ignore[misc]
    """A criterion, and a streamer, that asks the same model about something else at every step."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def _ask(self) -> None:
        with torch.no_grad():
            self._model(input_ids=torch.tensor([[5, 6, 7, 8]] * 3))

    def __call__(self, ids: Any, scores: Any, **rest: Any) -> Any:
        self._ask()
        return torch.zeros(ids.shape[0], dtype=torch.bool)

    def put(self, value: Any) -> None:
        self._ask()

    def end(self) -> None:
        self._ask()


@pytest.mark.parametrize("place", ["criterion", "streamer"])
def test_a_criterion_or_streamer_may_run_the_model_itself(place: str) -> None:
    """Passes of the model outside of the loop's own are not heard: attention is that of the generation."""
    model = tiny_model()
    ids, mask = batch()
    asking = _Asking(model)
    options: dict[str, Any] = {"stopping_criteria": [asking]} if place == "criterion" else {"streamer": asking}
    ids, mask = (ids, mask) if place == "criterion" else (ids[:1], mask[:1])
    with recorded() as spans:
        out = model.generate(ids, attention_mask=mask, max_new_tokens=40, do_sample=False, **options)
    (span,) = spans.get_finished_spans()

    assert (span.attributes[c.TOKENS_STATUS], span.attributes[c.ATTENTION_STATUS]) == ("recorded", "recorded")
    check(model, span, out, ids, mask)


class _Ending(StoppingCriteria):  # type: ignore[misc]
    """Ends a sequence at any id that is 3 modulo 7."""

    def __call__(self, ids: Any, scores: Any, **rest: Any) -> Any:
        return ids[:, -1] % 7 == 3


def _ended_answer(row: list[int]) -> list[int]:
    """The ids up to the first that ends a sequence, from the rule alone."""
    ends = [i for i, token in enumerate(row) if token == 2 or token % 7 == 3]
    return row[:ends[0] + 1] if ends else row


@pytest.mark.parametrize("pad", [1, 0, 2])
@pytest.mark.parametrize("copies", [1, 3])
def test_beams_that_a_criterion_ended_are_cut_where_it_did(pad: int, copies: int) -> None:
    """Whatever the padding id, what fills a beam after its end is not counted, and the values are those of its tokens."""
    model = tiny_model(vocabulary=40)
    ids, mask = batch(vocabulary=40)
    with recorded() as spans:
        out = model.generate(
            ids, attention_mask=mask, max_new_tokens=20, num_beams=3, num_return_sequences=copies, do_sample=False,
            stopping_criteria=[_Ending()], pad_token_id=pad,
        )
    (span,) = spans.get_finished_spans()
    answers = [_ended_answer(row[9:].tolist()) for row in out]

    assert len({len(answer) for answer in answers}) > 1
    assert list(span.attributes[c.SEQUENCE_OUTPUT_TOKENS]) == [len(answer) for answer in answers]
    assert (span.attributes[c.TOKENS_STATUS], span.attributes[c.ATTENTION_STATUS]) == ("recorded", "recorded")
    wanted = ["length" if len(answer) == 20 and answer[-1] != 2 else "stop" for answer in answers]
    assert list(span.attributes[c.RESPONSE_FINISH_REASONS]) == wanted
    check(model, span, out, ids, mask)


def test_beams_that_were_not_traced_count_no_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the memory for candidates the signals are `unsupported`, and the counts still leave the filling out."""
    monkeypatch.setattr(beams_module, "_BEAM_BYTES_MAX", 100)
    model = tiny_model(vocabulary=40)
    ids, mask = batch(vocabulary=40)
    with recorded() as spans:
        out = model.generate(
            ids, attention_mask=mask, max_new_tokens=20, num_beams=3, do_sample=False, stopping_criteria=[_Ending()],
            pad_token_id=1,
        )
    (span,) = spans.get_finished_spans()

    assert span.attributes[c.TOKENS_STATUS] == "unsupported"
    answers = [_ended_answer(row[9:].tolist()) for row in out]
    assert list(span.attributes[c.SEQUENCE_OUTPUT_TOKENS]) == [len(answer) for answer in answers]


def test_logits_that_are_not_numbers_have_no_perplexity() -> None:
    """A model that answers NaN: perplexity is NaN, not infinite."""
    model = tiny_model()
    model.lm_head.weight.data[3] = float("nan")
    with recorded() as spans:
        model.generate(batch(1)[0], max_new_tokens=3, do_sample=False)
    (span,) = spans.get_finished_spans()

    assert np.isnan(span.attributes[c.OUTPUT_PERPLEXITY])
    assert np.isnan(span.attributes[c.SEQUENCE_PERPLEXITY]).all()


def test_a_prompt_that_is_hidden_whole_has_no_attention() -> None:
    """A row whose mask is all zeros has nothing to look at: attention is `unsupported`, tokens are recorded."""
    ids, mask = batch(2)
    mask[1] = 0
    with recorded() as spans:
        tiny_model().generate(ids, attention_mask=mask, max_new_tokens=3, do_sample=False)
    (span,) = spans.get_finished_spans()

    assert (span.attributes[c.TOKENS_STATUS], span.attributes[c.ATTENTION_STATUS]) == ("recorded", "unsupported")
    assert "hides the whole prompt" in span.attributes[c.STATUS_REASON]
