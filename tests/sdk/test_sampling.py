"""Head sampling: the standard variables decide, parents are followed, and what is not sampled is not worked on."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from opentelemetry import trace as otel
from opentelemetry.sdk.trace import TracerProvider, sampling
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import cutaway
from cutaway.testing import recorded, tiny_model
from sdk_helpers import batch

WORKING = ("cutaway.record", "cutaway.measure", "cutaway.encode", "cutaway.content", "cutaway.redaction", "cutaway.machine")
"""Modules that have work to do only when somebody will see the span."""

NAMING = "cutaway.redaction.valid"
"""Makes the span's name one that can be sent; a sampler may ask for the name."""


@contextmanager
def calls() -> Iterator[Counter[str]]:
    """Counts calls of Python functions by module and name, in every thread."""
    found: Counter[str] = Counter()

    def heard(frame: Any, event: str, arg: Any) -> None:
        if event == "call":
            found[f"{frame.f_globals.get('__name__', '')}.{frame.f_code.co_name}"] += 1

    before = sys.getprofile()
    threading.setprofile(heard)
    sys.setprofile(heard)
    try:
        yield found
    finally:
        sys.setprofile(before)
        threading.setprofile(None)  # type: ignore[arg-type]  # None is how a profile function is taken away


def of_ours(found: Counter[str]) -> int:
    return sum(count for name, count in found.items() if name.startswith(WORKING) and name != NAMING)


def generate(model: Any = None, **options: Any) -> Any:
    return (model or tiny_model()).generate(batch(1)[0], max_new_tokens=4, do_sample=False, **options)


@pytest.mark.parametrize(("sampler", "argument", "spans_of_100"), [
    ("always_on", "", 100), ("always_off", "", 0), ("traceidratio", "0", 0), ("traceidratio", "1", 100),
    ("parentbased_traceidratio", "0", 0), ("parentbased_always_on", "", 100), ("parentbased_always_off", "", 0),
])
def test_the_standard_variables_choose_the_sampler(
    sampler: str, argument: str, spans_of_100: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG mean what they mean everywhere."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    with recorded() as spans:
        for _ in range(100):
            with cutaway.span("work"):
                pass

    assert len(spans.get_finished_spans()) == spans_of_100


def test_a_ratio_keeps_whole_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A share of the traces, each with all of its spans: a parent and its generation come together or not at all."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    model = tiny_model()
    with recorded() as spans:
        for _ in range(40):
            with cutaway.span("request"):
                generate(model)
    sizes = Counter(span.context.trace_id for span in spans.get_finished_spans())

    assert 0 < len(sizes) < 40
    assert set(sizes.values()) == {2}


def test_an_unsampled_generation_is_not_worked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one function that records, measures, decodes or encodes is called; the same call sampled has many."""
    model = tiny_model()
    with recorded(capture="text"), calls() as sampled:
        generate(model)
        cutaway.flush()
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    with recorded(capture="text") as spans, calls() as unsampled:
        answer = generate(model)

    assert of_ours(sampled) > 10
    assert of_ours(unsampled) == 0
    assert spans.get_finished_spans() == ()
    assert torch.equal(answer, generate(model))


def test_an_unsampled_generation_keeps_no_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step's scores are free again as soon as transformers lets go of them."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    seen: list[weakref.ref[Any]] = []
    alive: list[int] = []

    def watch(ids: Any, scores: Any) -> Any:
        alive.append(sum(known() is not None for known in seen))
        own = scores.clone()
        seen.append(weakref.ref(own))
        return own

    with recorded():
        generate(logits_processor=[watch])
    gc.collect()

    assert max(alive) <= 1
    assert [known for known in seen if known() is not None] == []


class First(sampling.Sampler):
    """Drops the first root span and keeps every other one."""

    def __init__(self) -> None:
        self.asked = 0

    def should_sample(self, *arguments: Any, **more: Any) -> sampling.SamplingResult:
        self.asked += 1
        return sampling.SamplingResult(sampling.Decision.DROP if self.asked == 1 else sampling.Decision.RECORD_AND_SAMPLE)

    def get_description(self) -> str:
        return "First"


@pytest.mark.parametrize("outer", ["function", "generation"])
def test_what_happens_inside_an_unsampled_span_is_unsampled(outer: str) -> None:
    """A generation inside an unsampled function, or inside an unsampled generation (a streamer that asks another model)."""
    memory, root = InMemorySpanExporter(), First()
    provider = TracerProvider(sampler=sampling.ParentBased(root))
    provider.add_span_processor(SimpleSpanProcessor(memory))
    inner = tiny_model(seed=1)

    class Asking:
        def put(self, value: Any) -> None:
            generate(inner)

        def end(self) -> None: ...

    runs: dict[str, Callable[[], Any]] = {
        "function": cutaway.trace(lambda: generate(inner)), "generation": lambda: generate(streamer=Asking())}
    cutaway.configure(tracer_provider=provider)
    cutaway.instrument()
    try:
        runs[outer]()
        assert root.asked == 1
        generate(inner)
    finally:
        cutaway.uninstrument()
        cutaway.shutdown()

    assert root.asked == 2
    assert len(memory.get_finished_spans()) == 1


@pytest.mark.parametrize("sampled", [True, False])
def test_a_remote_parent_decides(sampled: bool) -> None:
    """The caller's flag, from another process, decides for the generation."""
    flags = otel.TraceFlags(otel.TraceFlags.SAMPLED if sampled else otel.TraceFlags.DEFAULT)
    remote = otel.NonRecordingSpan(otel.SpanContext(0xA1, 0xB2, is_remote=True, trace_flags=flags))
    with recorded() as spans, otel.use_span(remote):
        generate()
    finished = spans.get_finished_spans()

    assert [span.context.trace_id for span in finished] == ([0xA1] if sampled else [])


def test_nothing_is_worked_on_when_switched_off() -> None:
    """`disabled=True`: the same silence as unsampled."""
    with recorded(disabled=True) as spans, calls() as found:
        generate()

    assert of_ours(found) == 0
    assert spans.get_finished_spans() == ()
