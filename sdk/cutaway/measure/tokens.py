"""What a next-token distribution says of the token that was chosen from it.

Not attention (attention.py). Each function reads every logit a few times and nothing else: the vocabulary is the cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from cutaway.conventions import MIN_P

_LN_2: Final = math.log(2.0)
_LOG2_E: Final = 1.0 / _LN_2
"""Weights are powers of 2, because torch.exp2 is quicker than torch.exp: 0.62 against 0.81 ms with all that is done to 8 x 49,152
logits (two cores of an AMD EPYC, where exp is MKL's)."""

_FLOOR: Final = -115.0
"""Logits further below the largest one count as this far, in bits: 2 ** -115 is nothing beside 1 even a million times over, and a
normal float32. At -inf, 0 * -inf would be NaN."""

_MASS_MIN: Final = MIN_P * (1.0 - 1e-6)
"""A weight that reaches MIN_P but for its rounding reaches it."""

_ROWS_BYTES_MAX: Final = {"cpu": 4 * 1024 * 1024}
"""Logits looked at together: on a CPU they should stay in its cache while they are read a dozen times."""

_ROWS_BYTES_MAX_ELSEWHERE: Final = 64 * 1024 * 1024

_RUN: Final = 64
"""Neighbouring logits that are first reduced to their largest when the k largest are sought: reading them once costs a tenth of
torch.topk over all of them (SmolLM2's 49152: 10 against 73 us a row on one core)."""


class Moments(NamedTuple):
    """What must be read from every logit. With weight w = 2 ** bits = e ** (logit - top), up to a common factor near 1."""

    best: Tensor
    """[row, 2]: the largest logit, and the next."""
    picked: Tensor
    """[row, 1]: the logit of the chosen token."""
    rank: Tensor
    """[row], and so all that follow. Logits above the chosen one."""
    total: Tensor
    """Sum of w."""
    mass: Tensor
    """Sum of the w that reach MIN_P."""
    mean: Tensor
    """Sum of w * bits."""
    square: Tensor
    """Sum of w * bits ** 2."""


def token_signals(logits: Tensor, chosen: Tensor) -> Tensor:
    """Surprisal, entropy, margin, rank, varentropy and min-p mass of one chosen token a row.

    logits: [row, vocabulary], raw (before any processor); chosen: int [row]. Returns float32 [6, row], in nats but for rank
    (tokens) and mass. With z = logits - max and p = softmax(logits): log Z = log sum e ** z; surprisal = log Z - z[chosen]; entropy
    H = log Z - E_p[z]; margin = z(1) - z(2); rank = number of tokens with a larger logit; varentropy = E_p[z^2] - E_p[z]^2, the
    variance of -log p; min-p mass = sum of the p that reach MIN_P * max p (Nguyen et al. 2024, arXiv 2407.01082: their filter,
    as a mass).
    """
    return signals_of(token_moments(logits, chosen))


def token_moments(logits: Tensor, chosen: Tensor, scratch: tuple[Tensor, Tensor] | None = None) -> Moments:
    """What must be read from every logit, so that the rest can be worked out later for many tokens at once (`signals_of`).

    logits, chosen: as for `token_signals`; scratch: two float32 tensors [n, vocabulary] that may be overwritten, so that nothing
    large is allocated.
    """
    rows, width = logits.shape
    at_once = scratch_rows(logits.device.type, width, rows)
    if scratch is not None:
        at_once = min(at_once, scratch[0].shape[0])
    if at_once >= rows:
        return _moments(logits.float(), chosen, scratch)
    parts = [_moments(logits[i:i + at_once].float(), chosen[i:i + at_once], scratch) for i in range(0, rows, at_once)]
    return Moments(*map(torch.cat, zip(*parts, strict=True)))


def scratch_rows(device: str, vocabulary: int, rows: int) -> int:
    """Rows of scratch that `token_moments` can use."""
    return max(1, min(rows, _ROWS_BYTES_MAX.get(device, _ROWS_BYTES_MAX_ELSEWHERE) // (4 * vocabulary)))


def _moments(logits: Tensor, chosen: Tensor, scratch: tuple[Tensor, Tensor] | None) -> Moments:
    rows = logits.shape[0]
    weight, bits = (torch.empty_like(logits), torch.empty_like(logits)) if scratch is None else (each[:rows] for each in scratch)
    best = _among(logits, 2)[0].topk(2, dim=-1).values
    picked = logits.gather(-1, chosen[:, None])
    rank = torch.gt(logits, picked, out=bits).sum(-1)
    shift = _shift(best)
    total = _bits(logits, shift, weight).exp2_().sum(-1)
    mass = torch.threshold(weight, _MASS_MIN, 0.0, out=bits).sum(-1)
    _bits(logits, shift, bits).clamp_min_(_FLOOR)  # again: a third tensor would cost more memory than this takes time
    mean = weight.mul_(bits).sum(-1)
    square = weight.mul_(bits).sum(-1)
    return Moments(best, picked, rank, total, mass, mean, square)


def _shift(best: Tensor) -> Tensor:
    """What makes the `_bits` of the largest logit 0, but for the rounding of this product, which all of a row share."""
    return best[:, :1] * -_LOG2_E


def _bits(logits: Tensor, shift: Tensor, out: Tensor | None = None) -> Tensor:
    """(logits - top) * log2(e), read and written once."""
    return torch.add(shift, logits, alpha=_LOG2_E, out=out)


def signals_of(moments: Sequence[Tensor]) -> Tensor:
    """`Moments` of any number of tokens -> their signals [6, token], see `token_signals`."""
    best, picked, rank, total, mass, mean, square = moments
    log_total = total.log2()
    surprisal = (log_total - _bits(picked, _shift(best))[:, 0]).clamp_min(0.0)
    mean, square = mean / total, square / total
    entropy = (log_total - mean).clamp_min(0.0)
    varentropy = (square - mean.square()).clamp_min(0.0)
    return torch.stack((surprisal * _LN_2, entropy * _LN_2, best[:, 0] - best[:, 1], rank, varentropy * _LN_2**2, mass / total))


def sampled_surprisal(scores: Tensor, chosen: Tensor) -> Tensor:
    """-log p of the chosen token under softmax of the scores it was drawn from, nats. scores: [row, vocabulary]; returns [row]."""
    return -scores.log_softmax(-1, dtype=torch.float32).gather(-1, chosen[:, None])[:, 0]  # half the time of logsumexp


def alternatives(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` most likely tokens of each row, best first: ids int64 and surprisal float32 (nats), both [row, count]."""
    logits = logits.float()
    best, ids = largest(logits, min(count, logits.shape[-1]))
    return ids, logits.logsumexp(-1, keepdim=True) - best


def largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row, in order, and where they are, as torch.topk gives them. values: [row, n], n >= count."""
    among, places = _among(values, count)
    best = among.topk(count, dim=-1)
    return best.values, best.indices if places is None else places.gather(-1, best.indices)


def _among(values: Tensor, count: int) -> tuple[Tensor, Tensor | None]:
    """Some of each row, the `count` largest with them, and where they are; None: all of them.

    Every one of those lies in one of the `count` runs with the largest maxima.
    """
    rows, width = values.shape
    runs = width // _RUN
    if runs <= 2 * count:
        return values, None
    whole = runs * _RUN
    found = values[:, :whole].reshape(rows, runs, _RUN).amax(-1).topk(count, dim=-1).indices
    places = torch.add(torch.arange(_RUN, device=values.device), found[:, :, None], alpha=_RUN).reshape(rows, count * _RUN)
    if whole < width:
        rest = torch.arange(whole, width, device=values.device).expand(rows, width - whole)
        places = torch.cat((places, rest), dim=-1)
    return values.gather(-1, places), places
