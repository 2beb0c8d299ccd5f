"""What is asked of a call of `generate`: read from its arguments, and from transformers once it has prepared them.

Not what happens in it: see session.py and patches.py.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer, EncoderDecoderCache

from cutaway.steps import Call, Prepared

ARGUMENTS: Final = (
    "inputs", "generation_config", "logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "synced_gpus",
    "assistant_model", "streamer", "negative_prompt_ids", "negative_prompt_attention_mask", "custom_generate",
)
"""Positional order of `generate`."""

PREPARED: Final = (
    "input_ids_seq_length", "encoder_input_ids", "prefix_allowed_tokens_fn", "logits_processor", "device", "model_kwargs",
)
"""Positional order of `_get_logits_processor` after the configuration."""


def call_of(model: Any, arguments: dict[str, Any], seed: int | None, tokenizer: Any, messages: Any) -> Call:
    """What can be known of a call from its arguments. `tokenizer`: the fallback when the call brings none."""
    streamer = arguments.get("streamer")
    own = arguments.get("tokenizer")
    if own is None:
        own = getattr(streamer, "tokenizer", None)
    return Call(
        model=model_name(model), streaming=streamer is not None, seed=seed, tokenizer=tokenizer if own is None else own,
        messages=messages,
    )


def model_name(model: Any) -> str:
    """The name the model was loaded under, "" when it has none."""
    return str(getattr(model.config, "name_or_path", "") or getattr(model.config, "_name_or_path", "") or "")


def devices_of(model: Any) -> list[str]:
    """CUDA devices the model's parameters lie on, in order; [] elsewhere."""
    devices = {parameter.device for parameter in model.parameters()} if torch.cuda.is_initialized() else set()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return sorted(f"cuda:{device.index or 0}" for device in devices if device.type == "cuda")


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


def prepared_by(model: Any, config: Any, details: dict[str, Any], assistant: Any, own_loop: bool) -> Prepared:
    """The effective configuration of a call, from the arguments of `_get_logits_processor`."""
    model_kwargs = details.get("model_kwargs") or {}
    inputs = details.get("encoder_input_ids")
    encoder_decoder = bool(model.config.is_encoder_decoder)
    sampling = bool(config.do_sample)
    of_ids = inputs is not None and inputs.ndim == 2 and not inputs.is_floating_point()
    cache = model_kwargs.get("past_key_values")
    deferrable = (config.num_beams or 1) == 1 and only_appends(cache)
    prompt_length = int(details.get("input_ids_seq_length") or 0)
    # sound or pictures are no tokens to count: the prompt is what the decoder begins with
    is_media = inputs is not None and inputs.is_floating_point() and getattr(model, "main_input_name", "input_ids") != "input_ids"
    mode = "custom_generate" if own_loop else str(getattr(config.get_generation_mode(assistant), "value", "unknown"))
    return Prepared(
        mode=mode, choices=int(config.num_return_sequences or 1), beams=int(config.num_beams or 1),
        max_length=config.max_length, max_new_tokens=config.max_new_tokens,
        temperature=config.temperature if sampling else None, top_p=config.top_p if sampling else None,
        top_k=config.top_k if sampling else None, stop_strings=_strings(config.stop_strings),
        end_ids=getattr(config, "_eos_token_tensor", None),
        rows=1 if inputs is None else int(inputs.shape[0]), prompt_length=prompt_length,
        input_length=prompt_length if inputs is None or inputs.ndim < 2 or is_media else int(inputs.shape[1]),
        input_mask=None if is_media else _mask_of(model_kwargs), input_ids=inputs if of_ids else None,
        encoder_decoder=encoder_decoder,
        deferrable=deferrable, cache=_own_keys(cache) if deferrable else None,
        pad_id=getattr(config, "_pad_token_tensor", None), layers=_layers(model), own_loop=own_loop,
    )


def _layers(model: Any) -> int:
    text = model.config.get_text_config(decoder=True)
    return int(getattr(text, "num_hidden_layers", None) or getattr(text, "n_layer", None) or 0)


def _strings(value: Any) -> tuple[str, ...]:
    return () if value is None else (value,) if isinstance(value, str) else tuple(value)


def _mask_of(model_kwargs: dict[str, Any]) -> Any:
    mask = model_kwargs.get("attention_mask")
    return mask if isinstance(mask, torch.Tensor) and mask.ndim == 2 else None


def _own_keys(cache: Any) -> Any:
    """The part of a cache that holds a decoder's keys of itself."""
    return cache.self_attention_cache if type(cache) is EncoderDecoderCache else cache


def only_appends(cache: Any) -> bool:
    """Whether every layer of the cache is one that appends in new memory, so that keys once seen stay as they were."""
    cache = _own_keys(cache)
    if type(cache) is not DynamicCache or getattr(cache, "offloading", False):
        return False
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)
