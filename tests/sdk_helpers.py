"""Oracles and prompts for the SDK's tests: everything here is computed without cutaway's own formulas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class Replay:
    """One sequence run again in one forward pass without padding: values of its generated tokens."""

    ids: Any
    surprisal: Any
    entropy: Any
    margin: Any
    rank: Any
    attention: Any  # [token, layer, head], float64


@torch.no_grad()
def replay(model: Any, prompt: Any, mask: Any, answer: Any, attention: bool = True) -> Replay:
    """prompt, mask, answer: 1-D tensors; padding is cut away. Attention weights come from the eager kernel."""
    kept = prompt[mask.bool()]
    ids = torch.cat([kept, answer])[None]
    used = model.config._attn_implementation
    if attention:
        model.set_attn_implementation("eager")
    try:
        out = model(ids, output_attentions=attention)
    finally:
        if attention:
            model.set_attn_implementation(used)
    first, count = len(kept) - 1, len(answer)
    rows = out.logits[0, first:first + count].double()
    logs = rows.log_softmax(-1)
    best = logs.sort(-1, descending=True).values
    chosen = logs.gather(-1, answer[:, None])[:, 0]
    entropies = None
    if attention:
        weights = torch.stack([layer[0] for layer in out.attentions]).double()  # [layer, head, query, key]
        entropies = torch.special.entr(weights).sum(-1)[:, :, first:first + count].permute(2, 0, 1).numpy()
    return Replay(
        ids=answer.numpy(),
        surprisal=torch.nn.functional.cross_entropy(out.logits[0, first:first + count].float(), answer, reduction="none").numpy(),
        entropy=torch.distributions.Categorical(logits=rows).entropy().numpy(),
        margin=(best[:, 0] - best[:, 1]).numpy(), rank=(logs > chosen[:, None]).sum(-1).numpy(), attention=entropies,
    )


def batch(rows: int = 3, longest: int = 9, vocabulary: int = 120, seed: int = 0) -> tuple[Any, Any]:
    """Random prompt ids [row, position] padded on the left with 0, and their mask: row i has `longest` - 2 i tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, vocabulary, (rows, longest), generator=generator)
    mask = torch.ones_like(ids)
    for i in range(rows):
        mask[i, :2 * i] = 0
        ids[i, :2 * i] = 0
    return ids, mask
