"""What watching costs a model on a GPU: time and memory against the bare call beside it. No figures where there is no GPU.

Not the real weights: models of real shapes with random weights, since a step costs the same whatever it says.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import torch

from tests.bench.sdk import NEW_TOKENS, Around, Figures, Seconds, _paired, _variants

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
    """By model, shape and variant: wall and CPU time of one call, and the most memory the GPU held."""
    if not torch.cuda.is_available():
        return
    for size, shape in MODELS.items():
        model = _model(shape)
        for prompt, batch in SHAPES:
            for name in VARIANTS:
                peaks: list[float] = []
                pairs = _paired(partial(_call, model, prompt, batch, peaks), _variants()[name], rounds)
                where = f"{name} on CUDA, {size} ({prompt} x {batch})"
                for number, unit in enumerate(("CPU s", "wall s")):
                    yield f"generate, {where}", unit, "bare generate", [(a[number], b[number]) for a, b in pairs]
                bare, ours = min(peaks), max(peaks)
                yield f"peak GPU memory, {where}", "MiB", "bare generate", [(ours, bare)]
        del model
        torch.cuda.empty_cache()


def _model(shape: dict[str, int]) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("llama", max_position_embeddings=8192, bos_token_id=1, eos_token_id=2, pad_token_id=0, **shape)
    with torch.device("cuda"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


def _call(model: Any, prompt: int, batch: int, peaks: list[float], around: Around) -> Seconds:
    ids = torch.randint(5, model.config.vocab_size - 1, (batch, prompt), generator=torch.Generator().manual_seed(0)).cuda()
    with around(model) as (options, settle):
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
        began_cpu, began = time.process_time(), time.perf_counter()
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS,
                       do_sample=False, **options)
        torch.cuda.synchronize()
        wall = time.perf_counter() - began
        settle()
        cpu = time.process_time() - began_cpu
    peaks.append(torch.cuda.max_memory_allocated() / 2**20)
    return cpu, wall
