"""Brings the attention signals of all layers to the host and lays them out as series.

Not their computation: see attention.py. Called once, after the device has reached the end of the call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cutaway import conventions as c
from cutaway.record.attention import AttentionRecorder, LayerEar
from cutaway.steps import ATTENTION_SIGNALS, CROSS, HEADS, SELF

Follow = Callable[[NDArray[Any]], NDArray[Any]]
"""[row, step, ...] -> [token, ...], along the rows each sequence went through."""


@dataclass(slots=True)
class Heard:
    """Series by name; `reason`: why there is none; `partly`: what is missing; `layers`: their columns when not simply all;
    `left_out`: whether layers were heard and not kept."""

    series: dict[str, NDArray[Any]] = field(default_factory=dict)
    reason: str = ""
    partly: str = ""
    layers: list[int] = field(default_factory=list)
    left_out: bool = False
    source_layers: list[int] = field(default_factory=list)


def attention_series(recorder: AttentionRecorder, steps: int, follow: Follow) -> Heard:
    """Everything that was heard of attention. `steps`: steps of the longest answer."""
    found = Heard()
    own = sorted((ear for ear in recorder.ears.values() if ear.kind == SELF), key=_layer)
    cross = sorted((ear for ear in recorder.ears.values() if ear.kind == CROSS), key=_layer)
    if not own and not cross:
        found.reason = (
            "no attention layer was heard: compiled code, or a model family that does not use transformers' attention interface"
        )
        return found
    short = sum(ear.steps < steps for ear in (*own, *cross))
    if short:
        found.reason = f"{short} attention layers were not heard at every step (compiled decoding?)"
        return found
    if own:
        _layer_series(found, own, steps, follow, dict(enumerate(ATTENTION_SIGNALS)), recorder.wanted.heads)
        order = [ear.layer for ear in own]
        found.left_out = recorder.left_out
        found.layers = order if found.left_out or order != list(range(len(order))) else []
        _sources(found, own, steps, follow)
    else:
        found.partly = "self-attention was not heard: this model family does not use transformers' attention interface for it"
    if cross:
        entropy = ATTENTION_SIGNALS.index(c.ATTENTION_ENTROPY)
        heads = recorder.wanted.heads if entropy in recorder.wanted.heads else ()
        _layer_series(found, cross, steps, follow, {entropy: c.CROSS_ATTENTION_ENTROPY}, heads)
    return found


def _layer(ear: LayerEar) -> int:
    return ear.layer


def _layer_series(
    found: Heard, ears: list[LayerEar], steps: int, follow: Follow, names: dict[int, str], kept: tuple[int, ...]
) -> None:
    """names: index of a signal -> its [token, layer] series; kept: signals kept for every head, in their order."""
    layers = np.stack([_first(ear.layers, steps) for ear in ears])  # [layer, signal, row, step]
    for i, name in names.items():
        found.series[name] = follow(layers[:, i].transpose(1, 2, 0))
    if not kept:
        return
    counts = {ear.heads[0].shape[2] for ear in ears}
    if len(counts) > 1:
        found.partly = "no series for every head: attention layers differ in their number of heads"
        return
    heads = [_first(ear.heads, steps) for ear in ears]  # each [signal, row, head, step]
    for place, i in enumerate(kept):
        if i in names:
            values = np.stack([each[place] for each in heads], axis=0)  # [layer, row, head, step]
            found.series[names[i] + HEADS] = follow(values.transpose(1, 3, 0, 2))


def _sources(found: Heard, ears: list[LayerEar], steps: int, follow: Follow) -> None:
    """Strongest keys of the sampled layers, [token, layer, k]; early tokens that see fewer keys end in weight 0."""
    sampled = [ear for ear in ears if ear.sources]
    if not sampled:
        return
    width = max(part[0].shape[-1] for ear in sampled for part in ear.sources)
    places, masses = (
        np.stack([np.concatenate([_wide(part[i], width) for part in ear.sources], axis=1)[:, :steps] for ear in sampled])
        for i in (0, 1)
    )
    found.series[c.SOURCE_POSITION] = follow(places.transpose(1, 2, 0, 3)).astype(np.uint32)
    found.series[c.SOURCE_MASS] = follow(masses.transpose(1, 2, 0, 3)).astype(np.float16)
    found.source_layers = [ear.layer for ear in sampled]


def _wide(values: Tensor, width: int) -> NDArray[Any]:
    """[row, n, k] -> [row, n, width], filled with zeros."""
    host = values.cpu().numpy()
    return np.pad(host, ((0, 0), (0, 0), (0, width - host.shape[-1])))


def _first(parts: list[Tensor], steps: int) -> NDArray[Any]:
    """Joins parts [..., n] until `steps` are there: what ran after the last token (a streamer's end) may have other rows."""
    count, found = 0, []
    for part in parts:
        if count >= steps:
            break
        found.append(part.cpu().numpy())
        count += part.shape[-1]
    whole: NDArray[Any] = np.concatenate(found, axis=-1)[..., :steps]
    return whole
