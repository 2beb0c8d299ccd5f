"""The finishing thread: nothing is dropped, nothing waits for ever, and threads, forks and the end of a program do it no harm."""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from transformers import GenerationMixin
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface
from transformers.pipelines.text_generation import TextGenerationPipeline

import cutaway
from cutaway import configuration, worker
from cutaway import conventions as c
from cutaway.testing import recorded, series, tiny_model
from cutaway.worker import Worker
from sdk_helpers import batch

SECONDS = 60


@pytest.fixture
def stuck() -> Iterator[tuple[Worker, threading.Event]]:
    """A worker whose thread is busy until the event is set."""
    held, release = Worker("held"), threading.Event()
    begun = threading.Event()

    def wait() -> None:
        begun.set()
        release.wait(SECONDS)

    assert held.submit(wait, 0)
    assert begun.wait(SECONDS)
    yield held, release
    release.set()
    assert held.drain(SECONDS)


def test_jobs_run_in_their_order_on_one_thread() -> None:
    """One after another, off the submitting thread."""
    done: list[tuple[int, str]] = []
    mine = Worker("mine")
    for i in range(50):
        assert mine.submit(lambda i=i: done.append((i, threading.current_thread().name)), 1)  # type: ignore[misc]
    assert mine.drain(SECONDS)

    assert done == [(i, "mine") for i in range(50)]


def test_a_full_queue_refuses(stuck: tuple[Worker, threading.Event]) -> None:
    """By number: job JOBS_MAX + 1 is the caller's to do; after the others are done there is room again."""
    held, release = stuck
    taken = [held.submit(lambda: None, 1) for _ in range(worker.JOBS_MAX + 3)]

    assert taken == [True] * worker.JOBS_MAX + [False] * 3
    release.set()
    assert held.drain(SECONDS)
    assert held.submit(lambda: None, 1)


def test_memory_is_bounded(stuck: tuple[Worker, threading.Event]) -> None:
    """By bytes: what would pass BYTES_MAX is refused, but a single large one is taken, or nobody ever would."""
    held, release = stuck
    size = worker.BYTES_MAX // 4

    assert [held.submit(lambda: None, size) for _ in range(6)] == [True] * 4 + [False] * 2
    release.set()
    assert held.drain(SECONDS)
    assert held.submit(lambda: None, 10 * worker.BYTES_MAX)


def test_what_is_done_is_let_go() -> None:
    """A finished job and what it held are free at once, though the thread lives on."""
    class Load:
        pass

    load, mine = Load(), Worker("mine")
    alive = weakref.ref(load)
    gc.disable()
    try:
        assert mine.submit(lambda load=load: None, 1)  # type: ignore[misc]
        del load
        assert mine.drain(SECONDS)
        assert alive() is None
    finally:
        gc.enable()


def test_a_job_that_raises_harms_no_other(unguarded: Callable[[], None], caplog: pytest.LogCaptureFixture) -> None:
    """It is told once, and the next jobs are done on the same thread."""
    unguarded()
    done: list[int] = []
    mine = Worker("mine")
    for i in range(6):
        mine.submit(lambda i=i: done.append(6 // (i % 2)), 1)  # type: ignore[misc]
    assert mine.drain(SECONDS)

    assert done == [6, 6, 6]
    assert [record.getMessage() for record in caplog.records].count(
        "cutaway failed while finishing a span; the program goes on without it") == 1


def test_drain_ends_in_its_time(stuck: tuple[Worker, threading.Event]) -> None:
    """False while a job does not end; from within a job it does not wait for itself."""
    held, release = stuck
    assert held.drain(0) is False
    inside: list[bool] = []
    held.submit(lambda: inside.append(held.drain(SECONDS)), 1)
    release.set()
    assert held.drain(SECONDS)

    assert inside == [False]


def test_without_a_thread_the_caller_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system gives no thread, a generation is finished on its own: no span is lost."""
    def refused(self: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(configuration, "finisher", Worker("none"))
    with pytest.MonkeyPatch.context() as patch, recorded() as spans:
        patch.setattr(threading.Thread, "start", refused)
        tiny_model().generate(batch(1)[0], max_new_tokens=3, do_sample=False)
        ended = InMemorySpanExporter.get_finished_spans(spans)

    assert [span.attributes[c.TOKENS_STATUS] for span in ended] == ["recorded"]


def test_a_full_queue_makes_generations_finish_at_once(
    stuck: tuple[Worker, threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the thread is stuck and the queue is full, the span has ended when `generate` returns."""
    held, release = stuck
    while held.submit(lambda: None, 1):
        pass
    monkeypatch.setattr(configuration, "finisher", held)
    with recorded() as spans:
        tiny_model().generate(batch(1)[0], max_new_tokens=3, do_sample=False)
        ended = InMemorySpanExporter.get_finished_spans(spans)
        release.set()

    assert [span.attributes[c.TOKENS_STATUS] for span in ended] == ["recorded"]


PENDING = """
import os, signal, sys, threading
import cutaway
from cutaway import configuration
from cutaway.testing import tiny_model
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
import torch

class Told(SpanExporter):
    def export(self, spans):
        for span in spans:
            print(os.getpid() == parent, span.name, span.attributes.get("cutaway.token.status"), flush=True)
        return SpanExportResult.SUCCESS

parent = os.getpid()
cutaway.configure(exporter=Told(), delay_ms=50)
cutaway.instrument()
model, release = tiny_model(), threading.Event()
begun = threading.Event()
def hold():
    begun.set()
    release.wait(30)
configuration.finisher.submit(hold, 1)
begun.wait(30)
for _ in range(5):
    model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=3, do_sample=False)
"""

ENDING = PENDING + """
threading.Timer(0.2, release.set).start()
"""

# One thread: torch's OpenMP pool does not survive a fork, with or without us, and the child would wait for it for ever.
FORKING = PENDING.replace("import torch", "import torch\ntorch.set_num_threads(1)", 1) + """
pid = os.fork()
if not pid:
    signal.alarm(60)
    model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=3, do_sample=False)
    assert cutaway.flush(), "the child waits for what its parent has"
    os._exit(0)
print("child", os.waitpid(pid, 0)[1], flush=True)
release.set()
"""


def _told(program: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()


@pytest.mark.slow
def test_a_program_that_ends_with_work_waiting_loses_nothing() -> None:
    """Five generations wait for the thread when the last line has run: all five arrive at the exporter."""
    assert _told(ENDING) == ["True text_completion tiny-llama recorded"] * 5


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_with_work_waiting_sends_everything_once() -> None:
    """The child does not do its parent's work a second time, and does its own; the parent's five arrive from the parent."""
    found = _told(FORKING)

    assert sorted(found) == sorted(
        ["True text_completion tiny-llama recorded"] * 5 + ["False text_completion tiny-llama recorded", "child 0"])


PLACES = (
    (GenerationMixin, "generate"), (GenerationMixin, "_get_logits_processor"), (GenerationMixin, "_get_stopping_criteria"),
    (AttentionInterface, "get_interface"), (TextGenerationPipeline, "_forward"),
)


def test_uninstrument_leaves_no_trace() -> None:
    """Every attribute of the classes is the object it was; no hook, no attention name, no reference to the model, no thread but
    the idle worker's, and torch's global state as before."""
    def state() -> list[Any]:
        from torch.nn.modules import module

        return [
            *({name: id(value) for name, value in vars(kind).items()} for kind in {owner for owner, _ in PLACES}),
            {name: id(value) for name, value in ALL_ATTENTION_FUNCTIONS.items()}, dict(module._global_forward_hooks),
            dict(module._global_forward_pre_hooks), torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads(),
            torch.is_inference_mode_enabled(), threading.getprofile(), sys.gettrace(),
        ]

    model = tiny_model()
    alive = weakref.ref(model)
    threads = {thread.name for thread in threading.enumerate()}
    modules = dict(sys.modules)
    before = state()
    with recorded():
        model.generate(batch(1)[0], max_new_tokens=3, do_sample=False)
        assert state() != before
    marks = [
        (len(part._forward_hooks), len(part._forward_pre_hooks), "forward" in vars(part)) for part in model.modules()
    ]

    assert state() == before
    assert set(marks) == {(0, 0, False)}
    assert {thread.name for thread in threading.enumerate()} - threads <= {"cutaway-finish"}
    assert all(sys.modules.get(name) is module for name, module in modules.items())
    del model
    gc.collect()
    assert alive() is None


def test_patched_places_are_all_known() -> None:
    """What the test above compares is at least what is patched."""
    from cutaway.tap import patches

    kinds = {owner for owner, _ in PLACES}
    assert {owner for owner, _ in patches._PATCHED} - kinds <= set(GenerationMixin.__mro__)


def test_many_threads_never_mix_their_records() -> None:
    """Twelve threads on one model, each with its own prompt, length and way to decode: every value of every span is that of the
    same call on its own."""
    model = tiny_model()
    ways: list[dict[str, Any]] = [{"do_sample": False}, {"num_beams": 2, "do_sample": False}, {"prompt_lookup_num_tokens": 2}]

    def call(i: int) -> None:
        ids = batch(1, longest=5 + i % 4, seed=i)[0]
        model.generate(ids, max_new_tokens=4 + i, min_new_tokens=4 + i, **ways[i % 3])

    alone: dict[int, Any] = {}
    for i in range(12):
        with recorded() as spans:
            call(i)
        (alone[i],) = spans.get_finished_spans()
    start = threading.Barrier(12)

    def together(i: int) -> None:
        start.wait(SECONDS)
        with cutaway.span("request", {"number": i}):
            call(i)

    with recorded() as spans:
        threads = [threading.Thread(target=together, args=(i,)) for i in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        found = spans.get_finished_spans()
    numbers = {span.context.span_id: span.attributes["number"] for span in found if span.name == "request"}
    heard = {numbers[span.parent.span_id]: span for span in found if span.name != "request"}

    assert sorted(heard) == list(range(12))
    for i, span in heard.items():
        for name in (*c.TOKEN_SERIES, *c.LAYER_SERIES, *c.HEAD_SERIES):
            if name in alone[i].attributes and name != c.TOKEN_INTER_TOKEN_TIME:
                assert series(span, name).tolist() == series(alone[i], name).tolist(), (i, name)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_everything_at_once(
    seed: int, unguarded: Callable[[], None], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 generations on 8 threads while somebody flushes, configures, instruments and shuts down at random: nothing reaches the
    host, nobody hangs, and every span that began has ended."""
    unguarded()
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")  # what the environment decides between a shutdown and the next configure
    model, ids = tiny_model(), batch(1)[0]
    bare = model.generate(ids, max_new_tokens=3, do_sample=False)
    memory = InMemorySpanExporter()
    begun: list[Any] = []

    class Counting(SimpleSpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            begun.append(span)

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Counting(memory))
    failures: list[BaseException] = []
    over = threading.Event()

    def generating(number: int) -> None:
        try:
            for _ in range(25):
                with cutaway.span("request"):
                    out = model.generate(ids, max_new_tokens=3, do_sample=False)
                assert torch.equal(out, bare)
        except BaseException as error:
            failures.append(error)

    def disturbing() -> None:
        chance = random.Random(seed)
        acts: list[Callable[[], Any]] = [
            cutaway.flush, cutaway.uninstrument, cutaway.instrument, cutaway.instrument, cutaway.shutdown,
            lambda: cutaway.configure(tracer_provider=provider),
            lambda: cutaway.configure(tracer_provider=provider, attention="off"),
        ]
        try:
            while not over.is_set():
                act = chance.choice(acts)
                act()
                if act is cutaway.shutdown:
                    cutaway.configure(tracer_provider=provider)
        except BaseException as error:
            failures.append(error)

    cutaway.configure(tracer_provider=provider)
    cutaway.instrument()
    threads = [threading.Thread(target=generating, args=(i,), daemon=True) for i in range(8)]
    disturber = threading.Thread(target=disturbing, daemon=True)
    try:
        for thread in (*threads, disturber):
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        over.set()
        disturber.join(SECONDS)
        assert not any(thread.is_alive() for thread in (*threads, disturber))
        assert configuration.finisher.drain(SECONDS)
    finally:
        over.set()
        cutaway.uninstrument()
        cutaway.shutdown()

    assert failures == []
    assert begun
    assert [span.name for span in begun if span.end_time is None] == []
    assert [record.getMessage() for record in caplog.records if record.name == "cutaway"] == []
