"""Where the query that predicted a token looked: entropy of its attention row and masses of parts of it.

Not the attention of the model: its kernel keeps no weights, so the rows asked for are computed again, without the matrix of the
whole sequence. What each row may see is told by a Sight (steps.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from cutaway.steps import Sight

SCORES_BYTES_MAX: Final = {"cpu": 3 * 512 * 1024}
"""Float32 attention scores held at once, by device; longer blocks are cut. On a CPU they should stay in its cache, and each cut has
its price: a block of 8 rows and 1024 keys takes 27 ms with 1.5 MiB, 35 with 1, 59 with a half (two cores, 1 MiB of cache each)."""

_SCORES_BYTES_MAX: Final = 32 * 1024 * 1024


def attention_signals(
    queries: Sequence[Tensor], keys: Sequence[Tensor], scale: float, sight: Sight, softcap: float | None = None,
    learned_sinks: Sequence[Tensor] | None = None,
) -> Tensor:
    """Entropy (nats), normalised entropy, sink mass, last-key mass and lookback ratio of attention rows of several layers.

    queries: of each layer [row, head, n, width]; keys: of each layer [row, key-value head, position, width] (grouped heads are
    not repeated: head h reads key-value head h // (heads / key-value heads)); learned_sinks: of each layer [head], logits of a
    sink that is no key (gpt-oss), or None. Returns float32 [5, layer, row, head, n]. With s = scale * q.k (soft-capped where the
    model does so, Gemma 2) and p = softmax(s) over the visible keys: entropy = LSE(s) - E_p[s]; normalised by the logarithm of
    the number of visible keys (0 where that is 1); sink mass = p of the first visible key, or the learned sink's own share;
    last-key mass = p of the last visible key (Vazhentsev et al. 2025, arXiv 2505.20045); lookback = A / (A + B), with A and B the
    mean weights of visible prompt keys and of visible generated keys (Chuang et al. 2024, arXiv 2407.07071), 1 while none was
    generated. A learned sink takes its share of the masses, and none of the entropy.
    Scores are float32 whatever the model's type: in bfloat16 the difference of the two terms would lose two digits.
    """
    rows, heads, count, _ = queries[0].shape
    device = queries[0].device
    row_bytes = max(1, 4 * rows * heads * keys[0].shape[2])
    at_once = max(1, SCORES_BYTES_MAX.get(device.type, _SCORES_BYTES_MAX) // row_bytes)
    layers = max(1, at_once // count)
    at_once = -(-count // -(-count // at_once))  # as many cuts, of the same size: a short one costs nearly as much as a whole one
    parts = []
    for first in range(0, len(queries), layers):
        some = slice(first, first + layers)
        sinks = None if learned_sinks is None else torch.stack(list(learned_sinks[some]))
        cuts = []
        for i in range(0, count, at_once):
            rows_now = [query[:, :, i:i + at_once] for query in queries[some]]
            cuts.append(_signals(rows_now, keys[some], scale, sight.part(i, i + at_once), softcap, sinks))
        parts.append(cuts[0] if len(cuts) == 1 else torch.cat(cuts, dim=-1))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _scores(queries: Sequence[Tensor], keys: Sequence[Tensor], scale: float, sight: Sight, softcap: float | None) -> Tensor:
    """Float32 [layer, row, head, n, position], very negative where a key is hidden."""
    rows, heads, count, width = queries[0].shape
    groups, positions = keys[0].shape[1], keys[0].shape[2]
    scores = torch.empty(len(queries), rows, heads, count, positions, dtype=torch.float32, device=queries[0].device)
    places = scores.view(len(queries), rows * groups, heads // groups * count, positions)
    for query, key, place in zip(queries, keys, places, strict=True):
        grouped = query.float().reshape(rows * groups, heads // groups * count, width)
        turned = key.float().reshape(rows * groups, positions, width).transpose(1, 2)
        torch.baddbmm(place, grouped, turned, beta=0, alpha=scale, out=place)
    if softcap is not None:
        scores.div_(softcap).tanh_().mul_(softcap)
    if sight.bias is not None:
        scores[..., positions - sight.bias.shape[-1]:].add_(sight.bias)
    return scores


def _signals(
    queries: Sequence[Tensor], keys: Sequence[Tensor], scale: float, sight: Sight, softcap: float | None,
    learned_sinks: Tensor | None,
) -> Tensor:
    scores = _scores(queries, keys, scale, sight, softcap)
    shape = scores.shape[:-1]
    p = scores.softmax(-1)
    log_total = scores.amax(-1) - p.amax(-1).log_()
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
    old.mul_(sight.each_old)
    lookback = old / new.mul_(sight.each_new).add_(old)
    if learned_sinks is not None:
        sink = (learned_sinks.float()[:, None, :, None] - log_total).sigmoid()
        first, last = sink, last * (1.0 - sink)
    return torch.stack((entropy, entropy * sight.scaled, first, last, lookback))


def attention_sources(
    query: Tensor, key: Tensor, scale: float, sight: Sight, softcap: float | None, count: int, learned_sink: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The `count` keys with the largest weight, mean over heads: positions int64 and weights float32, both [row, n, count].

    One layer; arguments as for attention_signals, learned_sink: [head] or None. Where fewer keys are visible the weights end in
    zeros.
    """
    scores = _scores((query,), (key,), scale, sight, softcap)[0]
    p = scores.softmax(-1)
    if learned_sink is not None:
        p.mul_(1.0 - (learned_sink.float()[None, :, None, None] - scores.logsumexp(-1, keepdim=True)).sigmoid())
    mean = p.mean(1)
    best = mean.topk(min(count, mean.shape[-1]), dim=-1)
    return best.indices, best.values
