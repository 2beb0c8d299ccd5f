"""What a call of `generate` leaves behind: the same output as before, one span with exact counts, and no trace on the model."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from opentelemetry import trace as otel
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from transformers import GenerationMixin
from transformers.generation.streamers import BaseStreamer
from transformers.modeling_utils import AttentionInterface

import cutaway
from cutaway import conventions as c
from cutaway.testing import CountingIds, TickClock, recorded, series, tiny_model
from sdk_helpers import batch

MODES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sample": {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "top_k": 20},
    "several": {"do_sample": True, "num_return_sequences": 3},
    "beams": {"num_beams": 3},
    "processors": {"do_sample": True, "repetition_penalty": 1.3, "no_repeat_ngram_size": 3},
    "scores": {"do_sample": True, "return_dict_in_generate": True, "output_scores": True, "output_logits": True},
    "lookup": {"prompt_lookup_num_tokens": 2},
}


class Collecting(BaseStreamer):  # type: ignore[misc]
    """A streamer that keeps what it was given."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.given: list[list[int]] = []
        self.ended = False
        self._fail_after = fail_after

    def put(self, value: Any) -> None:
        self.given.append(value.reshape(-1).tolist())
        if self._fail_after is not None and len(self.given) > self._fail_after:
            raise ConnectionResetError("the reader went away")

    def end(self) -> None:
        self.ended = True


def ids_of(result: Any) -> Any:
    return result if isinstance(result, torch.Tensor) else result.sequences


@pytest.mark.parametrize("mode", MODES)
def test_output_is_bit_identical_with_and_without(mode: str) -> None:
    """Under one seed the instrumented call returns the same type and the same ids, and draws the same random numbers."""
    model = tiny_model()
    ids, mask = batch(1 if mode == "lookup" else 3)
    torch.manual_seed(3)
    bare = model.generate(ids, attention_mask=mask, max_new_tokens=40, **MODES[mode])
    random_after = torch.random.get_rng_state()
    torch.manual_seed(3)
    with recorded():
        heard = model.generate(ids, attention_mask=mask, max_new_tokens=40, **MODES[mode])

    assert type(heard) is type(bare)
    assert torch.equal(ids_of(heard), ids_of(bare))
    assert torch.equal(torch.random.get_rng_state(), random_after)


def test_returned_scores_and_logits_are_the_same() -> None:
    """Scores, logits and the cache asked for by the caller are untouched."""
    model = tiny_model()
    ids, mask = batch()
    torch.manual_seed(3)
    bare = model.generate(ids, attention_mask=mask, max_new_tokens=20, **MODES["scores"])
    torch.manual_seed(3)
    with recorded():
        heard = model.generate(ids, attention_mask=mask, max_new_tokens=20, **MODES["scores"])

    for name in ("scores", "logits"):
        assert all(torch.equal(a, b) for a, b in zip(bare[name], heard[name], strict=True))
    assert heard.past_key_values.get_seq_length() == bare.past_key_values.get_seq_length()


def test_one_call_is_one_span_with_its_name_kind_and_scope() -> None:
    """Name `{operation} {model}`, kind INTERNAL, scope `cutaway` with the schema URL."""
    model = tiny_model()
    with recorded() as spans:
        model.generate(batch(1)[0], max_new_tokens=3, do_sample=False)
    (span,) = spans.get_finished_spans()

    assert span.name == "text_completion tiny-llama"
    assert span.kind is otel.SpanKind.INTERNAL
    assert (span.instrumentation_scope.name, span.instrumentation_scope.schema_url) == (c.SCOPE_NAME, c.SCHEMA_URL)
    assert span.attributes[c.PROVIDER_NAME] == "huggingface"
    assert span.attributes[c.REQUEST_MODEL] == span.attributes[c.RESPONSE_MODEL] == "tiny-llama"


def test_every_attribute_is_in_the_table() -> None:
    """Nothing leaves under a name that the conventions do not list; what they promise `always` is there."""
    model = tiny_model()
    with recorded() as spans:
        model.generate(batch(1)[0], max_new_tokens=3, do_sample=True)
    (span,) = spans.get_finished_spans()
    known = {attribute.name for attribute in c.ATTRIBUTES}

    assert set(span.attributes) <= known
    assert {attribute.name for attribute in c.ATTRIBUTES if attribute.level == "always"} <= set(span.attributes)


def test_padding_is_not_counted() -> None:
    """Input tokens come from the attention mask, row by row; each row of the prompt counts once."""
    model = tiny_model()
    ids, mask = batch()
    with recorded() as spans:
        model.generate(ids, attention_mask=mask, max_new_tokens=4, do_sample=True, num_return_sequences=2)
    (span,) = spans.get_finished_spans()

    assert span.attributes[c.USAGE_INPUT_TOKENS] == 9 + 7 + 5
    assert span.attributes[c.SEQUENCE_INPUT_TOKENS] == (9, 9, 7, 7, 5, 5)
    assert span.attributes[c.REQUEST_CHOICE_COUNT] == 2
    assert len(span.attributes[c.SEQUENCE_OUTPUT_TOKENS]) == 6


def test_a_pad_token_that_ends_sequences_too_is_counted_once() -> None:
    """Where padding and end of sequence share an id, the first one ends the sequence and the rest are padding."""
    model = tiny_model(vocabulary=25)
    model.generation_config.pad_token_id = 2
    ids, mask = batch(vocabulary=25)
    torch.manual_seed(4)
    with recorded() as spans:
        out = model.generate(ids, attention_mask=mask, max_new_tokens=80, do_sample=True, top_k=0)
    (span,) = spans.get_finished_spans()
    answers = [row[9:].tolist() for row in out]
    lengths = [answer.index(2) + 1 if 2 in answer else len(answer) for answer in answers]

    assert len(set(lengths)) > 1
    assert list(span.attributes[c.SEQUENCE_OUTPUT_TOKENS]) == lengths
    assert list(span.attributes[c.RESPONSE_FINISH_REASONS]) == ["stop" if 2 in answer else "length" for answer in answers]


def test_a_token_limit_is_the_reason_length() -> None:
    """Without an end-of-sequence token within the limit every sequence ends by `length`."""
    model = tiny_model()
    ids, mask = batch()
    with recorded() as spans:
        model.generate(ids, attention_mask=mask, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    (span,) = spans.get_finished_spans()

    assert span.attributes[c.RESPONSE_FINISH_REASONS] == ("length",) * 3
    assert span.attributes[c.REQUEST_MAX_TOKENS] == 6


def test_times_follow_the_clock() -> None:
    """A clock that ticks once a step: first token after one tick, then one tick a token."""
    model = tiny_model()
    with recorded(clock=lambda device: TickClock(0.25)) as spans:
        model.generate(batch(1)[0], max_new_tokens=5, min_new_tokens=5, do_sample=False)
    (span,) = spans.get_finished_spans()

    assert span.attributes[c.TIME_TO_FIRST_TOKEN] == 0.25
    assert span.attributes[c.TIME_PER_OUTPUT_TOKEN] == 0.25
    assert series(span, c.TOKEN_INTER_TOKEN_TIME).tolist() == [0.25] * 5


def test_streaming_is_seen_and_not_disturbed() -> None:
    """The streamer gets the same tokens; the span says so and gives the time of the first chunk."""
    model = tiny_model()
    ids = batch(1)[0]
    bare, heard = Collecting(), Collecting()
    model.generate(ids, max_new_tokens=10, do_sample=False, streamer=bare)
    with recorded() as spans:
        model.generate(ids, max_new_tokens=10, do_sample=False, streamer=heard)
    (span,) = spans.get_finished_spans()

    assert (heard.given, heard.ended) == (bare.given, True)
    assert span.attributes[c.REQUEST_STREAM] is True
    assert span.attributes[c.RESPONSE_TIME_TO_FIRST_CHUNK] > 0


def test_an_exception_in_generate_passes_and_marks_the_span() -> None:
    """The very exception object reaches the caller; the span has status, type, event, reason `error` and what was heard before."""
    model = tiny_model()
    with recorded() as spans, pytest.raises(ConnectionResetError) as caught:
        model.generate(batch(1)[0], max_new_tokens=10, min_new_tokens=10, do_sample=False, streamer=Collecting(fail_after=3))
    (span,) = spans.get_finished_spans()

    assert caught.value.args == ("the reader went away",)
    assert span.status.status_code is otel.StatusCode.ERROR
    assert span.attributes[c.ERROR_TYPE] == "ConnectionResetError"
    assert [event.name for event in span.events if event.name != c.EVALUATION_EVENT] == ["exception"]
    assert span.attributes[c.RESPONSE_FINISH_REASONS] == ("error",)
    assert span.attributes[c.USAGE_OUTPUT_TOKENS] == len(series(span, c.TOKEN_SURPRISAL)) == 3


def test_a_call_that_never_begins_is_a_failed_span() -> None:
    """An argument transformers refuses: its own error passes, the span tells that generation never began."""
    model = tiny_model()
    with recorded() as spans, pytest.raises(ValueError, match="not_an_argument"):
        model.generate(batch(1)[0], not_an_argument=1)
    (span,) = spans.get_finished_spans()

    assert span.attributes[c.ERROR_TYPE] == "ValueError"
    assert span.attributes[c.RESPONSE_FINISH_REASONS] == ("error",)
    assert span.attributes[c.USAGE_OUTPUT_TOKENS] == 0


def test_uninstrument_puts_everything_back() -> None:
    """The patched methods are the original objects again, twice instrumented or not."""
    before = (GenerationMixin.generate, GenerationMixin._get_logits_processor, AttentionInterface.get_interface)
    with recorded():
        cutaway.instrument()
        assert GenerationMixin.generate is not before[0]
    after = (GenerationMixin.generate, GenerationMixin._get_logits_processor, AttentionInterface.get_interface)

    assert after == before
    cutaway.uninstrument()
    assert GenerationMixin.generate is before[0]


def test_the_model_and_the_arguments_stay_as_they_were() -> None:
    """No hook, no attribute, no changed configuration on the model; lists of the caller keep their members."""
    from transformers import LogitsProcessorList, StoppingCriteriaList
    from transformers.generation import MaxLengthCriteria, TemperatureLogitsWarper

    model = tiny_model()
    processors, criteria = LogitsProcessorList([TemperatureLogitsWarper(0.7)]), StoppingCriteriaList([MaxLengthCriteria(14)])
    config, keys = copy.deepcopy(model.generation_config), set(vars(model))
    with recorded():
        model.generate(batch(1)[0], logits_processor=processors, stopping_criteria=criteria, max_new_tokens=3, do_sample=False)

    assert model.generation_config == config
    assert set(vars(model)) == keys
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert (len(processors), len(criteria)) == (1, 1)


def test_threads_on_one_model_do_not_mix() -> None:
    """Three threads generate at once from one model: three spans, each with its own length and its own signals."""
    model = tiny_model()
    prompts = [batch(1, seed=seed)[0] for seed in range(3)]
    alone = []
    for i in range(3):
        with recorded() as spans:
            model.generate(prompts[i], max_new_tokens=10 + i, min_new_tokens=10 + i, do_sample=False)
        alone.append(series(spans.get_finished_spans()[0], c.ATTENTION_ENTROPY).tolist())
    with recorded() as spans:
        threads = [
            threading.Thread(target=model.generate, args=(prompts[i],),
                             kwargs={"max_new_tokens": 10 + i, "min_new_tokens": 10 + i, "do_sample": False})
            for i in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    done = spans.get_finished_spans()
    found = {span.attributes[c.USAGE_OUTPUT_TOKENS]: series(span, c.ATTENTION_ENTROPY).tolist() for span in done}

    assert [found[10 + i] for i in range(3)] == alone


def test_a_generation_inside_a_generation_is_part_of_it() -> None:
    """A processor that asks a second model: one span, with the outer model's own numbers."""
    outer, inner = tiny_model(), tiny_model(seed=1)
    ids = batch(1)[0]

    def ask(input_ids: Any, scores: Any) -> Any:
        inner.generate(input_ids, max_new_tokens=2, do_sample=False)
        return scores

    with recorded() as spans:
        outer.generate(ids, max_new_tokens=8, do_sample=False)
        outer.generate(ids, max_new_tokens=8, do_sample=False, logits_processor=[ask])
    plain, nested = spans.get_finished_spans()

    assert series(nested, c.TOKEN_SURPRISAL).tolist() == series(plain, c.TOKEN_SURPRISAL).tolist()
    assert series(nested, c.ATTENTION_ENTROPY).tolist() == series(plain, c.ATTENTION_ENTROPY).tolist()


def test_an_assistant_is_part_of_the_call() -> None:
    """Assisted decoding: the assistant's own generations make no spans; the signals are those of the model that checks them."""
    model, assistant = tiny_model(), tiny_model(seed=1)
    with recorded() as spans:
        model.generate(batch(1)[0], max_new_tokens=8, do_sample=False)
        model.generate(batch(1)[0], max_new_tokens=8, do_sample=False, assistant_model=assistant)
    alone, span = spans.get_finished_spans()

    assert span.attributes[c.DECODING_MODE] == "assisted_generation"
    assert span.attributes[c.TOKENS_STATUS] == "recorded"
    assert series(span, c.TOKEN_SURPRISAL).tolist() == pytest.approx(series(alone, c.TOKEN_SURPRISAL).tolist(), abs=1e-4)


def test_an_unsampled_call_is_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_TRACES_SAMPLER=always_off: nothing is exported and nothing is measured."""
    from cutaway import measure

    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    monkeypatch.setattr(measure, "token_moments", None)
    with recorded() as spans:
        tiny_model().generate(batch(1)[0], max_new_tokens=3, do_sample=False)

    assert spans.get_finished_spans() == ()


def test_a_given_provider_is_used_and_the_global_one_left_alone() -> None:
    """`configure(tracer_provider=...)`: spans end there; the global provider is never set."""
    before = otel.get_tracer_provider()
    memory = InMemorySpanExporter()
    provider = TracerProvider(id_generator=CountingIds())
    provider.add_span_processor(SimpleSpanProcessor(memory))
    with recorded():
        cutaway.configure(tracer_provider=provider)
        with provider.get_tracer("host").start_as_current_span("request"):
            tiny_model().generate(batch(1)[0], max_new_tokens=3, do_sample=False)
        assert cutaway.flush()
    inner, outer = sorted(memory.get_finished_spans(), key=lambda span: span.end_time)

    assert otel.get_tracer_provider() is before
    assert inner.parent is not None
    assert inner.parent.span_id == outer.context.span_id
    assert inner.context.trace_id == outer.context.trace_id == 1


def test_a_fault_of_ours_never_reaches_the_host(monkeypatch: pytest.MonkeyPatch, unguarded: Callable[[], None]) -> None:
    """Measuring breaks: the output is as without us, the span says `error`, and the fault is logged once."""
    from cutaway import measure

    model = tiny_model()
    ids = batch(1)[0]
    bare = model.generate(ids, max_new_tokens=6, do_sample=False)
    monkeypatch.setattr(measure, "token_moments", lambda *given: 1 / 0)
    unguarded()
    with recorded() as spans:
        out = model.generate(ids, max_new_tokens=6, do_sample=False)
    (span,) = spans.get_finished_spans()

    assert torch.equal(out, bare)
    assert span.attributes[c.TOKENS_STATUS] == span.attributes[c.ATTENTION_STATUS] == "error"
    assert "ZeroDivisionError" in span.attributes[c.STATUS_REASON]
    assert span.attributes[c.USAGE_OUTPUT_TOKENS] == bare.shape[1] - ids.shape[1]


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"attention": "off"}], ids=["greedy", "beams", "off"])
def test_nothing_of_ours_keeps_the_model_alive(options: dict[str, Any]) -> None:
    """`del model` frees the model at once after an instrumented call: no cycle of ours waits for the garbage collector."""
    model = tiny_model()
    alive = weakref.ref(model)
    ids, mask = batch()
    decoding = {name: value for name, value in options.items() if name != "attention"}
    gc.collect()
    gc.disable()
    try:
        with recorded(attention=options.get("attention")):
            model.generate(ids, attention_mask=mask, max_new_tokens=3, do_sample=False, **decoding)
        del model
        assert alive() is None
    finally:
        gc.enable()


def test_patches_of_others_outlive_ours(caplog: pytest.LogCaptureFixture) -> None:
    """Somebody who patched `generate` after us keeps their patch; ours below it makes no span, and can be installed anew."""
    before = GenerationMixin.__dict__["generate"]
    model, (ids, _) = tiny_model(), batch(1)
    called: list[str] = []
    with recorded():
        ours = GenerationMixin.generate

        def theirs(self: Any, *args: Any, **kwargs: Any) -> Any:
            called.append("theirs")
            return ours(self, *args, **kwargs)

        GenerationMixin.generate = theirs
    try:
        assert GenerationMixin.__dict__["generate"] is theirs
        assert "GenerationMixin.generate" in caplog.text
        with recorded() as spans:
            cutaway.uninstrument()
            model.generate(ids, max_new_tokens=3, do_sample=False)
            assert spans.get_finished_spans() == ()
            cutaway.instrument()
            model.generate(ids, max_new_tokens=3, do_sample=False)
        (span,) = spans.get_finished_spans()
        assert (span.attributes[c.TOKENS_STATUS], span.attributes[c.ATTENTION_STATUS]) == ("recorded", "recorded")
        assert called == ["theirs", "theirs"]
        assert GenerationMixin.__dict__["generate"] is theirs
    finally:
        GenerationMixin.generate = before


@pytest.mark.parametrize("limit", [14, 22, 128])
def test_a_small_attribute_limit_keeps_the_essentials(limit: int, caplog: pytest.LogCaptureFixture) -> None:
    """A provider that takes few attributes a span: series go first and the status says so, counts stay, nobody warns."""
    memory = InMemorySpanExporter()
    provider = TracerProvider(span_limits=SpanLimits(max_span_attributes=limit))
    provider.add_span_processor(SimpleSpanProcessor(memory))
    with recorded():
        cutaway.configure(tracer_provider=provider)
        tiny_model().generate(batch(1)[0], max_new_tokens=3, do_sample=True)
        assert cutaway.flush()
    (span,) = memory.get_finished_spans()
    found = span.attributes

    assert found[c.OPERATION_NAME] == "text_completion"
    assert found[c.REQUEST_MODEL] == "tiny-llama"
    assert found[c.USAGE_OUTPUT_TOKENS] == sum(found[c.SEQUENCE_OUTPUT_TOKENS])
    assert (c.TOKEN_SURPRISAL in found) == (limit == 128)
    assert found[c.TOKENS_STATUS] == found[c.ATTENTION_STATUS] == ("recorded" if limit == 128 else "truncated")
    assert limit == 128 or f"takes {limit} attributes" in found[c.STATUS_REASON]
    assert (span.dropped_attributes, caplog.text) == (0, "")
