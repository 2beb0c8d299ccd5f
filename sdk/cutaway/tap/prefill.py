"""What a second pass over a prompt needs of transformers: a cache of its own, and whether ids are all the prompt is made of.

Not the pass (prompt.py): nothing is run here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from transformers.cache_utils import Cache, DynamicCache

from cutaway.tap.calls import only_appends

_OF_IDS: Final = ("inputs", "input_ids", "attention_mask", "negative_prompt_ids", "negative_prompt_attention_mask")
"""Tensors a call may bring without its prompt being more than ids; the negative ones belong to a processor."""


def fresh_cache(model: Any) -> Any:
    """An empty cache for this model that takes a sequence in pieces, or None where it has no such cache (Mamba, hybrids)."""
    supports = getattr(model, "_supports_default_dynamic_cache", None)
    if supports is None or not supports() or "mamba" in type(model).__name__.lower():  # Mamba's own cache has another name
        return None
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    return cache if cache.layers and only_appends(cache) else None


def more_than_ids(model: Any, arguments: Mapping[str, Any]) -> str:
    """Why the prompt of a call is not told by its ids and a mask of its padding ("" when it is). To be asked before the call."""
    if "prepare_inputs_for_generation" in vars(model):  # soft prompts are put in front this way
        return "the model's inputs are prepared by somebody else"
    if str(getattr(model.config, "_attn_implementation", "")).startswith("paged"):
        return "the model's attention works on packed batches only"
    for name, value in arguments.items():
        if isinstance(value, Cache) and value.get_seq_length() == 0:
            continue
        if isinstance(value, Cache):
            return "a cache of the program's own holds a part of the prompt"
        if name == "attention_mask" and getattr(value, "ndim", 2) != 2:
            return "its attention mask says more than where padding is"
        if name not in _OF_IDS and not hasattr(model.generation_config, name) and _has_tensors(value):
            return f"it is more than ids ({name})"
    return ""


def _has_tensors(value: Any) -> bool:
    within = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
    return any(isinstance(each, torch.Tensor) for each in within)
