"""Listens to continuous batching (`model.generate_batch`): what is asked, and what its outputs say of each request.

Not a look inside: its loop runs in a thread of its own, packs rows of many requests together and draws tokens without showing a
score. Nothing is switched on behind the program's back; log-probabilities and times are there when the program asked for them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Final, Protocol

import torch
from transformers.generation.utils import GenerationMixin

from cutaway import guard
from cutaway.steps import Answer, Prepared
from cutaway.tap.session import Home

ARGUMENTS: Final = (
    "inputs", "generation_config", "continuous_batching_config", "record_timestamps", "progress_bar", "persistent_manager",
    "warmup",
)
"""Positional order of `generate_batch`."""

MODE: Final = "continuous_batching"
_POSITIONS_MAX: Final = 1024 * 1024
"""Prompts of a batch that take more, padded to the longest, are counted but not kept."""

Opener = Callable[[Any, dict[str, Any], Callable[[Any], Any]], Any]
"""See patches.Opener; the listener is a BatchListener."""


class BatchListener(Protocol):
    """Who hears one call of `generate_batch`."""

    def prepared(self, prepared: Prepared) -> None:
        """The call is about to run."""

    def answered(self, answers: list[Answer]) -> None:
        """It returned: one answer a request, in the order of the inputs."""

    def fail(self, reason: str) -> None:
        """Listening failed: nothing heard in this call can be trusted."""


_listening: ContextVar[BatchListener | None] = ContextVar("cutaway_batch", default=None)
"""Who hears the `generate_batch` that a `generate(cache_implementation="paged")` is about to call."""


def owner() -> type | None:
    """The class `generate_batch` is defined on; None in a transformers without it."""
    return next((each for each in GenerationMixin.__mro__ if "generate_batch" in vars(each)), None)


def is_paged(arguments: Mapping[str, Any]) -> bool:
    """Whether this call of `generate` leaves for continuous batching."""
    return arguments.get("cache_implementation") == "paged" and not isinstance(arguments.get("custom_generate"), str)


def heard_by(listener: BatchListener | None, call: Callable[[], Any]) -> Any:
    """Runs a call of `generate` that leaves for continuous batching: whoever listens hears that."""
    token = _listening.set(listener)
    try:
        return call()
    finally:
        _listening.reset(token)


def replacement(original: Callable[..., Any], opener: Opener, home: Home, inside: ContextVar[bool]) -> Callable[..., Any]:
    """What stands for `generate_batch`. `inside`: whether a call of ours is being heard already."""
    def generate_batch(self: Any, *args: Any, **kwargs: Any) -> Any:
        if home.inert or torch.compiler.is_compiling():
            return original(self, *args, **kwargs)
        arguments = dict(zip(ARGUMENTS, args, strict=False)) | kwargs

        def run(listener: BatchListener | None) -> Any:
            if listener is None:
                return original(self, *args, **kwargs)
            batch = _Batch(self, arguments, listener)
            outputs = original(self, *args, **kwargs)
            batch.tell(outputs)
            return outputs

        listener = _listening.get()
        if listener is not None or inside.get():
            return heard_by(None, lambda: run(listener))
        token = inside.set(True)
        try:
            return opener(self, arguments, run)
        finally:
            inside.reset(token)
    return generate_batch


class _Batch:
    """One call: what was asked, kept until its outputs are there."""

    def __init__(self, model: Any, arguments: dict[str, Any], listener: BatchListener) -> None:
        self._listener = listener
        self._inputs: list[list[int]] = []
        self._is_asked = False
        try:
            self._ask(model, arguments)
            self._is_asked = True
        except Exception as error:
            listener.fail(guard.reason(error))
            guard.contain("preparing to listen", error)
        self._begun = time.perf_counter()

    def _ask(self, model: Any, arguments: dict[str, Any]) -> None:
        config = arguments.get("generation_config") or model.generation_config
        kept = getattr(model, "_cached_continuous_batching_manager", None)
        ruling = config if kept is None else kept.generation_config  # a manager that was kept goes on as it was made
        self._inputs = [list(map(int, each)) for each in arguments.get("inputs") or ()]
        self._copies = int(getattr(config, "num_return_sequences", None) or 1)
        self._ends = frozenset(_ids(getattr(ruling, "eos_token_id", None)))
        self._limit = arguments.get("max_new_tokens")
        for each in (config, ruling):
            self._limit = getattr(each, "max_new_tokens", None) if self._limit is None else self._limit
        self._listener.prepared(_prepared(model, ruling, self._inputs, self._copies, self._limit))

    def tell(self, outputs: Any) -> None:
        """Hands on what the outputs say; nothing where we do not know what was asked, which is told already."""
        if not self._is_asked:
            return
        try:
            self._listener.answered(list(self._answers(list(outputs.values()))))
        except Exception as error:
            self._listener.fail(guard.reason(error))
            guard.contain("reading the outputs of a batch", error)

    def _answers(self, outputs: list[Any]) -> Iterator[Answer]:
        """Outputs come in the order of the inputs; those of requests that got lost are simply not there."""
        complete = len(outputs) == len(self._inputs) * self._copies
        left = iter(outputs)
        following = next(left, None)
        for prompt in self._inputs:
            for _ in range(self._copies):
                if following is None or not (complete or following.prompt_ids == prompt):
                    yield Answer(len(prompt), [], "error")
                    continue
                yield self._answer(prompt, following)
                following = next(left, None)

    def _answer(self, prompt: list[int], output: Any) -> Answer:
        ids = list(output.generated_tokens)
        if output.error is not None or str(getattr(output.status, "name", "FINISHED")) != "FINISHED":
            reason = "error"
        elif ids and (ids[-1] in self._ends or (self._limit is not None and len(ids) < self._limit)):
            reason = "stop"  # whatever ends before the limit was ended by an id
        else:
            reason = "length"
        moments = [moment - self._begun for moment in getattr(output, "timestamps", None) or ()]
        return Answer(len(prompt), ids, reason, list(getattr(output, "logprobs", None) or ()), moments)


def _ids(value: Any) -> list[int]:
    if isinstance(value, torch.Tensor):
        value = value.reshape(-1).tolist()
    return [] if value is None else [int(value)] if isinstance(value, int) else [int(each) for each in value]


def _prepared(model: Any, config: Any, inputs: list[list[int]], copies: int, limit: int | None) -> Prepared:
    sampling = bool(config.do_sample)
    longest = max(map(len, inputs), default=0)
    ids, mask = _padded(inputs, longest) if 0 < longest * len(inputs) <= _POSITIONS_MAX else (None, None)
    return Prepared(
        mode=MODE, choices=copies, beams=1, max_length=None, max_new_tokens=limit,
        temperature=config.temperature if sampling else None, top_p=config.top_p if sampling else None,
        top_k=config.top_k if sampling else None, stop_strings=(), end_ids=None, rows=len(inputs), prompt_length=longest,
        input_length=longest, input_mask=mask, input_ids=ids, deferrable=False,
        encoder_decoder=bool(model.config.is_encoder_decoder),
    )


def _padded(inputs: list[list[int]], longest: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask [row, position], padded on the left."""
    ids = torch.tensor([[0] * (longest - len(each)) + each for each in inputs])
    mask = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in inputs])
    return ids, mask
