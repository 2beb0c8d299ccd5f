"""The latent map: generations as points, near where they say alike things or, where they say nothing, have alike signals.

    q, from, to    which generations          of       answer, prompt or signals: what a place is made of; left out, it chooses
    color          any field                   layout   pca or umap
    lasso          "x,y x,y x,y" in the plane, or "cluster:N"

Not the arithmetic (the latent verb's) and not the picture, which `map_picture` draws. A selection stands in the URL as it
was drawn, and leads on as `span:(...)`: there is no list of selections to keep.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cutaway_collector import latent
from cutaway_collector import search as verb
from cutaway_collector.errors import MissingExtra
from cutaway_collector.latent.place import Floats
from cutaway_collector.search import points as finding
from cutaway_collector.search.fields import Field
from cutaway_collector.search.language import QUERY_CHARACTERS_MAX
from cutaway_collector.search.points import Key, Point, Points
from cutaway_collector.web import times
from cutaway_collector.web.errors import BadParameter
from cutaway_collector.web.map_vectors import Known, Plane, Vectors
from cutaway_collector.web.site import Arguments, Site

POINTS_MAX: Final = 1000
"""More is no map for the eye, and the page stays small."""
CORNERS_MAX: Final = 64
CLUSTERS: Final = 8
WAIT_SECONDS: Final = 2.0
"""A page waits so long for texts that are not placed yet: a few dozen are then there at once."""
TEXTS_SHARE_MIN: Final = 0.2
"""From this share of generations with text on, the map is one of texts unless the URL says otherwise."""
OF: Final = ("answer", "prompt", "signals")
LAYOUTS: Final = ("pca", "umap")
COLOUR_DEFAULT: Final = "perplexity"
_LASSO: Final = re.compile(rf"[0-9]{{1,4}},[0-9]{{1,4}}(?: [0-9]{{1,4}},[0-9]{{1,4}}){{2,{CORNERS_MAX - 1}}}")
_CLUSTER: Final = re.compile(r"cluster:([0-9]{1,2})")
_WORD: Final = re.compile(r"[^\W\d_]{4,}")
_STOP: Final = frozenset(re.findall(r"\w+", """about after also been before both could does each from have here into just like look
    made make more most much only other over same some such take than that their them then there these they thing this those through
    under until very want well were what when where which while will with would your"""))
"""Words that tell no cluster from another; English alone, others are told apart by how often they stand elsewhere."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The parameters, checked."""

    query: str
    start_ns: int | None
    end_ns: int | None
    of: str
    layout: str
    colour: Field | None
    lasso: str
    kept: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Placed:
    """One generation on the map."""

    key: Key
    x: int
    y: int
    cluster: int
    selected: bool
    value: Any
    service: str
    model: str
    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class Cluster:
    """A group of neighbours. words: what its texts have and others have less, "" without texts."""

    number: int
    size: int
    words: str


@dataclass(frozen=True, slots=True)
class LatentMap:
    """of: what places are made of in the end. signals: the numbers it is, for a map of signals.

    left_out: sampled generations without a place. pending: those whose place is still to come. later: those put into a plane that
    was made of the others before they came, and beyond: those of them that lie outside of it. shares: of the variance, of each
    axis, None for UMAP. trouble: why it is not what was asked for.
    """

    placed: tuple[Placed, ...]
    total: int
    sampled: int
    left_out: int
    pending: int
    of: str
    layout: str
    signals: tuple[str, ...]
    shares: tuple[float, float] | None
    clusters: tuple[Cluster, ...]
    trouble: tuple[str, ...]
    later: int = 0
    beyond: int = 0

    @property
    def selected(self) -> list[Placed]:
        """Those inside the lasso, the nearest to its middle first."""
        chosen = [point for point in self.placed if point.selected]
        if not chosen:
            return []
        x, y = np.mean([point.x for point in chosen]), np.mean([point.y for point in chosen])
        return sorted(chosen, key=lambda point: ((point.x - x) ** 2 + (point.y - y) ** 2, point.key))


def asked(site: Site, arguments: Arguments) -> Asked:
    """Raises BadParameter, QueryError."""
    query = arguments.get("q", "").strip()
    if len(query) > QUERY_CHARACTERS_MAX:
        raise BadParameter(f"q has at most {QUERY_CHARACTERS_MAX} characters, it has {len(query)}", hint="map fewer terms at once")
    now_ns = site.now_ns()
    start, end = (times.parse(arguments.get(name, ""), now_ns, name) for name in ("from", "to"))
    if start is not None and end is not None and start >= end:
        raise BadParameter("from lies before to, here it does not", hint="exchange the two")
    of, layout, lasso = (arguments.get(name, "") for name in ("of", "layout", "lasso"))
    if of and of not in OF:
        raise BadParameter(f"of is one of {', '.join(OF)}, it is {of[:20]!r}", hint="leave it out to let the map choose")
    if layout and layout not in LAYOUTS:
        raise BadParameter(f"layout is one of {', '.join(LAYOUTS)}, it is {layout[:20]!r}", hint="leave it out for pca")
    if lasso and not _LASSO.fullmatch(lasso) and not _CLUSTER.fullmatch(lasso):
        raise BadParameter(f"lasso is 3 to {CORNERS_MAX} corners as \"x,y x,y x,y\", or cluster:NUMBER, it is {lasso[:40]!r}",
                           hint="leave it out for no selection")
    name = arguments.get("color", "") or COLOUR_DEFAULT
    colour = None if name == "cluster" else finding.colour_field(name)
    kept = {key: arguments[key].strip() for key in ("q", "from", "to", "of", "layout", "color", "lasso") if arguments.get(key)}
    return Asked(query, start, end, of, layout or "pca", colour, lasso, kept)


def make(site: Site, vectors: Vectors, tenant: str, wanted: Asked) -> LatentMap:
    """The map. tenant: of the visitor, for what is kept of texts. Raises QueryError, StoreError."""
    colour = wanted.colour or finding.colour_field(COLOUR_DEFAULT)
    found = finding.points(site.store, wanted.query, wanted.start_ns, wanted.end_ns, colour, POINTS_MAX)
    trouble: list[str] = []
    if wanted.of != "signals" and found.points:
        made = _of_texts(vectors, tenant, wanted, found, trouble)
        if made is not None:
            return made
    return _of_signals(vectors, tenant, wanted, found, trouble)


def plane_names(tenant: str, wanted: Asked) -> tuple[tuple[str, ...], ...]:
    """Under which names the planes of such a map may be kept. A time range counted back from now moves, its plane stays."""
    return tuple(_plane_name(tenant, wanted, of) for of in OF)


def _plane_name(tenant: str, wanted: Asked, of: str) -> tuple[str, ...]:
    return (tenant, of, *(wanted.kept.get(key, "") for key in ("q", "from", "to")))


def _of_texts(vectors: Vectors, tenant: str, wanted: Asked, found: Points, trouble: list[str]) -> LatentMap | None:
    """None where texts place nothing: there is no embedder, or hardly any text and nobody asked for it."""
    of = "prompt" if wanted.of == "prompt" else "answer"
    looked = vectors.look(tenant, "prompt" if of == "prompt" else "answer", [point.key for point in found.points],
                          wait_s=WAIT_SECONDS)
    if looked.trouble:
        trouble.append(looked.trouble)
    told = [(point, known) for point in found.points if (known := looked.known.get(point.key)) and known.vector is not None]
    enough = len(told) >= (2 if wanted.of else max(2.0, TEXTS_SHARE_MIN * len(looked.known)))
    if not enough and not looked.pending:
        if not looked.trouble:
            trouble.append(f"of {len(looked.known)} generations {len(told)} carry the text of their {of}: places are made of their "
                           "signals instead. Senders capture texts when they are told to (capture=\"text\" in the SDK)")
        return None
    if not told:
        return LatentMap((), found.total, len(found.points), 0, looked.pending, of, wanted.layout, (), None, (), tuple(trouble))
    matrix = np.stack([known.vector for _, known in told if known.vector is not None]).astype(np.float64)
    left_out = len(looked.known) - len(told)
    points = [point for point, _ in told]
    plane = vectors.plane(_plane_name(tenant, wanted, of), [point.key for point in points],
                          lambda: latent.fit(matrix, _groups(points), scaled=False), keep=not looked.pending)
    return _drawn(vectors, wanted, found, points, matrix, plane, of, left_out, looked.pending, trouble,
                  {point.key: known for point, known in told})


def _groups(points: Sequence[Point]) -> int:
    return max(2, min(CLUSTERS, len(points) // 6))


def _of_signals(vectors: Vectors, tenant: str, wanted: Asked, found: Points, trouble: list[str]) -> LatentMap:
    numbers = np.array([[np.nan if one is None else one for one in point.numbers] for point in found.points], np.float64)
    known = np.array([any(one is not None for one in point.numbers) for point in found.points], bool)
    having = [point for point, has in zip(found.points, known, strict=True) if has]
    values = numbers[known]
    if len(having) < 2 or not latent.features(values)[1]:
        return LatentMap((), found.total, len(found.points), len(found.points), 0, "signals", wanted.layout, (), None, (),
                         tuple(trouble))
    plane = vectors.plane(_plane_name(tenant, wanted, "signals"), [point.key for point in having],
                          lambda: latent.fit(values, _groups(having), scaled=True), keep=True)
    return _drawn(vectors, wanted, found, having, values, plane, "signals", len(found.points) - len(having), 0, trouble, {})


def _drawn(vectors: Vectors, wanted: Asked, found: Points, points: Sequence[Point], values: Floats, plane: Plane, of: str,
           left_out: int, pending: int, trouble: list[str], texts: Mapping[Key, Known]) -> LatentMap:
    coordinates = plane.frame.coordinates(values)
    layout, places = "pca", plane.frame.places(coordinates)
    if wanted.layout == "umap" and not pending:
        try:
            laid = vectors.umap(latent.features(values)[0] if of == "signals" else values, wait_s=WAIT_SECONDS)
            if laid is not None:
                layout, places = "umap", latent.place(laid)
            else:
                trouble.append("UMAP is at work: the principal components are shown until it is done")
                pending = 1
        except MissingExtra as error:
            trouble.append(str(error))
    groups = plane.frame.groups(coordinates)
    chosen = _chosen(wanted.lasso, places, groups)
    placed = tuple(
        Placed(point.key, int(x), int(y), int(group), bool(inside), int(group) + 1 if wanted.colour is None else point.value,
               point.service, point.model, *((said.prompt, said.answer) if (said := texts.get(point.key)) else ("", "")))
        for point, (x, y), group, inside in zip(points, places, groups, chosen, strict=True))
    later = np.array([point.key not in plane.made_of for point in points], bool) & (layout == "pca")
    shares = plane.frame.shares
    signals = tuple(finding.FEATURES[index][0] for index in plane.frame.columns) if of == "signals" else ()
    return LatentMap(placed, found.total, len(found.points), left_out, pending, of, layout, signals,
                     (float(shares[0]), float(shares[1])) if layout == "pca" else None, _named(placed), tuple(trouble),
                     int(later.sum()), int((later & plane.frame.beyond(coordinates)).sum()))


def _chosen(lasso: str, places: npt.NDArray[np.int64], groups: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    if not lasso:
        return np.zeros(len(places), bool)
    cluster = _CLUSTER.fullmatch(lasso)
    if cluster:
        return np.asarray(groups == int(cluster[1]) - 1)
    corners = [(int(x), int(y)) for x, y in (corner.split(",") for corner in lasso.split(" "))]
    return latent.inside(places, corners)


def _named(placed: Sequence[Placed]) -> tuple[Cluster, ...]:
    """Clusters with the words that set them apart: in more of their texts than in the others', by the difference of the shares."""
    words = [{word.lower() for word in _WORD.findall(f"{point.prompt} {point.answer}")} - _STOP for point in placed]
    everywhere = Counter(word for one in words for word in one)
    found = []
    for number in sorted({point.cluster for point in placed}):
        mine = [one for point, one in zip(placed, words, strict=True) if point.cluster == number]
        others = max(1, len(placed) - len(mine))
        here = Counter(word for one in mine for word in one)
        apart = {word: count / len(mine) - (everywhere[word] - count) / others for word, count in here.items() if count > 1}
        best = sorted(apart, key=lambda word: (-apart[word], word))[:3]
        found.append(Cluster(number + 1, len(mine), ", ".join(best)))
    return tuple(found)


def twin(found: LatentMap, wanted: Asked) -> dict[str, Any]:
    """Everything of the map as JSON: x to the right and y downwards in a plane of `width` by `height`."""
    return {
        "q": wanted.query, "explanation": verb.explain(wanted.query), "width": latent.WIDTH, "height": latent.HEIGHT,
        "of": found.of, "layout": found.layout, "color": wanted.colour.name if wanted.colour else "cluster", "total": found.total,
        "sampled": found.sampled, "left_out": found.left_out, "pending": found.pending, "later": found.later,
        "beyond": found.beyond, "signals": found.signals,
        "variance_shares": found.shares, "trouble": found.trouble,
        "clusters": [{"number": one.number, "size": one.size, "words": one.words} for one in found.clusters],
        "points": [{"trace_id": point.key.trace_id, "span_id": point.key.span_id, "start_ns": point.key.start_ns, "x": point.x,
                    "y": point.y, "cluster": point.cluster + 1, "selected": point.selected, "value": point.value,
                    "service": point.service, "model": point.model, "prompt": point.prompt, "answer": point.answer}
                   for point in found.placed],
    }
