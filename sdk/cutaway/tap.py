"""Listens to `generate`: the only file that knows transformers. Patches four methods on classes, and puts them back.

Not a recorder and not a policy: whoever opens a session decides; this file only passes on what happens. No attention name is
registered (an unknown name loses its mask), no module hook is set (compiled code ignores them): a ContextVar finds the session.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, Final, Protocol, cast

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.generation.logits_process import LogitsProcessorList
from transformers.generation.stopping_criteria import StoppingCriteriaList, StopStringCriteria
from transformers.generation.utils import GenerationMixin
from transformers.modeling_utils import AttentionInterface
from transformers.pipelines.text_generation import TextGenerationPipeline

from cutaway import guard
from cutaway.steps import Call, Listener, Prepared

_ARGUMENTS: Final = (
    "inputs", "generation_config", "logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "synced_gpus",
    "assistant_model", "streamer", "negative_prompt_ids", "negative_prompt_attention_mask", "custom_generate",
)
_PREPARED: Final = ("input_ids_seq_length", "encoder_input_ids", "prefix_allowed_tokens_fn", "logits_processor", "device",
                    "model_kwargs")

class Hearing(Listener, Protocol):
    """A listener that says what it still wants to hear, and can be told that attention is not exact."""

    @property
    def hears_attention(self) -> bool:
        """Whether attention should be passed on."""

    @property
    def hears_tokens(self) -> bool:
        """Whether logits should be passed on."""

    def give_up_attention(self, reason: str) -> None:
        """Attention is not exact in this call."""

    def fail(self, reason: str) -> None:
        """Listening itself failed: nothing heard in this call can be trusted."""

    def stop_strings(self, check: Any) -> None:
        """The criterion that finds stop strings, ids [sequence, position] -> bool [sequence], or None."""


Patched = Callable[..., Any]

Opener = Callable[[Any, dict[str, Any], Callable[[Hearing | None], Any]], Any]
"""(model, arguments, run) -> what `run(listener or None)` returned: the flow wraps the call and may look at its result."""

PipelineScope = Callable[[Any, Any], AbstractContextManager[Any]]
"""(tokenizer, chat messages of all rows or None) -> a context that is active while a pipeline generates."""


class _Home:
    """One installation. A method of it that others wrapped stays where it is after `remove`, and then only passes through."""

    inert = False


class _Session:
    """One generation being heard on one thread."""

    __slots__ = ("_layers", "_owners", "_wrapped", "assistant", "deaf", "home", "listener", "model")

    def __init__(self, model: Any, listener: Hearing, assistant: Any, home: object) -> None:
        self.home = home
        self.model = model
        self.assistant = assistant
        self.listener = listener
        self.deaf = False
        """True from the scores to the end of the criteria: a processor (guidance), a streamer or a criterion may run the model once
        more, and that pass predicts nothing we report."""
        self._layers: set[int] | None = None
        self._owners: dict[int, int] = {}
        self._wrapped: dict[tuple[Any, str], Callable[..., Any]] = {}

    def close(self) -> None:
        """Lets go of the model at once: the functions made here refer back to the session, a cycle that would keep it alive."""
        self._wrapped.clear()
        self._owners.clear()
        self.model = self.assistant = self._layers = None
        self.deaf = True

    def hearing(self, function: Callable[..., Any], implementation: str) -> Callable[..., Any]:
        """The attention function, followed by telling the listener about it."""
        found = self._wrapped.get((function, implementation))
        if found is None:
            def heard(module: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
                result = function(module, query, key, value, *args, **kwargs)
                if not self.deaf and self.listener.hears_attention:
                    try:
                        mask = args[0] if args else kwargs.get("attention_mask")
                        self._tell(module, query, key, mask, kwargs, implementation)
                    except Exception as error:
                        self.listener.give_up_attention(guard.reason(error))
                        guard.contain("listening to attention", error)
                return result

            found = self._wrapped[(function, implementation)] = heard
        return found

    def _tell(self, module: Any, query: Any, key: Any, mask: Any, kwargs: dict[str, Any], implementation: str) -> None:
        layer = getattr(module, "layer_idx", None)
        if self._layers is None:
            self._layers = {id(part) for part in self.model.modules()}
        if not isinstance(layer, int) or id(module) not in self._layers:
            return None
        if getattr(module, "is_cross_attention", False) or getattr(module, "is_causal", True) is False:
            return None
        if self._owners.setdefault(layer, id(module)) != id(module):
            return self.listener.give_up_attention("several attention modules share a layer number")
        reason = _inexact(mask, key, kwargs, implementation)
        if reason:
            return self.listener.give_up_attention(reason)
        length = query.shape[2]
        if mask is None and 1 < length < key.shape[2] and implementation == "sdpa":
            key = key[:, :, :length]  # an empty static cache at prefill: sdpa itself looks at the first keys only
        if mask is not None and mask.ndim == 2:
            mask = mask[:, None, None, :].bool()
        scale = kwargs.get("scaling")
        details = {"scale": query.shape[-1] ** -0.5 if scale is None else float(scale), "softcap": kwargs.get("softcap")}
        with torch.no_grad():
            self.listener.attention(layer, query.detach(), key.detach(), mask, details)
        return None


def _inexact(mask: Any, key: Any, kwargs: dict[str, Any], implementation: str) -> str:
    """Why the attention of this layer cannot be told from query, key and mask ("" when it can)."""
    if kwargs.get("position_bias") is not None:
        return "attention with a relative position bias"
    if kwargs.get("s_aux") is not None:
        return "attention with learned sinks"
    if kwargs.get("cache") is not None or implementation.startswith("paged"):
        return "attention over a paged cache"
    if mask is not None and not isinstance(mask, torch.Tensor):
        return "attention with block masks (flex attention)"
    if mask is not None and mask.ndim not in (2, 4):
        return f"attention masks with {mask.ndim} axes"
    window = kwargs.get("sliding_window")
    if "flash" in implementation and window is not None and key.shape[2] > window:
        return "sliding windows inside a flash attention kernel"
    return ""


class _HearingProcessors(LogitsProcessorList):
    """The list of processors, which first shows the raw scores."""

    def __init__(self, processors: Any, session: _Session) -> None:
        super().__init__(processors)
        self.session = session

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Raw scores to the listener, then as transformers does."""
        session = self.session
        try:
            session.listener.logits(input_ids, scores, len(self) > 0)
        except Exception as error:
            session.listener.fail(guard.reason(error))
            guard.contain("reading scores", error)
        session.deaf = True  # until the criteria have run
        return super().__call__(input_ids, scores, **kwargs)


class _HearingCriteria(StoppingCriteriaList):
    """The list of stopping criteria, which afterwards shows the chosen tokens."""

    def __init__(self, criteria: Any, session: _Session) -> None:
        super().__init__(criteria)
        self.session = session

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """As transformers does, then the chosen tokens to the listener."""
        session = self.session
        session.deaf = True
        try:
            done = super().__call__(input_ids, scores, **kwargs)
        finally:
            session.deaf = False
        try:
            with torch.no_grad():
                session.listener.chosen(input_ids, done)
        except Exception as error:
            session.listener.fail(guard.reason(error))
            guard.contain("measuring a token", error)
        return done


_active: ContextVar[_Session | None] = ContextVar("cutaway_session", default=None)
_inside: ContextVar[bool] = ContextVar("cutaway_inside", default=False)
_home = _Home()
_lock = threading.Lock()
_PATCHED: Final[tuple[tuple[type, str], ...]] = (
    (GenerationMixin, "generate"), (GenerationMixin, "_get_logits_processor"), (GenerationMixin, "_get_stopping_criteria"),
    (AttentionInterface, "get_interface"), (TextGenerationPipeline, "_forward"),
)
_originals: dict[tuple[type, str], Any] = {}
_ours: dict[tuple[type, str], Any] = {}


def call_of(model: Any, arguments: dict[str, Any], seed: int | None, tokenizer: Any, messages: Any) -> Call:
    """What can be known of a call from its arguments. `tokenizer`: the fallback when the call brings none."""
    streamer = arguments.get("streamer")
    own = arguments.get("tokenizer")
    if own is None:
        own = getattr(streamer, "tokenizer", None)
    silence = ""
    if arguments.get("cache_implementation") == "paged":
        silence = "token signals are not exact in continuous batching"
    elif arguments.get("custom_generate") is not None:
        silence = "token signals are not exact in a custom generation loop"
    return Call(
        model=str(getattr(model.config, "name_or_path", "") or getattr(model.config, "_name_or_path", "") or ""),
        streaming=streamer is not None, seed=seed, tokenizer=tokenizer if own is None else own, messages=messages, silence=silence,
    )


def prepared_from(model: Any, arguments: dict[str, Any]) -> Prepared:
    """What the arguments alone say of a prompt, for calls that run in a loop of their own: enough to count tokens exactly."""
    config = arguments.get("generation_config") or model.generation_config
    ids: Any = arguments.get("inputs") if arguments.get("inputs") is not None else arguments.get("input_ids")
    is_ids = isinstance(ids, torch.Tensor) and ids.ndim == 2
    ends = getattr(config, "eos_token_id", None)
    limit = arguments.get("max_new_tokens", getattr(config, "max_new_tokens", None))
    length = int(ids.shape[1]) if is_ids else 0
    encoder_decoder = bool(model.config.is_encoder_decoder)
    return Prepared(
        mode="custom_generate", choices=1, beams=1, max_length=None if limit is None else length + int(limit), max_new_tokens=limit,
        temperature=None, top_p=None, top_k=None, stop_strings=(), end_ids=None if ends is None else torch.as_tensor(ends),
        rows=int(ids.shape[0]) if is_ids else 1, prompt_length=1 if encoder_decoder else length, input_length=length,
        input_mask=_mask_of(arguments), input_ids=ids if is_ids else None, encoder_decoder=encoder_decoder, deferrable=False,
    )


def sequences_of(result: Any) -> Any:
    """Returned ids [sequence, position] of whatever `generate` returned, or None."""
    return result if isinstance(result, torch.Tensor) else getattr(result, "sequences", None)


def _prepare(session: _Session, config: Any, details: dict[str, Any]) -> Prepared:
    """The effective configuration of a call, from the arguments of `_get_logits_processor`."""
    model = session.model
    model_kwargs = details.get("model_kwargs") or {}
    inputs = details.get("encoder_input_ids")
    encoder_decoder = bool(model.config.is_encoder_decoder)
    sampling = bool(config.do_sample)
    of_ids = inputs is not None and inputs.ndim == 2 and not inputs.is_floating_point()
    prompt_length = int(details.get("input_ids_seq_length") or 0)
    return Prepared(
        mode=str(getattr(config.get_generation_mode(session.assistant), "value", "unknown")),
        choices=int(config.num_return_sequences or 1), beams=int(config.num_beams or 1),
        max_length=config.max_length, max_new_tokens=config.max_new_tokens,
        temperature=config.temperature if sampling else None, top_p=config.top_p if sampling else None,
        top_k=config.top_k if sampling else None, stop_strings=_strings(config.stop_strings),
        end_ids=getattr(config, "_eos_token_tensor", None),
        rows=1 if inputs is None else int(inputs.shape[0]), prompt_length=prompt_length,
        input_length=prompt_length if inputs is None or inputs.ndim < 2 else int(inputs.shape[1]),
        input_mask=_mask_of(model_kwargs), input_ids=inputs if of_ids else None, encoder_decoder=encoder_decoder,
        deferrable=(config.num_beams or 1) == 1 and _only_appends(model_kwargs.get("past_key_values")),
        time_limited=config.max_time is not None, pad_id=getattr(config, "_pad_token_tensor", None),
    )


def _strings(value: Any) -> tuple[str, ...]:
    return () if value is None else (value,) if isinstance(value, str) else tuple(value)


def _mask_of(model_kwargs: dict[str, Any]) -> Any:
    mask = model_kwargs.get("attention_mask")
    return mask if isinstance(mask, torch.Tensor) and mask.ndim == 2 else None


def _only_appends(cache: Any) -> bool:
    """Whether every layer of the cache is one that appends in new memory, so that keys once seen stay as they were."""
    if type(cache) is not DynamicCache or getattr(cache, "offloading", False):
        return False
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)


def _patched_generate(opener: Opener, home: _Home) -> Callable[..., Any]:
    original = _originals[(GenerationMixin, "generate")]

    def generate(self: Any, *args: Any, **kwargs: Any) -> Any:
        if home.inert or torch.compiler.is_compiling():
            return original(self, *args, **kwargs)
        arguments = dict(zip(_ARGUMENTS, args, strict=False)) | kwargs

        def run(listener: Hearing | None) -> Any:
            session = None if listener is None else _Session(self, listener, arguments.get("assistant_model"), home)
            token = _active.set(session)
            try:
                return original(self, *args, **kwargs)
            finally:
                _active.reset(token)
                if session is not None:
                    session.close()

        if _inside.get():
            return run(None)  # an assistant, a retry or a wrapper's inner model: part of the call that is already heard
        token = _inside.set(True)
        try:
            return opener(self, arguments, run)
        finally:
            _inside.reset(token)
    return _like(generate, original)


def _patched_processors(home: _Home) -> Callable[..., Any]:
    original = _originals[(GenerationMixin, "_get_logits_processor")]

    def _get_logits_processor(self: Any, generation_config: Any, *args: Any, **kwargs: Any) -> Any:
        found = original(self, generation_config, *args, **kwargs)
        session = _active.get()
        if session is None or session.home is not home or session.model is not self:
            return found
        try:
            details = dict(zip(_PREPARED, args, strict=False)) | kwargs
            session.listener.prepared(_prepare(session, generation_config, details))
            return _HearingProcessors(found, session) if session.listener.hears_tokens else found
        except Exception as error:
            session.listener.fail(guard.reason(error))
            guard.contain("preparing to listen", error)
            return found
    return _like(_get_logits_processor, original)


def _patched_criteria(home: _Home) -> Callable[..., Any]:
    original = _originals[(GenerationMixin, "_get_stopping_criteria")]

    def _get_stopping_criteria(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = original(self, *args, **kwargs)
        session = _active.get()
        if session is None or session.home is not home or session.model is not self:
            return found
        try:
            checks = [criterion for criterion in found if isinstance(criterion, StopStringCriteria)]
            session.listener.stop_strings(_one_argument(checks[0]) if checks else None)
            return _HearingCriteria(found, session)
        except Exception as error:
            session.listener.fail(guard.reason(error))
            guard.contain("preparing to listen", error)
            return found
    return _like(_get_stopping_criteria, original)


def _one_argument(check: Any) -> Callable[[Any], Any]:
    return lambda ids: check(ids, None)


def _patched_interface(home: _Home) -> Callable[..., Any]:
    original = _originals[(AttentionInterface, "get_interface")]

    def get_interface(self: Any, attn_implementation: str, default: Callable[..., Any]) -> Callable[..., Any]:
        function: Callable[..., Any] = original(self, attn_implementation, default)
        if torch.compiler.is_compiling():  # first: reading a ContextVar breaks a traced graph
            return function
        session = _active.get()
        if session is None or session.home is not home or session.deaf or not session.listener.hears_attention:
            return function
        return session.hearing(function, attn_implementation or "")
    return _like(get_interface, original)


def _patched_pipeline(scope: PipelineScope, home: _Home) -> Callable[..., Any]:
    original = _originals[(TextGenerationPipeline, "_forward")]

    def _forward(self: Any, model_inputs: Any, **kwargs: Any) -> Any:
        if home.inert:
            return original(self, model_inputs, **kwargs)
        prompt = model_inputs.get("prompt_text") if hasattr(model_inputs, "get") else None
        chats = [getattr(each, "messages", None) or () for each in (prompt if isinstance(prompt, (list, tuple)) else [prompt])]
        with scope(self.tokenizer, [message for chat in chats for message in chat] or None):
            return original(self, model_inputs, **kwargs)
    return _like(_forward, original)


def _like(function: Any, original: Any) -> Patched:
    """A replacement that says it is one: same name and documentation, the original under `__wrapped__`."""
    function.__name__, function.__qualname__ = original.__name__, original.__qualname__
    function.__doc__, function.__wrapped__ = original.__doc__, original
    return cast("Patched", function)


def install(opener: Opener, pipeline_scope: PipelineScope) -> None:
    """Patches the classes; a second call changes nothing."""
    global _home
    with _lock:
        if _originals:
            return
        _home = _Home()
        _originals.update({(owner, name): vars(owner)[name] for owner, name in _PATCHED})
        replacements = (
            _patched_generate(opener, _home), _patched_processors(_home), _patched_criteria(_home), _patched_interface(_home),
            _patched_pipeline(pipeline_scope, _home),
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
