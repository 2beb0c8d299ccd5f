"""One generation being heard on one thread: which attention module is which layer, and who hears it.

Not a decision of what is recorded: the listener has made it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

import torch
from transformers.generation.stopping_criteria import StoppingCriteria

from cutaway import guard
from cutaway.steps import CROSS, SELF, Ear, Listener

_CROSS_NAMES: Final = ("cross", "encdec", "encoder_attn", "encoder_attention")
"""Parts of the names transformers gives to attention modules that look at an encoder: `encoder_attn`, `EncDecAttention`, ..."""


class Hearing(Listener, Protocol):
    """A listener that says what it still wants to hear, and can be told that attention is not exact."""

    @property
    def hears_attention(self) -> bool:
        """Whether attention should be passed on."""

    @property
    def hears_tokens(self) -> bool:
        """Whether logits should be passed on."""

    @property
    def awaits_pass(self) -> bool:
        """Whether the model's pass is still to come: drafts are tried on the processors before the model checks them."""

    def give_up_attention(self, reason: str) -> None:
        """Attention is not exact in this call."""

    def fail_attention(self, reason: str) -> None:
        """Listening to attention failed: nothing of it can be trusted."""

    def fail(self, reason: str) -> None:
        """Listening itself failed: nothing heard in this call can be trusted."""

    def stop_strings(self, check: Any, time_check: Callable[[], bool] | None) -> None:
        """The criterion that finds stop strings, ids [sequence, position] -> bool [sequence], and the one that watches the time."""


class Home:
    """One installation. A method of it that others wrapped stays where it is after `remove`, and then only passes through."""

    inert = False


class _Deaf:
    """Stands for a module that is not one of the layers we report."""

    unwanted = True

    def hear(self, query: Any, key: Any, mask: Any, position_bias: Any) -> None:
        """Nothing."""


_DEAF: Final = _Deaf()

_UNASKED: Final[tuple[Any, Any, Any, Callable[..., Any]]] = (None, None, None, lambda: None)
"""No registry is None."""


class Session:
    """One generation: the model it runs, who listens, and the ear of every attention module."""

    __slots__ = (
        "_ears", "_names", "_owners", "_wrapped", "answered", "assistant", "criteria", "deaf", "home", "listener", "model",
        "own_loop",
    )

    def __init__(self, model: Any, listener: Hearing, assistant: Any, own_loop: bool, home: Home) -> None:
        self.home = home
        self.model = model
        self.assistant = assistant
        self.own_loop = own_loop
        self.listener = listener
        self.deaf = False
        """True from the scores to the end of the criteria: a processor (guidance), a streamer or a criterion may run the model once
        more, and that pass predicts nothing we report."""
        self.criteria: Iterable[Any] = ()
        """Stopping criteria of the call, as they are by now: a program may add to the list."""
        self._names: dict[int, str] | None = None
        self._owners: dict[tuple[str, int], int] = {}
        self._ears: dict[Any, Ear] = {}
        self._wrapped: dict[tuple[Any, str], Callable[..., Any]] = {}
        self.answered: tuple[Any, Any, Any, Callable[..., Any]] = _UNASKED
        """The last question to the registry of attention functions (registry, name, default) and its answer: all layers ask the
        same one, and to remember costs less than to ask. Forgotten at every step: a program may register another meanwhile."""

    def close(self) -> None:
        """Lets go of the model at once: the functions made here refer back to the session, a cycle that would keep it alive."""
        self.forget_answer()
        self.criteria = ()
        self._wrapped.clear()
        self._owners.clear()
        self._ears.clear()
        self.model = self.assistant = self._names = None
        self.deaf = True

    @property
    def watched(self) -> bool:
        """Whether a criterion of the host's own is shown the scores: it may write into them before they have been read."""
        return any(type(criterion).__module__ != StoppingCriteria.__module__ for criterion in self.criteria)

    def forget_answer(self) -> None:
        """The next layer asks the registry of attention functions again."""
        self.answered = _UNASKED

    def fault(self, where: str, error: Exception) -> None:
        """A fault of ours while listening: the listener is told, and the host is not."""
        with guard.guarded(where):
            self.listener.fail(guard.reason(error))
        guard.contain(where, error)

    def hearing(self, function: Callable[..., Any], implementation: str) -> Callable[..., Any]:
        """The attention function, followed by telling the layer's ear about it. The same one for the same function."""
        found = self._wrapped.get((function, implementation))
        if found is None:
            found = self._wrapped[(function, implementation)] = self._hearing(function, implementation)
        return found

    def _hearing(self, function: Callable[..., Any], implementation: str) -> Callable[..., Any]:
        ears = self._ears

        def heard(module: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
            result = function(module, query, key, value, *args, **kwargs)
            ear = ears.get(module)
            if ear is not _DEAF and not self.deaf:  # between two layers the caches are cold: each look at an object counts
                try:
                    if ear is None:
                        ear = ears[module] = self._ear(module, query, key, kwargs, implementation)
                    if ear.unwanted:
                        ears[module] = _DEAF
                        return result
                    mask = args[0] if args else kwargs.get("attention_mask")
                    if mask is not None or query.size(2) > 1:
                        key, mask = self._adjusted(query, key, mask, kwargs, implementation)
                        if ear.unwanted:
                            return result
                    ear.hear(query, key, mask, kwargs.get("position_bias"))
                except Exception as error:
                    self._fault(error)
            return result
        return heard

    def _fault(self, error: Exception) -> None:
        """Of attention alone: token signals do not need it."""
        with guard.guarded("listening to attention"):
            self.listener.fail_attention(guard.reason(error))
        guard.contain("listening to attention", error)

    def _ear(self, module: Any, query: Any, key: Any, kwargs: dict[str, Any], implementation: str) -> Ear:
        """Who hears this module; the deaf ear when it is none of the decoder's layers, or when attention is given up."""
        layer = getattr(module, "layer_idx", None)
        if self._names is None:
            self._names = {id(part): name for name, part in _decoder(self.model).named_modules()}
        name = self._names.get(id(module))
        if name is None or not isinstance(layer, int) or not self.listener.hears_attention:
            return _DEAF
        kind = CROSS if _is_cross(module, name) else SELF
        if kind == SELF and getattr(module, "is_causal", True) is False:
            return _DEAF
        reason = _inexact(kwargs, key, implementation)
        if not reason and self._owners.setdefault((kind, layer), id(module)) != id(module):
            reason = "several attention modules share a layer number"
        if reason:
            self.listener.give_up_attention(reason)
            return _DEAF
        scale = kwargs.get("scaling")
        scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
        sink = kwargs.get("s_aux")
        return self.listener.ear(kind, layer, scale, kwargs.get("softcap"), None if sink is None else sink.detach().reshape(-1))

    def _adjusted(self, query: Any, key: Any, mask: Any, kwargs: dict[str, Any], implementation: str) -> tuple[Any, Any]:
        """Keys and mask as the kernel itself looks at them."""
        if mask is None:
            length = query.shape[2]
            if 1 < length < key.shape[2] and implementation == "sdpa":
                key = key[:, :, :length]  # an empty static cache at prefill: sdpa itself looks at the first keys only
            return key, None
        if not isinstance(mask, torch.Tensor):
            self.listener.give_up_attention("attention with block masks (flex attention)")
            return key, None
        if mask.ndim == 2:
            return key, mask[:, None, None, :].bool()
        if mask.ndim != 4:
            self.listener.give_up_attention(f"attention masks with {mask.ndim} axes")
            return key, None
        if reason := _hidden_window(kwargs, key, implementation):
            self.listener.give_up_attention(reason)
        return key, mask


def _decoder(model: Any) -> Any:
    """The part that generates text: without the encoder, and without the towers that see or hear."""
    if model.config.is_encoder_decoder or model.config.get_text_config(decoder=True) is not model.config:
        decoder = model.get_decoder()
        if isinstance(decoder, torch.nn.Module):
            return decoder
    return model


def _is_cross(module: Any, name: str) -> bool:
    if vars(module).get("is_cross_attention"):
        return True
    return any(part in name.rpartition(".")[2].lower() or f".{part}" in name.lower() for part in _CROSS_NAMES)


def _inexact(kwargs: dict[str, Any], key: Any, implementation: str) -> str:
    """Why the attention of this layer cannot be told from query, key and mask ("" when it can)."""
    if kwargs.get("cache") is not None or implementation.startswith("paged"):
        return "attention over a paged cache"
    return _hidden_window(kwargs, key, implementation)


def _hidden_window(kwargs: dict[str, Any], key: Any, implementation: str) -> str:
    """Why the kernel sees less than its keys and mask say, "" when it does not."""
    window = kwargs.get("sliding_window")
    if "flash" in implementation and window is not None and key.shape[2] > window:
        return "sliding windows inside a flash attention kernel"
    return ""
