"""Keeps the query rows of a generation and turns them into attention signals a block at a time.

Not the formulas (measure/) and not the hook (tap/). The idea: while a cache only appends, the keys of earlier positions never
change, so the query rows of many steps can wait and be compared with the cache in one pass, which reads every key once a block
instead of once a token. Where the cache does anything else, the row is computed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from cutaway.record import sight as sights
from cutaway.record.memory import writable
from cutaway.steps import CROSS, SELF, Measures, Sight

BLOCK_STEPS: Final = 16
"""Steps that share a pass over the keys: the cost of reading the cache falls with it, the memory of the rows that wait grows.
With 32 it is 4 MB more at 8 rows of SmolLM2, and 43 us a step less at one."""

_SIGHTS_MAX: Final = 4
_SOURCE_LAYERS_MAX: Final = 4
"""Layers whose strongest keys are kept, spread from the first to the last: a map for the eye, not a measurement."""

_LAYERS_A_STEP: Final = 4
"""Layers whose full block is worked off at one step, at least: no single token waits for all of them, and a few share their
operations."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Query rows that wait for their keys: queries [row, head, 1, width] and masks of consecutive steps, and the keys by then."""

    queries: list[Tensor]
    masks: list[Tensor | None]
    positions: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is kept. `heads`: indices of the signals kept for every head; `layers_max`: layers of each kind, 0 for all of them;
    `sources`: strongest keys."""

    heads: tuple[int, ...] = ()
    layers_max: int = 0
    sources: int = 0

    @property
    def of_signals(self) -> slice | list[int]:
        """`heads` as an index; a slice where they are evenly spaced, which costs no copy."""
        first, *rest = self.heads
        step = rest[0] - first if rest else 1
        evenly = self.heads == tuple(range(first, first + step * len(self.heads), step))
        return slice(first, self.heads[-1] + 1, step) if evenly else list(self.heads)


class LayerEar:
    """Hears one attention layer. Parts follow each other in time, the step last: layers [5, row, n], heads [k, row, head, n]."""

    __slots__ = (
        "_key", "_recorder", "_store", "full", "heads", "kind", "last_step", "layer", "layers", "learned_sink", "masks",
        "positions", "queries", "scale", "shows_sources", "softcap", "sources", "steps", "unwanted", "waits",
    )

    def __init__(
        self, recorder: AttentionRecorder, kind: str, layer: int, scale: float, softcap: float | None, learned_sink: Tensor | None
    ) -> None:
        self._recorder = recorder
        self.kind, self.layer, self.scale, self.softcap, self.learned_sink = kind, layer, scale, softcap, learned_sink
        self.waits = recorder.deferrable and kind == SELF
        self.unwanted = False
        self.shows_sources = kind == SELF and recorder.wanted.sources > 0
        self.layers: list[Tensor] = []
        self.heads: list[Tensor] = []
        self.sources: list[tuple[Tensor, Tensor]] = []
        self.queries: list[Tensor] = []
        self.masks: list[Tensor | None] = []
        self.full: Waiting | None = None
        self._store = recorder.store(layer) if self.waits else None
        self._key: Tensor | None = None
        self.positions = 0
        self.steps = 0
        self.last_step = -1

    def hear(self, query: Tensor, key: Tensor, mask: Tensor | None, position_bias: Tensor | None) -> None:
        """See steps.Ear. The short way first: one row, one key more than last time."""
        recorder = self._recorder
        step, positions = recorder.step, key.size(2)
        if (
            self.waits and positions == self.positions + 1 and query.size(2) == 1 and self.last_step != step
            and position_bias is None
        ):
            self.last_step, self.positions = step, positions
            self.note(key)
            self.steps += 1
            self.queries.append(query)
            self.masks.append(mask)
            recorder.heard.append(self)
            return
        self._hear_otherwise(query, key, mask, position_bias)

    def note(self, key: Tensor) -> None:
        """The newest keys. Where the cache itself holds this very tensor it is found there again: a reference of ours would keep
        the old keys of a layer alive while the new ones are made."""
        if self._store is None or self._store.keys is not key:
            self._store, self._key = None, key

    def keys(self, positions: int) -> Tensor:
        """The first `positions` keys. Raises ValueError when the cache has been cut below what it held."""
        newest: Tensor | None = self._key if self._store is None else self._store.keys
        if newest is None or newest.shape[2] < positions:
            raise ValueError("the cache was cut while rows waited for its keys")
        return newest[:, :, :positions]

    def retire(self) -> None:
        """Hears nothing from now on, and what it has heard is not wanted."""
        self.unwanted = True
        self.full = None
        self.queries, self.masks, self.layers, self.heads, self.sources = [], [], [], [], []
        self.forget()

    def forget(self) -> None:
        """No reference to keys is left."""
        self._store = self._key = None

    @torch.no_grad()
    def _hear_otherwise(self, query: Tensor, key: Tensor, mask: Tensor | None, position_bias: Tensor | None) -> None:
        recorder = self._recorder
        if recorder.drafting:
            recorder.drafts[(self.kind, self.layer)] = (self, query, key, mask, position_bias)
            return
        if self.last_step == recorder.step:
            self._withdraw()
        first = self.steps == 0
        recorder.settle([self])
        self.last_step, self.positions = recorder.step, key.size(2)
        self.note(key)
        self.steps += 1
        if first and self.waits and position_bias is None:
            self.queries = [query[:, :, -1:].clone()]  # a copy: the row of a prompt must not keep the whole prompt's queries
            self.masks = [recorder.first_row(key, mask)]
            return
        sight = recorder.row_sight(self.kind, key, mask, position_bias)
        recorder.keep([self], [query[:, :, -1:]], [key], sight)

    def _withdraw(self) -> None:
        """Forgets the row of the current step: an earlier chunk of the same prefill, or a repeated pass."""
        self.steps -= 1
        if self.queries:
            self.queries.pop()
            self.masks.pop()
            self.positions -= 1  # the rows that still wait end one key earlier
            return
        self._recorder.settle([self])
        for parts in (self.layers, self.heads):
            if parts:
                kept = parts.pop()[..., :-1]
                if kept.shape[-1]:
                    parts.append(kept)
        if self.sources:
            places, masses = self.sources.pop()
            if places.shape[1] > 1:
                self.sources.append((places[:, :-1], masses[:, :-1]))

    def take(self, full: bool) -> Waiting | None:
        """The full block, or else what came after it; it is the caller's to compute now."""
        if full:
            found, self.full = self.full, None
        elif self.queries:
            found = Waiting(self.queries, self.masks, self.positions)
            self.queries, self.masks = [], []
        else:
            found = None
        return found


class AttentionRecorder:
    """Signals of the query row that predicted each token, for every layer and head.

    `deferrable`: the cache only ever appends (no sliding window in place, no quantisation, no beams). `prompt`: positions of the
    prompt, 0 when only the keys can tell. `drafting`: several tokens are checked in one pass (assisted decoding). `cache`: that of
    transformers, whose `layers[i].keys` are the keys of layer i, or None.
    """

    def __init__(
        self, measures: Measures, wanted: Wanted, deferrable: bool, prompt: int, drafting: bool, cache: Any = None
    ) -> None:
        self.measures = measures
        self.wanted = wanted
        self.deferrable = deferrable and not drafting
        self.drafting = drafting
        self.drafts: dict[tuple[str, int], tuple[LayerEar, Tensor, Tensor, Tensor | None, Tensor | None]] = {}
        self.step = 0
        self.ears: dict[tuple[str, int], LayerEar] = {}
        self.heard: list[LayerEar] = []
        self.left_out = False
        self._chosen = False
        self._cache = cache
        self._prompt = prompt
        self._due: list[LayerEar] = []
        self._places: dict[tuple[object, ...], list[tuple[Tensor, Sequence[Tensor]]]] = {}
        self._first_row: tuple[Tensor, Tensor] | None = None
        self._sights: dict[tuple[object, ...], tuple[Sequence[object], Sight]] = {}

    def ear(self, kind: str, layer: int, scale: float, softcap: float | None, learned_sink: Tensor | None) -> LayerEar:
        """Who hears this layer."""
        found = self.ears[(kind, layer)] = LayerEar(self, kind, layer, scale, softcap, learned_sink)
        return found

    def store(self, layer: int) -> Any:
        """Where the cache keeps the keys of a layer, or None."""
        layers = getattr(self._cache, "layers", ())
        return layers[layer] if layer < len(layers) and hasattr(layers[layer], "keys") else None

    def first_row(self, key: Tensor, mask: Tensor | None) -> Tensor | None:
        """The mask's last row, copied once for all layers that share the mask; notes how long a prompt of embeddings is."""
        self._prompt = max(self._prompt, key.shape[2])  # more than the ids where a prompt was tuned
        if mask is None:
            return None
        if self._first_row is None or self._first_row[0] is not mask:
            self._first_row = (mask, mask[..., -1:, :].clone())
        return self._first_row[1]

    def full(self, ear: LayerEar) -> None:
        """A layer's block is full: it will be worked off within the next steps."""
        if ear.full is not None:
            self.settle([ear], only_full=True)
        ear.full = Waiting(ear.queries, ear.masks, ear.positions)
        ear.queries, ear.masks = [], []
        self._due.append(ear)

    def stepped(self, drafted: int = 0, accepted: int = 1) -> None:
        """Tokens were chosen: `accepted` of them, from `drafted` + 1 rows of the last pass."""
        if not self._chosen:
            self._choose_layers()
        if self.drafting:
            for ear, query, key, mask, position_bias in self.drafts.values():
                if not ear.unwanted:
                    self._keep_accepted(ear, query, key, mask, position_bias, drafted, accepted)
            self.drafts.clear()
        self._gather_queries()
        self.step += accepted
        self._first_row = None
        if self._due:
            count = max(_LAYERS_A_STEP, -(-len(self.ears) // BLOCK_STEPS))  # none is still due when its next block is full
            now, self._due = self._due[:count], self._due[count:]
            self.settle(now, only_full=True)

    def _choose_layers(self) -> None:
        """Some of the layers that have been heard by the end of the first pass, from the first to the last; the others retire."""
        self._chosen = True
        for kind in (SELF, CROSS):
            heard = sorted((ear for ear in self.ears.values() if ear.kind == kind), key=lambda ear: ear.layer)
            kept = _spread(heard, self.wanted.layers_max or len(heard))
            for ear in heard:
                if ear not in kept:
                    ear.retire()
                    del self.ears[ear.kind, ear.layer]
                    self.left_out = True
            shown = _spread(kept, _SOURCE_LAYERS_MAX)
            for ear in kept:
                if ear not in shown:
                    ear.shows_sources, ear.sources = False, []

    def _gather_queries(self) -> None:
        """Moves the rows heard in this step into memory for a block of steps. Left where the model made them, thousands of small
        ones would lie between the large ones it makes and frees, and its memory would fall to pieces. One move for all layers that
        are alike, because between two of them every operation finds cold caches; a model whose layers differ pays one for each."""
        heard, self.heard = self.heard, []
        heard = [ear for ear in heard if ear.queries]
        rows = [ear.queries[-1] for ear in heard]
        if not rows:
            return
        if len({(row.shape, row.dtype, row.device) for row in rows}) > 1:
            moved: Sequence[Tensor] = [row.clone() for row in rows]
        else:
            place, moved = self._place(rows)
            torch.stack(rows, out=place)
        for ear, row in zip(heard, moved, strict=True):
            ear.queries[-1] = row
            if len(ear.queries) >= BLOCK_STEPS:
                self.full(ear)

    def _place(self, rows: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        """Room for the rows of one step, and the place of each."""
        name = (len(rows), rows[0].shape, rows[0].dtype, rows[0].device)
        places = self._places.get(name)
        if not places or not writable(places[-1][0]):
            room = torch.empty(BLOCK_STEPS, len(rows), *rows[0].shape, dtype=rows[0].dtype, device=rows[0].device)
            places = self._places[name] = [(place, place.unbind()) for place in room]
        return places.pop()

    def settle(self, ears: Sequence[LayerEar], only_full: bool = False) -> None:
        """Computes what waits in some layers, those of one shape together."""
        if not only_full:
            self.settle(ears, only_full=True)  # the older rows of all of them first, or a layer might get its rows out of order
        alike: dict[tuple[object, ...], list[tuple[LayerEar, Waiting]]] = {}
        for ear in ears:
            waiting = ear.take(only_full)
            if waiting is not None:
                query, mask, key = waiting.queries[0], waiting.masks[-1], ear.keys(waiting.positions)
                name = (len(waiting.queries), query.shape, key.shape, id(mask))
                alike.setdefault((*name, ear.scale, ear.softcap, ear.learned_sink is None), []).append((ear, waiting))
        for group in alike.values():
            first = group[0][1]
            keys = [ear.keys(first.positions) for ear, _ in group]
            sight = self.block_sight(first.masks, first.positions, keys[0].device)
            self.keep([ear for ear, _ in group], [torch.cat(waiting.queries, dim=2) for _, waiting in group], keys, sight)

    def keep(self, ears: Sequence[LayerEar], queries: Sequence[Tensor], keys: Sequence[Tensor], sight: Sight) -> None:
        """Computes the signals of some rows of layers that see alike, and keeps what is wanted. queries: [row, head, n, width]."""
        one, wanted = ears[0], self.wanted
        sinks = None if one.learned_sink is None else [ear.learned_sink for ear in ears]
        signals = self.measures.attention_signals(queries, keys, one.scale, sight, one.softcap, sinks)
        means = signals.mean(3)
        heads = signals[wanted.of_signals].half() if wanted.heads else None
        for i, ear in enumerate(ears):
            ear.layers.append(means[:, i])
            if heads is not None:
                ear.heads.append(heads[:, i])
            if ear.shows_sources:
                places, masses = self.measures.attention_sources(
                    queries[i], keys[i], ear.scale, sight, ear.softcap, wanted.sources, ear.learned_sink,
                )
                ear.sources.append((places + sight.offset, masses))

    def _keep_accepted(
        self, ear: LayerEar, query: Tensor, key: Tensor, mask: Tensor | None, position_bias: Tensor | None,
        drafted: int, accepted: int,
    ) -> None:
        """The rows of accepted tokens among the last drafted + 1 of a pass."""
        rows = slice(query.shape[2] - drafted - 1, query.shape[2] - drafted - 1 + accepted)
        positions = key.shape[2]
        self._prompt = self._prompt or positions - drafted
        offset = max(0, self._prompt + self.step + drafted - positions) if ear.kind == SELF else 0
        prompt = max(0, self._prompt - offset) if ear.kind == SELF else positions
        if mask is None and position_bias is not None and ear.kind == SELF:
            place = torch.arange(positions, device=key.device)
            mask = (place <= place[positions - query.shape[2]:, None])[None, None]
        if mask is None and position_bias is None:
            seen_by_all = ear.kind != SELF  # an encoder's output: no row waits for later keys
            sight = sights.causal(1 if seen_by_all else drafted + 1, positions, prompt, key.device, offset)
            sight = sight if seen_by_all else sight.part(0, accepted)
        else:
            sight = self._biased(key, mask, position_bias, rows, prompt, offset)
        ear.steps += accepted
        self.keep([ear], [query[:, :, rows]], [key], sight)

    def block_sight(self, masks: list[Tensor | None], positions: int, device: torch.device) -> Sight:
        """The sight of rows that waited. The layers of one step share their mask, so it is built once and found by identity."""
        name = (len(masks), positions, *(0 if mask is None else id(mask) for mask in masks))
        return self._once(name, masks, lambda: sights.block(masks, positions, self._prompt or positions - self.step, device))

    def row_sight(self, kind: str, key: Tensor, mask: Tensor | None, position_bias: Tensor | None) -> Sight:
        """The sight of the last row of a pass."""
        positions = key.shape[2]
        if kind == SELF and not self._prompt and self.step == 0:
            self._prompt = positions  # a prompt of embeddings: only its keys tell how long it is
        offset = max(0, self._prompt + self.step - positions) if kind == SELF else 0
        prompt = max(0, self._prompt - offset) if kind == SELF else positions
        if mask is None and position_bias is None:
            name: tuple[object, ...] = (kind, 0, positions, prompt, offset)
            return self._once(name, (), lambda: sights.causal(1, positions, prompt, key.device, offset))
        name = (kind, id(mask), id(position_bias), positions, prompt, offset)
        row = slice(-1, None)
        return self._once(name, (mask, position_bias), lambda: self._biased(key, mask, position_bias, row, prompt, offset))

    def _biased(
        self, key: Tensor, mask: Tensor | None, position_bias: Tensor | None, rows: slice, prompt: int, offset: int
    ) -> Sight:
        positions = key.shape[2]
        extra = None if position_bias is None else position_bias[..., rows, :positions].float()
        if mask is not None:
            bias = sights.additive(mask[..., rows, :positions])
        else:
            bias = torch.zeros(1, 1, 1, positions, dtype=torch.float32, device=key.device)
        return sights.masked(bias, prompt, offset, extra)

    def _once(self, name: tuple[object, ...], kept: Sequence[object], build: Callable[[], Sight]) -> Sight:
        """`kept` keeps the masks alive, and with them the identities in `name`."""
        if name not in self._sights:
            if len(self._sights) >= _SIGHTS_MAX:
                self._sights.clear()
            self._sights[name] = (kept, build())
        return self._sights[name][1]

    @torch.no_grad()  # a model may have its gradients on, and the program too by now
    def stop(self) -> None:
        """No pass follows: computes what waits; afterwards no reference to keys or queries is left."""
        self.settle(list(self.ears.values()))
        for ear in self.ears.values():
            ear.forget()
        self._cache = None
        self.heard = []
        self._places.clear()
        self._due.clear()
        self._sights.clear()
        self.drafts.clear()

    def retire(self) -> None:
        """Nothing of it is wanted any more."""
        for ear in self.ears.values():
            ear.retire()
        self.stop()

    def held_bytes(self) -> int:
        """Memory of the values that are kept."""
        return sum(part.numel() * part.element_size() for ear in self.ears.values() for part in (*ear.layers, *ear.heads))


def _spread(ears: list[LayerEar], count: int) -> list[LayerEar]:
    """At most `count` of them, evenly from the first to the last."""
    count = min(len(ears), count)
    return [ears[round(i * (len(ears) - 1) / max(1, count - 1))] for i in range(count)]
