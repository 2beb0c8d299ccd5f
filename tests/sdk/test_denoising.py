"""A call of a diffusion pipeline as a span: what it holds, whose child it is, and what leaves only when asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode

import cutaway
from cutaway import conventions as c
from cutaway.testing import TickClock, recorded, series
from diffusion_helpers import seeded, stable_diffusion, unconditional

CALL: dict[str, Any] = {"num_inference_steps": 3, "output_type": "np"}


@pytest.fixture(scope="module")
def pipe() -> Any:
    return stable_diffusion()


def one_span(call: Callable[[], Any], **options: Any) -> ReadableSpan:
    """The only span of a call."""
    with recorded(clock=lambda device: TickClock(0.25), **options) as spans:
        call()
        (span,) = spans.get_finished_spans()
    return span


def outermost_first(spans: Any) -> list[ReadableSpan]:
    """They end in any order: each is finished off the calling thread."""
    return sorted(spans.get_finished_spans(), key=lambda span: span.parent is not None)


def test_the_span_says_what_was_asked_and_what_was_seen(pipe: Any) -> None:
    """Name, operation, model, seed, guidance, number of images, type of output, steps and their four series."""
    span = one_span(lambda: pipe("a cat", generator=seeded(11), num_images_per_prompt=2, guidance_scale=3, **CALL))

    held = dict(span.attributes or {})
    assert span.name == "generate_content someone/tiny-diffusion"
    expected = {
        c.OPERATION_NAME: "generate_content", c.PROVIDER_NAME: "huggingface", c.REQUEST_MODEL: "someone/tiny-diffusion",
        c.RESPONSE_MODEL: "someone/tiny-diffusion", c.REQUEST_SEED: 11, c.REQUEST_CHOICE_COUNT: 2, c.OUTPUT_TYPE: "image",
        c.DIFFUSION_PIPELINE: "StableDiffusionPipeline", c.DIFFUSION_STEPS: 3, c.DIFFUSION_GUIDANCE_SCALE: 3.0,
        c.DIFFUSION_STATUS: "recorded",
    }
    assert {name: held.get(name) for name in expected} == expected
    assert c.DIFFUSION_NONFINITE_STEP not in held
    assert c.STATUS_REASON not in held
    assert c.INPUT_MESSAGES not in held
    assert held[c.MACHINE_CPU_TIME] > 0  # type: ignore[operator]  # the attribute is a number by its convention
    assert series(span, c.DIFFUSION_STEP_TIME).tolist() == [0.25] * 3
    assert series(span, c.DIFFUSION_STEP_TIMESTEP).tolist() == [667.0, 334.0, 1.0]
    assert np.isfinite(series(span, c.DIFFUSION_LATENT_NORM)).all()
    assert series(span, c.DIFFUSION_LATENT_CHANGE).shape == (3,)


def test_the_span_is_a_child_of_the_traced_function(pipe: Any) -> None:
    """`@cutaway.trace` around a pipeline: its seed, conversation and trace hold inside."""
    @cutaway.trace(seed=4, conversation_id="talk")
    def paint() -> None:
        pipe("a cat", **CALL)

    with recorded() as spans:
        paint()
        outer, inner = outermost_first(spans)

    assert inner.parent is not None
    assert outer.context is not None
    assert inner.parent.span_id == outer.context.span_id
    assert (inner.attributes or {})[c.REQUEST_SEED] == 4
    assert (inner.attributes or {})[c.CONVERSATION_ID] == "talk"


@pytest.mark.parametrize("content", ["SPAN_ONLY", "EVENT_ONLY", "SPAN_AND_EVENT"])
def test_prompts_leave_when_text_is_asked_for(content: str, pipe: Any) -> None:
    """One message a prompt, on the span, on an event, or both."""
    span = one_span(lambda: pipe(["a cat", "a dog"], **CALL), capture="text", content=content)

    expected = [{"role": "user", "parts": [{"type": "text", "content": text}]} for text in ("a cat", "a dog")]
    on_span = (span.attributes or {}).get(c.INPUT_MESSAGES)
    on_events = [(event.attributes or {})[c.INPUT_MESSAGES] for event in span.events if event.name == c.CONTENT_EVENT]
    assert (on_span is not None, len(on_events)) == ("SPAN" in content, int("EVENT" in content))
    assert all(json.loads(str(each)) == expected for each in [on_span, *on_events] if each is not None)


def test_prompts_pass_the_redaction_hook(pipe: Any) -> None:
    """What the program's hook changes leaves as the hook left it, and the span says so nowhere in clear."""
    span = one_span(lambda: pipe("a cat", **CALL), capture="text", redact=lambda name, text: text.replace("cat", "***"))

    assert "a ***" in str((span.attributes or {})[c.INPUT_MESSAGES])
    assert "cat" not in str(dict(span.attributes or {}))


def test_a_failure_is_told_on_the_span(pipe: Any) -> None:
    """The host's exception passes; the span has its class, and the steps before it."""
    def fail(*args: Any) -> Any:
        raise OverflowError("too much")

    def call() -> None:
        with pytest.raises(OverflowError):
            pipe("a cat", callback_on_step_end=fail, **CALL)

    span = one_span(call)

    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})[c.ERROR_TYPE] == "OverflowError"
    assert (span.attributes or {})[c.DIFFUSION_STEPS] == 1


def test_a_pipeline_without_callback_says_so() -> None:
    """DDPMPipeline: the span, its status `unsupported` and the reason; no number that was not measured."""
    span = one_span(lambda: unconditional()(num_inference_steps=2, output_type="np"))

    held = span.attributes or {}
    assert span.name == "generate_content someone/tiny-ddpm"
    assert held[c.DIFFUSION_STATUS] == "unsupported"
    assert held[c.STATUS_REASON] == "step series: the pipeline has no callback_on_step_end"
    assert not {c.DIFFUSION_STEPS, *c.DIFFUSION_SERIES} & held.keys()


class Refining(StableDiffusionPipeline):  # type: ignore[misc]
    """Calls another pipeline inside."""

    def __call__(self, prompt: str, inner: Any, callback_on_step_end: Any = None) -> Any:
        return inner(prompt, callback_on_step_end=callback_on_step_end, **CALL)


def test_a_pipeline_inside_is_a_child(pipe: Any) -> None:
    """The inner call has the steps and is the child of the outer, which says where they are."""
    with recorded() as spans:
        stable_diffusion(Refining)("a cat", pipe)
        outer, inner = outermost_first(spans)

    assert inner.parent is not None
    assert outer.context is not None
    assert inner.parent.span_id == outer.context.span_id
    assert (inner.attributes or {})[c.DIFFUSION_STEPS] == 3
    assert (outer.attributes or {})[c.DIFFUSION_STATUS] == "unsupported"


def test_series_that_do_not_fit_are_left_out_aloud(pipe: Any) -> None:
    """Within `series_bytes_max` the first series of the table stay; status and reason tell of the rest."""
    span = one_span(lambda: pipe("a cat", **CALL), series_bytes_max=2 * (c.SERIES_HEADER.size + 3 * 4))

    held = span.attributes or {}
    assert {name for name in c.DIFFUSION_SERIES if name in held} == {c.DIFFUSION_STEP_TIME, c.DIFFUSION_STEP_TIMESTEP}
    assert held[c.DIFFUSION_STATUS] == "truncated"
    assert c.DIFFUSION_LATENT_NORM in str(held[c.STATUS_REASON])


def test_a_providers_attribute_limit_is_told(pipe: Any) -> None:
    """A provider that takes few attributes: series go first, and the status does not claim them."""
    memory = InMemorySpanExporter()
    provider = TracerProvider(span_limits=SpanLimits(max_span_attributes=12))
    provider.add_span_processor(SimpleSpanProcessor(memory))
    with recorded():
        cutaway.configure(tracer_provider=provider)
        pipe("a cat", **CALL)
        cutaway.flush()
    (span,) = memory.get_finished_spans()

    held = span.attributes or {}
    assert not set(c.DIFFUSION_SERIES) & held.keys()
    assert held.get(c.DIFFUSION_STATUS, "truncated") == "truncated"
    assert held[c.OPERATION_NAME] == "generate_content"


def test_what_is_not_sampled_is_not_heard(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a recording span the pipeline runs bare: no callback of ours is put in."""
    given: list[Any] = []

    class Bare(StableDiffusionPipeline):  # type: ignore[misc]
        def __call__(self, prompt: str, callback_on_step_end: Any = None) -> None:
            given.append(callback_on_step_end)

    with recorded():
        cutaway.configure(tracer_provider=TracerProvider(sampler=ALWAYS_OFF))
        stable_diffusion(Bare)("a cat")

    assert given == [None]


def test_uninstrument_puts_pipelines_back() -> None:
    """After `uninstrument` the class has its own method again."""
    before = StableDiffusionPipeline.__call__
    cutaway.instrument()
    during = StableDiffusionPipeline.__call__
    cutaway.uninstrument()

    assert during is not before
    assert StableDiffusionPipeline.__call__ is before


def test_a_fault_of_ours_leaves_a_span(pipe: Any, monkeypatch: pytest.MonkeyPatch, unguarded: Callable[[], None]) -> None:
    """Should collecting fail, the host gets its images and the span says `error`."""
    from cutaway.diffusion import recorder

    def fault(*args: Any) -> Any:
        raise RuntimeError("ours")

    unguarded()
    bare = pipe("a cat", generator=seeded(), **CALL).images
    monkeypatch.setattr(recorder, "_fetch", fault)
    found: list[Any] = []
    span = one_span(lambda: found.append(pipe("a cat", generator=seeded(), **CALL).images))

    assert np.array_equal(found[0], bare)
    assert (span.attributes or {})[c.DIFFUSION_STATUS] == "error"
    assert (span.attributes or {})[c.STATUS_REASON] == "a fault in cutaway (RuntimeError)"
