"""The attention map of a generation page: where its numbers lie, how they are coloured, and the same as an ordinary table.

Not the drawing, which is the browser's; the table needs no script.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cutaway_collector.errors import QueryError
from cutaway_collector.search import outline as stored
from cutaway_collector.search.cuts import Cut
from cutaway_collector.web import figures, tokens, urls
from cutaway_collector.web.pages.generation_choice import MATRIX, Choice, Linker
from cutaway_collector.web.site import Site, Tab


@dataclass(frozen=True, slots=True)
class Heat:
    """What the map needs: its data's address, the model's number of each layer, which heads it shows, the ends of its colours."""

    url: str
    layers: tuple[int, ...]
    heads: tuple[Tab, ...]
    head_count: int
    label: str
    matrix: bool
    low: float
    high: float
    low_text: str
    high_text: str
    note: str


@dataclass(frozen=True, slots=True)
class Table:
    """The map as a table. head: of the columns. rows: (label, cells as printed)."""

    caption: str
    corner: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def tabs(sequence: Mapping[str, Any], choice: Choice, link: Linker) -> tuple[Tab, ...]:
    """Links to the other maps, where there are any."""
    recorded = sequence["layers"]
    if not recorded or list(recorded) == [choice.map.key]:
        return ()
    return tuple(
        Tab(one.label, link(attention=one.key, heads=None, layer=""), one == choice.map, one.help)
        for one in tokens.MAPS if one.key in recorded
    )


def heat(site: Site, found: Mapping[str, Any], sequence: Mapping[str, Any], choice: Choice, link: Linker) -> Heat | None:
    """None where the sequence has no such map. Raises QueryError for a head that is not there, StoreError."""
    layers, heads = sequence["layers"].get(choice.map.key, 0), sequence["heads"].get(choice.map.key, 0)
    matrix = choice.heads == MATRIX
    if not layers or (choice.heads is not None and not heads):
        return None
    if isinstance(choice.heads, int) and choice.heads >= heads:
        raise QueryError(f"this model has attention heads 0 to {heads - 1}, heads is {choice.heads}", hint="leave it out for all")
    low, high = stored.ends(site.store, found, sequence, choice.map.key, "all" if matrix else _single(choice))
    empty = math.isnan(low)
    low, high = (0.0, 0.0) if empty else (low, high)
    flat = high - low < choice.map.least
    if flat:
        high = low + choice.map.least
    series = {"seq": choice.sequence or "", "series": f"map:{choice.map.key}", "heads": "all" if matrix else choice.heads}
    label = "every head" if matrix else "mean over heads" if choice.heads is None else f"head {choice.heads}"
    note = "flat: the values hardly differ" if flat else "2nd to 98th percentile, what lies outside takes the end colours"
    note = "it has no values here" if empty else note
    return Heat(
        urls.generation(found["span_id"], binary=True, **series), names(found, layers, choice), _head_tabs(choice, heads, link),
        heads, label, matrix, low, high, figures.number(None if empty else low), figures.number(None if empty else high), note,
    )


def _single(choice: Choice) -> int | None:
    return choice.heads if isinstance(choice.heads, int) else None


def _head_tabs(choice: Choice, heads: int, link: Linker) -> tuple[Tab, ...]:
    if not heads:
        return ()
    out = [Tab("mean", link(heads=None), choice.heads is None, "mean over all heads")]
    title = "every head of every layer, for the token at the cursor"
    out.append(Tab("all × layers", link(heads=MATRIX), choice.heads == MATRIX, title))
    return (*out, *(Tab(str(n), link(heads=n), choice.heads == n, f"head {n} of every layer") for n in range(heads)))


def names(found: Mapping[str, Any], layers: int, choice: Choice) -> tuple[int, ...]:
    """The model's number of each recorded layer. Cross-attention counts its own."""
    named = found["named_layers"]
    return tuple(named) if len(named) == layers and choice.map.key != "cross_entropy" else tuple(range(layers))


def reason(found: Mapping[str, Any], sequence: Mapping[str, Any], choice: Choice, said: str) -> str:
    """Why there is no map. said: the sender's own words."""
    if choice.heads is not None and sequence["layers"].get(choice.map.key):
        return "Values of single heads were not recorded; the mean over heads is there."
    return said or f"The sender recorded no {choice.map.title.lower()} for this sequence."


def table(
    site: Site, found: Mapping[str, Any], sequence: Mapping[str, Any], choice: Choice, cut: Cut, words: Mapping[int, str]
) -> Table | None:
    """The map over these tokens, a row a token; or, for every head, of the chosen token, a row a layer.

    words: token -> its text as printed. None where there is no such map. Raises QueryError, StoreError.
    """
    layers = sequence["layers"].get(choice.map.key, 0)
    title, unit = choice.map.title, f", {choice.map.unit}" if choice.map.unit else ""
    if choice.heads == MATRIX:
        token = max(choice.token, 0)
        cube = stored.attention(site.store, found, sequence, choice.map.key, "all", Cut(token, 1))
        if not cube.size:
            return None
        labels = names(found, layers, choice)
        rows = [(f"layer {labels[row]}", tuple(map(figures.number, cube[0, row].tolist()))) for row in range(layers)]
        heads = tuple(f"head {n}" for n in range(cube.shape[2]))
        return Table(f"{title}{unit}: token {token}, layer by head", "Layer", heads, tuple(rows))
    matrix = stored.attention(site.store, found, sequence, choice.map.key, _single(choice), cut)
    if not matrix.size:
        return None
    which = "mean over heads" if choice.heads is None else f"head {choice.heads}"
    rows = [
        (f"{n} {words.get(n, '')}".strip(), tuple(map(figures.number, row))) for n, row in enumerate(matrix.tolist(), cut.start)
    ]
    head = tuple(f"layer {name}" for name in names(found, layers, choice))
    return Table(f"{title}{unit}: {which}, token by layer", "Token", head, tuple(rows))
