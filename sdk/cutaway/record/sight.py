"""What a query row may see: counts, places and biases from the masks transformers made.

Not the formulas (measure/): a Sight is computed once and shared by all layers that have the same masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from cutaway.steps import Sight

HIDDEN: Final = -1e30
"""Added to the score of a hidden key: its weight is 0 in float32, and unlike -inf it makes no NaN."""


def causal(count: int, positions: int, prompt: int, device: torch.device, offset: int = 0) -> Sight:
    """`count` rows without a mask: row j sees the first positions - count + 1 + j keys."""
    last = torch.arange(positions - count, positions, device=device)[None, None]
    visible = (last + 1).float()
    bias = None
    if count > 1:  # only the last `count` keys are hidden from anyone
        place = torch.arange(count, device=device)
        bias = _hiding(place[None, :] <= place[:, None])[None, None]
    return Sight(bias, *_shares(visible, visible.clamp_max(float(prompt))), torch.zeros_like(last), last, prompt, offset)


def masked(bias: Tensor, prompt: int, offset: int = 0, extra: Tensor | None = None) -> Sight:
    """bias: float32 [row, 1 or head, n, position], 0 or HIDDEN or a bias of the model's own; `extra`: added to the scores too."""
    seen = bias > HIDDEN / 2
    positions = bias.shape[-1]
    visible = seen.sum(-1).float()
    first = seen.int().argmax(-1)
    last = positions - 1 - seen.flip(-1).int().argmax(-1)
    whole = bias if extra is None else bias + extra
    return Sight(whole, *_shares(visible, seen[..., :prompt].sum(-1).float()), first, last, prompt, offset)


def _shares(visible: Tensor, old: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers of visible keys, and of those that belong to the prompt -> each_old, each_new and scaled of a Sight."""
    new = visible - old
    scaled = torch.where(visible > 1, 1.0 / visible.clamp_min(2.0).log(), 0.0)
    return 1.0 / old.clamp_min(1.0), torch.where(new > 0, 1.0 / new.clamp_min(1.0), 0.0), scaled


def additive(mask: Tensor) -> Tensor:
    """A boolean or additive mask -> float32 bias of the same shape."""
    if mask.dtype == torch.bool:
        return _hiding(mask)
    return mask.float().clamp_min(HIDDEN)


def _hiding(seen: Tensor) -> Tensor:
    """Bool -> float32 of the same shape. `torch.where` of two numbers would be of the program's default type."""
    return torch.zeros(seen.shape, dtype=torch.float32, device=seen.device).masked_fill_(~seen, HIDDEN)


def block(masks: Sequence[Tensor | None], positions: int, prompt: int, device: torch.device) -> Sight:
    """Rows of consecutive steps that waited while the keys grew by one a step; masks: of each, [row, 1 or head, n, position]."""
    count = len(masks)
    present = [(j, additive(mask[..., -1:, :])) for j, mask in enumerate(masks) if mask is not None]
    if not present:
        return causal(count, positions, prompt, device)
    first = positions - count + 1
    limit = torch.arange(first, first + count, device=device)[:, None]
    hidden = _hiding(torch.arange(positions, device=device)[None, :] < limit)[None, None]
    rows, heads = present[0][1].shape[:2]
    bias = hidden.expand(rows, heads, count, positions).clone()
    for j, each in present:
        width = min(first + j, each.shape[-1])
        bias[:, :, j, :width] += each[:, :, -1, :width].to(device)
    return masked(bias.clamp_min_(HIDDEN), prompt)
