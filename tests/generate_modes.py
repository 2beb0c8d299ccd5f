"""Ways to decode that the tests of a CPU and of a GPU share, and what of the recorder runs on the generating thread."""

from __future__ import annotations

from typing import Any

import torch

from cutaway.testing import tiny_model
from sdk_helpers import batch

HEARD = ("prepared", "stop_strings", "ear", "logits", "processed", "chosen", "stop")
"""What the recorder does on the generating thread; `stop` too hands its work to the device and goes on."""

MODES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampling with processors": {"do_sample": True, "top_k": 20, "temperature": 0.7, "repetition_penalty": 1.3},
    "several": {"do_sample": True, "num_return_sequences": 2},
    "beams": {"num_beams": 3, "do_sample": False},
    "lookup": {"prompt_lookup_num_tokens": 2, "do_sample": False},
    "assisted": {"assistant_model": "another", "do_sample": False},
    "static cache": {"cache_implementation": "static", "do_sample": False},
    "no cache": {"use_cache": False, "do_sample": False},
}


def generate(model: Any, mode: str, tokens: int = 40) -> Any:
    """A padded batch, or one row where the mode takes no more, on the model's device."""
    options = dict(MODES[mode])
    if "assistant_model" in options:
        options["assistant_model"] = tiny_model(seed=1).to(model.device)
    single = {"prompt_lookup_num_tokens", "assistant_model"} & set(options)
    ids, mask = (each.to(model.device) for each in batch(1 if single else 3))
    torch.manual_seed(5)
    return model.generate(ids, attention_mask=mask, max_new_tokens=tokens, min_new_tokens=tokens, **options)
