"""What a next-token distribution says of the token that was chosen from it.

Not attention (attention.py). Each function reads every logit a few times and nothing else: the vocabulary is the cost.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from cutaway.conventions import MIN_P

_FLOOR: Final = -80.0
"""Logits further below the largest one count as this far: exp(-80) is 2e-35, nothing beside 1 even a million times over, and a
normal float32. At -inf, 0 * -inf would be NaN."""

_ROWS_BYTES_MAX: Final = {"cpu": 4 * 1024 * 1024}
"""Logits looked at together: on a CPU they should stay in its cache while they are read a dozen times."""

_ROWS_BYTES_MAX_ELSEWHERE: Final = 64 * 1024 * 1024

_RUN: Final = 64
"""Neighbouring logits that are first reduced to their largest when the k largest are sought: reading them once costs a tenth of
torch.topk over all of them (SmolLM2's 49152: 10 against 73 us a row on one core)."""


def token_signals(logits: Tensor, chosen: Tensor) -> Tensor:
    """Surprisal, entropy, margin, rank, varentropy and min-p mass of one chosen token a row.

    logits: [row, vocabulary], raw (before any processor); chosen: int [row]. Returns float32 [6, row], in nats but for rank
    (tokens) and mass. With z = logits - max and p = softmax(logits): log Z = -log max p; surprisal = log Z - z[chosen]; entropy
    H = log Z - E_p[z]; margin = z(1) - z(2); rank = number of tokens with a larger logit; varentropy = E_p[z^2] - E_p[z]^2, the
    variance of -log p; min-p mass = sum of the p that reach MIN_P * max p (Nguyen et al. 2024, arXiv 2407.01082: their filter,
    as a mass).
    """
    return signals_of(torch.stack(token_moments(logits, chosen)))


def token_moments(logits: Tensor, chosen: Tensor, scratch: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, ...]:
    """What must be read from every logit, so that the rest can be worked out later for many tokens at once (`signals_of`).

    logits, chosen: as for `token_signals`; scratch: two float32 tensors [n, vocabulary] that may be overwritten, so that nothing
    large is allocated. Returns eight tensors [row], which to join at every step would cost a twentieth of all this: max, second
    largest, the chosen logit, max p, rank, min-p mass, E_p[z], E_p[z^2].
    """
    rows, width = logits.shape
    at_once = max(1, _ROWS_BYTES_MAX.get(logits.device.type, _ROWS_BYTES_MAX_ELSEWHERE) // (4 * width))
    if scratch is not None:
        at_once = min(at_once, scratch[0].shape[0])
    parts = [_moments(logits[i:i + at_once].float(), chosen[i:i + at_once], scratch) for i in range(0, rows, at_once)]
    return parts[0] if len(parts) == 1 else tuple(map(torch.cat, zip(*parts, strict=True)))


def scratch_rows(device: str, vocabulary: int, rows: int) -> int:
    """Rows of scratch that `token_moments` can use."""
    return max(1, min(rows, _ROWS_BYTES_MAX.get(device, _ROWS_BYTES_MAX_ELSEWHERE) // (4 * vocabulary)))


def _moments(logits: Tensor, chosen: Tensor, scratch: tuple[Tensor, Tensor] | None) -> tuple[Tensor, ...]:
    rows = logits.shape[0]
    z, p = (torch.empty_like(logits), torch.empty_like(logits)) if scratch is None else (scratch[0][:rows], scratch[1][:rows])
    best, places = largest(logits, 2)
    top = best[:, :1]
    picked = logits.gather(-1, chosen[:, None])
    rank = torch.gt(logits, picked, out=z).sum(-1)
    torch.softmax(logits, -1, out=p)
    highest = p.gather(-1, places[:, :1])
    mass = torch.ge(p, highest * MIN_P, out=z).mul_(p).sum(-1)
    torch.sub(logits, top, out=z).clamp_min_(_FLOOR)
    mean = p.mul_(z).sum(-1)
    square = p.mul_(z).sum(-1)
    return best[:, 0], best[:, 1], picked[:, 0], highest[:, 0], rank, mass, mean, square


def signals_of(moments: Tensor) -> Tensor:
    """Moments [8, ...] of any number of tokens -> their signals [6, ...], see `token_signals`."""
    top, second, picked, highest, rank, mass, mean, square = moments
    log_total = -highest.log()
    varentropy = (square - mean.square()).clamp_min(0.0)
    return torch.stack((log_total - (picked - top), (log_total - mean).clamp_min(0.0), top - second, rank, varentropy, mass))


def sampled_surprisal(scores: Tensor, chosen: Tensor) -> Tensor:
    """-log p of the chosen token under softmax of the scores it was drawn from, nats. scores: [row, vocabulary]; returns [row]."""
    return -scores.log_softmax(-1, dtype=torch.float32).gather(-1, chosen[:, None])[:, 0]  # half the time of logsumexp


def alternatives(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` most likely tokens of each row, best first: ids int64 and surprisal float32 (nats), both [row, count]."""
    logits = logits.float()
    best, ids = largest(logits, min(count, logits.shape[-1]))
    return ids, logits.logsumexp(-1, keepdim=True) - best


def largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row, in order, and where they are, as torch.topk gives them. values: [row, n], n >= count.

    Every one of them lies in one of the `count` runs with the largest maxima, so only those are sorted.
    """
    rows, width = values.shape
    runs = width // _RUN
    if runs <= 2 * count:
        best = values.topk(count, dim=-1)
        return best.values, best.indices
    whole = runs * _RUN
    found = values[:, :whole].reshape(rows, runs, _RUN).amax(-1).topk(count, dim=-1).indices
    within = torch.arange(_RUN, device=values.device)
    places = torch.add(within, found[:, :, None], alpha=_RUN).reshape(rows, count * _RUN)
    if whole < width:
        rest = torch.arange(whole, width, device=values.device).expand(rows, width - whole)
        places = torch.cat((places, rest), dim=-1)
    among = values.gather(-1, places).topk(count, dim=-1)
    return among.values, places.gather(-1, among.indices)
