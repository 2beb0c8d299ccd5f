"""What a diffusion pipeline shows of its steps: exact values, the host's own callback untouched, and nothing left behind."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, HeunDiscreteScheduler, StableDiffusionPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback, SDCFGCutoffCallback

from cutaway import conventions as c
from cutaway import diffusion
from cutaway.testing import TickClock
from diffusion_helpers import flow_matching, seeded, stable_diffusion, unconditional

FAMILIES: dict[str, Callable[[], Any]] = {"stable diffusion": stable_diffusion, "flow matching": flow_matching}
CALL: dict[str, Any] = {"num_inference_steps": 4, "output_type": "np"}


@pytest.fixture(scope="module")
def pipe() -> Any:
    """One StableDiffusionPipeline of random weights."""
    return stable_diffusion()


@dataclass
class Call:
    """One call that was heard."""

    asked: diffusion.Asked
    denoising: diffusion.Denoising
    error: BaseException | None


@dataclass
class Heard:
    """Every call that was heard, in the order they ended."""

    calls: list[Call] = field(default_factory=list)
    clock: Any = TickClock

    def open(self, pipe: Any, arguments: dict[str, Any], run: Callable[[Any], Any]) -> Any:
        recorder = diffusion.Recorder(self.clock())
        error: BaseException | None = None
        try:
            return run(recorder)
        except BaseException as raised:
            error = raised
            raise
        finally:
            asked = diffusion.asked_of(pipe, recorder.arguments or arguments)
            self.calls.append(Call(asked, recorder.finish(error is not None), error))

    @property
    def last(self) -> diffusion.Denoising:
        return self.calls[-1].denoising


@pytest.fixture
def heard() -> Iterator[Heard]:
    """Listens to every pipeline while the test runs."""
    found = Heard()
    diffusion.install(found.open)
    yield found
    diffusion.remove()


class Watching:
    """A user's own callback: keeps what it was handed, and returns what it was told to return."""

    def __init__(self, change: Callable[[int, dict[str, Any]], Any] = lambda step, tensors: tensors) -> None:
        self.steps: list[int] = []
        self.timesteps: list[float] = []
        self.names: list[tuple[str, ...]] = []
        self.latents: list[Any] = []
        self._change = change

    def __call__(self, pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> Any:
        self.steps.append(step)
        self.timesteps.append(float(timestep))
        self.names.append(tuple(tensors))
        if "latents" in tensors:
            self.latents.append(tensors["latents"].clone().double().numpy())
        return self._change(step, tensors)


def rms(values: Any) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def images(pipe: Any, seed: int = 5, **arguments: Any) -> Any:
    """The pixels of one seeded call."""
    return pipe("a cat", generator=seeded(seed), **{**CALL, **arguments}).images


@pytest.mark.parametrize("family", FAMILIES)
def test_output_is_bit_identical(family: str) -> None:
    """A heard call returns the same pixels and draws the same random numbers, without a callback and with one."""
    pipe = FAMILIES[family]()
    for callback in (None, Watching()):
        torch.manual_seed(1)
        bare = images(pipe, callback_on_step_end=callback)
        after = torch.random.get_rng_state()
        torch.manual_seed(1)
        found = Heard()
        diffusion.install(found.open)
        try:
            ours = images(pipe, callback_on_step_end=callback)
        finally:
            diffusion.remove()

        assert np.array_equal(bare, ours)
        assert torch.equal(torch.random.get_rng_state(), after)
        assert found.last.status == c.STATUS_RECORDED


@pytest.mark.parametrize("family", FAMILIES)
def test_values_agree_with_the_users_own_callback(family: str, heard: Heard) -> None:
    """Norm and change are those of the latents a callback sees, in float64; timesteps are the scheduler's."""
    watching = Watching()
    images(FAMILIES[family](), callback_on_step_end=watching, num_images_per_prompt=2)

    series = heard.last.series
    pairs = zip(watching.latents[1:], watching.latents, strict=False)
    assert heard.last.steps == len(watching.steps) == 4
    assert series[c.DIFFUSION_LATENT_NORM] == pytest.approx([rms(each) for each in watching.latents], rel=1e-5)
    assert np.isnan(series[c.DIFFUSION_LATENT_CHANGE][0])
    assert series[c.DIFFUSION_LATENT_CHANGE][1:] == pytest.approx([rms(after - before) for after, before in pairs], rel=1e-5)
    assert series[c.DIFFUSION_STEP_TIMESTEP] == pytest.approx(watching.timesteps)


def test_the_values_are_the_same_without_a_callback(pipe: Any, heard: Heard) -> None:
    """Whether the host listens makes no difference to what we hear."""
    images(pipe)
    alone = heard.last
    images(pipe, callback_on_step_end=Watching())

    for name in c.DIFFUSION_SERIES:
        assert np.array_equal(alone.series[name], heard.last.series[name], equal_nan=True), name


def test_half_precision_is_measured_in_single(heard: Heard) -> None:
    """bfloat16 latents: their squares are summed in float32."""
    pipe = stable_diffusion().to(torch.bfloat16)
    watching = Watching()
    images(pipe, callback_on_step_end=watching)

    assert heard.last.series[c.DIFFUSION_LATENT_NORM] == pytest.approx([rms(each) for each in watching.latents], rel=1e-5)


def test_step_times_are_the_clocks(pipe: Any, heard: Heard) -> None:
    """The first step holds all that came before it, each other one the time since."""
    heard.clock = functools.partial(TickClock, 0.5)
    images(pipe)

    assert heard.last.series[c.DIFFUSION_STEP_TIME].tolist() == [0.5] * 4


def test_a_planted_nan_is_found_at_its_step(heard: Heard) -> None:
    """The scheduler breaks at step 2: steps 0 and 1 are finite, 2 is the first that is not."""
    class Breaking(DDIMScheduler):
        calls = 0

        def step(self, *args: Any, **kwargs: Any) -> Any:
            (latents, *rest) = super().step(*args, **kwargs)
            latents[0, 0, 0, 0] = float("nan") if self.calls == 2 else latents[0, 0, 0, 0]
            self.calls += 1
            return (latents, *rest)

    images(stable_diffusion(scheduler=Breaking(clip_sample=False, steps_offset=1)), output_type="latent")

    norm = heard.last.series[c.DIFFUSION_LATENT_NORM]
    assert heard.last.nonfinite_step == 2
    assert np.isfinite(norm[:2]).all()
    assert np.isnan(norm[2:]).all()


def test_finite_latents_have_no_nonfinite_step(pipe: Any, heard: Heard) -> None:
    """Large is not broken: latents whose squares overflow float32 are finite all the same."""
    images(pipe, callback_on_step_end=Watching(lambda step, tensors: {"latents": torch.full_like(tensors["latents"], 3e38)}),
           num_inference_steps=1)

    assert heard.last.nonfinite_step is None


def test_a_scheduler_of_second_order(heard: Heard) -> None:
    """Heun evaluates twice a step: every evaluation that reports is a step."""
    watching = Watching()
    images(stable_diffusion(scheduler=HeunDiscreteScheduler(steps_offset=1)), callback_on_step_end=watching)

    assert heard.last.steps == len(watching.steps) == 7


@pytest.mark.parametrize("asked_for", [["prompt_embeds"], [], ["latents"], ["negative_prompt_embeds", "latents"]])
def test_the_users_callback_gets_what_it_asked_for(asked_for: list[str], pipe: Any, heard: Heard) -> None:
    """The very tensors it named reach it, in its order; ours is not among them; the list it passed stays as it was."""
    watching = Watching()
    given = list(asked_for)
    images(pipe, callback_on_step_end=watching, callback_on_step_end_tensor_inputs=given)

    assert watching.names == [tuple(asked_for)] * 4
    assert watching.steps == [0, 1, 2, 3]
    assert given == asked_for
    assert np.isfinite(heard.last.series[c.DIFFUSION_LATENT_NORM]).all()


def test_what_the_users_callback_returns_wins(pipe: Any) -> None:
    """Latents it changes, also ones it did not ask for, go on through the pipeline as without us, and are what is measured."""
    def change(step: int, tensors: dict[str, Any]) -> Any:
        return {"latents": torch.full((1, 4, 8, 8), float(step + 2))}

    arguments = {"callback_on_step_end": Watching(change), "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    bare = images(pipe, **arguments)
    found = Heard()
    diffusion.install(found.open)
    try:
        ours = images(pipe, **arguments)
    finally:
        diffusion.remove()

    assert np.array_equal(bare, ours)
    assert found.last.series[c.DIFFUSION_LATENT_NORM].tolist() == [2.0, 3.0, 4.0, 5.0]
    assert found.last.series[c.DIFFUSION_LATENT_CHANGE][1:].tolist() == [1.0, 1.0, 1.0]


class Reading(PipelineCallback):  # type: ignore[misc]
    """An official callback object that asks for one tensor."""

    tensor_inputs: ClassVar = ["prompt_embeds"]

    def callback_fn(self, pipeline: Any, step_index: int, timestep: Any, callback_kwargs: dict[str, Any]) -> Any:
        seen.append((step_index, tuple(callback_kwargs)))
        return callback_kwargs


seen: list[tuple[int, tuple[str, ...]]] = []


@pytest.mark.parametrize("wrapped", [False, True], ids=["PipelineCallback", "MultiPipelineCallbacks"])
def test_official_callback_objects(wrapped: bool, pipe: Any, heard: Heard) -> None:
    """Callback objects of diffusers itself say which tensors they want; they get those, and the latents are measured."""
    seen.clear()
    one = Reading(cutoff_step_ratio=None, cutoff_step_index=1)
    images(pipe, callback_on_step_end=MultiPipelineCallbacks([one]) if wrapped else one)

    assert seen == [(step, ("prompt_embeds",)) for step in range(4)]
    assert np.isfinite(heard.last.series[c.DIFFUSION_LATENT_NORM]).all()


def test_guidance_cut_off_by_a_callback(pipe: Any) -> None:
    """The official callback that ends guidance half-way does so with us too; the scale on record is the one asked for."""
    def call() -> Any:
        return images(pipe, callback_on_step_end=SDCFGCutoffCallback(cutoff_step_ratio=0.5), guidance_scale=5)

    bare = call()
    found = Heard()
    diffusion.install(found.open)
    try:
        ours = call()
    finally:
        diffusion.remove()

    assert np.array_equal(bare, ours)
    assert found.calls[0].asked.guidance_scale == 5.0


def test_a_wrong_call_is_told_by_diffusers(pipe: Any) -> None:
    """Unknown arguments and unknown tensor names raise the same errors, word for word."""
    for wrong in ({"height": 12, "width": 12}, {"callback_on_step_end_tensor_inputs": ["nothing"]}, {"prompt_embeds": 1},
                  {"callback_on_step_end": Watching(), "callback_on_step_end_tensor_inputs": ["nothing"]}):
        with pytest.raises((ValueError, TypeError)) as bare:
            images(pipe, **wrong)
        diffusion.install(Heard().open)
        try:
            with pytest.raises((ValueError, TypeError)) as ours:
                images(pipe, **wrong)
        finally:
            diffusion.remove()
        assert str(bare.value) == str(ours.value)


def test_an_exception_of_the_callback_reaches_the_host(pipe: Any, heard: Heard) -> None:
    """It passes unchanged, and the steps before it, its own included, are kept."""
    problem = KeyError("mine")

    def change(step: int, tensors: dict[str, Any]) -> Any:
        if step == 2:
            raise problem
        return tensors

    with pytest.raises(KeyError) as raised:
        images(pipe, callback_on_step_end=Watching(change))

    assert raised.value is problem
    assert heard.calls[0].error is problem
    assert heard.last.steps == 3
    assert heard.last.series[c.DIFFUSION_LATENT_NORM].shape == (3,)


def test_an_interrupted_pipeline(pipe: Any, heard: Heard) -> None:
    """`_interrupt` ends the steps: those that ran are counted."""
    def change(step: int, tensors: dict[str, Any]) -> Any:
        pipe._interrupt = step >= 1
        return tensors

    images(pipe, callback_on_step_end=Watching(change))

    assert heard.last.steps == 2


def test_several_threads_share_a_pipeline_class(heard: Heard) -> None:
    """Each call has its own record, whatever the others do; values are those of the call alone."""
    pipes = [stable_diffusion() for _ in range(3)]
    images(pipes[0], num_inference_steps=3)
    threads = [threading.Thread(target=images, args=(each,), kwargs={"num_inference_steps": 3 + i}) for i, each in enumerate(pipes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    expected = heard.calls[0].denoising.series[c.DIFFUSION_LATENT_NORM]
    assert sorted(call.denoising.steps or 0 for call in heard.calls[1:]) == [3, 4, 5]
    (same,) = [call.denoising for call in heard.calls[1:] if call.denoising.steps == 3]
    assert np.array_equal(same.series[c.DIFFUSION_LATENT_NORM], expected)


def test_several_threads_on_one_pipeline_object(heard: Heard) -> None:
    """Two threads inside the same object at once: each callback speaks to the record of its own call."""
    pipe = stable_diffusion(Echo)
    gate = threading.Barrier(2, timeout=60)
    threads = [threading.Thread(target=pipe, args=(level, gate)) for level in (1.0, 2.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    norms = [call.denoising.series[c.DIFFUSION_LATENT_NORM].tolist() for call in heard.calls]
    assert sorted(norms) == [[1.0] * 5, [2.0] * 5]


class Echo(StableDiffusionPipeline):  # type: ignore[misc]
    """Five steps that meet the other thread at each."""

    def __call__(self, level: float, gate: Any, callback_on_step_end: Any = None,
                 callback_on_step_end_tensor_inputs: Any = ("latents",)) -> None:
        latents = torch.full((3,), level)
        for step in range(5):
            gate.wait()
            tensors = {}
            for name in callback_on_step_end_tensor_inputs:  # as diffusers does it
                tensors[name] = locals()[name]
            if callback_on_step_end is not None:
                latents = callback_on_step_end(self, step, step, tensors).pop("latents", latents)


class InPlace(StableDiffusionPipeline):  # type: ignore[misc]
    """A pipeline that adds 1 to the same latents at every step."""

    def __call__(self, callback_on_step_end: Any = None, callback_on_step_end_tensor_inputs: Any = ("latents",)) -> None:
        latents = torch.zeros(4)
        for step in range(3):
            latents += 1
            tensors = {}
            for name in callback_on_step_end_tensor_inputs:
                tensors[name] = locals()[name]
            if callback_on_step_end is not None:
                callback_on_step_end(self, step, step, tensors)


def test_latents_changed_in_place(heard: Heard) -> None:
    """A pipeline may go on in the tensor it handed out: the change is still that of the step."""
    stable_diffusion(InPlace)()

    assert heard.last.series[c.DIFFUSION_LATENT_NORM].tolist() == [1.0, 2.0, 3.0]
    assert heard.last.series[c.DIFFUSION_LATENT_CHANGE][1:].tolist() == [1.0, 1.0]


class Calling(StableDiffusionPipeline):  # type: ignore[misc]
    """A subclass that changes an argument and lets its parent do the work."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **{**kwargs, "num_inference_steps": 3, "guidance_scale": 2.0})


def test_a_subclass_that_calls_its_parent_is_one_call(heard: Heard) -> None:
    """`super().__call__` is part of the same call, and its steps are heard."""
    images(stable_diffusion(Calling))

    assert len(heard.calls) == 1
    assert heard.last.steps == 3
    assert heard.calls[0].asked.guidance_scale == 2.0


class Refining(StableDiffusionPipeline):  # type: ignore[misc]
    """A pipeline that hands its callback to another pipeline inside."""

    def __call__(self, prompt: str, inner: Any, callback_on_step_end: Any = None,
                 callback_on_step_end_tensor_inputs: Any = ("latents",)) -> Any:
        return inner(prompt, num_inference_steps=2, output_type="np", callback_on_step_end=callback_on_step_end,
                     callback_on_step_end_tensor_inputs=list(callback_on_step_end_tensor_inputs))


@pytest.mark.parametrize("callback", [None, Watching()], ids=["alone", "with a callback"])
def test_a_pipeline_inside_a_pipeline(callback: Any, heard: Heard) -> None:
    """The inner call is one of its own and has the steps; the outer says where they are."""
    outer, inner = stable_diffusion(Refining), stable_diffusion()
    outer("a cat", inner, callback_on_step_end=callback)

    first, second = heard.calls
    assert (first.asked.pipeline, first.denoising.status, first.denoising.steps) == ("StableDiffusionPipeline", "recorded", 2)
    assert (second.asked.pipeline, second.denoising.status) == ("Refining", "unsupported")
    assert "spans of their own" in second.denoising.reasons[0]
    assert callback is None or callback.steps == [0, 1]


def test_a_pipeline_without_a_callback_is_unsupported(heard: Heard) -> None:
    """DDPMPipeline tells nothing of its steps: no value, and the reason."""
    unconditional()(**CALL, generator=seeded())

    assert heard.last == diffusion.Denoising("unsupported", reasons=["step series: the pipeline has no callback_on_step_end"])


def test_an_old_callback_is_unsupported(heard: Heard) -> None:
    """Pipelines that only know `callback`: the reason says so, and the host's callback is called as ever."""
    class Old(StableDiffusionPipeline):  # type: ignore[misc]
        def __call__(self, prompt: str, callback: Any = None, callback_steps: int = 1) -> None:
            callback(0, 0, prompt)

    told: list[Any] = []
    stable_diffusion(Old)("a cat", lambda *args: told.append(args))

    assert told == [(0, 0, "a cat")]
    assert (heard.last.status, heard.last.steps) == ("unsupported", None)
    assert heard.last.reasons == ["step series: the pipeline has no callback_on_step_end: it has the older `callback`"]


class Silent(StableDiffusionPipeline):  # type: ignore[misc]
    """A pipeline that says it hands out latents and has no variable of that name."""

    def __call__(self, prompt: str, callback_on_step_end: Any = None, callback_on_step_end_tensor_inputs: Any = ()) -> Any:
        for step in range(2):
            if callback_on_step_end is not None:
                tensors = {}
                for name in callback_on_step_end_tensor_inputs:
                    tensors[name] = locals()[name]
                callback_on_step_end(self, step, step, tensors)


def test_a_pipeline_that_hands_out_no_latents_has_times(heard: Heard) -> None:
    """Times and timesteps only, with the reason; and never a KeyError in the host."""
    stable_diffusion(Silent)("a cat")

    assert (heard.last.status, heard.last.steps) == ("recorded", 2)
    assert set(heard.last.series) == {c.DIFFUSION_STEP_TIME, c.DIFFUSION_STEP_TIMESTEP}
    assert "no latents" in heard.last.reasons[0]


def test_what_was_asked(pipe: Any, heard: Heard) -> None:
    """Model, seed, guidance, number of images and prompts, from arguments and defaults, by name or by position."""
    pipe(["a cat", "a dog"], 16, 16, 1, generator=[seeded(3), seeded(4)], num_images_per_prompt=1, output_type="np")
    pipe("a cat", num_inference_steps=1, generator=seeded(11), num_images_per_prompt=2, guidance_scale=3, output_type="np")

    two, one = heard.calls
    model = "someone/tiny-diffusion"
    assert two.asked == diffusion.Asked("StableDiffusionPipeline", model, None, 7.5, 1, ("a cat", "a dog"))
    assert one.asked == diffusion.Asked("StableDiffusionPipeline", model, 11, 3.0, 2, ("a cat",))


def test_the_callback_may_be_passed_by_position(heard: Heard) -> None:
    """Our callback takes the place of the host's wherever that one stood."""
    watching = Watching(lambda step, tensors: dict(tensors))
    gate = threading.Barrier(1)
    stable_diffusion(Echo)(1.5, gate, watching, ["latents"])

    assert watching.names == [("latents",)] * 5
    assert heard.last.series[c.DIFFUSION_LATENT_NORM].tolist() == [1.5] * 5


@pytest.mark.parametrize("place", ["mark", "measure", "join"])
def test_a_fault_of_ours_never_reaches_the_host(
    place: str, pipe: Any, monkeypatch: pytest.MonkeyPatch, unguarded: Callable[[], None]
) -> None:
    """A fault in the clock, in the measuring or in joining: same pixels, every call of the user's callback, status `error`."""
    def fault(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("ours")

    unguarded()
    bare = images(pipe)
    found = Heard()
    if place == "mark":
        found.clock = type("Broken", (TickClock,), {"mark": fault})
    elif place == "measure":
        monkeypatch.setattr(importlib.import_module("cutaway.diffusion.recorder"), "latent_signals", fault)
    else:
        monkeypatch.setattr(importlib.import_module("cutaway.diffusion.calls"), "_hands_out_latents", fault)
    watching = Watching()
    diffusion.install(found.open)
    try:
        ours = images(pipe, callback_on_step_end=watching)
    finally:
        diffusion.remove()

    assert np.array_equal(bare, ours)
    assert watching.steps == [0, 1, 2, 3]
    assert (found.last.status, found.last.series) == ("error", {})
    assert found.last.reasons == ["a fault in cutaway (RuntimeError)"]


def test_nothing_waits_for_the_device_inside_the_loop(pipe: Any, heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the first step and the end nothing of ours reads a value of the latents."""
    read: list[str] = []
    measure = importlib.import_module("cutaway.diffusion.recorder").latent_signals

    def watched(*args: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("item", "cpu", "tolist", "numpy", "__bool__", "__float__"):
                patch.setattr(torch.Tensor, name, lambda self, name=name: read.append(name))
            return measure(*args)

    monkeypatch.setattr(importlib.import_module("cutaway.diffusion.recorder"), "latent_signals", watched)
    images(pipe)

    assert read == []
    assert heard.last.status == "recorded"


def test_a_limit_on_the_steps_kept(pipe: Any, heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps beyond the limit are counted and not kept, and the status says so."""
    monkeypatch.setattr(importlib.import_module("cutaway.diffusion.recorder"), "STEPS_MAX", 3)
    images(pipe)

    assert (heard.last.status, heard.last.steps) == ("truncated", 4)
    assert heard.last.series[c.DIFFUSION_LATENT_NORM].shape == (3,)


def test_remove_leaves_nothing() -> None:
    """Every method of every class is the object it was, `__init_subclass__` and the import system included."""
    def state() -> Any:
        found, waiting = {}, [DiffusionPipeline]
        while waiting:
            kind = waiting.pop()
            waiting += kind.__subclasses__()
            found[kind] = {name: vars(kind).get(name) for name in ("__call__", "__init_subclass__")}
        return found, list(sys.meta_path)

    before = state()
    diffusion.install(Heard().open)
    during = state()
    diffusion.install(Heard().open)
    diffusion.remove()
    diffusion.remove()

    assert during != before
    assert state() == before


def test_others_patches_survive(pipe: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A method somebody wrapped after us stays wrapped, works, and hears nothing through us any more."""
    found, original, calls = Heard(), StableDiffusionPipeline.__call__, []
    diffusion.install(found.open)
    ours = StableDiffusionPipeline.__call__

    @functools.wraps(ours)
    def theirs(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return ours(*args, **kwargs)

    StableDiffusionPipeline.__call__ = theirs
    try:
        diffusion.remove()
        images(pipe, num_inference_steps=1)
        assert StableDiffusionPipeline.__call__ is theirs
    finally:
        StableDiffusionPipeline.__call__ = original

    assert (len(calls), found.calls) == (1, [])
    assert "patched by somebody else" in caplog.text


def test_classes_made_after_install_are_heard(heard: Heard) -> None:
    """A pipeline class defined later is patched as it is made, and put back by `remove`."""
    class Later(Echo):
        def __call__(self, level: float, callback_on_step_end: Any = None, callback_on_step_end_tensor_inputs: Any = ()) -> Any:
            latents = torch.full((2,), level)
            tensors = {}
            for name in callback_on_step_end_tensor_inputs:
                tensors[name] = locals()[name]
            return latents if callback_on_step_end is None else callback_on_step_end(self, 0, 1.0, tensors)

    patched = Later.__call__
    stable_diffusion(Later)(4.0)
    diffusion.remove()

    assert heard.last.series[c.DIFFUSION_LATENT_NORM].tolist() == [4.0]
    assert Later.__call__ is patched.__wrapped__  # type: ignore[attr-defined]


PROGRAM = """
import sys, threading
from cutaway import diffusion
heard = []
def opener(pipe, arguments, run):
    heard.append(type(pipe).__name__)
    return run(None)
def ours_on_meta_path():
    return any('cutaway' in type(each).__module__ for each in sys.meta_path)

diffusion.install(opener)
diffusion.remove()
assert not ours_on_meta_path(), 'a finder stayed after remove'
diffusion.install(opener)
assert ours_on_meta_path()
assert not any(name.split('.')[0] == 'diffusers' for name in sys.modules), 'diffusers was imported by us'

names = ('diffusers.pipelines.ddpm', 'diffusers.pipelines.ddim')
threads = [threading.Thread(target=__import__, args=(name,)) for name in names]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
import diffusers
from diffusers.pipelines import pipeline_utils
assert not ours_on_meta_path(), 'a finder stayed after the import'
assert 'cutaway' not in type(pipeline_utils.__spec__.loader).__module__
assert 'cutaway' not in type(pipeline_utils.__loader__).__module__
assert all('_cutaway' in vars(kind.__call__) for kind in (diffusers.DDPMPipeline, diffusers.DDIMPipeline))

class Mine(diffusers.DDPMPipeline):
    def __init__(self):
        pass
    def __call__(self):
        return 7

assert Mine()() == 7 and heard == ['Mine']
diffusion.remove()
assert not any('_cutaway' in vars(kind.__call__) for kind in (diffusers.DDPMPipeline, diffusers.DDIMPipeline, Mine))
assert '__init_subclass__' not in vars(diffusers.DiffusionPipeline)
assert Mine()() == 7 and heard == ['Mine']
"""


@pytest.mark.slow
def test_late_import() -> None:
    """The host may import diffusers after us, from several threads: we never load it, but find its classes when it comes."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=250)

    assert done.returncode == 0, done.stderr[-3000:]


def test_diffusers_is_installed_without_torchvision() -> None:
    """The extra brings neither torchvision nor another torch: a torchvision that does not fit breaks transformers."""
    assert importlib.util.find_spec("torchvision") is None
