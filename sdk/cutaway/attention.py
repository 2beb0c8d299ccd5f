"""Keeps the query rows of a generation and turns them into attention entropy a block at a time.

Not the formula (measure.py) and not the hook (tap.py). The idea: while a cache only appends, the keys of earlier positions never
change, so the query rows of many steps can wait and be compared with the cache in one pass, which reads every key once a block
instead of once a token. Where the cache does anything else, the row is computed at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

BLOCK_STEPS: Final = 32
"""Steps that share a pass over the keys: the cost of reading the cache falls with it, the memory of the block's scores grows."""

_HIDDEN: Final = -1e30
_BIASES_MAX: Final = 4

Entropy = Callable[[Tensor, Tensor, float, Tensor | None, float | None], Tensor]


@dataclass(slots=True)
class _Layer:
    """What one attention layer has said: `parts` are entropies [row, head, steps] in order, `queries` still wait."""

    parts: list[Tensor] = field(default_factory=list)
    steps: int = 0
    last_step: int = -1
    queries: list[Tensor] = field(default_factory=list)
    masks: list[Tensor | None] = field(default_factory=list)
    key: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None


class AttentionRecorder:
    """Entropy of the query row that predicted each token, for every layer and head.

    `deferrable`: the cache only ever appends (no sliding window in place, no quantisation, no beams).
    """

    def __init__(self, entropy: Entropy, deferrable: bool) -> None:
        self._entropy = entropy
        self._deferrable = deferrable
        self._layers: dict[int, _Layer] = {}
        self._biases: dict[tuple[int, ...], tuple[list[Tensor | None], Tensor | None]] = {}

    def hear(
        self, step: int, index: int, query: Tensor, key: Tensor, mask: Tensor | None, scale: float, softcap: float | None
    ) -> None:
        """One layer ran in the forward pass that predicts token `step`. Of several passes (chunked prefill) the last counts."""
        layer = self._layers.setdefault(index, _Layer())
        row, positions = query[:, :, -1:, :], key.shape[2]
        if layer.last_step == step:
            self._withdraw(layer)
        layer.last_step, layer.scale, layer.softcap = step, scale, softcap
        extends = layer.key is not None and positions == layer.key.shape[2] + 1
        if layer.queries and not extends:
            self._settle(layer)
        if self._deferrable and extends and query.shape[2] == 1:
            layer.key = key
            layer.queries.append(row)
            layer.masks.append(mask)
            if len(layer.queries) == BLOCK_STEPS:
                self._settle(layer)
        else:
            layer.parts.append(self._entropy(row, key, scale, _additive(mask), softcap))
            layer.key = key
        layer.steps += 1

    def finish(self, steps: int) -> tuple[list[int], Tensor | None, str]:
        """(layer indices, float32 [layer, row, head, step] on the host or None, why it is None).

        Raises nothing of its own; keeps no reference to keys or queries afterwards.
        """
        for layer in self._layers.values():
            self._settle(layer)
            layer.key = None
        self._biases.clear()
        if not self._layers:
            return [], None, "no attention layer was heard: this model family does not use transformers' attention interface"
        short = sorted(index for index, layer in self._layers.items() if layer.steps < steps)
        if short:
            return [], None, f"{len(short)} attention layers were not heard at every step (compiled decoding?)"
        order = sorted(self._layers)
        values = [_first(self._layers[i].parts, steps) for i in order]
        if len({value.shape for value in values}) > 1:
            return [], None, "attention layers differ in their number of heads"
        device = values[0].device
        return order, torch.stack([value.to(device) for value in values]).cpu(), ""

    def _withdraw(self, layer: _Layer) -> None:
        """Forgets the row of the current step: an earlier chunk of the same prefill, or a repeated pass."""
        layer.steps -= 1
        if layer.queries and layer.key is not None:
            layer.queries.pop()
            layer.masks.pop()
            layer.key = layer.key[:, :, :-1]  # the rows that still wait end one key earlier
            return
        layer.key = None
        kept = layer.parts.pop()[..., :-1]
        if kept.shape[-1]:
            layer.parts.append(kept)

    def _settle(self, layer: _Layer) -> None:
        """Computes the waiting rows against the newest keys and lets go of them."""
        if not layer.queries or layer.key is None:
            return
        bias = self._block_bias(layer.masks, layer.key)
        query = torch.cat(layer.queries, dim=2)
        layer.parts.append(self._entropy(query, layer.key, layer.scale, bias, layer.softcap))
        layer.queries, layer.masks = [], []

    def _block_bias(self, masks: list[Tensor | None], key: Tensor) -> Tensor | None:
        """Additive mask [1 or row, 1 or head, n, position] for n waiting rows: row j may see the first S - n + 1 + j keys.

        The layers of one step share their mask, so the bias is built once and found again by the identity of the masks.
        """
        count, positions = len(masks), key.shape[2]
        name = (count, positions, *(0 if mask is None else id(mask) for mask in masks))
        if name not in self._biases:
            if len(self._biases) >= _BIASES_MAX:
                self._biases.clear()
            self._biases[name] = (masks, self._build_bias(masks, count, positions, key))  # keeping the masks keeps their ids
        return self._biases[name][1]

    def _build_bias(self, masks: list[Tensor | None], count: int, positions: int, key: Tensor) -> Tensor | None:
        first = positions - count + 1
        if count == 1 and masks[0] is None:
            return None
        limit = torch.arange(first, first + count, device=key.device)[:, None]
        causal = torch.where(torch.arange(positions, device=key.device)[None, :] < limit, 0.0, _HIDDEN)[None, None]
        present = [(j, _additive(mask)) for j, mask in enumerate(masks) if mask is not None]
        if not present:
            return causal
        shape = present[0][1].shape if present[0][1] is not None else (1, 1)
        bias = causal.expand(shape[0], shape[1], count, positions).clone()
        for j, additive in present:
            if additive is not None:
                width = min(first + j, additive.shape[-1])
                bias[:, :, j, :width] += additive[:, :, -1, :width].to(bias.device)
        return bias


def _first(parts: list[Tensor], steps: int) -> Tensor:
    """Joins parts [row, head, n] until `steps` are there: what ran after the last token (a streamer's end) may have other rows."""
    count, found = 0, []
    for part in parts:
        if count >= steps:
            break
        found.append(part)
        count += part.shape[-1]
    return torch.cat(found, dim=-1)[..., :steps]


def _additive(mask: Tensor | None) -> Tensor | None:
    """A boolean or additive mask [row, 1 or head, query, position] -> the bias of its last query row, float32."""
    if mask is None:
        return None
    last = mask[..., -1:, :]
    if last.dtype == torch.bool:
        return torch.where(last, 0.0, _HIDDEN)
    return last.float().clamp_min(_HIDDEN)
