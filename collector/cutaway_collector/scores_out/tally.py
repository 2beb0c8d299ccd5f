"""Scores as a Prometheus histogram by score, model and kind of source, with a bounded number of series. Keeps sums, not scores.

Counted are the values of rows that this process has stored; a label without a value has none. The collector's own scores and those
that senders gave have series of their own, so that a sender's flood of names takes no place from ours: beyond `series_max` of a
kind everything is counted under "other". Where keys have tenants /metrics names none of theirs: a block with rows of a tenant
counts without models, and what was sent without names.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

import numba as nb
import numpy as np
import numpy.typing as npt
from prometheus_client.core import HistogramMetricFamily, Metric

from cutaway_collector.blocks import Block, Column, Strings

EDGES: Final = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 1000.0)
"""Upper ends of the buckets: fine where shares and probabilities lie, then decades for nats, tokens and perplexities.
None is negative, for a histogram of Prometheus then has no sum; what is below 0 counts with 0."""
OTHER: Final = "other"
OWN: Final = b"collector"
GROUPS_MAX: Final = 512
"""Score and model pairs told apart in one block; what more there are goes to "other"."""
_SLOTS: Final = 2048
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return cast("Callable[..., Any]", nb.njit(nogil=True, cache=True)(function))


@_compiled
def _hash(seed: Any, data: Any, at: Any, end: Any) -> Any:
    """FNV-1a, 64 bits."""
    for index in range(at, end):
        seed = (seed ^ np.uint64(data[index])) * np.uint64(1_099_511_628_211)
    return seed


@_compiled
def _equal(data: Any, at: Any, end: Any, other: Any, other_end: Any) -> Any:
    if end - at != other_end - other:
        return False
    for index in range(end - at):  # noqa: SIM110  compiled code has no generators
        if data[at + index] != data[other + index]:
            return False
    return True


@_compiled
def _group(names: Any, name_ends: Any, models: Any, model_ends: Any, sources: Any, source_ends: Any, own: Any, values: Any,
           edges: Any, first: Any, counts: Any, sums: Any) -> Any:
    """Counts of each bucket and sums by (name, model, own or not); `first` row of each group. Returns how many groups."""
    slots = np.full(_SLOTS, -1, np.int64)
    kinds = np.zeros(GROUPS_MAX, np.int64)
    groups = 0
    for row in range(values.size):
        value = values[row]
        if not np.isfinite(value):
            continue
        kind = source_ends[row + 1] - source_ends[row] == own.size
        if kind:
            for index in range(own.size):
                if sources[source_ends[row] + index] != own[index]:
                    kind = False
        hashed = _hash(np.uint64(14_695_981_039_346_656_037 + kind), names, name_ends[row], name_ends[row + 1])
        hashed = _hash(hashed, models, model_ends[row], model_ends[row + 1])
        slot = np.int64(hashed % np.uint64(_SLOTS))
        group = slots[slot]
        while group >= 0:
            other = first[group]
            if kinds[group] == kind and _equal(names, name_ends[row], name_ends[row + 1], name_ends[other], name_ends[other + 1]) \
                    and _equal(models, model_ends[row], model_ends[row + 1], model_ends[other], model_ends[other + 1]):
                break
            slot = (slot + 1) % _SLOTS
            group = slots[slot]
        if group < 0:
            if groups < GROUPS_MAX:
                first[groups], kinds[groups], slots[slot] = row, kind, groups
                group = groups
                groups += 1
            else:
                group = GROUPS_MAX + (1 if kind else 0)
        counts[group, np.searchsorted(edges, value)] += 1
        sums[group] += value
    return groups


class Tally:
    """A collector for a Prometheus registry. series_max: of each kind of source. Thread-safe."""

    def __init__(self, *, series_max: int) -> None:
        self._series_max = series_max
        self._lock = threading.Lock()
        self._series: dict[tuple[str, str, str], tuple[npt.NDArray[np.int64], float]] = {}

    def add(self, block: Block) -> None:
        """Counts a gen_ai_scores block."""
        names, models, sources = (_strings(block, name) for name in ("ScoreName", "GenAiModel", "Source"))
        values = block.columns["Value"]
        assert isinstance(values, np.ndarray)
        first = np.zeros(GROUPS_MAX, np.int64)
        counts = np.zeros((GROUPS_MAX + 2, len(EDGES) + 1), np.int64)
        sums = np.zeros(GROUPS_MAX + 2)
        columns = [_frozen(array) for text in (names, models, sources) for array in (text.data, text.offsets)]
        own = np.frombuffer(OWN, np.uint8)
        groups = int(_group(*columns, own, _frozen(values), _frozen(np.array(EDGES)), first, counts, sums))
        hidden = bool(_strings(block, "TenantId").offsets[-1])
        with self._lock:
            for group in range(groups):
                row = int(first[group])
                kind = "collector" if sources[row] == OWN else "sent"
                name = OTHER if hidden and kind == "sent" else names[row].decode("utf-8", "replace")
                model = OTHER if hidden else models[row].decode("utf-8", "replace")
                self._note(name, model, kind, counts[group], float(sums[group]))
            for group, kind in ((GROUPS_MAX, "sent"), (GROUPS_MAX + 1, "collector")):
                if counts[group].any():
                    self._note(OTHER, OTHER, kind, counts[group], float(sums[group]))

    def _note(self, name: str, model: str, kind: str, counts: npt.NDArray[np.int64], total: float) -> None:
        key = (name, model, kind)
        if key not in self._series and sum(other[2] == kind for other in self._series) >= self._series_max:
            key = (OTHER, OTHER, kind)
        before, sum_before = self._series.get(key, (np.zeros(len(EDGES) + 1, np.int64), 0.0))
        self._series[key] = before + counts, sum_before + total

    def collect(self) -> Iterator[Metric]:
        """cutaway_score, one histogram a series."""
        family = HistogramMetricFamily("cutaway_score", "values of stored scores", labels=("score", "model", "source"))
        with self._lock:
            series = list(self._series.items())
        bounds = [*(f"{edge:g}" for edge in EDGES), "+Inf"]
        for labels, (counts, total) in sorted(series, key=lambda item: item[0]):
            family.add_metric(labels, list(zip(bounds, np.cumsum(counts).astype(float).tolist(), strict=True)), total)
        yield family


def warm_up() -> None:
    """Compiles the kernel, or loads it from the cache on disk."""
    text = Strings.of(["a"])
    columns: dict[str, Column] = dict.fromkeys(("ScoreName", "GenAiModel", "Source", "TenantId"), text)
    Tally(series_max=1).add(Block("", 1, {**columns, "Value": np.ones(1)}))


def _strings(block: Block, name: str) -> Strings:
    column = block.columns[name]
    assert isinstance(column, Strings)
    return column


def _frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Columns may be read-only or not: a view of one kind spares compiling for each."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view
