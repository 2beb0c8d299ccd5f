"""Surprisal of the prompt's tokens: runs the prompt through the model once more, a few positions at a time.

Not part of the generation: transformers computes only the last logits of a prompt, so whoever asks for the others pays for a
second prefill. Where the pass could not be the same again, or somebody else would hear it, it does not happen and says why.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from cutaway import conventions as c
from cutaway.steps import Prepared, Recording

LOGITS_BYTES_MAX: Final = {"cpu": 16 * 1024 * 1024}
"""Float32 logits held at once, by device: [row, position, vocabulary] is never whole."""

_LOGITS_BYTES_MAX: Final = 64 * 1024 * 1024
_POSITIONS: Final = 32
"""Positions one pass should have at least; for wide vocabularies fewer rows are taken at once instead."""

_VOCABULARY: Final = 262_144
"""Assumed where a model does not tell: the widest in use."""

_LIBRARIES: Final = frozenset(("transformers", "accelerate", "peft", "torch", "bitsandbytes"))
"""Hooks of these belong to the model itself: they move weights and pick adapters."""

_RANDOM_WHILE_TRAINING: Final = ("drop", "jitter")
"""Parts of the names of settings that make a model in training mode random: `attention_dropout`, `resid_pdrop`, ..."""


class _CannotTell(Exception):
    """The model does not do what a second pass relies on; the message says what."""


@dataclass(slots=True)
class Prompted:
    """Prompts on the device, rows once each. `reason`: why nothing was measured ("" when it was)."""

    reason: str = ""
    ids: Any = None
    """Int [row, position], padding included."""
    mask: Any = None
    """[row, position], 0 for padding, or None where nothing is padded."""
    surprisal: Any = None
    """Float32 [row, position], nats; NaN at the first position, without meaning in padding."""
    ready: Any = None
    """What `collect` must wait for before it copies from another thread, or None."""

    def held_bytes(self) -> int:
        """Memory that `collect` will bring to the host."""
        return 0 if self.surprisal is None else int(self.surprisal.numel()) * 12


def measure(
    model: Any, asked: Prepared, fresh_cache: Callable[[], Any], surprisal_of: Callable[[Any, Any], Any]
) -> Prompted:
    """-log p of every prompt token given those before it. Once the call is over, on its thread; does not wait for the device.

    fresh_cache: an empty cache that takes a sequence in pieces, or None where the model has none; surprisal_of: scores [row,
    vocabulary] and ids [row] -> float32 [row], nats. Nothing of the program is touched: no grad, a cache of its own, no random
    number; autocast is as the program has it.
    """
    reason = _obstacle(model, asked)
    if reason:
        return Prompted(reason)
    device = getattr(model, "device", asked.input_ids.device)
    ids, mask = asked.input_ids.detach().clone().to(device), _once_each(asked, device)  # the program may change its own
    if mask is not None and mask.shape != ids.shape:
        return Prompted("its mask and its ids differ in shape")
    try:
        with torch.no_grad():
            surprisal = _surprisal(model, ids, mask, fresh_cache, surprisal_of)
    except _CannotTell as refusal:
        return Prompted(str(refusal))
    ready = None
    if surprisal.device.type == "cuda":
        ready = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        ready.record(torch.cuda.current_stream(surprisal.device))
    return Prompted("", ids, mask, surprisal, ready)


def _once_each(asked: Prepared, device: torch.device) -> Tensor | None:
    """The mask of the rows as they were before they were repeated for beams or several answers."""
    mask = asked.input_mask
    if mask is None:
        return None
    copies = max(1, mask.shape[0] // max(1, asked.rows))
    found: Tensor = mask[::copies].detach().clone().to(device)
    return found


def _surprisal(
    model: Any, ids: Tensor, mask: Tensor | None, fresh_cache: Callable[[], Any], surprisal_of: Callable[[Any, Any], Any]
) -> Tensor:
    rows, positions = ids.shape
    if positions < 2:
        return torch.full((rows, positions), torch.nan, dtype=torch.float32, device=ids.device)
    limit_bytes = LOGITS_BYTES_MAX.get(ids.device.type, _LOGITS_BYTES_MAX)
    at_once = max(1, limit_bytes // (4 * _vocabulary(model)))
    takes = set(inspect.signature(model.forward).parameters)
    in_pieces = "past_key_values" in takes and fresh_cache() is not None
    count = positions - 1
    wanted = min(count, _POSITIONS) if in_pieces else count
    if not in_pieces and at_once < count:
        raise _CannotTell(f"the model has no cache that takes a prompt in pieces, and logits of {count} positions are too large")
    group = max(1, min(rows, at_once // wanted))
    width = max(1, at_once // group) if in_pieces else count
    parts = []
    for rows_now in (slice(i, i + group) for i in range(0, rows, group)):
        run = _Pass(model, takes, fresh_cache() if in_pieces else None)
        parts.append(_group(run, ids[rows_now], None if mask is None else mask[rows_now], width, surprisal_of))
    return torch.cat(parts)


def _vocabulary(model: Any) -> int:
    return int(getattr(model.config.get_text_config(decoder=True), "vocab_size", None) or _VOCABULARY)


@dataclass(slots=True)
class _Pass:
    """The model on its way through a few rows: what its forward takes, and its cache."""

    model: Any
    takes: set[str]
    cache: Any

    def logits(self, ids: Tensor, mask: Tensor | None, places: Tensor | None, begin: int, end: int) -> Tensor:
        """Logits [row, end - begin, vocabulary] of positions begin to end, those before having run."""
        given: dict[str, Any] = {"attention_mask": None if mask is None else mask[:, :end],
                                 "position_ids": None if places is None else places[:, begin:end]}
        given = {name: value for name, value in given.items() if value is not None and name in self.takes}
        if self.cache is not None:
            given |= {"past_key_values": self.cache, "use_cache": True}
        elif "use_cache" in self.takes:
            given["use_cache"] = False
        found = self.model(input_ids=ids[:, begin:end], return_dict=True, **given).logits
        if found.shape[:2] != (ids.shape[0], end - begin):
            raise _CannotTell("the model does not give logits for every position")
        if self.cache is not None and self.cache.get_seq_length() != end:
            raise _CannotTell("the model does not use the cache it is given")
        logits: Tensor = found
        return logits


def _group(
    run: _Pass, ids: Tensor, mask: Tensor | None, width: int, surprisal_of: Callable[[Any, Any], Any]
) -> Tensor:
    """Float32 [row, position] of some rows; `width` positions a pass. What follows the last position is not asked for."""
    rows, positions = ids.shape
    places = None if mask is None else (mask.long().cumsum(-1) - 1).clamp_min_(0)
    parts = [torch.full((rows, 1), torch.nan, dtype=torch.float32, device=ids.device)]
    for begin, end in _pieces(positions - 1, width):
        logits = run.logits(ids, mask, places, begin, end)
        following = ids[:, begin + 1:end + 1].to(logits.device)
        found = surprisal_of(logits.flatten(0, 1), following.reshape(-1)).view(rows, end - begin)
        parts.append(found.to(ids.device))
        del logits  # before the next one is made
    return torch.cat(parts, dim=1)


def _pieces(count: int, width: int) -> Iterator[tuple[int, int]]:
    return ((begin, min(begin + width, count)) for begin in range(0, count, width))


def _obstacle(model: Any, asked: Prepared) -> str:
    """Why a second pass would not be the first one again, or would be heard by somebody ("" when it may run)."""
    if asked.encoder_decoder:
        return "the prompt of an encoder-decoder model is not predicted by it"
    if asked.input_ids is None:
        return "the prompt is not made of ids"
    if torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        return "the other processes of this program would have to run it too"
    own_forward = "forward" in vars(model) and not hasattr(model, "_hf_hook")
    modules = list(model.modules())
    if own_forward or any(_is_compiled(module) for module in modules):
        return "the model's forward is compiled or replaced"
    if any(module.training for module in modules) and _random(model, modules):
        return "the model is in training mode: it would drop out other values"
    if _listeners(modules):
        return "the program's own hooks on the model would hear a second pass"
    return ""


def _is_compiled(module: Any) -> bool:
    return getattr(module, "_compiled_call_impl", None) is not None or type(module).__name__ == "OptimizedModule"


def _random(model: Any, modules: list[Any]) -> bool:
    """Whether training mode means anything to this model."""
    settings = vars(model.config.get_text_config(decoder=True))
    if any(isinstance(value, float) and value > 0 and any(part in name for part in _RANDOM_WHILE_TRAINING)
           for name, value in settings.items()):
        return True
    return any(module.training and _changes(module) for module in modules)


def _changes(module: Any) -> bool:
    """Dropout, running averages, checkpoints (which take no cache)."""
    known = vars(module)
    return bool(known.get("p") or known.get("gradient_checkpointing")) or getattr(module, "running_mean", None) is not None


def _listeners(modules: list[Any]) -> bool:
    """Whether somebody but the model's own libraries hears its passes."""
    shared = torch.nn.modules.module
    hooks = [*shared._global_forward_hooks.values(), *shared._global_forward_pre_hooks.values()]
    for module in modules:
        hooks += [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    owners = {str(getattr(getattr(hook, "func", hook), "__module__", "")).partition(".")[0] for hook in hooks}
    return bool(owners - _LIBRARIES)


def collect(prompted: Prompted, found: Recording) -> None:
    """Copies what was measured into the recording: ids, tokens of each row and their series, padding left out. On any thread."""
    if not prompted.reason and prompted.surprisal is not None:
        _collect(prompted, found)
    if prompted.reason:
        found.reasons.append(f"no prompt surprisal: {prompted.reason}")


def _collect(prompted: Prompted, found: Recording) -> None:
    if prompted.ready is not None:
        prompted.ready.synchronize()
    ids, surprisal = prompted.ids.cpu().numpy(), prompted.surprisal.cpu().numpy()
    kept = np.ones(ids.shape, dtype=bool) if prompted.mask is None else prompted.mask.cpu().numpy() != 0
    if (np.diff(kept, prepend=False, append=False, axis=1).sum(1) > 2).any():
        prompted.reason = "a mask hides tokens between others"
        return
    starts = kept & ~np.pad(kept, ((0, 0), (1, 0)))[:, :-1]
    surprisal = np.where(starts, np.float32(np.nan), surprisal)  # nothing comes before the first token of a row
    found.prompt_tokens = kept.sum(1).tolist()
    found.prompt_ids = ids[kept].astype(np.uint32)
    found.series[c.PROMPT_SURPRISAL] = surprisal[kept].astype(np.float32)
