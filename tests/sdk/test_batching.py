"""Continuous batching: one span a call, a sequence a request, and nothing claimed that its outputs do not say."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

import cutaway
from cutaway import conventions as c
from cutaway import generation as flow
from cutaway.record import BatchRecorder
from cutaway.steps import Answer
from cutaway.tap import batching
from cutaway.testing import recorded, series, tiny_model

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12], [13, 14]]


def small(**options: Any) -> Any:
    """A configuration of continuous batching that fits a test's memory."""
    return ContinuousBatchingConfig(num_blocks=64, max_batch_tokens=64, **options)


def asked(**options: Any) -> Any:
    """A generation configuration: greedy, at most 6 tokens, as `tiny_model` ends."""
    return GenerationConfig(**{"do_sample": False, "max_new_tokens": 6, "eos_token_id": 2, **options})


def generate(model: Any, inputs: list[list[int]] | None = None, more: dict[str, Any] | None = None, **options: Any) -> Any:
    """(outputs, span) of one call of `generate_batch`; `more` goes to the call, the rest to its configuration."""
    with recorded() as spans:
        outputs = model.generate_batch(PROMPTS if inputs is None else inputs, generation_config=asked(**options),
                                       **{"continuous_batching_config": small(), **(more or {})})
    (span,) = spans.get_finished_spans()
    return outputs, span


@pytest.mark.parametrize("kernel", ["eager", "sdpa", "paged|eager"])
def test_a_sequence_for_each_request(kernel: str) -> None:
    """Counts, ids and finish reasons of every request, in the order of the inputs, whatever kernel runs."""
    model = tiny_model()
    model.set_attn_implementation(kernel)
    outputs, span = generate(model)
    answers = [output.generated_tokens for output in outputs.values()]

    assert span.name == "text_completion tiny-llama"
    assert span.attributes[c.DECODING_MODE] == "continuous_batching"
    assert list(span.attributes[c.SEQUENCE_INPUT_TOKENS]) == [3, 5, 2]
    assert list(span.attributes[c.SEQUENCE_OUTPUT_TOKENS]) == [len(answer) for answer in answers]
    assert [series(span, c.TOKEN_ID, i).tolist() for i in range(3)] == answers
    assert list(span.attributes[c.RESPONSE_FINISH_REASONS]) == ["stop" if answer[-1] == 2 else "length" for answer in answers]
    assert span.attributes[c.USAGE_INPUT_TOKENS] == 10
    assert span.attributes[c.REQUEST_MAX_TOKENS] == 6
    assert span.status.is_unset


def test_an_end_id_is_a_stop() -> None:
    """An answer that ends with an end id stopped, also at the limit; one that was cut off did not."""
    model = tiny_model()
    free, _ = generate(model)
    ends = [next(iter(free.values())).generated_tokens[2], list(free.values())[1].generated_tokens[5]]
    outputs, span = generate(model, eos_token_id=ends)
    answers = [output.generated_tokens for output in outputs.values()]

    assert [answer[-1] in ends for answer in answers] == [reason == "stop" for reason in span.attributes[c.RESPONSE_FINISH_REASONS]]
    assert span.attributes[c.SEQUENCE_OUTPUT_TOKENS][0] == 3
    assert list(span.attributes[c.RESPONSE_FINISH_REASONS])[:2] == ["stop", "stop"]


def test_log_probabilities_are_those_of_the_drawn_distribution() -> None:
    """With `return_logprobs`: -log p after temperature and top-k, as a replay gives it; raw signals are still not claimed."""
    model = tiny_model()
    outputs, span = generate(model, more={"continuous_batching_config": small(return_logprobs=True, seed=5)},
                             do_sample=True, temperature=0.7, top_k=5)
    for i, output in enumerate(outputs.values()):
        ids = torch.tensor([output.prompt_ids + output.generated_tokens])
        with torch.no_grad():
            scores = model(ids).logits[0, len(output.prompt_ids) - 1:-1].double() / 0.7
        kept = scores.where(scores >= scores.topk(5).values[:, -1:], -torch.inf)
        expected = -kept.log_softmax(-1).gather(-1, ids[0, len(output.prompt_ids):, None])[:, 0]
        np.testing.assert_allclose(series(span, c.TOKEN_SAMPLED_SURPRISAL, i), expected, atol=1e-4)

    assert c.TOKEN_SURPRISAL not in span.attributes
    assert span.attributes[c.TOKENS_STATUS] == "unsupported"
    assert span.attributes[c.REQUEST_TEMPERATURE] == pytest.approx(0.7)


def test_times_are_those_of_the_outputs() -> None:
    """With `record_timestamps`: the time between tokens is the difference of the outputs' own times."""
    outputs, span = generate(tiny_model(), more={"record_timestamps": True})
    firsts = []
    for i, output in enumerate(outputs.values()):
        between = series(span, c.TOKEN_INTER_TOKEN_TIME, i)
        np.testing.assert_allclose(between[1:], np.diff(output.timestamps)[:len(between) - 1], rtol=1e-3)
        firsts.append(between[0])

    assert min(firsts) > 0
    assert span.attributes[c.TIME_TO_FIRST_TOKEN] == pytest.approx(min(firsts), rel=1e-5)
    assert c.TIME_PER_OUTPUT_TOKEN not in span.attributes


def test_nothing_is_claimed_that_nobody_asked_for() -> None:
    """Without those options there is no series but the ids, and the reason names the options."""
    outputs, span = generate(tiny_model())

    assert [name for name in (*c.TOKEN_SERIES, *c.ATTENTION_SERIES) if name in span.attributes] == [c.TOKEN_ID]
    assert (span.attributes[c.TOKENS_STATUS], span.attributes[c.ATTENTION_STATUS]) == ("unsupported", "unsupported")
    assert "return_logprobs" in span.attributes[c.STATUS_REASON]
    assert "paged cache" in span.attributes[c.STATUS_REASON]
    assert all(not output.logprobs and output.timestamps is None for output in outputs.values())


@pytest.mark.parametrize("sampling", [False, True])
def test_outputs_are_those_of_an_untraced_call(sampling: bool) -> None:
    """Tokens and log-probabilities bit for bit, and the state of the random generator, with and without cutaway."""
    model, config = tiny_model(), small(return_logprobs=True, seed=9)
    found = []
    for traced in (False, True):
        torch.manual_seed(4)
        with recorded(disabled=not traced):
            outputs = model.generate_batch(PROMPTS, generation_config=asked(do_sample=sampling), continuous_batching_config=config)
        found.append(([(o.generated_tokens, o.logprobs, o.prompt_ids) for o in outputs.values()], torch.get_rng_state().tolist()))

    assert found[0] == found[1]


def test_several_answers_to_each_prompt() -> None:
    """`num_return_sequences`: a sequence for each, and the prompt's tokens are used once."""
    outputs, span = generate(tiny_model(), do_sample=True, num_return_sequences=2)

    assert list(span.attributes[c.SEQUENCE_INPUT_TOKENS]) == [3, 3, 5, 5, 2, 2]
    assert span.attributes[c.USAGE_INPUT_TOKENS] == 10
    assert span.attributes[c.REQUEST_CHOICE_COUNT] == 2
    assert series(span, c.TOKEN_ID).tolist() == [token for output in outputs.values() for token in output.generated_tokens]


def test_generate_that_leaves_for_it_is_one_span() -> None:
    """`generate(cache_implementation="paged")` calls `generate_batch`: one span, with what that returned."""
    model = tiny_model()
    with recorded() as spans:
        out = model.generate(torch.tensor([[5, 6, 7], [8, 9, 10]]), cache_implementation="paged", do_sample=False, max_new_tokens=4,
                             continuous_batching_config=small())
    (span,) = spans.get_finished_spans()

    assert span.attributes[c.DECODING_MODE] == "continuous_batching"
    assert list(span.attributes[c.SEQUENCE_INPUT_TOKENS]) == [3, 3]
    assert [series(span, c.TOKEN_ID, i).tolist() for i in range(2)] == out[0, :, 3:].tolist()


def test_generate_that_fails_before_it_leaves() -> None:
    """What continuous batching refuses raises the same error, on a span that says so."""
    with recorded() as spans, pytest.raises(NotImplementedError):
        tiny_model().generate(torch.tensor([[5, 6, 7]]), cache_implementation="paged", assistant_model=object())
    (span,) = spans.get_finished_spans()

    assert span.attributes[c.ERROR_TYPE] == "NotImplementedError"
    assert list(span.attributes[c.RESPONSE_FINISH_REASONS]) == ["error"]
    assert list(span.attributes[c.SEQUENCE_INPUT_TOKENS]) == [3]


def test_a_call_that_raises_keeps_its_error() -> None:
    """The program's exception passes unchanged, and the requests that were asked for are counted as failed."""
    model = tiny_model()
    model.set_attn_implementation("flex_attention")
    with recorded() as spans, pytest.raises(ValueError, match="flex_attention"):
        model.generate_batch(PROMPTS, generation_config=asked(), continuous_batching_config=small())
    (span,) = spans.get_finished_spans()

    assert span.attributes[c.ERROR_TYPE] == "ValueError"
    assert list(span.attributes[c.RESPONSE_FINISH_REASONS]) == ["error"] * 3
    assert list(span.attributes[c.SEQUENCE_INPUT_TOKENS]) == [3, 5, 2]


def test_requests_that_fail_are_told_one_by_one() -> None:
    """The loop breaks in its third pass: the call returns, and the span says how far each request came and that it failed."""
    model, passes = tiny_model(), iter(range(100))

    def breaks(module: Any, args: Any) -> None:
        if next(passes) == 2:
            raise RuntimeError("secret")
    model.register_forward_pre_hook(breaks)
    outputs, span = generate(model)

    assert list(span.attributes[c.RESPONSE_FINISH_REASONS]) == ["error"] * 3
    assert [len(output.generated_tokens) for output in outputs.values()] == list(span.attributes[c.SEQUENCE_OUTPUT_TOKENS])
    assert not span.status.is_ok
    assert not span.status.is_unset
    assert span.attributes[c.ERROR_TYPE] == "request_failed"
    assert "3 of 3 requests failed" in span.attributes[c.STATUS_REASON]
    assert "secret" not in str(dict(span.attributes))


class _Output:
    """As transformers' GenerationOutput, with what a test wants to say."""

    def __init__(self, prompt: list[int], tokens: list[int], **more: Any) -> None:
        self.prompt_ids, self.generated_tokens = prompt, tokens
        self.error, self.logprobs, self.timestamps, self.status = None, [], None, None
        vars(self).update(more)


def told(outputs: list[Any]) -> list[Answer]:
    """The answers a listener is told when a batch of PROMPTS returns these outputs."""
    found: list[Answer] = []

    class Listener:
        def prepared(self, prepared: Any) -> None:
            assert prepared.rows == 3

        def answered(self, answers: list[Answer]) -> None:
            found.extend(answers)

        def fail(self, reason: str) -> None:
            raise AssertionError(reason)

    batch = batching._Batch(tiny_model(), {"inputs": PROMPTS, "generation_config": asked()}, Listener())
    batch.tell({f"req_{i}": output for i, output in enumerate(outputs)})
    return found


def test_a_lost_request_keeps_its_place() -> None:
    """An output that never came leaves a failed sequence in its place; the others stay in theirs."""
    answers = told([_Output([5, 6, 7], [4, 2]), _Output([13, 14], [9] * 6)])

    assert [(answer.input_tokens, answer.ids, answer.finish_reason) for answer in answers] == [
        (3, [4, 2], "stop"), (5, [], "error"), (2, [9] * 6, "length"),
    ]


def test_times_of_the_last_tokens_only() -> None:
    """A request that was begun again has no times for its first tokens: they are unknown, not guessed."""
    recorder = BatchRecorder(False, lambda: batching._prepared(tiny_model(), asked(), PROMPTS, 1, 6))
    recorder.answered([Answer(2, [7, 8, 9], "length", [], [2.0, 2.5]), Answer(1, [4], "stop", [], [1.0, 9.0])])
    recorder.stop()
    found = recorder.collect(recorder.count())

    np.testing.assert_array_equal(found.series[c.TOKEN_INTER_TOKEN_TIME], np.float32([np.nan, np.nan, 0.5, 1.0]))
    assert (found.first_token_s, found.last_token_s) == (1.0, 2.5)


@pytest.mark.slow
@pytest.mark.parametrize(("owner", "name"), [
    (batching._Batch, "_ask"), (batching._Batch, "_answers"), (batching._Batch, "_answer"), (batching, "_prepared"),
    (batching, "_padded"), (batching, "_ids"), (BatchRecorder, "prepared"), (BatchRecorder, "answered"), (BatchRecorder, "stop"),
    (BatchRecorder, "count"), (BatchRecorder, "collect"), (flow, "_batch_listener"),
], ids=lambda part: getattr(part, "__name__", part))
def test_a_fault_stays_inside(
    owner: Any, name: str, monkeypatch: pytest.MonkeyPatch, unguarded: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Any part of ours breaks: the program has the outputs of the bare call, one line is logged, the span ends and says why."""
    model = tiny_model()
    bare = [output.generated_tokens for output in model.generate_batch(
        PROMPTS, generation_config=asked(), continuous_batching_config=small()).values()]
    unguarded()
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, lambda *_, **__: 1 / 0)
        outputs, span = generate(model)

    assert [output.generated_tokens for output in outputs.values()] == bare
    assert span.attributes[c.TOKENS_STATUS] == "error"
    assert "ZeroDivisionError" in span.attributes[c.STATUS_REASON]
    ours = [record for record in caplog.records if record.levelno >= logging.WARNING and record.name.startswith("cutaway")]
    assert len(ours) == 1


def test_a_fault_in_sizing_costs_no_value(monkeypatch: pytest.MonkeyPatch, unguarded: Callable[[], None]) -> None:
    """Where the size of what is held cannot be told, the span is finished at once and holds all the same."""
    unguarded()
    monkeypatch.setattr(BatchRecorder, "held_bytes", lambda *_: 1 / 0)
    outputs, span = generate(tiny_model())

    assert [series(span, c.TOKEN_ID, i).tolist() for i in range(3)] == [output.generated_tokens for output in outputs.values()]


def test_no_input_is_no_sequence() -> None:
    """An empty batch returns at once: a span without sequences."""
    outputs, span = generate(tiny_model(), inputs=[])

    assert outputs == {}
    assert span.attributes[c.USAGE_OUTPUT_TOKENS] == 0


def test_managers_of_the_program_run_as_before() -> None:
    """Requests handed to a manager one by one: the same tokens, and no span."""
    model, found = tiny_model(), []
    for traced in (False, True):
        with recorded(disabled=not traced) as spans:
            manager = model.init_continuous_batching(generation_config=asked(), continuous_batching_config=small())
            manager.start()
            try:
                names = [manager.add_request(prompt, request_id=f"r{i}", max_new_tokens=6) for i, prompt in enumerate(PROMPTS)]
                results = [manager.get_result(timeout=60) for _ in names]
            finally:
                manager.stop(block=True)
        assert spans.get_finished_spans() == ()
        found.append({result.request_id: result.generated_tokens for result in results})

    assert found[0] == found[1]
    assert set(found[0]) == {"r0", "r1", "r2"}


def test_a_manager_that_is_kept_is_heard_again() -> None:
    """`persistent_manager`: the second batch has a span too, with its own requests."""
    model = tiny_model()
    with recorded() as spans:
        for prompts in (PROMPTS, PROMPTS[:1]):
            model.generate_batch(prompts, generation_config=asked(), continuous_batching_config=small(), persistent_manager=True)
        model.destroy_cached_continuous_batching_manager()
    first, second = spans.get_finished_spans()

    assert list(second.attributes[c.SEQUENCE_INPUT_TOKENS]) == [3]
    assert series(second, c.TOKEN_ID).tolist() == series(first, c.TOKEN_ID, 0).tolist()


def test_text_goes_with_the_span_when_asked_for() -> None:
    """Prompts and answers as text, prompts without their padding."""
    class Tokenizer:
        def decode(self, ids: Any, **_: Any) -> str:
            return " ".join(str(int(each)) for each in ids)

    with recorded(capture="text", tokenizer=Tokenizer()) as spans:
        outputs = tiny_model().generate_batch(PROMPTS, generation_config=asked(), continuous_batching_config=small())
    (span,) = spans.get_finished_spans()

    for prompt, output in zip(PROMPTS, outputs.values(), strict=True):
        assert f'"content":"{" ".join(map(str, prompt))}"' in span.attributes[c.INPUT_MESSAGES]
        assert " ".join(map(str, output.generated_tokens)) in span.attributes[c.OUTPUT_MESSAGES]


def test_prompt_surprisal_of_a_batch() -> None:
    """The second pass over the prompts works here as elsewhere: the values of a full forward pass of each."""
    model = tiny_model()
    with recorded(prompt_surprisal=True) as spans:
        config = asked(num_return_sequences=2, do_sample=True)
        model.generate_batch(PROMPTS, generation_config=config, continuous_batching_config=small())
    (span,) = spans.get_finished_spans()
    values = np.split(series(span, c.PROMPT_SURPRISAL), [3, 8])

    assert list(span.attributes[c.PROMPT_TOKENS]) == [3, 5, 2]
    for prompt, got in zip(PROMPTS, values, strict=True):
        ids = torch.tensor(prompt)
        with torch.no_grad():
            expected = torch.nn.functional.cross_entropy(model(ids[None]).logits[0, :-1], ids[1:], reduction="none")
        np.testing.assert_allclose(got[1:], expected.numpy(), atol=1e-4)


def test_the_method_is_put_back() -> None:
    """`uninstrument` restores it; a patch somebody put on top survives, and ours below it passes through."""
    owner = batching.owner()
    assert owner is not None
    original = vars(owner)["generate_batch"]
    with recorded():
        assert vars(owner)["generate_batch"] is not original
    assert vars(owner)["generate_batch"] is original

    calls: list[int] = []
    try:
        with recorded() as spans:
            ours = vars(owner)["generate_batch"]

            def theirs(self: Any, *args: Any, **kwargs: Any) -> Any:
                calls.append(1)
                return ours(self, *args, **kwargs)
            owner.generate_batch = theirs
        assert vars(owner)["generate_batch"] is theirs
        cutaway.uninstrument()
        assert tiny_model().generate_batch([], generation_config=asked()) == {}
        assert calls == [1]
        assert spans.get_finished_spans() == ()
    finally:
        owner.generate_batch = original
