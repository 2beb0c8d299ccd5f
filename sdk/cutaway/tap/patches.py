"""The methods of transformers that are replaced while cutaway is installed, and how they are put back.

Not what is heard: a replacement finds the session of its thread and passes on what goes by.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, Final, cast

import torch
from transformers.generation.stopping_criteria import MaxTimeCriteria, StopStringCriteria
from transformers.generation.utils import GenerationMixin
from transformers.modeling_utils import AttentionInterface
from transformers.pipelines.text_generation import TextGenerationPipeline

from cutaway import guard
from cutaway.tap import batching
from cutaway.tap.calls import ARGUMENTS, PREPARED, prepared_by
from cutaway.tap.hearing import HearingCriteria, HearingProcessors
from cutaway.tap.session import Hearing, Home, Session

Patched = Callable[..., Any]

Opener = Callable[[Any, dict[str, Any], Callable[[Hearing | None], Any]], Any]
"""(model, arguments, run) -> what `run(listener or None)` returned: the flow wraps the call and may look at its result."""

PipelineScope = Callable[[Any, Any], AbstractContextManager[Any]]
"""(tokenizer, chat messages of all rows or None) -> a context that is active while a pipeline generates."""

_active: ContextVar[Session | None] = ContextVar("cutaway_session", default=None)
_inside: ContextVar[bool] = ContextVar("cutaway_inside", default=False)
_exporting: Final = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
"""Whether torch.export is at work; older versions of PyTorch ask in one question whether anything compiles."""
_home = Home()
_lock = threading.Lock()
_BATCHES: Final = batching.owner() or GenerationMixin
_PATCHED: Final[tuple[tuple[type, str], ...]] = (
    (GenerationMixin, "generate"), (GenerationMixin, "_get_logits_processor"), (GenerationMixin, "_get_stopping_criteria"),
    (AttentionInterface, "get_interface"), (TextGenerationPipeline, "_forward"),
    *([(_BATCHES, "generate_batch")] if batching.owner() else []),
)
_originals: dict[tuple[type, str], Any] = {}
_ours: dict[tuple[type, str], Any] = {}


def _patched_generate(opener: Opener, batches: batching.Opener, home: Home) -> Callable[..., Any]:
    original = _originals[(GenerationMixin, "generate")]

    def generate(self: Any, *args: Any, **kwargs: Any) -> Any:
        if home.inert or torch.compiler.is_compiling():
            return original(self, *args, **kwargs)
        arguments = dict(zip(ARGUMENTS, args, strict=False)) | kwargs

        def run(listener: Hearing | None) -> Any:
            own_loop = arguments.get("custom_generate") is not None
            session = None if listener is None else Session(self, listener, arguments.get("assistant_model"), own_loop, home)
            token = _active.set(session)
            try:
                return original(self, *args, **kwargs)
            finally:
                _active.reset(token)
                if session is not None:
                    session.close()

        def leave(listener: batching.BatchListener | None) -> Any:
            return batching.heard_by(listener, lambda: original(self, *args, **kwargs))

        if _inside.get():
            return run(None)  # an assistant, a retry or a wrapper's inner model: part of the call that is already heard
        token = _inside.set(True)
        try:
            if batching.is_paged(arguments):
                return batches(self, arguments, leave)
            return opener(self, arguments, run)
        finally:
            _inside.reset(token)
    return _like(generate, original)


def _patched_processors(home: Home) -> Callable[..., Any]:
    original = _originals[(GenerationMixin, "_get_logits_processor")]

    def _get_logits_processor(self: Any, generation_config: Any, *args: Any, **kwargs: Any) -> Any:
        found = original(self, generation_config, *args, **kwargs)
        session = _active.get()
        if session is None or session.home is not home or session.model is not self:
            return found
        try:
            details = dict(zip(PREPARED, args, strict=False)) | kwargs
            session.listener.prepared(prepared_by(self, generation_config, details, session.assistant, session.own_loop))
            return HearingProcessors(found, session) if session.listener.hears_tokens else found
        except Exception as error:
            session.fault("preparing to listen", error)
            return found
    return _like(_get_logits_processor, original)


def _patched_criteria(home: Home) -> Callable[..., Any]:
    original = _originals[(GenerationMixin, "_get_stopping_criteria")]

    def _get_stopping_criteria(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = original(self, *args, **kwargs)
        session = _active.get()
        if session is None or session.home is not home or session.model is not self:
            return found
        try:
            checks = [criterion for criterion in found if isinstance(criterion, StopStringCriteria)]
            limits = [criterion for criterion in found if isinstance(criterion, MaxTimeCriteria)]
            session.listener.stop_strings(_one_argument(checks[0]) if checks else None, _passed(limits[0]) if limits else None)
            session.criteria = hearing = HearingCriteria(found, session)
            return hearing
        except Exception as error:
            session.fault("preparing to listen", error)
            return found
    return _like(_get_stopping_criteria, original)


def _one_argument(check: Any) -> Callable[[Any], Any]:
    return lambda ids: check(ids, None)


def _passed(limit: Any) -> Callable[[], bool]:
    """As MaxTimeCriteria itself asks."""
    return lambda: time.time() - limit.initial_timestamp > limit.max_time


def _patched_interface(home: Home) -> Callable[..., Any]:
    original: Callable[..., Callable[..., Any]] = _originals[(AttentionInterface, "get_interface")]
    # Another's may answer every layer differently, and a wrapper may bear the name of what it wraps.
    known = original.__module__ == AttentionInterface.__module__ and not hasattr(original, "__wrapped__")
    # Found once: every layer passes here with cold caches. `is_compiling` itself would take as long as all the rest.
    tracing, exporting, active = torch.compiler.is_dynamo_compiling, _exporting, _active.get

    def get_interface(self: Any, attn_implementation: str, default: Callable[..., Any]) -> Callable[..., Any]:
        if tracing() or exporting():  # first: reading a ContextVar breaks a traced graph
            return original(self, attn_implementation, default)
        session = active()
        if session is None or session.deaf or session.home is not home:
            return original(self, attn_implementation, default)
        interface, implementation, otherwise, answer = session.answered
        if interface is self and implementation is attn_implementation and otherwise is default:
            return answer
        function = original(self, attn_implementation, default)
        try:
            if session.listener.hears_attention:
                function = session.hearing(function, attn_implementation or "")
                if known and type(self) is AttentionInterface:
                    session.answered = (self, attn_implementation, default, function)
        except Exception as error:
            session.fault("listening to attention", error)
        return function
    return _like(get_interface, original)


def _patched_pipeline(scope: PipelineScope, home: Home) -> Callable[..., Any]:
    original = _originals[(TextGenerationPipeline, "_forward")]

    def _forward(self: Any, model_inputs: Any, **kwargs: Any) -> Any:
        if home.inert:
            return original(self, model_inputs, **kwargs)
        messages = None
        with guard.guarded("reading a conversation"):
            prompt = model_inputs.get("prompt_text") if hasattr(model_inputs, "get") else None
            chats = [getattr(each, "messages", None) or () for each in (prompt if isinstance(prompt, (list, tuple)) else [prompt])]
            messages = [message for chat in chats for message in chat] or None
        with scope(self.tokenizer, messages):
            return original(self, model_inputs, **kwargs)
    return _like(_forward, original)


def _patched_batches(opener: batching.Opener, home: Home) -> Callable[..., Any]:
    original = _originals[(_BATCHES, "generate_batch")]
    return _like(batching.replacement(original, opener, home, _inside), original)


def _like(function: Any, original: Any) -> Patched:
    """A replacement that says it is one: same name and documentation, the original under `__wrapped__`."""
    function.__name__, function.__qualname__ = original.__name__, original.__qualname__
    function.__doc__, function.__wrapped__ = original.__doc__, original
    return cast("Patched", function)


def install(opener: Opener, batches: batching.Opener, pipeline_scope: PipelineScope) -> None:
    """Patches the classes; a second call changes nothing."""
    global _home
    with _lock:
        if _originals:
            return
        _home = Home()
        _originals.update({(owner, name): vars(owner)[name] for owner, name in _PATCHED})
        replacements = (
            _patched_generate(opener, batches, _home), _patched_processors(_home), _patched_criteria(_home),
            _patched_interface(_home), _patched_pipeline(pipeline_scope, _home),
            *([_patched_batches(batches, _home)] if batching.owner() else []),
        )
        _ours.update(zip(_PATCHED, replacements, strict=True))
        for (patched, name), replacement in _ours.items():
            setattr(patched, name, replacement)


def remove() -> None:
    """Puts the original methods back. Where somebody patched a method after us, theirs stays, and ours below it passes through."""
    with _lock:
        _home.inert = True
        for (owner, name), original in _originals.items():
            if vars(owner).get(name) is _ours[(owner, name)]:
                setattr(owner, name, original)
            else:
                text = "%s.%s was patched by somebody else after cutaway: ours stays below it, and does nothing any more"
                guard.once(f"patched:{name}", text, owner.__name__, name)
        _originals.clear()
        _ours.clear()


def begin_in_child() -> None:
    """After a fork: the lock may have been held by a thread that does not live in the child."""
    global _lock
    _lock = threading.Lock()
