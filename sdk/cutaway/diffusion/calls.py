"""One call of a pipeline: what it was asked for, and our callback put around the host's own.

Not a patch: classes.py decides which calls come here. The host's callback gets what it asked for and nothing more, and what it
returns is what the pipeline gets.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from cutaway.diffusion.recorder import Recorder, give_up

_CALLBACK: Final = "callback_on_step_end"
_TENSORS: Final = "callback_on_step_end_tensor_inputs"
_LATENTS: Final = "latents"
BASE_MODULE: Final = "diffusers.pipelines.pipeline_utils"
"""The module that defines `DiffusionPipeline`."""

_COUNTS: Final = ("num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt")
_OUTPUTS: Final = {
    "images": "image", "image": "image", "frames": "video", "videos": "video", "video": "video", "audios": "audio",
    "audio": "audio", "texts": "text",
}
"""Field of a pipeline's output -> what it makes."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a call asked of a pipeline, as far as its arguments and their defaults tell."""

    pipeline: str
    """Class of the pipeline."""
    model: str
    """`name_or_path` of the pipeline, "" when it has none."""
    seed: int | None
    """Seed of the one generator that was passed."""
    guidance_scale: float | None
    choices: int
    """Outputs of one prompt."""
    prompts: tuple[str, ...]


def asked_of(pipe: Any, arguments: Mapping[str, Any]) -> Asked:
    """`arguments`: those of the call by name. Defaults count for guidance and number of outputs."""
    guidance = arguments.get("guidance_scale")
    counts = [arguments[name] for name in _COUNTS if isinstance(arguments.get(name), int)]
    generator: Any = arguments.get("generator")
    if isinstance(generator, list | tuple) and len(generator) == 1:
        generator = generator[0]
    prompt = arguments.get("prompt")
    texts = [prompt] if isinstance(prompt, str) else prompt if isinstance(prompt, list | tuple) else ()
    return Asked(
        pipeline=type(pipe).__name__, model=str(getattr(pipe, "name_or_path", None) or ""),
        seed=int(generator.initial_seed()) if hasattr(generator, "initial_seed") else None,
        guidance_scale=float(guidance) if isinstance(guidance, int | float) else None,
        choices=counts[0] if counts else 1, prompts=tuple(text for text in texts if isinstance(text, str)),
    )


def device_of(pipe: Any) -> Any:
    """The torch device a pipeline runs on, also where its parts wait elsewhere; None when it does not tell."""
    for name in ("_execution_device", "device"):
        with suppress(Exception):  # a pipeline without modules, or one made by hand, has no answer
            return getattr(pipe, name)
    return None


def output_type_of(pipe: Any, result: Any) -> str:
    """`image`, `video`, `audio` or `text`, from the fields of the output or of those the module names; "" unknown."""
    named: list[Any] = [result]
    for kind in type(pipe).__mro__:
        if kind.__module__ == BASE_MODULE:
            break  # it names outputs of every kind
        names = vars(sys.modules.get(kind.__module__, object))
        named += [value for name, value in names.items() if name.endswith("Output") and isinstance(value, type)]
    for each in named:
        fields = getattr(each, "__dataclass_fields__", ())
        for field in fields:
            if field in _OUTPUTS:
                return _OUTPUTS[field]
    return ""


@functools.lru_cache(maxsize=512)
def signature_of(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Parameters after `self`."""
    parameters = inspect.signature(function).parameters
    return {name: parameters[name] for name in list(parameters)[1:]}


def bound(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name, defaults included; a call that does not fit the signature is told by the method itself."""
    defaults = {name: each.default for name, each in signature_of(function).items() if each.default is not each.empty}
    return {**defaults, **_given(function, args, kwargs)}


def _given(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    return {**dict(zip(_positional(signature_of(function)), args, strict=False)), **kwargs}


def _positional(parameters: Mapping[str, inspect.Parameter]) -> list[str]:
    return [name for name, each in parameters.items() if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]


class Session:
    """One call that is being heard; a method it calls on the same pipeline (`super().__call__`) is part of it."""

    __slots__ = ("_recorder", "pipe")

    def __init__(self, pipe: Any, recorder: Recorder | None) -> None:
        self.pipe = pipe
        self._recorder = recorder

    def join(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments to call `function` with: the same, or with our callback around the host's."""
        recorder = self._recorder
        if recorder is None or recorder.joined:
            return args, kwargs
        try:
            return self._compose(recorder, function, args, kwargs)
        except Exception as error:
            give_up(recorder, "joining a pipeline", error)
            return args, kwargs

    def _compose(self, recorder: Recorder, function: Any, args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        parameters = signature_of(function)
        arguments = bound(function, args, kwargs)
        recorder.arguments = {**arguments, **recorder.arguments} if _CALLBACK not in parameters else arguments
        if _CALLBACK not in parameters:
            old = ": it has the older `callback`" if "callback" in parameters else ""
            recorder.unsupported(f"step series: the pipeline has no {_CALLBACK}{old}")
            return args, kwargs
        theirs, wanted = arguments.get(_CALLBACK), arguments.get(_TENSORS)
        if theirs is None and not _fits(self.pipe, _given(function, args, kwargs).get(_TENSORS)):
            recorder.unsupported(f"step series: {_TENSORS} names what the pipeline does not hand out")
            return args, kwargs
        ours = _hands_out_latents(self.pipe, function)
        hidden = False
        if theirs is None:
            wanted = [_LATENTS] if ours else []
        elif ours and isinstance(wanted, list | tuple) and _LATENTS not in wanted:
            hidden, wanted = True, [*wanted, _LATENTS] if isinstance(wanted, list) else (*wanted, _LATENTS)
        heard: Any = _Heard(recorder, self.pipe, theirs, hidden)
        if _is_official(theirs):
            heard = _official(heard, theirs, ours)
        changed = _replaced(parameters, args, kwargs, _CALLBACK, heard)
        if _TENSORS in parameters:
            changed = _replaced(parameters, *changed, _TENSORS, wanted)
        recorder.joined = True
        return changed


def _replaced(parameters: Mapping[str, inspect.Parameter], args: Any, kwargs: Any, name: str, value: Any) -> tuple[Any, Any]:
    """The same call with another value for one argument, passed the way it was passed."""
    names = _positional(parameters)
    place = names.index(name) if name in names else len(args)
    if place < len(args):
        return (*args[:place], value, *args[place + 1:]), kwargs
    return args, {**kwargs, name: value}


def _fits(pipe: Any, named: Any) -> bool:
    known = getattr(pipe, "_callback_tensor_inputs", None)
    return named is None or known is None or (isinstance(named, list | tuple) and all(name in known for name in named))


def _hands_out_latents(pipe: Any, function: Any) -> bool:
    """Whether the pipeline says so, and has a variable of that name: it reads `locals()[name]`, which fails without one."""
    if _LATENTS not in (getattr(pipe, "_callback_tensor_inputs", None) or ()):
        return False
    code = getattr(inspect.unwrap(function), "__code__", None)
    return code is not None and _LATENTS in (*code.co_varnames, *code.co_cellvars)


class _Heard:
    """Our callback, around the host's or alone."""

    def __init__(self, recorder: Recorder, pipe: Any, theirs: Any, hidden: bool) -> None:
        self._recorder = recorder
        self._pipe = pipe
        self._theirs = theirs
        self.hidden = hidden
        """Whether the latents were asked for by us alone."""

    def __call__(self, pipeline: Any, step_index: Any, timestep: Any, callback_kwargs: Any) -> Any:
        """The host's callback, then the step is recorded with the latents the pipeline goes on with."""
        latents = None
        if isinstance(callback_kwargs, dict):
            latents = callback_kwargs.pop(_LATENTS, None) if self.hidden else callback_kwargs.get(_LATENTS)
        if self._theirs is None:
            self._record(pipeline, timestep, latents)
            return {}  # the pipeline keeps every tensor it has
        returned = None
        try:
            returned = self._theirs(pipeline, step_index, timestep, callback_kwargs)
        finally:
            changed = returned.get(_LATENTS) if isinstance(returned, dict) else None
            self._record(pipeline, timestep, latents if changed is None else changed)
        return returned

    def _record(self, pipeline: Any, timestep: Any, latents: Any) -> None:
        if pipeline is not self._pipe:
            self._recorder.elsewhere = True  # a pipeline inside was given our callback: its steps are on its own span
            return
        try:
            self._recorder.step(timestep, latents)
        except Exception as error:
            give_up(self._recorder, "measuring a step", error)


def _is_official(theirs: Any) -> bool:
    module = sys.modules.get("diffusers.callbacks")
    return module is not None and isinstance(theirs, module.PipelineCallback | module.MultiPipelineCallbacks)


def _official(heard: _Heard, theirs: Any, ours: bool) -> Any:
    """Our callback as one of diffusers' own objects: pipelines that know them ask the object which tensors it wants."""
    multiple = sys.modules["diffusers.callbacks"].MultiPipelineCallbacks

    class Official(multiple):  # type: ignore[misc, valid-type]  # a class of a package that is only there once the host loaded it
        def __init__(self) -> None:
            super().__init__([theirs])

        @property
        def tensor_inputs(self) -> list[str]:
            wanted = list(theirs.tensor_inputs)
            heard.hidden = ours and _LATENTS not in wanted
            return [*wanted, _LATENTS] if heard.hidden else wanted

        def __call__(self, pipeline: Any, step_index: Any, timestep: Any, callback_kwargs: Any) -> Any:
            return heard(pipeline, step_index, timestep, callback_kwargs)

    return Official()
