"""The latent map as printed: points as a few SVG paths, a legend, clusters and a table to choose from, and where a selection leads.

Not the map itself (`latent_map` makes it). The server draws it, so it works without script and follows the theme.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from cutaway_collector import latent
from cutaway_collector import search as verb
from cutaway_collector.search.fields import FIELDS
from cutaway_collector.search.language import TERMS_MAX
from cutaway_collector.web import figures, urls
from cutaway_collector.web.pages.latent_map import POINTS_MAX, Asked, LatentMap, Placed
from cutaway_collector.web.site import Tab

CATEGORIES_MAX: Final = 7
STEPS: Final = 6
RATIO_MAX: Final = 50
"""From the least to the largest number, beyond which steps of equal size would show the largest alone."""
ROWS_MAX: Final = 50
SPANS_MAX: Final = min(TERMS_MAX, 60)
"""Spans that fit into a query beside the terms of a comparison."""
SUGGESTED: Final = ("perplexity", "surprisal.max", "entropy", "ttft", "tokens.out", "model", "service", "status", "cluster")
OFS: Final = (
    ("answer", "Answers", "near where answers say alike things"), ("prompt", "Prompts", "near where prompts ask alike things"),
    ("signals", "Signals", "near where the numbers of the tokens are alike"),
)
LAYOUTS: Final = (
    ("pca", "PCA", "principal components: distances are true, crowds overlap"),
    ("umap", "UMAP", "neighbours stay neighbours, distances between crowds mean little"),
)
"""Value in the URL, label, title."""
_ROUND: Final = "M{x} {y}h0"
SHAPES: Final[tuple[tuple[str, str], ...]] = (
    ("round", _ROUND), ("square", "M{l} {t}h9v9h-9z"), ("diamond", "M{x} {t}l5 5l-5 5l-5 -5z"), ("triangle", "M{x} {t}l5 9h-10z"),
    ("cross", "M{l} {t}l8 8m0 -8l-8 8"), ("plus", "M{l} {y}h9m-4.5 -4.5v9"), ("down", "M{l} {t}h10l-5 9z"), ("bar", "M{l} {y}h10"),
)
"""Class and path of a point of each category: told apart without colours."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One group of points that look the same. dim: outside of the selection."""

    css: str
    path: str
    dim: bool


@dataclass(frozen=True, slots=True)
class Key:
    """One line of the legend; path draws its sign at 8, 8."""

    css: str
    path: str
    label: str
    count: int
    url: str


@dataclass(frozen=True, slots=True)
class Group:
    """One cluster of the list."""

    number: int
    size: int
    words: str
    url: str
    chosen: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One generation of the table."""

    url: str
    at_ns: int
    model: str
    service: str
    value: str
    cluster: int
    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class MapPage:
    """Everything the template may use."""

    query: str
    explanation: str
    marks: tuple[Mark, ...]
    legend: tuple[Key, ...]
    groups: tuple[Group, ...]
    rows: tuple[Row, ...]
    rows_more: int
    width: int
    height: int
    lasso: str
    selected: int
    search_url: str
    searched: int
    compare_url: str
    clear_url: str
    made: str
    later: str
    anew_url: str
    trouble: tuple[str, ...]
    pending: int
    placed: int
    hidden: Mapping[str, str]
    from_text: str
    to_text: str
    colour: str
    colours: tuple[str, ...]
    ofs: tuple[Tab, ...]
    layouts: tuple[Tab, ...]
    slim_url: str
    twin_url: str


def page(found: LatentMap, wanted: Asked) -> MapPage:
    """The page of a map."""
    marks, legend = _coloured(found, wanted)
    chosen = found.selected
    shown = chosen or sorted(found.placed, key=lambda point: (-point.key.start_ns, point.key))
    spans = [point.key.span_id for point in chosen[:SPANS_MAX]]
    these = f"span:({', '.join(spans)})" if spans else ""
    colour = wanted.colour.name if wanted.colour else "cluster"
    return MapPage(
        wanted.query, verb.explain(wanted.query) if wanted.query else "", marks, legend, _groups(found, wanted),
        tuple(_row(point) for point in shown[:ROWS_MAX]), max(0, len(shown) - ROWS_MAX), latent.WIDTH, latent.HEIGHT,
        wanted.lasso if "," in wanted.lasso else "", len(chosen), urls.search(q=these) if these else "", len(spans),
        urls.compare(a=these, b=_rest(wanted.query)) if these else "", urls.latent_map(wanted.kept, lasso=""), _made(found),
        _later(found), urls.latent_map(wanted.kept, lasso="", plane="new"),
        found.trouble, found.pending, len(found.placed),
        {key: value for key, value in wanted.kept.items() if key in ("of", "layout")},
        wanted.kept.get("from", ""), wanted.kept.get("to", ""), colour,
        tuple(dict.fromkeys([*SUGGESTED, *(field.name for field in FIELDS if field.kind != "list")])),
        _tabs(OFS, "of", found.of, wanted), _tabs(LAYOUTS, "layout", wanted.layout, wanted),
        urls.latent_map(wanted.kept, json=True, slim="1"), urls.latent_map(wanted.kept, json=True))


def _tabs(choices: Sequence[tuple[str, str, str]], parameter: str, current: str, wanted: Asked) -> tuple[Tab, ...]:
    """Changing what places are made of moves them, so a selection does not survive it."""
    return tuple(Tab(label, urls.latent_map(wanted.kept, **{parameter: name, "lasso": ""}), current == name, title)
                 for name, label, title in choices)


def slim(found: LatentMap) -> dict[str, Any]:
    """What the script needs to say what a point is: columns, to be small."""
    return {
        "x": [point.x for point in found.placed], "y": [point.y for point in found.placed],
        "span": [point.key.span_id for point in found.placed],
        "label": [_label(point) for point in found.placed], "pending": found.pending,
    }


def _label(point: Placed) -> str:
    """Which one it is, what its colour says, and how it begins."""
    said = (point.answer or point.prompt)[:70] or point.service
    value = _value(point.value)
    parts = (point.model, figures.clock(point.key.start_ns)[:8], "" if value == point.model else value, said)
    return " · ".join(figures.contained(part) for part in parts if part)


def _rest(query: str) -> str:
    return query or "is:generation"


def _made(found: LatentMap) -> str:
    """One sentence: what a place is made of, and of how many."""
    if not found.placed:
        return ""
    what = {"answer": "answers (embeddings of a sentence model)", "prompt": "prompts (embeddings of a sentence model)",
            "signals": f"token signals, not meaning: {', '.join(found.signals)}"}[found.of]
    how = "UMAP" if found.shares is None else (
        f"the first two principal components, {100 * sum(found.shares):.0f} % of the variance")
    sample = "" if found.total <= found.sampled else f", a sample of {figures.count(found.total)} (a map shows {POINTS_MAX})"
    lacking = "a signal" if found.of == "signals" else "text"
    left = f"; {figures.count(found.left_out)} without {lacking} are left out" if found.left_out else ""
    return f"{figures.count(len(found.placed))} generations{sample}{left}. Placed by {what}; {how}."


def _later(found: LatentMap) -> str:
    """What the plane was not made of; "" where it was made of all."""
    if not found.later:
        return ""
    beyond = f", {figures.count(found.beyond)} of them beyond its edge" if found.beyond else ""
    return (f"{figures.count(found.later)} came after this plane was made of the others and {'is' if found.later == 1 else 'are'} "
            f"put into it{beyond}: what was there keeps its place.")


def _coloured(found: LatentMap, wanted: Asked) -> tuple[tuple[Mark, ...], tuple[Key, ...]]:
    numeric = wanted.colour is not None and wanted.colour.kind == "number"
    classes = steps(found.placed) if numeric else _categories(found.placed, wanted)
    selecting = any(point.selected for point in found.placed)
    marks: list[Mark] = []
    legend: list[Key] = []
    for css, path, label, url, members in classes:
        for dim in (True, False):
            drawn = "".join(_at(path, point.x, point.y) for point in members if (selecting and not point.selected) == dim)
            if drawn:
                marks.append(Mark(css, drawn, dim))
        legend.append(Key(css, _at(path, 8, 8), label, len(members), url))
    return tuple(sorted(marks, key=lambda mark: not mark.dim)), tuple(legend)


def _at(path: str, x: int, y: int) -> str:
    return path.format(x=x, y=y, l=x - 4, t=y - 4)


_Class = tuple[str, str, str, str, Sequence[Placed]]


def steps(placed: Sequence[Placed]) -> list[_Class]:
    """Numbers in STEPS steps between the 2nd and 98th percentile; larger ones are larger too, not of another colour alone.

    Where these lie far apart the steps are of equal ratio: one perplexity of 40 000 would put all others into the first.
    """
    values = np.array([point.value if isinstance(point.value, int | float) else np.nan for point in placed], np.float64)
    known = values[np.isfinite(values)]
    found: list[_Class] = []
    if len(known):
        low, high = np.percentile(known, [2, 98])
        edges = (np.geomspace if 0 < low * RATIO_MAX < high else np.linspace)(low, high, STEPS + 1)
        step = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, STEPS - 1)
        for index in range(STEPS):
            members = [point for point, at, value in zip(placed, step, values, strict=True) if at == index and np.isfinite(value)]
            label = f"{figures.number(float(edges[index]))} to {figures.number(float(edges[index + 1]))}"
            label = f"up to {figures.number(float(edges[1]))}" if not index else label
            label = f"from {figures.number(float(edges[index]))}" if index == STEPS - 1 else label
            found.append((f"round v{index}", _ROUND, label, "", members))
            if high <= low:
                found[0] = (found[0][0], _ROUND, figures.number(float(low)), "", [
                    point for point, value in zip(placed, values, strict=True) if np.isfinite(value)])
                break
    missing = [point for point, value in zip(placed, values, strict=True) if not np.isfinite(value)]
    return [*found, *([("cross s7", dict(SHAPES)["cross"], "not known", "", missing)] if missing else [])]


def _categories(placed: Sequence[Placed], wanted: Asked) -> list[_Class]:
    counts = Counter(str(point.value) for point in placed)
    names = [name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:CATEGORIES_MAX]]
    if wanted.colour is None:
        names = sorted(names, key=int)
    found: list[_Class] = []
    for index, name in enumerate(names):
        shape, path = SHAPES[index]
        label = f"cluster {name}" if wanted.colour is None else name or "(none)"
        members = [point for point in placed if str(point.value) == name]
        found.append((f"{shape} s{index}", path, label, "", members))
    others = [point for point in placed if str(point.value) not in names]
    if others:
        found.append((f"bar s{CATEGORIES_MAX}", dict(SHAPES)["bar"], f"{len(counts) - len(names)} others", "", others))
    return found


def _groups(found: LatentMap, wanted: Asked) -> tuple[Group, ...]:
    def group(number: int, size: int, words: str) -> Group:
        name = f"cluster:{number}"
        chosen = wanted.lasso == name
        return Group(number, size, words, urls.latent_map(wanted.kept, lasso="" if chosen else name), chosen)

    return tuple(group(one.number, one.size, one.words) for one in found.clusters)


def _row(point: Placed) -> Row:
    return Row(urls.generation(point.key.span_id), point.key.start_ns, point.model, point.service, _value(point.value),
               point.cluster + 1, point.prompt, point.answer)


_NUMBER: Final[Callable[[Any], str]] = figures.number


def _value(value: Any) -> str:
    return _NUMBER(value) if value is None or isinstance(value, int | float) else str(value) or figures.ABSENT
