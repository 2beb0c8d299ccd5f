"""Pure tensor functions: the readable reference for every signal. Natural logarithms, so every entropy is in nats.

Not a recorder: no state, no device transfer, no synchronisation. A caller may run these on any device; results stay there.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

_FLOOR: Final = -80.0
"""Scores further below the largest one count as this far: exp(-80) is 2e-35, nothing beside 1 even a million times over, and a
normal float32. Below exp(-87) floats are denormal and cost ten times the time; at -inf, 0 * -inf would be NaN."""

SCORES_BYTES_MAX: Final = {"cpu": 1024 * 1024}
"""Float32 attention scores held at once, by device; longer blocks are cut. On a CPU they should stay in its cache: at 1024 keys
that halves the time."""

_SCORES_BYTES_MAX: Final = 32 * 1024 * 1024


def token_signals(logits: Tensor, chosen: Tensor) -> Tensor:
    """Surprisal, entropy, margin (nats) and rank of one chosen token a row.

    logits: [row, vocabulary], raw (before any processor); chosen: int [row]. Returns float32 [4, row].
    With z = logits - max and Z = sum exp z: surprisal = log Z - z[chosen]; entropy = log Z - E_p[z]; margin = z(1) - z(2);
    rank = number of tokens with a larger logit. Shannon's definitions; perplexity is exp(mean surprisal).
    """
    logits = logits.float()
    top = logits.topk(2, dim=-1).values
    picked = logits.gather(-1, chosen[:, None])
    shifted = (logits - top[:, :1]).clamp_min_(_FLOOR)
    weights = shifted.exp()
    total = weights.sum(-1)
    log_total = total.log()
    entropy = log_total - weights.mul_(shifted).sum(-1) / total
    surprisal = log_total - (picked - top[:, :1])[:, 0]
    rank = (logits > picked).sum(-1)
    return torch.stack((surprisal, entropy.clamp_min_(0.0), top[:, 0] - top[:, 1], rank.to(surprisal.dtype)))


def attention_entropy(query: Tensor, key: Tensor, scale: float, bias: Tensor | None, softcap: float | None = None) -> Tensor:
    """Entropy of attention rows, without the attention matrix of the whole sequence.

    query: [row, head, n, width]; key: [row, key-value head, position, width] (grouped heads are not repeated: head h reads
    key-value head h // (heads / key-value heads)); bias: float32 broadcastable to [row, 1 or head, n, position], 0 where a key
    is visible and very negative where it is not, or None. Returns float32 [row, head, n], nats.
    H = log sum exp(s) - E_p[s] with s = scale * q.k, soft-capped where the model does so (Gemma 2). Scores are float32 whatever
    the model's type: in bfloat16 the difference of the two terms would lose two digits.
    """
    rows, heads, count, width = query.shape
    groups, positions = key.shape[1], key.shape[2]
    at_once = max(1, SCORES_BYTES_MAX.get(query.device.type, _SCORES_BYTES_MAX) // max(1, 4 * rows * heads * positions))
    if count > at_once:
        cuts = [slice(i, i + at_once) for i in range(0, count, at_once)]
        parts = [
            attention_entropy(query[:, :, cut], key, scale, None if bias is None else bias[..., cut, :], softcap) for cut in cuts
        ]
        return torch.cat(parts, dim=-1)
    grouped = query.reshape(rows, groups, heads // groups * count, width).float()
    scores = torch.matmul(grouped, key.float().transpose(-1, -2)).view(rows, heads, count, positions).mul_(scale)
    if softcap is not None:
        scores = scores.div_(softcap).tanh_().mul_(softcap)
    if bias is not None:
        scores = scores.add_(bias)
    scores = scores.sub_(scores.amax(-1, keepdim=True)).clamp_min_(_FLOOR)
    weights = scores.exp()
    total = weights.sum(-1)
    return (total.log() - weights.mul_(scores).sum(-1) / total).clamp_min_(0.0)
