"""What watching costs a model on a GPU: time and memory against the bare call beside it. No figures where there is no GPU.

Not the real weights: models of real shapes with random weights, since a step costs the same whatever it says.
"""

from __future__ import annotations

from typing import Any

import torch
from tests.bench.sdk import NEW_TOKENS, Around, Figures, _bare, _variants, in_turns

SHAPES = ((64, 1), (1024, 8))
"""(prompt tokens, batch)."""
MODELS: dict[str, dict[str, int]] = {
    "135M": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
             "num_key_value_heads": 3, "vocab_size": 49_152},
    "8B": {"hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 128_256},
}
"""Shapes of SmolLM2-135M and Llama-3-8B, in bfloat16."""
VARIANTS = ("default signals", "every layer", "unsampled")


def figures(rounds: int) -> Figures:
    """By model, shape and variant: wall time of two calls that take turns every few tokens, and the most memory the GPU held."""
    if not torch.cuda.is_available():
        return
    for size, shape in MODELS.items():
        model = _model(shape)
        for prompt, batch in SHAPES:
            for name in VARIANTS:
                where = f"{name} on CUDA, {size} ({prompt} x {batch})"
                with _variants()[name](model):
                    for part, pairs in in_turns(model, prompt, batch, rounds).items():
                        yield f"generate in step, {part}{where}", "wall s", "bare generate", pairs
                peaks = [_peak_mib(model, prompt, batch, variant) for variant in (_variants()[name], _bare)]
                yield f"peak GPU memory, {where}", "MiB", "bare generate", [(peaks[0], peaks[1])]
        del model
        torch.cuda.empty_cache()


def _model(shape: dict[str, int]) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("llama", max_position_embeddings=8192, bos_token_id=1, eos_token_id=2, pad_token_id=0, **shape)
    with torch.device("cuda"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


def _peak_mib(model: Any, prompt: int, batch: int, around: Around) -> float:
    ids = torch.randint(5, model.config.vocab_size - 1, (batch, prompt), device="cuda")
    with around(model) as (options, settle):
        torch.cuda.reset_peak_memory_stats()
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS,
                       do_sample=False, **options)
        settle()
    return torch.cuda.max_memory_allocated() / 2**20
