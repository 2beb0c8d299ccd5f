"""RAUQ: did doubt about one token spread to the next ones? Recurrent attention-based uncertainty, nats; 0 is certainty.

Vazhentsev et al. 2025 (arXiv 2505.20045), of the model's middle third of layers, L // 3 to ceil(2 L / 3), both included:

    a_t          what the attention row that predicted token t gave to token t - 1, which is the last key that row sees
    head         of a layer: the one with the largest mean of a_t over t >= 1
    confidence   c_0 = p_0;  c_t = 0.2 p_t + 0.8 a_t c_{t-1}
    layer        u = -mean(log c);  the score is the largest of the layers

Not a guess from some layers: it applies only where every layer of the model was recorded, with its heads. A head with a key
that was not measured takes no part. NaN for a surprisal that is NaN, without a token, and where a confidence is 0 (the first
token was impossible, or one beyond 700 nats had no attention to lean on). The SDK's `cutaway.sequence.rauq` is the same figure
from attention weights of float32; stored ones are float16. CPU, CUDA and reference agree within 1e-9 relative.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import float64, prange

from cutaway_collector.blocks import Block, Offsets
from cutaway_collector.score.device import THREADS, Device, block_max, cpu_helper, cpu_kernel, cuda, cuda_helper, cuda_kernel
from cutaway_collector.score.ragged import Floats, read_only, series, whole_numbers

ALPHA: Final = 0.2
"""Weight of a token's own probability: the paper's for base models, and the SDK's default."""


def reference(
    surprisals: npt.NDArray[Any], offsets: Offsets, keys: npt.NDArray[Any], key_offsets: Offsets, layers: Offsets, heads: Offsets
) -> Floats:
    """Surprisals [total] in nats; last-key weights [token, layer, head]; layers (0: does not apply), heads [n] -> RAUQ [n]."""
    out = np.full(layers.size, np.nan)
    for row in range(out.size):
        own = np.exp(-surprisals[offsets[row] : offsets[row + 1]].astype(np.float64))
        weights = keys[key_offsets[row] : key_offsets[row + 1]].astype(np.float64)
        if not own.size or not layers[row] or np.isnan(own).any():
            continue
        weights = weights.reshape(own.size, layers[row], heads[row])[1:, _first(layers[row]) : _behind(layers[row])]
        scores = []
        for layer in range(weights.shape[1]):
            means = weights[:, layer].mean(axis=0) if own.size > 1 else np.zeros(heads[row])
            if not np.isfinite(means).any():
                continue
            head = np.argmax(np.where(np.isfinite(means), means, -np.inf))
            confidence = [own[0]]
            for token in range(1, own.size):
                confidence.append(ALPHA * own[token] + (1 - ALPHA) * weights[token - 1, layer, head] * confidence[-1])
            with np.errstate(divide="ignore"):
                scores.append(-np.log(confidence).mean())
        if scores and np.isfinite(max(scores)):
            out[row] = max(scores)
    return out


def _first(layers: int) -> int:
    return layers // 3


def _behind(layers: int) -> int:
    """The layer after the last one of the middle third."""
    last = (2 * layers + 2) // 3
    return last + 1 if last + 1 < layers else layers


def _of_layer(own: Any, start: int, tokens: int, keys: Any, key_start: int, stride: int, heads: int) -> float:
    """The layer's u. own: probabilities; keys from key_start on: its heads of token 0, `stride` further those of token 1."""
    best, largest = -1, -math.inf
    for head in range(heads):
        total = 0.0
        for token in range(1, tokens):
            total += float64(keys[key_start + token * stride + head])
        if math.isfinite(total) and total > largest:
            best, largest = head, total
    if best < 0:
        return -math.inf
    confidence = own[start]
    logs = math.log(confidence) if confidence > 0.0 else -math.inf
    for token in range(1, tokens):
        weight = float64(keys[key_start + token * stride + best])
        confidence = ALPHA * own[start + token] + (1.0 - ALPHA) * weight * confidence
        logs += math.log(confidence) if confidence > 0.0 else -math.inf
    return -logs / tokens


_first_on_cpu, _behind_on_cpu, _of_layer_on_cpu = cpu_helper(_first), cpu_helper(_behind), cpu_helper(_of_layer)
_first_on_cuda, _behind_on_cuda, _of_layer_on_cuda = cuda_helper(_first), cuda_helper(_behind), cuda_helper(_of_layer)


@cpu_helper
def _row(surprisals: Any, start: int, tokens: int, keys: Any, key_start: int, layers: int, heads: int, own: Any) -> float:
    for token in range(start, start + tokens):
        own[token] = math.exp(-float64(surprisals[token]))
        if math.isnan(own[token]):
            return math.nan
    score = -math.inf
    for layer in range(_first_on_cpu(layers), _behind_on_cpu(layers)):
        score = max(score, _of_layer_on_cpu(own, start, tokens, keys, key_start + layer * heads, layers * heads, heads))
    return score if math.isfinite(score) else math.nan


@cpu_kernel
def _cpu(
    surprisals: npt.NDArray[Any], offsets: Offsets, keys: npt.NDArray[Any], key_offsets: Offsets, layers: Offsets, heads: Offsets,
    own: Floats, out: Floats,
) -> None:
    for row in prange(out.size):
        tokens = offsets[row + 1] - offsets[row]
        out[row] = math.nan
        if tokens > 0 and layers[row] > 0:
            out[row] = _row(surprisals, offsets[row], tokens, keys, key_offsets[row], layers[row], heads[row], own)


@cuda_kernel
def _cuda(surprisals: Any, offsets: Any, keys: Any, key_offsets: Any, layers: Any, heads: Any, own: Any, out: Any) -> None:
    row, thread = cuda.blockIdx.x, cuda.threadIdx.x
    shared = cuda.shared.array(THREADS, float64)
    start, tokens, stride = offsets[row], offsets[row + 1] - offsets[row], layers[row] * heads[row]
    score, unknown = -math.inf, 0.0
    for token in range(start + thread, start + tokens, THREADS):
        own[token] = math.exp(-float64(surprisals[token]))
        if math.isnan(own[token]):
            unknown = 1.0
    shared[thread] = unknown
    unknown = block_max(shared, thread)
    if unknown == 0.0 and tokens > 0:
        for layer in range(_first_on_cuda(layers[row]) + thread, _behind_on_cuda(layers[row]), THREADS):
            mine = _of_layer_on_cuda(own, start, tokens, keys, key_offsets[row] + layer * heads[row], stride, heads[row])
            if mine > score:
                score = mine
    shared[thread] = score
    score = block_max(shared, thread)
    if thread == 0:
        out[row] = score if math.isfinite(score) else math.nan


def on_cpu(
    surprisals: npt.NDArray[Any], offsets: Offsets, keys: npt.NDArray[Any], key_offsets: Offsets, layers: Offsets, heads: Offsets
) -> Floats:
    """As `reference`, on all cores: a row a core. Takes 8 bytes of scratch a token."""
    out = np.empty(layers.size)
    _cpu(surprisals, offsets, keys, key_offsets, layers, heads, np.empty(surprisals.size), out)
    return out


def on_cuda(
    surprisals: npt.NDArray[Any], offsets: Offsets, keys: npt.NDArray[Any], key_offsets: Offsets, layers: Offsets, heads: Offsets
) -> Floats:
    """As `reference`, on the GPU: a row a block, a layer a thread. Takes 8 bytes of scratch a token."""
    out = np.empty(layers.size)
    if out.size:
        own, out_there = cuda.device_array(surprisals.size + 1, np.float64), cuda.device_array(out.size, np.float64)
        there = [cuda.to_device(array) for array in (surprisals, offsets, keys, key_offsets, layers, heads)]
        _cuda[out.size, THREADS](*there, own, out_there)
        out_there.copy_to_host(out)
    return out


class Rauq:
    """Scorer of `rauq` (nats), from Surprisals and AttentionLastKeyHeads, where the row has every layer of the model."""

    name = "rauq"
    version = "1"
    columns = ("Surprisals", "AttentionLayers", "AttentionHeads", "AttentionModelLayers", "AttentionLastKeyHeads")

    def __init__(self, device: Device) -> None:
        self._device = device

    def score(self, tokens: Block) -> Mapping[str, Floats]:
        """tokens: n rows -> {"rauq": [n]}, NaN where it does not apply."""
        surprisals, offsets = series(tokens, "Surprisals", np.float32)
        keys, key_offsets = series(tokens, "AttentionLastKeyHeads", np.float32)
        layers, heads = whole_numbers(tokens, "AttentionLayers"), whole_numbers(tokens, "AttentionHeads")
        fits = (np.diff(key_offsets) > 0) & (np.diff(offsets) * layers * heads == np.diff(key_offsets))
        applies = fits & (whole_numbers(tokens, "AttentionModelLayers") == layers)
        if not applies.any():
            return {"rauq": np.full(tokens.rows, np.nan)}
        judged = read_only(np.where(applies, layers, 0), np.int64)
        return {"rauq": self._device.run(on_cpu, on_cuda, surprisals, offsets, keys, key_offsets, judged, heads)}
