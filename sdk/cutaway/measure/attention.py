"""Where the query that predicted a token looked: entropy of its attention row and masses of parts of it.

Not the attention of the model: its kernel keeps no weights, so the rows asked for are computed again, without the matrix of the
whole sequence. What each row may see is told by a Sight (steps.py).
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from cutaway.steps import Sight

SCORES_BYTES_MAX: Final = {"cpu": 1024 * 1024}
"""Float32 attention scores held at once, by device; longer blocks are cut. On a CPU they should stay in its cache: at 1024 keys
that halves the time."""

_SCORES_BYTES_MAX: Final = 32 * 1024 * 1024


def attention_signals(
    query: Tensor, key: Tensor, scale: float, sight: Sight, softcap: float | None = None, learned_sink: Tensor | None = None
) -> Tensor:
    """Entropy (nats), normalised entropy, sink mass, last-key mass and lookback ratio of attention rows.

    query: [row, head, n, width]; key: [row, key-value head, position, width] (grouped heads are not repeated: head h reads
    key-value head h // (heads / key-value heads)); learned_sink: [head] logits of a sink that is no key (gpt-oss), or None. Returns
    float32 [5, row, head, n]. With s = scale * q.k (soft-capped where the model does so, Gemma 2), p = softmax(s) over the visible
    keys: entropy = LSE(s) - E_p[s]; normalised by the logarithm of the number of visible keys (0 where that is 1); sink mass = p of
    the first visible key, or the learned sink's own share; last-key mass = p of the last visible key (Vazhentsev et al. 2025);
    lookback = A / (A + B), with A and B the mean weights of visible prompt keys and of visible generated keys (Chuang et al. 2024,
    arXiv 2407.07071), 1 while none was generated. A learned sink takes its share of the masses, and none of the entropy.
    Scores are float32 whatever the model's type: in bfloat16 the difference of the two terms would lose two digits.
    """
    rows, heads, count, _ = query.shape
    at_once = max(1, SCORES_BYTES_MAX.get(query.device.type, _SCORES_BYTES_MAX) // max(1, 4 * rows * heads * key.shape[2]))
    parts = [
        _signals(query[:, :, i:i + at_once], key, scale, sight.part(i, i + at_once), softcap, learned_sink)
        for i in range(0, count, at_once)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _scores(query: Tensor, key: Tensor, scale: float, sight: Sight, softcap: float | None) -> Tensor:
    """Float32 [row, head, n, position], very negative where a key is hidden."""
    rows, heads, count, width = query.shape
    groups, positions = key.shape[1], key.shape[2]
    grouped = query.float().mul(scale).reshape(rows, groups, heads // groups * count, width)
    scores = torch.matmul(grouped, key.float().transpose(-1, -2)).view(rows, heads, count, positions)
    if softcap is not None:
        scores.div_(softcap).tanh_().mul_(softcap)
    if sight.bias is not None:
        scores[..., positions - sight.bias.shape[-1]:].add_(sight.bias)
    return scores


def _signals(
    query: Tensor, key: Tensor, scale: float, sight: Sight, softcap: float | None, learned_sink: Tensor | None
) -> Tensor:
    scores = _scores(query, key, scale, sight, softcap)
    shape = scores.shape[:-1]
    p = scores.softmax(-1)
    top = scores.amax(-1)
    log_total = top - p.amax(-1).log()
    first = p.gather(-1, sight.first.expand(shape)[..., None])[..., 0]
    last = p.gather(-1, sight.last.expand(shape)[..., None])[..., 0]
    positions, prompt = scores.shape[-1], min(sight.prompt, scores.shape[-1])
    if positions - prompt <= prompt:  # the shorter part is summed, the other is what is left
        new = p[..., prompt:].sum(-1)
        old = 1.0 - new
    else:
        old = p[..., :prompt].sum(-1)
        new = 1.0 - old
    entropy = (log_total - p.mul_(scores).sum(-1)).clamp_min_(0.0)
    normalized = entropy * sight.scaled
    fresh = sight.visible - sight.prompt_visible
    old, new = old / sight.prompt_visible.clamp_min(1.0), torch.where(fresh > 0, new / fresh.clamp_min(1.0), 0.0)
    lookback = old / (old + new)
    if learned_sink is not None:
        sink = (learned_sink.float()[None, :, None] - log_total).sigmoid()
        first, last = sink, last * (1.0 - sink)
    return torch.stack((entropy, normalized, first, last, lookback))


def attention_sources(
    query: Tensor, key: Tensor, scale: float, sight: Sight, softcap: float | None, count: int
) -> tuple[Tensor, Tensor]:
    """The `count` keys with the largest weight, mean over heads: positions int64 and weights float32, both [row, n, count].

    Arguments as for attention_signals. Where fewer keys are visible the weights end in zeros.
    """
    mean = _scores(query, key, scale, sight, softcap).softmax(-1).mean(1)
    best = mean.topk(min(count, mean.shape[-1]), dim=-1)
    return best.indices, best.values
